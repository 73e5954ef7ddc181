//! Reads through the cache, from a store that fails on demand.
use std::sync::Arc;
use std::time::Duration;

use object_store::memory::InMemory;

use super::super::options::TIME_MAX;
use super::*;
use crate::testing::{FaultStore, Pause, ReadFault, StoreFaults, wait_until};
use crate::text::{TextOptions, read_lines_with, split_text};

/// A store of objects that outlives the `Stores` of its tests, as a remote one does.
struct Remote {
    folder: tempfile::TempDir,
    store: Arc<FaultStore>,
    faults: StoreFaults,
}

impl Remote {
    fn new() -> Self {
        let faults = StoreFaults::new();
        let store = Arc::new(FaultStore::new(Arc::new(InMemory::new()), faults.clone()));
        let folder = tempfile::tempdir().unwrap();
        Self { folder, store, faults }
    }

    fn options(&self) -> StoresOptions {
        StoresOptions {
            cache: Some(CacheOptions {
                includes_memory: true,
                ..CacheOptions::new(self.folder.path().join("cache"))
            }),
            ..StoresOptions::default()
        }
    }

    /// What a new process has.
    fn stores(&self) -> Stores {
        Stores::over(self.store.clone(), self.options())
    }

    fn put(&self, bytes: Bytes) -> Object {
        let stores = self.stores();
        stores.write("memory://data/x", bytes).unwrap();
        stores.list("memory://data/x").unwrap().remove(0)
    }
}

fn text(lines: usize) -> Bytes {
    (0..lines)
        .map(|line| format!("line {line}\n"))
        .collect::<String>()
        .into()
}

#[test]
fn an_object_is_fetched_once_and_not_at_all_in_a_new_process() {
    let remote = Remote::new();
    let bytes = text(700_000);
    let object = remote.put(bytes.clone());
    let stores = remote.stores();
    assert_eq!(stores.read(&object).unwrap(), bytes);
    assert_eq!(
        stores.read_range(&object, 5_000_000..5_000_100).unwrap(),
        bytes.slice(5_000_000..5_000_100)
    );
    assert_eq!(
        (stores.figures().remote_bytes, remote.faults.read_bytes()),
        (object.bytes, object.bytes)
    );
    let stores = remote.stores();
    assert_eq!(stores.read(&object).unwrap(), bytes);
    assert_eq!((stores.figures().remote_bytes, stores.figures().fetches), (0, 0));
    assert_eq!(remote.faults.read_bytes(), object.bytes);
}

#[test]
fn lines_profit_without_knowing() {
    let remote = Remote::new();
    let object = remote.put(text(1_000_000));
    for fetched in [object.bytes, 0] {
        let stores = remote.stores();
        let groups = split_text(std::slice::from_ref(&object), 3);
        let options = TextOptions {
            piece_bytes: 100_000,
            ..TextOptions::default()
        };
        let readers = groups
            .iter()
            .flatten()
            .map(|split| read_lines_with(&stores, split, options).unwrap());
        let count = readers
            .flatten()
            .enumerate()
            .filter(|(line, read)| *read.as_ref().unwrap() == format!("line {line}"));
        assert_eq!(count.count(), 1_000_000);
        assert_eq!(stores.figures().remote_bytes, fetched);
    }
}

#[test]
fn one_who_goes_through_in_order_is_read_ahead_of() {
    let remote = Remote::new();
    let object = remote.put(vec![7; 40 << 20].into());
    let stores = remote.stores();
    stores.read_range(&object, 0..1000).unwrap();
    assert_eq!(remote.faults.reads_count(), 1, "nobody knows yet that it goes on");
    stores.read_range(&object, 1000..2000).unwrap();
    // Four segments are what the limit allows, and come without being asked for.
    wait_until("four segments are read ahead", || remote.faults.reads_count() >= 5);
    drop(stores); // Waits for what is under way.
    assert_eq!(remote.faults.reads_count(), 5);
    let stores = remote.stores();
    stores.read_range(&object, 8 << 20..20 << 20).unwrap();
    assert_eq!(
        stores.figures().remote_bytes % (4 << 20),
        0,
        "what was read ahead is not fetched again"
    );
    drop(stores);
    let stores = remote.stores();
    stores.read(&object).unwrap();
    drop(stores);
    assert_eq!(remote.faults.read_bytes(), object.bytes, "each byte once");
}

#[test]
fn a_limit_below_a_segment_reads_one_ahead_and_none_only_if_it_is_0() {
    for (read_ahead_bytes_max, fetched) in [(0, 1), (1 << 20, 2)] {
        let remote = Remote::new();
        let object = remote.put(vec![7; 20 << 20].into());
        let mut options = remote.options();
        options.cache.as_mut().unwrap().read_ahead_bytes_max = read_ahead_bytes_max;
        let stores = Stores::over(remote.store.clone(), options);
        stores.read_range(&object, 0..1000).unwrap();
        stores.read_range(&object, 1000..2000).unwrap();
        wait_until("a segment is read ahead if it may be", || {
            remote.faults.reads_count() >= fetched
        });
        drop(stores); // Waits for what is under way.
        assert_eq!(remote.faults.reads_count(), fetched, "{read_ahead_bytes_max}");
    }
}

#[test]
fn readers_of_one_range_share_one_request_even_if_it_stalls() {
    let remote = Remote::new();
    let object = remote.put(text(1000));
    let stores = remote.stores();
    let (pause, gate) = Pause::new();
    remote.faults.on_read(0, ReadFault::Pause(pause));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4).map(|_| scope.spawn(|| stores.read(&object).unwrap())).collect();
        gate.wait_until_reached();
        gate.open();
        readers
            .into_iter()
            .for_each(|reader| assert_eq!(reader.join().unwrap(), text(1000)));
    });
    assert_eq!(remote.faults.reads_count(), 1);
    assert_eq!(stores.figures().fetches_avoided, 3);
}

