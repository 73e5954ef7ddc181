//! Processes that come when they are not expected.

use super::*;
use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::dismissal::Dismissal;
use crate::cluster::protocol::{ActionKind, Asset, FormerMember, Head};

pub(super) fn join(known: Option<FormerMember>, slot: u32) -> Report {
    Report::join(Some(slot), known, &format!("place {slot}"))
}

/// Who was in the first generation.
pub(super) fn known(member: u64) -> FormerMember {
    FormerMember {
        member: MemberId(member),
        generation: 1,
        run: 0,
    }
}

pub(super) fn says(node: &mut NameNode, connection: u64, report: Report) -> Vec<Effect> {
    let connection = ConnectionId(connection);
    node.handle(node.now, Event::Reported { connection, report })
}

/// Why the process on a connection is not let in, and what people read of it.
pub(super) fn dismissal(effects: &[Effect], on: u64) -> Option<(Dismissal, Option<String>)> {
    let order = effects.iter().find_map(|effect| match effect {
        Effect::Send {
            connection,
            order: Order::Dismiss { reason },
        } if connection.0 == on => Some(reason.clone()),
        _ => None,
    });
    let sentence = effects.iter().find_map(|effect| match effect {
        Effect::Note(event) => event.sentence(),
        _ => None,
    });
    order.map(|reason| (reason, sentence))
}

pub(super) fn is_start(effect: &Effect) -> bool {
    matches!(effect, Effect::Start { .. })
}

/// A name node, and two members of its first generation.
pub(super) fn two_members() -> NameNode {
    let mut node = NameNode::new(options(2, 0), Duration::ZERO);
    node.start(Duration::ZERO);
    for slot in 0..2 {
        says(&mut node, slot.into(), join(None, slot));
    }
    node.generation.number = 1;
    node
}

#[test]
fn who_was_lost_and_comes_back_leaves_the_place_to_the_process_that_is_started_instead() {
    let mut node = two_members();
    let connection = ConnectionId(1);
    let effects = node.handle(Duration::ZERO, Event::Disconnected { connection });
    assert_eq!(effects.iter().filter(|effect| is_start(effect)).count(), 1);

    let effects = says(&mut node, 2, join(Some(known(1)), 1));
    let (reason, sentence) = dismissal(&effects, 2).expect("it is turned away");
    assert_eq!(reason, Dismissal::Lost(MemberId(1)));
    assert!(sentence.unwrap().contains("turned away"));
    assert!(!effects.iter().any(is_start), "that costs no other process");
    let effects = says(&mut node, 3, join(None, 1));
    assert_eq!(dismissal(&effects, 3), None);
}

/// It would take the name node for gone, and look for another one.
#[test]
fn who_is_taken_for_lost_while_its_connection_stands_is_told_why() {
    let mut node = two_members();
    node.generation.members = node
        .members
        .values()
        .take(1)
        .map(|member| member.peer.clone())
        .collect();
    let lease = node.options.lease;
    let effects = node.handle(lease, Event::Tick);
    let cause = format!("nothing was heard of it for {lease:?}");
    let (reason, _) = dismissal(&effects, 0).expect("it is told");
    assert_eq!(
        reason,
        Dismissal::TakenForLost {
            member: MemberId(0),
            cause
        }
    );
    assert_eq!(dismissal(&effects, 1), None, "it may come back as somebody else");
}

/// The numbers of those that come later would otherwise go on above.
#[test]
fn who_names_a_number_that_was_never_given_is_not_let_in_and_changes_nothing() {
    let enormous = |member: u64, generation: u64| FormerMember {
        generation,
        ..known(member)
    };
    for known in [
        enormous(u64::MAX, 0),
        enormous(1 << 48, 1),
        enormous(0, u64::MAX),
        enormous(9, 1 << 48),
    ] {
        let mut node = two_members();
        let next = (node.member_next, node.generation_next);
        let effects = says(&mut node, 2, join(Some(known), 1));
        let is_closed = matches!(
            effects[..],
            [Effect::Close {
                connection: ConnectionId(2)
            }]
        );
        assert!(is_closed, "{effects:?}");
        assert_eq!((node.member_next, node.generation_next), next);
    }
}

#[test]
fn the_journal_says_that_a_program_is_over_when_all_have_ended() {
    let mut node = two_members();
    let is_over = |effects: &[Effect]| {
        effects
            .iter()
            .any(|effect| matches!(effect, Effect::Log(LogEntry::Over)))
    };
    assert!(!is_over(&says(&mut node, 0, Report::Leave { error: None })));
    let effects = says(&mut node, 1, Report::Leave { error: None });
    assert!(is_over(&effects) && node.done);

    let mut failed = by_hand(1);
    says(&mut failed, 0, join(None, 0));
    let error = Some("no such file".to_owned());
    let mut effects = says(&mut failed, 0, Report::Leave { error });
    effects.extend(wait(&mut failed, None, 1));
    assert!(!is_over(&effects) && failed.done, "it may be started again and go on");
}

