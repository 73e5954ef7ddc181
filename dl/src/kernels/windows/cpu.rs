//! Rows of pixels are read and written as they lie.
//!
//! The loops over windows are macros and not functions that take closures: a closure is compiled for the instructions
//! that all CPUs have wherever the compiler does not inline it.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use std::ops::Range;

use crate::scalar::Scalar;
use crate::shape::Windows;

/// The same element of neighbouring windows: a run in a row of the matrix.
struct Run {
    /// Where it begins in the matrix.
    column: usize,
    /// Which of its elements lie inside the image.
    inside: Range<usize>,
    /// The pixel of the first of them; `None` if there are none.
    pixels: Option<usize>,
}

/// Does something for each run, in the order of the matrix.
macro_rules! for_each_run {
    ($windows:expr, $count:expr, $run:ident => $body:block) => {
        let windows: &Windows = $windows;
        let (rows, columns) = windows.counts().unwrap_or_default();
        let (image, size) = (windows.image, windows.size);
        let length = image.channels * image.height * image.width;
        let mut column = 0;
        for row_of_matrix in 0..image.channels * size.height * size.width {
            let (channel, y, x) = (
                row_of_matrix / size.width / size.height,
                row_of_matrix / size.width % size.height,
                row_of_matrix % size.width,
            );
            let inside = inside(windows, x, image.width, columns);
            for index in 0..$count {
                for row in 0..rows {
                    let line = (row * windows.stride.height + y).checked_sub(windows.padding.height);
                    let line = match line {
                        Some(line) if line < image.height && !inside.is_empty() => Some(line),
                        _ => None,
                    };
                    let pixels = match line {
                        Some(line) => {
                            let first = inside.start * windows.stride.width + x - windows.padding.width;
                            Some(index * length + (channel * image.height + line) * image.width + first)
                        }
                        None => None,
                    };
                    let $run = Run {
                        column,
                        inside: inside.clone(),
                        pixels,
                    };
                    column += columns;
                    $body
                }
            }
        }
    };
}

/// Calls the function for runs of a width, if there is one: where all of them lie inside and the compiler knows how
/// long they are, it does not take longer to find out about each than to copy it.
macro_rules! of_width {
    ($width:expr, $function:ident($($argument:expr),*), $otherwise:block) => {
        match $width {
            8 => $function::<T, 8>($($argument),*),
            12 => $function::<T, 12>($($argument),*),
            16 => $function::<T, 16>($($argument),*),
            24 => $function::<T, 24>($($argument),*),
            28 => $function::<T, 28>($($argument),*),
            32 => $function::<T, 32>($($argument),*),
            _ => $otherwise,
        }
    };
}

/// Does something for each block of the matrix that comes from one image and one place of its windows: with where its
/// first pixel lies.
macro_rules! for_each_block {
    ($windows:expr, $count:expr, $first:ident => $body:block) => {
        let (image, size) = ($windows.image, $windows.size);
        let length = image.channels * image.pixels();
        for channel in 0..image.channels {
            for place in 0..size.height * size.width {
                let line = channel * image.height + place / size.width;
                for index in 0..$count {
                    let $first = index * length + line * image.width + place % size.width;
                    $body
                }
            }
        }
    };
}

dispatched! {
    pub(super) fn to_columns<T: Scalar>(windows: &Windows, count: usize, images: &[T], columns: &mut [T]) {
        let width = windows.counts().unwrap_or_default().1;
        if is_plain(windows) {
            return of_width!(width, read_runs(windows, count, images, columns), {
                for_each_run!(windows, count, run => {
                    let first = run.pixels.unwrap_or_default();
                    copy_run(&mut columns[run.column..run.column + width], &images[first..first + width]);
                });
            });
        }
        for_each_run!(windows, count, run => {
            let to = &mut columns[run.column..run.column + width];
            let Some(pixels) = run.pixels else {
                to.fill(T::ZERO);
                continue;
            };
            if run.inside.len() < width {
                to[..run.inside.start].fill(T::ZERO);
                to[run.inside.end..].fill(T::ZERO);
            }
            let inside = &mut to[run.inside];
            if windows.stride.width == 1 {
                copy_run(inside, &images[pixels..pixels + inside.len()]);
            } else {
                let from = images[pixels..].iter().step_by(windows.stride.width);
                for (to, from) in inside.iter_mut().zip(from) {
                    *to = *from;
                }
            }
        });
    }
}

