//! Softmax and cross-entropy in one: a loss on logits.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

pub(super) use cpu::argument_of_largest;

use super::Level;
use crate::error::{Error, Result, check_length};
use crate::metrics::BatchReport;
use crate::scalar::Scalar;

/// Loss of each row, -ln softmax(logits)\[label\], summed in row order, and its gradient by the logits, softmax(logits)
/// - one-hot.
///
/// `logits` and `gradient` have `labels.len()` rows of `classes` elements.
/// Errors if lengths do not match or a label is not below `classes`.
pub fn forward_backward<T: Scalar>(
    logits: &[T],
    labels: &[u32],
    classes: usize,
    gradient: &mut [T],
) -> Result<BatchReport> {
    check_length("the logits", labels.len() * classes, logits.len())?;
    check_length("the logit gradient", logits.len(), gradient.len())?;
    check_labels(labels, classes)?;
    Ok(cpu::forward_backward(Level::best(), logits, labels, classes, gradient))
}

/// Errors at the first label that is not below `classes`.
pub(crate) fn check_labels(labels: &[u32], classes: usize) -> Result<()> {
    match labels.iter().position(|&label| label as usize >= classes) {
        None => Ok(()),
        Some(row) => Err(Error::Label {
            row,
            label: labels[row],
            classes,
        }),
    }
}
