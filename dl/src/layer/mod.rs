//! Layers: a weight, a bias, an activation and their gradients.

mod dense;

pub use crate::kernels::activation::Activation;
pub use dense::Dense;

use crate::error::Result;
use crate::layout::ParameterShape;
use crate::scalar::Scalar;
use std::fmt::Debug;

/// A layer that knows its input, and computes on rows: one row a sample.
///
/// It holds no parameters and no buffers: it reads its slice of the one flat parameter vector, and writes its gradient
/// to the same slice of the one flat gradient vector. `forward` and `backward` allocate nothing. Any number of rows is
/// allowed.
pub trait Layer<T: Scalar>: Debug + Send + Sync {
    /// What kind of layer it is, in lower case, for messages.
    fn kind(&self) -> &'static str;

    /// Elements of an input row.
    fn input_length(&self) -> usize;

    /// Elements of an output row.
    fn output_length(&self) -> usize;

    /// The tensors it wants, in the order in which they lie in its slice.
    fn parameter_shapes(&self) -> Vec<ParameterShape>;

    /// Writes initial values, a function of (seed, layer, index) only.
    fn initialize(&self, seed: u64, layer: u64, parameters: &mut [T]) -> Result<()>;

    /// The function applied last.
    fn activation(&self) -> Activation;

    /// Writes `outputs` (rows x output length) from `inputs` (rows x input length). Errors if a length does not match.
    fn forward(&self, parameters: &[T], inputs: &[T], rows: usize, outputs: &mut [T]) -> Result<()>;

    /// Writes the gradients of a loss from that by the outputs. Errors if a length does not match.
    fn backward(&self, pass: Backward<'_, T>) -> Result<()>;
}

/// What a backward pass of one layer reads and writes.
#[derive(Debug)]
pub struct Backward<'a, T> {
    /// The layer's parameters.
    pub parameters: &'a [T],
    /// The inputs of the forward pass, rows x input length.
    pub inputs: &'a [T],
    /// The outputs of the forward pass, rows x output length.
    pub outputs: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// The gradient by the outputs, rows x output length; the layer may overwrite it.
    pub output_gradient: &'a mut [T],
    /// Where the gradient by the inputs goes, rows x input length; `None` if nobody wants it.
    pub input_gradient: Option<&'a mut [T]>,
    /// Where the gradient by the parameters goes, summed over rows in ascending order or in an order fixed by the
    /// shapes; overwritten.
    pub gradient: &'a mut [T],
}

/// What a user writes down for a layer, before it is known what comes before it.
pub trait LayerSpecification<T: Scalar> {
    /// Makes the layer that comes as number `layer` after `input_length` elements. Errors if it cannot take them.
    fn build(&self, layer: usize, input_length: usize) -> Result<Box<dyn Layer<T>>>;
}
