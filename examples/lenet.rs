//! Trains a convolutional network on the real MNIST digits: `cargo run --release --example lenet`.
//!
//! It is the LeNet of Caffe: 20 channels of 5 x 5, pooled, 50 of 5 x 5, pooled, 500 units and 10 classes.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use distdl::prelude::*;

/// Trains LeNet on MNIST and reports its accuracy on the test set after each epoch.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Passes over the 60,000 training images.
    #[arg(long, default_value_t = 3)]
    epochs: u64,
    /// Images in a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Logical streams that a step's images come from; the result depends on it, but never on the number of threads.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Size of the first step; it falls to 0 along half a cosine.
    #[arg(long, default_value_t = 0.05)]
    learning_rate: f32,
    /// Share of the steps before that a step keeps.
    #[arg(long, default_value_t = 0.9)]
    momentum: f64,
    /// Folder with the four MNIST files, or its URL.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| train(context, &arguments))
}

fn lenet() -> Result<NeuralNetwork, Failure> {
    let image = Image {
        channels: 1,
        height: 28,
        width: 28,
    };
    let network = NeuralNetwork::new(image)
        .hidden(Conv2d::new(20, 5))
        .hidden(MaxPool2d::new(2))
        .hidden(Conv2d::new(50, 5))
        .hidden(MaxPool2d::new(2))
        .hidden(Flatten)
        .hidden(Dense::relu(500))
        .output(Dense::linear(10), Loss::SoftmaxCrossEntropy)?;
    Ok(network)
}

fn train(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let Mnist { train, test } = Mnist::open_from(context.stores(), &arguments.data)?;
    let lanes = arguments.lanes.max(1);
    let steps = arguments.epochs * train.len().div_ceil(arguments.batch.max(1)) as u64;
    let train = context.parallelize(train.split(lanes)?, lanes).cache();
    let test = context.parallelize(test.split(8)?, 8).cache();
    let options = TrainingOptions {
        batch: arguments.batch,
        lanes,
        schedule: Some(Schedule::Cosine {
            initial: arguments.learning_rate,
            minimum: 0.0,
            steps,
        }),
        optimizer: std::sync::Arc::new(Sgd::with_momentum(arguments.momentum)),
        ..TrainingOptions::default()
    };
    let mut training = lenet()?.train(&train, options)?;
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
    Ok(reporter.finish()?)
}
