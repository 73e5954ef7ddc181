//! Threads of one process, and several caches on one folder, as several processes have them.
use std::fs;

use super::*;
use crate::testing::wait_until;

/// A child process that another test is just starting may hold a lock on for a moment that was dropped here.
fn wait_until_free(folder: &Path, name: &str) {
    let path = folder.join("locks").join(name);
    let is_free = || lock::lock_exclusive(&path, std::time::Duration::ZERO).is_ok();
    wait_until("the lock is free", is_free);
}

/// The same for the lock of who fetches.
fn wait_until_fetched(cache: &Cache, remote: &Remote) {
    let is_free = || cache.folder.lock_fetch(&remote.version.segment(0)).is_some();
    wait_until("nobody fetches", is_free);
}

#[test]
fn threads_that_want_one_range_fetch_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(&options(folder.path()));
    let remote = Remote::new("s3://b/x", "1", random(6_000_000, 1));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| remote.read_all(&cache));
        }
    });
    assert_eq!(
        (remote.fetches.load(SeqCst), remote.fetched_bytes.load(SeqCst)),
        (2, 6_000_000)
    );
}

#[test]
fn caches_that_share_a_folder_fetch_each_byte_once() {
    let folder = tempfile::tempdir().unwrap();
    let caches: Vec<Cache> = (0..3).map(|_| open(&options(folder.path()))).collect();
    let remote = Remote::new("s3://b/x", "1", random(9_000_000, 1));
    std::thread::scope(|scope| {
        for cache in &caches {
            scope.spawn(|| remote.read_all(cache));
        }
    });
    assert_eq!(remote.fetched_bytes.load(SeqCst), 9_000_000);
    let used = kept_bytes(folder.path());
    for cache in &caches {
        cache.folder.catch_up();
        assert_eq!(cache.folder.bytes_used(), used);
    }
}

#[test]
fn what_another_has_kept_counts_once_and_by_what_a_reader_gets() {
    let folder = tempfile::tempdir().unwrap();
    let [first, reading, ahead] = [(); 3].map(|()| open(&options(folder.path())));
    let remote = Remote::new("s3://b/x", "1", random(1_000_000, 1));
    remote.read_all(&first);
    let counted = |cache: &Cache| (figures(cache).fetches_avoided, figures(cache).cache_bytes);
    assert_eq!(remote.read(&reading, 0..1000), 0);
    assert_eq!(counted(&reading), (1, 1000));
    ahead.ensure(&remote.version.segment(0), &|range| remote.fetch(range));
    assert_eq!(counted(&ahead), (0, 0), "nobody has read it");
    assert_eq!(remote.read(&ahead, 0..1000), 0);
    assert_eq!(counted(&ahead), (1, 1000));
}

#[test]
fn caches_that_share_a_folder_share_its_budget() {
    let folder = tempfile::tempdir().unwrap();
    let options = CacheOptions {
        bytes_max: 8_000_000,
        ..options(folder.path())
    };
    let caches = [open(&options), open(&options)];
    std::thread::scope(|scope| {
        for (number, cache) in caches.iter().enumerate() {
            scope.spawn(move || {
                for seed in 0..5 {
                    let seed = (number * 100 + seed) as u64;
                    let remote = Remote::new(&format!("s3://b/{seed}"), "1", random(2_500_000, seed));
                    remote.read_all(cache);
                    remote.read_all(cache);
                }
            });
        }
    });
    assert!(
        kept_bytes(folder.path()) <= options.bytes_max,
        "{}",
        kept_bytes(folder.path())
    );
}

#[test]
fn one_who_hangs_does_not_hold_up_the_others_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::new("s3://b/x", "1", random(1_000_000, 1));
    let options = CacheOptions {
        wait_max: std::time::Duration::from_millis(20),
        ..options(folder.path())
    };
    let (hanging, cache) = (open(&options), open(&options));
    let held = hanging.folder.lock_fetch(&remote.version.segment(0)).unwrap();
    let writing = lock::lock_exclusive(&folder.path().join("locks/write"), options.wait_max).unwrap();
    assert_eq!(remote.read_all(&cache), 1_000_000, "fetched without waiting longer");
    assert_eq!(
        figures(&cache).segments_not_kept,
        1,
        "and not written, since somebody may be writing"
    );
    drop((held, writing));
    wait_until_free(folder.path(), "write");
    wait_until_fetched(&hanging, &remote);
    assert_eq!((remote.read_all(&cache), remote.read_all(&hanging)), (1_000_000, 0));
}

