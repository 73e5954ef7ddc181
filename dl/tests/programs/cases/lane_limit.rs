use std::ops::Range;

use distdl_dl::kernels::lane_limit::limit_norm;
use distdl_dl::kernels::programs::Grid;

use super::{numbers, same};
use crate::runner::{Runner, change, count, number, read, wide};

/// Values that the CPU sums in their own type.
const BLOCK: usize = 4096;

fn assert_limited(runner: &dyn Runner, what: &str, norm_max: f32, ranges: &[Range<usize>], gradient: &[f32]) {
    let stretches = ranges.iter().flat_map(|range| {
        let stretch = |begin: usize| [begin, BLOCK.min(range.end - begin), usize::from(begin == range.start)];
        range.clone().step_by(BLOCK).map(stretch)
    });
    let stretches: Vec<u64> = stretches.flatten().map(|number| number as u64).collect();
    let stretch_count = stretches.len() / 3;
    for weight in [7.5, 0.0] {
        let (mut expected, mut got) = (gradient.to_vec(), gradient.to_vec());
        limit_norm(norm_max, weight, ranges, &mut expected).unwrap();
        let (mut sums, mut limit) = (vec![f64::NAN; stretch_count], [f32::NAN]);
        let grid = Grid::of_rows(stretch_count, BLOCK);
        let mut given = [count(stretch_count), read(&stretches), read(&got), change(&mut sums)];
        runner.run("lane_limit_squares", grid, &mut given);
        let mut given = [
            number(norm_max),
            wide(weight),
            count(stretch_count),
            read(&stretches),
            read(&sums),
            read(&got),
            change(&mut limit),
        ];
        runner.run("lane_limit", Grid::of_one_block(), &mut given);
        let mut given = [count(stretch_count), read(&stretches), read(&limit), change(&mut got)];
        runner.run("lane_limit_scale", grid, &mut given);
        same(runner, &format!("{what}, weight {weight}"), &expected, &got);
    }
}

#[expect(clippy::single_range_in_vec_init, reason = "some gradients have one range")]
pub(crate) fn lane_limit(runner: &dyn Runner) {
    for size in [0, 1, 15, 16, 47, 4095, 4096, 4097, 9000, 70_001] {
        let gradient = numbers(size, 3.0, size as u32);
        for norm_max in [1e-7, 0.3, 1e9] {
            assert_limited(
                runner,
                &format!("{size} to {norm_max}"),
                norm_max,
                &[0..size],
                &gradient,
            );
        }
    }
    let gradient = numbers(20_000, 3.0, 1);
    // What lies between stays, and ranges are summed by themselves.
    assert_limited(runner, "ranges", 0.3, &[3..9000, 9000..9001, 12_000..19_999], &gradient);
    // More stretches than one block has threads.
    assert_limited(
        runner,
        "many",
        0.3,
        &(0..300).map(|range| 60 * range..60 * range + 50).collect::<Vec<_>>(),
        &gradient,
    );
    for (what, value) in [("large", 1e30), ("infinite", f32::INFINITY), ("no number", f32::NAN)] {
        let mut gradient = numbers(5000, 3.0, 2);
        gradient[4321] = value;
        assert_limited(runner, what, 0.3, &[0..10, 20..5000], &gradient);
        assert_limited(runner, &format!("{what} elsewhere"), 0.3, &[0..4000], &gradient);
    }
    // Squares of which each is finite.
    assert_limited(runner, "large together", 0.3, &[0..5000], &vec![1.7e19; 5000]);
}