dispatched! {
    pub(super) fn from_columns<T: Scalar>(windows: &Windows, count: usize, columns: &[T], images: &mut [T]) {
        let width = windows.counts().unwrap_or_default().1;
        images.fill(T::ZERO);
        if is_plain(windows) {
            return of_width!(width, add_runs(windows, count, columns, images), {
                for_each_run!(windows, count, run => {
                    let first = run.pixels.unwrap_or_default();
                    add_run(&mut images[first..first + width], &columns[run.column..run.column + width]);
                });
            });
        }
        for_each_run!(windows, count, run => {
            let Some(pixels) = run.pixels else {
                continue;
            };
            let inside = &columns[run.column..run.column + width][run.inside];
            if windows.stride.width == 1 {
                add_run(&mut images[pixels..pixels + inside.len()], inside);
            } else {
                let to = images[pixels..].iter_mut().step_by(windows.stride.width);
                for (from, to) in inside.iter().zip(to) {
                    *to += *from;
                }
            }
        });
    }
}

#[inline(always)]
fn read_runs<T: Scalar, const WIDTH: usize>(windows: &Windows, count: usize, images: &[T], columns: &mut [T]) {
    let rows = windows.counts().unwrap_or_default().0;
    let mut runs = columns.as_chunks_mut::<WIDTH>().0.iter_mut();
    for_each_block!(windows, count, first => {
        let lines = images[first..].chunks(windows.image.width);
        for (line, run) in lines.zip(runs.by_ref().take(rows)) {
            if let Some(pixels) = line.first_chunk::<WIDTH>() {
                *run = *pixels;
            }
        }
    });
}

#[inline(always)]
fn add_runs<T: Scalar, const WIDTH: usize>(windows: &Windows, count: usize, columns: &[T], images: &mut [T]) {
    let rows = windows.counts().unwrap_or_default().0;
    let mut runs = columns.as_chunks::<WIDTH>().0.iter();
    for_each_block!(windows, count, first => {
        let lines = images[first..].chunks_mut(windows.image.width);
        for (line, run) in lines.take(rows).zip(runs.by_ref()) {
            if let Some(pixels) = line.first_chunk_mut::<WIDTH>() {
                for (pixel, value) in pixels.iter_mut().zip(run) {
                    *pixel += *value;
                }
            }
        }
    });
}

/// Copies a run. Most are short: what is no longer than four vectors is copied without a call.
#[inline(always)]
fn copy_run<T: Scalar>(to: &mut [T], from: &[T]) {
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<8>(), from.as_chunks::<8>());
    match (to, from) {
        ([], []) => {}
        ([a], [x]) => *a = *x,
        ([a, b], [x, y]) => (*a, *b) = (*x, *y),
        ([a, b, c], [x, y, z]) => (*a, *b, *c) = (*x, *y, *z),
        ([a, b, c, d], [x, y, z, w]) => (*a, *b, *c, *d) = (*x, *y, *z, *w),
        (to, from) => to.copy_from_slice(from),
    }
    let ((to, to_rest), (from, from_rest)) = (to_rest.as_chunks_mut::<4>(), from_rest.as_chunks::<4>());
    if let ([to], [from]) = (to, from) {
        *to = *from;
    }
    if let ([to, ..], [from, ..]) = (&mut *to_rest, from_rest) {
        *to = *from;
    }
    if let ([_, to, ..], [_, from, ..]) = (&mut *to_rest, from_rest) {
        *to = *from;
    }
    if let ([_, _, to], [_, _, from]) = (to_rest, from_rest) {
        *to = *from;
    }
}

/// Adds a run, eight elements at a time.
#[inline(always)]
fn add_run<T: Scalar>(to: &mut [T], from: &[T]) {
    let ((to, to_rest), (from, from_rest)) = (to.as_chunks_mut::<8>(), from.as_chunks::<8>());
    for (to, from) in to.iter_mut().zip(from) {
        for (to, from) in to.iter_mut().zip(from) {
            *to += *from;
        }
    }
    for (to, from) in to_rest.iter_mut().zip(from_rest) {
        *to += *from;
    }
}

