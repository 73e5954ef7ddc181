//! Whatever processes say that know the token, and in whatever order: the name node may turn them away, but goes on.

use bytes::Bytes;
use distdl_storage::StoreFigures;

use super::*;
use crate::cluster::journal::remember;
use crate::cluster::origins::Origins;
use crate::cluster::protocol::{ActionKind, Asset, FormerMember};
use crate::id::DatasetId;

/// Mostly those that there are, and those with which counting comes to an end.
fn number() -> impl Strategy<Value = u64> {
    let edge = prop_oneof![
        (0..3_u64).prop_map(|less| u64::MAX - less),
        (0..3_u64).prop_map(|less| (1 << 48) - less)
    ];
    prop_oneof![9 => 0..4_u64, 2 => edge, 1 => any::<u64>()]
}

fn few() -> impl Strategy<Value = u32> {
    prop_oneof![9 => 0..4_u32, 1 => any::<u32>()]
}

fn arithmetic() -> impl Strategy<Value = Arithmetic> {
    let unlike = || Arithmetic::ANY.of_another_machine();
    prop_oneof![9 => Just(Arithmetic::ANY), 1 => Just(()).prop_map(move |()| unlike())]
}

fn join() -> impl Strategy<Value = Report> {
    let known = (number(), number(), 0..2_u64).prop_map(|(member, generation, run)| FormerMember {
        member: MemberId(member),
        generation,
        run: run * 7,
    });
    let known = proptest::option::weighted(0.3, known);
    let slot = proptest::option::of(few());
    (slot, known, number(), few(), arithmetic(), any::<bool>()).prop_map(
        |(slot, known, place, threads, arithmetic, owns)| Report::Join {
            slot,
            known,
            address: Address::Local(format!("place {}", place % 2)),
            threads,
            speculates: false,
            role: if owns { Role::Parameter } else { Role::Worker },
            process: 1,
            arithmetic,
        },
    )
}

fn head() -> impl Strategy<Value = Head> {
    let kind = prop_oneof![
        (vec(number(), 0..3), few()).prop_map(|(wanted, rounds_max)| ActionKind::Compute {
            wanted,
            dataset: DatasetId(0),
            rounds_max,
        }),
        (few(), number(), 0..6_u32, number()).prop_map(|(rounds_max, first_step, lanes, answer_bytes_max)| {
            ActionKind::Iterate {
                dataset: DatasetId(0),
                rounds_max,
                first_step,
                lanes,
                answer_bytes_max,
            }
        }),
        Just(ActionKind::Iterate {
            dataset: DatasetId(0),
            rounds_max: 2,
            first_step: 0,
            lanes: 3,
            answer_bytes_max: 0
        }),
    ];
    (number(), kind).prop_map(|(action, kind)| Head {
        action: action % 5,
        fingerprint: [0; 32],
        site: "drawn".into(),
        kind,
    })
}

fn held() -> impl Strategy<Value = Inventory> {
    vec(number(), 0..3).prop_map(|partitions| Inventory::from([(Asset::Dataset(DatasetId(0)), partitions.into())]))
}

fn state() -> impl Strategy<Value = LoopState> {
    (vec(number(), 0..3), vec((few(), vec(number(), 0..3)), 0..3)).prop_map(|(versions, shards)| LoopState {
        versions,
        origins: Origins::default(),
        shards,
    })
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        4 => (any::<bool>(), vec(number(), 0..4), (number(), number())).prop_map(|(complete, results, tasks)| {
            Outcome::Computed {
                complete,
                results: results.into_iter().map(|partition| (partition, Bytes::new())).collect(),
                updates: vec![Bytes::new()],
                tasks,
            }
        }),
        4 => (any::<bool>(), state(), any::<bool>()).prop_map(|(finished, state, has)| Outcome::Looped {
            finished,
            state,
            result: has.then(Bytes::new),
        }),
        1 => Just(Outcome::Failed(error())),
    ]
}

fn error() -> EngineError {
    EngineError::Cancelled {
        action: "an action".to_owned(),
        reason: "by the test".to_owned(),
    }
}

