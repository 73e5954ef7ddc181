use distdl_dl::kernels::batch_norm::{self as by_channel, Moments};
use distdl_dl::kernels::layer_norm as by_row;
use distdl_dl::kernels::programs::{Grid, ReductionSplit};

use super::sums::of_parts;
use super::{SHAPES, close, numbers, same};
use crate::runner::{Runner, change, count, number, read};

const EPSILON: f32 = 1e-5;
const ERROR_MAX: f64 = 1e-4;

pub(crate) fn batch_norm(runner: &dyn Runner) {
    for (rows, channels) in SHAPES {
        // So many that there is nothing new in more.
        for positions in [1, 9, 35]
            .into_iter()
            .filter(|positions| rows * channels * positions < 50_000)
        {
            batch_norm_of(runner, rows, channels, positions);
        }
    }
}

/// What does not sum is given the CPU's sums, and must then have its bits.
fn batch_norm_of(runner: &dyn Runner, rows: usize, channels: usize, positions: usize) {
    let size = rows * channels * positions;
    let (inputs, gradient) = (numbers(size, 3.0, 1), numbers(size, 1.0, 2));
    let (weight, bias) = (numbers(channels, 2.0, 3), numbers(channels, 2.0, 4));
    let of_channels = || vec![f32::NAN; channels];
    let parts = ReductionSplit::of_channels(rows, channels, positions);
    let sides = || [count(rows), count(channels), count(positions)];

    let (mut mean, mut variance) = (of_channels(), of_channels());
    by_channel::moments(positions, &inputs, &mut mean, &mut variance).unwrap();
    let share = (1.0 / (rows * positions).max(1) as f64) as f32;
    let variances = of_parts(runner, parts, channels, share, &mut |parts, scale, sums| {
        let mut arguments: Vec<_> = sides().into();
        arguments.extend([
            count(parts.rows),
            number(scale),
            read(&mean),
            read(&inputs),
            change(sums),
        ]);
        let grid = Grid::of_channels(channels, positions, parts);
        runner.run("batch_norm_squares", grid, &mut arguments);
    });
    close(runner, "variance of a channel", ERROR_MAX, &variance, &variances);

    let (rows_given, unbiased) = (rows as f32, 1.25);
    let values = mean.iter().map(|mean| mean * rows_given);
    let values = values.chain(variance.iter().map(|variance| variance * unbiased * rows_given));
    let mut running = vec![f32::NAN; 2 * channels];
    let mut arguments = [
        count(channels),
        number(rows_given),
        number(unbiased),
        read(&mean),
        read(&variance),
        change(&mut running),
    ];
    runner.run("batch_norm_running", Grid::of_elements(channels), &mut arguments);
    same(runner, "running moments", &values.collect::<Vec<_>>(), &running);

    let moments = Moments {
        mean: &mean,
        variance: &variance,
        epsilon: EPSILON.into(),
        are_of_inputs: true,
    };
    let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
    by_channel::forward(positions, moments, (&weight, &bias), &inputs, &mut expected).unwrap();
    let mut arguments = vec![count(size), count(channels), count(positions), number(EPSILON)];
    arguments.extend([&mean, &variance, &weight, &bias, &inputs].map(|values| read(values)));
    arguments.push(change(&mut got));
    runner.run("batch_norm_forward", Grid::of_elements(size), &mut arguments);
    same(runner, "normalised channels", &expected, &got);

    let (mut by_weight, mut by_bias) = (of_channels(), of_channels());
    let sums = (&mut by_weight[..], &mut by_bias[..]);
    let values = (&inputs[..], &gradient[..]);
    by_channel::backward(positions, moments, &weight, values, sums, Some(&mut expected)).unwrap();
    let by_weights = of_parts(runner, parts, channels, 1.0, &mut |parts, scale, sums| {
        let mut arguments: Vec<_> = sides().into();
        arguments.extend([count(parts.rows), number(scale), number(EPSILON)]);
        arguments.extend([&mean, &variance, &inputs, &gradient].map(|values| read(values)));
        arguments.push(change(sums));
        let grid = Grid::of_channels(channels, positions, parts);
        runner.run("batch_norm_along", grid, &mut arguments);
    });
    close(
        runner,
        "gradient by a channel's weight",
        ERROR_MAX,
        &by_weight,
        &by_weights,
    );

    for are_of_inputs in [true, false] {
        let moments = Moments {
            are_of_inputs,
            ..moments
        };
        let sums = (&mut by_weight[..], &mut by_bias[..]);
        by_channel::backward(positions, moments, &weight, values, sums, Some(&mut expected)).unwrap();
        let mut arguments: Vec<_> = sides().into();
        arguments.extend([number(EPSILON), number(if are_of_inputs { share } else { 0.0 })]);
        let others = [&mean, &variance, &weight, &inputs, &gradient, &by_weight, &by_bias];
        arguments.extend(others.map(|values| read(values)));
        arguments.push(change(&mut got));
        runner.run("batch_norm_backward", Grid::of_elements(size), &mut arguments);
        same(runner, "gradient by channels", &expected, &got);
    }
}

