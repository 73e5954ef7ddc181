//! Layer normalisation.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Backward, Forward, Layer, LayerSpecification, mismatch, not_empty};
use crate::error::{Result, check_length};
use crate::kernels::layer_norm;
use crate::layout::ParameterShape;
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "layer_norm";

/// Gives each row, over all its elements, mean 0 and variance 1, then scales and shifts each element (Ba et al., 2016);
/// as `torch.nn.LayerNorm` over the whole shape of a row.
///
/// ```
/// # use distdl_dl::{Input, LayerNorm, Loss, NeuralNetwork};
/// let network = NeuralNetwork::new(Input(2)).output(LayerNorm::default(), Loss::MeanSquaredError)?;
/// let mut workspace = network.workspace(1);
/// let outputs = network.predict_batch(&network.initialize(7)?, &[10.0, 30.0], 1, &mut workspace)?;
/// assert!((outputs[0] + 1.0).abs() < 1e-4 && (outputs[1] - 1.0).abs() < 1e-4);
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance. Default 1e-5.
    pub eps: f64,
}

impl Default for LayerNorm {
    fn default() -> Self {
        Self { eps: 1e-5 }
    }
}

impl<T: Scalar> LayerSpecification<T> for LayerNorm {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(mismatch(layer, KIND, "an eps above 0", self.eps.to_string()));
        }
        Ok(Box::new(LayerNormLayer {
            shape: not_empty(layer, KIND, input)?,
            epsilon: self.eps,
        }))
    }
}

/// Its slice holds the weight, then the bias, each as long as a row.
#[derive(Clone, Copy, Debug)]
struct LayerNormLayer {
    shape: Shape,
    epsilon: f64,
}

impl<T: Scalar> Layer<T> for LayerNormLayer {
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
        let shape = match self.shape {
            Shape::Row(length) => vec![length],
            Shape::Image(image) => vec![image.channels, image.height, image.width],
        };
        ["weight", "bias"]
            .map(|name| ParameterShape::new(name, shape.clone()))
            .to_vec()
    }

    /// Of images they have as many sides, and are scale and shift all the same.
    fn is_weight(&self, _: &ParameterShape) -> bool {
        false
    }

    fn initialize(&self, _seed: u64, _layer: u64, parameters: &mut [T]) -> Result<()> {
        check_length("the layer's parameters", 2 * self.shape.length(), parameters.len())?;
        let (weight, bias) = parameters.split_at_mut(self.shape.length());
        weight.fill(T::ONE);
        bias.fill(T::ZERO);
        Ok(())
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        check_length("the layer's parameters", 2 * self.shape.length(), pass.parameters.len())?;
        let (weight, bias) = pass.parameters.split_at(self.shape.length());
        layer_norm::forward(self.epsilon, weight, bias, pass.inputs, pass.outputs)
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        let length = self.shape.length();
        check_length("the layer's parameters", 2 * length, pass.parameters.len())?;
        check_length("the layer's gradient", 2 * length, pass.gradient.len())?;
        layer_norm::backward(
            self.epsilon,
            &pass.parameters[..length],
            pass.inputs,
            pass.output_gradient,
            pass.gradient.split_at_mut(length),
            pass.input_gradient,
        )
    }
}
