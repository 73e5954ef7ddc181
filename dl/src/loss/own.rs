//! Losses of one's own.

use std::any::Any;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use super::Targets;
use crate::error::{Error, Result, check_length};
use crate::kernels::softmax_cross_entropy::{argument_of_largest, check_labels};
use crate::layer::Activation;
use crate::metrics::BatchReport;
use crate::scalar::Scalar;

/// What a row may weigh besides 0.
const WEIGHTS: std::ops::RangeInclusive<f64> = 1e-30..=1e30;

/// What the outputs for one row should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target<'a, T = f32> {
    /// Its class, counted from 0; there are as many as outputs.
    Label(usize),
    /// Values, as many as [`LossFunction::check_targets`] takes.
    Values(&'a [T]),
}

impl<'a, T> Target<'a, T> {
    /// Its class. Errors if it is values.
    pub fn label(self) -> Result<usize> {
        match self {
            Target::Label(label) => Ok(label),
            Target::Values(_) => Err(other_kind("a label", "values")),
        }
    }

    /// Its values. Errors if it is a label.
    pub fn values(self) -> Result<&'a [T]> {
        match self {
            Target::Values(values) => Ok(values),
            Target::Label(_) => Err(other_kind("values", "a label")),
        }
    }
}

fn other_kind(wanted: &str, got: &str) -> Error {
    Error::Loss {
        loss: "of the program's own".into(),
        problem: format!("wants {wanted} as target and got {got}; have its `check_targets` refuse what it cannot use")
            .into(),
    }
}

/// A loss of one's own, which [`Loss::own`](super::Loss::own) takes: it knows one row at a time. A network that ends in
/// it computes on the CPU; where a GPU must compute (`device.gpu` is `on`), it is an error.
///
/// Its `Debug` words stand in checkpoints, training goes on only from those with the same words, and processes that
/// train, evaluate or predict together compare them: equal words are to mean equal results. So they name every option
/// that changes what it computes, and are the same from run to run and in all processes. Nothing else of it is in a
/// file: a program that reads a model or a checkpoint builds the network with the loss again.
///
/// ```
/// use distdl_dl::{Dense, Input, Loss, LossFunction, NeuralNetwork, Result, Scalar, Target};
///
/// /// Half the square of what is missing, and beyond `delta` no more than linear (Huber, 1964); of one output.
/// #[derive(Debug)]
/// struct Huber { delta: f64 }
///
/// impl LossFunction for Huber {
///     fn name(&self) -> &'static str {
///         "huber"
///     }
///
///     fn gradient<T: Scalar>(&self, outputs: &[T], target: Target<'_, T>, gradient: &mut [T]) -> Result<f64> {
///         let missing = (outputs[0] - target.values()?[0]).to_f64();
///         gradient[0] = T::from_f64(missing.clamp(-self.delta, self.delta));
///         let linear = missing.abs().min(self.delta);
///         Ok(linear * (missing.abs() - 0.5 * linear))
///     }
/// }
///
/// let network = NeuralNetwork::new(Input(4)).output(Dense::linear(1), Loss::own(Huber { delta: 1.0 }))?;
/// assert_eq!(network.to_string(), "4 -> dense 1 identity, huber");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
pub trait LossFunction: Debug + Send + Sync + 'static {
    /// Its name in lower case, for messages.
    fn name(&self) -> &'static str;

    /// Errors if its options make no sense, or a network that ends in `last` of so many outputs would not do for it;
    /// asked when the network is built. `last` is the [activation](crate::Layer::activation) of the last layer that is
    /// not an [identity](crate::Layer::is_identity) in evaluation. What does not suit is best an
    /// [`Error::Loss`](crate::Error::Loss).
    fn check(&self, _last: Activation, _output_length: usize) -> Result<()> {
        Ok(())
    }

    /// Errors unless it takes targets of so many values a row, or labels where that is `None`; asked before training
    /// begins. One that is not told otherwise takes as many values as there are outputs, and no labels. Labels count
    /// the outputs, whatever is said here: a class beyond them is a value.
    fn check_targets(&self, target_length: Option<usize>, output_length: usize) -> Result<()> {
        let got = match target_length {
            Some(length) if length == output_length => return Ok(()),
            Some(length) => format!("{length} target values"),
            None => "a label".to_owned(),
        };
        Err(Error::Loss {
            loss: self.name().into(),
            problem: format!(
                "takes as many target values a sample as there are outputs, {output_length}, and was given {got}; change the data or \
                 the last layer, or have its `check_targets` take them"
            )
            .into(),
        })
    }

    /// The loss of a row, in f64, and all of its gradient by the outputs, which it writes. It follows from the
    /// arguments alone, so that neither threads nor lost processes show. A loss that is NaN or infinite is no error
    /// here: training says at which step it came to that. Networks in f64, with which tests compare differences, are
    /// why it is generic.
    ///
    /// # Errors
    /// What it returns ends training and evaluation, in all processes; so does a panic.
    fn gradient<T: Scalar>(&self, outputs: &[T], target: Target<'_, T>, gradient: &mut [T]) -> Result<f64>;

    /// Whether [`weight`](Self::weight) may be another than 1, which is not asked otherwise.
    fn is_weighted(&self) -> bool {
        false
    }

    /// What a row counts in a mean, 0 or from 1e-30 to 1e30: the [weight](BatchReport::weight) of a report is the sum
    /// of these, by which the sums of losses and gradients are divided. Those are summed as
    /// [`gradient`](Self::gradient) gives them, so it weights them itself. A step that weighs 0 changes nothing, and
    /// counts as a step and as an [update](crate::Optimizer::apply) all the same.
    fn weight<T: Scalar>(&self, _target: Target<'_, T>) -> f64 {
        1.0
    }

    /// Turns the outputs for a row into what a user wants to see, in place, as
    /// [`predict`](crate::NeuralNetwork::predict) does.
    fn prediction<T: Scalar>(&self, _outputs: &mut [T]) -> Result<()> {
        Ok(())
    }
}

