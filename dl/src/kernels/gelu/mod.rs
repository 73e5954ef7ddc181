//! The Gaussian error linear unit: x times the probability that a normal variable is less than x.

#[cfg(feature = "gpu")]
pub(crate) mod cuda;

use crate::error::{Result, check_length};
use crate::scalar::Scalar;

/// Outputs = x * (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel, 2016; the exact form). Errors if lengths differ.
pub fn forward<T: Scalar>(inputs: &[T], outputs: &mut [T]) -> Result<()> {
    check_length("the outputs", inputs.len(), outputs.len())?;
    for (output, &input) in outputs.iter_mut().zip(inputs) {
        *output = input * probability(input);
    }
    Ok(())
}

/// The gradient by the inputs from that by the outputs. Errors if lengths differ.
pub fn backward<T: Scalar>(inputs: &[T], output_gradient: &[T], input_gradient: &mut [T]) -> Result<()> {
    check_length("the output gradient", inputs.len(), output_gradient.len())?;
    check_length("the gradient by the inputs", inputs.len(), input_gradient.len())?;
    for ((to, &input), &gradient) in input_gradient.iter_mut().zip(inputs).zip(output_gradient) {
        let density = (-(input * input) * half::<T>()).exponential() * T::from_f64(0.398_942_280_401_432_7);
        *to = gradient * (probability(input) + input * density);
    }
    Ok(())
}

fn probability<T: Scalar>(x: T) -> T {
    (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).error_function()) * half::<T>()
}

fn half<T: Scalar>() -> T {
    T::from_f64(0.5)
}
