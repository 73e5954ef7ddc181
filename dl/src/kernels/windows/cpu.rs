//! Rows of pixels are read and written as they lie.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use std::ops::Range;

use crate::scalar::Scalar;
use crate::shape::Windows;

dispatched! {
    pub(super) fn to_columns<T: Scalar>(windows: &Windows, count: usize, images: &[T], columns: &mut [T]) {
        let width = windows.counts().unwrap_or_default().1;
        for_each_run(windows, count, |run| {
            let to = &mut columns[run.column..run.column + width];
            let Some(pixels) = run.pixels else {
                return to.fill(T::ZERO);
            };
            to[..run.inside.start].fill(T::ZERO);
            to[run.inside.end..].fill(T::ZERO);
            let inside = &mut to[run.inside];
            if windows.stride == 1 {
                inside.copy_from_slice(&images[pixels..pixels + inside.len()]);
            } else {
                let from = images[pixels..].iter().step_by(windows.stride);
                inside.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
        });
    }
}

dispatched! {
    pub(super) fn from_columns<T: Scalar>(windows: &Windows, count: usize, columns: &[T], images: &mut [T]) {
        let width = windows.counts().unwrap_or_default().1;
        images.fill(T::ZERO);
        for_each_run(windows, count, |run| {
            let Some(pixels) = run.pixels else {
                return;
            };
            let inside = &columns[run.column..run.column + width][run.inside];
            let to = images[pixels..].iter_mut().step_by(windows.stride);
            inside.iter().zip(to).for_each(|(from, to)| *to += *from);
        });
    }
}

/// The same element of neighbouring windows: a run in a row of the matrix.
struct Run {
    /// Where it begins in the matrix.
    column: usize,
    /// Which of its elements lie inside the image.
    inside: Range<usize>,
    /// The pixel of the first of them; `None` if there are none.
    pixels: Option<usize>,
}

#[inline(always)]
fn for_each_run(windows: &Windows, count: usize, mut each: impl FnMut(Run)) {
    let (rows, columns) = windows.counts().unwrap_or_default();
    let (image, size) = (windows.image, windows.size);
    let length = image.channels * image.height * image.width;
    let mut column = 0;
    for channel in 0..image.channels {
        for (y, x) in (0..size).flat_map(|y| (0..size).map(move |x| (y, x))) {
            let inside = inside(windows, x, image.width, columns);
            for (index, row) in (0..count).flat_map(|index| (0..rows).map(move |row| (index, row))) {
                let line = (row * windows.stride + y).checked_sub(windows.padding);
                let line = line.filter(|line| *line < image.height && !inside.is_empty());
                let pixels = line.map(|line| {
                    let first = inside.start * windows.stride + x - windows.padding;
                    index * length + (channel * image.height + line) * image.width + first
                });
                each(Run {
                    column,
                    inside: inside.clone(),
                    pixels,
                });
                column += columns;
            }
        }
    }
}

/// Which of `columns` neighbouring windows have their column `x` inside an image of some width.
#[inline(always)]
fn inside(windows: &Windows, x: usize, width: usize, columns: usize) -> Range<usize> {
    let begin = windows.padding.saturating_sub(x).div_ceil(windows.stride);
    let end = (width + windows.padding).saturating_sub(x).div_ceil(windows.stride);
    let end = end.min(columns);
    begin.min(end)..end
}

dispatched! {
    pub(super) fn largest<T: Scalar>(windows: &Windows, images: &[T], pooled: &mut [T]) {
        for_each_pool(windows, pooled.len(), |pool, first| {
            pooled[pool] = images[first];
            for_each_pixel(windows, first, |pixel| {
                let value = images[pixel];
                // Not a number is neither more nor less.
                let is_more = value > pooled[pool] || value.partial_cmp(&value).is_none();
                pooled[pool] = if is_more { value } else { pooled[pool] };
            });
        });
    }
}

dispatched! {
    pub(super) fn largest_backward<T: Scalar>(
        windows: &Windows,
        images: &[T],
        gradient: &[T],
        image_gradient: &mut [T],
    ) {
        image_gradient.fill(T::ZERO);
        for_each_pool(windows, gradient.len(), |pool, first| {
            let mut best = first;
            for_each_pixel(windows, first, |pixel| best = if images[pixel] > images[best] { pixel } else { best });
            image_gradient[best] += gradient[pool];
        });
    }
}

dispatched! {
    pub(super) fn mean<T: Scalar>(windows: &Windows, images: &[T], pooled: &mut [T]) {
        let scale: T = share(windows);
        for_each_pool(windows, pooled.len(), |pool, first| {
            let mut sum = T::ZERO;
            for_each_pixel(windows, first, |pixel| sum += images[pixel]);
            pooled[pool] = sum * scale;
        });
    }
}

dispatched! {
    pub(super) fn mean_backward<T: Scalar>(windows: &Windows, gradient: &[T], image_gradient: &mut [T]) {
        let scale: T = share(windows);
        image_gradient.fill(T::ZERO);
        for_each_pool(windows, gradient.len(), |pool, first| {
            for_each_pixel(windows, first, |pixel| image_gradient[pixel] += gradient[pool] * scale);
        });
    }
}

fn share<T: Scalar>(windows: &Windows) -> T {
    T::from_f64(1.0 / (windows.size * windows.size) as f64)
}

/// The first pixel of each window: images, channels, rows and columns in turn.
#[inline(always)]
fn for_each_pool(windows: &Windows, pooled: usize, mut each: impl FnMut(usize, usize)) {
    let (rows, columns) = windows.counts().unwrap_or_default();
    let (width, stride) = (windows.image.width, windows.stride);
    let mut pool = 0;
    for channel in 0..pooled / (rows * columns).max(1) {
        for row in 0..rows {
            let line = (channel * windows.image.height + row * stride) * width;
            for column in 0..columns {
                each(pool, line + column * stride);
                pool += 1;
            }
        }
    }
}

#[inline(always)]
fn for_each_pixel(windows: &Windows, first: usize, mut each: impl FnMut(usize)) {
    for y in 0..windows.size {
        let line = first + y * windows.image.width;
        (line..line + windows.size).for_each(&mut each);
    }
}

#[cfg(test)]
mod tests;
