//! Records with code of their own that runs when they are dropped.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::*;
use crate::testing::wait_until;

/// Asks for its own block, and puts another in its place where there is none, as code of users may through what it has
/// captured.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Asking {
    #[serde(skip)]
    store: Option<Arc<BlockStore>>,
}

impl Asking {
    fn block(store: &Arc<BlockStore>) -> Block {
        let store = Some(Arc::clone(store));
        Block::new(vec![Self { store }])
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(store) = self.store.take() else { return };
        store.ids();
        let codec = Block::new(vec![Self::default()]).codec();
        if store.get(id(1), codec).unwrap().is_none() {
            store
                .put(id(1), &Block::new(vec![Self::default()]), Level::Disk)
                .unwrap();
        }
    }
}

/// A store on a disk that keeps bytes, and so no copies.
fn on_disk() -> (tempfile::TempDir, Arc<BlockStore>) {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        memory_bytes_max: 1 << 10,
        disk_bytes_max: 1 << 20,
        folder: Some(folder.path().to_owned()),
    };
    (folder, Arc::new(BlockStore::new(options).unwrap()))
}

/// Runs what would wait for ever if a block were dropped while its index or a claim is held.
fn ends(what: &str, run: impl FnOnce() + Send + 'static) {
    let running = std::thread::spawn(run);
    wait_until(what, || running.is_finished());
    running.join().unwrap();
}

#[test]
fn the_last_copy_of_a_block_that_is_replaced_is_dropped_when_others_may_use_the_store() {
    let (_folder, store) = on_disk();
    ends("the block is replaced", move || {
        for level in [Level::Memory, Level::Memory, Level::Disk] {
            assert!(store.put(id(1), &Asking::block(&store), level).unwrap());
        }
        assert!(store.remove(id(1)).unwrap());
    });
}

#[test]
fn the_last_copy_of_a_block_that_is_removed_is_dropped_when_it_may_be_put_again() {
    let (_folder, store) = on_disk();
    ends("the block is removed", move || {
        assert!(store.put(id(1), &Asking::block(&store), Level::Memory).unwrap());
        assert!(store.remove(id(1)).unwrap());
        assert!(store.contains(id(1)), "by what is run when it is dropped");
    });
}

#[test]
fn the_last_copy_of_a_block_that_is_evicted_is_dropped_when_it_may_be_read_or_put_again() {
    for level in [Level::Memory, Level::MemoryAndDisk] {
        let (_folder, store) = on_disk();
        ends("the block is evicted", move || {
            assert!(store.put(id(1), &Asking::block(&store), level).unwrap());
            // All of memory is for this one, for as long as it is put.
            let wide = Block::new(vec![0_u8; 1 << 10]);
            assert!(store.put(id(2), &wide, Level::Memory).unwrap());
            assert!(store.statistics().evictions > 0);
            assert!(
                store.contains(id(1)),
                "or what is run when it is dropped has put it again"
            );
        });
    }
}
