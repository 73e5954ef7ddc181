//! A name node that is started again, as its log tells it, and the members that find it.

use super::joining::{dismissal, is_start, says};
use super::*;
use crate::cluster::dismissal::Dismissal;
use crate::cluster::journal::remember;
use crate::cluster::protocol::{ActionKind, Answer, Asset, FormerMember, Head};
use crate::id::DatasetId;

/// A name node, and what it has logged.
struct Logged {
    node: NameNode,
    log: Vec<LogEntry>,
}

fn comes_to(action: u64, kind: ActionKind) -> Report {
    Report::Arrive {
        head: Head {
            action,
            fingerprint: [0; 32],
            site: String::new(),
            kind,
        },
        held: Inventory::new(),
        state: LoopState {
            versions: vec![0],
            ..LoopState::default()
        },
    }
}

fn computes(action: u64) -> Report {
    let kind = ActionKind::Compute {
        wanted: vec![0],
        dataset: DatasetId(0),
        rounds_max: 1,
    };
    comes_to(action, kind)
}

/// A member of the first generation comes back.
fn again(slot: u32, address: &str) -> Report {
    let known = FormerMember {
        member: MemberId(slot.into()),
        generation: 1,
        run: 0,
    };
    Report::join(Some(slot), Some(known), address)
}

fn address(slot: u32) -> String {
    format!("place {slot}")
}

impl Logged {
    /// In the first round of its first action; members are on connections of their slots' numbers.
    fn begun(options: Options, arrival: &Report) -> Self {
        let processes = options.processes;
        let node = NameNode::new(options, Duration::ZERO);
        let mut logged = Self { node, log: Vec::new() };
        let effects = logged.node.start(Duration::ZERO);
        logged.note(effects);
        for slot in 0..processes {
            logged.says(slot.into(), Report::join(Some(slot), None, &address(slot)));
        }
        for slot in 0..processes {
            logged.says(slot.into(), arrival.clone());
        }
        logged
    }

    fn note(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        for effect in &effects {
            if let Effect::Log(entry) = effect {
                remember(&mut self.log, entry.clone());
            }
        }
        effects
    }

    fn says(&mut self, connection: u64, report: Report) -> Vec<Effect> {
        let effects = says(&mut self.node, connection, report);
        self.note(effects)
    }

    fn is_gone(&mut self, connection: u64) {
        let connection = ConnectionId(connection);
        let effects = self.node.handle(self.node.now, Event::Disconnected { connection });
        self.note(effects);
    }

    /// Another name node goes on from the log, with what it does first.
    fn restarted(&self, options: Options) -> (NameNode, Vec<Effect>) {
        let mut node = NameNode::recover(options, self.log.clone(), self.node.now);
        let effects = node.start(self.node.now);
        (node, effects)
    }
}

#[test]
fn a_member_is_known_by_its_address_and_has_a_lease_from_when_it_is_found() {
    let logged = Logged::begun(options(2, 0), &computes(0));
    let (mut node, _) = logged.restarted(options(2, 0));
    let lease = node.options.lease;
    node.handle(lease * 3 / 4, Event::Tick);
    let effects = says(&mut node, 2, again(0, "elsewhere"));
    let reason = dismissal(&effects, 2).map(|(reason, _)| reason);
    assert_eq!(reason, Some(Dismissal::Moved(MemberId(0))));
    let effects = says(&mut node, 3, again(0, &address(0)));
    assert_eq!(dismissal(&effects, 3), None);
    node.handle(lease, Event::Tick);
    assert_eq!(node.members.keys().collect::<Vec<_>>(), [&MemberId(0)]);
}

/// They may be on their way, too.
#[test]
fn processes_for_places_of_nobody_known_are_started_one_lease_later() {
    let mut logged = Logged::begun(options(3, 0), &computes(0));
    logged.is_gone(2);
    let (mut node, effects) = logged.restarted(options(3, 0));
    assert!(!effects.iter().any(is_start));
    assert_eq!(node.members.keys().collect::<Vec<_>>(), [&MemberId(0), &MemberId(1)]);
    let lease = node.options.lease;
    node.now = lease / 2;
    for slot in 0..2 {
        says(&mut node, slot.into(), again(slot, &address(slot)));
    }
    let effects = node.handle(lease, Event::Tick);
    let starts: Vec<&Effect> = effects.iter().filter(|effect| is_start(effect)).collect();
    assert!(matches!(starts[..], [Effect::Start { slot: 2 }]), "{starts:?}");
}

