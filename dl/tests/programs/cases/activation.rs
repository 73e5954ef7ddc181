use distdl_dl::Activation;
use distdl_dl::kernels::programs::{Grid, ReductionSplit};
use distdl_dl::kernels::sums::sum;
use distdl_dl::kernels::{activation, gelu as cpu};

use super::sums::of_parts;
use super::{SHAPES, close, numbers, same, with_extremes};
use crate::runner::{Runner, change, count, kind, read};

/// All but softmax, which is no matter of an element.
fn of_elements() -> impl Iterator<Item = Activation> {
    Activation::ALL
        .into_iter()
        .filter(|activation| *activation != Activation::Softmax)
}

/// What a library computes may differ in its last bit or two.
fn error_max(activation: Activation) -> f64 {
    if activation == Activation::Softplus { 3e-7 } else { 0.0 }
}

pub(crate) fn activation_apply(runner: &dyn Runner) {
    for (activation, (rows, columns)) in of_elements().flat_map(|activation| SHAPES.map(|shape| (activation, shape))) {
        let mut got = with_extremes(numbers(rows * columns, 30.0, 1));
        let mut expected = got.clone();
        activation::apply(activation, columns, &mut expected).unwrap();
        let size = got.len();
        let mut arguments = [kind(activation as u32), count(size), change(&mut got)];
        runner.run("activation_apply", Grid::of_elements(size), &mut arguments);
        close(runner, activation.name(), error_max(activation), &expected, &got);
    }
}

pub(crate) fn activation_rows(runner: &dyn Runner) {
    for (activation, (rows, columns)) in of_elements().flat_map(|activation| SHAPES.map(|shape| (activation, shape))) {
        let bias = numbers(columns, 2.0, 2);
        let mut got = with_extremes(numbers(rows * columns, 30.0, 1));
        let mut expected = got.clone();
        activation::forward(activation, &bias, &mut expected).unwrap();
        let mut arguments = [
            kind(activation as u32),
            count(rows),
            count(columns),
            read(&bias),
            change(&mut got),
        ];
        runner.run("activation_rows", Grid::of_rows(rows, columns), &mut arguments);
        close(runner, activation.name(), error_max(activation), &expected, &got);
    }
}

pub(crate) fn activation_channels(runner: &dyn Runner) {
    const IMAGES: usize = 3;
    for (activation, (channels, positions)) in
        of_elements().flat_map(|activation| SHAPES.map(|shape| (activation, shape)))
    {
        let rows = IMAGES * channels;
        let bias = numbers(channels, 2.0, 2);
        let mut got = with_extremes(numbers(rows * positions, 30.0, 1));
        let mut expected = got.clone();
        for (row, outputs) in expected.chunks_mut(positions.max(1)).enumerate() {
            activation::forward(activation, &vec![bias[row % channels]; positions], outputs).unwrap();
        }
        let mut arguments = [
            kind(activation as u32),
            count(rows),
            count(channels),
            count(positions),
            read(&bias),
            change(&mut got),
        ];
        runner.run("activation_channels", Grid::of_rows(rows, positions), &mut arguments);
        close(runner, activation.name(), error_max(activation), &expected, &got);
    }
}

/// From one row for each channel to images.
pub(crate) fn activation_from_channels(runner: &dyn Runner) {
    let shapes = [(0, 2, 3), (1, 1, 1), (3, 2, 5), (4, 7, 40), (2, 300, 1), (2, 3, 1100)];
    let cases = of_elements().flat_map(|activation| shapes.map(|shape| (activation, shape)));
    for ((activation, (images, channels, pixels)), has_bias) in cases.flat_map(|case| [(case, true), (case, false)]) {
        let size = images * channels * pixels;
        let (rows, bias) = (with_extremes(numbers(size, 9.0, 7)), numbers(channels, 1.0, 8));
        let added = |channel: usize| if has_bias { bias[channel] } else { 0.0 };
        let places = (0..size).map(|index| {
            let (image, channel, pixel) = (index / pixels / channels, index / pixels % channels, index % pixels);
            (channel * images + image) * pixels + pixel
        });
        let mut expected: Vec<f32> = places.map(|place| rows[place]).collect();
        for (plane, outputs) in expected.chunks_mut(pixels).enumerate() {
            activation::forward(activation, &vec![added(plane % channels); pixels], outputs).unwrap();
        }
        let mut got = vec![f32::NAN; size];
        let mut arguments = [
            kind(activation as u32),
            kind(images as u32),
            kind(channels as u32),
            kind(pixels as u32),
            read(&rows),
            kind(u32::from(has_bias)),
            read(&bias),
            change(&mut got),
        ];
        let grid = Grid::of_lines(images * channels);
        runner.run("activation_from_channels", grid, &mut arguments);
        close(runner, activation.name(), error_max(activation), &expected, &got);
    }
}

pub(crate) fn activation_backward(runner: &dyn Runner) {
    for (activation, (rows, columns)) in of_elements().flat_map(|activation| SHAPES.map(|shape| (activation, shape))) {
        let mut outputs = with_extremes(numbers(rows * columns, 5.0, 3));
        activation::apply(activation, columns, &mut outputs).unwrap();
        let gradient = numbers(rows * columns, 2.0, 4);
        let (mut expected, mut got) = (gradient.clone(), gradient);
        activation::derive(activation, columns, &outputs, &mut expected).unwrap();
        let size = got.len();
        let mut arguments = [kind(activation as u32), count(size), read(&outputs), change(&mut got)];
        runner.run("activation_backward", Grid::of_elements(size), &mut arguments);
        same(runner, activation.name(), &expected, &got);
    }
}

