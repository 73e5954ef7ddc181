//! The cache on disk.
//!
//! - `chunks/<2 digits>/<62 digits>`: the bytes of a chunk, named by their hash
//! - `objects/<hash of the URL>/<version>-<bytes>-<index>`: which chunks a segment of an object consists of
//! - `objects/<hash of the URL>/<version>-<bytes>-grown`: which shorter version this one has grown from
//! - `blocks/<2 digits>/<62 digits>`: a computed block, named by the key of its computation
//! - `unfinished/`: files that have no name yet
//! - `journal`, `users`, `locks/`: how processes that share the folder learn of each other
//!
//! A file gets its name when it is whole, and is not believed all the same: whatever is read is compared with its hash,
//! and what fails is removed and fetched again. So nothing is synced, and the folder may be deleted or damaged at any
//! time. Files are written, and removed to make room, by one process at a time, which holds the lock `locks/write`;
//! readers hold no lock.

mod blocks;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};

use super::journal::Journal;
use super::lock;
use super::options::CacheOptions;
use super::survey::{self, Survey, counted};
use crate::bloom::{Bloom, Digest};
use crate::chunk::{self, Chunk, ChunkList, LIST_BYTES_MAX, SEGMENT_BYTES, Segment, Version};
use crate::error::{Result, StorageError};
use crate::figures::Counters;
use crate::unpoisoned::Unpoisoned;

/// Share of absent keys that the Bloom filter says "maybe" of.
const RATE_MAX: f64 = 0.01;

/// Room for keys in the Bloom filter, one for so many bytes of the cache.
const BYTES_A_KEY: u64 = 128 << 10;

/// Locks that fetches are spread over.
const FETCH_LOCKS: u64 = 1024;

#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    options: CacheOptions,
    counters: Arc<Counters>,
    state: Mutex<State>,
    /// Held by whichever thread of this process writes, before `locks/write`. Whether that was waited for in vain.
    writing: Mutex<bool>,
    /// Locks of fetches that were waited for in vain, by number.
    hung: Mutex<BTreeSet<u64>>,
    /// Held, shared, by every process that uses the folder.
    _users: File,
    /// The disk is full once so many bytes more are written.
    #[cfg(test)]
    pub(super) disk_bytes_left: std::sync::atomic::AtomicU64,
}

#[derive(Debug)]
struct State {
    bloom: Bloom,
    /// Whether all that is in the folder is in the filter and counted, as far as others have written it down.
    is_surveyed: bool,
    bytes_used: u64,
    journal: Journal,
    /// The filter of what peers may ask for, and how often it has changed.
    holdings: (u64, Bloom),
}

