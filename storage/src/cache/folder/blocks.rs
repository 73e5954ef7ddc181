//! Computed blocks in a folder, named by the keys of their computations.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::Folder;
use crate::bloom::Digest;
use crate::cache::survey::counted;
use crate::error::{Result, StorageError};

/// Behind the bytes of a block: a hash of them that is keyed by the block's own key, so that a file is believed under
/// its own name alone.
const SEAL_BYTES: usize = 32;

fn seal(key: &Digest, bytes: &[u8]) -> Digest {
    *blake3::keyed_hash(key, bytes).as_bytes()
}

impl Folder {
    /// Whether there is a file of that name; marks it as used. Damage shows when it is read.
    pub(in crate::cache) fn has_block(&self, key: &Digest) -> bool {
        File::open(self.block_path(key)).is_ok_and(|file| {
            let _ = file.set_modified(SystemTime::now());
            true
        })
    }

    /// What the file of a block takes, in bytes.
    pub(in crate::cache) fn block_bytes(&self, key: &Digest) -> Option<u64> {
        fs::metadata(self.block_path(key)).ok().map(|found| found.len())
    }

    /// The bytes of a block, if they are here and are what was kept under this key.
    ///
    /// # Errors
    /// The system has no room for one more open file; nothing else.
    pub(in crate::cache) fn block(&self, key: &Digest) -> Result<Option<Vec<u8>>> {
        let path = self.block_path(key);
        let mut bytes = match self.read_block(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                let error = StorageError::io("read", &path, 0, error);
                if error.is_want_of_resources() {
                    return Err(error);
                }
                tracing::warn!("a computed block costs its computation: {error}");
                return Ok(None);
            }
        };
        let body = bytes.split_last_chunk::<SEAL_BYTES>();
        if body.is_none_or(|(body, found)| seal(key, body) != *found) {
            self.damaged(&path);
            return Ok(None);
        }
        self.counters.cache_bytes.add(bytes.len() as u64);
        bytes.truncate(bytes.len() - SEAL_BYTES);
        Ok(Some(bytes))
    }

    fn read_block(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = File::open(path)?;
        let _ = file.set_modified(SystemTime::now());
        let length = file.metadata()?.len();
        let mut bytes = Vec::new();
        if length > self.options.bytes_max {
            // Nothing as long was ever kept: what is read of it will be refused.
            return Ok(bytes);
        }
        bytes
            .try_reserve_exact(length as usize)
            .map_err(|_| io::ErrorKind::OutOfMemory)?;
        file.take(length).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Keeps the bytes of a block, in place of what is here under its key.
    ///
    /// # Errors
    /// As [`Folder::keep`].
    pub(in crate::cache) fn keep_block(&self, key: &Digest, mut bytes: Vec<u8>) -> Result<()> {
        bytes.extend_from_slice(&seal(key, &bytes));
        let (needed, bytes_max) = (counted(bytes.len() as u64), self.options.bytes_max);
        let path = self.block_path(key);
        if needed > bytes_max {
            // Before all others go to make room in vain.
            let tier = "folder of computed blocks".into();
            return Err(StorageError::OverBudget {
                tier,
                needed_bytes: needed,
                bytes_max,
            });
        }
        let _alone = self.lock_write()?;
        // Another process may have computed the same, and its file counts already.
        let before = fs::metadata(&path).map_or(0, |found| counted(found.len()));
        let added = needed.saturating_sub(before);
        self.evict_for(added, &BTreeSet::from([*key]))?;
        let written = self.write_file(&path, &bytes, SystemTime::now());
        written.map_err(|error| StorageError::io("write", &self.path, needed, error))?;
        self.counters.written_bytes.add(bytes.len() as u64);
        self.note(&[(*key, added)], None);
        Ok(())
    }

    /// Removes a block that nobody can use.
    pub(in crate::cache) fn discard_block(&self, key: &Digest) {
        self.damaged(&self.block_path(key));
    }

    fn block_path(&self, key: &Digest) -> PathBuf {
        self.path_of("blocks", key)
    }
}
