//! Computed blocks that outlive the program: a folder of its own with the locks, journal, budget and Bloom filter of
//! the cache, for bytes under the keys of their computations.

use std::sync::Arc;

use super::folder::Folder;
use super::options::CacheOptions;
use crate::bloom::{Bloom, Digest};
use crate::error::Result;
use crate::figures::Counters;

#[derive(Debug)]
pub(crate) struct Blocks {
    folder: Folder,
    counters: Arc<Counters>,
}

impl Blocks {
    /// # Errors
    /// The folder cannot be made or written to.
    pub(crate) fn open(options: &CacheOptions, counters: &Arc<Counters>) -> Result<Self> {
        Ok(Self {
            folder: Folder::open(options, counters)?,
            counters: Arc::clone(counters),
        })
    }

    /// The filter of all keys that are here.
    pub(crate) fn bloom(&self) -> Bloom {
        self.folder.bloom()
    }

    /// Learns what other processes have added.
    pub(crate) fn catch_up(&self) {
        self.folder.catch_up();
    }

    /// Whether a block seems to be here; the filter is asked before the disk.
    pub(crate) fn has(&self, key: &Digest) -> bool {
        if !self.folder.may_have(key) {
            self.counters.bloom_absent.add(1);
            return false;
        }
        let has = self.folder.has_block(key);
        self.counters.bloom_false_positives.add(u64::from(!has));
        has
    }

    /// What is kept under a key takes, in bytes.
    pub(crate) fn bytes_of(&self, key: &Digest) -> Option<u64> {
        self.folder.block_bytes(key)
    }

    /// The bytes that were kept under a key, whole and unchanged.
    ///
    /// # Errors
    /// [Want of resources](crate::StorageError::is_want_of_resources), after which they may well be read.
    pub(crate) fn read(&self, key: &Digest) -> Result<Option<Vec<u8>>> {
        self.folder.block(key)
    }

    /// Keeps bytes under a key.
    ///
    /// # Errors
    /// No room, no permission, a full disk, or another process that writes for too long.
    pub(crate) fn keep(&self, key: &Digest, bytes: Vec<u8>) -> Result<()> {
        self.folder.keep_block(key, bytes)
    }

    /// Removes bytes that cannot be read as what they should be.
    pub(crate) fn discard(&self, key: &Digest) {
        self.folder.discard_block(key);
    }
}

#[cfg(test)]
mod tests;