fn report() -> impl Strategy<Value = Report> {
    let ended = (number(), number(), few(), outcome(), held(), any::<bool>());
    let figures = |(remote_bytes, fetches)| {
        let mut figures = StoreFigures::default();
        (figures.remote_bytes, figures.fetches) = (remote_bytes, fetches);
        Report::Read { figures }
    };
    prop_oneof![
        1 => join(),
        4 => (proptest::option::of(number()), number()).prop_map(|(step, micros)| Report::Heartbeat {
            step,
            lane_micros: Some(micros),
            job: None,
        }),
        6 => (head(), held(), state()).prop_map(|(head, held, state)| Report::Arrive { head, held, state }),
        6 => ended.prop_map(|(generation, action, round, outcome, held, cut)| Report::Ended {
            generation,
            action,
            round,
            outcome,
            held,
            cut,
        }),
        1 => number().prop_map(|action| Report::Cancel { action, error: error() }),
        2 => (number(), number(), number()).prop_map(|(generation, peer, stood)| Report::PeerLost {
            generation,
            peer: MemberId(peer),
            stood: Duration::from_micros(stood),
            cause: "drawn".into(),
        }),
        1 => vec(any::<u8>(), 0..40).prop_map(|filter| Report::CacheFilter { filter: filter.into() }),
        1 => (number(), vec(number(), 0..3)).prop_map(|(request, tried)| Report::Seek {
            request,
            key: [request as u8; 32],
            tried: tried.into_iter().map(MemberId).collect(),
        }),
        1 => (number(), any::<bool>()).prop_map(|(key, is_here)| Report::Brought { key: [key as u8; 32], is_here }),
        1 => (number(), number()).prop_map(figures),
        1 => Just(Report::Leave { error: Some("drawn".into()) }),
    ]
}

/// What a member would say now that says a thing of this kind.
fn fit(node: &NameNode, report: &mut Report) {
    match report {
        Report::Join { known, .. } => *known = None,
        Report::Arrive { head, .. } => match &node.action {
            Some(action) => *head = action.head.clone(),
            None => head.action = node.action_number(),
        },
        Report::Ended {
            generation,
            action,
            round,
            ..
        } => {
            (*generation, *action) = (node.generation.number, node.action_number());
            *round = node.round.as_ref().map_or(0, |round| round.number);
        }
        Report::Cancel { action, .. } => *action = node.action_number(),
        Report::PeerLost { generation, .. } => *generation = node.generation.number,
        _ => {}
    }
}

/// `None` for a name node that is started again.
fn event() -> impl Strategy<Value = Option<Event>> {
    let connection = || (0..4_u64).prop_map(ConnectionId);
    prop_oneof![
        30 => (connection(), report()).prop_map(|(connection, report)| Some(Event::Reported { connection, report })),
        2 => connection().prop_map(|connection| Some(Event::Heard { connection })),
        1 => connection().prop_map(|connection| Some(Event::Disconnected { connection })),
        1 => few().prop_map(|slot| Some(Event::Exited { slot, process: Some(1), cause: "drawn".into() })),
        3 => Just(Some(Event::Tick)),
        1 => Just(None),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_processes_say_stops_the_name_node(
        story in vec((event(), 0..500_u64, prop::bool::weighted(0.8)), 0..150),
        starts_processes in any::<bool>(),
    ) {
        let options = Options { starts_processes, ..options(2, 1) };
        let (mut node, mut log) = (NameNode::new(options.clone(), Duration::ZERO), Vec::new());
        let mut effects = node.start(Duration::ZERO);
        for (event, millis, fits) in story {
            for effect in effects {
                if let Effect::Log(entry) = effect {
                    remember(&mut log, entry);
                }
            }
            let now = node.now + Duration::from_millis(millis);
            effects = if let Some(mut event) = event {
                if let (Event::Reported { connection, report }, true) = (&mut event, fits) {
                    if !node.connections.contains_key(connection) {
                        *report = Report::join(Some(connection.0 as u32), None, "there");
                    }
                    fit(&node, report);
                }
                node.handle(now, event)
            } else {
                node = NameNode::recover(options.clone(), log.clone(), now);
                node.start(now)
            };
        }
    }
}
