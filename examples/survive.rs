//! Trains on MNIST in three processes of which one is killed with SIGKILL halfway, and compares the model with that of
//! one process that nobody disturbed: `cargo run --release --example survive`.
//!
//! Which process is killed when, and how many there are, is for the flags to say:
//! `--processes 4 --chaos kill=worker:0@step:100,kill=worker:3@recovery:1`.

use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;
use distdl::prelude::*;
use serde_json::json;

/// Trains on MNIST undisturbed, then in several processes of which one is killed, and compares the models.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Passes over the training images.
    #[arg(long, default_value_t = 2)]
    epochs: u64,
    /// Images in a step.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Folder with the four MNIST files.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: PathBuf,
    /// Trains once and prints the hash of the model, and nothing else: the program that is to survive.
    #[arg(long)]
    train: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.train {
        return distdl::run(arguments.flags.config(), |context| {
            println!("{}", train(context, &arguments)?);
            Ok(())
        });
    }
    match compare(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Trains, and gives the hash of the model. Nothing in here knows how many processes there are, or that one may die.
fn train(context: &Context, arguments: &Arguments) -> Result<String, Failure> {
    let images = Mnist::open(&arguments.data)?.train;
    let images = context.parallelize(images.split(4)?, 4).cache();
    let options = TrainingOptions {
        batch: arguments.batch as usize,
        lanes: 4,
        schedule: Some(Schedule::Constant(0.3)),
        ..TrainingOptions::default()
    };
    let mut training = NeuralNetwork::dense(784, &[256, 128], 10)?.train(&images, options)?;
    for _ in 0..arguments.epochs {
        training.run_epoch(|_step| ())?;
    }
    Ok(training.parameters_hash())
}

fn compare(arguments: &Arguments) -> Result<(), Failure> {
    let mut flags = arguments.flags.clone();
    let processes = *flags.processes.get_or_insert(3);
    if flags.chaos.is_empty() {
        let samples = Mnist::open(&arguments.data)?.train.len() as u64;
        let middle = arguments.epochs * samples.div_ceil(arguments.batch) / 2;
        flags.chaos.push(format!("kill=worker:1@step:{middle}"));
    }
    let config = flags.config()?;
    let json = config.json;

    eprintln!("one process that nobody disturbs");
    let undisturbed = train(&Context::new(alone(config))?, arguments)?;
    match json {
        true => println!("{}", json!({ "processes": 1, "parameters_hash": undisturbed })),
        false => println!("{undisturbed}"),
    }

    let chaos = flags.chaos.join(",");
    eprintln!("{processes} processes, and {chaos}");
    let survived = survive(&flags)?;
    match json {
        true => println!(
            "{}",
            json!({ "processes": processes, "chaos": chaos, "parameters_hash": survived })
        ),
        false => println!("{survived}"),
    }

    if survived != undisturbed {
        return Err(
            "the models differ, which must not be where all processes compute on the same kind of device; if they do, \
                    please report it"
                .into(),
        );
    }
    if !json {
        println!("the same model, bit for bit");
    }
    Ok(())
}

/// The same configuration, seed and device included, for one process to which nothing happens. It keeps the threads of
/// one of several, which change nothing but its time.
fn alone(config: Config) -> Config {
    Config {
        processes: 1,
        parameter_workers: 0,
        spares: 0,
        events: None,
        chaos: None,
        ..config
    }
}

/// Starts this program again as a cluster. What happens to it appears on standard error, with the time that it took to
/// recover; what it prints is the hash.
fn survive(flags: &Flags) -> Result<String, Failure> {
    let mut cluster = Command::new(std::env::current_exe()?);
    cluster.args(std::env::args_os().skip(1)).arg("--train");
    let output = cluster.envs(flags.variables()?).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the processes did not survive".into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
