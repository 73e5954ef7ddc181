//! Who may shake hands, and what people hear of those who may not.

use std::sync::mpsc::channel;

use super::*;
use crate::cluster::handshake::{self, permits::HANDSHAKES_MAX};

#[test]
fn who_says_nothing_gives_its_permit_to_who_waits_for_one() {
    let permits = Arc::<HandshakePermits>::default();
    let _others: Vec<Permit> = (1..HANDSHAKES_MAX).map(|_| permits.take()).collect();
    let permit = permits.take();
    let (_silent, there) = pair().unwrap();
    let patient = Mine {
        time_max: Duration::from_secs(3600),
        ..called()
    };
    let (done, outcome) = channel();
    thread::spawn(move || {
        let outcome = handshake::accept(&there, &credentials(), &patient, &permit, anyone);
        done.send(outcome).unwrap();
    });
    thread::spawn(move || permits.take());
    let outcome = outcome.recv_timeout(Duration::from_secs(30)).expect("it keeps its permit");
    assert!(matches!(outcome, Err(Refused::Timeout)), "{outcome:?}");
}
