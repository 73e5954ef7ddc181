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
                let from = &images[pixels..pixels + inside.len()];
                by_eights(inside, from, |to, from| *to = from);
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
            if windows.stride == 1 {
                let to = &mut images[pixels..pixels + inside.len()];
                by_eights(to, inside, |to, from| *to += from);
            } else {
                let to = images[pixels..].iter_mut().step_by(windows.stride);
                inside.iter().zip(to).for_each(|(from, to)| *to += *from);
            }
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

/// Calls `each` with each pair. Rows of pixels are short, so they are no calls of a function that copies memory.
#[inline(always)]
fn by_eights<T: Scalar>(to: &mut [T], from: &[T], each: impl Fn(&mut T, T)) {
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<8>(), from.as_chunks::<8>());
    for (to, from) in to.iter_mut().zip(from) {
        to.iter_mut().zip(from).for_each(|(to, from)| each(to, *from));
    }
    to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| each(to, *from));
}

#[inline(always)]
fn for_each_run(windows: &Windows, count: usize, mut each: impl FnMut(Run)) {
    let (rows, columns) = windows.counts().unwrap_or_default();
    let (image, size) = (windows.image, windows.size);
    let length = image.channels * image.height * image.width;
    let mut column = 0;
    for row_of_matrix in 0..image.channels * size * size {
        let (channel, y, x) = (
            row_of_matrix / size / size,
            row_of_matrix / size % size,
            row_of_matrix % size,
        );
        let inside = inside(windows, x, image.width, columns);
        for index in 0..count {
            for row in 0..rows {
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
        if is_halving(windows) {
            return largest_of_four(windows, images, pooled);
        }
        for_each_pool(windows, pooled.len(), |pool, first| {
            pooled[pool] = images[first];
            for_each_pixel(windows, first, |pixel| pooled[pool] = larger(pooled[pool], images[pixel]));
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
        if is_halving(windows) {
            return largest_of_four_backward(windows, images, gradient, image_gradient);
        }
        for_each_pool(windows, gradient.len(), |pool, first| {
            let mut best = first;
            for_each_pixel(windows, first, |pixel| best = if images[pixel] > images[best] { pixel } else { best });
            image_gradient[best] += gradient[pool];
        });
    }
}

/// Whether windows are two by two and side by side, which is worth loops of its own.
fn is_halving(windows: &Windows) -> bool {
    windows.size == 2 && windows.stride == 2
}

/// What is not a number is neither more nor less, and is kept.
#[inline(always)]
fn larger<T: Scalar>(best: T, value: T) -> T {
    let is_more = value > best || value.partial_cmp(&value).is_none();
    if is_more { value } else { best }
}

/// For each row of windows: where its two lines begin, and where it begins among what is pooled.
#[inline(always)]
fn for_each_pair_of_lines(
    windows: &Windows,
    pooled: usize,
    mut each: impl FnMut(Range<usize>, Range<usize>, Range<usize>),
) {
    let (rows, columns) = windows.counts().unwrap_or_default();
    let width = windows.image.width;
    for row in 0..pooled / columns.max(1) {
        let upper = (row / rows * windows.image.height + row % rows * 2) * width;
        let lower = upper + width;
        each(
            upper..upper + 2 * columns,
            lower..lower + 2 * columns,
            row * columns..(row + 1) * columns,
        );
    }
}

#[inline(always)]
fn largest_of_four<T: Scalar>(windows: &Windows, images: &[T], pooled: &mut [T]) {
    for_each_pair_of_lines(windows, pooled.len(), |upper, lower, pools| {
        let lines = images[upper]
            .as_chunks::<2>()
            .0
            .iter()
            .zip(images[lower].as_chunks::<2>().0);
        for (to, ([a, b], [c, d])) in pooled[pools].iter_mut().zip(lines) {
            *to = larger(larger(larger(*a, *b), *c), *d);
        }
    });
}

#[inline(always)]
fn largest_of_four_backward<T: Scalar>(windows: &Windows, images: &[T], gradient: &[T], image_gradient: &mut [T]) {
    for_each_pair_of_lines(windows, gradient.len(), |upper, lower, pools| {
        let lines = images[upper.clone()]
            .as_chunks::<2>()
            .0
            .iter()
            .zip(images[lower.clone()].as_chunks::<2>().0);
        let (before, after) = image_gradient.split_at_mut(lower.start);
        let to = (
            before[upper].as_chunks_mut::<2>().0,
            after[..lower.len()].as_chunks_mut::<2>().0,
        );
        let to = to.0.iter_mut().zip(to.1);
        for ((gradient, ([a, b], [c, d])), (up, low)) in gradient[pools].iter().zip(lines).zip(to) {
            let (mut best, mut value) = (0u32, *a);
            for (index, other) in [(1, *b), (2, *c), (3, *d)] {
                (best, value) = if other > value { (index, other) } else { (best, value) };
            }
            let of = |index: u32| if best == index { *gradient } else { T::ZERO };
            (*up, *low) = ([of(0), of(1)], [of(2), of(3)]);
        }
    });
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
