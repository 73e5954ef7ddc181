use distdl_dl::Image;
use distdl_dl::kernels::augment::Warp;
use distdl_dl::kernels::programs::Grid;

use super::{numbers, with_extremes};
use crate::runner::{Runner, change, count, read};

pub(crate) fn augment(runner: &dyn Runner) {
    let warp = |degrees: f64, right, down, is_flipped| {
        let (sine, cosine) = degrees.to_radians().sin_cos();
        Warp {
            sine,
            cosine,
            right,
            down,
            is_flipped,
        }
    };
    let warps = [
        Warp::NONE,
        warp(0.0, 2, -1, false),
        warp(0.0, 0, 0, true),
        warp(13.0, -1, 3, true),
        warp(-179.5, 1, 1, false),
        warp(1e-30, 0, 0, false),
        // Out of sight.
        warp(0.0, -100, 100, false),
    ];
    for (channels, height, width) in [(1, 1, 1), (2, 6, 5), (3, 28, 29)] {
        let image = Image {
            channels,
            height,
            width,
        };
        let length = channels * height * width;
        let pictures = with_extremes(numbers(warps.len() * length, 2.0, 7));
        let (mut expected, mut got) = (pictures.clone(), vec![f32::NAN; pictures.len()]);
        for (warp, (from, to)) in warps
            .iter()
            .zip(pictures.chunks(length).zip(expected.chunks_mut(length)))
        {
            if *warp != Warp::NONE {
                warp.apply(image, from, to).unwrap();
            }
        }
        let words: Vec<u64> = warps.iter().flat_map(Warp::words).collect();
        let mut given = [
            count(warps.len()),
            count(channels),
            count(height),
            count(width),
            read(&words),
            read(&pictures),
            change(&mut got),
        ];
        runner.run("augment", Grid::of_elements(warps.len() * height * width), &mut given);
        for (index, (expected, got)) in expected.iter().zip(&got).enumerate() {
            // Zeros have signs, too.
            let is_same = expected.to_bits() == got.to_bits() || expected.is_nan() && got.is_nan();
            assert!(
                is_same,
                "{}: {image:?}, {index}: {got} is not {expected}",
                runner.name()
            );
        }
    }
}
