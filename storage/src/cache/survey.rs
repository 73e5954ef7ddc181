//! What lies in the folder of a cache.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::bloom::Digest;
use crate::chunk::list_key;
use crate::error::{Result, StorageError};

/// File systems give room in units of this length.
const UNIT_BYTES: u64 = 4096;

/// What a file of that length counts for: a folder of many short ones takes far more than their lengths.
pub(super) fn counted(bytes: u64) -> u64 {
    bytes.div_ceil(UNIT_BYTES).saturating_mul(UNIT_BYTES)
}

/// All chunks, lists and blocks of a folder, as they are found. What has no name of theirs is not touched.
#[derive(Debug, Default)]
pub(super) struct Survey(Vec<Found>);

#[derive(Debug)]
struct Found {
    path: PathBuf,
    key: Digest,
    /// Whether it is a chunk or block, and no list.
    holds_data: bool,
    bytes: u64,
    used: SystemTime,
}

impl Survey {
    /// # Errors
    /// Something cannot be looked at: what was seen is not all then, and must not be taken for it.
    pub(super) fn of(cache: &Path) -> Result<Self> {
        let mut found = Vec::new();
        for kind in ["chunks", "blocks"] {
            for (folder, name, path) in below(&cache.join(kind))? {
                if let Ok(key) = blake3::Hash::from_hex(format!("{folder}{name}")) {
                    found.extend(Found::at(path, *key.as_bytes(), true)?);
                }
            }
        }
        for (folder, name, path) in below(&cache.join("objects"))? {
            if folder.len() == 64 && name.split('-').count() == 3 {
                found.extend(Found::at(path, list_key(&folder, &name), false)?);
            }
        }
        Ok(Self(found))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|found| found.bytes).sum()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Digest> {
        self.0.iter().map(|found| &found.key)
    }

    /// Those of them that are no chunks.
    pub(super) fn lists(&self) -> impl Iterator<Item = &Digest> {
        self.0.iter().filter(|found| !found.holds_data).map(|found| &found.key)
    }

    /// Removes what was used least recently until no more than `bytes_max` bytes are left, and returns the number of
    /// chunks and blocks among it. A file that cannot be removed still counts. Readers who have a file open keep it.
    pub(super) fn evict_down_to(&mut self, bytes_max: u64, spared: &BTreeSet<Digest>) -> u64 {
        self.0
            .sort_by(|left, right| (left.used, &left.key).cmp(&(right.used, &right.key)));
        let (mut bytes, mut chunks) = (self.bytes(), 0);
        self.0.retain(|found| {
            let goes = bytes > bytes_max && !spared.contains(&found.key) && fs::remove_file(&found.path).is_ok();
            if goes {
                bytes -= found.bytes;
                chunks += u64::from(found.holds_data);
                if let Some(object) = found.path.parent().filter(|_| !found.holds_data) {
                    // The last list of an object leaves its folder empty; no other folder can be removed.
                    let _ = fs::remove_dir(object);
                }
            }
            !goes
        });
        chunks
    }
}

impl Found {
    /// Nothing if it is no file, or has gone.
    fn at(path: PathBuf, key: Digest, holds_data: bool) -> Result<Option<Self>> {
        let found = there(path.metadata(), &path)?.filter(fs::Metadata::is_file);
        Ok(found.map(|found| Self {
            path,
            key,
            holds_data,
            bytes: counted(found.len()),
            used: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        }))
    }
}

/// Removes files that a killed process had not finished. Nobody may be writing.
pub(super) fn remove_unfinished(cache: &Path) {
    for path in files(&cache.join("unfinished")) {
        let _ = fs::remove_file(path);
    }
}

/// The files and folders in a folder; none if it cannot be read.
pub(super) fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries(folder).unwrap_or_default().into_iter()
}

/// The files and folders in a folder; none if it is not there, or none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in there(fs::read_dir(folder), folder)?.into_iter().flatten() {
        paths.extend(there(entry, folder)?.map(|entry| entry.path()));
    }
    Ok(paths)
}

/// The files in the folders of a folder, each with the name of its folder and its own.
fn below(folder: &Path) -> Result<Vec<(String, String, PathBuf)>> {
    let mut files = Vec::new();
    for folder in entries(folder)? {
        files.extend(entries(&folder)?.into_iter().filter_map(|path| {
            let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
            Some((name(path.parent()?)?, name(&path)?, path))
        }));
    }
    Ok(files)
}

fn there<T>(looked: io::Result<T>, path: &Path) -> Result<Option<T>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        // What another user keeps to himself cannot be read either, and is of no use here.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(StorageError::io("look through", path, 0, error)),
    }
}
