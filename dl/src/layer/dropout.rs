//! Dropout: leaves units out by chance.

#[cfg(feature = "gpu")]
mod cuda;

use super::{Backward, Forward, Layer, LayerSpecification, Mode, mismatch, not_empty};
use crate::error::{Result, check_length};
use crate::kernels::dropout::{self, Chance};
use crate::scalar::Scalar;
use crate::shape::Shape;

const KIND: &str = "dropout";

/// In training, makes each element 0 with a probability, and divides the others by what remains of 1, so that the mean
/// stays (Srivastava et al., 2014). Which ones is a function of (seed, step, lane, layer, row, element). In evaluation
/// it changes nothing.
///
/// ```
/// # use distdl_dl::{Dropout, Input, Loss, NeuralNetwork};
/// let network = NeuralNetwork::new(Input(3)).output(Dropout::new(0.5), Loss::MeanSquaredError)?;
/// let mut workspace = network.workspace(1);
/// let outputs = network.predict_batch(&[], &[1.0, 2.0, 3.0], 1, &mut workspace)?;
/// assert_eq!(outputs, [1.0, 2.0, 3.0], "only training leaves out");
/// # Ok::<(), distdl_dl::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    probability: f64,
}

impl Dropout {
    /// Leaves out with `probability`, which must lie in [0, 1).
    pub fn new(probability: f64) -> Self {
        Self { probability }
    }
}

impl<T: Scalar> LayerSpecification<T> for Dropout {
    fn build(&self, layer: usize, input: Shape) -> Result<Box<dyn Layer<T>>> {
        if !(0.0..1.0).contains(&self.probability) {
            return Err(mismatch(
                layer,
                KIND,
                "a probability in [0, 1)",
                self.probability.to_string(),
            ));
        }
        Ok(Box::new(DropoutLayer {
            layer: layer as u64,
            shape: not_empty(layer, KIND, input)?,
            probability: self.probability,
        }))
    }
}

#[derive(Clone, Copy, Debug)]
struct DropoutLayer {
    layer: u64,
    shape: Shape,
    probability: f64,
}

impl DropoutLayer {
    /// What is left out in a pass; `None` if nothing is.
    fn chance(&self, mode: Mode) -> Option<Chance> {
        let Mode::Training(draw) = mode else {
            return None;
        };
        Some(Chance {
            probability: self.probability,
            seed: draw.seed,
            ids: draw.ids(self.layer),
            first: draw.first_row.wrapping_mul(self.shape.length() as u64),
        })
    }

    fn apply<T: Scalar>(&self, mode: Mode, from: &[T], to: &mut [T]) -> Result<()> {
        check_length("the outputs", from.len(), to.len())?;
        match self.chance(mode) {
            Some(chance) => dropout::apply(&chance, from, to)?,
            None => to.copy_from_slice(from),
        }
        Ok(())
    }
}

impl<T: Scalar> Layer<T> for DropoutLayer {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn input_length(&self) -> usize {
        self.shape.length()
    }

    fn output_shape(&self) -> Shape {
        self.shape
    }

    fn is_identity(&self) -> bool {
        true
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuLayer> {
        Some(self)
    }

    fn forward(&self, pass: Forward<'_, T>) -> Result<()> {
        self.apply(pass.mode, pass.inputs, pass.outputs)
    }

    fn backward(&self, pass: Backward<'_, T>) -> Result<()> {
        match pass.input_gradient {
            Some(input_gradient) => self.apply(pass.mode, pass.output_gradient, input_gradient),
            None => Ok(()),
        }
    }
}
