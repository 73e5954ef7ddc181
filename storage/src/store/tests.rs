#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dropped;
mod model;
mod room;
mod warm;

use super::*;
use crate::testing::{FaultTier, Faults, GetFault, Pause, PutFault};

/// The only block of a dataset, which the blocks of others make room for.
fn id(dataset: u64) -> BlockId {
    BlockId { dataset, partition: 1 }
}

/// A block of 80 bytes in memory.
fn block(value: u64) -> Block {
    Block::new(vec![value; 10])
}

fn value(block: &Block) -> u64 {
    block.records::<u64>().unwrap()[0]
}

fn get(store: &BlockStore, partition: u64) -> Result<Option<u64>> {
    Ok(store.get(id(partition), Codec::of::<u64>())?.as_ref().map(value))
}

/// A store with room for `blocks_max` blocks in memory, and faults on its disk, which is in memory too.
fn store(blocks_max: u64) -> (BlockStore, Faults) {
    let faults = Faults::new();
    let disk = FaultTier::new(Box::new(MemoryTier::new(1 << 20)), faults.clone());
    (
        BlockStore::with_tiers(Box::new(MemoryTier::new(blocks_max * 80)), Box::new(disk)),
        faults,
    )
}

#[test]
fn the_least_recently_used_block_is_evicted() {
    let (store, faults) = store(2);
    assert!(store.put(id(1), &block(1), Level::Memory).unwrap());
    assert!(store.put(id(2), &block(2), Level::Memory).unwrap());
    assert_eq!(get(&store, 1).unwrap(), Some(1));
    assert!(store.put(id(3), &block(3), Level::Memory).unwrap());
    assert_eq!(store.ids(), [id(1), id(3)]);
    assert_eq!(get(&store, 2).unwrap(), None);
    let expected = StoreStatistics {
        memory_hits: 1,
        memory_bytes_read: 80,
        misses: 1,
        evictions: 1,
        memory_bytes_used: 160,
        ..StoreStatistics::default()
    };
    assert_eq!(store.statistics(), expected);
    assert_eq!(faults.puts_count(), 0);
}

#[test]
fn a_dataset_that_is_larger_than_memory_stays_as_far_as_it_fits() {
    let id = |partition| BlockId { dataset: 1, partition };
    let (store, _) = store(3);
    let read = |partition| {
        let block = store.get(id(partition), Codec::of::<u64>()).unwrap();
        block.as_ref().map(value)
    };
    for round in 0..3 {
        for partition in 1..=4 {
            let kept = (round > 0).then(|| read(partition)).flatten();
            assert_eq!(kept, (round > 0 && partition < 4).then_some(partition));
            if kept.is_none() {
                let stored = store.put(id(partition), &block(partition), Level::Memory).unwrap();
                assert_eq!(stored, partition < 4);
            }
        }
    }
    assert!(store.put(id(4), &block(4), Level::MemoryAndDisk).unwrap());
    assert_eq!((read(4), read(4)), (Some(4), Some(4)));
    let statistics = store.statistics();
    assert_eq!(
        (statistics.evictions, statistics.promotions, statistics.disk_hits),
        (0, 0, 2)
    );
    let other = BlockId {
        dataset: 2,
        partition: 1,
    };
    assert!(store.put(other, &block(5), Level::Memory).unwrap());
    assert_eq!(store.ids(), [id(2), id(3), id(4), other]);
}

#[test]
fn a_demoted_block_is_written_once_and_promoted_when_read() {
    let (store, faults) = store(1);
    for round in 0..3 {
        for partition in [1, 2] {
            if round == 0 {
                store
                    .put(id(partition), &block(partition), Level::MemoryAndDisk)
                    .unwrap();
            }
            assert_eq!(get(&store, partition).unwrap(), Some(partition));
        }
    }
    assert_eq!(faults.puts_count(), 2, "each block once");
    let statistics = store.statistics();
    assert_eq!((statistics.demotions, statistics.promotions), (2, 4));
    assert_eq!(
        (statistics.evictions, statistics.disk_hits, statistics.memory_hits),
        (5, 4, 2)
    );
    assert_eq!((statistics.disk_bytes_read, statistics.memory_bytes_read), (320, 160));
}

#[test]
fn a_block_of_disk_level_stays_out_of_memory() {
    let (store, _) = store(2);
    store.put(id(1), &block(1), Level::Disk).unwrap();
    assert_eq!(get(&store, 1).unwrap(), Some(1));
    assert_eq!(store.memory_bytes_used(), 0);
    assert_eq!(store.statistics().promotions, 0);
}

#[test]
fn a_block_larger_than_memory_is_refused_or_goes_to_disk() {
    let (store, _) = store(1);
    let large = Block::new(vec![9_u64; 11]);
    store.put(id(1), &block(1), Level::Memory).unwrap();
    assert!(!store.put(id(1), &large, Level::Memory).unwrap());
    assert!(!store.contains(id(1)), "what was there before is not this block");
    assert!(store.put(id(1), &large, Level::MemoryAndDisk).unwrap());
    assert_eq!(get(&store, 1).unwrap(), Some(9));
    assert_eq!(store.memory_bytes_used(), 0);
}

