//! Finds the centres of clusters of points: `cargo run --release --example k_means`.
//!
//! The rounds are Lloyd's (1982): each point goes to its nearest centre, each centre to the mean of its points.

use std::process::ExitCode;

use clap::{Parser, value_parser};
use distdl::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

const PARTITIONS: usize = 8;
type Point = [f64; 2];

/// Finds the centres of clusters of generated points.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    /// Points to draw.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u64).range(1..=1_000_000_000))]
    points: u64,
    /// Clusters that they are drawn in, and centres to find.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u64).range(1..=1024))]
    clusters: u64,
    /// Rounds at most.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
}

/// Points that are drawn for each centre, of which one is taken to begin with.
const SAMPLE_OF_EACH: usize = 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    distdl::run(arguments.flags.config(), |context| find(context, &arguments))
}

fn find(context: &Context, arguments: &Arguments) -> Result<(), Failure> {
    let (seed, clusters, json) = (context.config().seed, arguments.clusters, context.config().json);
    let points = context.range(0..arguments.points, PARTITIONS);
    let points = points.map(move |index| point(seed, clusters, index)).cache();
    let mut centres = far_apart(
        &points.take_sample(SAMPLE_OF_EACH * clusters as usize, seed)?,
        clusters as usize,
    );
    for _ in 0..arguments.rounds {
        let known = context.broadcast(centres.clone());
        let nearest = points.map(move |point| (nearest(&known, &point).0, (point, 1u64)));
        let sums = nearest
            .reduce_by_key(|(left, count), (right, more)| ([left[0] + right[0], left[1] + right[1]], count + more));
        let mut moved: f64 = 0.0;
        for (centre, (sum, count)) in sums.collect()? {
            let mean = sum.map(|sum| sum / count as f64);
            moved = moved.max(distance(&mean, &centres[centre]));
            centres[centre] = mean;
        }
        if moved < 1e-12 {
            break;
        }
    }
    let known = context.broadcast(centres.clone());
    let cost = points.map(move |point| nearest(&known, &point).1).stats()?;
    centres.sort_by(|left, right| left[0].total_cmp(&right[0]));
    match json {
        true => println!(
            "{}",
            serde_json::json!({ "centres": centres, "mean_squared_distance": cost.mean() })
        ),
        false => {
            centres.iter().for_each(|[x, y]| println!("{x:>9.4} {y:>9.4}"));
            println!("mean squared distance {:.4}", cost.mean());
        }
    }
    Ok(())
}

/// Points of a sample to begin with: each is the farthest from those before it (Gonzalez, 1985), so that no two lie in
/// one cluster while another has none.
fn far_apart(sample: &[Point], count: usize) -> Vec<Point> {
    let mut chosen: Vec<Point> = sample.first().copied().into_iter().collect();
    while chosen.len() < count.min(sample.len()) {
        let distance = |point: &Point| nearest(&chosen, point).1;
        let farthest = sample
            .iter()
            .max_by(|left, right| distance(left).total_cmp(&distance(right)));
        chosen.extend(farthest);
    }
    chosen
}

/// The nearest centre, and the square of its distance.
fn nearest(centres: &[Point], point: &Point) -> (usize, f64) {
    let distances = centres.iter().map(|centre| distance(centre, point)).enumerate();
    distances.fold(
        (0, f64::INFINITY),
        |best, next| if next.1 < best.1 { next } else { best },
    )
}

fn distance(left: &Point, right: &Point) -> f64 {
    (left[0] - right[0]).powi(2) + (left[1] - right[1]).powi(2)
}

/// A point is a function of (seed, index): a cluster's place on a circle of radius 10, and up to 1 in either direction.
fn point(seed: u64, clusters: u64, index: u64) -> Point {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(index);
    let angle = (index % clusters) as f64 / clusters as f64 * std::f64::consts::TAU;
    let mut symmetric = || f64::from(generator.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0;
    [10.0 * angle.cos() + symmetric(), 10.0 * angle.sin() + symmetric()]
}
