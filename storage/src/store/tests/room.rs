//! Working memory and pins: what blocks have to make room for, and what they must not.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;

#[test]
fn working_memory_and_blocks_share_one_limit() {
    let (store, _) = store(4);
    let store = Arc::new(store);
    let mut working = store.reservation();
    assert!(working.grow(80));
    (1..=4).for_each(|partition| assert!(store.put(id(partition), &block(partition), Level::Memory).unwrap()));
    assert_eq!(store.ids(), [id(2), id(3), id(4)], "room for three is left");
    assert!(working.grow(80), "down to half of the limit blocks make room");
    assert_eq!(store.ids(), [id(3), id(4)]);
    assert!(!working.grow(1), "and no further");
    assert_eq!(
        (working.bytes(), store.reserved_bytes(), store.memory_bytes_used()),
        (160, 160, 160)
    );
    let large = Block::new(vec![0_u64; 21]);
    assert!(
        !store.put(id(5), &large, Level::Memory).unwrap(),
        "larger than what is not reserved"
    );
    assert_eq!(store.ids(), [id(3), id(4)], "and nothing was evicted for it");
    working.shrink(80);
    assert!(store.put(id(5), &large, Level::Memory).unwrap());
    drop(working);
    assert_eq!(store.reserved_bytes(), 0);
}

#[test]
fn blocks_that_make_room_for_working_memory_go_to_disk_if_their_level_says_so() {
    let (store, faults) = store(2);
    let store = Arc::new(store);
    (1..=2).for_each(|partition| {
        assert!(
            store
                .put(id(partition), &block(partition), Level::MemoryAndDisk)
                .unwrap()
        )
    });
    let mut working = store.reservation();
    faults.set_disk_full(true);
    assert!(!working.grow(80), "a block that cannot be written stays");
    assert_eq!(store.memory_bytes_used(), 160);
    faults.set_disk_full(false);
    assert!(working.grow(80));
    assert_eq!((get(&store, 1).unwrap(), get(&store, 2).unwrap()), (Some(1), Some(2)));
    assert!(store.memory_bytes_used() + store.reserved_bytes() <= 160);
}

proptest! {
    #[test]
    fn the_limit_holds_whatever_is_put_and_reserved(
        steps in prop::collection::vec((0u64..6, 0usize..60, any::<bool>()), 1..60),
    ) {
        let (store, _) = store(6);
        let store = Arc::new(store);
        let mut working = store.reservation();
        for (partition, records, reserve) in steps {
            let bytes = 8 * records as u64;
            match (reserve, partition % 2) {
                (true, 0) => working.shrink(bytes),
                (true, _) => {
                    let before = working.bytes();
                    let grown = working.grow(bytes);
                    prop_assert_eq!(working.bytes(), before + if grown { bytes } else { 0 });
                }
                (false, at) => {
                    let level = [Level::Memory, Level::MemoryAndDisk][at as usize];
                    store.put(id(partition), &Block::new(vec![partition; records]), level).unwrap();
                }
            }
            prop_assert_eq!(store.reserved_bytes(), working.bytes());
            prop_assert!(store.memory_bytes_used() + store.reserved_bytes() <= 480);
        }
    }
}

#[test]
fn a_pinned_block_stays_in_memory_until_the_last_pin_is_gone() {
    let (store, _) = store(2);
    let store = Arc::new(store);
    let pin = |partition| store.pin(id(partition), Codec::of::<u64>()).unwrap();
    store.put(id(1), &block(1), Level::Memory).unwrap();
    let (pinned, first) = pin(1).unwrap();
    let second = pin(1).unwrap();
    assert_eq!(value(&pinned), 1);
    assert_eq!(store.statistics().memory_hits, 0, "pins are not what reads");
    store.put(id(2), &block(2), Level::Memory).unwrap();
    store.put(id(3), &block(3), Level::Memory).unwrap();
    assert_eq!(store.ids(), [id(1), id(3)], "the older one is pinned");
    drop(first);
    let mut working = store.reservation();
    assert!(!working.grow(100), "one block can go, not both");
    let two = pin(3).unwrap();
    assert!(!store.put(id(4), &block(4), Level::Memory).unwrap(), "both are pinned");
    assert!(store.put(id(4), &block(4), Level::MemoryAndDisk).unwrap());
    assert!(pin(4).is_none(), "it is on disk");
    drop((second, two));
    assert!(store.put(id(5), &block(5), Level::Memory).unwrap());
    assert_eq!(store.ids(), [id(3), id(4), id(5)]);
}

#[test]
fn a_block_that_is_pinned_as_it_is_written_to_disk_stays_in_memory() {
    let (store, faults) = store(2);
    let store = Arc::new(store);
    store.put(id(1), &block(1), Level::MemoryAndDisk).unwrap();
    store.put(id(2), &block(2), Level::Memory).unwrap();
    let (pause, gate) = Pause::new();
    faults.on_put(0, PutFault::Pause(pause));
    std::thread::scope(|scope| {
        let put = scope.spawn(|| store.put(id(3), &block(3), Level::Memory).unwrap());
        gate.wait_until_reached();
        let pinned = store.pin(id(1), Codec::of::<u64>()).unwrap();
        gate.open();
        assert!(put.join().unwrap());
        assert_eq!(store.ids(), [id(1), id(3)], "another one has made room");
        assert!(pinned.is_some() && store.pin(id(1), Codec::of::<u64>()).unwrap().is_some());
    });
    assert!(store.put(id(4), &block(4), Level::Memory).unwrap());
    assert!(store.put(id(5), &block(5), Level::Memory).unwrap());
    assert_eq!(
        (get(&store, 1).unwrap(), faults.puts_count()),
        (Some(1), 1),
        "it was written once"
    );
}

#[test]
fn a_pin_on_what_was_replaced_holds_nothing() {
    let (store, _) = store(1);
    let store = Arc::new(store);
    store.put(id(1), &block(1), Level::Memory).unwrap();
    let old = store.pin(id(1), Codec::of::<u64>()).unwrap().unwrap();
    store.put(id(1), &block(2), Level::Memory).unwrap();
    let new = store.pin(id(1), Codec::of::<u64>()).unwrap().unwrap();
    drop(old);
    assert!(
        !store.put(id(2), &block(2), Level::Memory).unwrap(),
        "the new block is pinned"
    );
    drop(new);
    assert!(store.put(id(2), &block(2), Level::Memory).unwrap());
}
