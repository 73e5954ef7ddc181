//! The paper's scaling experiment: MNIST on 1 to 12 nodes, `cargo bench --bench paper_scaling`.
//!
//! Nodes are processes, and exchange gradients and parameters as they always do. What a lane computes is replaced by
//! waiting for the time that it was measured to take, so that a machine of two cores can host twelve nodes: what a step
//! takes beyond the waiting of the busiest node is exchange and waiting for others. The baseline is a plain loop
//! without the engine. `benches/peers/plot_scaling.py` draws the figures.

mod common;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use common::{Spread, emit, machine, run_as_cluster, spread};
use distdl::dl::{Batch, shuffle};
use distdl::engine::{Iteration, Lane, Parameters, ShardUpdate, ShardValues, StepReport, Tallies};
use distdl::prelude::*;
use serde::Serialize;

/// Measures training steps whose lanes wait instead of computing.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Numbers of nodes, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,6,8,10,12")]
    nodes: Vec<usize>,
    /// Images of a lane in a step.
    #[arg(long, default_value_t = 128)]
    lane_batch: usize,
    /// Lanes; each node hosts its share of them.
    #[arg(long, default_value_t = 12)]
    lanes: usize,
    /// Steps between two looks at the clock.
    #[arg(long, default_value_t = 50)]
    steps: u64,
    /// How often they are measured, after a warm-up.
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Folder with the four MNIST files.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: std::path::PathBuf,
    /// Measures one cluster, as one of its nodes: what a lane computes takes so long, in nanoseconds.
    #[arg(long, hide = true)]
    lane_nanoseconds: Option<u64>,
    /// What a step of the plain loop takes, in nanoseconds.
    #[arg(long, hide = true, default_value_t = 0)]
    serial_nanoseconds: u64,
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
    /// What a lane waits in place of computing, overshoot of the clock included.
    wait_seconds: f64,
    /// A step of the plain loop.
    serial_seconds: f64,
    /// Waiting of the node with most lanes.
    ideal_seconds: f64,
    /// Of a step.
    #[serde(flatten)]
    spread: Spread,
    /// A step of the plain loop by a step here.
    speedup: f64,
    /// The ideal by the median.
    efficiency: f64,
    /// What a step takes beyond the waiting of the busiest node: exchange, and waiting for others.
    beyond_seconds: f64,
    /// Given to others by this node in a step.
    bytes_per_step: u64,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(lane_nanoseconds) = arguments.lane_nanoseconds {
        let lane_time = Duration::from_nanos(lane_nanoseconds);
        return distdl::run(arguments.flags.config(), |context| work(context, lane_time, &arguments));
    }
    let outcome = serial(&arguments).and_then(|(lane, step)| {
        let mut nodes = arguments.nodes.iter();
        nodes.try_for_each(|nodes| start(*nodes, (lane, step), &arguments))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn network() -> Result<NeuralNetwork, Failure> {
    Ok(NeuralNetwork::dense(784, &[256, 128], 10)?)
}

/// Trains with a plain loop of one thread; returns medians of what a lane computes and of a whole step.
fn serial(arguments: &Arguments) -> Result<(Duration, Duration), Failure> {
    let (network, train) = (network()?, Mnist::open(&arguments.data)?.train);
    let mut parameters: Vec<f32> = network.initialize(0)?;
    let (mut gradient, mut sum) = (vec![0.0; parameters.len()], vec![0.0; parameters.len()]);
    let rows = arguments.lane_batch;
    let (mut workspace, mut batch) = (network.workspace(rows), Batch::new(&train, rows));
    let order = shuffle(0, 0, 0, train.len() as u32);
    let (mut lanes, mut steps) = (Vec::new(), Vec::new());
    let rate = 0.1 / (rows * arguments.lanes) as f32;
    for step in order.chunks_exact(rows * arguments.lanes) {
        let begun = Instant::now();
        sum.fill(0.0);
        for indices in step.chunks_exact(rows) {
            let begun = Instant::now();
            batch.gather(&[&train], indices.iter().copied())?;
            let (features, targets) = (batch.features(), batch.targets());
            network.gradient(&parameters, features, targets, rows, &mut workspace, &mut gradient)?;
            lanes.push(begun.elapsed().as_secs_f64());
            sum.iter_mut().zip(&gradient).for_each(|(sum, value)| *sum += value);
        }
        parameters
            .iter_mut()
            .zip(&sum)
            .for_each(|(value, sum)| *value -= rate * sum);
        steps.push(begun.elapsed().as_secs_f64());
    }
    let median = |seconds| Duration::from_secs_f64(spread(seconds).median_seconds);
    Ok((median(lanes), median(steps)))
}

/// Measures a number of nodes.
fn start(nodes: usize, (lane, step): (Duration, Duration), arguments: &Arguments) -> Result<(), Failure> {
    let arguments = [
        format!("--lane-nanoseconds={}", lane.as_nanos()),
        format!("--serial-nanoseconds={}", step.as_nanos()),
        format!("--lanes={}", arguments.lanes),
        format!("--steps={}", arguments.steps),
        format!("--runs={}", arguments.runs),
    ];
    run_as_cluster(nodes, &arguments)
}

fn work(context: &Context, lane_time: Duration, arguments: &Arguments) -> Result<(), Failure> {
    let (lanes, steps, nodes) = (arguments.lanes, arguments.steps, context.config().processes);
    let parameters = Arc::new(Parameters::new(network()?.initialize(0)?));
    let lane = move |_| {
        // The time that was measured has the writing of all of the update in it.
        let compute = move |step: u64, _: &[f32], update: &mut [f32]| {
            std::thread::sleep(lane_time);
            update[step as usize % update.len()] = 1.0;
            Ok(Tallies::default())
        };
        Ok(Box::new(compute) as Box<dyn Lane>)
    };
    let shard = |_| {
        let apply = |_: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
            let values = shard.after.iter_mut().zip(shard.before).zip(sum);
            values.for_each(|((after, before), sum)| *after = before - 1e-6 * sum);
            Ok(())
        };
        Ok(Box::new(apply) as Box<dyn ShardUpdate>)
    };
    let (mut seconds, mut bytes) = (Vec::new(), 0);
    for run in 0..=arguments.runs as u64 {
        let (begun, before) = (Instant::now(), context.metrics().exchanged_bytes());
        let iteration = Iteration::new(lanes, steps).from_step(run * steps);
        context.iterate(iteration, &parameters, lane, shard, &mut |_| ())?;
        if run > 0 {
            seconds.push(begun.elapsed().as_secs_f64() / steps as f64);
            bytes = (context.metrics().exchanged_bytes() - before) / steps;
        }
    }
    // Where so many wait on few cores, the clock wakes nobody in time: what the waiting took is part of a step's cost.
    let overshoots = (0..100).map(|_| {
        let begun = Instant::now();
        std::thread::sleep(lane_time);
        begun.elapsed().as_secs_f64()
    });
    let wait = spread(overshoots.collect()).median_seconds;
    let (spread, serial) = (spread(seconds), arguments.serial_nanoseconds as f64 * 1e-9);
    let ideal = wait * lanes.div_ceil(nodes) as f64;
    emit(&Figure {
        bench: "paper_scaling",
        job: "training",
        processes: nodes,
        partitions: lanes,
        wait_seconds: wait,
        serial_seconds: serial,
        ideal_seconds: ideal,
        spread,
        speedup: serial / spread.median_seconds,
        efficiency: ideal / spread.median_seconds,
        beyond_seconds: spread.median_seconds - ideal,
        bytes_per_step: bytes,
        machine: machine(),
    });
    Ok(())
}
