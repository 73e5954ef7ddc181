//! Whatever happens to the folder, what is read is what the store has; and what is here is not fetched.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;

mod growth;

mod killed;

mod model;

mod peers;

mod shared;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::*;
use crate::chunk::SEGMENT_BYTES;
use crate::figures::StoreFigures;
use crate::object::Object;

fn random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = vec![0; bytes];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut random);
    random
}

/// One version of an object at its store, which counts what is fetched.
struct Remote {
    version: Version,
    bytes: Bytes,
    fetched_bytes: AtomicU64,
    fetches: AtomicU64,
    /// Whether the next fetch fails.
    fails: AtomicBool,
}

impl Remote {
    fn new(url: &str, version: &str, bytes: Vec<u8>) -> Self {
        let object = Object {
            url: url.into(),
            bytes: bytes.len() as u64,
            version: Some(version.into()),
        };
        Self {
            version: Version::of(&object).unwrap(),
            bytes: bytes.into(),
            fetched_bytes: AtomicU64::new(0),
            fetches: AtomicU64::new(0),
            fails: AtomicBool::new(false),
        }
    }

    fn fetch(&self, range: Range<u64>) -> Result<Bytes, ObjectError> {
        self.fetches.fetch_add(1, SeqCst);
        if self.fails.swap(false, SeqCst) {
            let url = self.version.url.clone();
            return Err(ObjectError::NotFound { url });
        }
        self.fetched_bytes.fetch_add(range.end - range.start, SeqCst);
        Ok(self.bytes.slice(range.start as usize..range.end as usize))
    }

    fn try_read(&self, cache: &Cache, range: Range<u64>) -> Result<Bytes, ObjectError> {
        cache.read(&self.version, &range, &|range| self.fetch(range))
    }

    /// Reads through the cache, compares, and says how many bytes that has fetched.
    fn read(&self, cache: &Cache, range: Range<u64>) -> u64 {
        let before = self.fetched_bytes.load(SeqCst);
        let read = self.try_read(cache, range.clone()).unwrap();
        let expected = &self.bytes[range.start as usize..range.end as usize];
        assert!(
            read == expected,
            "{range:?} of {} is not what its store has",
            self.version.url
        );
        self.fetched_bytes.load(SeqCst) - before
    }

    fn read_all(&self, cache: &Cache) -> u64 {
        self.read(cache, 0..self.bytes.len() as u64)
    }
}

fn options(folder: &Path) -> CacheOptions {
    CacheOptions::new(folder)
}

fn open(options: &CacheOptions) -> Cache {
    Cache::open(options, &Arc::default()).unwrap()
}

fn figures(cache: &Cache) -> StoreFigures {
    cache.counters.figures()
}

/// The files of chunks and lists.
fn kept(folder: &Path) -> Vec<PathBuf> {
    let folders = [folder.join("chunks"), folder.join("objects")];
    let mut files: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| survey::files(folder))
        .flat_map(|folder| survey::files(&folder))
        .collect();
    files.sort();
    files
}

/// What they count for.
fn kept_bytes(folder: &Path) -> u64 {
    let counted = |file: &PathBuf| survey::counted(file.metadata().unwrap().len());
    kept(folder).iter().map(counted).sum()
}

#[test]
fn the_second_time_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::new("s3://b/x", "1", random(9_000_000, 1));
    let cache = open(&options(folder.path()));
    assert_eq!(
        remote.read(&cache, 5_000_000..5_000_010),
        SEGMENT_BYTES,
        "the segment that holds it"
    );
    assert_eq!(remote.read_all(&cache), 9_000_000 - SEGMENT_BYTES);
    assert_eq!((remote.read_all(&cache), figures(&cache).bloom_absent), (0, 3));
    drop(cache);
    let cache = open(&options(folder.path()));
    assert_eq!((remote.read_all(&cache), figures(&cache).cache_bytes), (0, 9_000_000));
    assert_eq!(remote.read(&cache, 4_100_000..4_300_000), 0);
    assert_eq!(remote.read(&cache, 77..77), 0);
}

