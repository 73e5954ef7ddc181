//! Losses that are a mean over the outputs of a row.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use super::Level;
use super::softmax_cross_entropy::check_labels;
use crate::error::{Result, check_length};
use crate::metrics::BatchReport;
use crate::scalar::Scalar;

/// The loss of one output x against its target t.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementLoss {
    /// (x - t)^2
    Squared,
    /// |x - t|; the derivative where they are equal counts as 0.
    Absolute,
    /// max(0, 1 - t x), for targets of 1 and -1.
    Hinge,
    /// -t ln s - (1 - t) ln(1 - s), where s is the sigmoid of x, for targets from 0 to 1.
    BinaryCrossEntropy,
}

impl ElementLoss {
    /// All of them.
    pub const ALL: [ElementLoss; 4] = [
        ElementLoss::Squared,
        ElementLoss::Absolute,
        ElementLoss::Hinge,
        ElementLoss::BinaryCrossEntropy,
    ];
}

/// Loss of each row, the mean over its `columns` outputs, summed in row order, and its gradient by the outputs. Errors
/// if lengths do not match or are not whole rows.
pub fn forward_backward<T: Scalar>(
    loss: ElementLoss,
    outputs: &[T],
    targets: &[T],
    columns: usize,
    gradient: &mut [T],
) -> Result<BatchReport> {
    let rows = outputs.len().checked_div(columns).unwrap_or(0);
    check_length("the outputs", rows * columns, outputs.len())?;
    check_length("the targets", outputs.len(), targets.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    let report = cpu::forward_backward(Level::best(), loss, outputs, targets, columns, gradient);
    Ok(report)
}

/// As [`forward_backward`], against targets from labels: 1 at the label, elsewhere 0 (-1 for the hinge loss); the
/// report also counts the rows whose largest output is there. Errors if lengths do not match or a label is not below
/// `columns`.
pub fn forward_backward_labels<T: Scalar>(
    loss: ElementLoss,
    outputs: &[T],
    labels: &[u32],
    columns: usize,
    gradient: &mut [T],
) -> Result<BatchReport> {
    check_length("the outputs", labels.len() * columns, outputs.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    check_labels(labels, columns)?;
    let report = cpu::forward_backward_labels(Level::best(), loss, outputs, labels, columns, gradient);
    Ok(report)
}
