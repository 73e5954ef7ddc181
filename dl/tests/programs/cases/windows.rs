use distdl_dl::kernels::programs::Grid;
use distdl_dl::kernels::windows::{self as cpu, Windows};
use distdl_dl::{Image, Sides};

use super::{close_wide, numbers, same, with_extremes};
use crate::runner::{Argument, Runner, change, kind, read};

/// Windows by channels, height, width, and then, each down and across, size, stride and padding.
const OBLONG: [[usize; 9]; 8] = [
    [2, 5, 9, 3, 2, 1, 1, 0, 0],
    [3, 8, 6, 1, 4, 3, 1, 0, 2],
    [2, 7, 9, 4, 2, 2, 3, 0, 0],
    [1, 6, 8, 2, 3, 2, 4, 0, 0],
    [2, 4, 5, 3, 5, 2, 1, 2, 1],
    [1, 6, 10, 4, 8, 1, 1, 0, 0],
    [1, 2, 30, 1, 12, 1, 1, 0, 0],
    [2, 25, 26, 4, 4, 1, 1, 1, 0],
];

/// Square ones by channels, height, width, size, stride and padding.
const WINDOWS: [[usize; 6]; 10] = [
    [1, 1, 1, 1, 1, 0],
    [1, 5, 7, 3, 1, 0],
    [3, 6, 5, 2, 2, 0],
    [3, 6, 8, 2, 2, 0],
    [2, 7, 8, 3, 2, 0],
    [2, 9, 9, 3, 1, 1],
    [1, 4, 6, 3, 2, 2],
    [5, 8, 8, 5, 3, 2],
    [2, 7, 7, 2, 3, 0],
    [1, 12, 10, 4, 1, 0],
];

fn square([channels, height, width, size, stride, padding]: [usize; 6]) -> Windows {
    windows([channels, height, width, size, size, stride, stride, padding, padding])
}

fn windows([channels, height, width, walk @ ..]: [usize; 9]) -> Windows {
    let [size, stride, padding] = [0, 2, 4].map(|place| Sides::from((walk[place], walk[place + 1])));
    let image = Image {
        channels,
        height,
        width,
    };
    Windows {
        image,
        size,
        stride,
        padding,
    }
}

/// All windows with so many images; for pooling those without padding.
fn each(pools: bool) -> impl Iterator<Item = (Windows, usize)> {
    let all = WINDOWS.map(square).into_iter().chain(OBLONG.map(windows));
    let all = all.filter(move |windows| !pools || windows.padding == 0.into());
    all.flat_map(|windows| [0, 1, 3].map(|count| (windows, count)))
}

/// What kernels are told of windows and images, and then is read and changed.
fn arguments<'a>(
    windows: &Windows,
    images: usize,
    others: impl IntoIterator<Item = Argument<'a>>,
) -> Vec<Argument<'a>> {
    let (image, (rows, columns)) = (windows.image, windows.counts().unwrap());
    let sides = [image.channels, image.height, image.width].into_iter();
    let walk = [windows.size, windows.stride, windows.padding].map(|sides| [sides.height, sides.width]);
    let sides = sides.chain(walk.into_iter().flatten()).chain([rows, columns, images]);
    sides.map(|side| kind(side as u32)).chain(others).collect()
}

fn pixels(windows: &Windows, images: usize) -> usize {
    images * windows.image.channels * windows.image.pixels()
}

pub(crate) fn columns(runner: &dyn Runner) {
    for (windows, images) in each(false) {
        let values = numbers(pixels(&windows, images), 1.0, 1);
        let (rows, columns) = windows.counts().unwrap();
        let size = images * windows.image.channels * windows.size.height * windows.size.width * rows * columns;
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        cpu::to_columns(&windows, images, &values, &mut expected).unwrap();
        let mut given = arguments(&windows, images, [read(&values), change(&mut got)]);
        runner.run("to_columns", Grid::of_elements(pools(&windows, images)), &mut given);
        same(runner, &format!("columns of {windows:?}"), &expected, &got);

        let matrix = numbers(size, 1.0, 2);
        let (mut expected, mut got) = (vec![f32::NAN; values.len()], vec![f32::NAN; values.len()]);
        cpu::from_columns(&windows, images, &matrix, &mut expected).unwrap();
        let mut given = arguments(&windows, images, [read(&matrix), change(&mut got)]);
        runner.run("from_columns", Grid::of_elements(values.len()), &mut given);
        same(runner, &format!("pixels from columns of {windows:?}"), &expected, &got);
    }
}

/// Images as one row for each channel.
pub(crate) fn channels(runner: &dyn Runner) {
    for (images, channels, pixels) in [(0, 2, 3), (1, 1, 1), (3, 2, 5), (4, 7, 40), (2, 300, 1)] {
        let size = images * channels * pixels;
        let values = numbers(size, 1.0, 7);
        let places = (0..size).map(|index| {
            let (image, channel, pixel) = (index / pixels % images, index / pixels / images, index % pixels);
            (image * channels + channel) * pixels + pixel
        });
        let places: Vec<usize> = places.collect();
        let expected: Vec<f32> = places.iter().map(|place| values[*place]).collect();
        let mut rows = vec![f32::NAN; size];
        let mut given: Vec<_> = [images, channels, pixels].map(|side| kind(side as u32)).into();
        given.extend([read(&values), change(&mut rows)]);
        runner.run("to_channels", Grid::of_lines(images * channels), &mut given);
        same(runner, "channels of images", &expected, &rows);
    }
}

