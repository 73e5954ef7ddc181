//! Blocks that are dropped, deleted or damaged between actions and during them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use distdl::engine::DatasetId;
use distdl::{Config, Context, Dataset, Level};
use proptest::prelude::*;

use crate::common::{block, cases, context, levels, small_batches};
use crate::oracle::Row;

const PARTITIONS: usize = 5;

/// Three persisted stages: narrow, behind a shuffle, and narrow behind that.
struct Stages {
    kept: [Dataset<Row>; 3],
}

impl Stages {
    fn new(context: &Context, levels: [Level; 3]) -> Self {
        let base = context
            .range(0..400, PARTITIONS)
            .map(|x| (x % 40, x))
            .persist(levels[0]);
        let sums = base.reduce_by_key(|left, right| left * 31 + right).persist(levels[1]);
        let last = sums.map_values(|value| value ^ 0xFF).persist(levels[2]);
        Self {
            kept: [base, sums, last],
        }
    }

    fn last(&self) -> Vec<Row> {
        self.kept[2].collect().unwrap()
    }

    fn computed(&self) -> [u64; 3] {
        [0, 1, 2].map(|stage| self.kept[stage].partitions_computed())
    }
}

/// What the loss of these blocks makes it compute again: whatever is lost and asked for. A lost partition behind a
/// shuffle asks for all partitions before it.
fn computed_again(lost: &[[bool; PARTITIONS]; 3]) -> [u64; 3] {
    let count = |wanted: &dyn Fn(usize) -> bool| (0..PARTITIONS).filter(|partition| wanted(*partition)).count() as u64;
    let last = count(&|partition| lost[2][partition]);
    let sums = count(&|partition| lost[2][partition] && lost[1][partition]);
    let base = count(&|partition| sums > 0 && lost[0][partition]);
    [base, sums, last]
}

fn difference(after: [u64; 3], before: [u64; 3]) -> [u64; 3] {
    [0, 1, 2].map(|stage| after[stage] - before[stage])
}

fn each_lost(lost: &[[bool; PARTITIONS]; 3], mut lose: impl FnMut(usize, usize)) {
    for (stage, partitions) in lost.iter().enumerate() {
        for (partition, lost) in partitions.iter().enumerate() {
            if *lost {
                lose(stage, partition);
            }
        }
    }
}

fn file_of(folder: &Path, dataset: DatasetId, partition: usize) -> PathBuf {
    let name = block(dataset, partition).file_name();
    let inner = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files = inner.map(|inner| inner.join(&name)).filter(|path| path.is_file());
    files.next().expect("a block at level `Disk` is a file")
}

#[derive(Debug, Clone)]
enum Damage {
    Delete,
    Truncate(f64),
    FlipByte(f64, u8),
    Append,
}

impl Damage {
    fn apply(&self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let at = |share: &f64| ((share * bytes.len() as f64) as usize).min(bytes.len() - 1);
        match self {
            Self::Delete => return fs::remove_file(path).unwrap(),
            Self::Truncate(share) => bytes.truncate(at(share)),
            Self::FlipByte(share, bits) => {
                let at = at(share);
                bytes[at] ^= bits;
            }
            Self::Append => bytes.push(0),
        }
        fs::write(path, bytes).unwrap();
    }
}