#[test]
fn replacing_forgets_the_copy_on_disk() {
    let (store, _) = store(1);
    store.put(id(1), &block(1), Level::Disk).unwrap();
    store.put(id(1), &block(2), Level::Memory).unwrap();
    assert_eq!(store.disk_bytes_used(), 0);
    store.put(id(2), &block(3), Level::Memory).unwrap();
    assert_eq!(
        get(&store, 1).unwrap(),
        None,
        "evicted, and the older block must not come back"
    );
}

#[test]
fn what_is_replaced_is_not_moved_to_disk_to_make_room_for_what_replaces_it() {
    let (store, faults) = store(3);
    assert!(store.put(id(1), &block(1), Level::MemoryAndDisk).unwrap());
    (2..=3).for_each(|partition| assert!(store.put(id(partition), &block(partition), Level::Memory).unwrap()));
    let larger = Block::new(vec![4_u64; 20]);
    assert!(store.put(id(1), &larger, Level::MemoryAndDisk).unwrap());
    assert_eq!((get(&store, 1).unwrap(), faults.puts_count()), (Some(4), 0));
    assert_eq!(store.ids(), [id(1), id(3)]);
}

#[test]
fn damage_on_disk_is_an_error_once_and_then_the_block_is_not_kept() {
    let damages = [
        GetFault::Fail,
        GetFault::FlipBit(7),
        GetFault::FlipBit(1700),
        GetFault::ShortRead(0),
        GetFault::ShortRead(200),
        GetFault::Lose,
    ];
    for damage in damages {
        let (store, faults) = store(1);
        store.put(id(1), &block(1), Level::Disk).unwrap();
        let what = format!("{damage:?}");
        faults.on_get(0, damage);
        let error = get(&store, 1).expect_err(&what);
        assert!(matches!(error, StorageError::Corrupt { .. }), "{what}: {error}");
        assert!(error.to_string().contains("dataset-1-partition-1"), "{error}");
        assert_eq!(get(&store, 1).unwrap(), None);
        assert_eq!((store.disk_bytes_used(), store.statistics().corrupt_blocks), (0, 1));
        store.put(id(1), &block(2), Level::Disk).unwrap();
        assert_eq!(get(&store, 1).unwrap(), Some(2));
    }
}

#[test]
fn too_many_open_files_are_an_error_and_the_block_stays() {
    let (store, faults) = store(1);
    store.put(id(1), &block(1), Level::Disk).unwrap();
    faults.on_get(0, GetFault::TooManyFiles);
    let error = get(&store, 1).expect_err("the file cannot be opened");
    assert!(error.is_want_of_resources(), "{error}");
    assert_eq!(store.statistics().corrupt_blocks, 0);
    assert_eq!(get(&store, 1).unwrap(), Some(1));
}

#[test]
fn a_block_of_another_type_is_an_error_and_stays() {
    for level in [Level::Memory, Level::Disk] {
        let (store, _) = store(1);
        store.put(id(1), &block(1), level).unwrap();
        assert!(matches!(
            store.get(id(1), Codec::of::<i64>()),
            Err(StorageError::WrongType { .. })
        ));
        assert_eq!(get(&store, 1).unwrap(), Some(1));
    }
}

#[test]
fn a_full_disk_loses_no_block_in_memory() {
    let (store, faults) = store(1);
    store.put(id(1), &block(1), Level::MemoryAndDisk).unwrap();
    faults.set_disk_full(true);
    for level in [Level::Memory, Level::Disk, Level::MemoryAndDisk] {
        let error = store.put(id(2), &block(2), level).expect_err("no room");
        assert!(matches!(error, StorageError::DiskFull { .. }), "{error}");
        assert_eq!(store.ids(), [id(1)]);
    }
    assert_eq!(get(&store, 1).unwrap(), Some(1));
    faults.set_disk_full(false);
    assert!(store.put(id(2), &block(2), Level::Memory).unwrap());
    assert_eq!(get(&store, 1).unwrap(), Some(1));
}

#[test]
fn with_a_full_disk_blocks_that_need_no_writing_make_room() {
    let (store, faults) = store(2);
    store.put(id(1), &block(1), Level::MemoryAndDisk).unwrap();
    store.put(id(2), &block(2), Level::Memory).unwrap();
    faults.set_disk_full(true);
    assert!(store.put(id(3), &block(3), Level::Memory).unwrap());
    assert_eq!(store.ids(), [id(1), id(3)]);
}

#[test]
fn a_put_that_failed_after_writing_is_not_kept() {
    let (store, faults) = store(1);
    faults.on_put(0, PutFault::FailAfter);
    assert!(store.put(id(1), &block(1), Level::Disk).is_err());
    assert_eq!((store.contains(id(1)), store.disk_bytes_used()), (false, 0));
}