#[test]
fn another_version_is_another_object_and_common_chunks_are_kept_once() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = random(4_000_000, 2);
    let cache = open(&options(folder.path()));
    let first = Remote::new("s3://b/x", "1", bytes.clone());
    first.read_all(&cache);
    let before = kept_bytes(folder.path());
    let mut changed = bytes;
    changed[2_000_000] ^= 1;
    let second = Remote::new("s3://b/x", "2", changed);
    assert_eq!(second.read_all(&cache), 4_000_000, "a changed object is fetched whole");
    let more = kept_bytes(folder.path()) - before;
    assert!(more < 1_200_000, "{more} more bytes are kept for a change of one");
    assert_eq!((first.read_all(&cache), second.read_all(&cache)), (0, 0));
}

#[test]
fn what_was_used_least_recently_goes_first_and_the_budget_holds() {
    let folder = tempfile::tempdir().unwrap();
    let options = CacheOptions {
        bytes_max: 10_000_000,
        ..options(folder.path())
    };
    let cache = open(&options);
    let remotes: Vec<Remote> = (0..4)
        .map(|seed| Remote::new(&format!("s3://b/{seed}"), "1", random(3_000_000, seed)))
        .collect();
    remotes[..3]
        .iter()
        .for_each(|remote| assert_eq!(remote.read_all(&cache), 3_000_000));
    assert_eq!(remotes[0].read_all(&cache), 0, "used again");
    assert_eq!(remotes[3].read_all(&cache), 3_000_000);
    assert!(kept_bytes(folder.path()) <= options.bytes_max);
    assert_eq!(kept_bytes(folder.path()), cache.folder.bytes_used());
    assert!(figures(&cache).chunks_evicted > 0);
    assert_eq!((remotes[0].read_all(&cache), remotes[3].read_all(&cache)), (0, 0));
    assert_eq!(remotes[1].read_all(&cache), 3_000_000, "it went first");
}

#[test]
fn short_files_count_for_what_they_take_on_disk_and_leave_no_empty_folders() {
    let folder = tempfile::tempdir().unwrap();
    let options = CacheOptions {
        bytes_max: 40 * 4096,
        ..options(folder.path())
    };
    let cache = open(&options);
    for seed in 0..60 {
        Remote::new(&format!("s3://b/{seed}"), "1", random(100, seed)).read_all(&cache);
    }
    let files = kept(folder.path()).len();
    assert!((20..=40).contains(&files), "{files} files of up to 4 KiB");
    let objects: Vec<PathBuf> = survey::files(&folder.path().join("objects")).collect();
    assert!(objects.iter().all(|object| survey::files(object).count() == 1));
    assert_eq!(kept_bytes(folder.path()), cache.folder.bytes_used());
}

#[test]
fn the_filter_is_built_anew_after_evictions() {
    let folder = tempfile::tempdir().unwrap();
    let options = CacheOptions {
        bytes_max: 5_000_000,
        ..options(folder.path())
    };
    let cache = open(&options);
    let (first, second) = (
        Remote::new("a://1", "1", random(4_000_000, 1)),
        Remote::new("a://2", "1", random(4_000_000, 2)),
    );
    first.read_all(&cache);
    let key = first.version.segment(0).key();
    assert!(cache.folder.bloom().may_contain(&key));
    second.read_all(&cache);
    assert!(!cache.folder.bloom().may_contain(&key), "what has gone is absent");
    assert!(cache.folder.bloom().may_contain(&second.version.segment(0).key()));
}

#[test]
fn a_segment_larger_than_the_budget_is_read_and_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let options = CacheOptions {
        bytes_max: 1_000_000,
        ..options(folder.path())
    };
    let cache = open(&options);
    let remote = Remote::new("s3://b/x", "1", random(2_000_000, 1));
    assert_eq!(
        (remote.read_all(&cache), remote.read_all(&cache)),
        (2_000_000, 2_000_000)
    );
    assert_eq!((figures(&cache).segments_not_kept, kept(folder.path()).len()), (2, 0));
}

#[test]
fn a_filter_of_ones_changes_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::new("s3://b/x", "1", random(1_000_000, 1));
    let cache = open(&options(folder.path()));
    cache.folder.set_bloom(Bloom::all_ones());
    assert_eq!((remote.read_all(&cache), remote.read_all(&cache)), (1_000_000, 0));
    let figures = figures(&cache);
    assert_eq!(
        (figures.bloom_absent, figures.bloom_false_positives),
        (0, 1),
        "found out by looking"
    );
}