fn damages() -> impl Strategy<Value = Damage> {
    prop_oneof![
        Just(Damage::Delete),
        (0.0..1.0).prop_map(Damage::Truncate),
        ((0.0..1.0), 1..=255u8).prop_map(|(share, bits)| Damage::FlipByte(share, bits)),
        Just(Damage::Append),
    ]
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn blocks_dropped_between_actions_are_computed_again_and_nothing_else(
        threads in 1..=3usize,
        levels in prop::array::uniform3(levels()),
        lost in prop::array::uniform3(prop::array::uniform5(any::<bool>())),
    ) {
        let context = small_batches(threads, 7);
        let stages = Stages::new(&context, levels);
        let expected = stages.last();
        prop_assert_eq!(stages.computed(), [PARTITIONS as u64; 3]);
        prop_assert_eq!(&stages.last(), &expected);
        prop_assert_eq!(stages.computed(), [PARTITIONS as u64; 3], "an undisturbed action computes nothing again");
        each_lost(&lost, |stage, partition| {
            assert!(context.store().remove(block(stages.kept[stage].id(), partition)).unwrap());
        });
        let before = stages.computed();
        prop_assert_eq!(&stages.last(), &expected);
        prop_assert_eq!(difference(stages.computed(), before), computed_again(&lost));
        prop_assert_eq!(context.metrics().blocks_lost(), 0, "it was known before planning");
        let before = stages.computed();
        prop_assert_eq!(&stages.last(), &expected);
        prop_assert_eq!(stages.computed(), before);
    }

    #[test]
    fn files_damaged_between_actions_are_noticed_and_computed_again(
        threads in 1..=3usize,
        lost in prop::array::uniform3(prop::array::uniform5(prop::bool::weighted(0.4))),
        damages in prop::collection::vec(damages(), 3 * PARTITIONS),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { spill_folder: Some(folder.path().to_owned()), ..Config::default() };
        let context = Context::new(config.with_threads(threads)).unwrap();
        let stages = Stages::new(&context, [Level::Disk; 3]);
        let expected = stages.last();
        each_lost(&lost, |stage, partition| {
            damages[stage * PARTITIONS + partition].apply(&file_of(folder.path(), stages.kept[stage].id(), partition));
        });
        let before = stages.computed();
        prop_assert_eq!(&stages.last(), &expected);
        let again = computed_again(&lost);
        prop_assert_eq!(difference(stages.computed(), before), again);
        prop_assert_eq!(context.metrics().blocks_lost(), again.iter().sum::<u64>());
        let before = stages.computed();
        prop_assert_eq!(&stages.last(), &expected);
        prop_assert_eq!(stages.computed(), before);
    }
}

/// Drops blocks while closures run: at drawn moments, a drawn number of times.
struct Saboteur {
    context: Context,
    armed: AtomicBool,
    records: AtomicU64,
    /// (At which record, which of the targets, which partition of it.)
    drops: Vec<(u64, usize, usize)>,
    targets: Vec<DatasetId>,
}

impl Saboteur {
    fn new(context: &Context, drops: &[(u64, usize, usize)], targets: &[&Dataset<Row>]) -> Arc<Self> {
        Arc::new(Self {
            context: context.clone(),
            armed: AtomicBool::new(false),
            records: AtomicU64::new(0),
            drops: drops.to_vec(),
            targets: targets.iter().map(|dataset| dataset.id()).collect(),
        })
    }

    fn record(&self) {
        if !self.armed.load(Ordering::SeqCst) {
            return;
        }
        let now = self.records.fetch_add(1, Ordering::SeqCst);
        for (_, target, partition) in self.drops.iter().filter(|(moment, ..)| *moment == now) {
            let target = self.targets[target % self.targets.len()];
            self.context.store().remove(block(target, *partition)).unwrap();
        }
    }

    fn watch(self: &Arc<Self>, dataset: &Dataset<Row>) -> Dataset<Row> {
        let saboteur = Arc::clone(self);
        dataset.map(move |row| {
            saboteur.record();
            row
        })
    }
}

fn drops() -> impl Strategy<Value = Vec<(u64, usize, usize)>> {
    prop::collection::vec((0..120u64, 0..3usize, 0..PARTITIONS), 1..7)
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn blocks_dropped_during_an_action_do_not_show_in_its_result(
        threads in 1..=3usize,
        levels in prop::array::uniform3(levels()),
        drops in drops(),
        shape in 0..6usize,
        batch_records in prop_oneof![Just(3usize), Just(1024)],
    ) {
        let context = small_batches(threads, batch_records);
        let Stages { kept } = Stages::new(&context, levels);
        let [base, sums, last] = &kept;
        let saboteur = Saboteur::new(&context, &drops, &[base, sums, last]);
        let result = match shape {
            0 => saboteur.watch(base),
            1 => saboteur.watch(sums),
            2 => saboteur.watch(last),
            // The blocks of one side hide a shuffle that the other side reads.
            3 => saboteur.watch(last).union(&sums.map_values(|value| value + 1)),
            4 => saboteur.watch(&last.zip(sums).unwrap().map(|(left, right)| (left.0, left.1 ^ right.1))).coalesce(2),
            _ => saboteur.watch(base).union(&saboteur.watch(last)).reduce_by_key(|left, right| left * 31 + right),
        };
        let expected = result.collect().unwrap();
        saboteur.armed.store(true, Ordering::SeqCst);
        prop_assert_eq!(&result.collect().unwrap(), &expected);
        saboteur.armed.store(false, Ordering::SeqCst);
        prop_assert_eq!(&result.collect().unwrap(), &expected);
    }
}

