//! What a network is trained to make small.

#[cfg(feature = "gpu")]
mod cuda;
mod own;

use crate::error::{Error, Result};
use crate::kernels::activation;
use crate::kernels::element_loss::{self, ElementLoss};
use crate::kernels::softmax_cross_entropy::{self, Smoothed};
use crate::layer::Activation;
use crate::metrics::BatchReport;
use crate::scalar::Scalar;
#[cfg(feature = "gpu")]
pub(crate) use cuda::GpuTargets;
pub use own::{LossFunction, OwnLoss, Target};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// The loss of a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Loss {
    /// -ln of the softmax of the outputs at the label; the outputs are logits, so the last layer has no softmax of its
    /// own.
    SoftmaxCrossEntropy,
    /// [`SoftmaxCrossEntropy`](Self::SoftmaxCrossEntropy) with weights of classes, and with targets that are smoothed,
    /// as `torch.nn.CrossEntropyLoss(weight, label_smoothing)`: with l the label, w the weights, s the smoothing and K
    /// classes, the sum over classes c of (s w\[c\] / K, and at the label (1 - s) w\[l\] more) times -ln of the softmax
    /// at c. The mean over samples is divided by the sum of their w\[l\], which is the [weight](BatchReport::weight) of
    /// a report: so samples of a class of weight 0 do not count where nothing is smoothed, and a step of nothing else
    /// changes nothing. It counts as a step all the same: for schedules, and as one of the
    /// [updates](crate::Optimizer::apply) by whose number Adam, AdamW and LAMB correct their means.
    ///
    /// ```
    /// # use distdl_dl::{Dense, Input, Loss, NeuralNetwork};
    /// let loss = Loss::WeightedCrossEntropy { class_weights: vec![1.0, 4.0, 0.0], label_smoothing: 0.1 };
    /// let network = NeuralNetwork::new(Input(5)).output(Dense::linear(3), loss)?;
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    WeightedCrossEntropy {
        /// One for each class, finite, not negative and not all 0; none where all are 1.
        class_weights: Vec<f32>,
        /// The share of a target that is spread over all classes, 0 to 1.
        label_smoothing: f32,
    },
    /// Mean over the outputs of (output - target)^2; labels count as one-hot targets.
    MeanSquaredError,
    /// Mean over the outputs of |output - target|; labels count as one-hot targets.
    L1,
    /// Mean over the outputs of max(0, 1 - target * output), for targets of 1 and -1; labels count as 1 at the label
    /// and -1 elsewhere.
    Hinge,
    /// Mean over the outputs of the cross-entropy of the output's sigmoid against a target from 0 to 1; the outputs are
    /// logits, so the last layer has no sigmoid of its own. Labels count as one-hot targets.
    BinaryCrossEntropyWithLogits,
    /// One of the program's own, made by [`Loss::own`]. It is code, which serde cannot write down.
    #[serde(skip)]
    Own(OwnLoss),
}

