//! What a network is trained to make small.

use crate::error::{Error, Result};
use crate::kernels::{activation, mean_squared_error, softmax_cross_entropy};
use crate::layer::Activation;
use crate::metrics::BatchReport;
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// The loss of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Loss {
    /// -ln of the softmax of the outputs at the label; the outputs are logits, so the last layer has no softmax of its
    /// own.
    SoftmaxCrossEntropy,
    /// Mean over the outputs of (output - target)^2; labels count as one-hot targets.
    MeanSquaredError,
}

/// What the outputs for some rows should be.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a, T = f32> {
    /// The class of each row.
    Labels(&'a [u32]),
    /// The outputs of each row, rows x output length.
    Values(&'a [T]),
}

impl Loss {
    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Loss::SoftmaxCrossEntropy => "softmax_cross_entropy",
            Loss::MeanSquaredError => "mean_squared_error",
        }
    }

    /// Errors if a network that ends in `last` would not do for this loss.
    pub(crate) fn check_last(self, last: Activation) -> Result<()> {
        match (self, last) {
            (Loss::SoftmaxCrossEntropy, Activation::Softmax) => Err(self.unsuitable(
                "takes logits and the last layer ends with a softmax, which would be applied twice; use Dense::linear",
            )),
            _ => Ok(()),
        }
    }

    /// Writes the gradient by the outputs (rows x `output_length`) of the sum of the rows' losses, and reports that
    /// sum. Errors if the targets are of the wrong kind, length or range.
    pub fn gradient<T: Scalar>(
        self,
        outputs: &[T],
        targets: Targets<'_, T>,
        output_length: usize,
        output_gradient: &mut [T],
    ) -> Result<BatchReport> {
        match (self, targets) {
            (Loss::SoftmaxCrossEntropy, Targets::Labels(labels)) => {
                softmax_cross_entropy::forward_backward(outputs, labels, output_length, output_gradient)
            }
            (Loss::SoftmaxCrossEntropy, Targets::Values(_)) => {
                Err(self.unsuitable("needs labels, and the targets are values; use MeanSquaredError or give labels"))
            }
            (Loss::MeanSquaredError, Targets::Labels(labels)) => {
                mean_squared_error::forward_backward_labels(outputs, labels, output_length, output_gradient)
            }
            (Loss::MeanSquaredError, Targets::Values(values)) => {
                mean_squared_error::forward_backward(outputs, values, output_length, output_gradient)
            }
        }
    }

    /// Turns outputs into what a user wants to see, in place: probabilities where the outputs are logits.
    pub fn prediction<T: Scalar>(self, output_length: usize, outputs: &mut [T]) -> Result<()> {
        match self {
            Loss::SoftmaxCrossEntropy => activation::softmax_rows(output_length, outputs),
            Loss::MeanSquaredError => Ok(()),
        }
    }

    fn unsuitable(self, problem: &'static str) -> Error {
        Error::Loss {
            loss: self.name(),
            problem,
        }
    }
}
