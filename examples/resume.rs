//! Stops a training half-way and goes on from its checkpoint: `cargo run --release --example resume`.
//!
//! The model is that of a training that nobody stopped, to the last bit, also with `--processes 2`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use distdl::Mnist;
use distdl::prelude::*;
use serde_json::{Value, json};

/// Trains a dense network on MNIST whole, and once more in two halves.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Steps of the whole training.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(2..))]
    steps: u64,
    /// Images in a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Where the checkpoints of the halves go; they are left there. Start again to go on from them.
    #[arg(long, default_value = "target/resume")]
    checkpoints: PathBuf,
    /// Folder with the four MNIST files, or its URL.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| compare(context, &arguments))
}

fn compare(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let train = Mnist::open_from(context.stores(), &arguments.data)?.train;
    let train = context.parallelize(train.split(2)?, 2).cache();
    let network = NeuralNetwork::dense(784, &[256, 128], 10)?;
    let whole = TrainingOptions {
        batch: arguments.batch,
        // Its state is in the checkpoints, too.
        optimizer: Arc::new(Sgd::with_momentum(0.9)),
        schedule: Some(Schedule::Constant(0.05)),
        ..TrainingOptions::default()
    };
    let cut = TrainingOptions {
        checkpoint: Some(CheckpointOptions::new(arguments.checkpoints.to_string_lossy())),
        ..whole.clone()
    };

    let mut undisturbed = network.train(&train, whole)?;
    undisturbed.iterate(arguments.steps, |_| {})?;

    let mut first = network.train(&train, cut.clone())?;
    first.iterate((arguments.steps / 2).saturating_sub(first.step()), |_| {})?;
    let say = |object: Value, text: String| match context.config().json {
        true => println!("{object}"),
        false => println!("{text}"),
    };
    let step = first.step();
    say(json!({ "stopped_at_step": step }), format!("stopped at step {step}"));
    drop(first);

    let mut second = network.train(&train, cut)?;
    let step = second.step();
    say(json!({ "goes_on_at_step": step }), format!("goes on at step {step}"));
    second.iterate(arguments.steps.saturating_sub(second.step()), |_| {})?;

    let (undisturbed, in_halves) = (undisturbed.parameters_hash(), second.parameters_hash());
    say(
        json!({ "undisturbed": undisturbed, "in_halves": in_halves }),
        format!("undisturbed  {undisturbed}\nin halves    {in_halves}"),
    );
    match undisturbed == in_halves {
        true => Ok(()),
        false => Err(
            "the models differ: are the checkpoints those of another training? Remove them or name another folder"
                .into(),
        ),
    }
}
