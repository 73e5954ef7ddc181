use distdl_dl::Activation;
use distdl_dl::kernels::activation;
use distdl_dl::kernels::programs::{Grid, ReductionSplit};
use distdl_dl::kernels::sums as cpu;

use super::{SHAPES, close, close_wide, numbers, same};
use crate::runner::{Runner, change, count, number, read};

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
        let mut expected = vec![f32::NAN; columns];
        let mut gradient = values.clone();
        activation::backward(Activation::Identity, &values, &mut gradient, &mut expected).unwrap();
        let got = of_parts(
            runner,
            ReductionSplit::of_columns(rows, columns),
            columns,
            1.0,
            &mut |parts, scale, sums| {
                columns_of(runner, (rows, columns), parts, scale, &values, sums);
            },
        );
        close(runner, "sum of a column", 1e-5, &expected, &got);
    }
}

pub(crate) fn channel_sums(runner: &dyn Runner) {
    let shapes = SHAPES.into_iter().flat_map(|shape| [(shape, 1), (shape, 35)]);
    for ((rows, channels), positions) in shapes.chain([((3, 2), 9000), ((40, 3), 500)]) {
        let values = numbers(rows * channels * positions, 1.0, 2);
        let mut expected = vec![0.0; channels];
        for (index, pixels) in values.chunks_exact(positions).enumerate() {
            expected[index % channels] += cpu::sum(pixels) * 0.5;
        }
        let parts = ReductionSplit::of_channels(rows, channels, positions);
        let got = of_parts(runner, parts, channels, 0.5, &mut |parts, scale, sums| {
            let mut arguments = [
                count(rows),
                count(channels),
                count(positions),
                count(parts.rows),
                number(scale),
                read(&values),
                change(sums),
            ];
            let grid = Grid::of_channels(channels, positions, parts);
            runner.run("channel_sums", grid, &mut arguments);
        });
        close(runner, "sum of a channel", 1e-4, &expected, &got);
    }
}

/// What `each` writes for parts and a scale, and if there are more than one, their sum times `scale`.
pub(super) fn of_parts(
    runner: &dyn Runner,
    parts: ReductionSplit,
    columns: usize,
    scale: f32,
    each: &mut dyn FnMut(ReductionSplit, f32, &mut [f32]),
) -> Vec<f32> {
    let mut sums = vec![f32::NAN; parts.count * columns];
    if parts.count == 1 {
        each(parts, scale, &mut sums);
        return sums;
    }
    each(parts, 1.0, &mut sums);
    let whole = ReductionSplit {
        rows: parts.count,
        count: 1,
    };
    let mut sum = vec![f32::NAN; columns];
    columns_of(runner, (parts.count, columns), whole, scale, &sums, &mut sum);
    sum
}

fn columns_of(
    runner: &dyn Runner,
    (rows, columns): (usize, usize),
    parts: ReductionSplit,
    scale: f32,
    values: &[f32],
    sums: &mut [f32],
) {
    let mut arguments = [
        count(rows),
        count(columns),
        count(parts.rows),
        number(scale),
        read(values),
        change(sums),
    ];
    runner.run("column_sums", Grid::of_columns(columns, parts), &mut arguments);
}

pub(crate) fn sums_of_pieces(runner: &dyn Runner) {
    for (rows, size) in [(1, 1), (3, 2), (2, 255), (1, 8191), (1, 8192), (2, 8193), (2, 8193 * 5)] {
        // Whole numbers, whose sum is exact in any order.
        let values: Vec<f64> = (0..rows * size).map(|index| index as f64).collect();
        let expected: Vec<f64> = values.chunks(size).map(|row| row.iter().sum()).collect();
        close_wide(runner, "sum", 0.0, &expected, &sums(runner, rows, values));
    }
}

/// The sums of sums, until one of each row is left.
fn sums(runner: &dyn Runner, rows: usize, mut values: Vec<f64>) -> Vec<f64> {
    while values.len() > rows {
        let size = values.len() / rows;
        let (grid, pieces) = Grid::of_pieces(rows, size);
        let mut sums = vec![f64::NAN; rows * pieces];
        let mut given = [count(rows), count(size), read(&values), change(&mut sums)];
        runner.run("sums_of_pieces", grid, &mut given);
        values = sums;
    }
    values
}
