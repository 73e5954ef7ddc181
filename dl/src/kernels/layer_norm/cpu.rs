//! One row after the other.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use crate::kernels::sums::sum_of;
use crate::scalar::Scalar;

dispatched! {
    pub(super) fn forward<T: Scalar>(epsilon: f64, weight: &[T], bias: &[T], inputs: &[T], outputs: &mut [T]) {
        let length = weight.len().max(1);
        for (inputs, outputs) in inputs.chunks_exact(length).zip(outputs.chunks_exact_mut(length)) {
            let (mean, scale) = mean_and_scale(epsilon, inputs);
            let parts = inputs.iter().zip(weight).zip(bias);
            for (output, ((&input, &weight), &bias)) in outputs.iter_mut().zip(parts) {
                *output = (input - mean) * scale * weight + bias;
            }
        }
    }
}

dispatched! {
    pub(super) fn backward<T: Scalar>(
        epsilon: f64,
        weight: &[T],
        inputs: &[T],
        output_gradient: &[T],
        gradients: (&mut [T], &mut [T]),
        input_gradient: Option<&mut [T]>,
    ) {
        let (weight_gradient, bias_gradient) = gradients;
        weight_gradient.fill(T::ZERO);
        bias_gradient.fill(T::ZERO);
        let length = weight.len().max(1);
        let mut input_gradients = input_gradient.map(|gradient| gradient.chunks_exact_mut(length));
        for (inputs, gradient) in inputs.chunks_exact(length).zip(output_gradient.chunks_exact(length)) {
            let (mean, scale) = mean_and_scale(epsilon, inputs);
            let sums = weight_gradient.iter_mut().zip(bias_gradient.iter_mut());
            for ((&input, &gradient), (weight_sum, bias_sum)) in inputs.iter().zip(gradient).zip(sums) {
                *weight_sum += gradient * ((input - mean) * scale);
                *bias_sum += gradient;
            }
            if let Some(input_gradient) = input_gradients.as_mut().and_then(Iterator::next) {
                row_backward(mean, scale, weight, inputs, gradient, input_gradient);
            }
        }
    }
}

/// The mean, and what is multiplied with for variance 1.
#[inline(always)]
fn mean_and_scale<T: Scalar>(epsilon: f64, row: &[T]) -> (T, T) {
    let share = T::from_f64(1.0 / row.len() as f64);
    let mean = sum_of(row.len(), |index| row[index]) * share;
    let squares = sum_of(row.len(), |index| (row[index] - mean) * (row[index] - mean));
    (mean, T::ONE / (squares * share + T::from_f64(epsilon)).square_root())
}

/// With n the normalised row and g = gradient * weight, the gradient by the inputs is scale * (g - mean of g - n * mean
/// of g * n).
#[inline(always)]
fn row_backward<T: Scalar>(mean: T, scale: T, weight: &[T], inputs: &[T], gradient: &[T], input_gradient: &mut [T]) {
    let length = inputs.len();
    let (weight, gradient) = (&weight[..length], &gradient[..length]);
    let share = T::from_f64(1.0 / length as f64);
    let mean_gradient = sum_of(length, |index| gradient[index] * weight[index]) * share;
    let along = |index: usize| gradient[index] * weight[index] * ((inputs[index] - mean) * scale);
    let mean_along = sum_of(length, along) * share;
    for (index, to) in input_gradient.iter_mut().enumerate() {
        let normal = (inputs[index] - mean) * scale;
        *to = scale * (gradient[index] * weight[index] - mean_gradient - normal * mean_along);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    #[test]
    fn all_levels_give_the_same_bits() {
        let numbers = |count: usize| {
            let number = |index: usize| (index * 7_919 % 2_003) as f32 / 99.0 - 9.0;
            (0..count).map(number).collect::<Vec<f32>>()
        };
        for length in [1, 7, 40] {
            let (weight, inputs) = (numbers(length), numbers(length * 3));
            let run = |level| {
                let mut outputs = vec![f32::NAN; length * 3];
                forward(level, 1e-5, &weight, &weight, &inputs, &mut outputs);
                let (mut by_weight, mut by_bias) = (vec![f32::NAN; length], vec![f32::NAN; length]);
                let mut by_inputs = vec![f32::NAN; length * 3];
                let gradients = (&mut by_weight[..], &mut by_bias[..]);
                backward(level, 1e-5, &weight, &inputs, &outputs, gradients, Some(&mut by_inputs));
                let all = [outputs, by_weight, by_bias, by_inputs].concat();
                all.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            };
            for level in Level::available() {
                assert_eq!(run(level), run(Level::PORTABLE), "{length} {level:?}");
            }
        }
    }
}
