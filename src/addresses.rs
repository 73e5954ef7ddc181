//! Where a name node is that is called by its name.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long nobody asks after a name was not found: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_secs(1)];

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Most addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The one address that a name has, or the first of several at which somebody listens. A name that has none yet, as in
/// a cluster whose parts are started in any order, is asked for again for `patience`, and `tell` hears once why.
///
/// # Errors
/// In words, without a remedy, why there is none.
pub(crate) fn found(
    look_up: impl Fn() -> io::Result<Vec<SocketAddr>>,
    patience: Duration,
    tell: impl FnOnce(&str),
) -> Result<SocketAddr, String> {
    let begin = Instant::now();
    let mut tell = Some(tell);
    let [mut pause, longest] = PAUSES;
    loop {
        let missed = match look_up() {
            Ok(addresses) if addresses.iter().all(|address| address.port() == 0) => {
                return Err("it has no address with a port".to_owned());
            }
            Ok(addresses) => match listening(&addresses) {
                Ok(address) => return Ok(address),
                Err(missed) => missed,
            },
            // It is no name, whatever time it is given.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error.to_string()),
            Err(error) => error.to_string(),
        };
        let left = patience.saturating_sub(begin.elapsed());
        if left.is_zero() {
            return Err(missed);
        }
        if let Some(tell) = tell.take() {
            tell(&missed);
        }
        sleep(pause.min(left));
        pause = (pause * 2).min(longest);
    }
}

/// Of several addresses one at which somebody listens; a single one need not be asked, as it is the one in any case.
fn listening(addresses: &[SocketAddr]) -> Result<SocketAddr, String> {
    if let [address] = addresses {
        return Ok(*address);
    }
    let mut tried = addresses.iter().take(ADDRESSES_MAX);
    let found = tried.find(|address| TcpStream::connect_timeout(address, CONNECT_TIMEOUT).is_ok());
    found.copied().ok_or_else(|| {
        let all: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
        format!("nobody listens at {}", all.join(" or "))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::cell::Cell;
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn no_word(word: &str) {
        panic!("{word}");
    }

    #[test]
    fn of_several_addresses_the_one_that_is_listened_at_is_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap();
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], here.port()));
        let look_up = || Ok(vec![elsewhere, here]);
        assert_eq!(found(look_up, LONG, no_word), Ok(here));
    }

    #[test]
    fn a_name_that_is_not_known_yet_is_asked_for_again() {
        let address = SocketAddr::from(([192, 0, 2, 1], 9));
        let (asked, told) = (Cell::new(0), Cell::new(0));
        let look_up = || match asked.replace(asked.get() + 1) {
            0 | 1 => Err(io::Error::other("no such name")),
            _ => Ok(vec![address]),
        };
        let tell = |why: &str| {
            assert_eq!(why, "no such name");
            told.set(told.get() + 1);
        };
        assert_eq!(found(look_up, LONG, tell), Ok(address));
        assert_eq!((asked.get(), told.get()), (3, 1));
    }

    #[test]
    fn what_is_no_name_is_not_asked_for_again() {
        let look_up = || Err(io::Error::new(io::ErrorKind::InvalidInput, "invalid socket address"));
        assert_eq!(found(look_up, LONG, no_word), Err("invalid socket address".to_owned()));
        let without_port = || Ok(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
        assert!(found(without_port, LONG, no_word).is_err());
        let never = || Err(io::Error::other("no such name"));
        assert_eq!(found(never, Duration::ZERO, no_word), Err("no such name".to_owned()));
    }
}
