//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{Device, Grid};

/// The gradient by the logits; and for each row, in two words each, its loss and whether it is right. Labels that are no
/// classes give a loss that is not a number.
pub(crate) fn forward_backward(
    device: &Device,
    classes: usize,
    logits: GpuSlice<'_>,
    labels: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
    (losses, correct): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<()> {
    let rows = labels.len();
    check_length("the logits", rows * classes, logits.len())?;
    check_length("the output gradient", rows * classes, gradient.len())?;
    check_length("the losses", 2 * rows, losses.len())?;
    check_length("what is right", 2 * rows, correct.len())?;
    let [rows_given, classes_given] = [rows, classes].map(|count| Argument::Count(count as u64));
    let [logits, labels, gradient, losses, correct] = [logits, labels, gradient, losses, correct].map(Argument::Words);
    let arguments = [rows_given, classes_given, logits, labels, gradient, losses, correct];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("softmax_cross_entropy", Grid::of_rows(rows, classes), &arguments) }
}
