//! Mean squared error.

mod cpu;

use super::Level;
use super::softmax_cross_entropy::check_labels;
use crate::error::{Result, check_length};
use crate::metrics::BatchReport;
use crate::scalar::Scalar;

/// Loss of each row, the mean over its `columns` outputs of (output - target)^2, summed in row order, and its gradient
/// by the outputs, 2 (output - target) / columns. Errors if lengths do not match or are not whole rows.
pub fn forward_backward<T: Scalar>(
    outputs: &[T],
    targets: &[T],
    columns: usize,
    gradient: &mut [T],
) -> Result<BatchReport> {
    let rows = outputs.len().checked_div(columns).unwrap_or(0);
    check_length("the outputs", rows * columns, outputs.len())?;
    check_length("the targets", outputs.len(), targets.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    Ok(cpu::forward_backward(
        Level::best(),
        outputs,
        targets,
        columns,
        gradient,
    ))
}

/// The same against one-hot targets: 1 at the label, 0 elsewhere; the report also counts the rows whose largest output
/// is there. Errors if lengths do not match or a label is not below `columns`.
pub fn forward_backward_labels<T: Scalar>(
    outputs: &[T],
    labels: &[u32],
    columns: usize,
    gradient: &mut [T],
) -> Result<BatchReport> {
    check_length("the outputs", labels.len() * columns, outputs.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    check_labels(labels, columns)?;
    Ok(cpu::forward_backward_labels(
        Level::best(),
        outputs,
        labels,
        columns,
        gradient,
    ))
}
