//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use super::{check_no_padding, lengths};
use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid, in_words};
use crate::shape::Windows;

/// As [`super::to_columns`].
pub(crate) fn to_columns(
    device: &GpuContext,
    windows: &Windows,
    count: usize,
    images: GpuSlice<'_>,
    columns: GpuSlice<'_>,
) -> Result<()> {
    check_columns(windows, count, images, columns)?;
    let grid = Grid::of_elements(count * lengths(windows).pooled);
    // SAFETY: these are its buffers, with lengths that are checked.
    unsafe { start(device, ("to_columns", grid), windows, count, &[], [images, columns]) }
}

/// As [`super::from_columns`].
pub(crate) fn from_columns(
    device: &GpuContext,
    windows: &Windows,
    count: usize,
    columns: GpuSlice<'_>,
    images: GpuSlice<'_>,
) -> Result<()> {
    check_columns(windows, count, images, columns)?;
    // SAFETY: these are its buffers, with lengths that are checked.
    unsafe {
        start(
            device,
            ("from_columns", Grid::of_elements(images.len())),
            windows,
            count,
            &[],
            [columns, images],
        )
    }
}

/// Some images, each of channels of so many pixels.
#[derive(Clone, Copy)]
pub(crate) struct Images {
    pub(crate) count: usize,
    pub(crate) channels: usize,
    pub(crate) pixels: usize,
}

impl Images {
    /// Writes images as one row for each channel, which has the pixels of all images.
    pub(crate) fn by_channel(self, device: &GpuContext, images: GpuSlice<'_>, rows: GpuSlice<'_>) -> Result<()> {
        let length = self.count * self.channels * self.pixels;
        check_length("the images", length, images.len())?;
        check_length("the images by channel", length, rows.len())?;
        let [count, channels, pixels] = [in_words(self.count)?, in_words(self.channels)?, in_words(self.pixels)?];
        let arguments = [count, channels, pixels, Argument::Words(images), Argument::Words(rows)];
        in_words(self.count * self.channels)?;
        let grid = Grid::of_lines(self.count * self.channels);
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("to_channels", grid, &arguments) }
    }
}

/// Elements of windows at most, and filters and windows that a thread takes together, of [`convolve`].
pub(crate) const WINDOW_MAX: usize = 32;
const FILTERS: usize = 8;
const TOGETHER: usize = 2;

