use distdl_dl::Activation;
use distdl_dl::kernels::activation;
use distdl_dl::kernels::programs::Grid;
use distdl_dl::kernels::sums as cpu;

use super::{SHAPES, close, close_wide, numbers, same};
use crate::runner::{Runner, change, count, read};

pub(crate) fn add(runner: &dyn Runner) {
    for size in [0, 1, 300, 70_001] {
        let (values, mut sums) = (numbers(size, 1.0, 4), numbers(size, 2.0, 5));
        let expected: Vec<f32> = sums.iter().zip(&values).map(|(sum, value)| sum + value).collect();
        let mut given = [count(size), read(&values), change(&mut sums)];
        runner.run("add", Grid::of_elements(size), &mut given);
        same(runner, "add", &expected, &sums);
    }
}

pub(crate) fn column_sums(runner: &dyn Runner) {
    for (rows, columns) in SHAPES {
        let values = numbers(rows * columns, 1.0, 1);
        let (mut expected, mut got) = (vec![f32::NAN; columns], vec![f32::NAN; columns]);
        let mut gradient = values.clone();
        activation::backward(Activation::Identity, &values, &mut gradient, &mut expected).unwrap();
        let mut arguments = [count(rows), count(columns), read(&values), change(&mut got)];
        runner.run("column_sums", Grid::of_columns(columns), &mut arguments);
        close(runner, "sum of a column", 1e-5, &expected, &got);
    }
}

pub(crate) fn channel_sums(runner: &dyn Runner) {
    for ((rows, channels), positions) in SHAPES.into_iter().flat_map(|shape| [(shape, 1), (shape, 35)]) {
        let values = numbers(rows * channels * positions, 1.0, 2);
        let mut expected = vec![0.0; channels];
        for (index, pixels) in values.chunks_exact(positions).enumerate() {
            expected[index % channels] += cpu::sum(pixels);
        }
        let mut got = vec![f32::NAN; channels];
        let mut arguments = [
            count(rows),
            count(channels),
            count(positions),
            read(&values),
            change(&mut got),
        ];
        runner.run(
            "channel_sums",
            Grid::of_rows(channels, rows * positions),
            &mut arguments,
        );
        close(runner, "sum of a channel", 1e-4, &expected, &got);
    }
}

pub(crate) fn sums_of_parts(runner: &dyn Runner) {
    for size in [1, 2, 255, 8191, 8192, 8193, 8193 * 5] {
        // Whole numbers, whose sum is exact in any order.
        let values: Vec<f64> = (0..size).map(f64::from).collect();
        let expected = values.iter().sum();
        close_wide(runner, "sum", 0.0, &[expected], &[sum(runner, values)]);
    }
}

/// The sum of sums, until one is left.
fn sum(runner: &dyn Runner, mut values: Vec<f64>) -> f64 {
    while values.len() > 1 {
        let (grid, parts) = Grid::of_parts(values.len());
        let mut sums = vec![f64::NAN; parts];
        runner.run(
            "sums_of_parts",
            grid,
            &mut [count(values.len()), read(&values), change(&mut sums)],
        );
        values = sums;
    }
    values[0]
}
