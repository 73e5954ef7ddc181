//! The engine's own overhead with more and more processes: `cargo bench --bench scaling`.
//!
//! A partition's work is to wait for a fixed time, so that a machine of two cores can host twelve processes: what a job
//! takes beyond the waiting of the busiest process is planning, rounds, shuffling and the answer.
//! `benches/peers/plot_scaling.py` draws the figures.

mod common;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use common::{Spread, emit, machine, measure, run_as_cluster};
use distdl::prelude::*;
use serde::Serialize;

/// Measures jobs whose partitions wait instead of computing.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Numbers of processes, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4,6,8,10,12")]
    clusters: Vec<usize>,
    /// Partitions of a job.
    #[arg(long, default_value_t = 120)]
    partitions: usize,
    /// What a partition waits, in milliseconds.
    #[arg(long, default_value_t = 20)]
    wait: u64,
    /// Repetitions after a warm-up.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Measures one cluster, as one of its processes.
    #[arg(long, hide = true)]
    work: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    job: &'static str,
    processes: usize,
    partitions: usize,
    wait_seconds: f64,
    /// What the process with most partitions waits.
    ideal_seconds: f64,
    #[serde(flatten)]
    spread: Spread,
    /// The ideal by the median.
    efficiency: f64,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.work {
        return distdl::run(arguments.flags.config(), |context| work(context, &arguments));
    }
    match arguments
        .clusters
        .iter()
        .try_for_each(|processes| start(*processes, &arguments))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures a number of processes.
fn start(processes: usize, arguments: &Arguments) -> Result<(), Failure> {
    let arguments = [
        "--work".to_owned(),
        format!("--partitions={}", arguments.partitions),
        format!("--wait={}", arguments.wait),
        format!("--runs={}", arguments.runs),
    ];
    run_as_cluster(processes, &arguments)
}

fn work(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let (partitions, wait) = (arguments.partitions, Duration::from_millis(arguments.wait));
    let waiting = context.range(0..partitions as u64, partitions).map(move |number| {
        std::thread::sleep(wait);
        number
    });
    let narrow = || waiting.count().map(|count| count.to_string());
    let shuffled = || {
        let sums = waiting
            .map(|number| (number % 10, number))
            .reduce_by_key(u64::wrapping_add);
        sums.count().map(|count| count.to_string())
    };
    let jobs: [(&str, &dyn Fn() -> distdl::engine::Result<String>); 2] = [("map", &narrow), ("shuffle", &shuffled)];
    let processes = context.config().processes;
    let ideal = wait.as_secs_f64() * partitions.div_ceil(processes) as f64;
    for (job, run) in jobs {
        let (spread, check) = measure(arguments.runs, run);
        check?;
        emit(&Figure {
            bench: "scaling",
            job,
            processes,
            partitions,
            wait_seconds: wait.as_secs_f64(),
            ideal_seconds: ideal,
            spread,
            efficiency: ideal / spread.median_seconds,
            machine: machine(),
        });
    }
    Ok(())
}