#[test]
fn one_who_is_stopped_as_it_writes_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let remote = |seed| Remote::new(&format!("a://{seed}"), "1", random(100_000, seed));
    let mut cache = open(&CacheOptions {
        wait_max: std::time::Duration::from_millis(20),
        ..options(folder.path())
    });
    let writing = lock::lock_exclusive(&folder.path().join("locks/write"), std::time::Duration::ZERO).unwrap();
    remote(0).read_all(&cache);
    // Would be waited for without end.
    cache.folder.set_wait_max(std::time::Duration::from_secs(1 << 20));
    remote(1).read_all(&cache);
    remote(2).read_all(&cache);
    assert_eq!((figures(&cache).segments_not_kept, kept(folder.path()).len()), (3, 0));
    drop(writing);
    wait_until_free(folder.path(), "write");
    for seed in 0..3 {
        let remote = remote(seed);
        assert_eq!((remote.read_all(&cache), remote.read_all(&cache)), (100_000, 0));
    }
}

#[test]
fn one_who_is_stopped_as_it_fetches_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::new("a://x", "1", random(100_000, 1));
    let hanging = open(&options(folder.path()));
    let mut cache = open(&CacheOptions {
        wait_max: std::time::Duration::from_millis(20),
        ..options(folder.path())
    });
    // Stopped as it keeps what it has fetched.
    let held = hanging.folder.lock_fetch(&remote.version.segment(0)).unwrap();
    let writing = lock::lock_exclusive(&folder.path().join("locks/write"), std::time::Duration::ZERO).unwrap();
    assert_eq!(remote.read(&cache, 0..1000), 100_000);
    // Would be waited for without end.
    cache.folder.set_wait_max(std::time::Duration::from_secs(1 << 20));
    assert_eq!(remote.read(&cache, 1000..2000), 100_000, "nothing could be kept");
    drop(writing);
    wait_until_free(folder.path(), "write");
    assert_eq!(remote.read(&cache, 2000..3000), 100_000);
    assert_eq!(remote.read(&cache, 3000..4000), 0, "kept without the lock of the fetch");
    drop(held);
    wait_until_fetched(&cache, &remote);
}

#[test]
fn a_reader_keeps_what_is_evicted_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let options = CacheOptions {
        bytes_max: 3_000_000,
        ..options(folder.path())
    };
    let caches = [open(&options), open(&options)];
    let remotes: Vec<Remote> = (0..3)
        .map(|seed| Remote::new(&format!("a://{seed}"), "1", random(1_400_000, seed)))
        .collect();
    std::thread::scope(|scope| {
        for (number, cache) in caches.iter().enumerate() {
            let remotes = &remotes;
            // Each read is compared with the store; each evicts what the other is reading.
            scope.spawn(move || {
                for round in 0..12 {
                    remotes[(round + number) % 3].read_all(cache);
                }
            });
        }
    });
    assert!(kept_bytes(folder.path()) <= options.bytes_max);
}

#[test]
fn files_have_the_permissions_that_the_mask_leaves_to_others() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let usual = folder.path().join("usual");
    fs::write(&usual, "").unwrap();
    let cache = open(&options(&folder.path().join("cache")));
    Remote::new("s3://b/x", "1", random(100_000, 1)).read_all(&cache);
    let files = walkdir::WalkDir::new(folder.path().join("cache"))
        .into_iter()
        .map(Result::unwrap);
    let files: Vec<_> = files.filter(|entry| entry.file_type().is_file()).collect();
    let count = |folder: &str| {
        files
            .iter()
            .filter(|file| file.path().components().any(|part| part.as_os_str() == folder))
            .count()
    };
    assert!(count("chunks") > 0 && count("objects") > 0);
    for file in &files {
        assert_eq!(mode(file.path()), mode(&usual), "{}", file.path().display());
    }
}
