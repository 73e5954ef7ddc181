//! Processes that come to a name node that was started again.

use super::joining::{by_hand, comes_to_an_action, dismissal, join, known, says, wait};
use super::*;
use crate::cluster::dismissal::Dismissal;

/// The connections of those that are let in.
fn welcomed(effects: &[Effect]) -> Vec<u64> {
    let connections = effects.iter().filter_map(|effect| match effect {
        Effect::Send {
            connection,
            order: Order::Welcome { .. },
        } => Some(connection.0),
        _ => None,
    });
    connections.collect()
}

fn is_full(effects: &[Effect], connection: u64) -> bool {
    dismissal(effects, connection).is_some_and(|(reason, _)| reason == Dismissal::Full)
}

/// Where all were killed, as by a power cut, those that are started again come before the others count as lost.
#[test]
fn who_comes_anew_waits_for_whether_members_come_back_to_all_places() {
    let mut node = by_hand(2);
    let mut log = Vec::new();
    for slot in [0, 1] {
        log.extend(says(&mut node, slot.into(), join(None, slot)));
    }
    for connection in [0, 1] {
        log.extend(says(&mut node, connection, comes_to_an_action(Inventory::new())));
    }
    let entries = log.into_iter().filter_map(|effect| match effect {
        Effect::Log(entry) => Some(entry),
        _ => None,
    });
    let log: Vec<LogEntry> = entries.collect();
    let again = || {
        let mut again = NameNode::recover(node.options.clone(), log.clone(), Duration::ZERO);
        again.start(Duration::ZERO);
        for connection in [0, 1, 2] {
            let effects = says(&mut again, connection, join(None, connection as u32 % 2));
            assert!(effects.is_empty(), "{effects:?}");
        }
        again
    };
    // Nobody comes back: the first two take their places.
    let mut killed = again();
    let effects = wait(&mut killed, None, 1);
    assert_eq!(welcomed(&effects), [0, 1]);
    assert!(is_full(&effects, 2));
    // One comes back, and of the others one is gone meanwhile.
    let mut some = again();
    let connection = ConnectionId(0);
    some.handle(Duration::ZERO, Event::Disconnected { connection });
    assert_eq!(welcomed(&says(&mut some, 3, join(Some(known(0)), 0))), [3]);
    assert_eq!(welcomed(&wait(&mut some, Some(3), 1)), [1]);
    // All come back.
    let mut whole = again();
    says(&mut whole, 3, join(Some(known(0)), 0));
    let effects = says(&mut whole, 4, join(Some(known(1)), 1));
    assert_eq!(welcomed(&effects), [4]);
    assert!([0, 1, 2].iter().all(|newcomer| is_full(&effects, *newcomer)));
}
