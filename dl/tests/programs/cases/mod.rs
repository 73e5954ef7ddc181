//! What each kernel is to compute: what the CPU computes from the same inputs.

pub(crate) mod activation;
pub(crate) mod augment;
pub(crate) mod losses;
pub(crate) mod embedding;
pub(crate) mod lane_limit;
pub(crate) mod masks;
pub(crate) mod norms;
pub(crate) mod samples;
pub(crate) mod square_sum;
pub(crate) mod sums;
pub(crate) mod update;
pub(crate) mod windows;

use super::runner::Runner;

/// Rows and columns: none, one, less than, as many as and more than a warp or a block has threads.
const SHAPES: [(usize, usize); 12] = [
    (0, 3),
    (1, 1),
    (7, 1),
    (1, 10),
    (13, 31),
    (5, 32),
    (300, 33),
    (3, 256),
    (33, 257),
    (2, 1000),
    (1000, 7),
    (257, 64),
];

/// Numbers between -`size` and `size` that look like chance, others for another `seed`.
fn numbers(count: usize, size: f32, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9).wrapping_add(1);
    let mut number = || {
        // Xorshift (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0) as f32 * size
    };
    (0..count).map(|_| number()).collect()
}

/// Numbers with what no sum or exponential should meet, yet may.
fn with_extremes(mut numbers: Vec<f32>) -> Vec<f32> {
    let extremes = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e30, -1e30, 1e-40];
    if numbers.len() > 100 {
        numbers
            .iter_mut()
            .skip(3)
            .step_by(11)
            .zip(extremes)
            .for_each(|(to, from)| *to = from);
    }
    numbers
}

/// Labels below `classes`.
fn labels(count: usize, classes: usize) -> Vec<u32> {
    (0..count).map(|row| (row * 7 % classes) as u32).collect()
}

fn same(runner: &dyn Runner, what: &str, expected: &[f32], got: &[f32]) {
    assert_eq!(expected.len(), got.len());
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        let is_same = expected == got || expected.is_nan() && got.is_nan();
        assert!(is_same, "{}: {what}, {index}: {got} is not {expected}", runner.name());
    }
}

/// Equal but for so much, of the number or of 1 if that is more.
fn close(runner: &dyn Runner, what: &str, error_max: f64, expected: &[f32], got: &[f32]) {
    let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
    close_wide(runner, what, error_max, &wide(expected), &wide(got));
}

fn close_wide(runner: &dyn Runner, what: &str, error_max: f64, expected: &[f64], got: &[f64]) {
    assert_eq!(expected.len(), got.len());
    for (index, (expected, got)) in expected.iter().zip(got).enumerate() {
        let error = (expected - got).abs() / expected.abs().max(1.0);
        let is_same = expected == got || expected.is_nan() && got.is_nan();
        assert!(
            is_same || error <= error_max,
            "{}: {what}, {index}: {got} is not {expected}",
            runner.name()
        );
    }
}
