//! Bias and activation of a layer in one pass, and their gradients in one pass.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use super::Level;
use crate::error::{Result, check_length};
use crate::scalar::Scalar;
use serde::{Deserialize, Serialize};

/// The function applied to a layer's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Activation {
    /// x
    #[default]
    Identity,
    /// max(x, 0)
    Relu,
    /// x, and 0.01 x where it is negative
    LeakyRelu,
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// tanh x
    Tanh,
    /// ln(1 + e^x)
    Softplus,
    /// e^x_j / sum of e^x_k over the row
    Softmax,
}

/// The slope of a leaky relu where x is negative.
const LEAK: f64 = 0.01;

impl Activation {
    /// All of them.
    pub const ALL: [Activation; 7] = [
        Activation::Identity,
        Activation::Relu,
        Activation::LeakyRelu,
        Activation::Sigmoid,
        Activation::Tanh,
        Activation::Softplus,
        Activation::Softmax,
    ];

    /// Its name in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Activation::Identity => "identity",
            Activation::Relu => "relu",
            Activation::LeakyRelu => "leaky_relu",
            Activation::Sigmoid => "sigmoid",
            Activation::Tanh => "tanh",
            Activation::Softplus => "softplus",
            Activation::Softmax => "softmax",
        }
    }
}

/// Adds `bias` to each row of `outputs` and applies `activation`, in place. Errors if `outputs` is not whole rows of
/// `bias`'s length.
pub fn forward<T: Scalar>(activation: Activation, bias: &[T], outputs: &mut [T]) -> Result<()> {
    check_rows("the outputs", bias.len(), outputs.len())?;
    cpu::forward(Level::best(), activation, bias.len(), Some(bias), outputs);
    Ok(())
}

/// Applies `activation` to rows of `columns` elements, in place. Errors if `outputs` is not whole rows.
pub fn apply<T: Scalar>(activation: Activation, columns: usize, outputs: &mut [T]) -> Result<()> {
    check_rows("the outputs", columns, outputs.len())?;
    cpu::forward(Level::best(), activation, columns, None, outputs);
    Ok(())
}

/// Turns `gradient`, the gradient of the loss by the activated `outputs`, into that by the values before the
/// activation, in place, and writes its column sums, the gradient by the bias, to `bias_gradient`. The sums run over
/// rows in ascending order. Errors if lengths do not match.
pub fn backward<T: Scalar>(
    activation: Activation,
    outputs: &[T],
    gradient: &mut [T],
    bias_gradient: &mut [T],
) -> Result<()> {
    check_length("the output gradient", outputs.len(), gradient.len())?;
    check_rows("the outputs", bias_gradient.len(), outputs.len())?;
    let columns = bias_gradient.len();
    cpu::backward(
        Level::best(),
        activation,
        columns,
        outputs,
        gradient,
        Some(bias_gradient),
    );
    Ok(())
}

/// As [`backward`], for rows of `columns` elements without a bias.
pub fn derive<T: Scalar>(activation: Activation, columns: usize, outputs: &[T], gradient: &mut [T]) -> Result<()> {
    check_length("the output gradient", outputs.len(), gradient.len())?;
    check_rows("the outputs", columns, outputs.len())?;
    cpu::backward(Level::best(), activation, columns, outputs, gradient, None);
    Ok(())
}

/// Replaces each row of `columns` elements by its softmax. Errors if `rows` is not whole rows.
pub fn softmax_rows<T: Scalar>(columns: usize, rows: &mut [T]) -> Result<()> {
    check_rows("the rows", columns, rows.len())?;
    cpu::softmax_rows(Level::best(), columns, rows);
    Ok(())
}

fn check_rows(what: &'static str, columns: usize, got: usize) -> Result<()> {
    let rows = got.checked_div(columns).unwrap_or(0);
    check_length(what, rows * columns, got)
}
