//! What a slow worker costs the others, by how old the parameters may be that lanes read: `cargo bench --bench
//! staleness`.
//!
//! Each mode runs undisturbed, and with every step of a lane ten times as long on the second worker: as one process of
//! two threads, and as three processes of one thread, of which the last one owns the parameters. All numbers but those
//! of whole steps are those of the first worker, which is never slow.

mod common;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::{emit, machine, run_again};
use distdl::prelude::*;
use serde::Serialize;

/// Measures training with a slow worker.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Modes, one after the other.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "synchronous,fixed_lag:3,bounded:3,asynchronous"
    )]
    modes: Vec<Staleness>,
    /// How many times as long the steps of the slow worker take.
    #[arg(long, value_delimiter = ',', default_value = "1,10")]
    slow: Vec<u64>,
    /// Numbers of processes: 1, or 3 with one that owns the parameters.
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    shapes: Vec<usize>,
    /// Logical streams.
    #[arg(long, default_value_t = 8)]
    lanes: usize,
    /// Images in a step.
    #[arg(long, default_value_t = 256)]
    batch: usize,
    /// Passes over the training images.
    #[arg(long, default_value_t = 10)]
    epochs: u64,
    /// Trainings of each kind, of other seeds.
    #[arg(long, default_value_t = 3)]
    trainings: u64,
    /// Folder with the four MNIST files.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: std::path::PathBuf,
    /// Measures one training, as one of its processes.
    #[arg(long, hide = true)]
    mode: Option<Staleness>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    staleness: String,
    processes: usize,
    slow_times: u64,
    seed: u64,
    /// Of training, evaluation left out.
    seconds: f64,
    /// Training until the end of the first epoch: lanes have not moved away from the slow worker by then, or just so.
    first_epoch_seconds: f64,
    steps_per_second: f64,
    /// Steps of lanes that the first worker has computed in a second.
    lane_steps_per_second: f64,
    lane_step_milliseconds: f64,
    waiting_share: f64,
    behind_mean: f64,
    behind_max: u64,
    test_accuracy: Option<f64>,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(mode) = arguments.mode {
        return distdl::run(arguments.flags.config(), |context| train(context, mode, &arguments));
    }
    let outcome = (0..arguments.trainings).try_for_each(|seed| {
        let shapes = arguments.shapes.iter();
        let modes = |shape| arguments.modes.iter().map(move |mode| (shape, mode));
        let slows = |(shape, mode)| arguments.slow.iter().map(move |slow| (shape, mode, slow));
        let mut kinds = shapes.flat_map(modes).flat_map(slows);
        kinds.try_for_each(|(shape, mode, slow)| start(*shape, *mode, (*slow, seed), &arguments))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(processes: usize, mode: Staleness, (slow, seed): (u64, u64), arguments: &Arguments) -> Result<(), Failure> {
    let mut words = vec![
        format!("--threads={}", if processes == 1 { 2 } else { 1 }),
        format!("--mode={mode}"),
        format!("--slow={slow}"),
        format!("--seed={seed}"),
        format!("--lanes={}", arguments.lanes),
        format!("--batch={}", arguments.batch),
        format!("--epochs={}", arguments.epochs),
        format!("--data={}", arguments.data.display()),
    ];
    if slow > 1 {
        words.push(format!("--chaos=slow=thread:1@times:{slow}"));
    }
    if processes > 1 {
        words.extend([format!("--processes={processes}"), "--parameter-workers=1".to_owned()]);
    }
    run_again(&words)
}

fn train(context: &Context, staleness: Staleness, arguments: &Arguments) -> Result<(), Failure> {
    let Mnist { train, test } = Mnist::open(&arguments.data)?;
    let lanes = arguments.lanes.max(1);
    let train = context.parallelize(train.split(lanes)?, lanes).cache();
    let test = context.parallelize(test.split(8)?, 8).cache();
    let options = TrainingOptions {
        batch: arguments.batch,
        lanes,
        staleness,
        // So small in the end that accuracies can be told apart.
        schedule: Some(Schedule::Cosine {
            initial: 0.2,
            minimum: 0.0,
            steps: arguments.epochs * 60_000 / arguments.batch.max(1) as u64,
        }),
        ..TrainingOptions::default()
    };
    let mut training = NeuralNetwork::dense(784, &[256, 128], 10)?.train(&train, options)?;
    let mut first = 0.0;
    let begun = Instant::now();
    let epoch = training.steps_per_epoch();
    // One loop: lanes that have left a slow process return to it at the beginning of the next one, to see whether it
    // has become quicker.
    training.iterate(epoch * arguments.epochs, |step| {
        if step.step + 1 == epoch {
            first = begun.elapsed().as_secs_f64();
        }
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let test_accuracy = training.error(&test)?.accuracy();
    let times = context.metrics().worker_times();
    // Lines on standard output are taken from whichever process comes first; only this one's worker is meant.
    let Some(times) = times.first().filter(|times| times.worker == 0) else {
        return Ok(());
    };
    let steps = times.lane_steps.max(1) as f64;
    emit(&Figure {
        bench: "staleness",
        staleness: staleness.to_string(),
        processes: context.config().processes,
        slow_times: arguments.slow.first().copied().unwrap_or(1),
        seed: context.config().seed,
        seconds,
        first_epoch_seconds: first,
        steps_per_second: training.step() as f64 / seconds,
        lane_steps_per_second: times.lane_steps as f64 / seconds,
        lane_step_milliseconds: 1e3 * times.computing.as_secs_f64() / steps,
        waiting_share: times.waiting.as_secs_f64() / seconds,
        behind_mean: times.behind_sum as f64 / steps,
        behind_max: times.behind_max,
        test_accuracy,
        machine: machine(),
    });
    Ok(())
}
