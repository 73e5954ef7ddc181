#![allow(clippy::unwrap_used, clippy::expect_used)]

mod drawn;
mod permits;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;

use super::hello::{HELLO_BYTES, PREFIX_BYTES, PROTOCOL_VERSION, prefix};
use super::*;
use crate::cluster::socket::{Listener, connect, pair};

const CLUSTER: [u8; 16] = [1; 16];
const TOKEN: [u8; 32] = [2; 32];
const BINARY: [u8; 32] = [3; 32];
const RUN: u64 = 6;
const CALLER: MemberId = MemberId(7);
const CALLED: MemberId = MemberId(9);

fn credentials() -> Credentials {
    Credentials::new(CLUSTER, &TOKEN, BINARY)
}

fn link(member: MemberId, peer: Option<MemberId>) -> Mine {
    Mine {
        purpose: Purpose::Link,
        run: RUN,
        generation: 4,
        member: Some(member),
        peer,
        time_max: Duration::from_secs(30),
    }
}

fn caller() -> Mine {
    link(CALLER, Some(CALLED))
}

fn called() -> Mine {
    link(CALLED, None)
}

fn control() -> Mine {
    Mine {
        purpose: Purpose::Control,
        run: 0,
        generation: 0,
        member: None,
        peer: None,
        ..called()
    }
}

fn hasty(mine: Mine) -> Mine {
    let time_max = Duration::from_millis(20);
    Mine { time_max, ..mine }
}

fn anyone(_: &Theirs) -> Result<(), Refused> {
    Ok(())
}

fn at_least(expected: u64) -> impl FnOnce(&Theirs) -> Result<(), Refused> {
    move |theirs| match theirs.generation {
        theirs if theirs < expected => Err(Refused::Generation { expected, theirs }),
        _ => Ok(()),
    }
}

type Outcome = Result<Theirs, Refused>;

/// Accepts where nobody else comes.
fn accept(
    socket: &Socket,
    credentials: &Credentials,
    mine: &Mine,
    check: impl FnOnce(&Theirs) -> Result<(), Refused>,
) -> Outcome {
    super::accept(
        socket,
        credentials,
        mine,
        &Arc::<HandshakePermits>::default().take(),
        check,
    )
}

/// Lets two sides shake hands, and then checks that both agree about whether they did: a connection that was refused
/// is closed, one that was accepted carries what is sent.
fn shake(
    initiator: (&Credentials, &Mine),
    acceptor: (&Credentials, &Mine),
    check: impl FnOnce(&Theirs) -> Result<(), Refused> + Send,
) -> (Outcome, Outcome) {
    let (here, there) = pair().unwrap();
    let outcomes = thread::scope(|scope| {
        let called = scope.spawn(|| accept(&there, acceptor.0, acceptor.1, check));
        let calling = initiate(&here, initiator.0, initiator.1);
        (calling, called.join().unwrap())
    });
    let good = outcomes.0.is_ok();
    assert_eq!(good, outcomes.1.is_ok(), "{outcomes:?}");
    assert_eq!(
        (&here).write(b"x").is_ok() && (&there).read(&mut [0]).unwrap_or(0) == 1,
        good
    );
    outcomes
}

/// What the acceptor says to a peer that sends `bytes` and nothing more, and what the peer gets for it.
fn answer(bytes: &[u8]) -> (Refused, Vec<u8>) {
    let (here, there) = pair().unwrap();
    (&here).write_all(bytes).unwrap();
    here.shutdown_write();
    let refused = accept(&there, &credentials(), &called(), anyone).unwrap_err();
    let mut received = Vec::new();
    let _ = (&here).read_to_end(&mut received);
    (refused, received)
}

fn hello() -> Hello {
    caller().hello(Side::Initiator, &credentials(), BINARY).unwrap()
}

#[test]
fn two_members_learn_who_the_other_is() {
    let (calling, called) = shake((&credentials(), &caller()), (&credentials(), &called()), at_least(4));
    assert_eq!(
        calling.unwrap(),
        Theirs {
            purpose: Purpose::Link,
            generation: 4,
            member: Some(CALLED),
            binary: BINARY
        }
    );
    assert_eq!(
        called.unwrap(),
        Theirs {
            purpose: Purpose::Link,
            generation: 4,
            member: Some(CALLER),
            binary: BINARY
        }
    );
}

