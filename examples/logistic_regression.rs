//! A training algorithm of one's own, on the feedback loop itself: `cargo run --release --example logistic_regression`.
//!
//! Two closures make it: lanes sum gradients of the logistic loss over their next points, shards apply the lanes' sum.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, value_parser};
use distdl::prelude::*;
use distdl::{
    EngineError, Iteration, Lane, LaneData, Parameters, Records, ShardUpdate, ShardValues, StepReport, Tallies,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::json;

const FEATURES: usize = 10;
/// Points that a lane takes in a step.
const SHARE: usize = 50;
/// The least probability of a label that counts.
const LEAST: f64 = 1e-30;
type Point = ([f32; FEATURES], f32);

/// Fits a logistic regression to generated points, one in ten of them mislabelled.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Points to train on; a tenth as many are drawn for the test.
    #[arg(long, default_value_t = 20_000, value_parser = value_parser!(u64).range(1024..=1_000_000_000))]
    points: u64,
    /// Passes over the points.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=1_000_000))]
    epochs: u64,
    /// Logical streams of points; each takes 50 in a step.
    #[arg(long, default_value_t = 4, value_parser = value_parser!(u64).range(1..=1024))]
    lanes: u64,
    /// Size of a step of gradient descent.
    #[arg(long, default_value_t = 0.5)]
    learning_rate: f32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| fit(context, &arguments))
}

fn fit(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let (count, lanes, rate) = (arguments.points, arguments.lanes as usize, arguments.learning_rate);
    let (json, seed) = (context.config().json, context.config().seed);
    let points = |range| context.range(range, lanes).map(move |index| point(seed, index));
    let (train, test) = (points(0..count).cache(), points(count..count + count.div_ceil(10)));

    let parameters = Arc::new(Parameters::new(vec![0.0; FEATURES]));
    let steps_per_epoch = count.div_ceil((SHARE * lanes) as u64);
    let iteration = Iteration::new(lanes, arguments.epochs * steps_per_epoch);
    let shard = move |_| Ok(Box::new(descent(rate)) as Box<dyn ShardUpdate>);
    let mut total = Tallies::default();
    train.iterate(iteration, &parameters, gradients, shard, &mut |step| {
        total = total.plus(step.tallies);
        if (step.step + 1).is_multiple_of(steps_per_epoch) {
            let (epoch, Tallies([loss, seen, ..])) = ((step.step + 1) / steps_per_epoch, std::mem::take(&mut total));
            match json {
                true => println!("{}", json!({ "epoch": epoch, "loss": loss / seen })),
                false => println!("epoch {epoch:>2}  loss {:.4}", loss / seen),
            }
        }
    })?;

    let fitted = context.broadcast(parameters.latest().to_vec());
    let right = test.filter(move |(features, label)| (probability(features, &fitted) > 0.5) == (*label > 0.5));
    let accuracy = right.count()? as f64 / test.count()? as f64;
    match json {
        true => println!(
            "{}",
            json!({ "test_accuracy": accuracy, "parameters": *parameters.latest() })
        ),
        false => println!("test accuracy {:.2}%", 100.0 * accuracy),
    }
    Ok(())
}

/// A lane: sums the gradients of its next points, round and round.
fn gradients(data: LaneData<Records<Point>>) -> distdl::engine::Result<Box<dyn Lane>> {
    let points: Vec<Point> = data.partitions.iter().flat_map(|records| records.to_vec()).collect();
    Ok(Box::new(move |step: u64, parameters: &[f32], update: &mut [f32]| {
        update.fill(0.0);
        let (first, mut loss) = (step as usize * SHARE % points.len(), 0.0);
        for (features, label) in points.iter().cycle().skip(first).take(SHARE) {
            let error = probability(features, parameters) - label;
            (update.iter_mut().zip(features)).for_each(|(sum, feature)| *sum += error * feature);
            // `clamp` leaves what is no number as it is.
            loss -= f64::from(1.0 - error.abs()).clamp(LEAST, 1.0).ln();
        }
        Ok(Tallies([loss, SHARE as f64, 0.0, 0.0]))
    }))
}

/// A shard: applies the sum of all lanes' gradients.
fn descent(rate: f32) -> impl ShardUpdate {
    move |step: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
        if !(step.tallies.0[0].is_finite() && sum.iter().all(|gradient| (rate * gradient).is_finite())) {
            let what = format!("step {} leads to what is no number", step.step);
            return Err(EngineError::invalid(what, "take a smaller learning rate"));
        }
        let scale = rate / step.tallies.0[1] as f32;
        for ((after, before), gradient) in shard.after.iter_mut().zip(shard.before).zip(sum) {
            *after = before - scale * gradient;
        }
        Ok(())
    }
}

fn probability(features: &[f32], parameters: &[f32]) -> f32 {
    let products = features
        .iter()
        .zip(parameters)
        .map(|(feature, parameter)| feature * parameter);
    1.0 / (1.0 + (-products.sum::<f32>()).exp())
}

/// A point is a function of (seed, index).
fn point(seed: u64, index: u64) -> Point {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(index);
    let mut symmetric = || (generator.next_u32() >> 8) as f32 / 8_388_608.0 - 1.0;
    let features: [f32; FEATURES] = std::array::from_fn(|_| symmetric());
    let (positive, negative) = features.split_at(FEATURES / 2);
    let above = positive.iter().sum::<f32>() > negative.iter().sum::<f32>();
    (features, f32::from(above != (symmetric() > 0.8)))
}
