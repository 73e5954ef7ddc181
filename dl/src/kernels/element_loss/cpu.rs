//! One row after the other; within a row the squares are summed in ascending order.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use super::ElementLoss;
use crate::kernels::softmax_cross_entropy::argument_of_largest;
use crate::metrics::BatchReport;
use crate::scalar::Scalar;

dispatched! {
    pub(super) fn forward_backward<T: Scalar>(
        loss: ElementLoss,
        outputs: &[T],
        targets: &[T],
        columns: usize,
        gradient: &mut [T],
    ) -> BatchReport {
        let mut report = BatchReport::default();
        let columns = columns.max(1);
        let targets = targets.chunks_exact(columns);
        let rows = outputs.chunks_exact(columns).zip(targets).zip(gradient.chunks_exact_mut(columns));
        for ((outputs, targets), gradient) in rows {
            report.loss_sum += row_loss(loss, outputs, targets.iter().copied(), gradient);
            report.samples += 1;
            report.weight += 1.0;
        }
        report
    }
}

dispatched! {
    pub(super) fn forward_backward_labels<T: Scalar>(
        loss: ElementLoss,
        outputs: &[T],
        labels: &[u32],
        columns: usize,
        gradient: &mut [T],
    ) -> BatchReport {
        let (mut loss_sum, mut correct) = (0.0, 0);
        let rows = outputs.chunks_exact(columns.max(1)).zip(gradient.chunks_exact_mut(columns.max(1)));
        let other = if loss == ElementLoss::Hinge { -T::ONE } else { T::ZERO };
        for ((outputs, gradient), &label) in rows.zip(labels) {
            let label = label as usize;
            let targets = (0..columns).map(|column| if column == label { T::ONE } else { other });
            let loss = row_loss(loss, outputs, targets, gradient);
            loss_sum += loss;
            // What is not a number is not right either.
            correct += u64::from(argument_of_largest(outputs).0 == label && !loss.is_nan());
        }
        BatchReport { loss_sum, correct: Some(correct), samples: labels.len() as u64, weight: labels.len() as f64 }
    }
}

#[inline(always)]
fn row_loss<T: Scalar>(loss: ElementLoss, outputs: &[T], targets: impl Iterator<Item = T>, gradient: &mut [T]) -> f64 {
    match loss {
        ElementLoss::Squared => sum_row(outputs, targets, gradient, squared),
        ElementLoss::Absolute => sum_row(outputs, targets, gradient, absolute),
        ElementLoss::Hinge => sum_row(outputs, targets, gradient, hinge),
        ElementLoss::BinaryCrossEntropy => sum_row(outputs, targets, gradient, binary_cross_entropy),
    }
}

/// The mean of `of`, which gives the loss of an output and its derivative.
#[inline(always)]
fn sum_row<T: Scalar>(
    outputs: &[T],
    targets: impl Iterator<Item = T>,
    gradient: &mut [T],
    of: impl Fn(T, T) -> (f64, T),
) -> f64 {
    let share = T::from_f64(1.0 / outputs.len() as f64);
    let mut sum = 0.0;
    for ((&output, target), gradient) in outputs.iter().zip(targets).zip(gradient) {
        let (loss, derivative) = of(output, target);
        *gradient = derivative * share;
        sum += loss;
    }
    sum / outputs.len() as f64
}

#[inline(always)]
fn squared<T: Scalar>(output: T, target: T) -> (f64, T) {
    let difference = output - target;
    (difference.to_f64() * difference.to_f64(), difference + difference)
}

#[inline(always)]
fn absolute<T: Scalar>(output: T, target: T) -> (f64, T) {
    let difference = output - target;
    let positive = if difference > T::ZERO { T::ONE } else { T::ZERO };
    let sign = if difference < T::ZERO { -T::ONE } else { positive };
    (difference.to_f64().abs(), sign)
}

#[inline(always)]
fn hinge<T: Scalar>(output: T, target: T) -> (f64, T) {
    let missing = T::ONE - target * output;
    // Keeps NaN, so that it shows in the loss.
    if missing < T::ZERO {
        (0.0, T::ZERO)
    } else {
        (missing.to_f64(), -target)
    }
}

/// max(x, 0) - x t + ln(1 + e^-|x|): nothing overflows.
#[inline(always)]
fn binary_cross_entropy<T: Scalar>(output: T, target: T) -> (f64, T) {
    let (x, t) = (output.to_f64(), target.to_f64());
    let above = if x < 0.0 { 0.0 } else { x };
    let loss = above - x * t + (-x.abs()).exponential().logarithm_of_one_plus();
    (loss, T::ONE / (T::ONE + (-output).exponential()) - target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    #[test]
    fn all_levels_give_the_same_bits() {
        let outputs: Vec<f32> = (0..130)
            .map(|index| ((index * 7_919 % 2_003) as f32 - 1_000.0) / 99.0)
            .collect();
        let targets: Vec<f32> = outputs.iter().rev().map(|value| value * 0.7).collect();
        let labels: Vec<u32> = (0..13).map(|row| row * 3 % 10).collect();
        for loss in ElementLoss::ALL {
            let run = |level| {
                let (mut values, mut one_hot) = (vec![f32::NAN; 130], vec![f32::NAN; 130]);
                let first = forward_backward(level, loss, &outputs, &targets, 10, &mut values);
                let second = forward_backward_labels(level, loss, &outputs, &labels, 10, &mut one_hot);
                values.extend(one_hot);
                (
                    first,
                    second,
                    values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
                )
            };
            for level in Level::available() {
                assert_eq!(run(level), run(Level::PORTABLE), "{loss:?} {level:?}");
            }
        }
    }
}
