//! Blocks that stay in memory because somebody reads them again and again.

use std::sync::Arc;

use super::BlockStore;
use crate::block::{Block, BlockId};
use crate::codec::Codec;
use crate::error::Result;

/// Keeps a block in memory while it lives. A block that is removed or replaced is pinned no longer.
#[derive(Debug)]
pub struct Pin {
    store: Arc<BlockStore>,
    id: BlockId,
    version: u64,
}

impl BlockStore {
    /// The block of `id` with a pin on it, if it is in memory. The statistics count no hit: whoever pins a block reads
    /// it with [`BlockStore::get`] as well, or will.
    ///
    /// # Errors
    /// [`StorageError::WrongType`](crate::StorageError::WrongType) as [`BlockStore::get`].
    pub fn pin(self: &Arc<Self>, id: BlockId, codec: Codec) -> Result<Option<(Block, Pin)>> {
        let mut state = self.index.lock();
        let Some(version) = state.pin(id) else {
            return Ok(None);
        };
        let block = self.memory.get(id, codec);
        drop(state);
        let pin = Pin {
            store: Arc::clone(self),
            id,
            version,
        };
        Ok(block?.map(|block| (block, pin)))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.index.lock().unpin(self.id, self.version);
    }
}
