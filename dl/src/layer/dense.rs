//! The fully connected layer.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Activation, Backward, Forward, Layer, LayerSpecification, mismatch};
use crate::error::{Result, check_length};
use crate::initialization::Initialization;
use crate::kernels::activation;
use crate::kernels::matmul::{Matrix, matmul};
use crate::layout::ParameterShape;
use crate::rng::{Purpose, Stream};
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "dense";

/// A fully connected layer: outputs = activation(inputs x weight + bias), or without the bias. An image before it
/// counts as a row.
///
/// ```
/// # use distdl_dl::{Activation, Dense, Image, Initialization, Loss, NeuralNetwork};
/// let network = NeuralNetwork::new(Image { channels: 3, height: 4, width: 4 }) // a row of 48 numbers to this layer
///     .hidden(Dense::new(8, Activation::LeakyRelu).with_initialization(Initialization::HeUniform))
///     .output(Dense::linear(2).with_inputs(8), Loss::SoftmaxCrossEntropy)?;
/// assert_eq!(network.parameter_count(), (48 + 1) * 8 + (8 + 1) * 2);
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dense {
    outputs: usize,
    activation: Activation,
    inputs: Option<usize>,
    initialization: Option<Initialization>,
    has_bias: bool,
}

impl Dense {
    /// A layer of `outputs` units with `activation`.
    pub fn new(outputs: usize, activation: Activation) -> Self {
        Dense {
            outputs,
            activation,
            inputs: None,
            initialization: None,
            has_bias: true,
        }
    }

    /// `outputs` units without an activation.
    pub fn linear(outputs: usize) -> Self {
        Dense::new(outputs, Activation::Identity)
    }

    /// `outputs` rectified linear units.
    pub fn relu(outputs: usize) -> Self {
        Dense::new(outputs, Activation::Relu)
    }

    /// `outputs` sigmoid units.
    pub fn sigmoid(outputs: usize) -> Self {
        Dense::new(outputs, Activation::Sigmoid)
    }

    /// `outputs` hyperbolic tangent units.
    pub fn tanh(outputs: usize) -> Self {
        Dense::new(outputs, Activation::Tanh)
    }

    /// `outputs` units whose row is a distribution.
    pub fn softmax(outputs: usize) -> Self {
        Dense::new(outputs, Activation::Softmax)
    }

    /// Demands this many inputs, where else the layer takes what comes before it.
    #[must_use]
    pub fn with_inputs(self, inputs: usize) -> Self {
        Dense {
            inputs: Some(inputs),
            ..self
        }
    }

    /// Sets how the weights begin, where else it is He's way for relu and Glorot's way for all others. Biases begin at
    /// 0, or as the weights with [`Initialization::FanInUniform`].
    #[must_use]
    pub fn with_initialization(self, initialization: Initialization) -> Self {
        Dense {
            initialization: Some(initialization),
            ..self
        }
    }

    /// Leaves the bias out, as `bias=False` does in PyTorch: before a [`BatchNorm`](crate::BatchNorm), which shifts
    /// what comes to it, one would change nothing.
    ///
    /// ```
    /// # use distdl_dl::{Dense, Input, Loss, NeuralNetwork};
    /// let network = NeuralNetwork::new(Input(4)).output(Dense::linear(3).without_bias(), Loss::SoftmaxCrossEntropy)?;
    /// assert_eq!(network.parameter_count(), 4 * 3);
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    #[must_use]
    pub fn without_bias(self) -> Self {
        Dense {
            has_bias: false,
            ..self
        }
    }
}

impl Dense {
    /// How the weights begin.
    pub(super) fn initialization(&self) -> Initialization {
        let by_activation = match self.activation {
            Activation::Relu => Initialization::HeUniform,
            _ => Initialization::GlorotUniform,
        };
        self.initialization.unwrap_or(by_activation)
    }
}

