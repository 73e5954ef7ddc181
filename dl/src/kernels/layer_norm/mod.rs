//! Rows with mean 0 and variance 1, scaled and shifted.

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use super::Level;
use crate::error::{Result, check_length};
use crate::scalar::Scalar;

/// Outputs = (x - mean) / sqrt(variance + epsilon) * weight + bias, with mean and variance (over n elements, not n - 1)
/// of each row. Errors if lengths do not match or are not whole rows of `weight`'s length.
pub fn forward<T: Scalar>(epsilon: f64, weight: &[T], bias: &[T], inputs: &[T], outputs: &mut [T]) -> Result<()> {
    check_length("the bias", weight.len(), bias.len())?;
    check(weight, inputs, outputs.len())?;
    cpu::forward(Level::best(), epsilon, weight, bias, inputs, outputs);
    Ok(())
}

/// The gradients by weight and bias, summed over rows in ascending order, from that by the outputs; and if it is wanted
/// that by the inputs. Errors as [`forward`].
pub fn backward<T: Scalar>(
    epsilon: f64,
    weight: &[T],
    inputs: &[T],
    output_gradient: &[T],
    (weight_gradient, bias_gradient): (&mut [T], &mut [T]),
    input_gradient: Option<&mut [T]>,
) -> Result<()> {
    check(weight, inputs, output_gradient.len())?;
    check_length("the weight's gradient", weight.len(), weight_gradient.len())?;
    check_length("the bias's gradient", weight.len(), bias_gradient.len())?;
    if let Some(input_gradient) = &input_gradient {
        check_length("the gradient by the inputs", inputs.len(), input_gradient.len())?;
    }
    let gradients = (weight_gradient, bias_gradient);
    cpu::backward(
        Level::best(),
        epsilon,
        weight,
        inputs,
        output_gradient,
        gradients,
        input_gradient,
    );
    Ok(())
}

fn check<T>(weight: &[T], inputs: &[T], outputs: usize) -> Result<()> {
    let rows = inputs.len().checked_div(weight.len()).unwrap_or(0);
    check_length("the inputs", rows * weight.len(), inputs.len())?;
    check_length("the outputs", inputs.len(), outputs)
}
