//! What is on the wire and in the journal, byte by byte, of one value of each kind. Postcard writes no names: a field
//! more is read by an older build for something else.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use distdl_storage::StoreFigures;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::arithmetic::Arithmetic;
use super::dismissal::Dismissal;
use super::handshake::{Hello, Purpose, Side};
use super::identity::{Address, MemberId, Role};
use super::join::Join;
use super::journal::{Collected, LogEntry};
use super::origins::Origins;
use super::protocol::{
    ActionKind, Answer, Asset, FormerMember, Generation, Head, Inventory, LoopStart, LoopState, Order, Outcome, Peer,
    Report, Source, Work,
};
use super::secrets::Secrets;
use crate::error::EngineError;
use crate::id::DatasetId;
use crate::progress::JobProgress;

/// Fails unless the bytes are those that the hash begins as.
fn check(version: &str, bytes: &[u8], expected: &str) {
    let found = blake3::hash(bytes).to_hex();
    assert_eq!(
        &found[..16],
        expected,
        "this layout changed: raise {version}, unless no release has the last one, and then this value"
    );
}

/// All variants of an enumeration, in their order.
fn variants<T: Serialize + DeserializeOwned>(variants: &[T]) -> Vec<u8> {
    let encode = |variant: &T| postcard::to_stdvec(variant).unwrap();
    let encoded: Vec<Vec<u8>> = variants.iter().map(encode).collect();
    let numbers = encoded.iter().map(|bytes| bytes[0]);
    assert!(numbers.eq(0..variants.len() as u8), "list all variants, in their order");
    let mut next = [0; 1 << 10];
    next[0] = variants.len() as u8;
    let is_last = postcard::take_from_bytes::<T>(&next).is_err();
    assert!(is_last, "{}: list the new variant, too", std::any::type_name::<T>());
    encoded.concat()
}

fn held() -> Inventory {
    Inventory::from([
        (Asset::Dataset(DatasetId(3)), vec![1, 3, 5].into()),
        (Asset::Lanes, vec![2].into()),
    ])
}

fn state() -> LoopState {
    let mut origins = Origins::default();
    origins.go_on(4, (2, 1));
    LoopState {
        versions: vec![4, 5],
        origins,
        shards: vec![(1, vec![4])],
    }
}

fn peer() -> Peer {
    Peer {
        member: MemberId(7),
        slot: 1,
        address: Address::Tcp("10.0.0.1:80".parse().unwrap()),
        threads: 2,
        speculates: true,
        role: Role::Parameter,
    }
}

fn generation() -> Generation {
    Generation {
        number: 2,
        members: vec![peer()],
    }
}

fn head(is_iterate: bool) -> Head {
    let (dataset, rounds_max) = (DatasetId(3), 9);
    let kind = match is_iterate {
        false => ActionKind::Compute {
            wanted: vec![0, 1],
            dataset,
            rounds_max,
        },
        true => ActionKind::Iterate {
            dataset,
            rounds_max,
            first_step: 4,
            lanes: 2,
            answer_bytes_max: 80,
        },
    };
    Head {
        action: 6,
        fingerprint: [5; 32],
        site: "here".to_owned(),
        kind,
    }
}

fn outcomes() -> Vec<Outcome> {
    vec![
        Outcome::Computed {
            complete: true,
            results: vec![(1, Bytes::from_static(b"result"))],
            updates: vec![Bytes::from_static(b"update")],
            tasks: (3, 4),
        },
        Outcome::Looped {
            finished: true,
            state: state(),
            result: Some(Bytes::from_static(b"loop")),
        },
        Outcome::Failed(error()),
    ]
}

fn works() -> Vec<Work> {
    vec![
        Work::Compute {
            finished: vec![1],
            held: vec![held()],
            costs: vec![8],
            lanes: vec![0],
        },
        Work::Loop {
            start: LoopStart {
                version: 4,
                source: Some(1),
                states: vec![state()],
            },
            lanes: vec![1],
        },
    ]
}

fn answers() -> Vec<Answer> {
    vec![
        Answer::Computed {
            results: vec![(1, Bytes::from_static(b"result"))],
            updates: vec![Bytes::from_static(b"update")],
        },
        Answer::Iterated {
            result: Some(Bytes::from_static(b"loop")),
        },
        Answer::Failed(error()),
    ]
}

fn dismissals() -> Vec<Dismissal> {
    let member = MemberId(7);
    vec![
        Dismissal::Over,
        Dismissal::Connected(member),
        Dismissal::Lost(member),
        Dismissal::TakenForLost {
            member,
            cause: "nothing was heard of it".to_owned(),
        },
        Dismissal::Moved(member),
        Dismissal::Ahead(member),
        Dismissal::EarlierRun,
        Dismissal::Unlike,
        Dismissal::Full,
    ]
}

fn error() -> EngineError {
    EngineError::invalid("wrong", "mend it")
}

