//! The program `distdl`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
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
    /// Shows what flags, environment and file add up to, in the form of a `distdl.toml`.
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
        Command::Config => Ok(std::io::stdout().write_all(configuration(context.config()).as_bytes())?),
        Command::Evaluate { model, data, hidden } => evaluate(context, &model, &data, &hidden),
    })
}

/// The configuration as a file that gives it again.
fn configuration(config: &Config) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let progress = config.progress.to_possible_value();
    let lines = [
        ("threads", Some(config.threads.to_string())),
        ("memory", Some(config.memory_bytes_max.to_string())),
        ("disk", Some(config.disk_bytes_max.to_string())),
        (
            "spill_folder",
            config
                .spill_folder
                .as_ref()
                .map(|folder| quoted(&folder.to_string_lossy())),
        ),
        ("seed", Some(quoted(&config.seed.to_string()))),
        ("progress", progress.map(|progress| quoted(progress.get_name()))),
        ("json", Some(config.json.to_string())),
        ("batch_records", Some(config.batch_records.to_string())),
    ];
    lines
        .into_iter()
        .filter_map(|(key, value)| Some(format!("{key} = {}\n", value?)))
        .collect()
}

fn evaluate(context: &Context, model: &Path, data: &Path, hidden: &[usize]) -> Result<(), Failure> {
    let network = NeuralNetwork::dense(784, hidden, 10)?;
    let parameters = model_file::load(model, network.parameter_layout())?;
    let test = Mnist::open(data)?.test;
    let test = context.parallelize(test.split(8)?, 8);
    let report = network.error(&test, &parameters)?;
    let (correct, samples, accuracy) = (report.correct, report.samples, report.accuracy());
    let line = if context.config().json {
        serde_json::json!({ "correct": correct, "samples": samples, "accuracy": accuracy }).to_string()
    } else {
        format!("{correct} of {samples} right ({:.2}%)", 100.0 * accuracy)
    };
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