#[test]
fn who_comes_when_the_program_has_ended_is_turned_away_without_a_word_to_people() {
    let mut node = two_members();
    says(&mut node, 0, Report::Leave { error: None });
    let effects = says(&mut node, 2, join(None, 0));
    assert_eq!(dismissal(&effects, 2), Some((Dismissal::Over, None)));
}

#[test]
fn who_is_left_over_from_another_run_is_turned_away_whoever_it_was_there() {
    let mut node = NameNode::new(options(2, 0), Duration::ZERO);
    let effects = node.start(Duration::ZERO);
    let log = effects.into_iter().filter_map(|effect| match effect {
        Effect::Log(entry) => Some(entry),
        _ => None,
    });
    let another = Options {
        run: 7,
        ..options(2, 0)
    };
    let mut again = NameNode::recover(another.clone(), log.collect(), Duration::ZERO);
    again.start(Duration::ZERO);
    let mut next = NameNode::new(another, Duration::ZERO);
    next.start(Duration::ZERO);
    let waiting = FormerMember {
        generation: 0,
        ..known(1)
    };
    assert_eq!(dismissal(&says(&mut again, 0, join(Some(waiting), 1)), 0), None);
    let (reason, sentence) = dismissal(&says(&mut next, 0, join(Some(waiting), 1)), 0).unwrap();
    assert_eq!(reason, Dismissal::EarlierRun);
    assert!(sentence.unwrap().contains("earlier run"));
}

/// It may be stopped for a while: what the others have said is unread when it looks for them.
#[test]
fn a_name_node_that_was_away_hears_the_others_before_it_takes_them_for_lost() {
    let mut node = two_members();
    let is_lost = |effects: &[Effect]| effects.iter().any(|effect| matches!(effect, Effect::Kill { .. }));
    let lease = node.options.lease;
    let late = node.wake_at().unwrap() + lease / 5;
    assert!(!is_lost(&node.handle(late, Event::Tick)));
    let connection = ConnectionId(0);
    node.handle(late, Event::Heard { connection });
    // The other one is silent still, and however late it is looked for a second time, it is lost.
    let later = node.wake_at().unwrap() + lease / 5;
    assert!(later < late + lease);
    assert!(is_lost(&node.handle(later, Event::Tick)));
    assert_eq!(node.members.keys().collect::<Vec<_>>(), [&MemberId(0)]);
    // Who is looked for in time is lost at once.
    let at = node.wake_at().unwrap();
    assert!(is_lost(&node.handle(at, Event::Tick)));
}

/// A name node whose processes others start.
pub(super) fn by_hand(processes: u32) -> NameNode {
    let options = Options {
        starts_processes: false,
        restarts_max: 0,
        ..options(processes, 0)
    };
    let mut node = NameNode::new(options, Duration::ZERO);
    node.start(Duration::ZERO);
    node
}

/// Lets time pass for as long as the name node wants to be woken, and the one member that there may be says that it
/// lives.
pub(super) fn wait(node: &mut NameNode, member: Option<u64>, hours: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    let mut now = node.now;
    let end = now + Duration::from_secs(3600 * hours);
    while now < end && node.wake_at().is_some() {
        now = node.wake_at().unwrap().min(now + node.options.lease / 2).max(now);
        if let Some(connection) = member.map(ConnectionId) {
            effects.extend(node.handle(now, Event::Heard { connection }));
        }
        effects.extend(node.handle(now, Event::Tick));
    }
    effects
}

#[test]
fn a_place_that_others_fill_waits_for_ever_and_costs_no_restart() {
    let mut node = by_hand(2);
    let effects = wait(&mut node, None, 24);
    assert!(effects.is_empty(), "{effects:?}");
    says(&mut node, 0, join(None, 0));
    says(&mut node, 0, comes_to_an_action(Inventory::new()));
    wait(&mut node, Some(0), 1);
    assert_eq!(node.active().count(), 1, "it goes on with fewer");
    let effects = says(&mut node, 1, join(None, 1));
    assert_eq!(dismissal(&effects, 1), None, "the other may still come");
    for connection in [0, 1].map(ConnectionId) {
        let effects = node.handle(node.now, Event::Disconnected { connection });
        assert!(!effects.iter().any(is_start));
    }
    wait(&mut node, None, 24);
    assert!(!node.done, "both may be started again");
}

/// Why a process on such a machine is turned away, if it is.
fn comes(node: &mut NameNode, connection: u64, arithmetic: Arithmetic, slot: u32) -> Option<Dismissal> {
    let mut report = join(None, slot);
    if let Report::Join { arithmetic: told, .. } = &mut report {
        *told = arithmetic;
    }
    dismissal(&says(node, connection, report), connection).map(|(reason, _)| reason)
}

