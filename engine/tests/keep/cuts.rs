//! Lineage that is dropped: by `local_checkpoint`, and where it is long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;

use distdl_engine::{Config, Context, Dataset, Determinacy, EngineError};
use distdl_storage::Level;

use crate::{PARTITIONS, Row, block, context, files, flip};

#[test]
fn a_block_that_is_lost_behind_a_cut_is_an_error_that_says_so() {
    let context = context(2);
    let base = context.range(0..100, PARTITIONS).map(|x| (x % 5, x)).cache();
    let sums = base.reduce_by_key(|left, right| left + right);
    let cut = sums.local_checkpoint().unwrap();
    let rows = cut.collect().unwrap();
    drop((base, sums));
    assert_eq!(context.live_datasets(), 1);
    assert_eq!(context.store().ids().len(), PARTITIONS, "the blocks of `base` are gone");
    assert!(cut.explain().contains("lineage cut"), "{}", cut.explain());
    let _ = cut.unpersist().cache();
    let _ = cut.local_checkpoint().unwrap();
    assert_eq!(cut.map(|row| row).collect().unwrap(), rows);
    assert!(context.store().remove(block(cut.id(), 2)).unwrap());
    let error = cut.map(|row| row).collect().unwrap_err();
    assert!(matches!(error, EngineError::LineageCut { partition: 2, .. }), "{error}");
    assert!(error.to_string().contains("cuts.rs:"), "{error}");
    assert_eq!(cut.take(1).unwrap(), rows[..1], "the others are there");
    drop(cut);
    assert_eq!(context.live_datasets(), 0);
    assert!(context.store().ids().is_empty());
}

#[test]
fn a_file_that_is_damaged_behind_a_cut_is_an_error_and_not_a_wrong_record() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        spill_folder: Some(folder.path().to_owned()),
        ..Config::default()
    };
    let context = Context::new(config.with_threads(2)).unwrap();
    let rows = context.range(0..1000, PARTITIONS).map(|x| x * 3);
    let cut = rows.local_checkpoint().unwrap();
    let inner = files(folder.path(), "").into_iter().find(|path| path.is_dir()).unwrap();
    flip(&inner.join(block(cut.id(), 1).file_name()));
    let error = cut.count().unwrap_err();
    assert!(matches!(error, EngineError::LineageCut { partition: 1, .. }), "{error}");
}

#[test]
fn blocks_in_memory_are_on_disk_before_their_lineage_is_cut() {
    let config = Config {
        memory_bytes_max: 3000,
        ..Config::default()
    };
    let context = Context::new(config.with_threads(2)).unwrap();
    let rows = context.range(0..200, 1).map(|x| x * 3).cache();
    assert_eq!(rows.count().unwrap(), 200);
    let rows = rows.local_checkpoint().unwrap();
    // Takes all the memory.
    assert_eq!(context.range(0..300, 1).cache().count().unwrap(), 300);
    assert_eq!(rows.collect().unwrap(), (0..200).map(|x| x * 3).collect::<Vec<u64>>());
    assert_eq!(rows.partitions_computed(), 1);
}

/// `rounds` narrow steps and shuffles on end, and how often records went through them.
fn long(context: &Context, rounds: u64) -> (Dataset<Row>, Arc<AtomicU64>) {
    let computed = Arc::new(AtomicU64::new(0));
    let mut rows = context.range(0..60, 3).map(|x| (x % 11, x));
    for round in 0..rounds {
        let computed = Arc::clone(&computed);
        let mapped = rows.map(move |(key, value)| {
            computed.fetch_add(1, Ordering::SeqCst);
            ((key * 3 + round) % 11, value ^ round)
        });
        rows = match round % 4 {
            3 => mapped.sort_by_key_into(3),
            _ => mapped,
        };
    }
    (rows, computed)
}

#[test]
fn a_long_lineage_is_cut_and_computed_once() {
    let expected = long(&context(1), 30).0.collect().unwrap();
    for steps in [1, 4, 7, 100] {
        let context = Context::new(Config::default().with_threads(2).with_cut_lineage_every(steps)).unwrap();
        let (rows, computed) = long(&context, 30);
        assert_eq!(rows.collect().unwrap(), expected);
        assert!(
            context.live_datasets() <= steps + 1,
            "{} datasets",
            context.live_datasets()
        );
        let first = computed.load(Ordering::SeqCst);
        if steps < 100 {
            assert_eq!(rows.collect().unwrap(), expected);
            let again = computed.load(Ordering::SeqCst) - first;
            assert!(
                again <= 60 * (steps as u64 + 1),
                "{again} records again with {steps} steps"
            );
        }
        drop(rows);
        assert!(context.store().ids().is_empty(), "blocks go with the last handle");
    }
}

