//! One row after the other.
#![allow(unsafe_code)] // the dispatch macro calls functions that need CPU features

use super::Smoothed;
use crate::metrics::BatchReport;
use crate::scalar::Scalar;

dispatched! {
    pub(super) fn forward_backward<T: Scalar>(
        logits: &[T],
        labels: &[u32],
        classes: usize,
        gradient: &mut [T],
    ) -> BatchReport {
        let (mut loss_sum, mut correct) = (0.0, 0);
        let rows = logits.chunks_exact(classes.max(1)).zip(gradient.chunks_exact_mut(classes.max(1)));
        for ((logits, gradient), &label) in rows.zip(labels) {
            let label = label as usize;
            let (best, largest) = argument_of_largest(logits);
            let sum = exponentials(logits, largest, gradient);
            let scale = T::ONE / sum;
            gradient.iter_mut().for_each(|value| *value *= scale);
            gradient[label] -= T::ONE;
            let loss = libm::log(sum.to_f64()) + (largest.to_f64() - logits[label].to_f64());
            loss_sum += loss;
            // What is not a number is not right either.
            correct += u64::from(best == label && !loss.is_nan());
        }
        BatchReport { loss_sum, correct: Some(correct), samples: labels.len() as u64, weight: labels.len() as f64 }
    }
}

dispatched! {
    // With t the targets of a row, which may sum up to anything: the gradient by the logits is softmax * sum of t - t.
    pub(super) fn smoothed<T: Scalar>(
        targets: &Smoothed<'_>,
        logits: &[T],
        labels: &[u32],
        classes: usize,
        gradient: &mut [T],
    ) -> BatchReport {
        let (mut loss_sum, mut correct, mut weight_sum) = (0.0, 0, 0.0);
        let weights = targets.weights(classes);
        let (spread, kept) = targets.shares(classes);
        let rows = logits.chunks_exact(classes.max(1)).zip(gradient.chunks_exact_mut(classes.max(1)));
        for ((logits, gradient), &label) in rows.zip(labels) {
            let label = label as usize;
            let (best, largest) = argument_of_largest(logits);
            let sum = exponentials(logits, largest, gradient);
            let (scale, weight) = (T::ONE / sum, targets.weight(label));
            let total = T::from_f64(kept * weight + spread * weights);
            let (log_sum, mut loss) = (libm::log(sum.to_f64()), 0.0);
            for (class, (value, logit)) in gradient.iter_mut().zip(logits).enumerate() {
                let own = if class == label { kept * weight } else { 0.0 };
                let target = own + spread * targets.weight(class);
                *value = *value * scale * total - T::from_f64(target);
                // What does not count may be infinite.
                if target > 0.0 {
                    loss += target * (log_sum + (largest.to_f64() - logit.to_f64()));
                }
            }
            // The gradient of a row that does not count is no number then, either.
            if sum.to_f64().is_nan() {
                loss = f64::NAN;
            }
            loss_sum += loss;
            weight_sum += weight;
            correct += u64::from(best == label && !sum.to_f64().is_nan());
        }
        BatchReport { loss_sum, correct: Some(correct), samples: labels.len() as u64, weight: weight_sum }
    }
}

#[inline(always)]
fn exponentials<T: Scalar>(logits: &[T], largest: T, exponentials: &mut [T]) -> T {
    let mut sum = T::ZERO;
    for (exponential, &logit) in exponentials.iter_mut().zip(logits) {
        *exponential = (logit - largest).exponential();
    }
    exponentials.iter().for_each(|&exponential| sum += exponential);
    sum
}

/// The first index of the largest element, and that element.
#[inline(always)]
pub(crate) fn argument_of_largest<T: Scalar>(row: &[T]) -> (usize, T) {
    let mut best = (0, row[0]);
    for (index, &value) in row.iter().enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Level;

    #[test]
    fn what_is_not_a_number_is_not_right() {
        for logits in [
            [f32::NAN, 1.0],
            [1.0, f32::NAN],
            [f32::NAN, f32::NAN],
            [f32::INFINITY, 0.0],
        ] {
            let report = forward_backward(Level::best(), &logits, &[0], 2, &mut [0.0; 2]);
            assert!(report.loss_sum.is_nan() && report.correct == Some(0), "{logits:?}");
        }
    }

    #[test]
    fn without_weights_and_smoothing_it_is_the_plain_loss() {
        let logits: Vec<f32> = (0..130)
            .map(|index| (index * 7_919 % 2_003) as f32 / 99.0 - 10.0)
            .collect();
        let labels: Vec<u32> = (0..13).map(|row| row * 3 % 10).collect();
        let (mut expected, mut got) = (vec![f32::NAN; 130], vec![f32::NAN; 130]);
        let report = forward_backward(Level::best(), &logits, &labels, 10, &mut expected);
        for class_weights in [&[][..], &[1.0; 10]] {
            let plain = Smoothed {
                class_weights,
                label_smoothing: 0.0,
            };
            for level in Level::available() {
                assert_eq!(smoothed(level, &plain, &logits, &labels, 10, &mut got), report);
                assert_eq!(got, expected);
            }
        }
        let weights: Vec<f32> = (0..10).map(|class| class as f32 / 3.0).collect();
        let some = Smoothed {
            class_weights: &weights,
            label_smoothing: 0.3,
        };
        let portable = smoothed(Level::PORTABLE, &some, &logits, &labels, 10, &mut expected);
        for level in Level::available() {
            assert_eq!(smoothed(level, &some, &logits, &labels, 10, &mut got), portable);
            assert_eq!(got, expected, "{level:?}");
        }
    }

    #[test]
    fn all_levels_give_the_same_bits() {
        let logits: Vec<f32> = (0..130)
            .map(|index| ((index * 7_919 % 2_003) as f32 - 1_000.0) / 99.0)
            .collect();
        let labels: Vec<u32> = (0..13).map(|row| row * 3 % 10).collect();
        let run = |level| {
            let mut gradient = vec![f32::NAN; 130];
            let report = forward_backward(level, &logits, &labels, 10, &mut gradient);
            (report, gradient.iter().map(|value| value.to_bits()).collect::<Vec<_>>())
        };
        for level in Level::available() {
            assert_eq!(run(level), run(Level::PORTABLE), "{level:?}");
        }
    }

    #[test]
    fn large_logits_do_not_overflow_and_equal_ones_count_for_the_first() {
        let mut gradient = [0.0f32; 6];
        let report = forward_backward(
            Level::best(),
            &[1e4, -1e4, 0.0, 2.0, 2.0, 2.0],
            &[1, 0],
            3,
            &mut gradient,
        );
        assert_eq!((report.samples, report.correct), (2, Some(1)));
        assert!((report.loss_sum - 20_000.0 - 3f64.ln()).abs() < 1e-3);
        assert_eq!(gradient[..3], [1.0, -1.0, 0.0]);
    }
}
