//! Training steps of an MLP 784-256-128-10 on one thread: shuffled byte rows are gathered, the gradient computed, the
//! update applied.
//!
//! `cargo bench -p distdl-dl --bench step [-- ROUNDS]` prints one JSON line for each batch size, and one for each part
//! of a step.

use distdl_dl::kernels::{activation, matmul};
use distdl_dl::{
    Activation, Batch, Dense, Features, Input, Loss, NeuralNetwork, Optimizer, Result, SampleTargets, Samples, Sgd,
    shuffle,
};
use distdl_engine::ShardValues;
use std::time::{Duration, Instant};

const SAMPLES: usize = 60_000;
const ROUND_SAMPLES: usize = 16_384;

fn main() -> Result<()> {
    let rounds = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .next()
        .unwrap_or(15);
    let network = NeuralNetwork::new(Input(784))
        .hidden(Dense::relu(256))
        .hidden(Dense::relu(128))
        .output(Dense::linear(10), Loss::SoftmaxCrossEntropy)?;
    let samples = random_samples()?;
    for rows in [128, 64, 1024] {
        training(&network, &samples, rows, rounds)?;
    }
    parts(rounds)
}

fn random_samples() -> Result<Samples> {
    let bytes = (0..SAMPLES * 784)
        .map(|index| (index.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect();
    let labels = shuffle(2, 0, 0, SAMPLES as u32)
        .into_iter()
        .map(|value| value % 10)
        .collect();
    Samples::new(
        784,
        Features::U8 {
            bytes,
            scale: 1.0 / 255.0,
        },
        SampleTargets::Labels(labels),
    )
}

fn training(network: &NeuralNetwork, samples: &Samples, rows: usize, rounds: usize) -> Result<()> {
    let mut parameters = network.initialize(1)?;
    let mut gradient = vec![0.0; parameters.len()];
    let mut after = gradient.clone();
    let mut workspace = network.workspace(rows);
    let mut batch = Batch::new(samples, rows);
    let order = shuffle(1, 0, 0, SAMPLES as u32);
    let mut parts = [Duration::ZERO; 3];
    let times = timed(rounds, || {
        for indices in order.chunks_exact(rows).take(ROUND_SAMPLES / rows) {
            let start = Instant::now();
            batch.gather(&[samples], indices.iter().copied())?;
            let gathered = Instant::now();
            network.gradient(
                &parameters,
                batch.features(),
                batch.targets(),
                rows,
                &mut workspace,
                &mut gradient,
            )?;
            let computed = Instant::now();
            let mut shard = ShardValues::new(&parameters, &mut after);
            Sgd::default().apply(0, 0.01, 1.0 / rows as f32, &gradient, &mut shard)?;
            std::mem::swap(&mut parameters, &mut after);
            parts[0] += gathered - start;
            parts[1] += computed - gathered;
            parts[2] += computed.elapsed();
        }
        Ok(())
    })?;
    let per_second = |seconds: f64| (ROUND_SAMPLES / rows * rows) as f64 / seconds;
    let share = parts.map(|part| part.as_secs_f64() / parts.iter().sum::<Duration>().as_secs_f64());
    println!(
        "{{\"bench\":\"step\",\"batch\":{rows},\"samples_per_second_best\":{:.0},\"samples_per_second_median\":{:.0},\
         \"share_gather\":{:.3},\"share_gradient\":{:.3},\"share_update\":{:.3}}}",
        per_second(times[0]),
        per_second(times[times.len() / 2]),
        share[0],
        share[1],
        share[2],
    );
    Ok(())
}

/// The pieces of a step at batch 128, in microseconds.
fn parts(rounds: usize) -> Result<()> {
    for (inputs, outputs) in [(784, 256), (256, 128), (128, 10)] {
        let (x, w) = (vec![0.5f32; 128 * inputs], vec![0.01f32; inputs * outputs]);
        let mut y = vec![1.0f32; 128 * outputs];
        let (mut dw, mut dx) = (w.clone(), x.clone());
        let x = matmul::Matrix::new("x", &x, 128, inputs)?;
        let w = matmul::Matrix::new("w", &w, inputs, outputs)?;
        part(rounds, "matmul forward", inputs, outputs, || {
            matmul::matmul(&mut y, x, w)
        })?;
        let dy = matmul::Matrix::new("dy", &y, 128, outputs)?;
        part(rounds, "matmul weight gradient", inputs, outputs, || {
            matmul::matmul(&mut dw, x.transpose(), dy)
        })?;
        part(rounds, "matmul input gradient", inputs, outputs, || {
            matmul::matmul(&mut dx, dy, w.transpose())
        })?;
        let (bias, mut bias_gradient, mut dy) = (vec![0.0f32; outputs], vec![0.0; outputs], y.clone());
        part(rounds, "bias and relu", inputs, outputs, || {
            activation::forward(Activation::Relu, &bias, &mut y)
        })?;
        part(rounds, "relu gradient and bias gradient", inputs, outputs, || {
            activation::backward(Activation::Relu, &y, &mut dy, &mut bias_gradient)
        })?;
    }
    Ok(())
}

fn part(rounds: usize, name: &str, inputs: usize, outputs: usize, mut work: impl FnMut() -> Result<()>) -> Result<()> {
    const TIMES: usize = 50;
    let times = timed(rounds, || (0..TIMES).try_for_each(|_| work()))?;
    let micros = |seconds: f64| seconds / TIMES as f64 * 1e6;
    println!(
        "{{\"bench\":\"{name}\",\"inputs\":{inputs},\"outputs\":{outputs},\"batch\":128,\
         \"us_best\":{:.2},\"us_median\":{:.2}}}",
        micros(times[0]),
        micros(times[times.len() / 2]),
    );
    Ok(())
}

/// Seconds of each round, sorted, after one round to warm up.
fn timed(rounds: usize, mut work: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let mut times = Vec::with_capacity(rounds);
    for round in 0..=rounds.max(1) {
        let start = Instant::now();
        work()?;
        if round > 0 {
            times.push(start.elapsed().as_secs_f64());
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}
