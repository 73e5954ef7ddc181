//! Trains on MNIST with lanes that need not wait for each other: `cargo run --release --example staleness`.
//!
//! With `--threads 2 --chaos slow=thread:1@times:10` the second thread is ten times as slow.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use distdl::prelude::*;

/// Trains a dense network on MNIST, and says what each worker's steps took and how long it waited.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// How old the parameters may be that a lane reads: `synchronous`, `fixed_lag:3`, `bounded:3` or `asynchronous`.
    #[arg(long, default_value = "bounded:3")]
    staleness: Staleness,
    /// Passes over the 60,000 training images.
    #[arg(long, default_value_t = 3)]
    epochs: u64,
    /// Images in a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Logical streams that a step's images come from.
    #[arg(long, default_value_t = 4)]
    lanes: usize,
    /// Size of a step of SGD.
    #[arg(long, default_value_t = 0.2)]
    learning_rate: f32,
    /// Folder with the four MNIST files, or its URL.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| train(context, &arguments))
}

fn train(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let Mnist { train, test } = Mnist::open_from(context.stores(), &arguments.data)?;
    let lanes = arguments.lanes.max(1);
    let train = context.parallelize(train.split(lanes)?, lanes).cache();
    let test = context.parallelize(test.split(8)?, 8).cache();
    let options = TrainingOptions {
        batch: arguments.batch,
        lanes,
        staleness: arguments.staleness,
        schedule: Some(Schedule::Constant(arguments.learning_rate)),
        ..TrainingOptions::default()
    };
    let mut training = NeuralNetwork::dense(784, &[256, 128], 10)?.train(&train, options)?;
    let mut reporter = Reporter::new(context, &training, arguments.epochs);
    while training.epoch() < arguments.epochs {
        let (start, mut samples) = (Instant::now(), 0);
        let trained = training.run_epoch(|step| {
            samples += step.report.samples;
            reporter.step(step, samples as f64 / start.elapsed().as_secs_f64());
        })?;
        let took = start.elapsed();
        reporter.epoch(&training, &trained, took, &training.error(&test)?)?;
    }
    reporter.workers()?;
    Ok(reporter.finish()?)
}