/// Whether windows lie one pixel apart and all of them within the image: then all runs are whole.
#[inline(always)]
fn is_plain(windows: &Windows) -> bool {
    windows.stride == 1.into() && windows.padding == 0.into()
}

/// Which of `columns` neighbouring windows have their column `x` inside an image of some width.
#[inline(always)]
fn inside(windows: &Windows, x: usize, width: usize, columns: usize) -> Range<usize> {
    let (stride, padding) = (windows.stride.width, windows.padding.width);
    let begin = padding.saturating_sub(x).div_ceil(stride);
    let end = (width + padding).saturating_sub(x).div_ceil(stride);
    let end = end.min(columns);
    begin.min(end)..end
}

/// Does something for each window: with its place among what is pooled, and its first pixel. Images, channels, rows and
/// columns in turn.
macro_rules! for_each_pool {
    ($windows:expr, $pooled:expr, ($pool:ident, $first:ident) => $body:block) => {
        let windows: &Windows = $windows;
        let (rows, columns) = windows.counts().unwrap_or_default();
        let (width, stride) = (windows.image.width, windows.stride);
        let mut pool = 0;
        for channel in 0..$pooled / (rows * columns).max(1) {
            for row in 0..rows {
                let line = (channel * windows.image.height + row * stride.height) * width;
                for column in 0..columns {
                    let ($pool, $first) = (pool, line + column * stride.width);
                    pool += 1;
                    $body
                }
            }
        }
    };
}

/// Does something for each pixel of the window that begins with `first`.
macro_rules! for_each_pixel {
    ($windows:expr, $first:expr, $pixel:ident => $body:block) => {
        for y in 0..$windows.size.height {
            let line = $first + y * $windows.image.width;
            for $pixel in line..line + $windows.size.width {
                $body
            }
        }
    };
}

/// Does something for each row of windows: with its two lines, and its place among what is pooled.
macro_rules! for_each_pair_of_lines {
    ($windows:expr, $pooled:expr, ($upper:ident, $lower:ident, $pools:ident) => $body:block) => {
        let windows: &Windows = $windows;
        let (rows, columns) = windows.counts().unwrap_or_default();
        let width = windows.image.width;
        for row in 0..$pooled / columns.max(1) {
            let upper = (row / rows * windows.image.height + row % rows * 2) * width;
            let lower = upper + width;
            let ($upper, $lower) = (upper..upper + 2 * columns, lower..lower + 2 * columns);
            let $pools = row * columns..(row + 1) * columns;
            $body
        }
    };
}

