//! Rounds that bring nothing, those that wait for somebody, and those that are stopped.

use super::joining::{by_hand, comes_to_an_action, dismissal, is_start, says, two_members};
use super::*;
use crate::cluster::dismissal::Dismissal;
use crate::cluster::protocol::{ActionKind, Answer, FormerMember, Head};
use crate::id::DatasetId;

/// At a loop of one lane without state.
fn comes_to_a_loop() -> Report {
    Report::Arrive {
        head: Head {
            action: 0,
            fingerprint: [0; 32],
            site: "an iteration".into(),
            kind: ActionKind::Iterate {
                dataset: DatasetId(0),
                rounds_max: 1,
                first_step: 0,
                lanes: 1,
                answer_bytes_max: 0,
            },
        },
        held: Inventory::new(),
        state: at_the_beginning(),
    }
}

fn at_the_beginning() -> LoopState {
    LoopState {
        versions: vec![0],
        ..LoopState::default()
    }
}

/// A name node at the first action of as many members as there are to be active, on connections of their slots'
/// numbers.
fn begun(options: Options, arrival: &Report) -> NameNode {
    let mut node = NameNode::new(options, Duration::ZERO);
    node.start(Duration::ZERO);
    let processes = node.options.processes;
    for slot in 0..processes {
        let join = Report::join(Some(slot), None, &format!("place {slot}"));
        says(&mut node, slot.into(), join);
    }
    (0..processes).for_each(|slot| drop(says(&mut node, slot.into(), arrival.clone())));
    assert_eq!(node.round.as_ref().unwrap().ended.len(), 0);
    node
}

/// A member ends the round that runs, and says whether it has all that it was to come to.
fn ends(node: &mut NameNode, connection: u64, is_complete: bool) -> Vec<Effect> {
    let round = node.round.as_ref().unwrap();
    let outcome = match round.work {
        Work::Compute { .. } => Outcome::Computed {
            complete: is_complete,
            results: Vec::new(),
            updates: Vec::new(),
            tasks: (0, 0),
        },
        Work::Loop { .. } => Outcome::Looped {
            finished: is_complete,
            state: at_the_beginning(),
            result: None,
        },
    };
    let report = Report::Ended {
        generation: node.generation.number,
        action: node.action_number(),
        round: round.number,
        outcome,
        held: Inventory::new(),
        cut: round.cut.is_some(),
    };
    says(node, connection, report)
}

fn is_gone(node: &mut NameNode, connection: u64) -> Vec<Effect> {
    let connection = ConnectionId(connection);
    node.handle(node.now, Event::Disconnected { connection })
}

/// Who is named as lost to the member on a connection, each time that its round is cut.
fn cuts(effects: &[Effect], on: u64) -> Vec<Vec<u64>> {
    let cuts = effects.iter().filter_map(|effect| match effect {
        Effect::Send {
            connection,
            order: Order::Cut { lost, .. },
        } if connection.0 == on => Some(lost.iter().map(|member| member.0).collect()),
        _ => None,
    });
    cuts.collect()
}

/// It may be writing to the second one.
#[test]
fn who_does_not_end_a_cut_round_is_told_of_each_loss_and_has_one_patience_for_all() {
    let options = Options {
        lease: Duration::from_secs(1000),
        ..options(3, 0)
    };
    let patience = options.cut_patience;
    let mut node = begun(options, &comes_to_an_action(Inventory::new()));
    assert_eq!(cuts(&is_gone(&mut node, 1), 0), [[1]]);
    node.now = patience / 2;
    assert_eq!(cuts(&is_gone(&mut node, 2), 0), [[1, 2]]);
    node.handle(patience - Duration::from_millis(1), Event::Tick);
    assert!(node.members.contains_key(&MemberId(0)));
    node.handle(patience, Event::Tick);
    assert!(!node.members.contains_key(&MemberId(0)));
}

/// The others would wait for its part of the step.
#[test]
fn who_stops_in_the_middle_of_a_loop_stops_the_others() {
    let mut node = begun(options(2, 0), &comes_to_a_loop());
    assert!((0..2).all(|member| cuts(&ends(&mut node, member, true), 1 - member).is_empty()));
    assert!(matches!(node.round.as_ref().unwrap().work, Work::Loop { .. }));
    assert_eq!(cuts(&ends(&mut node, 1, false), 0), [[0; 0]]);
}