#[test]
fn failures_of_the_store_are_errors_and_nothing_of_them_is_kept() {
    let remote = Remote::new();
    let object = remote.put(text(1000));
    let stores = remote.stores();
    let faults = [
        ReadFault::Busy,
        ReadFault::Missing,
        ReadFault::BreakAfter(100),
        ReadFault::Short(100),
    ];
    for fault in faults {
        let missing = matches!(fault, ReadFault::Missing);
        let what = format!("{fault:?}");
        remote.faults.on_read(0, fault);
        let error = object_error(stores.read(&object));
        assert_eq!(
            matches!(error, ObjectError::NotFound { .. }),
            missing,
            "{what}: {error}"
        );
        assert!(
            missing || matches!(error, ObjectError::Remote { .. }),
            "{what}: {error}"
        );
    }
    assert_eq!(stores.read(&object).unwrap(), text(1000));
    assert_eq!(stores.read(&object).unwrap(), text(1000));
    assert_eq!(remote.faults.reads_count(), 5);
}

#[test]
fn altered_bytes_of_a_comparison_cost_the_whole_object() {
    let remote = Remote::new();
    let mut options = remote.options();
    options.cache.as_mut().unwrap().grows_only = vec!["memory://data/".into()];
    let first = text(200_000);
    let object = remote.put(first.clone());
    let stores = Stores::over(remote.store.clone(), options);
    assert_eq!(stores.read(&object).unwrap(), first);
    let grown: Bytes = [&first[..], b"more\n"].concat().into();
    let object = remote.put(grown.clone());
    remote.faults.on_read(0, ReadFault::FlipBit(17));
    assert_eq!(stores.read(&object).unwrap(), grown);
    assert!(stores.figures().remote_bytes > first.len() as u64 + grown.len() as u64);
}

#[test]
fn an_object_that_changes_is_refused_unless_what_was_listed_is_here() {
    let remote = Remote::new();
    let (one, other) = (remote.put(text(10)), remote.put(text(11)));
    let stores = remote.stores();
    assert!(matches!(object_error(stores.read(&one)), ObjectError::Changed { .. }));
    assert_eq!(stores.read(&other).unwrap(), text(11));
    remote.put(text(12));
    assert_eq!(stores.read(&other).unwrap(), text(11), "the version that was listed");
    let other = Object {
        version: Some("another".into()),
        ..other
    };
    assert!(matches!(object_error(stores.read(&other)), ObjectError::Changed { .. }));
}

#[test]
fn objects_without_a_version_are_not_kept() {
    let remote = Remote::new();
    let object = Object {
        version: None,
        ..remote.put(text(10))
    };
    let stores = remote.stores();
    for reads in 1..4 {
        stores.read(&object).unwrap();
        assert_eq!(remote.faults.reads_count(), reads);
    }
}

#[test]
fn servers_that_send_whole_objects_only_are_cached_too() {
    let remote = Remote::new();
    let object = remote.put(text(700_000));
    remote.faults.on_every_read(Some(|| ReadFault::WholeOnly));
    let stores = remote.stores();
    assert!(matches!(
        object_error(stores.read_range(&object, 5..9)),
        ObjectError::RangesNotServed { .. }
    ));
    assert_eq!(stores.read(&object).unwrap(), text(700_000));
    assert_eq!(stores.read_range(&object, 5..9).unwrap(), text(700_000).slice(5..9));
    drop(stores);
    assert_eq!(remote.faults.read_bytes(), object.bytes);
}

#[test]
fn times_without_an_end_are_limited() {
    let remote = Remote::new();
    let object = remote.put(text(10));
    let mut options = remote.options();
    options.cache.as_mut().unwrap().wait_max = Duration::MAX;
    options.retry_pause = Duration::MAX;
    options.silence_timeout = Duration::MAX;
    options.request_timeout = Duration::MAX;
    let stores = Stores::over(remote.store.clone(), options);
    assert_eq!(stores.read(&object).unwrap(), text(10));
    let limited = stores.options();
    let wait_max = limited.cache.as_ref().unwrap().wait_max;
    let others = [limited.retry_pause, limited.silence_timeout, limited.request_timeout];
    assert_eq!((wait_max, others), (TIME_MAX, [TIME_MAX; 3]));
}

#[test]
fn a_cache_that_cannot_be_opened_is_said_and_costs_fetches() {
    let remote = Remote::new();
    let object = remote.put(text(10));
    fs::write(remote.folder.path().join("file"), "").unwrap();
    let mut options = remote.options();
    options.cache.as_mut().unwrap().folder = remote.folder.path().join("file/cache");
    let stores = Stores::over(remote.store.clone(), options);
    assert!(matches!(stores.check_cache(), Err(StorageError::Io { .. })));
    assert_eq!(stores.read(&object).unwrap(), text(10));
    assert_eq!(stores.read(&object).unwrap(), text(10));
    assert_eq!(stores.figures().remote_bytes, 2 * object.bytes);
    assert!(remote.stores().check_cache().is_ok());
}

#[test]
fn without_the_option_memory_is_not_cached() {
    let remote = Remote::new();
    let object = remote.put(text(10));
    let mut options = remote.options();
    options.cache.as_mut().unwrap().includes_memory = false;
    let stores = Stores::over(remote.store.clone(), options);
    stores.read(&object).unwrap();
    stores.read(&object).unwrap();
    assert_eq!(remote.faults.reads_count(), 2);
    assert!(
        !remote.folder.path().join("cache/users").exists(),
        "nothing is made before it is needed"
    );
}
