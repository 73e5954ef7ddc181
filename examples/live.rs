//! Trains on MNIST, changes the data, and goes on: `cargo run --release --example live`.
//!
//! The samples are live records: which image, and which digit it shows. Statistics follow each change at the cost of
//! the change, only the partitions that changed are gathered again, and training says which of its batches are others
//! now.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use distdl::prelude::*;
use distdl::{Accumulator, DataChange, LiveOptions, LiveView, Normalization, Totals};
use serde_json::json;

/// Trains on the first part of MNIST, adds and removes samples, and goes on.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Images to begin with.
    #[arg(long, default_value_t = 10_000)]
    first: usize,
    /// Images that are added later; as many are taken away.
    #[arg(long, default_value_t = 3)]
    changes: usize,
    /// Folder with the four MNIST files.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: PathBuf,
}

/// Partitions of the data, each a lane of training.
const LANES: usize = 8;

/// A sample: 0-based image of the training set, and its digit.
type Sample = (u32, u32);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // `memoize` needs a folder.
    let folder = tempfile::tempdir();
    let config = arguments.flags.config().map(|config| match &folder {
        Ok(folder) if config.cache_folder.is_none() => config.with_cache_folder(folder.path()),
        _ => config,
    });
    distdl::run(config, |context| train(context, &arguments))
}

fn train(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let train = Mnist::open(&arguments.data)?.train;
    let (Features::U8 { bytes, .. }, SampleTargets::Labels(labels)) = (train.features(), train.targets()) else {
        return Err("MNIST has bytes and labels".into());
    };
    let labelled: Vec<Sample> = (0..).zip(labels.iter().copied()).collect();
    let images: Arc<[Vec<u8>]> = bytes.chunks(784).map(<[u8]>::to_vec).collect();

    let live = context.live(LiveOptions::default());
    let samples = live.input::<Sample>("samples");
    let (read, all, bytes) = (samples.clone(), samples.clone(), Arc::clone(&images));
    let view = live.view("samples", LANES, move |scope| read.read(scope))?;
    let statistics = live.view("statistics", 1, move |scope| {
        let bytes = Arc::clone(&bytes);
        let values = move |image: u32| bytes[image as usize].iter().map(|byte| i32::from(*byte)).collect();
        all.read(scope).totals(move |(image, digit)| (*digit, values(*image)))
    })?;
    let (first, later) = labelled.split_at(arguments.first.min(labelled.len()));
    first.iter().try_for_each(|sample| samples.insert(*sample))?;
    live.commit()?;

    let gathered = context.counter();
    // One block of images a partition. What was gathered before for the same samples is not gathered again.
    let gather = |snapshot: &Dataset<Sample>| {
        let (images, gathered) = (Arc::clone(&images), gathered.clone());
        let blocks = snapshot.glom().flat_map(move |samples| {
            gathered.add(1);
            let bytes = samples.iter().flat_map(|(image, _)| &images[*image as usize]);
            let (bytes, scale) = (bytes.copied().collect(), 1.0 / 255.0);
            let labels = samples.iter().map(|(_, label)| *label).collect();
            Samples::new(784, Features::U8 { bytes, scale }, SampleTargets::Labels(labels))
        });
        blocks.memoize("images of samples", 1)
    };
    let before = view.snapshot()?;
    let data = gather(&before)?;
    let mut options = TrainingOptions::default();
    (options.lanes, options.batch) = (LANES, 4 * LANES);
    let mut training = NeuralNetwork::dense(784, &[64], 10)?.train(&data, options)?;
    training.run_epoch(|_| ())?;
    report(context, &training, &gathered, &statistics)?;

    for (new, old) in later.iter().zip(first).take(arguments.changes) {
        samples.insert(*new)?;
        samples.retract(*old)?;
    }
    let passed = live.figures().records;
    let (changed, passed) = (live.commit()?, live.figures().records - passed);
    let after = view.snapshot()?;
    let partitions = after.changed_partitions(&before).unwrap_or_default();
    let change = training.change_data(&gather(&after)?)?;
    report_change(context, (changed as u64, passed), &partitions, &change);
    training.run_epoch(|_| ())?;
    report(context, &training, &gathered, &statistics)
}

fn report_change(context: &Context, (samples, passed): (u64, u64), partitions: &[usize], change: &DataChange) {
    let (changed, batches) = (change.changed.len(), change.batches);
    if context.config().json {
        let object = json!({
            "samples_changed": samples,
            "records_passed": passed,
            "partitions_changed": partitions,
            "batches_changed": changed,
            "batches": batches,
        });
        println!("{object}");
        return;
    }
    println!("{samples} samples changed: {passed} records passed operators, partitions {partitions:?} changed");
    println!("{changed} of {batches} batches changed");
}

fn report(
    context: &Context,
    training: &Training,
    gathered: &Accumulator<u64>,
    statistics: &LiveView<(u32, Totals)>,
) -> Result<(), Failure> {
    let (mut all, classes) = (Totals::default(), statistics.contents()?);
    classes.iter().for_each(|((_, totals), _)| all.merge(totals));
    let counts: Vec<i64> = classes.iter().map(|((_, totals), _)| totals.count).collect();
    let mean = Normalization::new(&all, 1.0 / 255.0)?.mean().iter().sum::<f32>() / 784.0;
    let (gathered, hash) = (gathered.value(), training.parameters_hash());
    if context.config().json {
        let object = json!({
            "partitions_gathered": gathered,
            "parameters_hash": hash,
            "samples_of_each_digit": counts,
            "mean_brightness": mean,
        });
        println!("{object}");
        return Ok(());
    }
    println!("{gathered} partitions gathered, parameters {hash}");
    println!("samples of each digit {counts:?}, mean brightness {mean:.5}");
    Ok(())
}