pub(crate) fn activation_backward_columns(runner: &dyn Runner) {
    for (activation, (rows, columns)) in of_elements().flat_map(|activation| SHAPES.map(|shape| (activation, shape))) {
        let (outputs, gradient) = outputs_and_gradient(activation, rows * columns, columns);
        let (mut expected, mut got) = (gradient.clone(), gradient);
        let mut expected_sums = vec![f32::NAN; columns];
        activation::backward(activation, &outputs, &mut expected, &mut expected_sums).unwrap();
        let parts = ReductionSplit::of_columns(rows, columns);
        let sums = of_parts(runner, parts, columns, 1.0, &mut |parts, _, sums| {
            let mut arguments = [
                kind(activation as u32),
                count(rows),
                count(columns),
                count(parts.rows),
                read(&outputs),
                change(&mut got),
                change(sums),
            ];
            let grid = Grid::of_columns(columns, parts);
            runner.run("activation_backward_columns", grid, &mut arguments);
        });
        same(runner, activation.name(), &expected, &got);
        close(runner, activation.name(), 1e-4, &expected_sums, &sums);
    }
}

pub(crate) fn activation_backward_channels(runner: &dyn Runner) {
    let shapes = SHAPES.into_iter().flat_map(|shape| [(shape, 1), (shape, 35)]);
    let shapes: Vec<_> = shapes.chain([((3, 2), 9000), ((40, 3), 500)]).collect();
    for (activation, ((rows, channels), positions)) in
        of_elements().flat_map(|activation| shapes.iter().map(move |shape| (activation, *shape)))
    {
        let (outputs, gradient) = outputs_and_gradient(activation, rows * channels * positions, positions);
        let (mut expected, mut got) = (gradient.clone(), gradient);
        activation::derive(activation, positions, &outputs, &mut expected).unwrap();
        let mut expected_sums = vec![0.0; channels];
        for (index, pixels) in expected.chunks_exact(positions).enumerate() {
            expected_sums[index % channels] += sum(pixels);
        }
        let parts = ReductionSplit::of_channels(rows, channels, positions);
        let sums = of_parts(runner, parts, channels, 1.0, &mut |parts, _, sums| {
            let mut arguments = [
                kind(activation as u32),
                count(rows),
                count(channels),
                count(positions),
                count(parts.rows),
                read(&outputs),
                change(&mut got),
                change(sums),
            ];
            let grid = Grid::of_channels(channels, positions, parts);
            runner.run("activation_backward_channels", grid, &mut arguments);
        });
        same(runner, activation.name(), &expected, &got);
        close(runner, activation.name(), 1e-4, &expected_sums, &sums);
    }
}

/// What an activation gives for some numbers, and a gradient by that.
fn outputs_and_gradient(activation: Activation, size: usize, columns: usize) -> (Vec<f32>, Vec<f32>) {
    let mut outputs = numbers(size, 5.0, 3);
    activation::apply(activation, columns, &mut outputs).unwrap();
    (outputs, numbers(size, 2.0, 4))
}

pub(crate) fn softmax_rows(runner: &dyn Runner) {
    for (rows, columns) in SHAPES {
        let (mut expected, mut got) = (numbers(rows * columns, 90.0, 5), numbers(rows * columns, 90.0, 5));
        activation::softmax_rows(columns, &mut expected).unwrap();
        let mut arguments = [count(rows), count(columns), change(&mut got)];
        runner.run("softmax_rows", Grid::of_rows(rows, columns), &mut arguments);
        close(runner, "softmax", 1e-6, &expected, &got);
    }
    let mut row = [1e30_f32, 1e30, -1e30, f32::NAN, 0.0, 1.0];
    let mut arguments = [count(2), count(3), change(&mut row)];
    runner.run("softmax_rows", Grid::of_rows(2, 3), &mut arguments);
    same(
        runner,
        "softmax of extremes",
        &[0.5, 0.5, 0.0, f32::NAN, f32::NAN, f32::NAN],
        &row,
    );
}

pub(crate) fn softmax_rows_backward(runner: &dyn Runner) {
    for (rows, columns) in SHAPES {
        let mut outputs = numbers(rows * columns, 3.0, 6);
        activation::softmax_rows(columns, &mut outputs).unwrap();
        let gradient = numbers(rows * columns, 2.0, 7);
        let (mut expected, mut got) = (gradient.clone(), gradient);
        activation::derive(Activation::Softmax, columns, &outputs, &mut expected).unwrap();
        let mut arguments = [count(rows), count(columns), read(&outputs), change(&mut got)];
        runner.run("softmax_rows_backward", Grid::of_rows(rows, columns), &mut arguments);
        close(runner, "gradient of softmax", 1e-6, &expected, &got);
    }
}

pub(crate) fn gelu(runner: &dyn Runner) {
    for (rows, columns) in SHAPES {
        let size = rows * columns;
        let (inputs, gradient) = (numbers(size, 8.0, 8), numbers(size, 2.0, 9));
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        cpu::forward(&inputs, &mut expected).unwrap();
        let mut arguments = [count(size), read(&inputs), change(&mut got)];
        runner.run("gelu_forward", Grid::of_elements(size), &mut arguments);
        close(runner, "gelu", 1e-6, &expected, &got);
        cpu::backward(&inputs, &gradient, &mut expected).unwrap();
        let mut arguments = [count(size), read(&inputs), read(&gradient), change(&mut got)];
        runner.run("gelu_backward", Grid::of_elements(size), &mut arguments);
        close(runner, "gradient of gelu", 1e-6, &expected, &got);
    }
}
