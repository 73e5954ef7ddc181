//! The convolution: a fully connected layer that walks over an image.
//!
//! Some images at a time are written as columns (kernels/windows), so that one matrix product covers them. The columns
//! are made anew in the backward pass, so that memory does not grow with the rows.

#[cfg(feature = "gpu")]
mod cuda;
#[cfg(feature = "gpu")]
mod dnn;
#[cfg(feature = "gpu")]
mod products;

use super::{Activation, Backward, Forward, Layer, LayerSpecification, image, mismatch};
use crate::error::{Result, check_length};
use crate::initialization::Initialization;
use crate::kernels::activation;
use crate::kernels::matmul::{Matrix, add_matmul, matmul};
use crate::kernels::sums::sum;
use crate::kernels::windows;
use crate::layout::ParameterShape;
use crate::rng::{Purpose, Stream};
use crate::scalar::Scalar;
use crate::shape::{Image, Shape, Sides, Windows};

const KIND: &str = "conv_2d";

/// Elements of the columns of the images that are multiplied at once, where one image has no more: about the
/// second-level cache.
const COLUMNS_MAX: usize = 1 << 18;
/// The most images at once.
const IMAGES_MAX: usize = 8;

/// A two-dimensional convolution: as `torch.nn.Conv2d`, weights and biases begin as there. Outputs =
/// activation(weight x window + bias) for each window, or without the bias.
///
/// ```
/// # use distdl_dl::{Activation, Conv2d, Dense, Image, Loss, MaxPool2d, NeuralNetwork};
/// let network = NeuralNetwork::new(Image { channels: 1, height: 28, width: 28 })
///     .hidden(Conv2d::new(6, 5).with_padding(2).with_activation(Activation::Relu)) // 6 x 28 x 28
///     .hidden(MaxPool2d::new(2)) // 6 x 14 x 14
///     .hidden(Conv2d::new(16, 5)) // 16 x 10 x 10
///     .output(Dense::linear(10), Loss::SoftmaxCrossEntropy)?;
/// assert_eq!(network.parameter_count(), (25 + 1) * 6 + (6 * 25 + 1) * 16 + (1600 + 1) * 10);
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2d {
    outputs: usize,
    size: Sides,
    stride: Sides,
    padding: Sides,
    activation: Activation,
    initialization: Initialization,
    has_bias: bool,
}

impl Conv2d {
    /// `outputs` channels of windows of `size` x `size` pixels, or of (height, width), one pixel apart, without padding
    /// and activation.
    ///
    /// ```
    /// # use distdl_dl::{Conv2d, Image, Loss, NeuralNetwork};
    /// let image = Image { channels: 1, height: 4, width: 100 };
    /// let lines = Conv2d::new(8, (1, 5)).with_stride((1, 2)).with_padding((0, 2));
    /// let network = NeuralNetwork::new(image).output(lines, Loss::MeanSquaredError)?;
    /// assert_eq!(network.output_length(), 8 * 4 * 50);
    /// # Ok::<(), distdl_dl::Error>(())
    /// ```
    pub fn new(outputs: usize, size: impl Into<Sides>) -> Self {
        Self {
            outputs,
            size: size.into(),
            stride: 1.into(),
            padding: 0.into(),
            activation: Activation::Identity,
            initialization: Initialization::FanInUniform,
            has_bias: true,
        }
    }

    /// Sets the pixels from one window to the next, in both directions or as (down, across).
    #[must_use]
    pub fn with_stride(self, stride: impl Into<Sides>) -> Self {
        let stride = stride.into();
        Self { stride, ..self }
    }

    /// Sets the zeros around the image: at each side, or as (above and below, left and right).
    #[must_use]
    pub fn with_padding(self, padding: impl Into<Sides>) -> Self {
        let padding = padding.into();
        Self { padding, ..self }
    }

    /// Sets the function that is applied to the outputs; not softmax.
    #[must_use]
    pub fn with_activation(self, activation: Activation) -> Self {
        Self { activation, ..self }
    }

    /// Sets how the weights begin. Biases begin as they do with [`Initialization::FanInUniform`], else at 0.
    #[must_use]
    pub fn with_initialization(self, initialization: Initialization) -> Self {
        Self { initialization, ..self }
    }

    /// Leaves the bias out, as `bias=False` does in PyTorch: before a [`BatchNorm`](crate::BatchNorm), which shifts
    /// what comes to it, one would change nothing.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self {
            has_bias: false,
            ..self
        }
    }
}