pub(crate) fn layer_norm(runner: &dyn Runner) {
    for (rows, columns) in SHAPES {
        let size = rows * columns;
        let (inputs, gradient) = (numbers(size, 3.0, 1), numbers(size, 1.0, 2));
        let (weight, bias) = (numbers(columns, 2.0, 3), numbers(columns, 2.0, 4));
        let (mut means, mut scales) = (vec![f32::NAN; rows], vec![f32::NAN; rows]);
        let mut arguments = [
            count(rows),
            count(columns),
            number(EPSILON),
            read(&inputs),
            change(&mut means),
            change(&mut scales),
        ];
        runner.run("layer_norm_moments", Grid::of_rows(rows, columns), &mut arguments);

        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        by_row::forward(EPSILON.into(), &weight, &bias, &inputs, &mut expected).unwrap();
        let mut arguments = vec![count(size), count(columns)];
        arguments.extend([&means, &scales, &weight, &bias, &inputs].map(|values| read(values)));
        arguments.push(change(&mut got));
        runner.run("layer_norm_forward", Grid::of_elements(size), &mut arguments);
        close(runner, "normalised rows", ERROR_MAX, &expected, &got);

        let (mut by_weight, mut by_bias) = (vec![f32::NAN; columns], vec![f32::NAN; columns]);
        let sums = (&mut by_weight[..], &mut by_bias[..]);
        by_row::backward(EPSILON.into(), &weight, &inputs, &gradient, sums, Some(&mut expected)).unwrap();
        let parts = ReductionSplit::of_columns(rows, columns);
        let by_weights = of_parts(runner, parts, columns, 1.0, &mut |parts, scale, sums| {
            let mut arguments = vec![count(rows), count(columns), count(parts.rows), number(scale)];
            arguments.extend([&means, &scales, &inputs, &gradient].map(|values| read(values)));
            arguments.push(change(sums));
            runner.run("layer_norm_along", Grid::of_columns(columns, parts), &mut arguments);
        });
        close(
            runner,
            "gradient by a column's weight",
            ERROR_MAX,
            &by_weight,
            &by_weights,
        );

        let mut arguments = vec![count(rows), count(columns)];
        arguments.extend([&means, &scales, &weight, &inputs, &gradient].map(|values| read(values)));
        arguments.push(change(&mut got));
        runner.run("layer_norm_backward", Grid::of_rows(rows, columns), &mut arguments);
        // A row of one or two elements has hardly a variance: its gradient is a difference of large numbers.
        let error_max = if columns < 3 { 1e-1 } else { ERROR_MAX };
        close(runner, "gradient by rows", error_max, &expected, &got);
    }
}
