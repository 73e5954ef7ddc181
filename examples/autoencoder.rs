//! Learns to write MNIST images as a few numbers and to draw them again: `cargo run --release --example autoencoder`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use distdl::prelude::*;

/// Trains an autoencoder on MNIST and reports how well it draws the test images, after each epoch.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Numbers that an image is written as.
    #[arg(long, default_value_t = 32)]
    code: usize,
    /// Passes over the training images.
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    /// Images in a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Logical streams that a step's images come from; the result depends on it, but never on the number of threads.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Size of a step of Adam.
    #[arg(long, default_value_t = 0.001)]
    learning_rate: f32,
    /// Stop when the test images are drawn no better for so many epochs [default: never]
    #[arg(long)]
    patience: Option<u32>,
    /// Folder with the four MNIST files, or its URL.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| train(context, &arguments))
}

/// The same images, whose targets are the images themselves.
fn drawn_again(images: &Samples) -> Result<Samples, distdl::dl::Error> {
    let values = match images.features() {
        Features::U8 { bytes, scale } => bytes.iter().map(|byte| f32::from(*byte) * scale).collect(),
        Features::F32(values) => values.to_vec(),
    };
    let targets = SampleTargets::Values {
        values,
        length: images.feature_length(),
    };
    Samples::new(images.feature_length(), images.features().clone(), targets)
}

fn train(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let Mnist { train, test } = Mnist::open_from(context.stores(), &arguments.data)?;
    let pixels = train.feature_length();
    let parts = |samples: &Samples, parts: usize| -> Result<Dataset<Samples>, Failure> {
        let samples: Result<Vec<Samples>, _> = samples.split(parts)?.iter().map(drawn_again).collect();
        Ok(context.parallelize(samples?, parts).cache())
    };
    let lanes = arguments.lanes.max(1);
    let (train, test) = (parts(&train, lanes)?, parts(&test, 8)?);
    let network = NeuralNetwork::new(Input(pixels))
        .hidden(Dense::relu(256))
        .hidden(Dense::linear(arguments.code))
        .hidden(Dense::relu(256))
        .output(Dense::linear(pixels), Loss::BinaryCrossEntropyWithLogits)?;
    let options = TrainingOptions {
        batch: arguments.batch,
        lanes,
        schedule: Some(Schedule::Constant(arguments.learning_rate)),
        optimizer: Arc::new(Adam::default()),
        ..TrainingOptions::default()
    };
    let mut training = network.train(&train, options)?;
    let mut best = BestModels::new(0);
    if let Some(patience) = arguments.patience {
        best = best.with_patience(patience);
    }
    while training.epoch() < arguments.epochs && best.goes_on() {
        let start = Instant::now();
        let trained = training.run_epoch(|_| ())?;
        let rate = trained.samples as f64 / start.elapsed().as_secs_f64();
        let (epoch, here, there) = (
            training.epoch(),
            trained.mean_loss(),
            training.error(&test)?.mean_loss(),
        );
        let line = if context.config().json {
            let line = serde_json::json!({ "epoch": epoch, "train_loss": here, "test_loss": there,
                "samples_per_second": rate.round(), "parameters_hash": training.parameters_hash() });
            line.to_string()
        } else {
            format!("epoch {epoch:2}  loss {here:.4}  test loss {there:.4}  {rate:8.0} samples/s")
        };
        writeln!(std::io::stdout(), "{line}")?;
        best.show(there, &mut training)?;
    }
    Ok(())
}
