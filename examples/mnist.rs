//! Trains a network on the real MNIST digits: `cargo run --release --example mnist`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use distdl::prelude::*;

/// Trains a dense network on MNIST and reports its accuracy on the test set after each epoch.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Passes over the 60,000 training images.
    #[arg(long, default_value_t = 5)]
    epochs: u64,
    /// Images in a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Logical streams that a step's images come from; the result depends on it, but never on the number of threads.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Size of a step of SGD.
    #[arg(long, default_value_t = 0.3)]
    learning_rate: f32,
    /// Widths of the hidden layers.
    #[arg(long, value_delimiter = ',', default_value = "256,128")]
    hidden: Vec<usize>,
    /// Where to save the trained model, in safetensors format.
    #[arg(long)]
    model_out: Option<PathBuf>,
    /// Where to keep checkpoints; training goes on from the newest one that is there.
    #[arg(long, value_name = "FOLDER")]
    checkpoint: Option<String>,
    /// Steps from one checkpoint to the next; there is one at the end of each epoch as well.
    #[arg(long, value_name = "STEPS", default_value_t = 500, requires = "checkpoint")]
    checkpoint_every: u64,
    /// Whether to go on from a checkpoint: `auto`, `never`, `required`, or `step:N` for that of step N.
    #[arg(long, default_value = "auto", requires = "checkpoint")]
    resume: Resume,
    /// Folder with the four MNIST files, or its URL.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| train(context, &arguments))
}

fn train(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    if let Some(folder) = arguments.model_out.as_ref().and_then(|path| path.parent()) {
        // Better now than after training.
        if !folder.as_os_str().is_empty() && !folder.is_dir() {
            return Err(format!(
                "--model-out: {} is not a folder; create it or name another",
                folder.display()
            )
            .into());
        }
    }
    let Mnist { train, test } = Mnist::open_from(context.stores(), &arguments.data)?;
    let train = context
        .parallelize(train.split(arguments.lanes.max(1))?, arguments.lanes)
        .cache();
    let test = context.parallelize(test.split(8)?, 8).cache();

    let network = NeuralNetwork::dense(784, &arguments.hidden, 10)?;
    let options = TrainingOptions {
        batch: arguments.batch,
        lanes: arguments.lanes,
        schedule: Some(Schedule::Constant(arguments.learning_rate)),
        checkpoint: arguments.checkpoint.as_ref().map(|folder| CheckpointOptions {
            every_steps: arguments.checkpoint_every,
            resume: arguments.resume,
            ..CheckpointOptions::new(folder)
        }),
        ..TrainingOptions::default()
    };
    let mut training = network.train(&train, options)?;
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
    reporter.finish()?;
    if let Some(path) = &arguments.model_out {
        network.save(path, &training.parameters())?;
    }
    Ok(())
}
