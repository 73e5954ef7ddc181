//! A store that remembers: as any store, and beyond its own life.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::*;
use crate::records::Record;
use crate::store::{BlockStore, Level, StoreOptions};

fn memo(folder: &Path) -> Arc<Memo> {
    let memo = Memo::new(folder, 1 << 20);
    memo.open().unwrap();
    Arc::new(memo)
}

fn store(folder: &Path, memory_bytes_max: u64) -> BlockStore {
    let options = StoreOptions {
        memory_bytes_max,
        ..StoreOptions::default()
    };
    BlockStore::with_memo(options, memo(folder)).unwrap()
}

fn id(partition: u64) -> BlockId {
    BlockId { dataset: 1, partition }
}

fn key(partition: u64) -> Digest {
    [partition as u8; 32]
}

fn figures(store: &BlockStore) -> MemoFigures {
    store.memo().unwrap().figures()
}

fn recall<T: Record>(store: &BlockStore, partition: u64) -> bool {
    store.recall(id(partition), &key(partition), Codec::of::<T>(), Level::MemoryAndDisk)
}

fn value(store: &BlockStore, partition: u64) -> Option<u64> {
    let block = store.get(id(partition), Codec::of::<u64>()).ok()??;
    Some(block.records::<u64>().unwrap()[0])
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let inside = |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let folders: Vec<PathBuf> = inside(&folder.join("blocks")).collect();
    folders.iter().flat_map(|folder| inside(folder)).collect()
}

#[test]
fn conformance() {
    let folder = tempfile::tempdir().unwrap();
    crate::testing::conformance(&MemoTier::new(memo(folder.path()), DiskTier::temporary(1 << 20)));
}

#[test]
fn another_store_finds_what_one_has_remembered_once_on_disk_and_once_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = store(folder.path(), 1000);
        for partition in 0..3 {
            assert!(!recall::<u64>(&store, partition));
            let block = Block::new(vec![partition; 10]);
            assert!(store.remember(id(partition), &block, Level::MemoryAndDisk).unwrap());
        }
        let statistics = store.statistics();
        assert_eq!((statistics.memory_bytes_used, statistics.disk_bytes_used), (240, 0));
        assert_eq!((value(&store, 1), store.statistics().memory_hits), (Some(1), 1));
        store.put(id(9), &Block::new(vec![9_u64; 10]), Level::Disk).unwrap();
        assert!(
            store.disk_bytes_used() > 0,
            "what is bound to no key goes where it always went"
        );
        store.remove_dataset(1).unwrap();
        assert_eq!((store.ids(), files(folder.path()).len()), (vec![], 3));
    }
    // Memory for two of the three.
    let store = store(folder.path(), 170);
    assert!((0..3).all(|partition| recall::<u64>(&store, partition)) && !recall::<u64>(&store, 3));
    assert_eq!(store.ids(), [id(0), id(1), id(2)]);
    for round in 0..2 {
        assert!(
            (0..3).all(|partition| value(&store, partition) == Some(partition)),
            "round {round}"
        );
    }
    assert_eq!(store.disk_bytes_used(), 0, "what leaves memory is there already");
    let MemoFigures {
        computations,
        computations_avoided,
        ..
    } = figures(&store);
    assert_eq!((computations, computations_avoided), (0, 3));
    assert!(store.memo().unwrap().bloom().unwrap().may_contain(&key(1)));
}

