use distdl_dl::kernels::programs::Grid;

use super::{numbers, same};
use crate::runner::{Runner, change, count, read};

pub(crate) fn look_up(runner: &dyn Runner) {
    for (vectors, width, places) in [(1, 1, 1), (3, 7, 10), (40, 5, 300), (7, 300, 513), (70_000, 1, 20)] {
        let weight = numbers(vectors * width, 1.0, 21);
        let indices: Vec<f32> = (0..places).map(|place| (place * place * 31 % vectors) as f32).collect();
        let vector = |index: &f32| *index as usize * width..(*index as usize + 1) * width;
        let expected: Vec<f32> = indices
            .iter()
            .flat_map(|index| &weight[vector(index)])
            .copied()
            .collect();
        let mut got = vec![0.5; places * width];
        let mut given = vec![count(got.len()), count(width), count(vectors)];
        given.extend([read(&indices), read(&weight), change(&mut got)]);
        runner.run("embedding_forward", Grid::of_elements(places * width), &mut given);
        same(runner, "embedding_forward", &expected, &got);

        let output_gradient = numbers(places * width, 1.0, 22);
        let mut expected = vec![0.0_f32; vectors * width];
        for (index, values) in indices.iter().zip(output_gradient.chunks_exact(width)) {
            let sums = expected[vector(index)].iter_mut();
            sums.zip(values).for_each(|(sum, value)| *sum += value);
        }
        let mut got = vec![f32::NAN; vectors * width];
        let mut given = vec![count(vectors), count(width), count(places)];
        given.extend([read(&indices), read(&output_gradient), change(&mut got)]);
        runner.run(
            "embedding_backward",
            Grid::of_rows(vectors, width.max(places)),
            &mut given,
        );
        same(runner, "embedding_backward", &expected, &got);
    }

    // What is no index reads nothing.
    let indices = [-1.0, 2.0, f32::NAN, 1e30, -0.0];
    let mut got = [0.5_f32; 5];
    let mut given = vec![count(5), count(1), count(2)];
    given.extend([read(&indices), read(&[7.0_f32, 8.0]), change(&mut got)]);
    runner.run("embedding_forward", Grid::of_elements(5), &mut given);
    assert!(got[..4].iter().all(|value| value.is_nan()) && got[4] == 7.0, "{got:?}");
}
