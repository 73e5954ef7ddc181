//! What lies in the folder of a cache.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::bloom::Digest;
use crate::chunk::list_key;

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
    pub(super) fn of(cache: &Path) -> Self {
        let data = below(&cache.join("chunks")).chain(below(&cache.join("blocks")));
        let data = data.filter_map(|(folder, name, path)| {
            let key = blake3::Hash::from_hex(format!("{folder}{name}")).ok()?;
            Found::at(path, *key.as_bytes(), true)
        });
        let lists = below(&cache.join("objects")).filter_map(|(folder, name, path)| {
            let is_ours = folder.len() == 64 && name.split('-').count() == 3;
            is_ours
                .then(|| Found::at(path, list_key(&folder, &name), false))
                .flatten()
        });
        Self(data.chain(lists).collect())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().map(|found| found.bytes).sum()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Digest> {
        self.0.iter().map(|found| &found.key)
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
            }
            !goes
        });
        chunks
    }
}

impl Found {
    fn at(path: PathBuf, key: Digest, holds_data: bool) -> Option<Self> {
        let found = path.metadata().ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            path,
            key,
            holds_data,
            bytes: found.len(),
            used: found.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        })
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
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path())
}

/// The files in the folders of a folder, each with the name of its folder and its own.
fn below(folder: &Path) -> impl Iterator<Item = (String, String, PathBuf)> + use<> {
    files(folder).flat_map(|folder| {
        files(&folder).filter_map(|path| {
            let name = |path: &Path| Some(path.file_name()?.to_str()?.to_owned());
            Some((name(path.parent()?)?, name(&path)?, path))
        })
    })
}
