//! What other processes would see: the same results when workers exchange bytes instead of pointers.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use distdl_storage::testing::{FaultTier, Faults, GetFault, WAIT_MAX};
use distdl_storage::{DiskTier, Level, MemoryTier, StorageError, Unpoisoned};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::dataset::Dataset;
use crate::iteration::{Iteration, Lane, Placement, ShardUpdate, StepReport, Tallies};
use crate::parameters::{Parameters, ShardValues};
use crate::partitioner::{HashPartitioner, RangePartitioner};
use crate::testing::TestCluster;

/// A record that no codec can copy as plain memory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
enum Name {
    Nothing,
    Text(String),
    Nested(Vec<Option<u32>>, BTreeMap<u8, String>),
}

fn name(x: u64) -> Name {
    match x % 3 {
        0 => Name::Nothing,
        1 => Name::Text(format!("n{}", x % 7)),
        _ => Name::Nested(vec![None, Some((x % 5) as u32)], BTreeMap::from([(1, x.to_string())])),
    }
}

fn context(threads: usize, batch_records: usize, transport: Transport) -> Context {
    let config = Config {
        batch_records,
        ..Config::default()
    };
    let store = BlockStore::new(StoreOptions::default()).unwrap();
    Context::assemble(config.with_threads(threads), store, None, transport, None).unwrap()
}

