//! Loops over rows; columns are independent, so they vectorise without reordering a sum.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use super::{Activation, LEAK};
use crate::scalar::Scalar;

dispatched! {
    pub(super) fn forward<T: Scalar>(activation: Activation, columns: usize, bias: Option<&[T]>, outputs: &mut [T]) {
        match activation {
            Activation::Identity => map(bias, outputs, |x| x),
            Activation::Relu => map(bias, outputs, relu),
            Activation::LeakyRelu => map(bias, outputs, leaky_relu),
            Activation::Sigmoid => map(bias, outputs, sigmoid),
            Activation::Tanh => map(bias, outputs, T::hyperbolic_tangent),
            Activation::Softplus => map(bias, outputs, softplus),
            Activation::Softmax => {
                map(bias, outputs, |x| x);
                outputs.chunks_exact_mut(columns.max(1)).for_each(softmax_row);
            }
        }
    }
}

dispatched! {
    pub(super) fn backward<T: Scalar>(
        activation: Activation,
        columns: usize,
        outputs: &[T],
        gradient: &mut [T],
        bias_gradient: Option<&mut [T]>,
    ) {
        match activation {
            Activation::Identity => scale_and_sum(outputs, gradient, bias_gradient, |_, g| g),
            Activation::Relu => scale_and_sum(outputs, gradient, bias_gradient, relu_gradient),
            Activation::LeakyRelu => scale_and_sum(outputs, gradient, bias_gradient, leaky_relu_gradient),
            Activation::Sigmoid => scale_and_sum(outputs, gradient, bias_gradient, |y, g| g * (y * (T::ONE - y))),
            Activation::Tanh => scale_and_sum(outputs, gradient, bias_gradient, |y, g| g * (T::ONE - y * y)),
            Activation::Softplus => scale_and_sum(outputs, gradient, bias_gradient, softplus_gradient),
            Activation::Softmax => {
                let columns = columns.max(1);
                outputs.chunks_exact(columns).zip(gradient.chunks_exact_mut(columns)).for_each(softmax_row_backward);
                scale_and_sum(outputs, gradient, bias_gradient, |_, g| g);
            }
        }
    }
}

dispatched! {
    pub(super) fn softmax_rows<T: Scalar>(columns: usize, rows: &mut [T]) {
        rows.chunks_exact_mut(columns.max(1)).for_each(softmax_row);
    }
}

/// Keeps NaN, so that it shows in the loss.
#[inline(always)]
fn relu<T: Scalar>(x: T) -> T {
    if x < T::ZERO { T::ZERO } else { x }
}

#[inline(always)]
fn relu_gradient<T: Scalar>(output: T, gradient: T) -> T {
    if output > T::ZERO { gradient } else { T::ZERO }
}

#[inline(always)]
fn sigmoid<T: Scalar>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exponential())
}

#[inline(always)]
fn leaky_relu<T: Scalar>(x: T) -> T {
    if x < T::ZERO { x * T::from_f64(LEAK) } else { x }
}

#[inline(always)]
fn leaky_relu_gradient<T: Scalar>(output: T, gradient: T) -> T {
    if output > T::ZERO {
        gradient
    } else {
        gradient * T::from_f64(LEAK)
    }
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|): nothing overflows.
#[inline(always)]
fn softplus<T: Scalar>(x: T) -> T {
    let size = if x < T::ZERO { x } else { -x };
    relu(x) + size.exponential().logarithm_of_one_plus()
}

/// The derivative is the sigmoid of x, and y = -ln(1 - sigmoid x): 1 - e^-y, which would be 0 where y is small.
#[inline(always)]
fn softplus_gradient<T: Scalar>(y: T, gradient: T) -> T {
    let tangent = (y * T::from_f64(0.5)).hyperbolic_tangent();
    gradient * ((tangent + tangent) / (T::ONE + tangent))
}

#[inline(always)]
fn map<T: Scalar>(bias: Option<&[T]>, outputs: &mut [T], function: impl Fn(T) -> T) {
    let Some(bias) = bias else {
        return outputs.iter_mut().for_each(|value| *value = function(*value));
    };
    for row in outputs.chunks_exact_mut(bias.len().max(1)) {
        for (value, &bias) in row.iter_mut().zip(bias) {
            *value = function(*value + bias);
        }
    }
}

