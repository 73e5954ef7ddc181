//! Processes that come when they are not expected.

use super::*;
use crate::cluster::dismissal::Dismissal;

fn join(known: Option<(MemberId, u64)>, slot: u32) -> Report {
    Report::Join {
        slot: Some(slot),
        known,
        address: Address::Local(format!("place {slot}")),
        threads: 1,
        speculates: false,
        role: Role::Worker,
        process: 1,
    }
}

fn says(node: &mut NameNode, now: Duration, connection: u64, report: Report) -> Vec<Effect> {
    let connection = ConnectionId(connection);
    node.handle(now, Event::Reported { connection, report })
}

/// Why the process on a connection is not let in, and what people read of it.
fn dismissal(effects: &[Effect], on: u64) -> Option<(Dismissal, Option<String>)> {
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

fn is_start(effect: &Effect) -> bool {
    matches!(effect, Effect::Start { .. })
}

/// A name node, and two members of its first generation.
fn two_members() -> NameNode {
    let mut node = NameNode::new(options(2, 0), Duration::ZERO);
    node.start(Duration::ZERO);
    for slot in 0..2 {
        says(&mut node, Duration::ZERO, slot.into(), join(None, slot));
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

    let effects = says(&mut node, Duration::ZERO, 2, join(Some((MemberId(1), 1)), 1));
    let (reason, sentence) = dismissal(&effects, 2).expect("it is turned away");
    assert_eq!(reason, Dismissal::Lost(MemberId(1)));
    assert!(sentence.unwrap().contains("turned away"));
    assert!(!effects.iter().any(is_start), "that costs no other process");
    let effects = says(&mut node, Duration::ZERO, 3, join(None, 1));
    assert_eq!(dismissal(&effects, 3), None);
}

#[test]
fn who_comes_when_the_program_has_ended_is_turned_away_without_a_word_to_people() {
    let mut node = two_members();
    says(&mut node, Duration::ZERO, 0, Report::Leave { error: None });
    let effects = says(&mut node, Duration::ZERO, 2, join(None, 0));
    assert_eq!(dismissal(&effects, 2), Some((Dismissal::Over, None)));
}
