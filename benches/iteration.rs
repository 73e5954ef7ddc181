//! The engine's own cost of a round: an empty step of `iterate`, and an action over two cached partitions.

mod common;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use common::{Spread, emit, machine, measure};
use distdl::engine::{Lane, ShardUpdate, ShardValues, StepReport, Tallies};
use distdl::prelude::*;
use distdl::{Iteration, Parameters};
use serde::Serialize;

/// Measures rounds without work.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Steps of an iteration.
    #[arg(long, default_value_t = 5_000)]
    steps: u64,
    /// Actions over cached partitions.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Repetitions.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    job: &'static str,
    threads: usize,
    rounds: u64,
    microseconds_per_round: f64,
    #[serde(flatten)]
    spread: Spread,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        let figure = |job, rounds: u64, spread: Spread| Figure {
            bench: "iteration",
            job,
            threads: context.config().threads,
            rounds,
            microseconds_per_round: 1e6 * spread.median_seconds / rounds as f64,
            spread,
            machine: machine(),
        };
        let (spread, result) = measure(arguments.runs, || empty_steps(context, arguments.steps));
        result?;
        emit(&figure("empty_step", arguments.steps, spread));
        let numbers = context.range(0..2000, 2).map(|number| number as f64).cache();
        numbers.count()?;
        let (spread, result) = measure(arguments.runs, || rounds(&numbers, arguments.rounds));
        result?;
        emit(&figure("map_reduce_cached", arguments.rounds as u64, spread));
        Ok(())
    })
}

/// One lane a thread, each of which does nothing.
fn empty_steps(context: &Context, steps: u64) -> Result<(), Failure> {
    let lanes = context.config().threads;
    let parameters = Arc::new(Parameters::new(vec![0.0; lanes]));
    let lane = |_| Ok(Box::new(|_: u64, _: &[f32], _: &mut [f32]| Ok(Tallies::default())) as Box<dyn Lane>);
    let shard = |_| Ok(Box::new(|_: &StepReport, _: &[f32], _: &mut ShardValues<'_>| Ok(())) as Box<dyn ShardUpdate>);
    context.iterate(Iteration::new(lanes, steps), &parameters, lane, shard, &mut |_| ())?;
    Ok(())
}

/// Spark's loop: a map and a reduce over 2 cached partitions of 1,000 doubles, the result used in the next round.
fn rounds(numbers: &Dataset<f64>, rounds: usize) -> Result<f64, Failure> {
    let mut weight = 1.0;
    for _ in 0..rounds {
        let factor = weight;
        let sum = numbers
            .map(move |number| number * factor)
            .reduce(|left, right| left + right)?;
        weight = 1.0 + sum.unwrap_or(0.0) * 1e-9;
    }
    Ok(weight)
}
