//! Blocks on disk, one file each.
//!
//! Every tier makes a folder of its own, `distdl-blocks-<host>-<boot>-*`, within the folder it is given, holds a lock
//! on it while it lives and removes it when it is dropped. So processes may share the outer folder, files of others are
//! never touched, and what a killed process left behind is known by its lock being free: the next tier of that host
//! removes it, where the file system is one of several hosts only after a day. Other hosts leave it alone, as network
//! file systems do not show them who holds a lock on a folder.

mod outer;

pub use outer::temporary_folder;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::block::{Block, BlockId};
use crate::codec::{Codec, Source};
use crate::error::{Result, StorageError};
use crate::owner::{Kind, OwnFolder, Owner};
use crate::spill::{Spill, SpillQuota};
use crate::tier::Tier;
use crate::unpoisoned::Unpoisoned;

const NAME: &str = "disk";
const BLOCKS: Kind = Kind {
    prefix: "distdl-blocks-",
    suffix: "",
    other_boots_after: Duration::ZERO,
};

/// Keeps blocks as files of frames, and forgets them all when it is dropped.
///
/// A file has its name once it is written whole. It is not synced: nobody reads it after the machine has failed. A read
/// verifies the checksum, and reads plain records in place in a private mapping of the file: a block that is removed
/// lives on, and occupies its disk space, with those who read it.
#[derive(Debug)]
pub struct DiskTier {
    outer: PathBuf,
    folder: Mutex<Option<Arc<Folder>>>,
    files: Arc<LimitedFiles>,
}

/// The files and their limit.
#[derive(Debug)]
struct LimitedFiles {
    bytes_max: u64,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// Length of each block's file.
    bytes: BTreeMap<BlockId, u64>,
    bytes_used: u64,
    /// Room promised to writes under way, and taken by what is spilled.
    bytes_reserved: u64,
}

impl DiskTier {
    /// A tier of up to `bytes_max` bytes of files in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// The folder cannot be made or written to.
    pub fn open(folder: impl Into<PathBuf>, bytes_max: u64) -> Result<Self> {
        let tier = Self::lazy(folder.into(), bytes_max);
        tier.folder()?;
        Ok(tier)
    }

    /// A tier in the folder for temporary files (`TMPDIR`, else that of the system, or `/var/tmp` if that is in memory
    /// or takes no files), where nothing is made before the first block is put.
    pub fn temporary(bytes_max: u64) -> Self {
        Self::lazy(temporary_folder(), bytes_max)
    }

    /// Removes what killed processes of this host left behind in `folder`, or in that of [`DiskTier::temporary`].
    /// What cannot be removed stays, with a warning.
    pub fn remove_leftovers(folder: Option<&Path>) {
        let folder = folder.map_or_else(temporary_folder, Path::to_owned);
        Owner::this().remove_leftovers(&folder, BLOCKS);
    }

    fn lazy(outer: PathBuf, bytes_max: u64) -> Self {
        Self {
            outer,
            folder: Mutex::default(),
            files: Arc::new(LimitedFiles {
                bytes_max,
                files: Mutex::default(),
            }),
        }
    }

    fn folder(&self) -> Result<Arc<Folder>> {
        let mut folder = self.folder.lock().unpoisoned();
        if let Some(folder) = &*folder {
            return Ok(Arc::clone(folder));
        }
        let made = Arc::new(Folder::make(&self.outer)?);
        *folder = Some(Arc::clone(&made));
        Ok(made)
    }

    /// The folder, made anew if somebody has removed it: what was in it is lost, and nothing more.
    fn folder_to_write(&self) -> Result<Arc<Folder>> {
        let mut folder = self.folder.lock().unpoisoned();
        if folder
            .take_if(|folder| matches!(folder.path().try_exists(), Ok(false)))
            .is_some()
        {
            let mut files = self.files();
            files.bytes.clear();
            files.bytes_used = 0;
        }
        drop(folder);
        self.folder()
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock()
    }

    fn reserve(&self, id: BlockId, needed_bytes: u64) -> Result<()> {
        self.files
            .reserve(needed_bytes, |files| *files.bytes.get(&id).unwrap_or(&0))
    }

    fn settle(&self, id: BlockId, needed_bytes: u64, is_written: bool) {
        let mut files = self.files();
        files.bytes_reserved -= needed_bytes;
        if is_written {
            let replaced = files.bytes.insert(id, needed_bytes);
            files.bytes_used -= replaced.unwrap_or(0);
            files.bytes_used += needed_bytes;
        }
    }

