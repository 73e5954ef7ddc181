//! The paper's experiments with a GPU: MNIST with 6,000 samples, 300 to 1,500 iterations, on the CPU against a GPU; and
//! clusters of two nodes on CPUs, on one of each, and on GPUs: `cargo bench --bench paper_gpu`.
//! `benches/peers/plot_paper_gpu.py` draws the table and the plot.
//!
//! Two nodes share the machine and its GPUs. Where nodes differ, lanes move to the quicker one as it is measured.

mod common;

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use common::{Spread, emit, lenet, machine, run_again, spread};
use distdl::GpuFigures;
use distdl::prelude::*;
use serde::Serialize;

/// Measures trainings of the paper's sizes.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Training images.
    #[arg(long, default_value_t = 6000)]
    samples: usize,
    /// Numbers of steps, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "300,600,900,1200,1500")]
    iterations: Vec<u64>,
    /// Images in a step.
    #[arg(long, default_value_t = 128)]
    batch: usize,
    /// Logical streams of a training by one GPU, and of all others.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16])]
    lanes: Vec<usize>,
    /// How often each is measured.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Leaves out what a GPU would compute.
    #[arg(long)]
    without_gpu: bool,
    /// Leaves out what CPUs would compute alone.
    #[arg(long)]
    without_cpu: bool,
    /// Folder with the four MNIST files.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/data/mnist"))]
    data: std::path::PathBuf,
    /// Measures as one of the nodes of a cluster of this name.
    #[arg(long, hide = true)]
    nodes: Option<String>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Steps that do not count, before those that do.
const WARM_STEPS: u64 = 10;

#[derive(Serialize)]
struct Figure<'a> {
    bench: &'static str,
    network: &'static str,
    /// What computes: of each node.
    nodes: &'a str,
    samples: usize,
    iterations: u64,
    batch: usize,
    lanes: usize,
    precision: String,
    /// Of this process.
    device: String,
    /// Of a whole training.
    #[serde(flatten)]
    spread: Spread,
    test_accuracy: Option<f64>,
    /// Of each process that has one, in the last run.
    gpus: Vec<GpuFigures>,
    parameters_hash: String,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(nodes) = &arguments.nodes {
        let lanes = arguments.lanes[arguments.lanes.len() - 1];
        return distdl::run(arguments.flags.config(), |context| {
            table(context, nodes, lanes, &arguments)
        });
    }
    match all(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One node on either device, then the clusters.
fn all(arguments: &Arguments) -> Result<(), Failure> {
    let config = arguments.flags.config()?;
    // A CPU's threads share the lanes; a GPU has enough in one.
    let (one, several) = (arguments.lanes[0], arguments.lanes[arguments.lanes.len() - 1]);
    for (nodes, gpu, lanes) in [("cpu", GpuUse::Off, several), ("gpu", GpuUse::On, one)] {
        let is_left_out = match gpu {
            GpuUse::Off => arguments.without_cpu,
            _ => arguments.without_gpu,
        };
        if !is_left_out {
            let context = Context::new(config.clone().with_gpu(gpu))?;
            table(&context, nodes, lanes, arguments)?;
        }
    }
    let mixes: [(&str, &[&str]); 3] = [
        ("cpu+cpu", &["--gpu=off"]),
        ("cpu+gpu", &["--gpu=on", "--gpu-processes=1"]),
        ("gpu+gpu", &["--gpu=on"]),
    ];
    for (nodes, flags) in mixes {
        let is_left_out = match nodes {
            "cpu+cpu" => arguments.without_cpu,
            _ => arguments.without_gpu,
        };
        if !is_left_out {
            run_again(&node_arguments(nodes, flags, &config, arguments))?;
        }
    }
    Ok(())
}

fn node_arguments(nodes: &str, flags: &[&str], config: &Config, arguments: &Arguments) -> Vec<String> {
    let list = |counts: Vec<String>| counts.join(",");
    let mut all: Vec<String> = flags.iter().map(ToString::to_string).collect();
    all.extend([
        format!("--threads={}", config.threads),
        "--processes=2".into(),
        format!("--nodes={nodes}"),
        format!("--samples={}", arguments.samples),
        format!(
            "--iterations={}",
            list(arguments.iterations.iter().map(u64::to_string).collect())
        ),
        format!("--batch={}", arguments.batch),
        format!(
            "--lanes={}",
            list(arguments.lanes.iter().map(usize::to_string).collect())
        ),
        format!("--runs={}", arguments.runs),
        format!("--data={}", arguments.data.display()),
        format!("--precision={}", format!("{:?}", config.precision).to_lowercase()),
        format!("--cudnn={}", config.cudnn),
        format!("--seed={}", config.seed),
        format!("--memory={}", config.memory_bytes_max / 2),
    ]);
    let folders = [
        ("cuda-libraries", &config.cuda_libraries),
        ("cache", &config.cache_folder),
    ];
    let given = folders.map(|(name, folder)| Some(format!("--{name}={}", folder.as_ref()?.display())));
    all.extend(given.into_iter().flatten());
    all.extend(config.gpu_memory_bytes_max.map(|bytes| format!("--gpu-memory={bytes}")));
    all
}

/// A line of figures for each network and number of iterations.
fn table(context: &Context, nodes: &str, lanes: usize, arguments: &Arguments) -> Result<(), Failure> {
    let Mnist { train, test } = Mnist::open(&arguments.data)?;
    let train = train.slice(0..arguments.samples.min(train.len()))?;
    let train = context.parallelize(train.split(lanes)?, lanes).cache();
    let test = context.parallelize(test.split(8)?, 8).cache();
    let networks = [
        ("mlp", NeuralNetwork::dense(784, &[256, 128], 10)?),
        ("lenet", lenet()?),
    ];
    for (name, network) in &networks {
        for iterations in &arguments.iterations {
            let figure = measure((name, network), (&train, &test), (nodes, lanes), *iterations, arguments)?;
            emit(&figure);
        }
    }
    Ok(())
}

fn measure<'a>(
    (name, network): (&'static str, &NeuralNetwork),
    (train, test): (&Dataset<Samples>, &Dataset<Samples>),
    (nodes, lanes): (&'a str, usize),
    iterations: u64,
    arguments: &Arguments,
) -> Result<Figure<'a>, Failure> {
    let config = train.context().config();
    let options = TrainingOptions {
        batch: arguments.batch,
        lanes,
        schedule: Some(Schedule::Constant(0.1)),
        seed: Some(config.seed),
        ..TrainingOptions::default()
    };
    // What is done once is done, such as starting on a GPU, and kept as long as this is there.
    let mut warm = network.train(train, options.clone())?;
    warm.iterate(WARM_STEPS, |_| ())?;
    let (mut seconds, mut last) = (Vec::new(), None);
    for _ in 0..arguments.runs.max(1) {
        let mut training = network.train(train, options.clone())?;
        let begun = Instant::now();
        training.iterate(iterations, |_| ())?;
        seconds.push(begun.elapsed().as_secs_f64());
        last = Some(training);
    }
    let training = last.ok_or("nothing was run")?;
    Ok(Figure {
        bench: "paper_gpu",
        network: name,
        nodes,
        samples: arguments.samples,
        iterations,
        batch: arguments.batch,
        lanes,
        precision: format!("{:?}", config.precision).to_lowercase(),
        device: train.context().device().to_string(),
        spread: spread(seconds),
        test_accuracy: training.error(test)?.accuracy(),
        gpus: training.gpu_figures_of_all().into_values().collect(),
        parameters_hash: training.parameters_hash(),
        machine: machine(),
    })
}
