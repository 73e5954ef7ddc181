//! One level of the storage hierarchy.

use std::fmt;

use crate::block::{Block, BlockId};
use crate::codec::Codec;
use crate::error::{Result, StorageError};
use crate::spill::Spill;

/// A place that keeps blocks, up to a limit in bytes. It evicts nothing by itself: what does not fit is refused.
///
/// Calls for different blocks may overlap. Calls that write or remove one block must come one at a time, which the
/// [`BlockStore`](crate::BlockStore) sees to; reads may come at any time.
///
/// Every implementation passes [`testing::conformance`](crate::testing::conformance).
pub trait Tier: fmt::Debug + Send + Sync {
    /// What errors call this tier.
    fn name(&self) -> &str;

    /// Keeps `block`, in place of what was kept under `id` before.
    ///
    /// # Errors
    /// The block does not fit: what was kept under `id` is still there then. Or it cannot be written: under `id` is the
    /// old block then, or the new one, or none, but never a torn one.
    fn put(&self, id: BlockId, block: &Block) -> Result<()>;

    /// The block of `id`, of the record type of `codec`; `None` if none is kept.
    ///
    /// # Errors
    /// The block cannot be read, is corrupt or holds records of another type.
    fn get(&self, id: BlockId, codec: Codec) -> Result<Option<Block>>;

    /// Forgets a block. Returns whether there was one.
    ///
    /// # Errors
    /// Its place cannot be freed. It is forgotten all the same.
    fn remove(&self, id: BlockId) -> Result<bool>;

    /// What the block of `id` takes, in bytes; `None` if none is kept.
    fn bytes_of(&self, id: BlockId) -> Option<u64>;

    /// Whether a block of `id` is kept.
    fn contains(&self, id: BlockId) -> bool;

    /// All blocks, sorted.
    fn ids(&self) -> Vec<BlockId>;

    /// What the blocks take, in bytes. At most [`Tier::bytes_max`].
    fn bytes_used(&self) -> u64;

    /// The limit, in bytes.
    fn bytes_max(&self) -> u64;

    /// A new file for working data beside the blocks, within the same limit.
    ///
    /// # Errors
    /// It cannot be made. A tier that has no files has none for this either.
    fn spill(&self) -> Result<Spill> {
        Err(StorageError::NoFiles {
            tier: self.name().to_owned(),
        })
    }

    /// Removes what would stay behind, as this process ends at once: whoever calls this tier afterwards waits for that
    /// end.
    fn abandon(&self) {}
}