impl Folder {
    pub(super) fn open(options: &CacheOptions, counters: &Arc<Counters>) -> Result<Self> {
        let path = std::path::absolute(&options.folder).unwrap_or_else(|_| options.folder.clone());
        let unusable = |error| StorageError::io("use the cache folder", &path, 0, error);
        fs::create_dir_all(path.join("unfinished")).map_err(unusable)?;
        tempfile::tempfile_in(path.join("unfinished")).map_err(unusable)?;
        let users = lock::open(&path.join("users")).map_err(unusable)?;
        if users.try_lock().is_ok() {
            Journal::clear(&path.join("journal"));
            survey::remove_unfinished(&path);
            let _ = users.unlock();
        }
        // Another process may be doing that just now. Whoever uses the folder without this has its journal cleared.
        lock::lock_shared(&users, options.wait_max).map_err(unusable)?;
        // Before the survey: what comes meanwhile is in the survey or in the news.
        let journal = Journal::at_end(&path.join("journal"));
        let survey = Survey::of(&path).inspect_err(|error| {
            tracing::warn!("nothing is added to the cache until all that is in it can be seen: {error}");
        });
        let is_surveyed = survey.is_ok();
        let survey = survey.unwrap_or_default();
        let state = State {
            bloom: filter(survey.keys(), options.bytes_max / BYTES_A_KEY),
            is_surveyed,
            holdings: (1, filter(survey.lists(), options.bytes_max / SEGMENT_BYTES)),
            bytes_used: survey.bytes(),
            journal,
        };
        Ok(Self {
            path,
            options: options.clone(),
            counters: Arc::clone(counters),
            state: Mutex::new(state),
            writing: Mutex::default(),
            hung: Mutex::default(),
            _users: users,
            #[cfg(test)]
            disk_bytes_left: u64::MAX.into(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    /// Learns what other processes have added.
    pub(super) fn catch_up(&self) {
        let state = &mut *self.state();
        let news = state.journal.news();
        news.keys.iter().for_each(|key| state.bloom.insert(key));
        state.is_surveyed &= !news.incomplete;
        state.bytes_used = state.bytes_used.saturating_add(news.bytes);
    }

    pub(super) fn holdings(&self) -> (u64, Bloom) {
        self.state().holdings.clone()
    }

    /// The filter of all that is here.
    pub(super) fn bloom(&self) -> Bloom {
        self.state().bloom.clone()
    }

    #[cfg(test)]
    pub(super) fn set_bloom(&self, bloom: Bloom) {
        self.state().bloom = bloom;
    }

    #[cfg(test)]
    pub(super) fn set_wait_max(&mut self, wait_max: Duration) {
        self.options.wait_max = wait_max;
    }

    #[cfg(test)]
    pub(super) fn bytes_used(&self) -> u64 {
        self.state().bytes_used
    }

    /// Whether a segment or chunk may be here. `false` is for sure, but for what others are adding right now.
    pub(super) fn may_have(&self, key: &Digest) -> bool {
        let state = self.state();
        !state.is_surveyed || state.bloom.may_contain(key)
    }

    /// The lock under which a segment is fetched, so that one process does it. A process that is stopped as it fetches
    /// is waited for once, and then only asked for: what it keeps from being written is fetched for every range of it.
    pub(super) fn lock_fetch(&self, segment: &Segment) -> Option<File> {
        let number = u16::from_le_bytes([segment.key()[0], segment.key()[1]]);
        let number = u64::from(number) % FETCH_LOCKS;
        let hung = || self.hung.lock().unpoisoned();
        let wait_max = match hung().contains(&number) {
            true => Duration::ZERO,
            false => self.options.wait_max,
        };
        let held = lock::lock_exclusive(&self.path.join(format!("locks/fetch-{number}")), wait_max);
        match &held {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => hung().insert(number),
            _ => hung().remove(&number),
        };
        held.ok()
    }

    /// The lock under which an object that has grown is compared.
    pub(super) fn lock_growth(&self) -> Option<File> {
        lock::lock_exclusive(&self.path.join("locks/growth"), self.options.wait_max).ok()
    }

    /// Which chunks a segment consists of, if that is known.
    pub(super) fn list(&self, segment: &Segment) -> Option<ChunkList> {
        let path = self.list_path(segment);
        let bytes = self.read_file(&path, LIST_BYTES_MAX)?;
        let list = ChunkList::decode(&bytes).filter(|list| list.segment == *segment);
        if list.is_none() {
            self.damaged(&path);
        }
        list
    }

    /// The part `range` of a segment, if all of it is here.
    pub(super) fn held(&self, segment: &Segment, range: &Range<u64>) -> Option<Bytes> {
        let list = self.list(segment)?;
        let mut parts = Vec::new();
        for chunk in list.within(range) {
            let bytes = self.chunk(chunk)?;
            let within =
                |position: u64| (position.clamp(chunk.range().start, chunk.range().end) - chunk.offset) as usize;
            parts.push(bytes.slice(within(range.start)..within(range.end)));
        }
        Some(match <[Bytes; 1]>::try_from(parts) {
            Ok([only]) => only,
            Err(parts) => joined(&parts),
        })
    }

    fn chunk(&self, chunk: &Chunk) -> Option<Bytes> {
        let path = self.chunk_path(&chunk.digest);
        let bytes = self.read_file(&path, u64::from(chunk.length))?;
        match chunk.is(&bytes) {
            true => Some(bytes.into()),
            false => {
                self.damaged(&path);
                None
            }
        }
    }

    /// A whole file, which now is the most recently used. One that is longer comes with a byte too many.
    fn read_file(&self, path: &Path, bytes_max: u64) -> Option<Vec<u8>> {
        let mut bytes = Vec::with_capacity(bytes_max as usize + 1);
        let read = File::open(path).and_then(|file| {
            // Without it the order of eviction is a little worse.
            let _ = file.set_modified(SystemTime::now());
            file.take(bytes_max + 1).read_to_end(&mut bytes)
        });
        match read {
            Ok(_) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot read from the cache, which costs a fetch");
                None
            }
        }
    }

    fn damaged(&self, path: &Path) {
        self.counters.chunks_damaged.add(1);
        tracing::warn!(path = %path.display(), "a file of the cache is damaged, which costs a fetch or a computation");
        // If it stays it is found damaged again.
        let _ = fs::remove_file(path);
    }

    /// Keeps a segment: which chunks it consists of, and those that are not there yet.
    ///
    /// # Errors
    /// No room, no permission, a full disk, or another process that writes for too long. Nothing is kept then that
    /// could be taken for whole.
    pub(super) fn keep(&self, list: &ChunkList, bytes: &Bytes) -> Result<()> {
        let _alone = self.lock_write()?;
        // A list counts as older than its chunks, so that it goes before them: without one of them it is of no use.
        let begun = SystemTime::now();
        let (encoded, path) = (chunk::encode(list)?, self.list_path(&list.segment));
        let bytes_of = |chunk: &Chunk| {
            let start = (chunk.offset - list.segment.range().start) as usize;
            &bytes[start..start + chunk.length as usize]
        };
        let spared = list.chunks.iter().map(|chunk| chunk.digest).collect();
        let missing = list.chunks.iter().filter(|chunk| !self.has_chunk(chunk));
        let missing: BTreeSet<(Digest, u32)> = missing.map(|chunk| (chunk.digest, chunk.length)).collect();
        let list_bytes = counted(encoded.len() as u64);
        let needed = missing.iter().map(|(_, length)| counted((*length).into())).sum::<u64>() + list_bytes;
        self.evict_for(needed, &spared)?;
        let mut added = Vec::new();
        let written = (|| {
            for chunk in list.chunks.iter().filter(|chunk| !self.has_chunk(chunk)) {
                self.write_file(&self.chunk_path(&chunk.digest), bytes_of(chunk), SystemTime::now())?;
                added.push((chunk.digest, counted(chunk.length.into())));
            }
            self.write_file(&path, &encoded, begun)?;
            added.push((list.segment.key(), list_bytes));
            Ok(())
        })();
        self.note(&added, written.is_ok().then(|| list.segment.key()));
        written.map_err(|error| StorageError::io("write", &self.path, needed, error))
    }

    /// The right to write, with all known that others have written. A process that is stopped as it writes is waited
    /// for once, and then only asked for: else each that reads would wait for it, one after another, at each segment.
    fn lock_write(&self) -> Result<(MutexGuard<'_, bool>, File)> {
        let mut thread = self.writing.lock().unpoisoned();
        let path = self.path.join("locks/write");
        let wait_max = if *thread { Duration::ZERO } else { self.options.wait_max };
        let process = lock::lock_exclusive(&path, wait_max);
        *thread = matches!(&process, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        let process = process.map_err(|error| StorageError::io("lock", &path, 0, error))?;
        self.catch_up();
        Ok((thread, process))
    }

    /// Notes what was written, and what peers may ask for from now on.
    fn note(&self, files: &[(Digest, u64)], holds: Option<Digest>) {
        let state = &mut *self.state();
        files.iter().for_each(|(key, _)| state.bloom.insert(key));
        state.bytes_used += files.iter().map(|(_, bytes)| bytes).sum::<u64>();
        state.journal.append(files);
        if let Some(key) = holds {
            state.holdings.0 += 1;
            state.holdings.1.insert(&key);
        }
    }

    /// Keeps which version another one has grown from. Where it cannot be kept it is found out again.
    pub(super) fn keep_grown(&self, version: &Version, shorter: &Version) {
        let Ok(_alone) = self.lock_write() else { return };
        let Ok(encoded) = chunk::encode(shorter) else { return };
        let bytes = counted(encoded.len() as u64);
        let written = self.evict_for(bytes, &BTreeSet::new()).and_then(|()| {
            let written = self.write_file(&self.grown_path(version), &encoded, SystemTime::now());
            written.map_err(|error| StorageError::io("write", &self.path, bytes, error))
        });
        if written.is_ok() {
            self.note(&[(version.grown_key(), bytes)], Some(version.grown_key()));
        }
    }

    /// Which version another one has grown from, if that is known.
    pub(super) fn grown_from(&self, version: &Version) -> Option<Version> {
        if !self.may_have(&version.grown_key()) {
            return None;
        }
        let path = self.grown_path(version);
        let bytes = self.read_file(&path, LIST_BYTES_MAX)?;
        let shorter = chunk::decode(&bytes).filter(|shorter: &Version| shorter.is_before(version));
        if shorter.is_none() {
            self.damaged(&path);
        }
        shorter
    }

    /// Whether a chunk's file is there, by its length; marks it as used.
    fn has_chunk(&self, chunk: &Chunk) -> bool {
        if !self.may_have(&chunk.digest) {
            return false;
        }
        let found = File::open(self.chunk_path(&chunk.digest));
        let length = found.and_then(|file| {
            let _ = file.set_modified(SystemTime::now());
            Ok(file.metadata()?.len())
        });
        length.is_ok_and(|length| length == u64::from(chunk.length))
    }

    /// Sees to it that `needed` more bytes fit, without removing what is `spared`.
    fn evict_for(&self, needed: u64, spared: &BTreeSet<Digest>) -> Result<()> {
        let bytes_max = self.options.bytes_max;
        let known = |state: &State| state.is_surveyed.then_some(state.bytes_used);
        let used = known(&self.state());
        if used.is_some_and(|used| used.saturating_add(needed) <= bytes_max) {
            return Ok(());
        }
        survey::remove_unfinished(&self.path);
        let mut survey = Survey::of(&self.path)?;
        if survey.bytes().saturating_add(needed) > bytes_max {
            // Somewhat more than must be, so that not every write looks through the folder.
            let wanted = (bytes_max - bytes_max / 8).saturating_sub(needed);
            let evicted = survey.evict_down_to(wanted, spared);
            self.counters.chunks_evicted.add(evicted);
        }
        let state = &mut *self.state();
        state.bloom = filter(survey.keys(), bytes_max / BYTES_A_KEY);
        state.holdings = (state.holdings.0 + 1, filter(survey.lists(), bytes_max / SEGMENT_BYTES));
        state.is_surveyed = true;
        state.bytes_used = survey.bytes();
        match state.bytes_used.saturating_add(needed) > bytes_max {
            false => Ok(()),
            true => Err(StorageError::OverBudget {
                tier: "cache".into(),
                needed_bytes: needed,
                bytes_max,
            }),
        }
    }

    fn write_file(&self, path: &Path, bytes: &[u8], used: SystemTime) -> io::Result<()> {
        let unfinished = self.path.join("unfinished");
        let write = || {
            let mut file = unfinished_file(&unfinished)?;
            #[cfg(test)]
            self.spend(&mut file, bytes)?;
            file.write_all(bytes)?;
            file.as_file().set_modified(used)?;
            file.persist(path).map_err(|error| error.error).map(drop)
        };
        match write() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&unfinished)?;
                path.parent().map_or(Ok(()), fs::create_dir_all)?;
                write()
            }
            written => written,
        }
    }

    #[cfg(test)]
    fn spend(&self, file: &mut tempfile::NamedTempFile, bytes: &[u8]) -> io::Result<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let left = self.disk_bytes_left.load(SeqCst);
        match left.checked_sub(bytes.len() as u64) {
            Some(left) => {
                self.disk_bytes_left.store(left, SeqCst);
                Ok(())
            }
            None => file
                .write_all(&bytes[..left as usize])
                .and(Err(io::ErrorKind::StorageFull.into())),
        }
    }