impl<T: Scalar> LayerSpecification<T> for Conv2d {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        let windows = Windows {
            image: image(layer, KIND, input)?,
            size: self.size,
            stride: self.stride,
            padding: self.padding,
        };
        let (Some((height, width)), 1..) = (windows.counts(), self.outputs) else {
            let expected = format!(
                "windows, strides and outputs of at least 1, and images of at least {} x {} with their padding",
                self.size.height, self.size.width
            );
            let got = format!("{input} with a padding of {:?}, {} outputs", self.padding, self.outputs);
            return Err(mismatch(layer, KIND, expected, got));
        };
        if self.activation == Activation::Softmax {
            return Err(mismatch(layer, KIND, "an activation of single elements", "softmax"));
        }
        let output = Image {
            channels: self.outputs,
            height,
            width,
        };
        match ConvolutionLayer::new(self, windows, output) {
            Some(layer) => Ok(Box::new(layer)),
            None => Err(mismatch(
                layer,
                KIND,
                "a weight and windows that fit in memory",
                format!("{windows:?}"),
            )),
        }
    }
}

/// Its slice holds the weight, outputs x input channels x rows x columns of a window, then the bias, if it has one.
#[derive(Debug, Clone, Copy)]
struct ConvolutionLayer {
    windows: Windows,
    output: Image,
    /// Inputs of a window.
    inputs: usize,
    activation: Activation,
    initialization: Initialization,
    has_bias: bool,
}

impl ConvolutionLayer {
    fn new(specification: &Conv2d, windows: Windows, output: Image) -> Option<Self> {
        let inputs = windows.image.channels.checked_mul(windows.size.pixels()?)?;
        inputs.checked_add(1)?.checked_mul(output.channels)?;
        let columns = inputs.checked_add(output.channels)?.checked_mul(output.pixels())?;
        columns.checked_mul(IMAGES_MAX)?;
        Some(Self {
            windows,
            output,
            inputs,
            activation: specification.activation,
            initialization: specification.initialization,
            has_bias: specification.has_bias,
        })
    }

    fn weight_length(&self) -> usize {
        self.output.channels * self.inputs
    }

    fn bias_length(&self) -> usize {
        if self.has_bias { self.output.channels } else { 0 }
    }

    fn input_image(&self) -> usize {
        self.windows.image.channels * self.windows.image.pixels()
    }

    fn output_image(&self) -> usize {
        self.output.channels * self.output.pixels()
    }

    /// Images that are multiplied at once.
    fn images(&self) -> usize {
        (COLUMNS_MAX / (self.inputs * self.output.pixels())).clamp(1, IMAGES_MAX)
    }

    fn check<T>(&self, parameters: &[T], inputs: &[T], outputs: &[T], rows: usize, scratch: usize) -> Result<()> {
        check_length(
            "the layer's parameters",
            self.weight_length() + self.bias_length(),
            parameters.len(),
        )?;
        check_length("the layer's inputs", rows * self.input_image(), inputs.len())?;
        check_length("the layer's outputs", rows * self.output_image(), outputs.len())?;
        let wanted = self.columns_length() + self.values_length();
        check_length("the layer's scratch", wanted, scratch.min(wanted))
    }

    fn columns_length(&self) -> usize {
        self.images() * self.inputs * self.output.pixels()
    }

    /// Elements of the outputs of the images that are multiplied at once.
    fn values_length(&self) -> usize {
        self.images() * self.output_image()
    }

    fn weight<'a, T: Scalar>(&self, parameters: &'a [T]) -> Result<Matrix<'a, T>> {
        let weight = &parameters[..self.weight_length()];
        Matrix::new("the weight", weight, self.output.channels, self.inputs)
    }

    /// Some images' columns, and room for their outputs or the gradient by them, channel by channel.
    fn split<'a, T>(&self, count: usize, scratch: &'a mut [T]) -> (&'a mut [T], &'a mut [T]) {
        let (columns, values) = scratch.split_at_mut(self.columns_length());
        let pixels = count * self.output.pixels();
        (
            &mut columns[..self.inputs * pixels],
            &mut values[..self.output.channels * pixels],
        )
    }

    /// Runs of a channel: each with its channel, its place among the values of `count` images, and its place in the
    /// images.
    fn runs(&self, count: usize) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let (channels, pixels) = (self.output.channels, self.output.pixels());
        (0..count).flat_map(move |image| {
            (0..channels).map(move |channel| {
                let (value, place) = (channel * count + image, image * channels + channel);
                (channel, value * pixels, place * pixels)
            })
        })
    }
}

