//! Training on a GPU: samples/s of dense networks and LeNet on made-up data that stays on it, and whether many jobs
//! give its memory back: `cargo bench --bench gpu -- --gpu on`. `benches/peers/torch_gpu.py` runs it in turn with
//! PyTorch.

mod common;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use common::{Spread, emit, lenet, machine, mix, spread};
use distdl::prelude::*;
use distdl::{GpuFigures, Optimizer, Placement};
use serde::Serialize;

/// Measures training where `--gpu` says.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Networks to measure, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "mlp,lenet")]
    network: Vec<Network>,
    /// Mini-batch sizes to measure, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "128,1024")]
    batch: Vec<usize>,
    /// Logical streams.
    #[arg(long, default_value_t = 1)]
    lanes: usize,
    /// What applies the gradients.
    #[arg(long, value_enum, default_value = "sgd")]
    optimizer: Rule,
    /// Limits the norm of the whole gradient.
    #[arg(long)]
    gradient_norm_max: Option<f32>,
    /// Limits the norm of each lane's gradient.
    #[arg(long)]
    lane_gradient_norm_max: Option<f32>,
    /// Moves, turns and mirrors the pictures of LeNet.
    #[arg(long)]
    augment: bool,
    /// Computes so many samples at a time.
    #[arg(long)]
    micro_batch: Option<usize>,
    /// Takes no resident steps: parameters go to the GPU in each, and gradients come back.
    #[arg(long)]
    single_steps: bool,
    /// Steps between two looks at the clock; as many as take about half a second, or 5 s of the wide network, unless
    /// said.
    #[arg(long)]
    steps: Option<u64>,
    /// How often they are measured, after a warm-up.
    #[arg(long, default_value_t = 7)]
    runs: usize,
    /// Runs so many jobs in place of measuring, and says what of the GPU's memory was in use after the first tenth of
    /// them and at the end.
    #[arg(long)]
    jobs: Option<usize>,
    /// Passed by `cargo bench`; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is trained.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    /// 784-256-128-10.
    Mlp,
    /// The same, with weights of classes and smoothed labels.
    Weighted,
    /// 20 and 50 convolutions of 5 x 5 with pools, 500 units, 10 outputs.
    Lenet,
    /// Three layers of 4096 x 4096.
    Wide,
}

/// An optimizer with its defaults.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Rule {
    Sgd,
    Adam,
    Lamb,
}

impl Rule {
    fn build(self) -> Arc<dyn Optimizer> {
        match self {
            Self::Sgd => Arc::new(Sgd::default()),
            Self::Adam => Arc::new(Adam::default()),
            Self::Lamb => Arc::new(Lamb::default()),
        }
    }
}

impl Network {
    fn build(self) -> Result<NeuralNetwork, Failure> {
        Ok(match self {
            Self::Mlp => NeuralNetwork::dense(784, &[256, 128], 10)?,
            Self::Weighted => {
                let loss = Loss::WeightedCrossEntropy {
                    class_weights: (1..=10).map(|class| class as f32 / 5.0).collect(),
                    label_smoothing: 0.1,
                };
                let hidden = NeuralNetwork::new(Input(784))
                    .hidden(Dense::relu(256))
                    .hidden(Dense::relu(128));
                hidden.output(Dense::linear(10), loss)?
            }
            Self::Lenet => lenet()?,
            Self::Wide => NeuralNetwork::dense(4096, &[4096, 4096], 4096)?,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Mlp => "mlp",
            Self::Weighted => "weighted",
            Self::Lenet => "lenet",
            Self::Wide => "wide",
        }
    }

    /// What a run is to take: much more than the host's part of it. Each sends all parameters to the GPU and fetches
    /// them, which takes milliseconds; but those of the wide network are 201 MB and take about 50 ms, 1 to 2% of a run
    /// that long.
    fn run_seconds(self) -> f64 {
        match self {
            Self::Mlp | Self::Weighted | Self::Lenet => 0.5,
            Self::Wide => 5.0,
        }
    }

    /// Floating-point operations of the matrix products for a sample, forward and backward; the first layer has no
    /// gradient by its inputs.
    fn operations(self) -> f64 {
        let dense = |sides: &[usize]| -> f64 {
            let products = sides.windows(2).map(|pair| 2.0 * (pair[0] * pair[1]) as f64);
            3.0 * products.sum::<f64>() - 2.0 * (sides[0] * sides[1]) as f64
        };
        match self {
            Self::Mlp | Self::Weighted => dense(&[784, 256, 128, 10]),
            Self::Wide => dense(&[4096; 4]),
            Self::Lenet => {
                let convolutions = 4.0 * (25 * 20 * 576) as f64 + 6.0 * (500 * 50 * 64) as f64;
                convolutions + dense(&[800, 500, 10]) + 2.0 * (800 * 500) as f64
            }
        }
    }
}

#[derive(Serialize)]
struct Figure {
    bench: &'static str,
    network: &'static str,
    batch: usize,
    lanes: usize,
    optimizer: String,
    gradient_norm_max: Option<f32>,
    lane_gradient_norm_max: Option<f32>,
    micro_batch: Option<usize>,
    augment: bool,
    single_steps: bool,
    precision: String,
    device: String,
    samples_per_second_median: f64,
    /// Of matrix products, 10^12 operations a second.
    teraflops: f64,
    /// Of so many steps.
    steps: u64,
    #[serde(flatten)]
    spread: Spread,
    /// Since the beginning.
    gpu: Option<GpuFigures>,
    machine: String,
}

#[derive(Serialize)]
struct Jobs {
    bench: &'static str,
    jobs: usize,
    device: String,
    early_free_bytes: u64,
    late_free_bytes: u64,
    machine: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| {
        if let Some(jobs) = arguments.jobs {
            emit(&run_jobs(context, jobs)?);
            return Ok(());
        }
        for network in &arguments.network {
            for batch in &arguments.batch {
                emit(&measure(context, *network, *batch, &arguments)?);
            }
        }
        Ok(())
    })
}