    fn read(&self, id: BlockId, bytes: u64, codec: Codec) -> Result<Block> {
        let path = self.folder()?.path().join(id.file_name());
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => StorageError::corrupt(path.display(), "the file is gone"),
            _ => StorageError::io("read", &path, 0, error),
        };
        let file = File::open(&path).map_err(unreadable)?;
        let found = file.metadata().map_err(unreadable)?.len();
        if found != bytes {
            return Err(StorageError::corrupt(
                path.display(),
                format!("{found} bytes are there, {bytes} were written"),
            ));
        }
        let source = Source::map(&file).map_err(unreadable)?;
        codec.decode(source).map_err(|error| error.about(path.display()))
    }
}

impl Tier for DiskTier {
    fn name(&self) -> &str {
        NAME
    }

    fn put(&self, id: BlockId, block: &Block) -> Result<()> {
        let frame = block.codec().encode(block)?;
        let needed_bytes = frame.len() as u64;
        let folder = self.folder_to_write()?;
        self.reserve(id, needed_bytes)?;
        let written = folder.write(&id.file_name(), &frame);
        self.settle(id, needed_bytes, written.is_ok());
        written.map_err(|error| StorageError::io("write", folder.path(), needed_bytes, error))
    }

    fn get(&self, id: BlockId, codec: Codec) -> Result<Option<Block>> {
        let bytes = self.files().bytes.get(&id).copied();
        match bytes.map(|bytes| self.read(id, bytes, codec)).transpose() {
            // Removed since the index was asked.
            Err(StorageError::Corrupt { .. }) if !self.contains(id) => Ok(None),
            block => block,
        }
    }

    fn remove(&self, id: BlockId) -> Result<bool> {
        let mut files = self.files();
        let Some(bytes) = files.bytes.remove(&id) else {
            return Ok(false);
        };
        files.bytes_used -= bytes;
        drop(files);
        let path = self.folder()?.path().join(id.file_name());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StorageError::io("remove", &path, 0, error)),
            _ => Ok(true),
        }
    }

    fn bytes_of(&self, id: BlockId) -> Option<u64> {
        self.files().bytes.get(&id).copied()
    }

    fn contains(&self, id: BlockId) -> bool {
        self.files().bytes.contains_key(&id)
    }

    fn ids(&self) -> Vec<BlockId> {
        self.files().bytes.keys().copied().collect()
    }

    fn bytes_used(&self) -> u64 {
        self.files().bytes_used
    }

    fn bytes_max(&self) -> u64 {
        self.files.bytes_max
    }

    fn spill(&self) -> Result<Spill> {
        let folder = self.folder_to_write()?;
        let file = tempfile::tempfile_in(folder.path());
        let file = file.map_err(|error| StorageError::io("make a file in", folder.path(), 0, error))?;
        Ok(Spill::new(file, self.outer.clone(), Arc::clone(&self.files) as _))
    }

    fn abandon(&self) {
        let folder = self.folder.lock().unpoisoned();
        if let Some(folder) = &*folder {
            folder.0.remove_in_use();
        }
        // Never unlocked: nobody makes another folder, or takes its want for an error.
        std::mem::forget(folder);
    }
}

impl LimitedFiles {
    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unpoisoned()
    }

    /// Promises room for `needed_bytes` more, in place of what is `replaced`.
    fn reserve(&self, needed_bytes: u64, replaced: impl FnOnce(&Files) -> u64) -> Result<()> {
        let mut files = self.lock();
        let others_bytes = files.bytes_used - replaced(&files);
        let wanted = others_bytes
            .checked_add(files.bytes_reserved)
            .and_then(|bytes| bytes.checked_add(needed_bytes));
        if wanted.is_none_or(|bytes| bytes > self.bytes_max) {
            let (tier, bytes_max) = (NAME.to_owned(), self.bytes_max);
            return Err(StorageError::OverBudget {
                tier,
                needed_bytes,
                bytes_max,
            });
        }
        files.bytes_reserved += needed_bytes;
        Ok(())
    }
}

impl SpillQuota for LimitedFiles {
    fn reserve(&self, bytes: u64) -> Result<()> {
        LimitedFiles::reserve(self, bytes, |_| 0)
    }

    fn release(&self, bytes: u64) {
        self.lock().bytes_reserved -= bytes;
    }
}

/// The folder of one tier.
#[derive(Debug)]
struct Folder(OwnFolder);

impl Folder {
    fn make(outer: &Path) -> Result<Self> {
        let mut builder = tempfile::Builder::new();
        // Whoever may write there could change a block while it is read in place.
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o700));
        let made = fs::create_dir_all(outer).and_then(|()| OwnFolder::make(outer, BLOCKS, builder));
        made.map(Self).map_err(|error| StorageError::no_folder(outer, error))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file that has its name once it is whole.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(self.path())?;
        file.write_all(bytes)?;
        file.persist(self.path().join(name)).map_err(|error| error.error)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