#[test]
fn removing_a_dataset_leaves_the_others() {
    let (store, _) = store(2);
    for dataset in [0, 1, 2, u64::MAX] {
        for partition in [0, u64::MAX] {
            store
                .put(BlockId { dataset, partition }, &block(dataset), Level::MemoryAndDisk)
                .unwrap();
        }
    }
    assert_eq!(store.remove_dataset(1).unwrap(), 2);
    assert_eq!(store.remove_dataset(u64::MAX).unwrap(), 2);
    assert_eq!(store.remove_dataset(7).unwrap(), 0);
    let datasets: Vec<u64> = store.ids().iter().map(|id| id.dataset).collect();
    assert_eq!(datasets, [0, 0, 2, 2]);
    store.remove_dataset(0).unwrap();
    store.remove_dataset(2).unwrap();
    assert_eq!((store.memory_bytes_used(), store.disk_bytes_used()), (0, 0));
}

#[test]
fn others_read_and_write_while_a_block_is_demoted() {
    let (store, faults) = store(2);
    store.put(id(1), &block(1), Level::MemoryAndDisk).unwrap();
    store.put(id(2), &block(2), Level::Memory).unwrap();
    let (pause, gate) = Pause::new();
    faults.on_put(0, PutFault::Pause(pause));
    std::thread::scope(|scope| {
        let put = scope.spawn(|| store.put(id(3), &block(3), Level::Memory));
        gate.wait_until_reached();
        // Block 1 is being written: it is still there, and nobody has to wait.
        assert_eq!(get(&store, 1).unwrap(), Some(1));
        assert_eq!(get(&store, 2).unwrap(), Some(2));
        store.put(id(4), &block(4), Level::Disk).unwrap();
        assert!(store.remove(id(2)).unwrap());
        gate.open();
        assert!(put.join().unwrap().unwrap());
    });
    assert_eq!(get(&store, 3).unwrap(), Some(3));
    assert_eq!(get(&store, 1).unwrap(), Some(1));
}

#[test]
fn a_block_that_is_removed_while_it_is_read_does_not_come_back() {
    let (store, faults) = store(2);
    store.put(id(1), &block(1), Level::MemoryAndDisk).unwrap();
    store.put(id(2), &block(2), Level::Memory).unwrap();
    store.put(id(3), &block(3), Level::Memory).unwrap();
    let (pause, gate) = Pause::new();
    faults.on_get(0, GetFault::Pause(pause));
    std::thread::scope(|scope| {
        let read = scope.spawn(|| get(&store, 1));
        gate.wait_until_reached();
        let remove = scope.spawn(|| store.remove(id(1)));
        gate.open();
        assert_eq!(read.join().unwrap().unwrap(), Some(1));
        assert!(remove.join().unwrap().unwrap());
    });
    assert!(!store.contains(id(1)));
    assert_eq!((store.memory.contains(id(1)), store.disk_bytes_used()), (false, 0));
}

#[test]
fn a_block_that_is_replaced_while_it_is_promoted_does_not_come_back() {
    let (store, faults) = store(1);
    store.put(id(1), &block(1), Level::MemoryAndDisk).unwrap();
    store.put(id(2), &block(2), Level::MemoryAndDisk).unwrap();
    let (pause, gate) = Pause::new();
    faults.on_put(0, PutFault::Pause(pause));
    std::thread::scope(|scope| {
        let read = scope.spawn(|| get(&store, 1));
        // Block 1 was read from disk, and block 2 is being written to make room for it.
        gate.wait_until_reached();
        store.put(id(1), &block(9), Level::Disk).unwrap();
        gate.open();
        assert_eq!(read.join().unwrap().unwrap(), Some(1));
    });
    assert_eq!(get(&store, 1).unwrap(), Some(9));
}

#[test]
fn threads_find_only_what_was_put_while_blocks_come_and_go() {
    let store = BlockStore::new(StoreOptions {
        memory_bytes_max: 5 * 80,
        ..StoreOptions::default()
    })
    .unwrap();
    let level = |partition| [Level::Memory, Level::Disk, Level::MemoryAndDisk][partition as usize % 3];
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let store = &store;
            scope.spawn(move || {
                for step in 0..60 {
                    let partition = (step * 7 + thread * 3) % 12;
                    match get(store, partition).unwrap() {
                        Some(found) => assert_eq!(found, partition),
                        None => assert!(store.put(id(partition), &block(partition), level(partition)).unwrap()),
                    }
                    assert!(store.memory_bytes_used() <= 5 * 80);
                }
            });
        }
    });
    assert!(store.statistics().evictions > 0);
    store.ids().iter().for_each(|id| assert!(store.remove(*id).unwrap()));
    assert_eq!((store.memory_bytes_used(), store.disk_bytes_used()), (0, 0));
}