/// At most one may, of each.
#[test]
fn rounds_that_bring_nothing_though_nobody_is_lost_come_to_an_error() {
    let is_answered = |effects: &[Effect]| {
        let failed = |effect: &Effect| match effect {
            Effect::Send {
                order: Order::Answer { answer, .. },
                ..
            } => matches!(answer, Answer::Failed(EngineError::RecoveryExhausted { rounds: 2, .. })),
            _ => false,
        };
        effects.iter().any(failed)
    };
    for (arrival, places) in [
        (comes_to_an_action(Inventory::new()), false),
        (comes_to_a_loop(), false),
        (comes_to_a_loop(), true),
    ] {
        let mut node = begun(options(1, 0), &arrival);
        for is_last in [false, true] {
            if places {
                ends(&mut node, 0, true);
            }
            assert_eq!(is_answered(&ends(&mut node, 0, false)), is_last, "{arrival:?} {places}");
        }
    }
}

#[test]
fn a_replacement_is_waited_for_as_long_as_the_grace_time_is() {
    let grace = Duration::from_secs(5);
    let options = Options { grace, ..options(2, 0) };
    let mut node = begun(options, &comes_to_an_action(Inventory::new()));
    node.now = Duration::from_secs(1);
    is_gone(&mut node, 1);
    ends(&mut node, 0, false);
    let end = node.now + grace;
    node.handle(end - Duration::from_millis(1), Event::Tick);
    assert!(node.round.is_none());
    node.handle(end, Event::Tick);
    assert!(node.round.is_some());
    assert_eq!(node.generation.members.len(), 1);
}

/// However long ago the first ones came.
#[test]
fn all_are_waited_for_when_none_is_left() {
    let options = Options {
        lease: Duration::from_secs(1000),
        ..options(2, 0)
    };
    let arrival = comes_to_an_action(Inventory::new());
    let mut node = begun(options, &arrival);
    node.now = 2 * node.options.start_patience;
    (0..2).for_each(|connection| drop(is_gone(&mut node, connection)));
    for slot in 0..2 {
        assert!(node.round.is_none());
        let connection = 2 + u64::from(slot);
        says(&mut node, connection, Report::join(Some(slot), None, "there"));
        says(&mut node, connection, arrival.clone());
    }
    assert_eq!(node.round.as_ref().unwrap().number, 1);
    assert_eq!(node.generation.members.len(), 2);
}

#[test]
fn a_round_that_is_not_cut_makes_up_for_links_that_failed_before() {
    let program = vec![Step::Compute { partitions: 40 }; 2];
    let mut world = World::new(options(2, 0), program);
    for generation in [1, 2] {
        world.begin_generation(generation);
        world.break_link(1, 0);
    }
    let computes = |world: &World| {
        let mut processes = world.processes.iter();
        processes.all(|process| process.at == 1 && process.round.is_some())
    };
    while !computes(&world) {
        assert!(world.everybody_moves());
    }
    world.break_link(1, 0);
    world.run_to_the_end();
    assert!(!is_lost(&world));
    assert_eq!(world.finished, Some(None));
}

/// It would start once more what others have done without.
#[test]
fn a_failure_that_others_have_ended_well_without_is_none_of_the_program() {
    let mut node = begun(options(2, 0), &comes_to_an_action(Inventory::new()));
    let error = Some("no such file".to_owned());
    says(&mut node, 1, Report::Leave { error });
    let effects = says(&mut node, 0, Report::Leave { error: None });
    assert!(!effects.iter().any(is_start));
    assert!(
        matches!(effects.last(), Some(Effect::Finish { error: None })),
        "{effects:?}"
    );
}

/// Whoever it was, and however much of the journal is lost.
#[test]
fn a_lost_member_that_comes_back_as_the_program_ends_is_told_that_it_ends() {
    let mut node = two_members();
    says(&mut node, 0, Report::Leave { error: None });
    for generation in [1, 2] {
        let known = FormerMember {
            member: MemberId(0),
            generation,
            run: 0,
        };
        let effects = says(&mut node, 1 + generation, Report::join(Some(0), Some(known), "there"));
        let reason = dismissal(&effects, 1 + generation).map(|(reason, _)| reason);
        assert_eq!(reason, Some(Dismissal::Over));
    }
}

#[test]
fn who_names_more_than_a_name_node_would_remember_is_lost() {
    let mut arrival = comes_to_a_loop();
    if let Report::Arrive { state, .. } = &mut arrival {
        state.versions = vec![0; LISTED_MAX + 1];
    }
    let question = Report::Seek {
        request: 0,
        key: [0; 32],
        tried: vec![MemberId(0); LISTED_MAX + 1],
    };
    for report in [arrival, question] {
        let mut node = by_hand(1);
        says(&mut node, 0, Report::join(None, None, "there"));
        says(&mut node, 0, report);
        assert!(node.members.is_empty());
    }
}