/// The first record of partition 0 drops the block of partition 3 of `kept`, which has been planned on.
fn one_block_dropped_during_an_action(kept: &Dataset<Row>) {
    let context = kept.context().clone();
    let saboteur = Saboteur::new(&context, &[(0, 0, 3)], &[kept]);
    let watched = saboteur.watch(kept);
    let expected = watched.collect().unwrap();
    let (computed, lost) = (kept.partitions_computed(), context.metrics().blocks_lost());
    saboteur.armed.store(true, Ordering::SeqCst);
    assert_eq!(watched.collect().unwrap(), expected);
    assert_eq!(kept.partitions_computed() - computed, 1);
    assert_eq!(context.metrics().blocks_lost() - lost, 1);
}

#[test]
fn a_block_dropped_during_an_action_is_computed_once_more() {
    let context = context(1);
    let rows = context.range(0..400, PARTITIONS).map(|x| (x % 40, x));
    one_block_dropped_during_an_action(&rows.cache());
}

#[test]
fn a_block_behind_a_shuffle_dropped_during_an_action_is_computed_once_more() {
    let context = context(1);
    let rows = context.range(0..400, PARTITIONS).map(|x| (x % 40, x));
    one_block_dropped_during_an_action(&rows.reduce_by_key(|left, right| left + right).cache());
}

#[test]
fn a_lost_block_does_not_take_the_shuffled_records_of_another_partition() {
    for threads in 1..=2 {
        let context = context(threads);
        let base = context.range(0..400, PARTITIONS).map(|x| (x % 40, x));
        let shuffled = base.group_by_key().map_values(|values| values.iter().sum::<u64>());
        let kept = shuffled.cache();
        let other = shuffled.map_values(|value| value + 1);
        let kept = kept.map_values(|value| value + 2).cache();
        let saboteur = Saboteur::new(&context, &[(0, 0, 1), (0, 0, 2), (0, 0, 4)], &[&kept]);
        let result = saboteur.watch(&kept).union(&other);
        let expected = result.collect().unwrap();
        shuffled.unpersist();
        saboteur.armed.store(true, Ordering::SeqCst);
        assert_eq!(result.collect().unwrap(), expected, "{threads} threads");
    }
}

#[test]
fn a_dataset_larger_than_memory_is_computed_again_or_read_from_disk() {
    for (level, again) in [(Level::Memory, true), (Level::MemoryAndDisk, false)] {
        let config = Config {
            memory_bytes_max: 5000,
            ..Config::default()
        };
        let context = Context::new(config.with_threads(2)).unwrap();
        let rows = context.range(0..2000, 8).map(|x| x * 3).persist(level);
        for _ in 0..3 {
            assert_eq!(rows.collect().unwrap(), (0..2000).map(|x| x * 3).collect::<Vec<u64>>());
            assert!(context.store().memory_bytes_used() <= 5000);
        }
        assert_eq!(rows.partitions_computed() > 8, again);
    }
}

#[test]
fn blocks_that_memory_cannot_hold_together_do_not_stop_an_action() {
    for (rows, partitions, threads) in (20..60)
        .step_by(4)
        .flat_map(|rows| (3..7).flat_map(move |partitions| (1..=3).map(move |threads| (rows, partitions, threads))))
    {
        let config = Config {
            batch_records: 1,
            memory_bytes_max: 400,
            ..Config::default()
        };
        let context = Context::new(config.with_threads(threads)).unwrap();
        let pairs = context.range(0..rows, 6).map(|x| (x * 5 % 12, x));
        let sorted = pairs.sort_by_key_into(partitions).cache();
        let lengths = sorted.glom().map(|rows| (rows.len() as u64, 0));
        let joined = pairs.join(&lengths).sort_by_key_descending_into(2);
        for _ in 0..3 {
            assert!(
                joined.count().is_ok(),
                "{rows} rows, {partitions} partitions, {threads} threads"
            );
        }
    }
}
