use distdl_dl::kernels::dropout::{self as cpu, Chance};
use distdl_dl::kernels::programs::Grid;
use distdl_dl::rng::Purpose;

use super::{numbers, same};
use crate::runner::{Argument, Runner, change, count, number, read};

pub(crate) fn dropout(runner: &dyn Runner) {
    let seed = 0x1234_5678_9abc_def0;
    for (size, first, probability) in [
        (0, 0, 0.5),
        (1, 0, 0.5),
        (16, 0, 0.25),
        (100, 7, 0.5),
        (1000, (1 << 36) + 5, 0.1),
        (333, 31, 0.999),
        (64, 3, 0.0),
    ] {
        let values = numbers(size, 3.0, 9);
        let chance = Chance {
            probability,
            seed,
            ids: [u64::MAX - 3, 1 << 41 | 5],
            first,
        };
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        cpu::apply(&chance, &values, &mut expected).unwrap();
        let blocks = (first as usize % 16 + size).div_ceil(16);
        let mut given = vec![
            count(size),
            Argument::Count(seed),
            Argument::Count(Purpose::Dropout as u64),
        ];
        given.extend(chance.ids.map(Argument::Count));
        given.push(Argument::Count(first));
        given.push(Argument::Count((probability * 4_294_967_296.0).ceil() as u64));
        given.push(number((1.0 / (1.0 - probability)) as f32));
        given.extend([read(&values), change(&mut got)]);
        runner.run("dropout", Grid::of_elements(blocks), &mut given);
        same(runner, "dropout", &expected, &got);
    }
}

pub(crate) fn mask(runner: &dyn Runner) {
    for size in [0, 1, 300, 5000] {
        let values = numbers(size, 3.0, 10);
        let counts: Vec<u32> = (0..size as u32).map(|index| index % 3 * 7).collect();
        let pairs = values.iter().zip(&counts);
        let expected: Vec<f32> = pairs
            .map(|(value, counts)| if *counts > 0 { *value } else { 0.0 })
            .collect();
        let mut got = vec![f32::NAN; size];
        let mut given = [count(size), read(&counts), read(&values), change(&mut got)];
        runner.run("mask", Grid::of_elements(size), &mut given);
        same(runner, "mask", &expected, &got);
    }
}
