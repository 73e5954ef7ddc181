//! Partitions that are put together (`coalesce`) are computed one after another, when they are read.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use distdl_engine::{Config, Context, Dataset};
use distdl_storage::{BlockId, Level};

use crate::oracle::context;

const PARTITIONS: usize = 12;

/// Records that say the how manyeth partition they are of that was begun, and how many were.
fn begun(rows: &Dataset<(u64, u64)>) -> (Dataset<u64>, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let begun = Arc::clone(&count);
    let rows = rows.map_partitions(move |rows| {
        let number = begun.fetch_add(1, Ordering::SeqCst) + 1;
        rows.map(move |_| number)
    });
    (rows, count)
}

#[test]
fn a_partition_is_begun_when_the_one_before_has_been_read() {
    let context = context(1 << 20, 1, 16);
    let rows = context.range(0..5_000, 4).map(|x| (x % 700, x));
    let sums = rows.reduce_by_key_into(u64::wrapping_add, PARTITIONS);
    let sorted = rows.sort_by_key_into(PARTITIONS);
    for rows in [
        &sums,
        &sorted,
        &sums.coalesce(5).map(|row| row),
        &sums.persist(Level::Disk),
    ] {
        let (numbers, count) = begun(rows);
        let begun = Arc::clone(&count);
        let ahead = numbers
            .coalesce(2)
            .map(move |number| begun.load(Ordering::SeqCst) - number);
        assert!(ahead.collect().unwrap().iter().all(|ahead| *ahead == 0));
        assert_eq!(count.swap(0, Ordering::SeqCst), rows.partitions() as u64);
        assert_eq!(ahead.take(1).unwrap(), [0]);
        assert_eq!(count.load(Ordering::SeqCst), 1, "the others are not computed at all");
    }
}

/// A thousand rows in blocks on disk, and where each block lies.
fn kept_on_disk(spill: &Path, threads: usize, partitions: usize) -> (Context, Dataset<u64>, impl Fn(u64) -> PathBuf) {
    let config = Config::default().with_spill_folder(spill).with_threads(threads);
    let context = Context::new(config).unwrap();
    let rows = context.range(0..1_000, partitions).map(|x| x * 3).persist(Level::Disk);
    assert_eq!(rows.count().unwrap(), 1_000);
    let mut files = fs::read_dir(spill).unwrap().map(|entry| entry.unwrap().path());
    let (folder, dataset) = (files.find(|path| path.is_dir()).unwrap(), rows.id().0);
    let file_of = move |partition| folder.join(BlockId { dataset, partition }.file_name());
    (context, rows, file_of)
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// `cartesian` reads one side while it is opened, and the task opens it again.
#[test]
fn an_action_counts_what_it_adds_where_an_operator_met_a_damaged_block() {
    let folder = tempfile::tempdir().unwrap();
    let (context, rows, file_of) = kept_on_disk(folder.path(), 1, 2);
    flip(&file_of(1));
    let counter = context.counter();
    let added = counter.clone();
    let pairs = context.range(0..2, 1).cartesian(&rows.coalesce(1));
    pairs.for_each(move |_| added.add(1)).unwrap();
    assert_eq!(context.metrics().blocks_lost(), 1);
    assert_eq!(counter.value(), 2_000);
}

#[test]
fn a_block_that_is_damaged_is_found_when_it_is_read_and_computed_again() {
    let folder = tempfile::tempdir().unwrap();
    let (context, rows, file_of) = kept_on_disk(folder.path(), 2, PARTITIONS);
    [3, 7].into_iter().for_each(|partition| flip(&file_of(partition)));
    // The records of one are sent into a shuffle until it is found.
    let dealt = rows.coalesce(1).repartition(3);
    assert_eq!(dealt.count().unwrap(), 1_000);
    assert_eq!(
        rows.coalesce(2).collect().unwrap(),
        (0..1_000).map(|x| x * 3).collect::<Vec<u64>>()
    );
    assert_eq!(context.metrics().blocks_lost(), 2);
    assert_eq!(rows.partitions_computed(), PARTITIONS as u64 + 2);
}

#[test]
fn many_damaged_blocks_of_one_partition_cost_one_round_and_not_one_each() {
    let folder = tempfile::tempdir().unwrap();
    let (context, rows, file_of) = kept_on_disk(folder.path(), 1, 40);
    // More than an action has rounds.
    for partition in 5..35 {
        fs::write(file_of(partition), b"other").unwrap();
    }
    let jobs = context.metrics().jobs();
    assert_eq!(rows.coalesce(1).count().unwrap(), 1_000);
    assert_eq!(context.metrics().jobs() - jobs, 2);
    assert_eq!(context.metrics().blocks_lost(), 30);
}

#[test]
fn blocks_in_memory_that_wait_are_not_pushed_out() {
    let context = context(200_000, 1, 16);
    let kept = context.range(0..21_600, PARTITIONS).cache();
    assert_eq!(kept.count().unwrap(), 21_600);
    assert_eq!(context.store().ids().len(), PARTITIONS);
    // What combines them wants more memory than is left.
    let counts = kept
        .coalesce(1)
        .map(|x| (x, 1u64))
        .reduce_by_key(|left, right| left + right);
    assert_eq!(counts.count().unwrap(), 21_600);
    assert_eq!(kept.partitions_computed(), PARTITIONS as u64);
    assert_eq!(context.metrics().blocks_lost(), 0);
}

#[test]
fn what_is_kept_and_read_again_outside_is_computed_once() {
    let context = context(1 << 20, 1, 16);
    let kept = context.range(0..100, PARTITIONS).map(|x| x + 1).cache();
    let other = kept.map(|x| x * 2).coalesce(3);
    let both = kept.coalesce(3).zip(&other).unwrap().coalesce(1);
    let expected: Vec<(u64, u64)> = (1..=100).map(|x| (x, x * 2)).collect();
    assert_eq!(both.collect().unwrap(), expected);
    assert_eq!(kept.partitions_computed(), PARTITIONS as u64);
    assert_eq!(context.metrics().blocks_lost(), 0);
}

/// One block finds no room: that says nothing of those of other datasets.
#[test]
fn a_block_without_room_is_no_loss_and_others_are_still_read_again() {
    let context = context(4_000, 1, 16);
    let counted = |records: u64| {
        let count = Arc::new(AtomicU64::new(0));
        let computed = Arc::clone(&count);
        let rows = context.range(0..records, 1).map_partitions(move |rows| {
            computed.fetch_add(1, Ordering::SeqCst);
            rows
        });
        let kept = rows.cache();
        (kept.zip(&kept.map(|x| x + 1)).unwrap(), count)
    };
    let ((large, large_count), (small, small_count)) = (counted(1_000), counted(10));
    assert_eq!(large.union(&small).coalesce(1).count().unwrap(), 1_010);
    assert_eq!(small_count.load(Ordering::SeqCst), 1);
    assert_eq!(
        large_count.load(Ordering::SeqCst),
        3,
        "once in vain, and for each that reads it"
    );
    assert_eq!(context.metrics().blocks_lost(), 0);
}