#[test]
fn a_process_without_a_number_reaches_the_name_node() {
    let (calling, called) = shake((&credentials(), &control()), (&credentials(), &control()), anyone);
    assert_eq!(
        calling.unwrap(),
        Theirs {
            purpose: Purpose::Control,
            generation: 0,
            member: None,
            binary: BINARY
        }
    );
    assert_eq!(
        called.unwrap(),
        Theirs {
            purpose: Purpose::Control,
            generation: 0,
            member: None,
            binary: BINARY
        }
    );
    let known = Mine {
        member: Some(CALLER),
        ..control()
    };
    let (_, called) = shake((&credentials(), &known), (&credentials(), &control()), anyone);
    assert_eq!(called.unwrap().member, Some(CALLER));
}

#[test]
fn what_follows_has_no_limit_of_time() {
    let (here, there) = pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| accept(&there, &credentials(), &called(), anyone).unwrap());
        initiate(&here, &credentials(), &caller()).unwrap();
    });
    for socket in [here, there] {
        let socket = socket2::SockRef::from(&socket).try_clone().unwrap();
        assert_eq!(
            (socket.read_timeout().unwrap(), socket.write_timeout().unwrap()),
            (None, None)
        );
    }
}

#[test]
fn another_build_is_told_so() {
    let other = Credentials::new(CLUSTER, &TOKEN, [4; 32]);
    let (calling, called) = shake((&other, &caller()), (&credentials(), &called()), anyone);
    assert!(matches!(
        (calling, called),
        (Err(Refused::Binary), Err(Refused::Binary))
    ));
}

#[test]
fn the_first_that_is_let_in_says_which_build_the_others_have() {
    let name_node = Credentials::of_any_program(CLUSTER, &TOKEN);
    let shakes = |build: u8| {
        let credentials = Credentials::new(CLUSTER, &TOKEN, [build; 32]);
        let (calling, called) = shake((&credentials, &control()), (&name_node, &control()), anyone);
        assert_eq!(calling.is_ok(), called.is_ok());
        called.map(|theirs| theirs.binary).ok()
    };
    assert_eq!([8, 7].map(shakes), [Some([8; 32]), Some([7; 32])]);
    name_node.let_in([7; 32]);
    assert_eq!([7, 8].map(shakes), [Some([7; 32]), None]);
    name_node.start_over();
    assert_eq!(shakes(8), Some([8; 32]));
}

#[test]
fn another_version_is_told_so() {
    let is_of = |refused: &Refused, version: u16| match refused {
        Refused::Version { ours, theirs } => (*ours, *theirs) == (PROTOCOL_VERSION, version),
        _ => false,
    };
    let mut bytes = hello().encode();
    bytes[6] += 1;
    for length in [PREFIX_BYTES, HELLO_BYTES] {
        let (refused, received) = answer(&bytes[..length]);
        assert!(is_of(&refused, PROTOCOL_VERSION + 1), "{refused}");
        assert_eq!(received, prefix(REFUSED_VERSION));
    }
    let (here, there) = pair().unwrap();
    let mut reason = prefix(REFUSED_VERSION);
    reason[6] = 9;
    (&there).write_all(&reason).unwrap();
    let refused = initiate(&here, &credentials(), &caller()).unwrap_err();
    assert!(is_of(&refused, 9), "{refused}");
}

/// Whether the initiator learned no more than that the connection was closed.
fn silent(calling: &Outcome) -> bool {
    matches!(calling, Err(Refused::Closed))
}

#[test]
fn a_stranger_is_not_told_what_is_wrong() {
    let token = Credentials::new(CLUSTER, &[5; 32], BINARY);
    let (calling, refused) = shake((&token, &caller()), (&credentials(), &called()), anyone);
    assert!(silent(&calling) && matches!(refused, Err(Refused::Token)));
    let cluster = Credentials::new([5; 16], &TOKEN, BINARY);
    let (calling, refused) = shake((&cluster, &caller()), (&credentials(), &called()), anyone);
    assert!(silent(&calling) && matches!(refused, Err(Refused::Cluster)));
    let neither = Credentials::new([5; 16], &[5; 32], BINARY);
    let (calling, _) = shake((&neither, &caller()), (&credentials(), &called()), anyone);
    assert!(silent(&calling));
    // Nor can it be seen from how far the acceptor goes, or from what it says until then.
    for cluster in [CLUSTER, [5; 16]] {
        let hello = Hello { cluster, ..hello() };
        let (_, received) = answer(&[&hello.encode()[..], &[0; PROOF_BYTES]].concat());
        let answered = Hello::decode(&received.try_into().unwrap()).unwrap();
        let awaited = Hello {
            side: Side::Acceptor,
            sender: Some(CALLED),
            receiver: hello.sender,
            ..hello
        };
        assert_eq!(
            Hello {
                nonce: awaited.nonce,
                ..answered
            },
            awaited
        );
    }
}

