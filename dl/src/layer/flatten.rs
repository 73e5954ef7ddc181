//! Images as rows of numbers.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Backward, Forward, Layer, LayerSpecification, hand_back, hand_on, not_empty};
use crate::error::Result;
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "flatten";

/// Makes a row of numbers of an image, in the order in which they lie; changes nothing else.
///
/// ```
/// # use distdl_dl::{BatchNorm, Dense, Flatten, Image, Loss, NeuralNetwork};
/// let image = Image { channels: 3, height: 4, width: 4 };
/// let loss = Loss::SoftmaxCrossEntropy;
/// let by_channel = NeuralNetwork::new(image).hidden(BatchNorm::default()).output(Dense::linear(2), loss.clone())?;
/// assert_eq!(by_channel.parameter_count(), 4 * 3 + (48 + 1) * 2, "a dense layer takes an image for a row");
/// let flat = NeuralNetwork::new(image).hidden(Flatten).hidden(BatchNorm::default()).output(Dense::linear(2), loss)?;
/// assert_eq!(flat.parameter_count(), 4 * 48 + (48 + 1) * 2, "other layers make a difference");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flatten;

impl<T: Scalar> LayerSpecification<T> for Flatten {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        let length = not_empty(layer, KIND, input)?.length();
        Ok(Box::new(FlattenLayer { length }))
    }
}

#[derive(Clone, Copy, Debug)]
struct FlattenLayer {
    length: usize,
}

impl<T: Scalar> Layer<T> for FlattenLayer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.length
    }

    fn output_shape(&self) -> Shape {
        Shape::Row(self.length)
    }

    fn is_identity(&self) -> bool {
        true
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        hand_on(pass)
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        hand_back(pass)
    }
}