/// Every way through a shuffle, as text.
fn pipelines(context: &Context, length: u64, partitions: usize) -> Vec<String> {
    fn text<T: distdl_storage::Record + std::fmt::Debug>(dataset: &Dataset<T>) -> String {
        format!("{:?}", dataset.collect().unwrap())
    }
    let numbers = context.range(0..length, 5);
    let named = numbers.map(|x| (name(x), x));
    let grouped = named.group_by_key_into(partitions).cache();
    let sums = named
        .map_values(|x| 1.0 / (1.0 + x as f32))
        .reduce_by_key_into(|a, b| a + b, partitions);
    vec![
        text(&grouped),
        text(
            &grouped
                .map(|(name, values)| (values.len() as u64, name))
                .sort_by_key_into(partitions),
        ),
        text(&sums),
        text(&sums.join(&grouped)),
        text(&named.cogroup_into(&numbers.map(|x| (name(x + 1), vec![x; 2])), partitions)),
        text(&numbers.map(name).distinct_into(partitions)),
        text(&numbers.map(|x| (x as u8, [x; 2])).repartition(partitions)),
        // One shuffle with two readers, and one bucket with two.
        text(&sums.union(&sums.map_values(|sum| sum + 1.0)).coalesce(2)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn pipelines_over_bytes_give_the_same(
        threads in 2..=3usize,
        length in 0..120u64,
        partitions in 1..5usize,
        batch_records in prop_oneof![1..5usize, Just(1024)],
    ) {
        let run = |transport| pipelines(&context(threads, batch_records, transport), length, partitions);
        prop_assert_eq!(run(Transport::Bytes), run(Transport::Pointers));
    }

    #[test]
    fn an_iteration_over_bytes_gives_the_same_bits(
        lanes in prop::collection::vec(0..3usize, 1..5),
        shards in prop::collection::vec(0..3usize, 1..4),
    ) {
        let run = |transport| train(&context(3, 8, transport), lanes.clone(), shards.clone());
        prop_assert_eq!(run(Transport::Bytes), run(Transport::Pointers));
    }
}

fn train(context: &Context, lanes: Vec<usize>, shards: Vec<usize>) -> Vec<u32> {
    let parameters = Arc::new(Parameters::new((0..17).map(|index| index as f32 * 0.3).collect()));
    let make_lane = |lane: usize| -> Result<Box<dyn Lane>> {
        Ok(Box::new(move |step: u64, parameters: &[f32], update: &mut [f32]| {
            for (value, parameter) in update.iter_mut().zip(parameters) {
                *value = (parameter + lane as f32) / (3.0 + step as f32);
            }
            Ok(Tallies([1.0, 0.1 * lane as f64, 0.0, 0.0]))
        }))
    };
    let make_shard = |_| -> Result<Box<dyn ShardUpdate>> {
        Ok(Box::new(
            |report: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
                for ((after, before), sum) in shard.after.iter_mut().zip(shard.before).zip(sum) {
                    *after = before - (0.1 * sum + report.tallies.0[1] as f32);
                }
                Ok(())
            },
        ))
    };
    let iteration = Iteration::new(lanes.len(), 6)
        .with_shards(shards.len())
        .with_placement(Placement { lanes, shards });
    let mut steps = Vec::new();
    let observe = &mut |report: &StepReport| steps.push(report.step);
    context
        .iterate(iteration, &parameters, make_lane, make_shard, observe)
        .unwrap();
    assert_eq!(steps, [0, 1, 2, 3, 4, 5]);
    parameters.latest().iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_panic_over_bytes_is_an_error_and_the_workers_go_on() {
    let context = context(2, 2, Transport::Bytes);
    let numbers = context.range(0..50, 4).map(|x| (x % 5, x));
    let bad = numbers.reduce_by_key(|_, _| panic!("no"));
    assert!(matches!(bad.count(), Err(EngineError::Panic { .. })));
    assert_eq!(numbers.group_by_key().count().unwrap(), 5);
}

/// What is not here is computed again; behind a cut that is not possible.
#[test]
fn a_block_that_cannot_be_read_for_want_of_open_files_is_not_said_to_be_gone() {
    let faults = Faults::new();
    let disk = FaultTier::new(Box::new(DiskTier::temporary(u64::MAX)), faults.clone());
    let store = BlockStore::with_tiers(Box::new(MemoryTier::new(u64::MAX)), Box::new(disk));
    let config = Config::default().with_threads(1);
    let context = Context::assemble(config, store, None, Transport::Pointers, None).unwrap();
    let kept = context.range(0..10, 1).persist(Level::Disk);
    assert_eq!(kept.count().unwrap(), 10);
    let id = kept.id().block(0);
    faults.on_get(0, GetFault::TooManyFiles);
    let error = context.block_frame(id).unwrap_err();
    assert!(error.is_want_of_resources(), "{error}");
    assert!(context.block_frame(id).unwrap().is_some());
    faults.on_get(0, GetFault::FlipBit(99));
    assert!(context.block_frame(id).unwrap().is_none());
}

#[test]
fn a_dataset_of_more_partitions_than_there_may_be_says_so_to_the_first_action() {
    let context = context(2, 1, Transport::Pointers);
    let refused = |dataset: &Dataset<u64>, words: &str| {
        let error = dataset.map(|x| x + 1).count().unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("context/tests.rs"), "{error}");
    };
    refused(&context.range(0..4, usize::MAX), "`range` at");
    refused(&context.parallelize(0..4, usize::MAX), "`parallelize` at");
    refused(
        &context.range(0..4, 2).repartition(1 << 30),
        "more than 1048576 partitions",
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines.txt");
    std::fs::write(&path, "1\n2\n").unwrap();
    let path = path.to_str().unwrap();
    refused(
        &context.text_file(path, usize::MAX).unwrap().map(|_| 1),
        "`text_file` at",
    );
    refused(&context.objects(path, usize::MAX).unwrap().map(|_| 1), "`objects` at");
    let many = context.range(0..4, 1 << 11);
    refused(&many.cartesian(&many).map(|(x, y)| x * y), "`cartesian` at");
    let few = context.range(0..4, 3).cartesian(&context.range(0..5, 2));
    assert_eq!((few.partitions(), few.count().unwrap()), (6, 20));
}

/// As for too many: no method makes one of what was to be none.
#[test]
fn a_dataset_of_no_partition_says_so_to_the_first_action() {
    let context = context(2, 1, Transport::Pointers);
    let refused = |dataset: &Dataset<u64>, operator: &str| {
        let error = dataset.map(|x| x + 1).count().unwrap_err().to_string();
        let said = format!("`{operator}` at engine/src/context/tests.rs");
        assert!(
            error.contains(&said) && error.contains("no partition; make one at least"),
            "{error}"
        );
    };
    let (numbers, folder) = (context.range(0..9, 3), tempfile::tempdir().unwrap());
    let path = folder.path().join("lines.txt");
    std::fs::write(&path, "1\n2\n").unwrap();
    let path = path.to_str().unwrap();
    refused(&context.range(0..4, 0), "range");
    refused(&context.parallelize(0..4, 0), "parallelize");
    refused(&context.text_file(path, 0).unwrap().map(|_| 1), "text_file");
    refused(
        &context.binary_records(path, 2, 0, 0).unwrap().map(|_| 1),
        "binary_records",
    );
    refused(&context.objects(path, 0).unwrap().map(|_| 1), "objects");
    refused(&numbers.coalesce(0), "coalesce");
    refused(&numbers.repartition(0), "repartition");
    refused(&numbers.distinct_into(0), "distinct");
    refused(&numbers.sort_by_into(|x| *x, 0), "sort_by");
    refused(&numbers.sort_by_descending_into(|x| *x, 0), "sort_by_descending");
    refused(&numbers.group_by_into(|x| x % 2, 0).keys(), "group_by_key");
    let pairs = numbers.key_by(|x| x % 2);
    refused(&pairs.join_into(&pairs, 0).keys(), "join");
    refused(&pairs.partition_by(HashPartitioner::new(0)).keys(), "partition_by");
    let live = context.live(crate::incremental::LiveOptions::default());
    let input = live.input::<u64>("numbers");
    let none = live.view("all", 0, move |scope| input.read(scope));
    assert!(matches!(none, Err(EngineError::Invalid { .. })));
}

#[test]
fn ranges_given_by_a_program_are_its_own_partitioner() {
    let context = context(2, 2, Transport::Pointers);
    let pairs = context.range(0..60, 3).key_by(|x| x * 7 % 20);
    let at = |bounds: &[u64]| RangePartitioner::from_bounds(bounds.iter().copied());
    let placed = pairs.partition_by(at(&[5, 15]).unwrap());
    let keys = placed.keys().glom().collect().unwrap();
    let within = |partition: usize, range: std::ops::Range<u64>| keys[partition].iter().all(|key| range.contains(key));
    assert!(within(0, 0..5) && within(1, 5..15) && within(2, 15..20));
    let shuffles = |dataset: &Dataset<(u64, (u64, u64))>| dataset.explain().matches("by shuffle").count();
    let like = |bounds| pairs.partition_by(at(bounds).unwrap());
    assert_eq!(shuffles(&placed.join(&like(&[5, 15]))), 2, "those of `partition_by`");
    assert_eq!(shuffles(&placed.join(&like(&[5, 16]))), 3);
    for wrong in [&[5, 5][..], &[1, 9, 8]] {
        let error = at(wrong).unwrap_err().to_string();
        assert!(error.contains("is not above the one before"), "{error}");
    }
    // Quantiles of what is given, as a sort has them of what it samples.
    let sample = || (0..40u64).map(|x| x * 3 % 40);
    let quarters = pairs.partition_by(RangePartitioner::from_sample(sample(), 4).unwrap());
    let like = pairs.partition_by(at(&[10, 20, 30]).unwrap());
    assert_eq!(quarters.glom().collect().unwrap(), like.glom().collect().unwrap());
    assert_eq!(shuffles(&quarters.join(&like)), 2);
    let few = pairs.partition_by(RangePartitioner::from_sample([7, 7, 7], 4).unwrap());
    assert_eq!((few.partitions(), few.count().unwrap()), (4, 60));
}

/// A record that becomes bytes and is not read back from them: the first bytes could be of either kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
}

#[test]
fn a_block_that_cannot_be_read_back_is_dropped_for_others_unless_nothing_else_would_bring_it() {
    let context = context(1, 8, Transport::Pointers);
    let kinds = || {
        let kinds = context.range(0..4, 1).map(|x| match x % 2 {
            0 => Untagged::Number(x),
            _ => Untagged::Text(x.to_string()),
        });
        kinds.persist(Level::Disk)
    };
    let kept = kinds();
    kept.for_each_partition(|_, records| records.for_each(drop)).unwrap();
    let id = kept.id().block(0);
    assert!(context.store().contains(id));
    assert!(
        context.block_frame(id).unwrap().is_none(),
        "it is computed again elsewhere"
    );
    assert!(!context.store().contains(id), "and not told of any more");

    let cut = kinds();
    let _ = cut.local_checkpoint().unwrap();
    let error = context.block_frame(cut.id().block(0)).unwrap_err();
    assert!(matches!(error, StorageError::Decode { .. }), "{error}");
    assert!(context.store().contains(cut.id().block(0)));
}

/// A record that has not learnt to be written, which nobody notices as long as it stays in memory.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Mute(u64);

impl Serialize for Mute {
    fn serialize<S: serde::Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        panic!("records of this type stay where they are")
    }
}