#[test]
fn who_is_behind_is_refused() {
    let (calling, refused) = shake((&credentials(), &caller()), (&credentials(), &called()), at_least(5));
    assert!(silent(&calling));
    assert!(matches!(refused, Err(Refused::Generation { expected: 5, theirs: 4 })));
}

#[test]
fn only_the_members_meant_may_meet() {
    let third = MemberId(11);
    let meet = |calling: Mine, called: Mine| shake((&credentials(), &calling), (&credentials(), &called), anyone);
    // At the address of the member meant there is another one now.
    let (calling, _) = meet(caller(), link(third, None));
    assert!(matches!(calling, Err(Refused::WrongMember)));
    // The one called awaits another one.
    let (calling, _) = meet(caller(), link(CALLED, Some(third)));
    assert!(matches!(calling, Err(Refused::WrongMember)));
    // Nobody in particular.
    for nobody in [
        Mine {
            member: None,
            ..caller()
        },
        Mine { peer: None, ..caller() },
    ] {
        let (calling, refused) = meet(nobody, called());
        assert!(silent(&calling) || matches!(calling, Err(Refused::WrongMember)));
        assert!(refused.is_err());
    }
}

/// Both members have the numbers that the other awaits: each run counts them from 0.
#[test]
fn members_of_two_runs_are_told_so() {
    let other = |mine: Mine| Mine { run: RUN + 1, ..mine };
    for purpose in [Purpose::Link, Purpose::Questions] {
        let calling = Mine { purpose, ..caller() };
        let (calling, called) = shake((&credentials(), &other(calling)), (&credentials(), &called()), anyone);
        assert!(matches!(calling, Err(Refused::Run)), "{calling:?}");
        assert!(called.is_err());
    }
    // One who does not look at what the acceptor says.
    let (here, there) = pair().unwrap();
    thread::scope(|scope| {
        let accepting = scope.spawn(|| accept(&there, &credentials(), &called(), anyone));
        let mut timed = Timed::new(&here, Duration::from_secs(30), None);
        let ours = other(caller()).hello(Side::Initiator, &credentials(), BINARY).unwrap();
        timed.send(&ours.encode()).unwrap();
        let theirs = timed.receive_hello(Side::Acceptor).unwrap();
        timed
            .send(credentials().proof(Side::Initiator, &ours, &theirs).as_bytes())
            .unwrap();
        let refused = accepting.join().unwrap();
        assert!(matches!(refused, Err(Refused::Run)), "{refused:?}");
    });
}

#[test]
fn purposes_must_agree() {
    let (calling, refused) = shake((&credentials(), &control()), (&credentials(), &called()), anyone);
    assert!(silent(&calling));
    assert!(matches!(refused, Err(Refused::Purpose)));
}

#[test]
fn an_acceptor_that_does_not_know_the_token_is_refused() {
    let (here, there) = pair().unwrap();
    let impostor = Credentials::new(CLUSTER, &[5; 32], BINARY);
    thread::scope(|scope| {
        let calling = scope.spawn(|| initiate(&here, &credentials(), &caller()));
        let mut timed = Timed::new(&there, Duration::from_secs(30), None);
        let theirs = timed.receive_hello(Side::Initiator).unwrap();
        let ours = Hello {
            receiver: theirs.sender,
            ..called().hello(Side::Acceptor, &impostor, BINARY).unwrap()
        };
        timed.send(&ours.encode()).unwrap();
        timed.receive::<PROOF_BYTES>().unwrap();
        timed
            .send(impostor.proof(Side::Acceptor, &theirs, &ours).as_bytes())
            .unwrap();
        assert!(matches!(calling.join().unwrap(), Err(Refused::Token)));
    });
}

/// Runs an initiator against `peer`, which sees its hello and what it sends afterwards.
fn against(peer: impl FnOnce(&mut Timed<'_>, Hello) + Send) -> Refused {
    let (here, there) = pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut timed = Timed::new(&there, Duration::from_secs(30), None);
            let hello = timed.receive_hello(Side::Initiator).unwrap();
            peer(&mut timed, hello);
        });
        initiate(&here, &credentials(), &caller()).unwrap_err()
    })
}

#[test]
fn what_we_said_does_not_prove_anything_when_it_comes_back() {
    let plain = against(|peer, hello| peer.send(&hello.encode()).unwrap());
    assert!(matches!(plain, Refused::NotDistdl), "{plain}");
    let dressed = against(|peer, hello| {
        let answer = Hello {
            side: Side::Acceptor,
            sender: hello.receiver,
            receiver: hello.sender,
            ..hello
        };
        peer.send(&answer.encode()).unwrap();
        let proof = peer.receive::<PROOF_BYTES>().unwrap();
        peer.send(&proof).unwrap();
    });
    assert!(matches!(dressed, Refused::Token), "{dressed}");
}

