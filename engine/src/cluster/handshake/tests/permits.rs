//! Who may shake hands, and what people hear of those who may not.

use std::sync::mpsc::channel;

use distdl_storage::testing::wait_until;

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
    let outcome = outcome
        .recv_timeout(Duration::from_secs(30))
        .expect("it keeps its permit");
    assert!(matches!(outcome, Err(Refused::Timeout)), "{outcome:?}");
}

/// Or one that comes would cost many of those that were there before, and later ones would get none.
#[test]
fn for_each_that_waits_one_gives_its_permit_up() {
    let permits = Arc::<HandshakePermits>::default();
    let mut silent: Vec<Permit> = (0..HANDSHAKES_MAX).map(|_| permits.take()).collect();
    assert!(!silent.iter().any(Permit::must_yield), "nobody waits");
    for _ in 0..3 {
        let comes = {
            let permits = Arc::clone(&permits);
            thread::spawn(move || permits.take())
        };
        wait_until("it waits", || permits.is_waited_for());
        let yielding = silent.iter().filter(|permit| permit.must_yield()).count();
        assert_eq!(yielding, 1);
        // It is the first that is asked.
        drop(silent.remove(0));
        silent.push(comes.join().unwrap());
    }
    assert!(!silent.iter().any(Permit::must_yield));
}

#[test]
fn who_is_turned_away_is_named_and_of_many_in_a_row_few_are() {
    let listener = Listener::bind_tcp(SocketAddr::from(([127, 0, 0, 1], 0)), None).unwrap();
    let _stranger = connect(&listener.address(), Duration::from_secs(30)).unwrap();
    let peer = listener.accept().unwrap().peer();
    let turned_away = TurnedAway::default();
    let told = |count: u64| {
        let told = (0..count).filter_map(|_| turned_away.sentence(&peer, &Refused::Token));
        told.collect::<Vec<_>>()
    };
    let sentences = told(100);
    assert_eq!(
        sentences.len(),
        3,
        "the first, the eighth and the sixty-fourth: {sentences:?}"
    );
    assert!(sentences.iter().all(|sentence| sentence.contains("from 127.0.0.1:")));
    assert!(sentences[1].ends_with("(number 8 in a row)"), "{sentences:?}");
    turned_away.let_in();
    assert_eq!(told(1), sentences[..1]);
}
