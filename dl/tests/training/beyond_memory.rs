//! Samples that memory has no room for are read from files, and nobody sees it in the result.

use std::sync::OnceLock;

use distdl_dl::{Activation, Dense};
use distdl_dl::{Error, Features, Input, Loss, NeuralNetwork, SampleTargets, Samples, Schedule, TrainingOptions};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, Dataset, EngineError};
use distdl_storage::{Level, StorageError};
use proptest::prelude::*;

const FEATURES: usize = 7;
const PARTITIONS: usize = 5;
const STEPS: u64 = 24;

/// What a sample is made of.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Bytes,
    Values,
}

const KINDS: [Kind; 2] = [Kind::Bytes, Kind::Values];

/// The samples of a partition in several blocks, one of them empty: `0..=4` of them.
fn blocks(partition: usize, kind: Kind) -> Vec<Samples> {
    let block = |block: usize| {
        let samples = 3 * block + partition % 2 * usize::from(block > 0);
        let number = |sample: usize, at: usize| (partition * 31 + block * 17 + sample * 7 + at * 3) % 251;
        let all = |length: usize| (0..samples).flat_map(move |sample| (0..length).map(move |at| number(sample, at)));
        let features = match kind {
            Kind::Bytes => Features::U8 {
                bytes: all(FEATURES).map(|number| number as u8).collect(),
                scale: 1.0 / 255.0,
            },
            Kind::Values => Features::F32(all(FEATURES).map(|number| number as f32 / 251.0).collect()),
        };
        let targets = match kind {
            Kind::Bytes => SampleTargets::Labels(all(1).map(|number| number as u32 % 2).collect()),
            Kind::Values => SampleTargets::Values {
                length: 2,
                values: all(2).map(|number| number as f32 / 100.0).collect(),
            },
        };
        Samples::new(FEATURES, features, targets).unwrap()
    };
    (0..4).map(block).collect()
}

fn data(context: &Context, kind: Kind, level: Option<Level>) -> Dataset<Samples> {
    let partitions = context.range(0..PARTITIONS as u64, PARTITIONS);
    let data = partitions.flat_map(move |partition| blocks(partition as usize, kind));
    match level {
        Some(level) => data.persist(level),
        None => data,
    }
}

fn network(kind: Kind) -> NeuralNetwork {
    let network = NeuralNetwork::new(Input(FEATURES)).hidden(Dense::new(4, Activation::Tanh));
    let loss = match kind {
        Kind::Bytes => Loss::SoftmaxCrossEntropy,
        Kind::Values => Loss::MeanSquaredError,
    };
    network.output(Dense::linear(2), loss).unwrap()
}

/// Trains, and gives a hash of all parameters; at every step what the store holds is within its limit.
fn train(context: &Context, kind: Kind, level: Option<Level>) -> distdl_dl::Result<String> {
    let options = TrainingOptions {
        batch: 11,
        lanes: 3,
        schedule: Some(Schedule::Constant(0.2)),
        ..TrainingOptions::default()
    };
    let mut training = network(kind).train(&data(context, kind, level), options)?;
    let store = context.store();
    training.iterate(STEPS, |_| {
        let used = store.memory_bytes_used() + store.reserved_bytes();
        assert!(used <= context.config().memory_bytes_max, "{used} bytes are in use");
    })?;
    assert_eq!(store.reserved_bytes(), 0, "an iteration that is over keeps nothing");
    Ok(training.parameters_hash())
}

fn context(threads: usize, memory_bytes_max: u64) -> Context {
    let config = Config::default().with_threads(threads);
    Context::new(config.with_memory_bytes_max(memory_bytes_max)).unwrap()
}

fn in_memory(kind: Kind) -> &'static str {
    static HASHES: OnceLock<Vec<String>> = OnceLock::new();
    let train = |kind| train(&context(1, 1 << 30), kind, Some(Level::Memory)).unwrap();
    &HASHES.get_or_init(|| KINDS.map(train).to_vec())[kind as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_limit_and_level_give_the_same_bits(
        threads in 1usize..3,
        memory_bytes_max in prop_oneof![Just(0u64), 0u64..6000],
        kind in 0usize..2,
        level in prop_oneof![
            Just(None),
            Just(Some(Level::Memory)),
            Just(Some(Level::Disk)),
            Just(Some(Level::MemoryAndDisk)),
        ],
    ) {
        let kind = KINDS[kind];
        let hash = train(&context(threads, memory_bytes_max), kind, level).unwrap();
        prop_assert_eq!(hash, in_memory(kind));
    }
}

#[test]
fn lanes_that_move_after_a_loss_read_their_files_again() {
    for kind in KINDS {
        let mut cluster = TestCluster::new(3).with_chaos(Chaos::parse("kill=worker:1@step:9").unwrap());
        cluster.memory_bytes_max = 500;
        let run = cluster.run(move |context| {
            train(context, kind, Some(Level::Disk))
                .map_err(|error| EngineError::invalid(error.to_string(), "see above"))
        });
        let run = run.unwrap();
        // The one that takes its place may come when the program has ended.
        assert!((2..=3).contains(&run.results.len()));
        assert!(run.results.iter().all(|hash| hash == in_memory(kind)));
    }
}

#[test]
fn a_disk_without_room_is_an_error_that_says_so() {
    let config = Config::default().with_threads(1).with_memory_bytes_max(0);
    let context = Context::new(config.with_disk_bytes_max(200)).unwrap();
    let error = train(&context, Kind::Bytes, None).unwrap_err();
    let full = |error: &StorageError| matches!(error, StorageError::OverBudget { tier, .. } if tier == "disk");
    assert!(
        matches!(&error, Error::Engine(EngineError::Storage(error)) if full(error)),
        "{error}"
    );
}