/// All that an initiator sends in a handshake that succeeds, and all that it is sent.
fn recorded() -> (Vec<u8>, Vec<u8>) {
    let ((here, middle), (beyond, there)) = (pair().unwrap(), pair().unwrap());
    let copy = |from: &Socket, to: &Socket, count: usize| {
        let mut bytes = vec![0; count];
        { from }.read_exact(&mut bytes).unwrap();
        { to }.write_all(&bytes).unwrap();
        bytes
    };
    thread::scope(|scope| {
        scope.spawn(|| initiate(&here, &credentials(), &caller()).unwrap());
        scope.spawn(|| accept(&there, &credentials(), &called(), anyone).unwrap());
        let hello = copy(&middle, &beyond, HELLO_BYTES);
        let answer = copy(&beyond, &middle, HELLO_BYTES);
        let proof = copy(&middle, &beyond, PROOF_BYTES);
        let accepted = copy(&beyond, &middle, PROOF_BYTES);
        ([hello, proof].concat(), [answer, accepted].concat())
    })
}

#[test]
fn a_recorded_handshake_is_refused_by_both_sides() {
    let (sent, received) = recorded();
    let (refused, answered) = answer(&sent);
    assert!(matches!(refused, Refused::Token), "{refused}");
    assert_eq!(answered.len(), HELLO_BYTES);
    let (here, there) = pair().unwrap();
    (&there).write_all(&received).unwrap();
    let refused = initiate(&here, &credentials(), &caller()).unwrap_err();
    assert!(matches!(refused, Refused::Token), "{refused}");
}

#[test]
fn silence_ends_with_the_limit() {
    let limit = hasty(called());
    let (_here, there) = pair().unwrap();
    assert!(matches!(
        accept(&there, &credentials(), &limit, anyone),
        Err(Refused::Timeout)
    ));

    let limit = hasty(caller());
    let (here, _there) = pair().unwrap();
    assert!(matches!(initiate(&here, &credentials(), &limit), Err(Refused::Timeout)));
    let none = Mine {
        time_max: Duration::ZERO,
        ..caller()
    };
    let (here, _there) = pair().unwrap();
    assert!(matches!(initiate(&here, &credentials(), &none), Err(Refused::Timeout)));
}

#[test]
fn a_byte_now_and_then_gains_no_time() {
    let (here, there) = pair().unwrap();
    let mut timed = Timed::new(&there, Duration::from_millis(20), None);
    let refused = (0..1_000_000).find_map(|_| {
        (&here).write_all(b"x").unwrap();
        timed.read_some(&mut [0]).err()
    });
    assert!(matches!(refused, Some(Refused::Timeout)), "{refused:?}");
}

#[test]
fn a_listener_outlives_every_kind_of_stranger() {
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    for listener in [Listener::bind_local().unwrap(), Listener::bind_tcp(at, None).unwrap()] {
        let address = listener.address();
        let limit = Duration::from_secs(30);
        thread::scope(|scope| {
            scope.spawn(|| {
                drop(connect(&address, limit).unwrap());
                (&connect(&address, limit).unwrap())
                    .write_all(b"GET / HTTP/1.1\r\n\r\n")
                    .unwrap();
                let other = Credentials::new(CLUSTER, &TOKEN, [4; 32]);
                let build = initiate(&connect(&address, limit).unwrap(), &other, &caller());
                assert!(matches!(build, Err(Refused::Binary)), "{build:?}");
                let other = Credentials::new(CLUSTER, &[5; 32], BINARY);
                let token = initiate(&connect(&address, limit).unwrap(), &other, &caller());
                assert!(matches!(token, Err(Refused::Closed)), "{token:?}");
                initiate(&connect(&address, limit).unwrap(), &credentials(), &caller()).unwrap();
            });
            let outcomes: Vec<_> = (0..5)
                .map(|_| accept(&listener.accept().unwrap(), &credentials(), &called(), anyone))
                .collect();
            assert_eq!(
                outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(),
                [false, false, false, false, true]
            );
        });
    }
}

#[test]
fn the_token_is_not_in_the_debug_text() {
    let text = format!("{:?}", credentials());
    assert!(
        !text.contains("key") && !text.contains(&format!("{:?}", credentials().key)),
        "{text}"
    );
}