fn reports() -> Vec<Report> {
    vec![
        Report::Join {
            slot: Some(1),
            known: Some(FormerMember {
                member: MemberId(7),
                generation: 2,
                run: 11,
            }),
            address: Address::Local("there".to_owned()),
            threads: 2,
            speculates: true,
            role: Role::Worker,
            process: 12,
            arithmetic: Arithmetic::ANY,
        },
        Report::Heartbeat {
            step: Some(4),
            lane_micros: Some(5),
            job: Some(JobProgress::default()),
        },
        Report::Arrive {
            head: head(true),
            held: held(),
            state: state(),
        },
        Report::Ended {
            generation: 2,
            action: 6,
            round: 1,
            outcome: outcomes().swap_remove(0),
            held: held(),
            cut: true,
        },
        Report::Cancel {
            action: 6,
            error: error(),
        },
        Report::PeerLost {
            generation: 2,
            peer: MemberId(7),
            stood: Duration::from_millis(13),
            cause: "cut".to_owned(),
        },
        Report::CacheFilter {
            filter: Bytes::from_static(b"filter"),
        },
        Report::Seek {
            request: 14,
            key: [5; 32],
            tried: vec![MemberId(7)],
        },
        Report::Brought {
            key: [5; 32],
            is_here: true,
        },
        Report::Read {
            figures: StoreFigures::default(),
        },
        Report::Notices {
            said: BTreeMap::from([(15, Bytes::from_static(b"said"))]),
        },
        Report::Leave {
            error: Some("wrong".to_owned()),
        },
    ]
}

fn orders() -> Vec<Order> {
    let source = Source {
        member: MemberId(7),
        address: Address::Local("there".to_owned()),
    };
    let said = BTreeMap::from([(15, Bytes::from_static(b"said"))]);
    vec![
        Order::Welcome {
            member: MemberId(7),
            slot: 1,
            lease: Duration::from_secs(10),
            run: 11,
        },
        Order::Begin {
            generation: generation(),
            action: 6,
            round: 1,
            work: works().swap_remove(1),
        },
        Order::Cut {
            generation: 2,
            lost: vec![MemberId(7)],
        },
        Order::Answer {
            action: 6,
            answer: answers().swap_remove(0),
        },
        Order::CacheFilter {
            of: source.clone(),
            filter: Some(Bytes::from_static(b"filter")),
        },
        Order::Found {
            request: 14,
            key: [5; 32],
            sources: vec![source],
        },
        Order::Read {
            figures: StoreFigures::default(),
        },
        Order::Notices {
            of_all: BTreeMap::from([((1, MemberId(7)), said)]),
        },
        Order::Dismiss {
            reason: Dismissal::Over,
        },
    ]
}

#[test]
fn what_processes_say_to_each_other_is_of_this_version_of_the_protocol() {
    let hello = Hello {
        side: Side::Initiator,
        purpose: Purpose::Link,
        cluster: [1; 16],
        run: 11,
        generation: 2,
        sender: Some(MemberId(7)),
        receiver: None,
        binary: [3; 32],
        nonce: [4; 32],
    };
    let said = [
        hello.encode().to_vec(),
        variants(&reports()),
        variants(&outcomes()),
        variants(&orders()),
        variants(&works()),
        variants(&answers()),
        variants(&dismissals()),
    ];
    check("PROTOCOL_VERSION", &said.concat(), "e42c7d14e5f1a32d");
}

#[test]
fn what_a_started_process_is_told_is_of_this_version_of_the_text() {
    let join = Join {
        name_node: Address::Local("there".to_owned()),
        secrets: Secrets {
            cluster: [1; 16],
            token: [2; 32],
        },
        slot: Some(1),
        life: 3,
        role: Role::Worker,
        name_node_grace: Duration::from_secs(30),
        bind: Some("10.0.0.1".parse().unwrap()),
        port: 80,
        advertise: None,
        parent: Some(12),
        is_child: true,
    };
    check("VERSION in join.rs", join.to_text().as_bytes(), "f1c5c8b1e8638c95");
}

#[test]
fn what_a_journal_holds_is_of_this_version_of_its_format() {
    let member = MemberId(7);
    let entries = [
        LogEntry::Joined {
            member,
            arithmetic: Arithmetic::ANY,
        },
        LogEntry::Lost { member },
        LogEntry::Generation(generation()),
        LogEntry::Came(head(false)),
        LogEntry::Began {
            round: 1,
            work: works().swap_remove(0),
        },
        LogEntry::Cut,
        LogEntry::Collected(vec![Collected {
            results: vec![(1, Bytes::from_static(b"result"))],
            updates: vec![Bytes::from_static(b"update")],
        }]),
        LogEntry::Answered {
            head: head(true),
            finished_by: vec![member],
            answer: Some(answers().swap_remove(1)),
        },
        LogEntry::Finishing,
        LogEntry::Run(11),
        LogEntry::Program([3; 32]),
        LogEntry::Over,
    ];
    check("MAGIC in journal.rs", &variants(&entries), "4d431a8710299a70");
}
