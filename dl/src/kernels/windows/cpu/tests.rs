//! Against the definitions, with drawn sizes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::kernels::Level;
use crate::shape::{Image, Sides};

fn numbers(count: usize) -> Vec<f32> {
    (0..count)
        .map(|index| (index * 7_919 % 2_003) as f32 / 99.0 - 9.0)
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn windows(
    (channels, height, width): (usize, usize, usize),
    size: impl Into<Sides>,
    stride: impl Into<Sides>,
    padding: impl Into<Sides>,
) -> Windows {
    let image = Image {
        channels,
        height,
        width,
    };
    Windows {
        image,
        size: size.into(),
        stride: stride.into(),
        padding: padding.into(),
    }
}

/// Of all sorts; and of those that have loops of their own.
fn drawn() -> impl Strategy<Value = Windows> {
    let sides = (1..4usize, 1..8usize, 1..8usize);
    let side = |range: Range<usize>| prop_oneof![(range.clone(), range.clone()), range.prop_map(|side| (side, side))];
    let any = (sides, side(1..5), side(1..4), side(0..4));
    let any = any.prop_map(|(sides, size, stride, padding)| windows(sides, size, stride, padding));
    let columns = prop::sample::select(vec![8usize, 9, 12, 16, 20, 24, 28, 31, 32, 35, 70]);
    let whole = (1..3usize, 0..3usize, columns, (1..4usize, 1..4usize));
    let whole = whole.prop_map(|(channels, rows, columns, (height, width))| {
        windows((channels, rows + height, columns + width - 1), (height, width), 1, 0)
    });
    let width = prop_oneof![2..40usize, 510..516usize];
    let halving = (1..3usize, 2..9usize, width).prop_map(|sides| windows(sides, 2, 2, 0));
    prop_oneof![2 => any, 1 => whole, 1 => halving]
        .prop_filter("at least one window", |windows| windows.counts().is_some())
}

/// The pixel at a place of a window, or `None` in the padding.
fn pixel(windows: &Windows, channel: usize, (row, y): (usize, usize), (column, x): (usize, usize)) -> Option<usize> {
    let line = (row * windows.stride.height + y).checked_sub(windows.padding.height)?;
    let place = (column * windows.stride.width + x).checked_sub(windows.padding.width)?;
    let Image { height, width, .. } = windows.image;
    (line < height && place < width).then_some((channel * height + line) * width + place)
}

/// For each element of the matrix, the element of the images that it is.
fn sources(windows: &Windows, count: usize) -> Vec<Option<usize>> {
    let (rows, columns) = windows.counts().unwrap();
    let length = windows.image.channels * windows.image.pixels();
    let mut sources = Vec::new();
    for channel in 0..windows.image.channels {
        for (y, x) in (0..windows.size.height).flat_map(|y| (0..windows.size.width).map(move |x| (y, x))) {
            for image in 0..count {
                for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
                    let pixel = pixel(windows, channel, (row, y), (column, x));
                    sources.push(pixel.map(|pixel| image * length + pixel));
                }
            }
        }
    }
    sources
}

proptest! {
    #[test]
    fn columns_are_those_of_the_definition_at_all_levels(windows in drawn(), count in 0..3usize) {
        let sources = sources(&windows, count);
        let images = numbers(count * windows.image.channels * windows.image.pixels());
        let columns = numbers(sources.len());
        let mut back = vec![0.0f32; images.len()];
        for (source, value) in sources.iter().zip(&columns) {
            if let Some(source) = source {
                back[*source] += value;
            }
        }
        let expected: Vec<f32> = sources.iter().map(|source| source.map_or(0.0, |source| images[source])).collect();
        for level in Level::available() {
            let mut got = vec![f32::NAN; sources.len()];
            to_columns(level, &windows, count, &images, &mut got);
            prop_assert_eq!(bits(&got), bits(&expected));
            let mut got = vec![f32::NAN; images.len()];
            from_columns(level, &windows, count, &columns, &mut got);
            prop_assert_eq!(bits(&got), bits(&back));
        }
    }

    #[test]
    fn pools_are_those_of_the_definition_at_all_levels(windows in drawn(), count in 0..3usize) {
        let windows = Windows { padding: 0.into(), ..windows };
        let Some((rows, columns)) = windows.counts() else {
            return Ok(());
        };
        let channels = count * windows.image.channels;
        let images = numbers(channels * windows.image.pixels());
        let pools: Vec<Vec<usize>> = (0..channels * rows * columns)
            .map(|pool| {
                let (channel, row, column) = (pool / columns / rows, pool / columns % rows, pool % columns);
                let places = (0..windows.size.height).flat_map(|y| (0..windows.size.width).map(move |x| (y, x)));
                places.map(|(y, x)| pixel(&windows, channel, (row, y), (column, x)).unwrap()).collect()
            })
            .collect();
        let gradient = numbers(pools.len());
        let (mut largest_back, mut mean_back) = (vec![0.0f32; images.len()], vec![0.0f32; images.len()]);
        let scale = 1.0 / (windows.size.height * windows.size.width) as f32;
        let (mut largest_of, mut mean_of) = (Vec::new(), Vec::new());
        for (pool, gradient) in pools.iter().zip(&gradient) {
            let best = pool.iter().copied().fold(pool[0], |best, pixel| {
                if images[pixel] > images[best] { pixel } else { best }
            });
            largest_of.push(images[best]);
            mean_of.push(pool.iter().fold(0.0, |sum, pixel| sum + images[*pixel]) * scale);
            largest_back[best] += gradient;
            pool.iter().for_each(|pixel| mean_back[*pixel] += gradient * scale);
        }
        for level in Level::available() {
            let mut got = vec![f32::NAN; pools.len()];
            largest(level, &windows, &images, &mut got);
            prop_assert_eq!(bits(&got), bits(&largest_of));
            mean(level, &windows, &images, &mut got);
            prop_assert_eq!(bits(&got), bits(&mean_of));
            let mut got = vec![f32::NAN; images.len()];
            largest_backward(level, &windows, &images, &gradient, &mut got);
            prop_assert_eq!(bits(&got), bits(&largest_back));
            mean_backward(level, &windows, &gradient, &mut got);
            prop_assert_eq!(bits(&got), bits(&mean_back));
        }
    }
}

#[test]
fn what_is_not_a_number_is_the_largest() {
    let windows = Windows {
        image: Image {
            channels: 1,
            height: 1,
            width: 2,
        },
        size: 1.into(),
        stride: 1.into(),
        padding: 0.into(),
    };
    let mut pooled = [0.0f32; 2];
    largest(Level::best(), &windows, &[f32::NAN, 1.0], &mut pooled);
    assert!(pooled[0].is_nan() && pooled[1] == 1.0);
    let two = Windows {
        size: 2.into(),
        image: Image {
            height: 2,
            ..windows.image
        },
        ..windows
    };
    largest(Level::best(), &two, &[3.0, f32::NAN, 5.0, 1.0], &mut pooled[..1]);
    assert!(pooled[0].is_nan(), "{pooled:?}");
}
