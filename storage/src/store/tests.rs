#![allow(clippy::unwrap_used, clippy::expect_used)]

mod dropped;
mod room;
mod warm;

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::testing::{FaultTier, Faults, GetFault, Pause, PutFault};

fn id(partition: u64) -> BlockId {
    BlockId { dataset: 1, partition }
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
    store.remove_dataset(1).unwrap();
    assert_eq!((store.memory_bytes_used(), store.disk_bytes_used()), (0, 0));
}

#[derive(Debug, Clone)]
enum Operation {
    Put { partition: u64, len: usize, level: Level },
    Get { partition: u64 },
    Remove { partition: u64 },
    FailPut { after: u64, kind: u8 },
    FailGet { after: u64, bit: usize },
}

fn operation(faults: bool) -> impl Strategy<Value = Operation> {
    let level = prop_oneof![Just(Level::Memory), Just(Level::Disk), Just(Level::MemoryAndDisk)];
    let partition = 0..8_u64;
    let weight = u32::from(faults);
    prop_oneof![
        8 => (partition.clone(), 0..60_usize, level)
            .prop_map(|(partition, len, level)| Operation::Put { partition, len, level }),
        8 => partition.clone().prop_map(|partition| Operation::Get { partition }),
        2 => partition.prop_map(|partition| Operation::Remove { partition }),
        weight => (0..4_u64, 0..3_u8).prop_map(|(after, kind)| Operation::FailPut { after, kind }),
        weight => (0..4_u64, 0..4000_usize).prop_map(|(after, bit)| Operation::FailGet { after, bit }),
    ]
}

/// A store and what it must hold. Values are numbered, so that no old one is taken for a new one.
struct Model {
    store: BlockStore,
    faults: Faults,
    faulty: bool,
    kept: HashMap<u64, (Vec<u64>, Level)>,
    puts_count: u64,
}

const MEMORY_BYTES_MAX: u64 = 1000;

impl Model {
    fn new(disk: Box<dyn Tier>, faulty: bool) -> Self {
        let faults = Faults::new();
        let disk = Box::new(FaultTier::new(disk, faults.clone()));
        let store = BlockStore::with_tiers(Box::new(MemoryTier::new(MEMORY_BYTES_MAX)), disk);
        Self {
            store,
            faults,
            faulty,
            kept: HashMap::new(),
            puts_count: 0,
        }
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Put { partition, len, level } => self.put(partition, len, level),
            Operation::Get { partition } => self.get(partition),
            Operation::Remove { partition } => {
                let removed = self.store.remove(id(partition)).unwrap();
                let before = self.kept.remove(&partition);
                assert!(removed || before.is_none_or(|(_, level)| level == Level::Memory));
            }
            Operation::FailPut { after, kind } => {
                let fault = [PutFault::FailBefore, PutFault::FailAfter, PutFault::DiskFull];
                self.faults.on_put(after, fault.into_iter().nth(kind.into()).unwrap());
            }
            Operation::FailGet { after, bit } => self.faults.on_get(after, GetFault::FlipBit(bit)),
        }
        self.check();
    }

    fn put(&mut self, partition: u64, len: usize, level: Level) {
        self.puts_count += 1;
        let records = vec![self.puts_count; len];
        let block = Block::new(records.clone());
        match self.store.put(id(partition), &block, level) {
            Ok(true) => drop(self.kept.insert(partition, (records, level))),
            Ok(false) => {
                assert!(level == Level::Memory && block.memory_bytes() > MEMORY_BYTES_MAX);
                self.kept.remove(&partition);
            }
            Err(StorageError::OverBudget { .. }) => self.forget_if_gone(partition),
            Err(error) => {
                assert!(self.faulty, "{error}");
                self.forget_if_gone(partition);
            }
        }
    }

    fn forget_if_gone(&mut self, partition: u64) {
        if !self.store.contains(id(partition)) {
            self.kept.remove(&partition);
        }
    }

    fn get(&mut self, partition: u64) {
        match self.store.get(id(partition), Codec::of::<u64>()) {
            Ok(Some(block)) => assert_eq!(*block.records::<u64>().unwrap(), self.kept[&partition].0),
            Ok(None) => {
                let before = self.kept.remove(&partition);
                assert!(
                    before.is_none_or(|(_, level)| level == Level::Memory),
                    "{partition} is lost"
                );
            }
            Err(error) => {
                assert!(self.faulty && matches!(error, StorageError::Corrupt { .. }), "{error}");
                assert!(!self.store.contains(id(partition)));
                self.kept.remove(&partition);
            }
        }
    }

    fn check(&self) {
        let store = &self.store;
        assert!(store.memory_bytes_used() <= store.memory.bytes_max());
        assert!(store.disk_bytes_used() <= store.disk.bytes_max());
        assert_eq!(store.ids().len(), store.index.lock().entries.len());
        for id in store.ids() {
            assert!(
                self.kept.contains_key(&id.partition),
                "{id} was never put, or was removed"
            );
        }
        for (partition, (_, level)) in &self.kept {
            assert!(
                *level == Level::Memory || store.contains(id(*partition)),
                "{partition} is lost"
            );
        }
        let entries = store.index.lock().entries.clone();
        let in_memory = entries
            .iter()
            .filter(|(_, entry)| entry.memory.is_some())
            .map(|(id, _)| *id);
        let on_disk = entries.iter().filter(|(_, entry)| entry.on_disk).map(|(id, _)| *id);
        assert_eq!(in_memory.collect::<Vec<_>>(), store.memory.ids());
        assert_eq!(on_disk.collect::<Vec<_>>(), store.disk.ids());
    }
}

fn agrees(operations: Vec<Operation>, disk: Box<dyn Tier>, faulty: bool) {
    let mut model = Model::new(disk, faulty);
    operations.into_iter().for_each(|operation| model.apply(operation));
    (0..8).for_each(|partition| model.get(partition));
}

proptest! {
    #[test]
    fn agrees_with_a_map(operations in prop::collection::vec(operation(false), 0..80)) {
        agrees(operations, Box::new(MemoryTier::new(1500)), false);
    }

    #[test]
    fn agrees_with_a_map_though_the_disk_fails(operations in prop::collection::vec(operation(true), 0..80)) {
        agrees(operations, Box::new(MemoryTier::new(1500)), true);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn agrees_with_a_map_on_a_real_disk(operations in prop::collection::vec(operation(true), 0..40)) {
        agrees(operations, Box::new(DiskTier::temporary(2000)), true);
    }
}
