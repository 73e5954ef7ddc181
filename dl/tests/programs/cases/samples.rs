use distdl_dl::kernels::gather;
use distdl_dl::kernels::programs::Grid;

use super::{SHAPES, numbers, same};
use crate::runner::{Runner, change, count, number, read};

const SAMPLES: usize = 50;
const SCALE: f32 = 1.0 / 255.0;

/// Which sample each row of the batch is: all orders, and some twice.
fn indices(rows: usize) -> Vec<u32> {
    (0..rows).map(|row| (row * 37 % SAMPLES) as u32).collect()
}

fn each_row<'a, T>(columns: usize, indices: &'a [u32], samples: &'a [T]) -> impl Iterator<Item = &'a [T]> {
    let sample = move |index: &u32| &samples[*index as usize * columns..][..columns];
    indices.iter().map(sample)
}

pub(crate) fn gather_bytes(runner: &dyn Runner) {
    for (rows, columns) in SHAPES {
        let samples: Vec<u8> = (0..SAMPLES * columns).map(|index| (index * 7 % 256) as u8).collect();
        let (indices, size) = (indices(rows), rows * columns);
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        for (to, from) in expected
            .chunks_exact_mut(columns)
            .zip(each_row(columns, &indices, &samples))
        {
            gather::scale_bytes(from, SCALE, to).unwrap();
        }
        let (indices, samples) = (read(&indices), read(&samples));
        let mut arguments = [
            count(size),
            count(columns),
            indices,
            samples,
            number(SCALE),
            change(&mut got),
        ];
        runner.run("gather_bytes", Grid::of_elements(size), &mut arguments);
        same(runner, "bytes of samples", &expected, &got);
    }
}

pub(crate) fn gather_values(runner: &dyn Runner) {
    for (rows, columns) in SHAPES {
        let samples = numbers(SAMPLES * columns, 9.0, 1);
        let (indices, size) = (indices(rows), rows * columns);
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        for (to, from) in expected
            .chunks_exact_mut(columns)
            .zip(each_row(columns, &indices, &samples))
        {
            gather::copy_values(from, to).unwrap();
        }
        let (indices, samples) = (read(&indices), read(&samples));
        let mut arguments = [count(size), count(columns), indices, samples, change(&mut got)];
        runner.run("gather_values", Grid::of_elements(size), &mut arguments);
        same(runner, "values of samples", &expected, &got);
    }
}
