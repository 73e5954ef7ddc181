//! Datasets that are written down: whole or not at all, computed once, and what they were derived from dropped.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{PARTITIONS, Row, context, files, flip};
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, Dataset, EngineError};
use distdl_storage::Level;

/// Rows behind a shuffle whose partitions are counted as they are computed.
fn counted(context: &Context, computed: &Arc<AtomicU64>) -> Dataset<Row> {
    let computed = Arc::clone(computed);
    let rows = context.range(0..200, 3).map(|x| (x % 23, x * x));
    let sums = rows.reduce_by_key_into(|left, right| left.wrapping_mul(31) ^ right, PARTITIONS);
    sums.map_partitions(move |rows| {
        computed.fetch_add(1, Ordering::SeqCst);
        rows
    })
}

/// A run of one program: the checkpoint in `folder`, and how many partitions it has computed.
fn run(folder: &Path) -> Result<(Vec<Row>, u64), EngineError> {
    let (context, computed) = (context(2), Arc::default());
    let kept = counted(&context, &computed).checkpoint(folder.to_str().unwrap())?;
    let rows = kept.collect()?;
    Ok((rows, computed.load(Ordering::SeqCst)))
}

#[test]
fn a_later_run_reads_the_checkpoint_and_computes_what_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (rows, computed) = run(folder).unwrap();
    assert_eq!(computed, PARTITIONS as u64);
    assert_eq!(run(folder).unwrap(), (rows.clone(), 0), "all of it is there");
    let blobs = files(folder, "blob-");
    assert_eq!(blobs.len(), PARTITIONS);
    fs::remove_file(&blobs[1]).unwrap();
    let cut = fs::read(&blobs[2]).unwrap();
    fs::write(&blobs[2], &cut[..cut.len() - 1]).unwrap();
    assert_eq!(run(folder).unwrap(), (rows.clone(), 2));
    assert_eq!(run(folder).unwrap(), (rows.clone(), 0));
    flip(&files(folder, "checkpoint-")[0]);
    assert_eq!(
        run(folder).unwrap(),
        (rows.clone(), PARTITIONS as u64),
        "the manifest is gone"
    );
    assert_eq!(run(folder).unwrap(), (rows, 0));
    assert_eq!(files(folder, "").len(), PARTITIONS + 1, "nothing else is left behind");
}

/// Three rounds of one computation at one place, which are told apart by what their closure captures; `fails` once.
fn rounds(folder: &Path, fails: Option<u64>, again: bool) -> Vec<Vec<u64>> {
    let context = context(1);
    let mut kept = Vec::new();
    let mut left = fails;
    for round in 0..3_u64 {
        loop {
            let fails = left.take_if(|fails| *fails == round).is_some();
            let numbers = context.range(0..10, 2).map(move |x| {
                assert!(!fails, "this round fails");
                x * 10 + round
            });
            match numbers.checkpoint(folder.to_str().unwrap()) {
                Ok(dataset) => kept.push(dataset.collect().unwrap()),
                Err(_) if again => continue,
                Err(_) => {}
            }
            break;
        }
    }
    kept
}

#[test]
fn a_checkpoint_that_failed_leaves_no_records_to_another_one() {
    let expected: Vec<Vec<u64>> = (0..3).map(|round| (0..10).map(|x| x * 10 + round).collect()).collect();
    for fails in 0..3 {
        for again in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let first = rounds(folder.path(), Some(fails), again);
            assert_eq!(first.len(), if again { 3 } else { 2 });
            assert_eq!(
                rounds(folder.path(), None, again),
                expected,
                "round {fails} failed before"
            );
        }
    }
}

#[test]
fn a_flipped_bit_is_an_error_that_names_the_partition_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let rows = run(folder.path()).unwrap().0;
    let damaged = &files(folder.path(), "blob-")[3];
    flip(damaged);
    let error = run(folder.path()).unwrap_err().to_string();
    let name = damaged.file_name().unwrap().to_str().unwrap();
    assert!(error.contains(name) && error.contains("partition"), "{error}");
    // What it says to do.
    fs::remove_file(damaged).unwrap();
    assert_eq!(run(folder.path()).unwrap(), (rows, 1));
}