/// One that can be written alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Loud(u64);

impl<'de> Deserialize<'de> for Loud {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> std::result::Result<Self, D::Error> {
        panic!("records of this type are not read")
    }
}

#[test]
fn a_panic_of_records_that_others_ask_for_is_an_answer() {
    let context = context(1, 8, Transport::Pointers);
    let mute = context.range(0..4, 1).map(Mute).cache();
    assert_eq!(mute.count().unwrap(), 4);
    let id = mute.id().block(0);
    assert!(context.block_frame(id).unwrap().is_none() && !context.store().contains(id));

    let cut = context.range(0..4, 1).map(Mute).cache();
    let _ = cut.local_checkpoint().unwrap();
    let error = context.block_frame(cut.id().block(0)).unwrap_err();
    assert!(error.to_string().contains("stay where they are"), "{error}");

    let loud = context.range(0..4, 1).map(Loud).cache();
    assert_eq!(loud.count().unwrap(), 4);
    let frame = context.block_frame(loud.id().block(0)).unwrap().unwrap();
    assert_eq!(context.keep_copy(loud.id().block(0), frame), None);
}

#[test]
fn steps_beyond_what_is_counted_are_refused() {
    let context = context(1, 1, Transport::Pointers);
    let lane = |_| -> Result<Box<dyn Lane>> { Ok(Box::new(|_: u64, _: &[f32], _: &mut [f32]| Ok(Tallies::default()))) };
    let shard = |_| -> Result<Box<dyn ShardUpdate>> {
        Ok(Box::new(|_: &StepReport, _: &[f32], _: &mut ShardValues<'_>| Ok(())))
    };
    let (iteration, parameters) = (
        Iteration::new(1, u64::MAX).from_step(1),
        Arc::new(Parameters::new(vec![0.0])),
    );
    let outcome = context.iterate(iteration, &parameters, lane, shard, &mut |_| ());
    assert!(outcome.unwrap_err().to_string().contains("take fewer"));
}

/// Between the job of a local checkpoint and its cut another thread may begin an action that takes as long as it likes.
#[test]
fn a_limit_ends_the_wait_of_a_cut_for_its_turn() {
    let context = context(1, 10, Transport::Pointers);
    let rows = context.range(0..10, 1).persist(Level::Disk);
    assert_eq!(rows.count().unwrap(), 10);
    let lineage = context.lineage(rows.id());
    let (begun, has_begun) = channel();
    let (over, is_over) = channel::<()>();
    std::thread::scope(|scope| {
        let over = over;
        let (context, node) = (&context, lineage.node(rows.id()));
        scope.spawn(move || {
            let _turn = context.begin_action(node).unwrap();
            begun.send(()).unwrap();
            let _ = is_over.recv_timeout(WAIT_MAX);
        });
        has_begun.recv().unwrap();
        let cut = context.with_timeout(Duration::from_millis(1), || context.cut(&lineage));
        assert!(matches!(cut, Err(EngineError::Cancelled { .. })), "{cut:?}");
        drop(over);
    });
    assert!(context.cut(&lineage).unwrap());
}

#[test]
fn what_is_known_of_copies_goes_with_their_dataset() {
    let known = |context: &Context| context.resources().copied_in.lock().unpoisoned().len();
    let run = TestCluster::new(2).run(move |context| {
        let kept = context.range(0..10, 4).persist(Level::Memory2);
        kept.count()?;
        let before = known(context);
        drop(kept);
        Ok((before, known(context)))
    });
    assert_eq!(run.unwrap().results, [(1, 0), (1, 0)]);
}

#[test]
fn rounds_at_one_place_by_several_names_do_not_take_each_others_results() {
    let (context, folder) = (context(1, 8, Transport::Pointers), tempfile::tempdir().unwrap());
    let numbers = context.range(0..10, 2);
    let sums = ["c", "./c", "c/", "../here/c"].iter().zip(1..).map(|(name, factor)| {
        let url = format!("{}/here/{name}", folder.path().display());
        let kept = numbers.map(move |x| x * factor).checkpoint(&url).unwrap();
        kept.reduce(|left, right| left + right).unwrap().unwrap()
    });
    assert_eq!(sums.collect::<Vec<u64>>(), [45, 90, 135, 180]);
}

/// There is no such partition of the operator that reads the shuffle.
#[test]
fn what_finds_no_room_as_it_is_cut_names_whose_records_and_partition_these_are() {
    let config = Config::default().with_threads(1).with_memory_bytes_max(0);
    let context = Context::new(config.with_disk_bytes_max(1000)).unwrap();
    let last = context.range(0..3000, 3).filter(|x| *x >= 2000);
    let pairs = last.map(|x| (x, x)).set_name("pairs");
    let sums = pairs.reduce_by_key_into(|left, right| left + right, 1);
    let text = sums.count().unwrap_err().to_string();
    let begins = "`map \"pairs\", cut for reduce_by_key` (declared at engine/src/context/tests.rs:";
    assert!(text.starts_with(begins) && text.contains("), partition 2: "), "{text}");
    assert!(text.ends_with("raise `disk`"), "{text}");
}

#[test]
fn what_finds_no_room_on_disk_names_operator_place_partition_and_setting() {
    let config = Config::default().with_threads(1).with_memory_bytes_max(0);
    let context = Context::new(config.with_disk_bytes_max(1000)).unwrap();
    let numbers = context.range(0..3000, 3);
    let (spilled, kept) = (
        numbers.map(|x| (x, x)).sort_by_key(),
        numbers.map(|x| x + 1).persist(Level::Disk),
    );
    for (error, operator) in [(spilled.count(), "map, cut for sort_by_key"), (kept.count(), "map")] {
        let error = error.unwrap_err();
        assert!(matches!(error, EngineError::NoRoom { .. }), "{error:?}");
        let text = error.to_string();
        let begins = format!("`{operator}` (declared at engine/src/context/tests.rs:");
        assert!(text.starts_with(&begins) && text.contains("), partition 0: "), "{text}");
        assert!(
            text.ends_with("do not fit into the disk tier, limited to 1000 bytes; raise `disk`"),
            "{text}"
        );
    }
}