/// What the outputs for some rows should be.
#[derive(Clone, Copy, Debug)]
pub enum Targets<'a, T = f32> {
    /// The class of each row.
    Labels(&'a [u32]),
    /// The outputs of each row, rows x output length; for a loss of one's own as many a row as that one takes.
    Values(&'a [T]),
}

impl Loss {
    /// A loss of one's own.
    pub fn own(loss: impl LossFunction) -> Self {
        Loss::Own(OwnLoss::new(loss))
    }

    /// Its name in lower case.
    pub fn name(&self) -> &'static str {
        match self {
            Loss::SoftmaxCrossEntropy => "softmax_cross_entropy",
            Loss::WeightedCrossEntropy { .. } => "weighted_cross_entropy",
            Loss::MeanSquaredError => "mean_squared_error",
            Loss::L1 => "l1",
            Loss::Hinge => "hinge",
            Loss::BinaryCrossEntropyWithLogits => "binary_cross_entropy_with_logits",
            Loss::Own(own) => own.name(),
        }
    }

    /// Errors if a network that ends in `last` of so many outputs would not do for this loss, or its options make no
    /// sense.
    pub(crate) fn check_last(&self, last: Activation, output_length: usize) -> Result<()> {
        if let Some(smoothed) = self.smoothed() {
            self.check_smoothed(smoothed, output_length)?;
        }
        match (self, last) {
            (Loss::Own(own), _) => own.check(last, output_length),
            (Loss::SoftmaxCrossEntropy | Loss::WeightedCrossEntropy { .. }, Activation::Softmax) => Err(self.unsuitable(
                "takes logits and the last layer ends with a softmax, which would be applied twice; use Dense::linear",
            )),
            (Loss::BinaryCrossEntropyWithLogits, Activation::Sigmoid) => Err(self.unsuitable(
                "takes logits and the last layer ends with a sigmoid, which would be applied twice; use Dense::linear",
            )),
            _ => Ok(()),
        }
    }

    /// Writes the gradient by the outputs (rows x `output_length`) of the sum of the rows' losses, and reports that
    /// sum. Errors if the targets are of the wrong kind, length or range.
    pub fn gradient<T: Scalar>(
        &self,
        outputs: &[T],
        targets: Targets<'_, T>,
        output_length: usize,
        output_gradient: &mut [T],
    ) -> Result<BatchReport> {
        if let Some(own) = self.as_own() {
            return own.gradient(outputs, targets, output_length, output_gradient);
        }
        match (self.of_elements(), targets) {
            (None, Targets::Labels(labels)) => match self.smoothed() {
                Some(smoothed) => smoothed.forward_backward(outputs, labels, output_length, output_gradient),
                None => softmax_cross_entropy::forward_backward(outputs, labels, output_length, output_gradient),
            },
            (None, Targets::Values(_)) => Err(self.wants_labels()),
            (Some(loss), Targets::Labels(labels)) => {
                element_loss::forward_backward_labels(loss, outputs, labels, output_length, output_gradient)
            }
            (Some(loss), Targets::Values(values)) => {
                element_loss::forward_backward(loss, outputs, values, output_length, output_gradient)
            }
        }
    }

    /// How targets are weighted and smoothed, where they may be.
    pub(crate) fn smoothed(&self) -> Option<Smoothed<'_>> {
        match self {
            Loss::WeightedCrossEntropy {
                class_weights,
                label_smoothing,
            } => Some(Smoothed {
                class_weights,
                label_smoothing: *label_smoothing,
            }),
            _ => None,
        }
    }

    /// That of the program's own, if it is one.
    pub(crate) fn as_own(&self) -> Option<&OwnLoss> {
        match self {
            Loss::Own(own) => Some(own),
            _ => None,
        }
    }

    /// Whether samples may count differently.
    pub(crate) fn is_weighted(&self) -> bool {
        let has_weights = |smoothed: Smoothed<'_>| !smoothed.class_weights.is_empty();
        self.smoothed().is_some_and(has_weights) || self.as_own().is_some_and(OwnLoss::is_weighted)
    }

    /// The loss of an output, where that of a row is a mean over its outputs.
    fn of_elements(&self) -> Option<ElementLoss> {
        match self {
            Loss::SoftmaxCrossEntropy | Loss::WeightedCrossEntropy { .. } | Loss::Own(_) => None,
            Loss::MeanSquaredError => Some(ElementLoss::Squared),
            Loss::L1 => Some(ElementLoss::Absolute),
            Loss::Hinge => Some(ElementLoss::Hinge),
            Loss::BinaryCrossEntropyWithLogits => Some(ElementLoss::BinaryCrossEntropy),
        }
    }

    /// What is wrong with targets of so many values a row, or with labels, for a network of so many outputs. Where
    /// there are no targets their length is 0.
    pub(crate) fn trouble_with(&self, target_length: Option<usize>, output_length: usize) -> Option<String> {
        if target_length == Some(0) {
            let trouble =
                "samples without targets, which `predict` takes and a loss does not; give labels or values as targets";
            return Some(trouble.to_owned());
        }
        if let Some(own) = self.as_own() {
            let checked = own.check_targets(target_length, output_length);
            return checked.err().map(|error| error.to_string());
        }
        match (self.of_elements(), target_length) {
            (Some(_), None) if output_length == 1 => Some(
                "labels, of which one output can tell only one from none; give values of 0 and 1 as targets, one a sample, or the \
                 last layer 2 outputs"
                    .to_owned(),
            ),
            (_, None) => None,
            (None, Some(_)) => Some(self.wants_labels().to_string()),
            (Some(_), Some(length)) => (length != output_length).then(|| {
                format!(
                    "{length} target values a sample for {output_length} outputs; change the last layer or the data"
                )
            }),
        }
    }

    /// The first of some target values that it does not take, and what it takes. Losses of one's own are asked nothing.
    pub(crate) fn first_refused(&self, values: &[f32]) -> Option<(usize, &'static str)> {
        let refused = |takes: fn(f32) -> bool| values.iter().position(|value| !takes(*value));
        match self {
            Loss::Hinge => refused(|value| value == 1.0 || value == -1.0).map(|place| (place, "targets of 1 and -1")),
            Loss::BinaryCrossEntropyWithLogits => {
                // What comes of sums and means may be off by rounding.
                refused(|value| (-1e-6..=1.0 + 1e-6).contains(&value)).map(|place| (place, "targets from 0 to 1"))
            }
            _ => None,
        }
    }

    fn check_smoothed(&self, smoothed: Smoothed<'_>, classes: usize) -> Result<()> {
        let (weights, smoothing) = (smoothed.class_weights, smoothed.label_smoothing);
        let is_weight = |weight: &f32| weight.is_finite() && *weight >= 0.0;
        if !weights.is_empty() && weights.len() != classes {
            let problem = format!(
                "{} weights for {classes} classes; give one for each, or none",
                weights.len()
            );
            return Err(self.unsuitable(problem));
        }
        if !weights.iter().all(is_weight) || weights.iter().all(|weight| *weight == 0.0) && !weights.is_empty() {
            return Err(self.unsuitable(format!(
                "class_weights are {weights:?}; give finite numbers from 0 on, one of them above"
            )));
        }
        match (0.0..=1.0).contains(&smoothing) {
            true => Ok(()),
            false => Err(self.unsuitable(format!("label_smoothing is {smoothing}; give a share from 0 to 1"))),
        }
    }

    fn wants_labels(&self) -> Error {
        self.unsuitable("needs labels, and the targets are values; use MeanSquaredError or give labels")
    }

    /// Turns outputs into what a user wants to see, in place: probabilities where the outputs are logits.
    pub fn prediction<T: Scalar>(&self, output_length: usize, outputs: &mut [T]) -> Result<()> {
        match self {
            Loss::SoftmaxCrossEntropy | Loss::WeightedCrossEntropy { .. } => {
                activation::softmax_rows(output_length, outputs)
            }
            Loss::BinaryCrossEntropyWithLogits => activation::apply(Activation::Sigmoid, output_length, outputs),
            Loss::MeanSquaredError | Loss::L1 | Loss::Hinge => Ok(()),
            Loss::Own(own) => own.prediction(output_length, outputs),
        }
    }

    fn unsuitable(&self, problem: impl Into<Cow<'static, str>>) -> Error {
        Error::Loss {
            loss: self.name().into(),
            problem: problem.into(),
        }
    }
}
