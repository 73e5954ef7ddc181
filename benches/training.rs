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
    /// Measures the time of training until this share of the test images is right, in place of samples a second.
    #[arg(long)]
    target: Option<f64>,
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

/// Steps between two looks at the accuracy, which are left out of the time.
const LOOK_STEPS: u64 = 50;

/// Trainings of other seeds, each from the beginning.
const TRAININGS: u64 = 3;

/// Steps after which a target is given up.
const STEPS_MAX: u64 = 10_000;

#[derive(Serialize)]
struct TargetFigure {
    bench: &'static str,
    target: f64,
    batch: usize,
    lanes: usize,
    threads: usize,
    steps: Vec<u64>,
    seconds: Vec<f64>,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        let Mnist { train, test } = Mnist::open(&arguments.data)?;
        let test = context.parallelize(test.split(8)?, 8).cache();
        let train = context
            .parallelize(train.split(arguments.lanes)?, arguments.lanes)
            .cache();
        for batch in &arguments.batch {
            match arguments.target {
                Some(target) => emit(&until(target, context, (&train, &test), *batch, &arguments)?),
                None => emit(&measure(context, &train, *batch, &arguments)?),
            }
        }
        Ok(())
    })
}

fn until(
    target: f64,
    context: &Context,
    (train, test): (&Dataset<Samples>, &Dataset<Samples>),
    batch: usize,
    arguments: &Arguments,
) -> Result<TargetFigure, Failure> {
    let network = NeuralNetwork::dense(784, &[256, 128], 10)?;
    let (mut steps, mut seconds) = (Vec::new(), Vec::new());
    for seed in 0..TRAININGS {
        let options = TrainingOptions {
            batch,
            lanes: arguments.lanes,
            seed: Some(seed),
            ..TrainingOptions::default()
        };
        let (mut training, mut spent) = (network.train(train, options)?, 0.0);
        while training
            .error(test)?
            .accuracy()
            .is_none_or(|accuracy| accuracy < target)
        {
            if training.step() >= STEPS_MAX {
                return Err(format!("{target} is not reached within {STEPS_MAX} steps").into());
            }
            let start = Instant::now();
            training.iterate(LOOK_STEPS, |_| ())?;
            spent += start.elapsed().as_secs_f64();
        }
        steps.push(training.step());
        seconds.push(spent);
    }
    Ok(TargetFigure {
        bench: "training_to_target",
        target,
        batch,
        lanes: arguments.lanes,
        threads: context.config().threads,
        steps,
        seconds,
        machine: machine(),
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
