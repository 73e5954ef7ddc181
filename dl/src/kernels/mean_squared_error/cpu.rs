//! One row after the other; within a row the squares are summed in ascending order.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use crate::kernels::softmax_cross_entropy::argument_of_largest;
use crate::metrics::BatchReport;
use crate::scalar::Scalar;

dispatched! {
    pub(super) fn forward_backward<T: Scalar>(
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
            report.loss_sum += row_loss(outputs, targets.iter().copied(), gradient);
            report.samples += 1;
        }
        report
    }
}

dispatched! {
    pub(super) fn forward_backward_labels<T: Scalar>(
        outputs: &[T],
        labels: &[u32],
        columns: usize,
        gradient: &mut [T],
    ) -> BatchReport {
        let mut report = BatchReport { samples: labels.len() as u64, ..BatchReport::default() };
        let rows = outputs.chunks_exact(columns.max(1)).zip(gradient.chunks_exact_mut(columns.max(1)));
        for ((outputs, gradient), &label) in rows.zip(labels) {
            let label = label as usize;
            let one_hot = (0..columns).map(|column| if column == label { T::ONE } else { T::ZERO });
            report.loss_sum += row_loss(outputs, one_hot, gradient);
            report.correct += u64::from(argument_of_largest(outputs).0 == label);
        }
        report
    }
}

#[inline(always)]
fn row_loss<T: Scalar>(outputs: &[T], targets: impl Iterator<Item = T>, gradient: &mut [T]) -> f64 {
    let scale = T::from_f64(2.0 / outputs.len() as f64);
    let mut squares = 0.0;
    for ((&output, target), gradient) in outputs.iter().zip(targets).zip(gradient) {
        let difference = output - target;
        *gradient = difference * scale;
        squares += difference.to_f64() * difference.to_f64();
    }
    squares / outputs.len() as f64
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
        let run = |level| {
            let (mut values, mut one_hot) = (vec![f32::NAN; 130], vec![f32::NAN; 130]);
            let first = forward_backward(level, &outputs, &targets, 10, &mut values);
            let second = forward_backward_labels(level, &outputs, &labels, 10, &mut one_hot);
            values.extend(one_hot);
            (
                first,
                second,
                values.iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
            )
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::PORTABLE), "{level:?}");
        }
    }
}
