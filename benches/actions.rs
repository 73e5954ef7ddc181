//! An action that computes next to nothing, over datasets that are kept: what plans and their facts cost.

mod common;

use std::process::ExitCode;

use clap::Parser;
use common::{Spread, emit, machine, measure};
use distdl::prelude::*;
use serde::Serialize;

/// Measures an action that finds all that it reads kept.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Datasets that are kept, each derived from the one before.
    #[arg(long, default_value_t = 1000)]
    datasets: usize,
    /// Partitions of each.
    #[arg(long, default_value_t = 100)]
    partitions: usize,
    /// Repetitions after a warm-up.
    #[arg(long, default_value_t = 30)]
    runs: usize,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    datasets: usize,
    partitions: usize,
    processes: usize,
    threads: usize,
    #[serde(flatten)]
    spread: Spread,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        let partitions = arguments.partitions;
        let mut data = context.range(0..partitions as u64, partitions).cache();
        for _ in 1..arguments.datasets {
            data = data.map(|number| number + 1).cache();
        }
        let (spread, count) = measure(arguments.runs, || data.count());
        count?;
        emit(&Figure {
            bench: "actions",
            datasets: arguments.datasets,
            partitions,
            processes: context.config().processes,
            threads: context.config().threads,
            spread,
            machine: machine(),
        });
        Ok(())
    })
}
