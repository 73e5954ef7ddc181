//! What a store is told, and what it tells.

use std::path::PathBuf;

/// Limits of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreOptions {
    /// Limit for blocks and working data in memory, in bytes. Default 1 GiB.
    pub memory_bytes_max: u64,
    /// Limit for files of blocks and working data, in bytes. Default 64 GiB.
    pub disk_bytes_max: u64,
    /// Where to put the files: a new folder within this one, which is removed with the store. By default within the
    /// system's folder for temporary files, and only once a block goes to disk.
    pub folder: Option<PathBuf>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: 1 << 30,
            disk_bytes_max: 64 << 30,
            folder: None,
        }
    }
}

/// What a store did since it was made, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatistics {
    /// Gets answered from memory.
    pub memory_hits: u64,
    /// What the blocks of those take, in bytes. None of them was copied.
    pub memory_bytes_read: u64,
    /// Gets answered from disk.
    pub disk_hits: u64,
    /// What the files of those take, in bytes.
    pub disk_bytes_read: u64,
    /// Gets of blocks that were not kept.
    pub misses: u64,
    /// Blocks that left memory to make room.
    pub evictions: u64,
    /// Of those, blocks that were written to disk first.
    pub demotions: u64,
    /// Blocks that came back from disk to memory.
    pub promotions: u64,
    /// Blocks on disk that were found corrupt, unreadable or gone, and were given up.
    pub corrupt_blocks: u64,
    /// What the blocks in memory take, in bytes.
    pub memory_bytes_used: u64,
    /// What the files of blocks take, in bytes.
    pub disk_bytes_used: u64,
}
