use distdl_dl::kernels::programs::Grid;
use distdl_engine::SquareSum;

use super::numbers;
use crate::runner::{Runner, change, count, number, read, wide};

/// Words of eight bytes of a part.
const PART: usize = 21;

/// The exact sum of the squares of all of `values`, a part of the sum for each block that sums some of them.
fn sum(runner: &dyn Runner, values: &[&[f32]]) -> f64 {
    let mut parts = Vec::new();
    for values in values {
        let grid = Grid::of_squares(values.len());
        let mut own = vec![u64::MAX; PART * grid.blocks as usize];
        let mut given = [count(values.len()), read(values), change(&mut own)];
        runner.run("square_sum_parts", grid, &mut given);
        parts.extend(own);
    }
    let mut total = [-1.0_f64];
    let mut given = [count(parts.len() / PART), read(&parts), change(&mut total)];
    runner.run("square_sum", Grid::of_one_block(), &mut given);
    total[0]
}

fn assert_exact(runner: &dyn Runner, what: &str, values: &[&[f32]]) {
    let mut expected = SquareSum::default();
    values.iter().for_each(|values| expected.add(values));
    let (expected, got) = (expected.value(), sum(runner, values));
    let is_same = expected.to_bits() == got.to_bits() || expected.is_nan() && got.is_nan();
    assert!(is_same, "{}: {what}: {got} is not {expected}", runner.name());
}

pub(crate) fn square_sum(runner: &dyn Runner) {
    for size in [0, 1, 63, 257, 8193, 70_001, 5_000_000] {
        assert_exact(runner, &format!("{size}"), &[&numbers(size, 1.0, 3)]);
    }
    // Of every magnitude, and of several tensors.
    let any = numbers(40_000, 1.0, 7).into_iter().zip(numbers(40_000, 1.0, 8));
    let any = any.map(|(high, low)| f32::from_bits(high.to_bits() << 8 ^ low.to_bits()));
    let any: Vec<f32> = any.filter(|value| value.is_finite()).collect();
    assert!(any.iter().any(|value| value.is_subnormal()) && any.iter().any(|value| value.abs() > 1e38));
    assert_exact(runner, "any", &[&any]);
    for size in 0..40 {
        let (first, second) = any.split_at(size * 173);
        assert_exact(runner, &format!("{size} of any"), &[&second[..size], &first[..size]]);
    }
    assert_exact(runner, "tensors", &[&any[..9000], &[], &any[9000..9001], &any[9001..]]);
}

pub(crate) fn ends_of_square_sums(runner: &dyn Runner) {
    let smallest = f32::from_bits(1);
    for value in [
        0.0,
        -0.0,
        smallest,
        f32::MIN_POSITIVE,
        1.0,
        -3.0,
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
    ] {
        assert_exact(runner, &format!("{value}"), &[&[value]]);
        assert_exact(runner, &format!("many of {value}"), &[&vec![value; 70_001]]);
        assert_exact(runner, &format!("1 and {value}"), &[&[1.0], &[value]]);
    }
    // Half of the last place goes to the even number, and with anything more up.
    let half = 2.0_f32.powi(-27);
    for more in [0.0, smallest, half] {
        assert_exact(runner, "a tie", &[&[1.0, half, half, more]]);
        assert_exact(
            runner,
            "an odd tie",
            &[&[1.0, half, half, half, half, half, half, more]],
        );
    }
}

pub(crate) fn norm_limit(runner: &dyn Runner) {
    for (norm_max, weight, total) in [
        (1.0_f32, 7.0, 1e4_f64),
        (1.0, 7.0, 1.0),
        (0.3, 1.0, 0.0),
        (0.3, 1e-3, 0.1),
        (2.5, 129.5, 1e60),
    ] {
        let norm = total.sqrt() / weight;
        let total = [total];
        let expected = ((f64::from(norm_max) / (norm + 1e-6)) as f32).min(1.0);
        let mut limit = [f32::NAN];
        let mut given = [number(norm_max), wide(weight), read(&total), change(&mut limit)];
        runner.run("norm_limit", Grid::of_rows(1, 1), &mut given);
        assert_eq!(limit[0].to_bits(), expected.to_bits(), "{}: {total:?}", runner.name());
    }
}