#[test]
fn a_local_checkpoint_that_fails_leaves_no_blocks() {
    let context = context(1);
    let rows = context.range(0..100, PARTITIONS).map(|x| {
        assert!(x < 99, "the last record");
        x
    });
    assert!(rows.local_checkpoint().is_err());
    assert_eq!((rows.level(), context.store().ids()), (None, Vec::new()));
    // What was kept before is kept still.
    let kept = rows.filter(|x| x % 2 == 0).cache();
    assert!(kept.local_checkpoint().is_err());
    assert_eq!(kept.level(), Some(Level::Memory));
    assert_eq!(context.store().ids().len(), PARTITIONS - 1);
    kept.unpersist();
    assert!(context.store().ids().is_empty());
    assert_eq!(kept.partitions_computed(), PARTITIONS as u64 - 1);
    let id = kept.id();
    drop(kept);
    assert_eq!(context.metrics().partitions_computed(id), 0, "nothing is left of it");
}

#[test]
fn a_thread_that_waits_for_a_local_checkpoint_which_fails_makes_its_own() {
    // Whether the other thread gets to where it waits in time is not certain.
    for _ in 0..20 {
        let context = context(1);
        let ((begun, has_begun), (fail, may_fail)) = (channel(), channel::<()>());
        let first = Mutex::new(Some((begun, may_fail)));
        let drawn = context.range(0..20, 2).map(move |x| {
            let first = first.lock().unwrap().take();
            if let Some((begun, may_fail)) = first {
                begun.send(()).unwrap();
                may_fail.recv().unwrap();
                panic!("the first time");
            }
            x
        });
        let derived = drawn.with_determinacy(Determinacy::Indeterminate).map(|x| x + 1);
        thread::scope(|scope| {
            let failing = scope.spawn(|| derived.count());
            has_begun.recv().unwrap();
            let (comes, has_come) = channel();
            let (derived, comes) = (&derived, comes);
            let waiting = scope.spawn(move || {
                comes.send(()).unwrap();
                derived.count()
            });
            has_come.recv().unwrap();
            (0..1000).for_each(|_| thread::yield_now());
            fail.send(()).unwrap();
            assert!(failing.join().unwrap().is_err());
            assert_eq!(waiting.join().unwrap().unwrap(), 20);
        });
        assert_eq!(derived.collect().unwrap(), (1..=20).collect::<Vec<u64>>());
    }
}

#[test]
fn a_local_checkpoint_whose_blocks_are_dropped_meanwhile_keeps_the_lineage() {
    let context = context(1);
    let made = Arc::new(OnceLock::<Dataset<u64>>::new());
    let this = Arc::downgrade(&made);
    let rows = context.range(0..40, PARTITIONS).map(move |x| {
        if let (39, Some(this)) = (x, this.upgrade()) {
            this.get().unwrap().unpersist();
        }
        x
    });
    made.set(rows.clone()).unwrap();
    let error = rows.local_checkpoint().unwrap_err().to_string();
    assert!(error.contains("lacks blocks") && error.contains("cuts.rs:"), "{error}");
    assert_eq!((rows.level(), context.store().ids()), (None, Vec::new()));
    drop(made);
    assert_eq!(rows.local_checkpoint().unwrap().count().unwrap(), 40);
}

/// What it writes has no name for which of the two it is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
}

#[test]
fn records_that_cannot_be_read_back_are_an_error_that_names_their_type() {
    let context = context(1);
    let kept = context.range(0..10, 1).map(Untagged::Number).persist(Level::Disk);
    assert_eq!(kept.count().unwrap(), 10);
    let error = kept.count().unwrap_err().to_string();
    assert!(error.contains("Untagged") && error.contains("`untagged`"), "{error}");
    assert_eq!(kept.partitions_computed(), 1);
    kept.unpersist();
    assert_eq!(kept.persist(Level::Memory).count().unwrap(), 10);
}
