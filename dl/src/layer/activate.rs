//! An activation as a layer of its own.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Activation, Backward, Forward, Layer, LayerSpecification, not_empty};
use crate::error::{Result, check_length};
use crate::kernels::{activation, gelu};
use crate::scalar::Scalar;
use crate::shape::Shape;

/// Applies an activation to what comes before it: for layers that have none of their own, such as
/// [`BatchNorm`](super::BatchNorm).
///
/// ```
/// # use distdl_dl::{Activate, Activation, Input, Loss, NeuralNetwork};
/// let network = NeuralNetwork::new(Input(2)).output(Activate(Activation::Relu), Loss::MeanSquaredError)?;
/// let mut workspace = network.workspace(1);
/// assert_eq!(network.predict_batch(&[], &[-1.0, 2.0], 1, &mut workspace)?, [0.0, 2.0]);
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activate(pub Activation);

/// The Gaussian error linear unit, x * P(N < x) for a normal variable N. Its derivative takes its inputs, so it is a
/// layer and no [`Activation`].
///
/// ```
/// # use distdl_dl::{Gelu, Input, Loss, NeuralNetwork};
/// let network = NeuralNetwork::new(Input(3)).output(Gelu, Loss::MeanSquaredError)?;
/// let mut workspace = network.workspace(1);
/// let outputs = network.predict_batch(&[], &[-1.0, 0.0, 10.0], 1, &mut workspace)?;
/// assert!((outputs[0] + 0.1587).abs() < 1e-4 && outputs[1..] == [0.0, 10.0]);
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gelu;

impl<T: Scalar> LayerSpecification<T> for Activate {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        let shape = not_empty(layer, "activate", input)?;
        Ok(Box::new(ActivateLayer {
            shape,
            function: Function::Activation(self.0),
        }))
    }
}

impl<T: Scalar> LayerSpecification<T> for Gelu {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        let shape = not_empty(layer, "gelu", input)?;
        Ok(Box::new(ActivateLayer {
            shape,
            function: Function::Gelu,
        }))
    }
}

#[derive(Clone, Copy, Debug)]
struct ActivateLayer {
    shape: Shape,
    function: Function,
}

#[derive(Clone, Copy, Debug)]
enum Function {
    Activation(Activation),
    Gelu,
}

impl<T: Scalar> Layer<T> for ActivateLayer {
    fn kind(&self) -> &'static str {
        match self.function {
            Function::Activation(_) => "activate",
            Function::Gelu => "gelu",
        }
    }

    fn input_length(&self) -> usize {
        self.shape.length()
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    fn activation(&self) -> Activation {
        match self.function {
            Function::Activation(activation) => activation,
            Function::Gelu => Activation::Identity,
        }
    }

    fn is_identity(&self) -> bool {
        matches!(self.function, Function::Activation(Activation::Identity))
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        let Function::Activation(function) = self.function else {
            return gelu::forward(pass.inputs, pass.outputs);
        };
        check_length("the outputs", pass.inputs.len(), pass.outputs.len())?;
        pass.outputs.copy_from_slice(pass.inputs);
        activation::apply(function, self.shape.length(), pass.outputs)
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        let Some(input_gradient) = pass.input_gradient else {
            return Ok(());
        };
        let Function::Activation(function) = self.function else {
            return gelu::backward(pass.inputs, pass.output_gradient, input_gradient);
        };
        check_length("the output gradient", input_gradient.len(), pass.output_gradient.len())?;
        input_gradient.copy_from_slice(pass.output_gradient);
        activation::derive(function, self.shape.length(), pass.outputs, input_gradient)
    }
}
