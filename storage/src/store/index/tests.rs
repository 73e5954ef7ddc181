//! Which block is evicted, and how many are looked at to find it.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn id(dataset: u64, partition: u64) -> BlockId {
    BlockId { dataset, partition }
}

fn put(state: &mut State, id: BlockId, level: Level) {
    state.replace(id, Codec::of::<u64>(), level);
    state.enter_memory(id, 1);
}

/// The choice as it is meant: of all blocks, by their last use.
fn least_recently_used(state: &State, except: Option<u64>, droppable: impl Fn(&Entry) -> bool) -> Option<BlockId> {
    let blocks = state.entries.iter().filter(|(id, _)| Some(id.dataset) != except);
    let resident = blocks.filter_map(|(id, entry)| Some((entry, entry.memory?.used, *id)));
    let droppable = resident.filter(|(entry, ..)| droppable(entry));
    droppable.min_by_key(|(_, used, _)| *used).map(|(_, _, id)| id)
}

#[test]
fn a_victim_is_found_without_looking_at_every_dataset() {
    let mut state = State::default();
    let ids = (0..3).flat_map(|partition| (0..1000).map(move |dataset| id(dataset, partition)));
    ids.for_each(|id| put(&mut state, id, Level::Memory));
    let mut looked = 0;
    let mut victims = Vec::new();
    for _ in 0..1500 {
        let victim = state.first_used(Some(3), |_| {
            looked += 1;
            true
        });
        let victim = victim.unwrap();
        state.forget(victim);
        victims.push(victim);
    }
    assert_eq!(looked, 1500);
    let all = (0..3).flat_map(|partition| (0..1000).map(move |dataset| id(dataset, partition)));
    let others = all.filter(|id| id.dataset != 3);
    assert!(others.take(1500).eq(victims));
}

proptest! {
    #[test]
    fn the_victim_is_the_least_recently_used_of_those_that_may_go(
        steps in prop::collection::vec((0..6_u8, 0..4_u64, 0..3_u64), 1..80),
        except in prop::option::of(0..4_u64),
    ) {
        let mut state = State::default();
        for (step, dataset, partition) in steps {
            let id = id(dataset, partition);
            match step {
                0 => put(&mut state, id, Level::Memory),
                1 => put(&mut state, id, Level::MemoryAndDisk),
                2 => state.touch(id),
                3 => _ = state.forget(id),
                4 => _ = state.pin(id),
                _ => {
                    state.leave_memory(id);
                    state.forget_if_lost(id);
                }
            }
            for may_write in [false, true] {
                let droppable = |entry: &Entry| entry.pins == 0 && (may_write || !entry.needs_writing());
                let expected = least_recently_used(&state, except, droppable);
                prop_assert_eq!(state.victim(except, may_write), expected);
            }
            let oldest = state.resident.iter().map(|(dataset, blocks)| (blocks.oldest().unwrap(), *dataset));
            prop_assert_eq!(&state.by_oldest, &oldest.collect());
        }
    }
}