/// A [`LossFunction`], whichever it is.
#[derive(Clone)]
pub struct OwnLoss {
    single: Arc<dyn RowLoss<f32>>,
    double: Arc<dyn RowLoss<f64>>,
}

/// A loss for rows of one element type.
trait RowLoss<T>: Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn check(&self, last: Activation, output_length: usize) -> Result<()>;
    fn check_targets(&self, target_length: Option<usize>, output_length: usize) -> Result<()>;
    fn gradient(&self, outputs: &[T], target: Target<'_, T>, gradient: &mut [T]) -> Result<f64>;
    fn is_weighted(&self) -> bool;
    fn weight(&self, target: Target<'_, T>) -> f64;
    fn prediction(&self, outputs: &mut [T]) -> Result<()>;
}

impl<L: LossFunction, T: Scalar> RowLoss<T> for L {
    fn name(&self) -> &'static str {
        LossFunction::name(self)
    }

    fn check(&self, last: Activation, output_length: usize) -> Result<()> {
        LossFunction::check(self, last, output_length)
    }

    fn check_targets(&self, target_length: Option<usize>, output_length: usize) -> Result<()> {
        LossFunction::check_targets(self, target_length, output_length)
    }

    fn gradient(&self, outputs: &[T], target: Target<'_, T>, gradient: &mut [T]) -> Result<f64> {
        LossFunction::gradient(self, outputs, target, gradient)
    }

    fn is_weighted(&self) -> bool {
        LossFunction::is_weighted(self)
    }

    fn weight(&self, target: Target<'_, T>) -> f64 {
        LossFunction::weight(self, target)
    }

    fn prediction(&self, outputs: &mut [T]) -> Result<()> {
        LossFunction::prediction(self, outputs)
    }
}