#[inline(always)]
fn scale_and_sum<T: Scalar>(outputs: &[T], gradient: &mut [T], sums: Option<&mut [T]>, function: impl Fn(T, T) -> T) {
    let Some(sums) = sums else {
        let pairs = outputs.iter().zip(gradient);
        return pairs.for_each(|(&output, gradient)| *gradient = function(output, *gradient));
    };
    sums.fill(T::ZERO);
    let columns = sums.len().max(1);
    for (outputs, gradient) in outputs.chunks_exact(columns).zip(gradient.chunks_exact_mut(columns)) {
        for ((&output, gradient), sum) in outputs.iter().zip(gradient).zip(&mut *sums) {
            *gradient = function(output, *gradient);
            *sum += *gradient;
        }
    }
}

/// Softmax of one row, less its largest element first so that nothing overflows.
#[inline(always)]
pub(in crate::kernels) fn softmax_row<T: Scalar>(row: &mut [T]) {
    let largest = row.iter().copied().fold(row[0], |a, b| if b > a { b } else { a });
    let mut sum = T::ZERO;
    for value in row.iter_mut() {
        *value = (*value - largest).exponential();
        sum += *value;
    }
    let scale = T::ONE / sum;
    row.iter_mut().for_each(|value| *value *= scale);
}

/// The Jacobian of softmax is diag(y) - y y^T, so the gradient is y * (g - <g, y>).
#[inline(always)]
fn softmax_row_backward<T: Scalar>((outputs, gradient): (&[T], &mut [T])) {
    let mut inner = T::ZERO;
    for (&output, &gradient) in outputs.iter().zip(&*gradient) {
        inner += output * gradient;
    }
    for (&output, gradient) in outputs.iter().zip(gradient) {
        *gradient = output * (*gradient - inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    fn numbers(count: usize, scale: f32) -> Vec<f32> {
        (0..count)
            .map(|index| ((index * 7_919 % 2_003) as f32 / 1_000.0 - 1.0) * scale)
            .collect()
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn softplus_has_a_gradient_far_below_0() {
        for x in [-80.0, -30.0, -17.0, -1.0, 0.0, 3.0, 200.0_f32] {
            let (mut outputs, mut gradient) = ([x], [1.0]);
            forward(Level::best(), Activation::Softplus, 1, None, &mut outputs);
            backward(Level::best(), Activation::Softplus, 1, &outputs, &mut gradient, None);
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            let error = (f64::from(gradient[0]) / expected - 1.0).abs();
            assert!(error < 1e-6, "{x}: {} but {expected}", gradient[0]);
        }
    }

    #[test]
    fn all_levels_give_the_same_bits() {
        for activation in Activation::ALL {
            for columns in [1, 7, 10, 64, 131] {
                let run = |level: Level| {
                    let mut outputs = numbers(columns * 9, 20.0);
                    forward(level, activation, columns, Some(&numbers(columns, 1.0)), &mut outputs);
                    let (mut gradient, mut sums) = (numbers(columns * 9, 3.0), vec![f32::NAN; columns]);
                    let mut plain = gradient.clone();
                    backward(level, activation, columns, &outputs, &mut gradient, Some(&mut sums));
                    backward(level, activation, columns, &outputs, &mut plain, None);
                    assert_eq!(bits(&gradient), bits(&plain));
                    softmax_rows(level, columns, &mut outputs);
                    [bits(&outputs), bits(&gradient), bits(&sums)]
                };
                for level in Level::available() {
                    assert_eq!(run(level), run(Level::PORTABLE), "{activation:?} {columns} {level:?}");
                }
            }
        }
    }

    #[test]
    fn relu_and_its_gradient() {
        let mut outputs = [1.0, -2.0, -3.0, 0.5];
        forward(Level::best(), Activation::Relu, 2, Some(&[0.5, 1.0]), &mut outputs);
        assert_eq!(outputs, [1.5, 0.0, 0.0, 1.5]);
        let (mut gradient, mut sums) = ([1.0, 2.0, 3.0, 4.0], [9.0; 2]);
        backward(
            Level::best(),
            Activation::Relu,
            2,
            &outputs,
            &mut gradient,
            Some(&mut sums),
        );
        assert_eq!((gradient, sums), ([1.0, 0.0, 0.0, 4.0], [1.0, 4.0]));
    }

    #[test]
    fn softmax_of_large_numbers_is_a_distribution() {
        let mut row = [1e30f32, 1e30, -1e30];
        softmax_rows(Level::best(), 3, &mut row);
        assert_eq!(row, [0.5, 0.5, 0.0]);
    }
}
