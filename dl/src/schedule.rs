//! The learning rate as a function of the step.

use serde::{Deserialize, Serialize};

/// A learning-rate schedule; a pure function of the step, so that resuming needs no state of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Schedule {
    /// The same at each step.
    Constant(f32),
    /// `initial` * `factor`^(step / `steps`), the division rounded down.
    StepDecay {
        /// The rate of the first steps.
        initial: f32,
        /// What the rate is multiplied with each time.
        factor: f32,
        /// After how many steps; 0 means never.
        steps: u64,
    },
}

impl Schedule {
    /// The learning rate of a 0-based step.
    pub fn learning_rate(self, step: u64) -> f32 {
        match self {
            Schedule::Constant(rate) => rate,
            Schedule::StepDecay { initial, factor, steps } => {
                let times = step.checked_div(steps).unwrap_or(0);
                initial * power(factor, times)
            }
        }
    }
}

/// `factor`^`times` by squaring: a fixed order of multiplications, the same on every machine.
fn power(mut factor: f32, mut times: u64) -> f32 {
    let mut product = 1.0;
    while times > 0 {
        if times % 2 == 1 {
            product *= factor;
        }
        factor *= factor;
        times /= 2;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(Schedule::Constant(0.1).learning_rate(1_000_000), 0.1);
        let decay = Schedule::StepDecay {
            initial: 1.0,
            factor: 0.5,
            steps: 10,
        };
        assert_eq!(
            [0, 9, 10, 39].map(|step| decay.learning_rate(step)),
            [1.0, 1.0, 0.5, 0.125]
        );
        assert_eq!(decay.learning_rate(u64::MAX), 0.0);
        assert_eq!(
            Schedule::StepDecay {
                initial: 0.2,
                factor: 0.5,
                steps: 0
            }
            .learning_rate(99),
            0.2
        );
    }
}