dispatched! {
    pub(super) fn largest<T: Scalar>(windows: &Windows, images: &[T], pooled: &mut [T]) {
        if is_halving(windows) {
            return largest_of_four(windows, images, pooled);
        }
        for_each_pool!(windows, pooled.len(), (pool, first) => {
            pooled[pool] = images[first];
            for_each_pixel!(windows, first, pixel => {
                pooled[pool] = larger(pooled[pool], images[pixel]);
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
        if is_halving(windows) && (1..=POOLS).contains(&windows.counts().unwrap_or_default().1) {
            // Where nothing is left over, each pixel is written below.
            if windows.image.height % 2 + windows.image.width % 2 > 0 {
                image_gradient.fill(T::ZERO);
            }
            return largest_of_four_backward(windows, images, gradient, image_gradient);
        }
        image_gradient.fill(T::ZERO);
        for_each_pool!(windows, gradient.len(), (pool, first) => {
            let mut best = first;
            for_each_pixel!(windows, first, pixel => {
                best = if images[pixel] > images[best] { pixel } else { best };
            });
            image_gradient[best] += gradient[pool];
        });
    }
}

/// Whether windows are two by two and side by side, which is worth loops of its own.
fn is_halving(windows: &Windows) -> bool {
    windows.size == 2.into() && windows.stride == 2.into()
}

/// What is not a number is neither more nor less, and is kept.
#[inline(always)]
fn larger<T: Scalar>(best: T, value: T) -> T {
    let is_more = value > best || value.partial_cmp(&value).is_none();
    if is_more { value } else { best }
}

#[inline(always)]
fn largest_of_four<T: Scalar>(windows: &Windows, images: &[T], pooled: &mut [T]) {
    for_each_pair_of_lines!(windows, pooled.len(), (upper, lower, pools) => {
        let (upper, lower) = (images[upper].as_chunks::<2>().0, images[lower].as_chunks::<2>().0);
        for (to, ([a, b], [c, d])) in pooled[pools].iter_mut().zip(upper.iter().zip(lower)) {
            *to = larger(larger(larger(*a, *b), *c), *d);
        }
    });
}

/// Windows of four pixels that are compared together.
const POOLS: usize = 256;

/// Lines are taken apart, so that the comparisons are loops over neighbouring numbers without branches: which of four
/// pixels is the largest cannot be foreseen.
#[inline(always)]
fn largest_of_four_backward<T: Scalar>(windows: &Windows, images: &[T], gradient: &[T], image_gradient: &mut [T]) {
    let (rows, columns) = windows.counts().unwrap_or_default();
    let (height, width) = (windows.image.height, windows.image.width);
    let mut pixels = [[T::ZERO; POOLS]; 4];
    let lines = POOLS / columns;
    for (block, gradient) in gradient.chunks(lines * columns).enumerate() {
        for (line, row) in (0..gradient.len() / columns).zip(block * lines..) {
            let upper = (row / rows * height + row % rows * 2) * width;
            let (above, below) = (&images[upper..][..2 * columns], &images[upper + width..][..2 * columns]);
            let [a, b, c, d] = pixels.each_mut().map(|pixels| &mut pixels[line * columns..][..columns]);
            for index in 0..columns {
                (a[index], b[index]) = (above[2 * index], above[2 * index + 1]);
                (c[index], d[index]) = (below[2 * index], below[2 * index + 1]);
            }
        }
        give_to_largest(gradient, &mut pixels);
        for (line, row) in (0..gradient.len() / columns).zip(block * lines..) {
            let upper = (row / rows * height + row % rows * 2) * width;
            let [a, b, c, d] = pixels.each_ref().map(|pixels| &pixels[line * columns..][..columns]);
            let above = &mut image_gradient[upper..][..2 * columns];
            for index in 0..columns {
                (above[2 * index], above[2 * index + 1]) = (a[index], b[index]);
            }
            let below = &mut image_gradient[upper + width..][..2 * columns];
            for index in 0..columns {
                (below[2 * index], below[2 * index + 1]) = (c[index], d[index]);
            }
        }
    }
}

/// Puts each gradient in place of the first largest of its four pixels, and 0 in place of the others.
#[inline(always)]
fn give_to_largest<T: Scalar>(gradient: &[T], pixels: &mut [[T; POOLS]; 4]) {
    let count = gradient.len();
    let [a, b, c, d] = pixels.each_mut().map(|pixels| &mut pixels[..count]);
    for index in 0..count {
        let second = b[index] > a[index];
        let best = if second { b[index] } else { a[index] };
        let third = c[index] > best;
        let best = if third { c[index] } else { best };
        let fourth = d[index] > best;
        let value = gradient[index];
        a[index] = if second | third | fourth { T::ZERO } else { value };
        b[index] = if second & !third & !fourth { value } else { T::ZERO };
        c[index] = if third & !fourth { value } else { T::ZERO };
        d[index] = if fourth { value } else { T::ZERO };
    }
}

dispatched! {
    pub(super) fn mean<T: Scalar>(windows: &Windows, images: &[T], pooled: &mut [T]) {
        let scale: T = share(windows);
        for_each_pool!(windows, pooled.len(), (pool, first) => {
            let mut sum = T::ZERO;
            for_each_pixel!(windows, first, pixel => {
                sum += images[pixel];
            });
            pooled[pool] = sum * scale;
        });
    }
}

dispatched! {
    pub(super) fn mean_backward<T: Scalar>(windows: &Windows, gradient: &[T], image_gradient: &mut [T]) {
        let scale: T = share(windows);
        image_gradient.fill(T::ZERO);
        for_each_pool!(windows, gradient.len(), (pool, first) => {
            for_each_pixel!(windows, first, pixel => {
                image_gradient[pixel] += gradient[pool] * scale;
            });
        });
    }
}

fn share<T: Scalar>(windows: &Windows) -> T {
    T::from_f64(1.0 / (windows.size.height * windows.size.width) as f64)
}

#[cfg(test)]
mod tests;
