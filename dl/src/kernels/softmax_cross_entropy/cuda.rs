//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use super::Smoothed;
use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};

/// The gradient by the logits; and for each row, in two words each, its loss and whether it is right. Labels that are
/// no classes give a loss that is not a number.
pub(crate) fn forward_backward(
    device: &GpuContext,
    classes: usize,
    logits: GpuSlice<'_>,
    labels: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
    (losses, correct): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<()> {
    let rows = labels.len();
    let sizes = check((classes, rows), (logits, gradient), (losses, correct))?;
    let [logits, labels, gradient, losses, correct] = [logits, labels, gradient, losses, correct].map(Argument::Words);
    let arguments = [sizes[0], sizes[1], logits, labels, gradient, losses, correct];
    let grid = Grid::of_rows(rows, classes);
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("softmax_cross_entropy", grid, &arguments) }
}

/// As [`forward_backward`], with targets that are weighted and smoothed; `class_weights` are those of `targets`.
pub(crate) fn smoothed(
    device: &GpuContext,
    (targets, class_weights): (&Smoothed<'_>, GpuSlice<'_>),
    classes: usize,
    logits: GpuSlice<'_>,
    labels: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
    (losses, correct): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<()> {
    let (rows, weights) = (labels.len(), targets.class_weights.len());
    let sizes = check((classes, rows), (logits, gradient), (losses, correct))?;
    check_length("the weights of classes", weights, class_weights.len())?;
    if weights > 0 {
        check_length("the weights of classes", classes, weights)?;
    }
    let (spread, kept) = targets.shares(classes);
    let numbers = [spread, kept, targets.weights(classes)].map(Argument::Wide);
    let of_classes = match weights {
        0 => Argument::Absent,
        _ => Argument::Words(class_weights),
    };
    let [logits, labels, gradient, losses, correct] = [logits, labels, gradient, losses, correct].map(Argument::Words);
    let others = [of_classes, logits, labels, gradient, losses, correct];
    let arguments: Vec<_> = sizes.into_iter().chain(numbers).chain(others).collect();
    let grid = Grid::of_rows(rows, classes);
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("weighted_cross_entropy", grid, &arguments) }
}

/// Rows and classes, where lengths are as they should be.
fn check(
    (classes, rows): (usize, usize),
    (logits, gradient): (GpuSlice<'_>, GpuSlice<'_>),
    (losses, correct): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<[Argument<'static>; 2]> {
    check_length("the logits", rows * classes, logits.len())?;
    check_length("the output gradient", rows * classes, gradient.len())?;
    check_length("the losses", 2 * rows, losses.len())?;
    check_length("what is right", 2 * rows, correct.len())?;
    Ok([rows, classes].map(|count| Argument::Count(count as u64)))
}