/// Made-up bytes with a label each.
fn samples(network: &NeuralNetwork, count: usize) -> Result<Samples, Failure> {
    let length = network.input_length();
    let bytes = (0..count * length).map(|index| mix(index as u64) as u8).collect();
    let classes = network.output_length() as u64;
    let labels = (0..count as u64).map(|index| (mix(!index) % classes) as u32).collect();
    let features = Features::U8 {
        bytes,
        scale: 1.0 / 255.0,
    };
    Ok(Samples::new(length, features, SampleTargets::Labels(labels))?)
}

fn measure(context: &Context, kind: Network, batch: usize, arguments: &Arguments) -> Result<Figure, Failure> {
    let (network, lanes) = (kind.build()?, arguments.lanes.max(1));
    let samples = samples(&network, (16 * batch).max(8192))?;
    let data = context.parallelize(samples.split(lanes)?, lanes).cache();
    let options = TrainingOptions {
        batch,
        lanes,
        schedule: Some(Schedule::Constant(0.01)),
        optimizer: arguments.optimizer.build(),
        gradient_norm_max: arguments.gradient_norm_max,
        lane_gradient_norm_max: arguments.lane_gradient_norm_max,
        micro_batch: arguments.micro_batch,
        augmentation: arguments.augment.then_some(Augmentation {
            shift: 2,
            rotate_degrees: 10.0,
            flip: true,
        }),
        // Resident steps are taken where nobody has said who computes what.
        placement: arguments.single_steps.then(|| Placement {
            lanes: vec![0; lanes],
            shards: vec![0],
        }),
        ..TrainingOptions::default()
    };
    let mut training = network.train(&data, options)?;
    let mut steps = 16;
    // Clocks rise meanwhile, and the GPU learns how many steps to take between two looks of the host.
    while timed(&mut training, steps)? < kind.run_seconds() / 2.0 {
        steps *= 2;
    }
    let steps = match arguments.steps {
        Some(steps) => steps.max(1),
        None => (steps as f64 * kind.run_seconds() / timed(&mut training, steps)?).ceil() as u64,
    };
    timed(&mut training, steps)?;
    let seconds: Result<Vec<f64>, Failure> = (0..arguments.runs.max(1))
        .map(|_| timed(&mut training, steps))
        .collect();
    let spread = spread(seconds?);
    let rate = (batch as u64 * steps) as f64 / spread.median_seconds;
    Ok(Figure {
        bench: "gpu",
        network: kind.name(),
        batch,
        lanes,
        optimizer: format!("{:?}", arguments.optimizer).to_lowercase(),
        gradient_norm_max: arguments.gradient_norm_max,
        lane_gradient_norm_max: arguments.lane_gradient_norm_max,
        micro_batch: arguments.micro_batch,
        augment: arguments.augment,
        single_steps: arguments.single_steps,
        precision: format!("{:?}", context.config().precision).to_lowercase(),
        device: context.device().to_string(),
        samples_per_second_median: rate.round(),
        teraflops: rate * kind.operations() / 1e12,
        steps,
        spread,
        gpu: training.gpu_figures(),
        machine: machine(),
    })
}

/// What some steps take, in seconds.
fn timed(training: &mut Training, steps: u64) -> Result<f64, Failure> {
    let begun = Instant::now();
    training.iterate(steps, |_| ())?;
    Ok(begun.elapsed().as_secs_f64())
}

/// Trains again and again, every fifth time to an error, and looks at the driver's own count of free memory.
fn run_jobs(context: &Context, jobs: usize) -> Result<Jobs, Failure> {
    let network = Network::Mlp.build()?;
    let data = context.parallelize(samples(&network, 4096)?.split(1)?, 1).cache();
    let options = TrainingOptions {
        lanes: 1,
        ..TrainingOptions::default()
    };
    let mut early_free_bytes = 0;
    for job in 0..jobs {
        let diverges = job % 5 == 4;
        let mut options = options.clone();
        if diverges {
            // Parameters are infinite after a step or two, and so is the loss.
            options.schedule = Some(Schedule::Constant(f32::MAX));
        }
        let mut training = network.train(&data, options)?;
        let ended = training.iterate(4, |_| ());
        if ended.is_err() != diverges {
            return Err(format!("job {job} ended otherwise than it should").into());
        }
        drop(training);
        if job == jobs / 10 {
            early_free_bytes = free_bytes(context)?;
        }
    }
    Ok(Jobs {
        bench: "gpu_jobs",
        jobs,
        device: context.device().to_string(),
        early_free_bytes,
        late_free_bytes: free_bytes(context)?,
        machine: machine(),
    })
}

#[cfg(feature = "gpu")]
fn free_bytes(context: &Context) -> Result<u64, Failure> {
    use distdl::engine::device::{Chosen, Gpu};
    match context.device() {
        Chosen::Gpu(found) => Ok(Gpu::open(found, 0)?.free_bytes()?),
        _ => Ok(0),
    }
}

#[cfg(not(feature = "gpu"))]
fn free_bytes(_: &Context) -> Result<u64, Failure> {
    Ok(0)
}