#[test]
fn what_a_checkpoint_is_derived_from_is_freed() {
    let (folder, context) = (tempfile::tempdir().unwrap(), context(2));
    let url = folder.path().to_str().unwrap();
    let base = context.range(0..100, PARTITIONS).map(|x| (x % 5, x)).cache();
    let sums = base.reduce_by_key(|left, right| left + right).cache();
    let kept = sums.map_values(|sum| sum + 1).checkpoint(url).unwrap();
    assert!(!context.store().ids().is_empty());
    assert!(context.live_datasets() > 1);
    drop((base, sums));
    assert_eq!(context.live_datasets(), 1);
    assert!(context.store().ids().is_empty());
    let text = kept.explain();
    assert!(
        text.contains("checkpoint [4 partitions] of ") && text.contains(url),
        "{text}"
    );
    assert!(text.contains("checkpoints.rs:"), "{text}");
    // Keys lie where they did: no shuffle.
    assert!(!kept.reduce_by_key(|left, _| left).explain().contains("by shuffle"));
    let rows: Vec<Row> = kept.collect().unwrap();
    assert_eq!(rows.iter().map(|(_, sum)| sum).sum::<u64>(), 4950 + 5);
}

#[test]
fn rounds_at_one_place_do_not_take_each_others_results() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    for computes in [true, false] {
        let (context, computed) = (context(1), Arc::new(AtomicU64::new(0)));
        let base = context.range(0..10, 2);
        for factor in 1..4 {
            let computed = Arc::clone(&computed);
            let kept = base.map(move |x| {
                computed.fetch_add(1, Ordering::SeqCst);
                x * factor
            });
            let sum = kept.checkpoint(url).unwrap().reduce(|left, right| left + right);
            assert_eq!(sum.unwrap(), Some(45 * factor));
        }
        assert_eq!(computed.load(Ordering::SeqCst), if computes { 30 } else { 0 });
    }
}

#[test]
fn a_place_that_cannot_be_written_is_an_error_and_the_context_goes_on() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let context = context(2);
    let rows = context.range(0..10, 2);
    let error = rows.checkpoint(file.path().to_str().unwrap()).unwrap_err().to_string();
    assert!(error.contains(file.path().to_str().unwrap()), "{error}");
    assert!(rows.checkpoint("http://127.0.0.1:1/x").is_err());
    assert_eq!(rows.count().unwrap(), 10);
}

#[test]
fn each_partition_is_written_once_by_several_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    for expected in [PARTITIONS as u64, 0] {
        let (computed, path) = (Arc::new(AtomicU64::new(0)), path.clone());
        let seen = Arc::clone(&computed);
        let run = TestCluster::new(3).run(move |context| {
            let kept = counted(context, &computed).checkpoint(path.to_str().unwrap())?;
            kept.collect()
        });
        let results = run.unwrap().results;
        assert_eq!(results.len(), 3);
        assert!(results.iter().all(|rows| *rows == results[0]));
        assert_eq!(seen.load(Ordering::SeqCst), expected);
    }
    assert_eq!(files(&path, "").len(), PARTITIONS + 1);
}

#[test]
fn batches_of_a_checkpoint_are_those_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        batch_records: 3,
        ..Config::default()
    };
    let context = Context::new(config.with_threads(1)).unwrap();
    let kept = context
        .range(0..10, 1)
        .checkpoint(folder.path().to_str().unwrap())
        .unwrap();
    assert_eq!(
        kept.persist(Level::Memory).map(|x| x).collect().unwrap(),
        (0..10).collect::<Vec<u64>>()
    );
    assert_eq!(kept.partitions_computed(), 1);
}
