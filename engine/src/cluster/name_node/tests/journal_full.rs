//! What finds no room in the journal.

use super::joining::says;
use super::*;
use crate::cluster::protocol::{ActionKind, Answer, Head};
use crate::id::DatasetId;

/// With a log that has room for so much beside errors and what is written in any case.
fn with_quota(options: Options, left: u64) -> Options {
    let quota = JournalQuota::almost_full(left);
    Options { quota, ..options }
}

fn is_refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Failed(EngineError::JournalFull { .. }))
}

#[test]
fn a_loop_whose_result_will_find_no_room_is_refused_before_its_first_step() {
    let steps = Step::Iterate {
        steps: 4,
        stateful: false,
        timed: false,
    };
    for (left, refused) in [(100, true), (1 << 20, false)] {
        let mut world = World::new(with_quota(options(2, 0), left), vec![steps]);
        let mut stepped = false;
        while world.finished.is_none() {
            world.everybody_moves();
            stepped |= world.processes.iter().any(|process| process.versions.len() > 1);
        }
        assert_eq!(world.finished, Some(None));
        assert_eq!(stepped, !refused);
        let answers: Vec<&Answer> = world.processes.iter().flat_map(|process| &process.answers).collect();
        assert!(answers.len() == 2 && answers.iter().all(|answer| is_refused(answer) == refused));
    }
}

/// Before its data is placed, and of its result alone, however little the rest takes.
#[test]
fn a_loop_is_refused_for_the_size_of_its_result() {
    let answered = |answer_bytes_max| {
        let mut node = NameNode::new(with_quota(options(1, 0), 100_000), Duration::ZERO);
        node.start(Duration::ZERO);
        says(&mut node, 0, Report::join(None, None, "there"));
        let kind = ActionKind::Iterate {
            dataset: DatasetId(0),
            rounds_max: 1,
            first_step: 0,
            lanes: 1,
            answer_bytes_max,
        };
        let head = Head {
            action: 0,
            fingerprint: [0; 32],
            site: String::new(),
            kind,
        };
        let state = LoopState {
            versions: vec![0],
            ..LoopState::default()
        };
        let held = Inventory::new();
        let effects = says(&mut node, 0, Report::Arrive { head, held, state });
        effects.into_iter().find_map(|effect| match effect {
            Effect::Send {
                order: Order::Answer { answer, .. },
                ..
            } => Some(is_refused(&answer)),
            _ => None,
        })
    };
    assert_eq!([answered(10_000), answered(10 << 20)], [None, Some(true)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_finds_no_room_in_the_journal_the_program_goes_on_to_its_end(
        processes in 1..4_u32,
        left in 0..6000_u64,
        program in steps(),
        story in vec((any::<u8>(), any::<u8>()), 0..400),
    ) {
        let mut world = World::new(with_quota(options(processes, 0), left), program);
        for event in story {
            if world.finished.is_none() {
                happen(&mut world, event);
            }
        }
        world.run_to_the_end();
        prop_assert_eq!(&world.finished, &Some(None));
        // Those that come late included.
        for action in 0..world.program.len() {
            let told = world.processes.iter().filter_map(|process| process.answers.get(action));
            let told: Vec<bool> = told.map(is_refused).collect();
            prop_assert!(told.iter().all(|refused| *refused == told[0]), "{:?}", told);
        }
    }
}
