use distdl_dl::Image;
use distdl_dl::kernels::augment::AffineTransform;
use distdl_dl::kernels::programs::Grid;

use super::{numbers, with_extremes};
use crate::runner::{Runner, change, count, read};

pub(crate) fn augment(runner: &dyn Runner) {
    let transform = |degrees: f64, right, down, is_flipped| {
        let (sine, cosine) = degrees.to_radians().sin_cos();
        AffineTransform {
            sine,
            cosine,
            right,
            down,
            is_flipped,
        }
    };
    let transforms = [
        AffineTransform::NONE,
        transform(0.0, 2, -1, false),
        transform(0.0, 0, 0, true),
        transform(13.0, -1, 3, true),
        transform(-179.5, 1, 1, false),
        transform(1e-30, 0, 0, false),
        // Out of sight.
        transform(0.0, -100, 100, false),
    ];
    for (channels, height, width) in [(1, 1, 1), (2, 6, 5), (3, 28, 29)] {
        let image = Image {
            channels,
            height,
            width,
        };
        let length = channels * height * width;
        let pictures = with_extremes(numbers(transforms.len() * length, 2.0, 7));
        let (mut expected, mut got) = (pictures.clone(), vec![f32::NAN; pictures.len()]);
        for (transform, (from, to)) in transforms
            .iter()
            .zip(pictures.chunks(length).zip(expected.chunks_mut(length)))
        {
            if *transform != AffineTransform::NONE {
                transform.apply(image, from, to).unwrap();
            }
        }
        let words: Vec<u64> = transforms.iter().flat_map(AffineTransform::words).collect();
        let mut given = [
            count(transforms.len()),
            count(channels),
            count(height),
            count(width),
            read(&words),
            read(&pictures),
            change(&mut got),
        ];
        runner.run(
            "augment",
            Grid::of_elements(transforms.len() * height * width),
            &mut given,
        );
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
