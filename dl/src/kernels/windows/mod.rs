//! Windows of images as the columns of a matrix, and back; the largest element and the mean of each window.
//!
//! Images lie one after the other, each as channels of rows of pixels.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use super::Level;
use crate::error::{Result, check_length};
use crate::scalar::Scalar;
pub use crate::shape::Windows;

/// Elements of one image, of its windows together, and of one value for each window and channel.
struct Lengths {
    image: usize,
    columns: usize,
    pooled: usize,
}

fn lengths(windows: &Windows) -> Lengths {
    let (rows, columns) = windows.counts().unwrap_or_default();
    let channels = windows.image.channels;
    Lengths {
        image: channels * windows.image.pixels(),
        columns: channels * windows.size.height * windows.size.width * rows * columns,
        pooled: channels * rows * columns,
    }
}

/// Writes a matrix of one row for each (channel, row of the window, column of the window), and one column for each
/// (image, window): the elements that a convolution multiplies with its weight; 0 in the padding. Errors if `images` or
/// `columns` are not `count` images.
pub fn to_columns<T: Scalar>(windows: &Windows, count: usize, images: &[T], columns: &mut [T]) -> Result<()> {
    let lengths = lengths(windows);
    check_length("the images", count * lengths.image, images.len())?;
    check_length("the columns of the images", count * lengths.columns, columns.len())?;
    cpu::to_columns(Level::best(), windows, count, images, columns);
    Ok(())
}

/// Adds each element of a matrix as [`to_columns`] makes it to the pixel that it came from. A pixel's sum runs over the
/// matrix's rows in ascending order. `images` is overwritten. Errors as [`to_columns`].
pub fn from_columns<T: Scalar>(windows: &Windows, count: usize, columns: &[T], images: &mut [T]) -> Result<()> {
    let lengths = lengths(windows);
    check_length("the images", count * lengths.image, images.len())?;
    check_length("the columns of the images", count * lengths.columns, columns.len())?;
    cpu::from_columns(Level::best(), windows, count, columns, images);
    Ok(())
}

/// Writes the largest element of each window of each channel; NaN wins. There must be no padding. Errors if a length is
/// not that of `count` images.
pub fn largest<T: Scalar>(windows: &Windows, count: usize, images: &[T], pooled: &mut [T]) -> Result<()> {
    check_pool(windows, count, images, pooled)?;
    cpu::largest(Level::best(), windows, images, pooled);
    Ok(())
}

/// Writes to `image_gradient` the gradient by the images from that by the largest elements: it goes to the first
/// largest element of each window. Errors as [`largest`].
pub fn largest_backward<T: Scalar>(
    windows: &Windows,
    count: usize,
    images: &[T],
    gradient: &[T],
    image_gradient: &mut [T],
) -> Result<()> {
    check_pool(windows, count, images, gradient)?;
    check_length("the gradient by the images", images.len(), image_gradient.len())?;
    cpu::largest_backward(Level::best(), windows, images, gradient, image_gradient);
    Ok(())
}

/// Writes the mean of each window of each channel. There must be no padding. Errors as [`largest`].
pub fn mean<T: Scalar>(windows: &Windows, count: usize, images: &[T], pooled: &mut [T]) -> Result<()> {
    check_pool(windows, count, images, pooled)?;
    cpu::mean(Level::best(), windows, images, pooled);
    Ok(())
}

/// Writes to `image_gradient` the gradient by the images from that by the means. Errors as [`largest`].
pub fn mean_backward<T: Scalar>(
    windows: &Windows,
    count: usize,
    gradient: &[T],
    image_gradient: &mut [T],
) -> Result<()> {
    check_pool(windows, count, image_gradient, gradient)?;
    cpu::mean_backward(Level::best(), windows, gradient, image_gradient);
    Ok(())
}

fn check_no_padding(windows: &Windows) -> Result<()> {
    let padding = windows.padding.height.max(windows.padding.width);
    check_length("padding of windows that are pooled", 0, padding)
}

fn check_pool<T>(windows: &Windows, count: usize, images: &[T], pooled: &[T]) -> Result<()> {
    let lengths = lengths(windows);
    check_no_padding(windows)?;
    check_length("the images", count * lengths.image, images.len())?;
    check_length("the pooled images", count * lengths.pooled, pooled.len())
}
