//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use super::ElementLoss;
use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};

/// As [`super::forward_backward`]; of each row the loss, in two words.
pub(crate) fn forward_backward(
    device: &GpuContext,
    loss: ElementLoss,
    rows: usize,
    (outputs, targets): (GpuSlice<'_>, GpuSlice<'_>),
    gradient: GpuSlice<'_>,
    losses: GpuSlice<'_>,
) -> Result<()> {
    let columns = check_columns(rows, outputs, gradient, losses)?;
    check_length("the target values", outputs.len(), targets.len())?;
    let [rows_given, columns_given] = [rows, columns].map(|count| Argument::Count(count as u64));
    let [outputs, targets, gradient, losses] = [outputs, targets, gradient, losses].map(Argument::Words);
    let kind = Argument::Kind(loss as u32);
    let arguments = [kind, rows_given, columns_given, outputs, targets, gradient, losses];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("element_loss", Grid::of_rows(rows, columns), &arguments) }
}

/// As [`super::forward_backward_labels`]; of each row, in two words each, its loss and whether it is right.
pub(crate) fn forward_backward_labels(
    device: &GpuContext,
    loss: ElementLoss,
    (outputs, labels): (GpuSlice<'_>, GpuSlice<'_>),
    gradient: GpuSlice<'_>,
    (losses, correct): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<()> {
    let rows = labels.len();
    let columns = check_columns(rows, outputs, gradient, losses)?;
    check_length("what is right", 2 * rows, correct.len())?;
    let [rows_given, columns_given] = [rows, columns].map(|count| Argument::Count(count as u64));
    let [outputs, labels, gradient, losses, correct] =
        [outputs, labels, gradient, losses, correct].map(Argument::Words);
    let kind = Argument::Kind(loss as u32);
    let arguments = [
        kind,
        rows_given,
        columns_given,
        outputs,
        labels,
        gradient,
        losses,
        correct,
    ];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("element_loss_labels", Grid::of_rows(rows, columns), &arguments) }
}

fn check_columns(rows: usize, outputs: GpuSlice<'_>, gradient: GpuSlice<'_>, losses: GpuSlice<'_>) -> Result<usize> {
    let columns = outputs.len().checked_div(rows).unwrap_or(0);
    check_length("the outputs", rows * columns, outputs.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    check_length("the losses", 2 * rows, losses.len())?;
    Ok(columns)
}
