//! Blocks in memory, shared with whoever reads them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::block::{Block, BlockId};
use crate::codec::Codec;
use crate::error::{Result, StorageError};
use crate::tier::Tier;

/// Keeps blocks in memory. A block that is removed lives on with those who read it.
///
/// The last copy of a block frees its records, which may be many: never while the lock is held.
#[derive(Debug)]
pub struct MemoryTier {
    bytes_max: u64,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: BTreeMap<BlockId, Block>,
    bytes_used: u64,
}

impl MemoryTier {
    /// An empty tier for up to `bytes_max` bytes, as [`Block::memory_bytes`] counts them.
    pub fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tier for MemoryTier {
    fn name(&self) -> &str {
        "memory"
    }

    fn put(&self, id: BlockId, block: &Block) -> Result<()> {
        let needed_bytes = block.memory_bytes();
        let mut kept = self.kept();
        let others_bytes = kept.bytes_used - kept.blocks.get(&id).map_or(0, Block::memory_bytes);
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
        let replaced = kept.blocks.insert(id, block.clone());
        kept.bytes_used = bytes_used;
        drop(kept);
        drop(replaced);
        Ok(())
    }

    fn get(&self, id: BlockId, codec: Codec) -> Result<Option<Block>> {
        let block = self.kept().blocks.get(&id).cloned();
        block.map(|block| block.check_type(codec).map(|()| block)).transpose()
    }

    fn remove(&self, id: BlockId) -> Result<bool> {
        let mut kept = self.kept();
        let removed = kept.blocks.remove(&id);
        kept.bytes_used -= removed.as_ref().map_or(0, Block::memory_bytes);
        drop(kept);
        Ok(removed.is_some())
    }

    fn bytes_of(&self, id: BlockId) -> Option<u64> {
        self.kept().blocks.get(&id).map(Block::memory_bytes)
    }

    fn contains(&self, id: BlockId) -> bool {
        self.kept().blocks.contains_key(&id)
    }

    fn ids(&self) -> Vec<BlockId> {
        self.kept().blocks.keys().copied().collect()
    }

    fn bytes_used(&self) -> u64 {
        self.kept().bytes_used
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