#[test]
fn a_name_node_that_is_started_again_lets_in_who_computes_the_bits_of_those_before() {
    let (like, unlike) = (Arithmetic::ANY, Arithmetic::ANY.of_another_machine());
    let mut node = by_hand(2);
    let log = says(&mut node, 0, join(None, 0))
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Log(entry) => Some(entry),
            _ => None,
        });
    let mut again = NameNode::recover(node.options.clone(), log.collect(), Duration::ZERO);
    again.start(Duration::ZERO);
    assert_eq!(comes(&mut again, 0, unlike, 1), Some(Dismissal::Unlike));
    assert_eq!(comes(&mut again, 1, like, 1), None);
}

#[test]
fn no_process_is_started_again_where_other_bits_are_computed() {
    let mut node = NameNode::new(options(2, 0), Duration::ZERO);
    node.start(Duration::ZERO);
    let (like, unlike) = (Arithmetic::ANY, Arithmetic::ANY.of_another_machine());
    assert_eq!(comes(&mut node, 0, like, 0), None);
    assert_eq!(comes(&mut node, 1, unlike, 1), Some(Dismissal::Unlike));
    let cause = "exit status: 1".to_owned();
    let (slot, process) = (1, Some(1));
    let mut effects = node.handle(node.now, Event::Exited { slot, process, cause });
    effects.extend(wait(&mut node, Some(0), 24));
    assert!(!effects.iter().any(is_start), "{effects:?}");
}

#[test]
fn a_machine_that_computes_other_bits_is_not_let_in() {
    let mut node = by_hand(2);
    let (like, unlike) = (Arithmetic::ANY, Arithmetic::ANY.of_another_machine());
    assert_eq!(comes(&mut node, 0, like, 0), None);
    assert_eq!(comes(&mut node, 1, unlike, 1), Some(Dismissal::Unlike));
    assert_eq!(comes(&mut node, 2, like, 1), None);
    for connection in [0, 2].map(ConnectionId) {
        node.handle(node.now, Event::Disconnected { connection });
    }
    let reason = comes(&mut node, 3, unlike, 0);
    assert_eq!(
        reason,
        Some(Dismissal::Unlike),
        "it would go on with what the others had"
    );
    assert_eq!(comes(&mut node, 4, like, 0), None);
}

pub(super) fn comes_to_an_action(held: Inventory) -> Report {
    Report::Arrive {
        head: Head {
            action: 0,
            fingerprint: [0; 32],
            site: String::new(),
            kind: ActionKind::Compute {
                wanted: vec![0],
                dataset: crate::id::DatasetId(0),
                rounds_max: 1,
            },
        },
        held,
        state: LoopState::default(),
    }
}

#[test]
fn a_member_may_have_any_number_of_blocks_that_few_words_name() {
    let mut node = by_hand(2);
    says(&mut node, 0, join(None, 0));
    says(&mut node, 1, join(None, 1));
    let all = 2 * LISTED_MAX as u64;
    let held = |first: u64| {
        let every_other: Vec<u64> = (first..all).step_by(2).collect();
        Inventory::from([(Asset::Dataset(crate::id::DatasetId(0)), every_other.into())])
    };
    says(&mut node, 0, comes_to_an_action(held(0)));
    says(&mut node, 1, comes_to_an_action(held(1)));
    assert_eq!(node.active().count(), 2);
    let Work::Compute { held: told, .. } = &node.round.as_ref().unwrap().work else {
        panic!("a round of computing begins");
    };
    assert_eq!(told, &[held(0), held(1)]);
}

#[test]
fn who_comes_first_waits_for_the_others_and_people_hear_of_it() {
    let mut node = by_hand(3);
    wait(&mut node, None, 24);
    let sentences = |effects: Vec<Effect>| -> Vec<String> {
        let said = effects.into_iter().filter_map(|effect| match effect {
            Effect::Note(event) => event.sentence(),
            _ => None,
        });
        said.collect()
    };
    says(&mut node, 0, join(None, 1));
    assert_eq!(
        sentences(says(&mut node, 0, comes_to_an_action(Inventory::new()))),
        Vec::<String>::new()
    );
    assert_eq!(node.active().count(), 0, "however long the name node has been there");
    let expected = [
        "waiting for 2 of 3 processes: slots 0, 2 have not come; the others begin without in 55 s",
        "beginning with 1 of 3 processes: slots 0, 2 have not come",
    ];
    assert_eq!(sentences(wait(&mut node, Some(0), 1)), expected);
}

