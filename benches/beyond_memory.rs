//! One epoch over samples that memory cannot hold, and the most memory that it took:
//! `cargo bench --bench beyond_memory -- --memory 64MB --threads 2`.
//!
//! The samples are generated, kept on disk as blocks, and trained on by the MLP 784-256-128-10. With more `--memory`
//! than they take, the same epoch is one from memory, with the same parameters at its end.

mod common;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::{emit, machine, mix, peak_memory_bytes};
use distdl::prelude::*;
use serde::Serialize;

const FEATURES: usize = 784;

/// Measures training on more data than memory holds.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Samples of 784 bytes.
    #[arg(long, default_value_t = 850_000)]
    samples: u64,
    /// Partitions that they come in.
    #[arg(long, default_value_t = 256)]
    partitions: usize,
    /// Samples in a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Logical streams.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    samples: u64,
    sample_bytes: u64,
    memory_bytes_max: u64,
    peak_memory_bytes: u64,
    seconds_to_prepare: f64,
    samples_per_second: f64,
    mean_loss: f64,
    threads: usize,
    parameters_hash: String,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        emit(&measure(context, &arguments)?);
        Ok(())
    })
}

fn measure(context: &Context, arguments: &Arguments) -> Result<Figure, Failure> {
    let (samples, partitions) = (arguments.samples, arguments.partitions as u64);
    let start = Instant::now();
    let data = context
        .range(0..partitions, arguments.partitions)
        .map(move |partition| generated(partition * samples / partitions..(partition + 1) * samples / partitions))
        .persist(Level::Disk);
    let options = TrainingOptions {
        batch: arguments.batch,
        lanes: arguments.lanes,
        ..TrainingOptions::default()
    };
    let mut training = NeuralNetwork::dense(FEATURES, &[256, 128], 10)?.train(&data, options)?;
    let prepared = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let report = training.run_epoch(|_| ())?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(Figure {
        bench: "beyond_memory",
        samples,
        sample_bytes: samples * FEATURES as u64,
        memory_bytes_max: context.config().memory_bytes_max,
        peak_memory_bytes: peak_memory_bytes(),
        seconds_to_prepare: prepared,
        samples_per_second: samples as f64 / seconds,
        mean_loss: report.mean_loss(),
        threads: context.config().threads,
        parameters_hash: training.parameters_hash(),
        machine: machine(),
    })
}

/// Dots that lie in another stripe for each class, on noise.
fn generated(range: std::ops::Range<u64>) -> Samples {
    let label = |sample: u64| mix(sample) % 10;
    let row = |sample: u64| {
        let words = (0..FEATURES as u64 / 8).map(move |word| mix(sample * 1000 + word).to_le_bytes());
        let bytes = words.flatten().enumerate();
        bytes.map(move |(at, noise)| noise / 4 + 128 * u8::from(at as u64 / 79 == label(sample)))
    };
    let features = Features::U8 {
        bytes: range.clone().flat_map(row).collect(),
        scale: 1.0 / 255.0,
    };
    let labels = range.map(|sample| label(sample) as u32).collect();
    Samples::new(FEATURES, features, SampleTargets::Labels(labels)).unwrap_or_else(|error| unreachable!("{error}"))
}
