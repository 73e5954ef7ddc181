//! Batch normalisation.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Backward, Forward, Layer, LayerSpecification, Mode, Statistics, mismatch, not_empty};
use crate::error::{Result, check_length};
use crate::kernels::batch_norm::{self, Moments};
use crate::layout::ParameterShape;
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "batch_norm";

/// Gives each channel of an image, or each element of a row, mean 0 and variance 1, then scales and shifts it (Ioffe
/// and Szegedy, 2015); as `torch.nn.BatchNorm1d` and `2d`.
///
/// In training, mean and variance are those of the rows of one lane, so lanes show in the result and workers do not.
/// Where that is one row with one position, which has no variance, they are the running ones, as in evaluation (PyTorch
/// has an error there, but what lanes get of a last batch is seldom meant). A training where it is so in all steps is
/// refused. In evaluation they are running statistics, which lie among the parameters; a step moves them towards the
/// mean of what its lanes have found, weighted by their rows. A lane of one row in a step, which measures nothing,
/// counts there with the running statistics that it has read: where these are older than the newest, as with a [lag or
/// lanes that do not wait](crate::TrainingOptions::staleness), the newest move a little towards older ones, and with
/// [bfloat16](crate::Compression::Bf16) they are rounded on the way.
///
/// ```
/// # use distdl_dl::{Activate, Activation, BatchNorm, Conv2d, Dense, Image, Loss, NeuralNetwork};
/// let network = NeuralNetwork::new(Image { channels: 1, height: 8, width: 8 })
///     .hidden(Conv2d::new(4, 3))
///     .hidden(BatchNorm::default())
///     .hidden(Activate(Activation::Relu))
///     .output(Dense::linear(2), Loss::SoftmaxCrossEntropy)?;
/// let statistics: usize = network.statistics().iter().map(|statistics| statistics.range.len()).sum();
/// assert_eq!(statistics, 8, "4 means and 4 variances, among the parameters");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Added to the variance. Default 1e-5.
    pub eps: f64,
    /// Share of a step's statistics in the running ones. Default 0.1.
    pub momentum: f64,
}

impl Default for BatchNorm {
    fn default() -> Self {
        Self {
            eps: 1e-5,
            momentum: 0.1,
        }
    }
}

impl<T: Scalar> LayerSpecification<T> for BatchNorm {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(mismatch(layer, KIND, "an eps above 0", self.eps.to_string()));
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return Err(mismatch(layer, KIND, "a momentum in [0, 1]", self.momentum.to_string()));
        }
        let shape = not_empty(layer, KIND, input)?;
        let (channels, positions) = shape.channels();
        Ok(Box::new(BatchNormLayer {
            shape,
            channels,
            positions,
            epsilon: self.eps,
            momentum: self.momentum,
        }))
    }
}

/// Its slice holds the weight, the bias, the running mean and the running variance, one value for each channel.
#[derive(Clone, Copy, Debug)]
struct BatchNormLayer {
    shape: Shape,
    channels: usize,
    positions: usize,
    epsilon: f64,
    momentum: f64,
}

impl BatchNormLayer {
    /// Whether a pass takes mean and variance of its rows; otherwise it takes the running ones.
    fn measures(&self, mode: Mode, rows: usize) -> bool {
        matches!(mode, Mode::Training(_)) && rows * self.positions > 1
    }

    /// Mean and variance to compute with: of the rows, in the scratch, or else the running ones.
    fn moments<'a, T: Scalar>(
        &self,
        mode: Mode,
        inputs: &[T],
        running: &'a [T],
        scratch: &'a mut [T],
    ) -> Result<Moments<'a, T>> {
        if !self.measures(mode, inputs.len() / self.shape.length()) {
            return Ok(self.running_moments(running));
        }
        let (mean, variance) = scratch[..2 * self.channels].split_at_mut(self.channels);
        batch_norm::moments(self.positions, inputs, mean, variance)?;
        Ok(Moments {
            mean,
            variance,
            epsilon: self.epsilon,
            are_of_inputs: true,
        })
    }

    fn running_moments<'a, T: Scalar>(&self, running: &'a [T]) -> Moments<'a, T> {
        let (mean, variance) = running.split_at(self.channels);
        Moments {
            mean,
            variance,
            epsilon: self.epsilon,
            are_of_inputs: false,
        }
    }

    fn check<T>(&self, parameters: &[T], scratch: &[T]) -> Result<()> {
        check_length("the layer's parameters", 4 * self.channels, parameters.len())?;
        let enough = scratch.len().min(2 * self.channels);
        check_length("the layer's scratch", 2 * self.channels, enough)
    }
}

impl<T: Scalar> Layer<T> for BatchNormLayer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.shape.length()
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        ["weight", "bias", "running_mean", "running_var"]
            .map(|name| ParameterShape::new(name, vec![self.channels]))
            .to_vec()
    }

    fn initialize(&self, _seed: u64, _layer: u64, parameters: &mut [T]) -> Result<()> {
        check_length("the layer's parameters", 4 * self.channels, parameters.len())?;
        for (part, value) in parameters
            .chunks_exact_mut(self.channels)
            .zip([T::ONE, T::ZERO, T::ZERO, T::ONE])
        {
            part.fill(value);
        }
        Ok(())
    }

    fn statistics(&self) -> Option<Statistics> {
        Some(Statistics {
            range: 2 * self.channels..4 * self.channels,
            momentum: self.momentum,
        })
    }

    fn measures_one_row(&self) -> bool {
        self.positions > 1
    }

    fn scratch_length(&self) -> usize {
        2 * self.channels
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        self.check(pass.parameters, pass.scratch)?;
        let (learnt, running) = pass.parameters.split_at(2 * self.channels);
        let moments = self.moments(pass.mode, pass.inputs, running, pass.scratch)?;
        batch_norm::forward(
            self.positions,
            moments,
            learnt.split_at(self.channels),
            pass.inputs,
            pass.outputs,
        )
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        self.check(pass.parameters, pass.scratch)?;
        check_length("the layer's gradient", 4 * self.channels, pass.gradient.len())?;
        let (parameters, running) = pass.parameters.split_at(2 * self.channels);
        let moments = self.moments(pass.mode, pass.inputs, running, pass.scratch)?;
        let (learnt, found) = pass.gradient.split_at_mut(2 * self.channels);
        let rows = T::from_f64(pass.rows as f64);
        let count = pass.rows * self.positions;
        // The running variance is an estimate for all data: over n - 1.
        let unbiased = T::from_f64(count as f64 / count.saturating_sub(1).max(1) as f64);
        let (mean, variance) = found.split_at_mut(self.channels);
        for (to, from) in mean.iter_mut().zip(moments.mean) {
            *to = *from * rows;
        }
        for (to, from) in variance.iter_mut().zip(moments.variance) {
            *to = *from * unbiased * rows;
        }
        batch_norm::backward(
            self.positions,
            moments,
            &parameters[..self.channels],
            (pass.inputs, pass.output_gradient),
            learnt.split_at_mut(self.channels),
            pass.input_gradient,
        )
    }
}
