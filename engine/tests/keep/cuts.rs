//! Lineage that is dropped: by `local_checkpoint`, and where it is long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use distdl_engine::{Config, Context, Dataset, EngineError};
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
    let _ = kept.unpersist();
    assert!(context.store().ids().is_empty());
    assert_eq!(kept.partitions_computed(), PARTITIONS as u64 - 1);
    let id = kept.id();
    drop(kept);
    assert_eq!(context.metrics().partitions_computed(id), 0, "nothing is left of it");
}