/// Outputs of convolutions, as sums of `f64`.
pub(crate) fn convolve(runner: &dyn Runner) {
    let of_few = each(false).filter(|(windows, _)| elements(windows) <= 32);
    for ((windows, images), filters) in of_few.flat_map(|case| [1, 8, 11].map(|filters| (case, filters))) {
        let (rows, columns) = windows.counts().unwrap();
        let (elements, places) = (elements(&windows), rows * columns);
        let values = numbers(pixels(&windows, images), 1.0, 8);
        let parameters = numbers(filters * (elements + 1), 1.0, 9);
        let mut matrix = vec![f64::NAN; elements * images * places];
        let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
        cpu::to_columns(&windows, images, &wide, &mut matrix).unwrap();
        for (is_relu, has_bias) in [(false, true), (true, false), (true, true)] {
            let output = |index: usize| {
                let (image, filter, place) = (index / places / filters, index / places % filters, index % places);
                let added = if has_bias {
                    parameters[filters * elements + filter]
                } else {
                    0.0
                };
                let products = (0..elements).map(|element| {
                    let factor = f64::from(parameters[filter * elements + element]);
                    factor * matrix[(element * images + image) * places + place]
                });
                let sum = products.sum::<f64>() + f64::from(added);
                if is_relu { sum.max(0.0) } else { sum }
            };
            let expected: Vec<f64> = (0..images * filters * places).map(output).collect();
            let mut got = vec![f32::NAN; expected.len()];
            let told = [filters as u32, u32::from(has_bias), u32::from(is_relu)].map(kind);
            let buffers = [read(&parameters), read(&values), change(&mut got)];
            let mut given = arguments(&windows, images, told.into_iter().chain(buffers));
            let mut grid = Grid::of_rows(images * filters.div_ceil(8), places.div_ceil(2));
            // Some blocks do the work of two.
            grid.blocks = grid.blocks.min(5);
            runner.run("convolve", grid, &mut given);
            let got: Vec<f64> = got.into_iter().map(f64::from).collect();
            close_wide(
                runner,
                &format!("{filters} filters on {windows:?}"),
                2e-6,
                &expected,
                &got,
            );
        }
    }
}

fn elements(windows: &Windows) -> usize {
    windows.image.channels * windows.size.height * windows.size.width
}

fn pools(windows: &Windows, images: usize) -> usize {
    let (rows, columns) = windows.counts().unwrap();
    images * windows.image.channels * rows * columns
}

pub(crate) fn pool_largest(runner: &dyn Runner) {
    for (windows, images) in each(true) {
        let (size, pooled) = (pixels(&windows, images), pools(&windows, images));
        // Whole numbers, so that some windows have several largest.
        let values: Vec<f32> = with_extremes(numbers(size, 3.0, 3))
            .iter()
            .map(|value| value.round())
            .collect();
        let (mut expected, mut got) = (vec![f32::NAN; pooled], vec![f32::NAN; pooled]);
        cpu::largest(&windows, images, &values, &mut expected).unwrap();
        let mut given = arguments(&windows, images, [read(&values), change(&mut got)]);
        runner.run("pool_largest", Grid::of_elements(pooled), &mut given);
        same(runner, &format!("largest of {windows:?}"), &expected, &got);

        let gradient = numbers(pooled, 1.0, 4);
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        cpu::largest_backward(&windows, images, &values, &gradient, &mut expected).unwrap();
        let mut given = arguments(&windows, images, [read(&values), read(&gradient), change(&mut got)]);
        runner.run("pool_largest_backward", Grid::of_elements(size), &mut given);
        same(runner, &format!("gradient by largest of {windows:?}"), &expected, &got);

        let (size, stride) = (windows.size, windows.stride);
        if stride.height >= size.height && stride.width >= size.width {
            got.fill(f32::NAN);
            let mut given = arguments(&windows, images, [read(&values), read(&gradient), change(&mut got)]);
            runner.run("pool_largest_backward_apart", Grid::of_elements(pooled), &mut given);
            same(
                runner,
                &format!("gradient by largest of {windows:?}, apart"),
                &expected,
                &got,
            );
        }
    }
}

pub(crate) fn pool_mean(runner: &dyn Runner) {
    for (windows, images) in each(true) {
        let (size, pooled) = (pixels(&windows, images), pools(&windows, images));
        let values = numbers(size, 3.0, 5);
        let (mut expected, mut got) = (vec![f32::NAN; pooled], vec![f32::NAN; pooled]);
        cpu::mean(&windows, images, &values, &mut expected).unwrap();
        let mut given = arguments(&windows, images, [read(&values), change(&mut got)]);
        runner.run("pool_mean", Grid::of_elements(pooled), &mut given);
        same(runner, &format!("mean of {windows:?}"), &expected, &got);

        let gradient = numbers(pooled, 1.0, 6);
        let (mut expected, mut got) = (vec![f32::NAN; size], vec![f32::NAN; size]);
        cpu::mean_backward(&windows, images, &gradient, &mut expected).unwrap();
        let mut given = arguments(&windows, images, [read(&gradient), change(&mut got)]);
        runner.run("pool_mean_backward", Grid::of_elements(size), &mut given);
        same(runner, &format!("gradient by mean of {windows:?}"), &expected, &got);
    }
}
