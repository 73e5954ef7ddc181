//! Any operations in any order against a map, with faults of the disk and without.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

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
        8 => (partition.clone(), 0..110_usize, level)
            .prop_map(|(partition, len, level)| Operation::Put { partition, len, level }),
        8 => partition.clone().prop_map(|partition| Operation::Get { partition }),
        2 => partition.prop_map(|partition| Operation::Remove { partition }),
        weight => (0..4_u64, 0..3_u8).prop_map(|(after, kind)| Operation::FailPut { after, kind }),
        weight => (0..4_u64, 0..4000_usize).prop_map(|(after, bit)| Operation::FailGet { after, bit }),
    ]
}

/// Four datasets of two blocks.
fn own(partition: u64) -> BlockId {
    BlockId {
        dataset: partition % 4,
        partition,
    }
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
                let removed = self.store.remove(own(partition)).unwrap();
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
        let before = self.beside(own(partition));
        let resident = self.store.memory.ids();
        match self.store.put(own(partition), &block, level) {
            Ok(true) => drop(self.kept.insert(partition, (records, level))),
            Ok(false) => {
                let beside = before.map_or(0, |(_, bytes)| bytes);
                assert!(level == Level::Memory && block.memory_bytes() + beside > MEMORY_BYTES_MAX);
                self.kept.remove(&partition);
                let others = resident.into_iter().filter(|id| *id != own(partition));
                assert!(others.eq(self.store.memory.ids()), "blocks were evicted in vain");
            }
            Err(StorageError::OverBudget { .. }) => self.forget_if_gone(partition),
            Err(error) => {
                assert!(self.faulty, "{error}");
                self.forget_if_gone(partition);
            }
        }
        assert_eq!(
            self.beside(own(partition)),
            before,
            "a block made room for one of its dataset"
        );
    }

    /// The other block of the dataset, if it is in memory, and its bytes there.
    fn beside(&self, id: BlockId) -> Option<(BlockId, u64)> {
        let state = self.store.index.lock();
        let other = state
            .entries
            .iter()
            .find(|(other, _)| other.dataset == id.dataset && **other != id);
        other.and_then(|(other, entry)| Some((*other, entry.memory?.bytes)))
    }

    fn forget_if_gone(&mut self, partition: u64) {
        if !self.store.contains(own(partition)) {
            self.kept.remove(&partition);
        }
    }

    fn get(&mut self, partition: u64) {
        match self.store.get(own(partition), Codec::of::<u64>()) {
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
                assert!(!self.store.contains(own(partition)));
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
                *level == Level::Memory || store.contains(own(*partition)),
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
