//! Samples/s of training the MLP 784-256-128-10 on MNIST, gathering of shuffled mini-batches included, evaluation left
//! out: `cargo bench --bench training -- --threads 1 --batch 128`.

mod common;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::{emit, machine};
use distdl::prelude::*;
use serde::Serialize;

/// Measures training throughput.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Mini-batch sizes to measure, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "128,1024")]
    batch: Vec<usize>,
    /// Logical streams.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Epochs to measure, after one to warm up.
    #[arg(long, default_value_t = 10)]
    epochs: usize,
    /// Folder with the four MNIST files.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: std::path::PathBuf,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    batch: usize,
    lanes: usize,
    threads: usize,
    samples_per_second_min: f64,
    samples_per_second_median: f64,
    samples_per_second_max: f64,
    epochs: usize,
    parameters_hash: String,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        let train = Mnist::open(&arguments.data)?.train;
        let train = context
            .parallelize(train.split(arguments.lanes)?, arguments.lanes)
            .cache();
        for batch in &arguments.batch {
            emit(&measure(context, &train, *batch, &arguments)?);
        }
        Ok(())
    })
}

fn measure(
    context: &Context,
    train: &Dataset<Samples>,
    batch: usize,
    arguments: &Arguments,
) -> Result<Figure, Failure> {
    let network = NeuralNetwork::dense(784, &[256, 128], 10)?;
    let options = TrainingOptions {
        batch,
        lanes: arguments.lanes,
        seed: context.config().seed,
        ..TrainingOptions::default()
    };
    let mut training = network.train(train, options)?;
    training.run_epoch(|_| ())?;
    let mut rates = Vec::new();
    for _ in 0..arguments.epochs.max(1) {
        let start = Instant::now();
        let trained = training.run_epoch(|_| ())?;
        rates.push(trained.samples as f64 / start.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    Ok(Figure {
        bench: "training",
        batch,
        lanes: arguments.lanes,
        threads: context.config().threads,
        samples_per_second_min: rates[0].round(),
        samples_per_second_median: rates[rates.len() / 2].round(),
        samples_per_second_max: rates[rates.len() - 1].round(),
        epochs: rates.len(),
        parameters_hash: training.parameters_hash(),
        machine: machine(),
    })
}