#[test]
fn a_member_of_a_place_that_there_is_no_more_is_not_expected() {
    let logged = Logged::begun(options(2, 0), &computes(0));
    let (mut node, _) = logged.restarted(options(1, 0));
    let effects = says(&mut node, 0, again(1, &address(1)));
    let reason = dismissal(&effects, 0).map(|(reason, _)| reason);
    assert_eq!(reason, Some(Dismissal::Lost(MemberId(1))));
}

/// It may not have heard of the cut, and would wait for those who have.
#[test]
fn who_is_found_again_in_a_cut_round_is_told_to_stop() {
    let mut logged = Logged::begun(options(3, 0), &computes(0));
    logged.is_gone(2);
    let (mut node, _) = logged.restarted(options(3, 0));
    says(&mut node, 0, again(0, &address(0)));
    let effects = says(&mut node, 0, computes(0));
    let orders = effects.into_iter().filter_map(|effect| match effect {
        Effect::Send { order, .. } => Some(order),
        _ => None,
    });
    let orders: Vec<Order> = orders.collect();
    match &orders[..] {
        [Order::Begin { round: 0, .. }, Order::Cut { generation: 1, lost }] => assert_eq!(lost[..], [MemberId(2)]),
        _ => panic!("{orders:?}"),
    }
}

#[test]
fn the_generation_of_a_round_that_was_stopped_by_an_answer_is_over_for_the_next_name_node_too() {
    let mut logged = Logged::begun(options(2, 0), &computes(0));
    let error = EngineError::ProgramEnded;
    logged.says(0, Report::Cancel { action: 0, error });
    let (mut node, _) = logged.restarted(options(2, 0));
    for slot in 0..2 {
        says(&mut node, slot.into(), again(slot, &address(slot)));
        says(&mut node, slot.into(), computes(1));
    }
    assert!(node.round.is_some());
    assert_eq!(node.generation.number, 2);
}

/// It has all of it, and no other history.
#[test]
fn who_has_finished_a_loop_itself_is_not_told_its_result_by_the_next_name_node_either() {
    let kind = ActionKind::Iterate {
        dataset: DatasetId(0),
        rounds_max: 1,
        first_step: 0,
        lanes: 1,
        answer_bytes_max: 1,
    };
    let arrival = comes_to(0, kind);
    let mut logged = Logged::begun(options(1, 0), &arrival);
    let placed = Outcome::Computed {
        complete: true,
        results: Vec::new(),
        updates: Vec::new(),
        tasks: (0, 0),
    };
    let finished = Outcome::Looped {
        finished: true,
        state: LoopState::default(),
        result: Some(bytes::Bytes::from_static(b"7")),
    };
    for (round, outcome) in (0..).zip([placed, finished]) {
        logged.says(
            0,
            Report::Ended {
                generation: 1,
                action: 0,
                round,
                outcome,
                held: Inventory::new(),
                cut: false,
            },
        );
    }
    let (mut node, _) = logged.restarted(options(1, 0));
    says(&mut node, 0, again(0, &address(0)));
    let effects = says(&mut node, 0, arrival);
    let is_told = |effect: &Effect| {
        let Effect::Send {
            order: Order::Answer { answer, .. },
            ..
        } = effect
        else {
            return false;
        };
        matches!(answer, Answer::Iterated { result: None })
    };
    assert!(effects.iter().any(is_told), "{effects:?}");
}

/// Whichever it says again last.
#[test]
fn what_a_member_has_ended_a_round_with_stands_above_what_it_came_with() {
    let kind = ActionKind::Iterate {
        dataset: DatasetId(0),
        rounds_max: 1,
        first_step: 0,
        lanes: 1,
        answer_bytes_max: 1,
    };
    let arrival = comes_to(0, kind);
    let mut logged = Logged::begun(options(2, 0), &arrival);
    let held = Inventory::from([(Asset::Lanes, vec![0].into())]);
    let made = LoopState {
        versions: vec![5],
        ..LoopState::default()
    };
    let outcomes = [
        Outcome::Computed {
            complete: true,
            results: Vec::new(),
            updates: Vec::new(),
            tasks: (0, 0),
        },
        Outcome::Looped {
            finished: true,
            state: made.clone(),
            result: None,
        },
    ];
    for (round, outcome) in (0..).zip(outcomes) {
        let ended = Report::Ended {
            generation: 1,
            action: 0,
            round,
            outcome,
            held: held.clone(),
            cut: false,
        };
        logged.says(0, ended.clone());
        logged.says(0, arrival.clone());
        assert_eq!(logged.node.members[&MemberId(0)].held, held);
        if round == 1 {
            assert_eq!(logged.node.members[&MemberId(0)].state, made);
        }
        logged.says(1, ended);
    }
}