/// The outputs of a convolution whose windows have up to [`WINDOW_MAX`] elements, by `filters` filters and then a bias
/// of each, if there is one, in `parameters`; with `is_relu`, sums below 0 become 0.
pub(crate) fn convolve(
    device: &GpuContext,
    windows: &Windows,
    (count, filters): (usize, usize),
    [has_bias, is_relu]: [bool; 2],
    [parameters, images, outputs]: [GpuSlice<'_>; 3],
) -> Result<()> {
    let (lengths, elements) = (
        lengths(windows),
        windows.image.channels * windows.size.height * windows.size.width,
    );
    let pixels = lengths.pooled / windows.image.channels;
    check_length("the elements of a window", elements.min(WINDOW_MAX), elements)?;
    check_length(
        "the parameters",
        filters * (elements + usize::from(has_bias)),
        parameters.len(),
    )?;
    check_length("the images", count * lengths.image, images.len())?;
    check_length("the outputs", count * filters * pixels, outputs.len())?;
    let [has_bias, is_relu] = [has_bias, is_relu].map(|is| Argument::Kind(u32::from(is)));
    let others = [in_words(filters)?, has_bias, is_relu];
    let grid = Grid::of_rows(count * filters.div_ceil(FILTERS), pixels.div_ceil(TOGETHER));
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe {
        start(
            device,
            ("convolve", grid),
            windows,
            count,
            &others,
            [parameters, images, outputs],
        )
    }
}

/// As [`super::largest`].
pub(crate) fn largest(
    device: &GpuContext,
    windows: &Windows,
    count: usize,
    images: GpuSlice<'_>,
    pooled: GpuSlice<'_>,
) -> Result<()> {
    check_pool(windows, count, images, pooled)?;
    // SAFETY: these are its buffers, with lengths that are checked.
    unsafe {
        start(
            device,
            ("pool_largest", Grid::of_elements(pooled.len())),
            windows,
            count,
            &[],
            [images, pooled],
        )
    }
}

/// As [`super::largest_backward`].
pub(crate) fn largest_backward(
    device: &GpuContext,
    windows: &Windows,
    count: usize,
    images: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
    image_gradient: GpuSlice<'_>,
) -> Result<()> {
    check_pool(windows, count, images, gradient)?;
    check_length("the gradient by the images", images.len(), image_gradient.len())?;
    let (size, stride) = (windows.size, windows.stride);
    let kernel = match stride.height >= size.height && stride.width >= size.width {
        true => ("pool_largest_backward_apart", Grid::of_elements(gradient.len())),
        false => ("pool_largest_backward", Grid::of_elements(image_gradient.len())),
    };
    // SAFETY: these are its buffers, with lengths that are checked.
    unsafe { start(device, kernel, windows, count, &[], [images, gradient, image_gradient]) }
}

/// As [`super::mean`].
pub(crate) fn mean(
    device: &GpuContext,
    windows: &Windows,
    count: usize,
    images: GpuSlice<'_>,
    pooled: GpuSlice<'_>,
) -> Result<()> {
    check_pool(windows, count, images, pooled)?;
    // SAFETY: these are its buffers, with lengths that are checked.
    unsafe {
        start(
            device,
            ("pool_mean", Grid::of_elements(pooled.len())),
            windows,
            count,
            &[],
            [images, pooled],
        )
    }
}

/// As [`super::mean_backward`].
pub(crate) fn mean_backward(
    device: &GpuContext,
    windows: &Windows,
    count: usize,
    gradient: GpuSlice<'_>,
    image_gradient: GpuSlice<'_>,
) -> Result<()> {
    check_pool(windows, count, image_gradient, gradient)?;
    // SAFETY: these are its buffers, with lengths that are checked.
    unsafe {
        start(
            device,
            ("pool_mean_backward", Grid::of_elements(image_gradient.len())),
            windows,
            count,
            &[],
            [gradient, image_gradient],
        )
    }
}

/// Starts a kernel that is told of windows and images, then of others and of buffers. They count in 32 bits: errors if
/// a buffer has 2^31 elements.
///
/// # Safety
/// The kernel takes these others and buffers, with the lengths that they have.
unsafe fn start<const BUFFERS: usize>(
    device: &GpuContext,
    (kernel, grid): (&'static str, Grid),
    windows: &Windows,
    images: usize,
    others: &[Argument<'_>],
    buffers: [GpuSlice<'_>; BUFFERS],
) -> Result<()> {
    let (image, (rows, columns)) = (windows.image, windows.counts().unwrap_or_default());
    let sides = [image.channels, image.height, image.width].into_iter();
    let walk = [windows.size, windows.stride, windows.padding].map(|sides| [sides.height, sides.width]);
    let sides = sides.chain(walk.into_iter().flatten()).chain([rows, columns, images]);
    let mut arguments: Vec<_> = sides.map(in_words).collect::<Result<_>>()?;
    arguments.extend(others);
    for buffer in buffers {
        in_words(buffer.len())?;
        arguments.push(Argument::Words(buffer));
    }
    // SAFETY: the caller vouches for the buffers, and all kernels here are told of windows like this.
    unsafe { device.run(kernel, grid, &arguments) }
}

fn check_columns(windows: &Windows, count: usize, images: GpuSlice<'_>, columns: GpuSlice<'_>) -> Result<()> {
    let lengths = lengths(windows);
    check_length("the images", count * lengths.image, images.len())?;
    check_length("the columns of the images", count * lengths.columns, columns.len())
}

fn check_pool(windows: &Windows, count: usize, images: GpuSlice<'_>, pooled: GpuSlice<'_>) -> Result<()> {
    let lengths = lengths(windows);
    check_no_padding(windows)?;
    check_length("the images", count * lengths.image, images.len())?;
    check_length("the pooled images", count * lengths.pooled, pooled.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_the_program_are_those_here() {
        let line = format!("const u32 WINDOW_MAX = {WINDOW_MAX}, FILTERS = {FILTERS}, TOGETHER = {TOGETHER};");
        assert!(include_str!("cuda.cu").contains(&line), "{line}");
    }
}
