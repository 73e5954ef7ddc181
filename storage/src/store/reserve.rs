//! Working memory beside the blocks, within the same limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::BlockStore;
use super::index::State;
use crate::block::BlockId;
use crate::error::Result;
use crate::spill::Spill;

/// Memory of the store that is in use for something else than blocks. Given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    store: Arc<BlockStore>,
    bytes: u64,
}

/// What all reservations of a store take together. Changed with the index locked, so that blocks and reservations do
/// not take the same room; read without.
#[derive(Debug, Default)]
pub(super) struct Reserved(AtomicU64);

impl Reserved {
    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl BlockStore {
    /// An empty reservation, to grow as work needs memory.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation {
            store: Arc::clone(self),
            bytes: 0,
        }
    }

    /// What is in use as working memory, in bytes.
    pub fn reserved_bytes(&self) -> u64 {
        self.reserved.bytes()
    }

    /// A new file for working data that memory has no room for, within the limit for files.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn spill(&self) -> Result<Spill> {
        self.disk.spill()
    }

    /// Takes `bytes` if they are free or blocks can be evicted for them, which they are as long as they take more than
    /// half of the limit.
    fn take(&self, bytes: u64) -> bool {
        loop {
            let state = self.index.lock();
            let bytes_max = self.memory.bytes_max();
            let taken = self.memory.bytes_used() + self.reserved.bytes();
            if taken.checked_add(bytes).is_some_and(|taken| taken <= bytes_max) {
                self.reserved.0.fetch_add(bytes, Ordering::Relaxed);
                return true;
            }
            let Some(victim) = self.spare(&state, bytes) else {
                return false;
            };
            drop(state);
            if self.evict(victim).is_err() {
                return false;
            }
        }
    }

    /// A block that may be evicted for working memory, if evicting may help at all.
    fn spare(&self, state: &State, bytes: u64) -> Option<BlockId> {
        let bytes_max = self.memory.bytes_max();
        let within = self.reserved.bytes().checked_add(bytes)?.checked_add(bytes_max / 2)? <= bytes_max;
        within.then(|| state.victim(None, true))?
    }
}

impl Reservation {
    /// What it holds, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes `bytes` more; `false` if there is no room for them, and nothing has changed. Blocks of any
    /// dataset are evicted for them, down to half of the store's limit.
    #[must_use = "without room nothing was taken"]
    pub fn grow(&mut self, bytes: u64) -> bool {
        let grown = self.store.take(bytes);
        self.bytes += if grown { bytes } else { 0 };
        grown
    }

    /// Gives `bytes` back, or all that it holds.
    pub fn shrink(&mut self, bytes: u64) {
        let given = bytes.min(self.bytes);
        self.bytes -= given;
        let _state = self.store.index.lock();
        self.store.reserved.0.fetch_sub(given, Ordering::Relaxed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}
