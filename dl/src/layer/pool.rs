//! Pooling: one value for each window of each channel.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Backward, Forward, Layer, LayerSpecification, image, mismatch};
use crate::error::Result;
use crate::kernels::windows;
use crate::scalar::Scalar;
use crate::shape::{Image, Shape, Sides, Windows};

/// The largest element of each window of each channel.
///
/// ```
/// # use distdl_dl::{Image, Loss, MaxPool2d, NeuralNetwork};
/// let image = Image { channels: 1, height: 2, width: 5 };
/// let network = NeuralNetwork::new(image).output(MaxPool2d::new(2), Loss::MeanSquaredError)?;
/// let pixels = [1.0, 2.0, 3.0, 4.0, 0.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// let outputs = network.predict_batch(&[], &pixels, 1, &mut network.workspace(1))?.to_vec();
/// assert_eq!(outputs, [6.0, 8.0], "the fifth column is left out");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxPool2d {
    size: Sides,
    stride: Sides,
}

/// The mean of each window of each channel.
///
/// ```
/// # use distdl_dl::{AvgPool2d, Image, Loss, NeuralNetwork};
/// let image = Image { channels: 1, height: 2, width: 5 };
/// let network = NeuralNetwork::new(image).output(AvgPool2d::new(2), Loss::MeanSquaredError)?;
/// let pixels = [1.0, 2.0, 3.0, 4.0, 0.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// let outputs = network.predict_batch(&[], &pixels, 1, &mut network.workspace(1))?.to_vec();
/// assert_eq!(outputs, [3.5, 5.5], "the fifth column is left out");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AvgPool2d {
    size: Sides,
    stride: Sides,
}

impl MaxPool2d {
    /// Windows of `size` x `size` pixels, or of (height, width), side by side; what is left over at the right and the
    /// lower side is left out.
    pub fn new(size: impl Into<Sides>) -> Self {
        let size = size.into();
        Self { size, stride: size }
    }

    /// Sets the pixels from one window to the next, in both directions or as (down, across).
    #[must_use]
    pub fn with_stride(self, stride: impl Into<Sides>) -> Self {
        let stride = stride.into();
        Self { stride, ..self }
    }
}

impl AvgPool2d {
    /// Windows of `size` x `size` pixels, or of (height, width), side by side; what is left over at the right and the
    /// lower side is left out.
    pub fn new(size: impl Into<Sides>) -> Self {
        let size = size.into();
        Self { size, stride: size }
    }

    /// Sets the pixels from one window to the next, in both directions or as (down, across).
    #[must_use]
    pub fn with_stride(self, stride: impl Into<Sides>) -> Self {
        let stride = stride.into();
        Self { stride, ..self }
    }
}

impl<T: Scalar> LayerSpecification<T> for MaxPool2d {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        PoolLayer::build(Kind::Largest, layer, input, self.size, self.stride)
    }
}

impl<T: Scalar> LayerSpecification<T> for AvgPool2d {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        PoolLayer::build(Kind::Mean, layer, input, self.size, self.stride)
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Largest,
    Mean,
}

#[derive(Clone, Copy, Debug)]
struct PoolLayer {
    kind: Kind,
    windows: Windows,
    output: Image,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Largest => "max_pool_2d",
            Kind::Mean => "avg_pool_2d",
        }
    }
}

impl PoolLayer {
    fn build<T: Scalar>(
        kind: Kind,
        layer: usize,
        input: Shape,
        size: Sides,
        stride: Sides,
    ) -> Result<Box<dyn Layer<T>>> {
        let windows = Windows {
            image: image(layer, kind.name(), input)?,
            size,
            stride,
            padding: 0.into(),
        };
        let Some((height, width)) = windows.counts() else {
            let expected = format!(
                "windows and strides of at least 1 pixel, and images of at least {} x {}",
                size.height, size.width
            );
            return Err(mismatch(
                layer,
                kind.name(),
                expected,
                format!("{input} with a stride of {stride:?}"),
            ));
        };
        let channels = windows.image.channels;
        let output = Image {
            channels,
            height,
            width,
        };
        Ok(Box::new(PoolLayer { kind, windows, output }))
    }
}

impl<T: Scalar> Layer<T> for PoolLayer {
    fn kind(&self) -> &'static str {
        self.kind.name()
    }

    fn input_length(&self) -> usize {
        Shape::Image(self.windows.image).length()
    }

    fn output_shape(&self) -> Shape {
        Shape::Image(self.output)
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        match self.kind {
            Kind::Largest => windows::largest(&self.windows, pass.rows, pass.inputs, pass.outputs),
            Kind::Mean => windows::mean(&self.windows, pass.rows, pass.inputs, pass.outputs),
        }
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        let (windows, rows) = (&self.windows, pass.rows);
        let Some(input_gradient) = pass.input_gradient else {
            return Ok(());
        };
        match self.kind {
            Kind::Largest => {
                windows::largest_backward(windows, rows, pass.inputs, pass.output_gradient, input_gradient)
            }
            Kind::Mean => windows::mean_backward(windows, rows, pass.output_gradient, input_gradient),
        }
    }
}