/// Also where the file cannot be removed: it would be found again and again.
#[test]
fn damage_is_met_once() {
    let folder = tempfile::tempdir().unwrap();
    store(folder.path(), 1000).recall(id(1), &key(1), Codec::of::<u64>(), Level::Disk);
    let store = store(folder.path(), 1000);
    recall::<u64>(&store, 1);
    store.remember(id(1), &Block::new(vec![1_u64]), Level::Disk).unwrap();
    let file = files(folder.path()).pop().unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, "damaged").unwrap();
    assert!(store.get(id(1), Codec::of::<u64>()).is_err() && !store.contains(id(1)));
    std::fs::write(&file, &bytes).unwrap();
    store.remove_dataset(2).unwrap();
    assert!(!recall::<u64>(&store, 1), "a key that failed is not counted on again");
    store.remember(id(1), &Block::new(vec![1_u64]), Level::Disk).unwrap();
    assert_eq!(value(&store, 1), Some(1));
    store.remove(id(1)).unwrap();
    assert!(recall::<u64>(&store, 1), "until it has been written anew");

    std::fs::write(&file, "damaged").unwrap();
    assert!(store.get(id(1), Codec::of::<u64>()).is_err());
    store.remove_dataset(1).unwrap();
    assert!(
        store.memo().unwrap().state().refused.is_empty(),
        "it is forgotten with its dataset"
    );
}

const ALONE: &str = "DISTDL_TEST_ALONE";

/// In a process of its own, as the limit of open files is that of all its threads.
#[test]
fn want_of_open_files_costs_no_remembered_block() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if std::env::var_os(ALONE).is_none() {
        let name = "memo::tests::want_of_open_files_costs_no_remembered_block";
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        let output = process.args(["--exact", name]).env(ALONE, "yes").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path(), 0);
    recall::<u64>(&store, 1);
    store.remember(id(1), &Block::new(vec![1_u64]), Level::Disk).unwrap();
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    setrlimit(Resource::Nofile, none).unwrap();
    let read = store.get(id(1), Codec::of::<u64>());
    setrlimit(Resource::Nofile, limit).unwrap();
    let error = read.unwrap_err();
    assert!(error.is_want_of_resources(), "{error}");
    assert_eq!((value(&store, 1), store.contains(id(1))), (Some(1), true));
}

#[derive(Clone, serde::Serialize)]
struct Unreadable(u64);

impl<'de> Deserialize<'de> for Unreadable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        u64::deserialize(deserializer)?;
        Err(D::Error::custom("it refuses"))
    }
}

#[test]
fn records_that_cannot_be_read_back_are_lost_and_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let store = store(folder.path(), 1000);
        recall::<Unreadable>(&store, 1);
        store
            .remember(id(1), &Block::new(vec![Unreadable(1)]), Level::Disk)
            .unwrap();
        let error = store.get(id(1), Codec::of::<Unreadable>()).err().unwrap();
        assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
        assert!(!store.contains(id(1)) && files(folder.path()).is_empty());
    }
}

#[test]
fn what_the_folder_does_not_take_is_kept_as_a_block_of_this_program() {
    let folder = tempfile::tempdir().unwrap();
    let memo = Memo::new(folder.path(), 100);
    memo.open().unwrap();
    let store = BlockStore::with_memo(StoreOptions::default(), Arc::new(memo)).unwrap();
    recall::<u64>(&store, 1);
    store
        .remember(id(1), &Block::new(vec![1_u64; 100]), Level::Disk)
        .unwrap();
    assert!(store.disk_bytes_used() > 0 && value(&store, 1) == Some(1));
    assert_eq!(figures(&store).blocks_not_kept, 1);
    // Nor does its own disk: then it is memory, or nothing.
    let options = StoreOptions {
        disk_bytes_max: 0,
        memory_bytes_max: 1000,
        folder: None,
    };
    let memo = Memo::new(folder.path(), 0);
    memo.open().unwrap();
    let store = BlockStore::with_memo(options, Arc::new(memo)).unwrap();
    recall::<u64>(&store, 1);
    assert!(
        store
            .remember(id(1), &Block::new(vec![1_u64; 100]), Level::Disk)
            .unwrap()
    );
    assert_eq!(value(&store, 1), Some(1));
    assert!(
        !store
            .remember(id(1), &Block::new(vec![1_u64; 200]), Level::Disk)
            .unwrap()
    );
    assert!(!store.contains(id(1)));
}
