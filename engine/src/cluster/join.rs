//! How a started process learns to which cluster it belongs: one variable of its environment.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::identity::{Address, Role};
use super::secrets::Secrets;
use crate::config::{ConfigError, Result, TIME_MAX};

/// The variable that holds a [`Join`] as text.
pub(crate) const JOIN_VARIABLE: &str = "DISTDL_JOIN";

/// What the text begins with; another form of it gets another number.
const VERSION: &str = "2-";

/// Most bytes of the text.
const TEXT_BYTES_MAX: usize = 2048;

/// Most bytes of the name of a local address, as Linux allows.
const LOCAL_NAME_BYTES_MAX: usize = 107;

/// Bytes of the checksum at the end.
const CHECK_BYTES: usize = 4;

const ALLOWED: &str =
    "what a parent process or `distdl worker` sets; to run this program by itself, remove the variable";

/// Where a process belongs.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Where the name node listens.
    pub name_node: Address,
    /// Which cluster, and the proof that the process is of it.
    pub secrets: Secrets,
    /// The slot it was started for; `None` for one that takes any, started by hand.
    pub slot: Option<u32>,
    /// How many processes its parent has started for the same slot before.
    pub life: u32,
    /// What it is for.
    pub role: Role,
    /// How long it looks for a lost name node before it gives up, at most a day.
    pub name_node_grace: Duration,
    /// Where it listens for links. `None`: a local address if the name node has one, else the address of this host that
    /// reaches the name node.
    pub bind: Option<IpAddr>,
    /// The port there; 0 takes a free one. It is not looked at where links are local.
    pub port: u16,
    /// The address that others are told instead, if there is a translation between the hosts.
    pub advertise: Option<IpAddr>,
    /// The process that started it and that it must not outlive.
    pub parent: Option<u32>,
    /// Whether its name node has had it started, here or elsewhere, shows what it prints and says how the program
    /// ended.
    pub is_child: bool,
}

