//! What it spares to push the gradients of later layers while earlier ones run backward, `cargo bench --bench overlap`.
//!
//! A lane waits in place of computing, a third of its time forward and the rest backward, layer after layer, so that
//! the cores are free for the exchange as they would be with a lane on a device. Processes exchange through sockets, as
//! on several hosts. Pushing as a whole and in pieces take turns.

mod common;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use common::{Spread, emit, machine, run_as_cluster, spread};
use distdl::engine::{Iteration, Lane, Parameters, ShardUpdate, ShardValues, StepReport, Tallies};
use distdl::prelude::*;
use serde::Serialize;

/// Measures steps whose lanes wait instead of computing.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Numbers of parameters.
    #[arg(long, value_delimiter = ',', default_value = "431080,4000000")]
    parameters: Vec<usize>,
    /// Layers, all of the same size.
    #[arg(long, default_value_t = 8)]
    layers: usize,
    /// What a step of a lane takes, in milliseconds.
    #[arg(long, default_value_t = 12)]
    lane_milliseconds: u64,
    /// Nodes, with a lane each.
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Steps between two looks at the clock.
    #[arg(long, default_value_t = 40)]
    steps: u64,
    /// How often they are measured each way, after a warm-up.
    #[arg(long, default_value_t = 9)]
    runs: u64,
    /// Measures as one of the nodes.
    #[arg(long, hide = true)]
    node: bool,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    parameters: usize,
    layers: usize,
    processes: usize,
    /// What a lane waits in place of computing, overshoot of the clock included.
    wait_seconds: f64,
    pieces: bool,
    /// Of a step.
    #[serde(flatten)]
    spread: Spread,
    /// What a step takes beyond the waiting.
    beyond_seconds: f64,
    /// Given to others by this node in a step, and what of that while its lane was still waiting.
    bytes_per_step: u64,
    early_bytes_per_step: u64,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.node {
        let config = arguments.flags.config();
        let config = config.map(|config| config.with_shared_memory(false));
        return distdl::run(config, |context| work(context, &arguments));
    }
    let list = |counts: &[usize]| counts.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let outcome = run_as_cluster(
        arguments.nodes,
        &[
            "--node".to_owned(),
            format!("--nodes={}", arguments.nodes),
            format!("--parameters={}", list(&arguments.parameters)),
            format!("--layers={}", arguments.layers),
            format!("--lane-milliseconds={}", arguments.lane_milliseconds),
            format!("--steps={}", arguments.steps),
            format!("--runs={}", arguments.runs),
        ],
    );
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for the time of its layers.
struct Waiting {
    layers: usize,
    time: Duration,
}

impl Lane for Waiting {
    fn step(&mut self, step: u64, parameters: &[f32], update: &mut [f32]) -> distdl::engine::Result<Tallies> {
        self.step_from_end(step, parameters, update, &mut |_, _| ())
    }

    fn step_from_end(
        &mut self,
        step: u64,
        _: &[f32],
        update: &mut [f32],
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> distdl::engine::Result<Tallies> {
        update[step as usize % update.len()] = 1.0;
        let begun = Instant::now();
        for layer in (0..self.layers).rev() {
            let share = 1.0 - 2.0 / 3.0 * layer as f64 / self.layers as f64;
            std::thread::sleep(self.time.mul_f64(share).saturating_sub(begun.elapsed()));
            let start = layer * update.len() / self.layers;
            has_end(start, &update[start..]);
        }
        Ok(Tallies::default())
    }
}

fn work(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    arguments
        .parameters
        .iter()
        .try_for_each(|count| measure(context, *count, arguments))
}

fn measure(context: &Context, count: usize, arguments: &Arguments) -> Result<(), Failure> {
    let (steps, layers) = (arguments.steps, arguments.layers);
    let time = Duration::from_millis(arguments.lane_milliseconds);
    let parameters = Arc::new(Parameters::new(vec![0.0; count]));
    let lane = move |_| Ok(Box::new(Waiting { layers, time }) as Box<dyn Lane>);
    let shard = |_| {
        let apply = |_: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
            let values = shard.after.iter_mut().zip(shard.before).zip(sum);
            values.for_each(|((after, before), sum)| *after = before - 1e-6 * sum);
            Ok(())
        };
        Ok(Box::new(apply) as Box<dyn ShardUpdate>)
    };
    let mut ways = [(false, Vec::new(), (0, 0)), (true, Vec::new(), (0, 0))];
    for run in 0..2 * (arguments.runs + 1) {
        let (pieces, seconds, bytes) = &mut ways[run as usize % 2];
        let whole = Iteration::new(arguments.nodes, steps).from_step(run * steps);
        let iteration = if *pieces {
            whole
        } else {
            whole.with_piece_min(usize::MAX)
        };
        let given = || {
            (
                context.metrics().exchanged_bytes(),
                context.metrics().exchanged_early_bytes(),
            )
        };
        let (begun, before) = (Instant::now(), given());
        context.iterate(iteration, &parameters, lane, shard, &mut |_| ())?;
        if run >= 2 {
            seconds.push(begun.elapsed().as_secs_f64() / steps as f64);
            let after = given();
            *bytes = ((after.0 - before.0) / steps, (after.1 - before.1) / steps);
        }
    }
    let overshoots = (0..100).map(|_| {
        let begun = Instant::now();
        std::thread::sleep(time);
        begun.elapsed().as_secs_f64()
    });
    let wait = spread(overshoots.collect()).median_seconds;
    for (pieces, seconds, (bytes_per_step, early_bytes_per_step)) in ways {
        let spread = spread(seconds);
        emit(&Figure {
            bench: "overlap",
            parameters: count,
            layers,
            processes: arguments.nodes,
            wait_seconds: wait,
            pieces,
            beyond_seconds: spread.median_seconds - wait,
            spread,
            bytes_per_step,
            early_bytes_per_step,
            machine: machine(),
        });
    }
    Ok(())
}
