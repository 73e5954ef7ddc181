#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::thread;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// One listener of each kind.
fn listeners() -> [Listener; 2] {
    [
        Listener::bind_local().unwrap(),
        Listener::bind_tcp(anywhere(), None).unwrap(),
    ]
}

fn meet(listener: &Listener) -> (Socket, Socket) {
    let address = listener.address();
    thread::scope(|scope| {
        let caller = scope.spawn(|| connect(&address, LIMIT).unwrap());
        let accepted = listener.accept().unwrap();
        (caller.join().unwrap(), accepted)
    })
}

#[test]
fn bytes_go_both_ways_over_every_kind() {
    for listener in listeners() {
        let (here, there) = meet(&listener);
        (&here).write_all(b"ping").unwrap();
        let written = (&there)
            .write_vectored(&[IoSlice::new(b"po"), IoSlice::new(b"ng")])
            .unwrap();
        assert_eq!(written, 4, "both pieces in one call");
        let mut buffer = [0; 4];
        (&there).read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"ping");
        (&here).read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"pong");
    }
}

#[test]
fn shutdown_ends_a_read_that_is_blocked_on_another_handle() {
    for listener in listeners() {
        let (here, _there) = meet(&listener);
        let other = here.try_clone().unwrap();
        let reader = thread::spawn(move || (&other).read(&mut [0; 1]));
        here.shutdown();
        here.shutdown();
        assert_eq!(reader.join().unwrap().unwrap(), 0);
        assert!((&here).write(b"x").is_err());
    }
}

#[test]
fn one_side_can_end_its_sending_and_still_read() {
    let (here, there) = pair().unwrap();
    here.shutdown_write();
    assert_eq!((&there).read(&mut [0; 1]).unwrap(), 0);
    (&there).write_all(b"x").unwrap();
    assert_eq!((&here).read(&mut [0; 1]).unwrap(), 1);
}

#[test]
fn reads_and_writes_have_limits_of_time() {
    for listener in listeners() {
        let (here, _there) = meet(&listener);
        let limit = Some(Duration::from_millis(1));
        here.set_read_timeout(limit).unwrap();
        here.set_write_timeout(limit).unwrap();
        let blocked = |error: io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        assert!(blocked((&here).read(&mut [0; 1]).unwrap_err()));
        let full = (0..1_000_000).find_map(|_| (&here).write(&[0; 65_536]).err());
        assert!(blocked(full.unwrap()));
        assert!(here.set_read_timeout(Some(Duration::ZERO)).is_err());
    }
}

#[test]
fn a_blocked_accept_ends_when_the_listener_is_closed() {
    for listener in listeners() {
        let address = listener.address();
        thread::scope(|scope| {
            let (first, accepted) = mpsc::channel();
            let listener = &listener;
            let accepting = scope.spawn(move || {
                first.send(listener.accept().is_ok()).unwrap();
                listener.accept()
            });
            drop(connect(&address, LIMIT).unwrap());
            assert!(accepted.recv().unwrap());
            listener.close();
            assert_eq!(
                accepting.join().unwrap().unwrap_err().kind(),
                io::ErrorKind::NotConnected
            );
        });
        listener.close();
        assert!(listener.is_closed());
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
}

#[test]
fn a_listener_on_all_interfaces_is_closed_through_loopback() {
    for at in [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    ] {
        // A host without IPv6 has nothing to test here.
        let Ok(listener) = Listener::bind_tcp(at, Some(Ipv4Addr::LOCALHOST.into())) else {
            continue;
        };
        thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept());
            listener.close();
            assert!(accepting.join().unwrap().is_err());
        });
    }
}

#[test]
fn others_are_told_an_address_that_they_can_use() {
    let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let refused = Listener::bind_tcp(all, None).unwrap_err();
    assert!(refused.to_string().contains("advertise"), "{refused}");
    assert!(Listener::bind_tcp(all, Some(Ipv6Addr::UNSPECIFIED.into())).is_err());
    let listener = Listener::bind_tcp(all, Some(Ipv4Addr::LOCALHOST.into())).unwrap();
    let Address::Tcp(at) = listener.address() else {
        panic!("a port was asked for")
    };
    assert_eq!(at.ip(), Ipv4Addr::LOCALHOST);
    assert_ne!(at.port(), 0);
    meet(&listener);
}

#[test]
fn who_is_found_by_a_name_that_people_know_may_listen_at_all_addresses() {
    let listener = Listener::bind_anywhere(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    let Address::Tcp(at) = listener.address() else {
        panic!("a port was asked for")
    };
    assert!(at.ip().is_unspecified());
    let reached = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, at.port())));
    connect(&reached, Duration::from_secs(5)).unwrap();
    listener.accept().unwrap();
}

#[test]
fn names_are_never_the_same() {
    assert_ne!(
        Listener::bind_local().unwrap().address(),
        Listener::bind_local().unwrap().address()
    );
}

#[test]
fn nobody_there_is_an_error_at_once() {
    let refused = |listener: Listener| {
        let address = listener.address();
        drop(listener);
        connect(&address, LIMIT).is_err()
    };
    // Another test may be given the address as soon as it is free.
    let all_refused = || listeners().into_iter().all(refused);
    assert!((0..5).any(|_| all_refused()));
    let long = Address::Local("n".repeat(10_000));
    assert!(connect(&long, LIMIT).is_err());
}

/// Counts what its thread is told.
#[derive(Default)]
struct Warnings(AtomicU64);

impl tracing::Subscriber for Warnings {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_hinders_connections_for_long_is_said_ever_more_rarely() {
    let warnings = Arc::new(Warnings::default());
    let mut left = 20;
    let accept = || {
        left -= 1;
        match left {
            0 => Ok("a connection"),
            _ => Err(io::Error::from_raw_os_error(24)),
        }
    };
    let accepted = tracing::subscriber::with_default(Arc::clone(&warnings), || next_of(accept, || false));
    assert_eq!(accepted, Some("a connection"));
    assert_eq!(
        warnings.0.load(Ordering::SeqCst),
        2,
        "of 19 failures the first and the eighth"
    );
}

#[test]
fn what_hinders_a_connection_for_a_while_does_not_end_accepting() {
    // Too many open files of the process, and of the system.
    let mut failures = vec![24, 23];
    let mut accept = || match failures.pop() {
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Ok("a connection"),
    };
    assert_eq!(next_of(&mut accept, || false), Some("a connection"));
    let closed = || Err::<(), _>(io::Error::from(io::ErrorKind::NotConnected));
    assert_eq!(next_of(closed, || true), None);
}
