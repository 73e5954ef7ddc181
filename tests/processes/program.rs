//! The program that all processes of these tests run: this test binary again, as one test of it.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;
use distdl::prelude::*;

/// The variable with the program's arguments, one a line. Without it the program does nothing.
const ARGUMENTS: &str = "PROCESSES_TEST_ARGUMENTS";

pub(crate) const EPOCHS: u64 = 4;
pub(crate) const STEPS_PER_EPOCH: u64 = 100;
const SAMPLES: usize = 1600;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Held open and shared by every process while it lives.
    #[arg(long)]
    alive: PathBuf,
    /// Before the last epoch the program waits until nobody has this file to himself.
    #[arg(long)]
    gate: PathBuf,
    /// Panics before the last epoch.
    #[arg(long)]
    panics: bool,
}

/// What runs the program with arguments.
pub(crate) fn command(arguments: &[String]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(test_arguments()).env(ARGUMENTS, arguments.join("\n"));
    command
}

/// What `distdl worker` is told after `--`; the variable is set by [`with_arguments`].
pub(crate) fn as_words() -> Vec<String> {
    let program = std::env::current_exe().unwrap();
    let words = std::iter::once(program.to_str().unwrap().to_owned());
    words.chain(test_arguments().map(str::to_owned)).collect()
}

pub(crate) fn with_arguments(command: &mut Command, arguments: &[String]) {
    command.env(ARGUMENTS, arguments.join("\n"));
}

fn test_arguments() -> [&'static str; 5] {
    ["program::program", "--exact", "--ignored", "--nocapture", "--quiet"]
}

/// Whether a line is the program's, and not of the framework around it.
pub(crate) fn printed(line: &str) -> bool {
    ["step ", "epoch ", "end "].iter().any(|start| line.starts_with(start))
}

#[test]
#[ignore = "the program that the processes of the other tests run"]
fn program() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    let arguments = Arguments::parse_from(std::iter::once("program").chain(arguments.lines()));
    let alive = File::open(&arguments.alive).unwrap();
    alive.lock_shared().unwrap();
    let code = distdl::run(arguments.flags.config(), |context| train(context, &arguments));
    std::process::exit(i32::from(code != ExitCode::SUCCESS));
}

/// Shuffles and training in turn; every bit of their results is printed.
fn train(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let spilled = context.range(0..2000, 4).persist(Level::Disk);
    let data = context.parallelize(circle()?.split(4)?, 4).cache();
    let network = NeuralNetwork::new(Input(2))
        .hidden(Dense::tanh(16))
        .output(Dense::linear(2), Loss::SoftmaxCrossEntropy)?;
    let options = TrainingOptions {
        batch: SAMPLES / STEPS_PER_EPOCH as usize,
        lanes: 4,
        schedule: Some(Schedule::Constant(0.5)),
        ..TrainingOptions::default()
    };
    let mut training = network.train(&data, options)?;
    // What a program is told that a partition goes through: not the cluster's secret.
    let join = ["-c", "cat > /dev/null; echo ${DISTDL_JOIN:-nothing}"];
    let told = context.range(0..1, 1).pipe("sh", &join).collect()?;
    if told != ["nothing"] {
        return Err("a program behind `pipe` could join the cluster".into());
    }
    for epoch in 1..=EPOCHS {
        if epoch == EPOCHS {
            File::open(&arguments.gate)?.lock_shared()?;
            assert!(!arguments.panics, "it was told to");
        }
        training.run_epoch(|step| println!("step {} loss {:?}", step.step, step.report.mean_loss()))?;
        let sums = spilled
            .map(move |number| (number % 7, (number * epoch) as f64 / 3.0))
            .reduce_by_key(|left, right| left + right)
            .collect()?;
        println!(
            "epoch {epoch} accuracy {:?} sums {sums:?}",
            training.error(&data)?.accuracy()
        );
    }
    println!("end {}", training.parameters_hash());
    Ok(())
}

/// Points of a square; those inside a circle have label 1.
fn circle() -> Result<Samples, Failure> {
    let side = 40;
    let at = |n: usize| n as f32 / 20.0 - 1.0;
    let points: Vec<[f32; 2]> = (0..SAMPLES).map(|n| [at(n % side), at(n / side)]).collect();
    let labels = points.iter().map(|[x, y]| u32::from(x * x + y * y < 0.5)).collect();
    Ok(Samples::new(
        2,
        Features::F32(points.concat()),
        SampleTargets::Labels(labels),
    )?)
}
