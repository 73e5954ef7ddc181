//! Where two ways through a network meet.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Backward, Forward, Layer, LayerSpecification, hand_back, hand_on, mismatch};
use crate::error::Result;
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "sum";

/// The end of a block that a shortcut goes round. It hands on its inputs; the network, which knows what else there is,
/// adds that to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sum {
    /// The shape of what is added.
    pub(crate) with: Shape,
}

impl<T: Scalar> LayerSpecification<T> for Sum {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        if input != self.with {
            let expected = format!("a block and a shortcut that end in one shape, here {}", self.with);
            return Err(mismatch(layer, KIND, expected, input.to_string()));
        }
        Ok(Box::new(SumLayer { shape: input }))
    }
}

#[derive(Clone, Copy, Debug)]
struct SumLayer {
    shape: Shape,
}

impl<T: Scalar> Layer<T> for SumLayer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.shape.length()
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        hand_on(pass)
    }

    /// The gradient by the outputs stays as it is: it is that by what is added, too.
    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        hand_back(pass)
    }
}
