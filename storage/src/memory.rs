//! Blocks in memory, shared with whoever reads them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::block::{Block, BlockId};
use crate::codec::Codec;
use crate::error::{Result, StorageError};
use crate::tier::Tier;
use crate::unpoisoned::Unpoisoned;

/// Keeps blocks in memory. A block that is removed lives on with those who read it.
///
/// The last copy of a block frees its records, which may be many: never while the lock is held.
#[derive(Debug)]
pub struct MemoryTier {
    bytes_max: u64,
    state: Mutex<Blocks>,
}

#[derive(Debug, Default)]
struct Blocks {
    blocks: BTreeMap<BlockId, Block>,
    bytes_used: u64,
}

impl MemoryTier {
    /// An empty tier for up to `bytes_max` bytes, as [`Block::memory_bytes`] counts them.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Blocks> {
        self.state.lock().unpoisoned()
    }
}

impl Tier for MemoryTier {
    fn name(&self) -> &str {
        "memory"
    }

    fn put(&self, id: BlockId, block: &Block) -> Result<()> {
        let needed_bytes = block.memory_bytes();
        let mut state = self.state();
        let others_bytes = state.bytes_used - state.blocks.get(&id).map_or(0, Block::memory_bytes);
        let bytes_used = others_bytes
            .checked_add(needed_bytes)
            .filter(|bytes| *bytes <= self.bytes_max);
        let Some(bytes_used) = bytes_used else {
            let (tier, bytes_max) = (self.name().to_owned(), self.bytes_max);
            return Err(StorageError::OverBudget {
                tier,
                needed_bytes,
                bytes_max,
            });
        };
        let replaced = state.blocks.insert(id, block.clone());
        state.bytes_used = bytes_used;
        drop(state);
        drop(replaced);
        Ok(())
    }

    fn get(&self, id: BlockId, codec: Codec) -> Result<Option<Block>> {
        let block = self.state().blocks.get(&id).cloned();
        block.map(|block| block.check_type(codec).map(|()| block)).transpose()
    }

    fn remove(&self, id: BlockId) -> Result<bool> {
        let mut state = self.state();
        let removed = state.blocks.remove(&id);
        state.bytes_used -= removed.as_ref().map_or(0, Block::memory_bytes);
        drop(state);
        Ok(removed.is_some())
    }

    fn bytes_of(&self, id: BlockId) -> Option<u64> {
        self.state().blocks.get(&id).map(Block::memory_bytes)
    }

    fn contains(&self, id: BlockId) -> bool {
        self.state().blocks.contains_key(&id)
    }

    fn ids(&self) -> Vec<BlockId> {
        self.state().blocks.keys().copied().collect()
    }

    fn bytes_used(&self) -> u64 {
        self.state().bytes_used
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        crate::testing::conformance(&MemoryTier::new(1 << 20));
    }
}
