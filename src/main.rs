//! The program `distdl`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use distdl::dl::model_file;
use distdl::prelude::*;

/// DistDL's own commands. Programs that use DistDL take the same common flags.
#[derive(Parser)]
#[command(name = "distdl", version, about)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows the configuration that flags, environment and file add up to.
    Config,
    /// Measures a saved dense network (relu, softmax) on the MNIST test set.
    Evaluate {
        /// The model, a safetensors file as written by the example `mnist --model-out`.
        model: PathBuf,
        /// Folder with the MNIST files.
        #[arg(long, default_value = "examples/data/mnist")]
        data: PathBuf,
        /// Widths of the hidden layers.
        #[arg(long, value_delimiter = ',', default_value = "256,128")]
        hidden: Vec<usize>,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| match arguments.command {
        Command::Config => {
            println!("{:#?}", context.config());
            Ok(())
        }
        Command::Evaluate { model, data, hidden } => evaluate(context, &model, &data, &hidden),
    })
}

fn evaluate(
    context: &Context,
    model: &std::path::Path,
    data: &std::path::Path,
    hidden: &[usize],
) -> Result<(), Failure> {
    let network = NeuralNetwork::dense(784, hidden, 10)?;
    let parameters = model_file::load(model, network.parameter_layout())?;
    let test = Mnist::open(data)?.test;
    let test = context.parallelize(test.split(8)?, 8);
    let report = network.error(&test, &parameters)?;
    println!(
        "{} of {} right ({:.2}%)",
        report.correct,
        report.samples,
        100.0 * report.accuracy()
    );
    Ok(())
}
