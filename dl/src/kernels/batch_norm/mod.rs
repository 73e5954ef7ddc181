//! Channels with mean 0 and variance 1, scaled and shifted.
//!
//! A row has some channels, each of so many positions. Sums over a channel run over rows in ascending
//! order, in f64 where they cross rows (on a GPU in parts, which are added by pairs).

mod cpu;
#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use super::Level;
use crate::error::{Result, check_length};
use crate::scalar::Scalar;

/// What a channel is normalised with: one value for each channel.
#[derive(Clone, Copy, Debug)]
pub struct Moments<'a, T> {
    /// Means.
    pub mean: &'a [T],
    /// Variances.
    pub variance: &'a [T],
    /// Added to the variance.
    pub epsilon: f64,
    /// Whether they are those of the inputs, so that each value has its part in them; else they are given.
    pub are_of_inputs: bool,
}

/// Writes mean and variance (over n elements, not n - 1) of each channel. Errors if `inputs` is not whole rows of as
/// many channels of `positions`.
pub fn moments<T: Scalar>(positions: usize, inputs: &[T], mean: &mut [T], variance: &mut [T]) -> Result<()> {
    check(positions, mean.len(), inputs.len())?;
    check_length("the variances", mean.len(), variance.len())?;
    cpu::moments(Level::best(), positions, inputs, mean, variance);
    Ok(())
}

/// Outputs = (x - mean) / sqrt(variance + epsilon) * weight + bias. Errors if lengths do not match.
pub fn forward<T: Scalar>(
    positions: usize,
    moments: Moments<'_, T>,
    (weight, bias): (&[T], &[T]),
    inputs: &[T],
    outputs: &mut [T],
) -> Result<()> {
    check(positions, weight.len(), inputs.len())?;
    check_moments(&moments, weight.len())?;
    check_length("the bias", weight.len(), bias.len())?;
    check_length("the outputs", inputs.len(), outputs.len())?;
    cpu::forward(Level::best(), positions, moments, (weight, bias), inputs, outputs);
    Ok(())
}

/// The gradients by weight and bias from that by the outputs, and if it is wanted that by the inputs. Errors if lengths
/// do not match.
pub fn backward<T: Scalar>(
    positions: usize,
    moments: Moments<'_, T>,
    weight: &[T],
    (inputs, output_gradient): (&[T], &[T]),
    (weight_gradient, bias_gradient): (&mut [T], &mut [T]),
    input_gradient: Option<&mut [T]>,
) -> Result<()> {
    check(positions, weight.len(), inputs.len())?;
    check_moments(&moments, weight.len())?;
    check_length("the output gradient", inputs.len(), output_gradient.len())?;
    check_length("the weight's gradient", weight.len(), weight_gradient.len())?;
    check_length("the bias's gradient", weight.len(), bias_gradient.len())?;
    let sums = (&mut *weight_gradient, &mut *bias_gradient);
    cpu::sums(Level::best(), positions, moments, (inputs, output_gradient), sums);
    if let Some(input_gradient) = input_gradient {
        check_length("the gradient by the inputs", inputs.len(), input_gradient.len())?;
        let sums = (&*weight_gradient, &*bias_gradient);
        let values = (inputs, output_gradient);
        cpu::backward(Level::best(), positions, moments, weight, values, sums, input_gradient);
    }
    Ok(())
}

fn check(positions: usize, channels: usize, inputs: usize) -> Result<()> {
    let row = positions * channels;
    let rows = inputs.checked_div(row).unwrap_or(0);
    check_length("the inputs", rows * row, inputs)
}

fn check_moments<T>(moments: &Moments<'_, T>, channels: usize) -> Result<()> {
    check_length("the means", channels, moments.mean.len())?;
    check_length("the variances", channels, moments.variance.len())
}