/// With the state of one shard, as of the version that the loop begins with.
fn comes_to_a_loop(state: bool) -> Report {
    Report::Arrive {
        head: Head {
            action: 0,
            fingerprint: [0; 32],
            site: "an iteration".into(),
            kind: ActionKind::Iterate {
                dataset: crate::id::DatasetId(0),
                rounds_max: 1,
                first_step: 0,
                lanes: 1,
                answer_bytes_max: 0,
            },
        },
        held: Inventory::new(),
        state: LoopState {
            versions: vec![0],
            shards: vec![(0, if state { vec![0] } else { Vec::new() })],
            ..LoopState::default()
        },
    }
}

#[test]
fn that_a_loop_waits_for_a_process_which_others_start_is_said_at_once_and_once() {
    let told = |effects: &[Effect]| {
        let sentences = effects.iter().filter_map(|effect| match effect {
            Effect::Note(event) => event
                .sentence()
                .filter(|text| text.contains("optimizer state was lost")),
            _ => None,
        });
        sentences.count()
    };
    let mut node = by_hand(2);
    says(&mut node, 0, join(None, 0));
    says(&mut node, 1, join(None, 1));
    says(&mut node, 0, comes_to_a_loop(false));
    assert_eq!(told(&says(&mut node, 1, comes_to_a_loop(true))), 0);
    let round = node.round.as_ref().map(|round| round.number).unwrap();
    let ended = Report::Ended {
        generation: node.generation.number,
        action: 0,
        round,
        outcome: Outcome::Computed {
            complete: false,
            results: Vec::new(),
            updates: Vec::new(),
            tasks: (0, 0),
        },
        held: Inventory::new(),
        cut: true,
    };
    let connection = ConnectionId(1);
    node.handle(node.now, Event::Disconnected { connection });
    assert_eq!(told(&says(&mut node, 0, ended)), 1);
    assert_eq!(told(&wait(&mut node, Some(0), 24)), 0);
    assert!(node.round.is_none() && !node.done, "it waits");
    // One that is on its way has what the loop begins with.
    assert_eq!(told(&says(&mut node, 2, join(None, 0))), 0);
    assert_eq!(told(&says(&mut node, 2, comes_to_a_loop(true))), 0);
    assert!(node.round.is_some());
}

#[test]
fn who_came_and_gave_up_is_not_one_that_has_not_come() {
    let mut node = by_hand(3);
    says(&mut node, 1, join(None, 1));
    let error = Some("no such file".to_owned());
    says(&mut node, 1, Report::Leave { error });
    says(&mut node, 0, join(None, 0));
    says(&mut node, 0, comes_to_an_action(Inventory::new()));
    let said = wait(&mut node, Some(0), 1)
        .into_iter()
        .filter_map(|effect| match effect {
            Effect::Note(event) => event.sentence(),
            _ => None,
        });
    let said: Vec<String> = said.collect();
    for beginning in ["waiting for 2 of 3 processes: ", "beginning with 1 of 3 processes: "] {
        let expected = format!("{beginning}slot 2 has not come, slot 1 gave up");
        assert!(said.iter().any(|sentence| sentence.starts_with(&expected)), "{said:#?}");
    }
}

#[test]
fn a_failure_ends_a_cluster_that_others_start_once_nobody_else_has_come_for_long() {
    let mut node = by_hand(2);
    says(&mut node, 0, join(None, 0));
    let error = Some("no such file".to_owned());
    says(&mut node, 0, Report::Leave { error: error.clone() });
    assert!(!node.done, "the other is still on its way");
    let effects = wait(&mut node, None, 1);
    assert!(matches!(effects.last(), Some(Effect::Finish { error: why }) if *why == error));
}

/// What the operating system had not written yet is gone with the host of the name node.
#[test]
fn a_journal_that_has_lost_its_end_costs_the_processes_that_it_does_not_know_the_end_of() {
    let is_generation = |entry: &LogEntry| matches!(entry, LogEntry::Generation(_));
    let is_placing = |entry: &LogEntry| {
        let LogEntry::Began { work, .. } = entry else {
            return false;
        };
        matches!(work, Work::Compute { .. })
    };
    let losses: [&dyn Fn(&LogEntry) -> bool; 2] = [&is_generation, &is_placing];
    for lost in losses {
        let program = vec![Step::Iterate {
            steps: 200,
            stateful: false,
            timed: false,
        }];
        let mut world = World::new(options(3, 0), program);
        let has = |world: &World, number: usize, version| world.processes[number].versions.contains_key(&version);
        while !(0..3).all(|number| has(&world, number, 5)) {
            world.everybody_moves();
        }
        world.kill(1);
        while !has(&world, 0, 20) {
            world.everybody_moves();
        }
        let end = world.log.iter().rposition(lost).unwrap();
        world.log.truncate(end);
        world.crash();
        world.run_to_the_end();
        assert_eq!(world.finished, Some(None));
    }
}