    /// What is known of the longest version of an object that is shorter than `version`, in order.
    pub(super) fn before(&self, version: &Version) -> Vec<ChunkList> {
        let folder = self.path.join("objects").join(version.folder_name());
        let mut lists: Vec<ChunkList> = Vec::new();
        for path in survey::files(&folder) {
            let bytes = self.read_file(&path, LIST_BYTES_MAX).unwrap_or_default();
            let Some(list) = ChunkList::decode(&bytes) else {
                continue;
            };
            let found = &list.segment.version;
            if found.url != version.url || found.bytes >= version.bytes {
                continue;
            }
            match lists.first().map(|kept| &kept.segment.version) {
                Some(kept) if kept == found => lists.push(list),
                Some(kept) if (kept.bytes, &kept.version) > (found.bytes, &found.version) => {}
                _ => lists = vec![list],
            }
        }
        lists.sort_by_key(|list| list.segment.index);
        lists
    }

    fn list_path(&self, segment: &Segment) -> PathBuf {
        let folder = self.path.join("objects").join(segment.version.folder_name());
        folder.join(segment.file_name())
    }

    fn grown_path(&self, version: &Version) -> PathBuf {
        let folder = self.path.join("objects").join(version.folder_name());
        folder.join(version.grown_name())
    }

    fn chunk_path(&self, digest: &Digest) -> PathBuf {
        self.path_of("chunks", digest)
    }

    fn path_of(&self, kind: &str, digest: &Digest) -> PathBuf {
        let name = blake3::Hash::from_bytes(*digest).to_hex();
        let (folder, name) = name.split_at(2);
        self.path.join(kind).join(folder).join(name)
    }
}

/// With the permissions that the user's mask leaves: users who share the folder read each other's files.
fn unfinished_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

fn joined(parts: &[Bytes]) -> Bytes {
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}

/// A filter of what a survey has found, with room for as many keys as the budget allows.
fn filter<'a>(keys: impl Iterator<Item = &'a Digest>, room: u64) -> Bloom {
    let keys: Vec<&Digest> = keys.collect();
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut bloom = Bloom::new(room.max(keys.len()).max(64), RATE_MAX);
    keys.into_iter().for_each(|key| bloom.insert(key));
    bloom
}