impl OwnLoss {
    pub(super) fn new(loss: impl LossFunction) -> Self {
        let loss = Arc::new(loss);
        Self {
            single: loss.clone(),
            double: loss,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.single.name()
    }

    pub(super) fn is_weighted(&self) -> bool {
        self.single.is_weighted()
    }

    pub(super) fn check(&self, last: Activation, output_length: usize) -> Result<()> {
        self.single.check(last, output_length)
    }

    pub(super) fn check_targets(&self, target_length: Option<usize>, output_length: usize) -> Result<()> {
        self.single.check_targets(target_length, output_length)
    }

    /// As [`Loss::gradient`](super::Loss::gradient), row by row.
    pub(super) fn gradient<T: Scalar>(
        &self,
        outputs: &[T],
        targets: Targets<'_, T>,
        output_length: usize,
        gradient: &mut [T],
    ) -> Result<BatchReport> {
        let rows = outputs.len().checked_div(output_length).unwrap_or(0);
        check_length("the outputs", rows * output_length, outputs.len())?;
        check_length("the output gradient", outputs.len(), gradient.len())?;
        self.check_all(targets, rows, output_length)?;
        let target = |row: usize| match targets {
            Targets::Labels(labels) => Target::Label(labels[row] as usize),
            Targets::Values(values) => {
                let length = values.len() / rows;
                Target::Values(&values[row * length..][..length])
            }
        };
        let (loss, columns) = (self.of::<T>()?, output_length.max(1));
        let (mut report, mut hits) = (BatchReport::default(), 0);
        let pairs = outputs.chunks_exact(columns).zip(gradient.chunks_exact_mut(columns));
        for (row, (outputs, gradient)) in pairs.enumerate() {
            let target = target(row);
            let of_row = loss.gradient(outputs, target, gradient)?;
            report.loss_sum += of_row;
            report.weight += match loss.is_weighted() {
                // Training says of a loss that is not finite what of the data is not; so may the weight be then.
                true if of_row.is_finite() => self.checked(row, loss.weight(target))?,
                _ => 1.0,
            };
            if let Target::Label(label) = target {
                hits += u64::from(argument_of_largest(outputs).0 == label && !of_row.is_nan());
            }
        }
        report.samples = rows as u64;
        report.correct = matches!(targets, Targets::Labels(_)).then_some(hits);
        Ok(report)
    }

    pub(super) fn prediction<T: Scalar>(&self, output_length: usize, outputs: &mut [T]) -> Result<()> {
        let loss = self.of::<T>()?;
        let mut rows = outputs.chunks_exact_mut(output_length.max(1));
        rows.try_for_each(|outputs| loss.prediction(outputs))
    }

    /// Errors unless there are targets for so many rows, of a kind that the loss takes.
    fn check_all<T>(&self, targets: Targets<'_, T>, rows: usize, output_length: usize) -> Result<()> {
        let length = match targets {
            Targets::Labels(labels) => {
                check_length("the labels", rows, labels.len())?;
                check_labels(labels, output_length)?;
                None
            }
            Targets::Values(values) => {
                let length = values.len().checked_div(rows).unwrap_or(0);
                check_length("the target values", rows * length, values.len())?;
                Some(length)
            }
        };
        match rows {
            0 => Ok(()),
            _ => self.check_targets(length, output_length),
        }
    }

    fn checked(&self, row: usize, weight: f64) -> Result<f64> {
        // Means are divided by sums of them in f32.
        match weight == 0.0 || WEIGHTS.contains(&weight) {
            true => Ok(weight),
            false => Err(Error::Loss {
                loss: self.name().into(),
                problem: format!("the weight of row {row} is {weight}; give 0, or a number from 1e-30 to 1e30").into(),
            }),
        }
    }

    /// The loss for this element type.
    fn of<T: Scalar>(&self) -> Result<&dyn RowLoss<T>> {
        let both: [&dyn Any; 2] = [&self.single, &self.double];
        let found = both.into_iter().find_map(|of| of.downcast_ref::<Arc<dyn RowLoss<T>>>());
        // Scalars are these two, and nobody adds others.
        let found = found.ok_or_else(|| Error::Internal("a loss for neither f32 nor f64".into()));
        found.map(|loss| &**loss)
    }
}

impl Debug for OwnLoss {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        self.single.fmt(formatter)
    }
}

/// Equal words mean equal results.
impl PartialEq for OwnLoss {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}
