//! What a batch says about the model.

use serde::{Deserialize, Serialize};

/// Loss and hits over some samples; reports of disjoint samples add up with [`BatchReport::merge`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchReport {
    /// Sum over samples of the loss of each; NaN or infinite if any is.
    pub loss_sum: f64,
    /// Samples whose largest output is at their label; 0 if the targets are values and not labels.
    pub correct: u64,
    /// Number of samples.
    pub samples: u64,
}

impl BatchReport {
    /// Adds another report. Floating-point sums depend on order: merge in the order of lane indices.
    pub fn merge(&mut self, other: &BatchReport) {
        self.loss_sum += other.loss_sum;
        self.correct += other.correct;
        self.samples += other.samples;
    }

    /// Mean loss per sample; NaN for no samples.
    pub fn mean_loss(&self) -> f64 {
        self.loss_sum / self.samples as f64
    }

    /// Share of samples that are right, 0 to 1; NaN for no samples.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples as f64
    }

    /// Whether the loss is a finite number.
    pub fn is_finite(&self) -> bool {
        self.loss_sum.is_finite()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_add_up() {
        let mut sum = BatchReport {
            loss_sum: 1.5,
            correct: 2,
            samples: 3,
        };
        sum.merge(&BatchReport {
            loss_sum: 0.5,
            correct: 1,
            samples: 1,
        });
        assert_eq!(
            sum,
            BatchReport {
                loss_sum: 2.0,
                correct: 3,
                samples: 4
            }
        );
        assert_eq!((sum.mean_loss(), sum.accuracy()), (0.5, 0.75));
        sum.merge(&BatchReport {
            loss_sum: f64::NAN,
            correct: 0,
            samples: 1,
        });
        assert!(!sum.is_finite());
    }
}
