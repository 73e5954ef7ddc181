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
    /// The block of `id` with a pin on it, if it is in memory.
    ///
    /// # Errors
    /// As [`BlockStore::get`].
    pub fn pin(self: &Arc<Self>, id: BlockId, codec: Codec) -> Result<Option<(Block, Pin)>> {
        let Some(version) = self.index.lock().pin(id) else {
            return Ok(None);
        };
        let pin = Pin {
            store: Arc::clone(self),
            id,
            version,
        };
        Ok(self.get(id, codec)?.map(|block| (block, pin)))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.store.index.lock().unpin(self.id, self.version);
    }
}
