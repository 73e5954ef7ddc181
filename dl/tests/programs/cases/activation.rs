use distdl_dl::Activation;
use distdl_dl::kernels::programs::Grid;
use distdl_dl::kernels::{activation, gelu as cpu};

use super::{SHAPES, close, numbers, same, with_extremes};
use crate::runner::Argument::Absent;
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

pub(crate) fn activation_forward(runner: &dyn Runner) {
    for (activation, (rows, columns)) in of_elements().flat_map(|activation| SHAPES.map(|shape| (activation, shape))) {
        let (inputs, bias) = (
            with_extremes(numbers(rows * columns, 30.0, 1)),
            numbers(columns, 2.0, 2),
        );
        for has_bias in [true, false] {
            let (mut expected, mut got) = (inputs.clone(), inputs.clone());
            match has_bias {
                true => activation::forward(activation, &bias, &mut expected).unwrap(),
                false => activation::apply(activation, columns, &mut expected).unwrap(),
            }
            let bias = if has_bias { read(&bias) } else { Absent };
            let size = got.len();
            let mut arguments = [
                kind(activation as u32),
                count(size),
                count(columns),
                bias,
                change(&mut got),
            ];
            runner.run("activation_forward", Grid::of_elements(size), &mut arguments);
            close(runner, activation.name(), error_max(activation), &expected, &got);
        }
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
