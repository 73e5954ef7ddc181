//! Softmax and cross-entropy in one: a loss on logits.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

pub(crate) use cpu::argument_of_largest;

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
    check(logits, labels, classes, gradient)?;
    Ok(cpu::forward_backward(Level::best(), logits, labels, classes, gradient))
}

fn check<T>(logits: &[T], labels: &[u32], classes: usize, gradient: &[T]) -> Result<()> {
    check_length("the logits", labels.len() * classes, logits.len())?;
    check_length("the logit gradient", logits.len(), gradient.len())?;
    check_labels(labels, classes)
}

/// Softmax cross-entropy with targets that are weighted and smoothed.
#[derive(Clone, Copy, Debug)]
pub struct Smoothed<'a> {
    /// One for each class; none where all are 1.
    pub class_weights: &'a [f32],
    /// The share of a target that is spread over all classes.
    pub label_smoothing: f32,
}

impl Smoothed<'_> {
    /// As [`forward_backward`]: the loss of a row is the sum over classes of target times -ln softmax(logits), which
    /// has the gradient softmax(logits) times the sum of the targets - targets. The report's weight is that of the
    /// labels. Errors also if there are weights, and not one for each class.
    pub fn forward_backward<T: Scalar>(
        &self,
        logits: &[T],
        labels: &[u32],
        classes: usize,
        gradient: &mut [T],
    ) -> Result<BatchReport> {
        check(logits, labels, classes, gradient)?;
        if !self.class_weights.is_empty() {
            check_length("the weights of classes", classes, self.class_weights.len())?;
        }
        Ok(cpu::smoothed(Level::best(), self, logits, labels, classes, gradient))
    }

    #[inline(always)]
    fn weight(&self, class: usize) -> f64 {
        self.class_weights.get(class).map_or(1.0, |weight| f64::from(*weight))
    }

    /// The sum of those of all classes.
    #[inline(always)]
    fn weights(&self, classes: usize) -> f64 {
        (0..classes).map(|class| self.weight(class)).sum()
    }

    /// What each class has of a target, and what the label has besides, where weights are 1.
    fn shares(&self, classes: usize) -> (f64, f64) {
        let smoothing = f64::from(self.label_smoothing);
        (smoothing / classes.max(1) as f64, 1.0 - smoothing)
    }
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