impl fmt::Debug for Join {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Join")
            .field("name_node", &self.name_node)
            .field("secrets", &self.secrets)
            .field("slot", &self.slot)
            .field("life", &self.life)
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

impl Join {
    /// The text for the variable `DISTDL_JOIN`. It has the token: whoever may read a process's environment may join.
    pub fn to_text(&self) -> String {
        #[expect(clippy::expect_used, reason = "a vector takes everything, and no field can fail")]
        let mut bytes = postcard::to_allocvec(self).expect("a Join is plain data");
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        bytes
            .iter()
            .fold(VERSION.to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Reads [`Join::to_text`].
    ///
    /// # Errors
    /// [`ConfigError::Value`] if the text is none. It does not show the text, which may have the token.
    pub fn from_text(text: &str) -> Result<Self> {
        Self::read(text).map_err(|problem| ConfigError::Value {
            origin: format!("environment variable {JOIN_VARIABLE}"),
            value: format!("({problem})"),
            allowed: ALLOWED.into(),
        })
    }

    fn read(text: &str) -> Result<Self, &'static str> {
        if text.len() > TEXT_BYTES_MAX {
            return Err("too long");
        }
        let text = text.strip_prefix(VERSION).ok_or("of another version of DistDL")?;
        let bytes = bytes_of(text).ok_or("not hexadecimal")?;
        let (bytes, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or("cut off")?;
        if blake3::hash(bytes).as_bytes()[..CHECK_BYTES] != check[..] {
            return Err("cut off or changed");
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((join, [])) if join.is_sound() => Ok(join),
            _ => Err("not what this version of DistDL writes"),
        }
    }

    fn is_sound(&self) -> bool {
        let is_reachable = match &self.name_node {
            Address::Local(name) => (1..=LOCAL_NAME_BYTES_MAX).contains(&name.len()),
            Address::Tcp(address) => address.port() != 0,
        };
        is_reachable && self.name_node_grace <= TIME_MAX
    }

    /// Has the system end this process when its parent ends, however that ends, as long as the parent started it
    /// itself. On other systems than Linux, and below a parent's child, the lost connection to the name node ends it.
    ///
    /// # Errors
    /// The parent has ended already.
    pub(crate) fn tie_to_parent(&self) -> Result<(), OrphanError> {
        use rustix::process::{Pid, getppid, test_kill_process};
        let Some(parent) = self.parent else { return Ok(()) };
        let known = i32::try_from(parent).ok().and_then(Pid::from_raw);
        #[cfg(target_os = "linux")]
        if getppid() == known {
            let kill = Some(rustix::process::Signal::KILL);
            if let Err(error) = rustix::process::set_parent_process_death_signal(kill) {
                tracing::warn!(%error, "the system does not tie this process to its parent");
            }
        }
        // Asked after the tie: from here on the system watches.
        let lives = getppid() == known || known.is_some_and(|known| test_kill_process(known).is_ok());
        if lives { Ok(()) } else { Err(OrphanError { parent }) }
    }
}

/// The process that started this one ended before this one was ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("process {parent}, which started this one, has ended; start the program again")]
pub(crate) struct OrphanError {
    /// Its number.
    pub parent: u32,
}

/// What the process in a slot is for: the last `parameter_workers` of `processes` are for parameters, spares are
/// workers.
pub(crate) fn role_of(slot: u32, processes: usize, parameter_workers: usize) -> Role {
    let slot = slot as usize;
    if slot < processes && slot >= processes.saturating_sub(parameter_workers) {
        Role::Parameter
    } else {
        Role::Worker
    }
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let digit = |letter: u8| char::from(letter).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn join(name_node: Address) -> Join {
        Join {
            name_node,
            secrets: Secrets {
                cluster: [1; 16],
                token: [222; 32],
            },
            slot: Some(2),
            life: 1,
            role: Role::Parameter,
            name_node_grace: Duration::from_secs(30),
            bind: Some("10.0.0.1".parse().unwrap()),
            port: 7172,
            advertise: None,
            parent: Some(7),
            is_child: true,
        }
    }

    fn local() -> Join {
        join(Address::Local("distdl-1".to_owned()))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let spare = Join {
            slot: None,
            role: Role::Worker,
            parent: None,
            ..join(Address::Tcp("[::1]:80".parse().unwrap()))
        };
        for join in [local(), spare] {
            assert_eq!(Join::from_text(&join.to_text()).unwrap(), join);
        }
    }

    #[test]
    fn nothing_shows_the_token() {
        let shown = format!("{:?}", local());
        assert!(shown.contains("distdl-1") && !shown.contains("222"), "{shown}");
        let text = local().to_text();
        let error = Join::from_text(&text[..text.len() - 2]).unwrap_err().to_string();
        assert!(
            !error.contains("dede") && error.contains("remove the variable"),
            "{error}"
        );
    }

    #[test]
    fn addresses_that_nobody_can_have_are_refused() {
        for address in [
            Address::Local(String::new()),
            Address::Local("x".repeat(LOCAL_NAME_BYTES_MAX + 1)),
            Address::Tcp("127.0.0.1:0".parse().unwrap()),
        ] {
            assert!(Join::from_text(&join(address).to_text()).is_err());
        }
    }

    #[test]
    fn times_that_no_clock_reaches_are_refused() {
        for (name_node_grace, is_sound) in [(TIME_MAX, true), (TIME_MAX * 2, false), (Duration::MAX, false)] {
            let join = Join {
                name_node_grace,
                ..local()
            };
            assert_eq!(Join::from_text(&join.to_text()).is_ok(), is_sound);
        }
    }

    proptest! {
        #[test]
        fn a_changed_text_is_refused(at in any::<prop::sample::Index>(), letter in "[0-9a-fg]") {
            let text = local().to_text();
            let at = VERSION.len() + at.index(text.len() - VERSION.len());
            let mut changed = text.clone();
            changed.replace_range(at..=at, &letter);
            prop_assert_eq!(Join::from_text(&changed).is_ok(), changed == text);
            prop_assert!(Join::from_text(&text[..at]).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in "(2-)?\\PC{0,60}") {
            prop_assert!(Join::from_text(&text).is_err());
        }
    }

    #[test]
    fn the_last_slots_are_for_parameters_and_spares_work() {
        let roles: Vec<bool> = (0..5).map(|slot| role_of(slot, 4, 2) == Role::Parameter).collect();
        assert_eq!(roles, [false, false, true, true, false]);
        assert_eq!(role_of(0, 1, 0), Role::Worker);
    }

    #[test]
    fn an_orphan_is_told() {
        Join {
            parent: None,
            ..local()
        }
        .tie_to_parent()
        .unwrap();
        let above = rustix::process::getppid().unwrap().as_raw_nonzero().get() as u32;
        Join {
            parent: Some(above),
            ..local()
        }
        .tie_to_parent()
        .unwrap();
        let gone = Join {
            parent: Some(i32::MAX as u32),
            ..local()
        };
        assert!(gone.tie_to_parent().unwrap_err().to_string().contains("has ended"));
    }
}
