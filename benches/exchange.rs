//! The parameter exchange by itself: every lane brings a vector, the owners sum them and everybody sees the sum.

mod common;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use common::{Spread, emit, machine, spread};
use distdl::engine::{Lane, ShardUpdate, ShardValues, StepReport, Tallies};
use distdl::prelude::*;
use distdl::{Iteration, Parameters};
use serde::Serialize;

/// Measures the exchange of vectors of f32.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Lengths of the vectors.
    #[arg(long, value_delimiter = ',', default_value = "1000,100000,1000000,10000000,25000000")]
    length: Vec<usize>,
    /// Lanes that bring a vector each.
    #[arg(long, default_value_t = 2)]
    lanes: usize,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    length: usize,
    lanes: usize,
    processes: usize,
    threads: usize,
    gigabytes_per_second: f64,
    #[serde(flatten)]
    spread: Spread,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        for length in &arguments.length {
            let spread = exchange(context, *length, arguments.lanes)?;
            emit(&Figure {
                bench: "exchange",
                length: *length,
                lanes: arguments.lanes,
                processes: context.config().processes,
                threads: context.config().threads,
                gigabytes_per_second: 4e-9 * *length as f64 / spread.median_seconds,
                spread,
                machine: machine(),
            });
        }
        Ok(())
    })
}

/// When steps began, by the clock of one lane of this process.
#[derive(Default)]
struct Begun {
    lane: Option<usize>,
    at: Vec<Instant>,
}

/// Times steps whose lanes leave their vectors as they are and whose shards replace the parameters by the sum: one
/// lane of each process looks at the clock when each step begins.
fn exchange(context: &Context, length: usize, lanes: usize) -> Result<Spread, Failure> {
    let steps = (400_000_000 / length as u64).clamp(16, 4_000);
    let parameters = Arc::new(Parameters::new(vec![0.0; length]));
    let begun = Arc::new(Mutex::new(Begun::default()));
    let clock = Arc::clone(&begun);
    let lane = move |lane: usize| {
        let clock = Arc::clone(&clock);
        let mut filled = false;
        Ok(Box::new(move |_: u64, _: &[f32], update: &mut [f32]| {
            let mut begun = clock.lock().unwrap_or_else(PoisonError::into_inner);
            if *begun.lane.get_or_insert(lane) == lane {
                begun.at.push(Instant::now());
            }
            drop(begun);
            if !std::mem::replace(&mut filled, true) {
                update.fill(lane as f32);
            }
            Ok(Tallies::default())
        }) as Box<dyn Lane>)
    };
    let shard = |_| {
        Ok(Box::new(|_: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
            shard.after.copy_from_slice(sum);
            Ok(())
        }) as Box<dyn ShardUpdate>)
    };
    context.iterate(Iteration::new(lanes, steps), &parameters, lane, shard, &mut |_| ())?;
    let expected = (0..lanes).sum::<usize>() as f32;
    if parameters.latest().iter().any(|value| *value != expected) {
        return Err(format!("the exchange of {length} values gave a wrong sum").into());
    }
    let begun = &begun.lock().unwrap_or_else(PoisonError::into_inner).at;
    let seconds: Vec<f64> = begun.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    // The first quarter faults pages in.
    Ok(spread(seconds[seconds.len() / 4..].to_vec()))
}
