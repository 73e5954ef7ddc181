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

/// The targets of all samples, words of any bits, and those of the batch.
fn targets(length: usize, indices: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let all: Vec<u32> = (0..SAMPLES * length)
        .map(|index| (index as u32).wrapping_mul(0x9e37_79b9))
        .collect();
    let expected = each_row(length, indices, &all).flatten().copied().collect();
    (all, expected)
}

pub(crate) fn gather_bytes(runner: &dyn Runner) {
    for ((rows, columns), target_length) in SHAPES.into_iter().zip([1, 0, 40].into_iter().cycle()) {
        let samples: Vec<u8> = (0..SAMPLES * columns).map(|index| (index * 7 % 256) as u8).collect();
        let (indices, size) = (indices(rows), rows * columns);
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        for (to, from) in expected
            .chunks_exact_mut(columns)
            .zip(each_row(columns, &indices, &samples))
        {
            gather::scale_bytes(from, SCALE, to).unwrap();
        }
        let (targets, expected_targets) = targets(target_length, &indices);
        let mut got_targets = vec![u32::MAX; rows * target_length];
        let mut arguments = [
            count(rows),
            count(columns),
            count(target_length),
            read(&indices),
            read(&samples),
            number(SCALE),
            read(&targets),
            change(&mut got),
            change(&mut got_targets),
        ];
        runner.run("gather_bytes", Grid::of_rows(rows, columns), &mut arguments);
        same(runner, "bytes of samples", &expected, &got);
        assert_eq!(got_targets, expected_targets, "{}", runner.name());
    }
}

pub(crate) fn gather_values(runner: &dyn Runner) {
    for ((rows, columns), target_length) in SHAPES.into_iter().zip([300, 1, 2].into_iter().cycle()) {
        let samples = numbers(SAMPLES * columns, 9.0, 1);
        let (indices, size) = (indices(rows), rows * columns);
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        for (to, from) in expected
            .chunks_exact_mut(columns)
            .zip(each_row(columns, &indices, &samples))
        {
            gather::copy_values(from, to).unwrap();
        }
        let (targets, expected_targets) = targets(target_length, &indices);
        let mut got_targets = vec![u32::MAX; rows * target_length];
        let mut arguments = [
            count(rows),
            count(columns),
            count(target_length),
            read(&indices),
            read(&samples),
            read(&targets),
            change(&mut got),
            change(&mut got_targets),
        ];
        runner.run("gather_values", Grid::of_rows(rows, columns), &mut arguments);
        same(runner, "values of samples", &expected, &got);
        assert_eq!(got_targets, expected_targets, "{}", runner.name());
    }
}