impl<T: Scalar> LayerSpecification<T> for Dense {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        let input_length = input.length();
        if let Some(inputs) = self.inputs.filter(|&inputs| inputs != input_length) {
            return Err(mismatch(
                layer,
                KIND,
                format!("{inputs} inputs"),
                format!("{input_length} from what comes before it"),
            ));
        }
        if self.outputs == 0 || input_length == 0 {
            return Err(mismatch(
                layer,
                KIND,
                "at least 1 input and 1 output",
                format!("{input_length} and {}", self.outputs),
            ));
        }
        if input_length
            .checked_add(1)
            .and_then(|rows| rows.checked_mul(self.outputs))
            .is_none()
        {
            return Err(mismatch(
                layer,
                KIND,
                "a weight that fits in memory",
                format!("{input_length} x {}", self.outputs),
            ));
        }
        Ok(Box::new(DenseLayer {
            inputs: input_length,
            outputs: self.outputs,
            activation: self.activation,
            initialization: self.initialization(),
            has_bias: self.has_bias,
        }))
    }
}

/// A [`Dense`] that knows its inputs. Its slice holds the weight, inputs x outputs, then the bias, if it has one.
#[derive(Debug, Clone, Copy)]
struct DenseLayer {
    inputs: usize,
    outputs: usize,
    activation: Activation,
    initialization: Initialization,
    has_bias: bool,
}

impl DenseLayer {
    fn bias_length(&self) -> usize {
        if self.has_bias { self.outputs } else { 0 }
    }

    fn weight_length(&self) -> usize {
        self.inputs * self.outputs
    }

    fn check_parameters(&self, what: &'static str, got: usize) -> Result<()> {
        check_length(what, self.weight_length() + self.bias_length(), got)
    }

    fn weight<'a, T: Scalar>(&self, weight: &'a [T]) -> Result<Matrix<'a, T>> {
        Matrix::new("the weight", weight, self.inputs, self.outputs)
    }
}

impl<T: Scalar> Layer<T> for DenseLayer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.inputs
    }

    fn output_shape(&self) -> Shape {
        Shape::Row(self.outputs)
    }

    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        let weight = ParameterShape {
            is_transposed_in_files: true,
            ..ParameterShape::new("weight", vec![self.inputs, self.outputs])
        };
        let bias = self.has_bias.then(|| ParameterShape::new("bias", vec![self.outputs]));
        [weight].into_iter().chain(bias).collect()
    }

    fn initialize(&self, seed: u64, layer: u64, parameters: &mut [T]) -> Result<()> {
        self.check_parameters("the dense layer's parameters", parameters.len())?;
        let (weight, bias) = parameters.split_at_mut(self.weight_length());
        let stream = |tensor| Stream::new(seed, Purpose::InitialValues, [layer, tensor]);
        self.initialization.fill(self.inputs, self.outputs, stream(0), weight);
        match self.initialization {
            Initialization::FanInUniform => self.initialization.fill(self.inputs, self.outputs, stream(1), bias),
            _ => bias.fill(T::ZERO),
        }
        Ok(())
    }

    fn activation(&self) -> Activation {
        self.activation
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        self.check_parameters("the dense layer's parameters", pass.parameters.len())?;
        let (weight, bias) = pass.parameters.split_at(self.weight_length());
        matmul(
            pass.outputs,
            Matrix::new("the layer's inputs", pass.inputs, pass.rows, self.inputs)?,
            self.weight(weight)?,
        )?;
        match self.has_bias {
            true => activation::forward(self.activation, bias, pass.outputs),
            false => activation::apply(self.activation, self.outputs, pass.outputs),
        }
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        self.check_parameters("the dense layer's parameters", pass.parameters.len())?;
        self.check_parameters("the dense layer's gradient", pass.gradient.len())?;
        let (weight_gradient, bias_gradient) = pass.gradient.split_at_mut(self.weight_length());
        match self.has_bias {
            true => activation::backward(self.activation, pass.outputs, pass.output_gradient, bias_gradient)?,
            false => activation::derive(self.activation, self.outputs, pass.outputs, pass.output_gradient)?,
        }

        let inputs = Matrix::new("the layer's inputs", pass.inputs, pass.rows, self.inputs)?;
        let gradient = Matrix::new("the output gradient", pass.output_gradient, pass.rows, self.outputs)?;
        matmul(weight_gradient, inputs.transpose(), gradient)?;
        if let Some(input_gradient) = pass.input_gradient {
            let weight = self.weight(&pass.parameters[..self.weight_length()])?;
            matmul(input_gradient, gradient, weight.transpose())?;
        }
        Ok(())
    }
}
