//! Records with code of their own that runs when they are dropped.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::*;
use crate::testing::wait_until;

/// Asks the store what it has, as code of users may through what they have captured.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Asking {
    #[serde(skip)]
    store: Option<Arc<BlockStore>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(store) = &self.store {
            store.ids();
        }
    }
}

#[test]
fn the_last_copy_of_a_block_that_is_replaced_is_dropped_when_others_may_use_the_store() {
    let store = Arc::new(store(4).0);
    let replacing = std::thread::spawn(move || {
        for level in [Level::Memory, Level::Memory, Level::Disk] {
            let asking = Asking {
                store: Some(Arc::clone(&store)),
            };
            let block = Block::new(vec![asking]);
            assert!(store.put(id(1), &block, level).unwrap());
        }
        store.remove(id(1)).unwrap()
    });
    wait_until("the block is replaced", || replacing.is_finished());
    assert!(replacing.join().unwrap());
}