impl<T: Scalar> Layer<T> for ConvolutionLayer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.input_image()
    }

    fn output_shape(&self) -> Shape {
        Shape::Image(self.output)
    }

    fn parameter_shapes(&self) -> Vec<ParameterShape> {
        let (size, channels) = (self.windows.size, self.output.channels);
        let sides = vec![channels, self.windows.image.channels, size.height, size.width];
        let bias = self.has_bias.then(|| ParameterShape::new("bias", vec![channels]));
        [ParameterShape::new("weight", sides)].into_iter().chain(bias).collect()
    }

    fn initialize(&self, seed: u64, layer: u64, parameters: &mut [T]) -> Result<()> {
        check_length(
            "the layer's parameters",
            self.weight_length() + self.bias_length(),
            parameters.len(),
        )?;
        let (weight, bias) = parameters.split_at_mut(self.weight_length());
        let fan_out = self.output.channels * self.windows.size.height * self.windows.size.width;
        let stream = |tensor| Stream::new(seed, Purpose::InitialValues, [layer, tensor]);
        self.initialization.fill(self.inputs, fan_out, stream(0), weight);
        match self.initialization {
            Initialization::FanInUniform => self.initialization.fill(self.inputs, fan_out, stream(1), bias),
            _ => bias.fill(T::ZERO),
        }
        Ok(())
    }

    fn activation(&self) -> Activation {
        self.activation
    }

    fn scratch_length(&self) -> usize {
        self.columns_length() + self.values_length()
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        self.check(
            pass.parameters,
            pass.inputs,
            pass.outputs,
            pass.rows,
            pass.scratch.len(),
        )?;
        let (weight, bias) = (self.weight(pass.parameters)?, &pass.parameters[self.weight_length()..]);
        let (pixels, step) = (self.output.pixels(), self.images());
        let inputs = pass.inputs.chunks(step * self.input_image());
        for (inputs, outputs) in inputs.zip(pass.outputs.chunks_mut(step * self.output_image())) {
            let count = outputs.len() / self.output_image();
            let (columns, values) = self.split(count, pass.scratch);
            windows::to_columns(&self.windows, count, inputs, columns)?;
            let columns = Matrix::new("the columns", columns, self.inputs, count * pixels)?;
            matmul(values, weight, columns)?;
            for (channel, value, place) in self.runs(count) {
                let (to, from) = (&mut outputs[place..place + pixels], &values[value..value + pixels]);
                match bias.get(channel) {
                    Some(bias) => to.iter_mut().zip(from).for_each(|(to, from)| *to = *from + *bias),
                    None => to.copy_from_slice(from),
                }
            }
        }
        activation::apply(self.activation, self.output_image(), pass.outputs)
    }

    fn backward(&self, mut pass: Backward<'_, T>) -> Result<()> {
        self.check(
            pass.parameters,
            pass.inputs,
            pass.outputs,
            pass.rows,
            pass.scratch.len(),
        )?;
        check_length("the layer's gradient", pass.parameters.len(), pass.gradient.len())?;
        activation::derive(self.activation, self.output_image(), pass.outputs, pass.output_gradient)?;
        let weight = self.weight(pass.parameters)?;
        let (pixels, step) = (self.output.pixels(), self.images());
        pass.gradient.fill(T::ZERO);
        let (weight_gradient, bias_gradient) = pass.gradient.split_at_mut(self.weight_length());
        let inputs = pass.inputs.chunks(step * self.input_image());
        let gradients = pass.output_gradient.chunks(step * self.output_image());
        for (index, (inputs, gradient)) in inputs.zip(gradients).enumerate() {
            let count = gradient.len() / self.output_image();
            let (columns, values) = self.split(count, pass.scratch);
            for (channel, value, place) in self.runs(count) {
                let from = &gradient[place..place + pixels];
                values[value..value + pixels].copy_from_slice(from);
                if let Some(gradient) = bias_gradient.get_mut(channel) {
                    *gradient += sum(from);
                }
            }
            let values = Matrix::new("the output gradient", values, self.output.channels, count * pixels)?;
            windows::to_columns(&self.windows, count, inputs, columns)?;
            let of_inputs = Matrix::new("the columns", columns, self.inputs, count * pixels)?;
            add_matmul(weight_gradient, values, of_inputs.transpose())?;
            if let Some(input_gradient) = &mut pass.input_gradient {
                let first = index * step * self.input_image();
                let images = &mut input_gradient[first..first + count * self.input_image()];
                matmul(columns, weight.transpose(), values)?;
                windows::from_columns(&self.windows, count, columns, images)?;
            }
        }
        Ok(())
    }
}
