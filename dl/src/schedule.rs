//! The learning rate as a function of the step.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::scalar::power;

/// A learning-rate schedule; a pure function of the step, so that resuming needs no state of it. Rates are computed in
/// f64 with operations that give the same bits on every machine.
///
/// An epoch has as many steps as there are samples, divided by [`batch`](crate::TrainingOptions::batch) and rounded up
/// ([`Training::steps_per_epoch`](crate::Training::steps_per_epoch)): 60,000 samples by 128 are 469 steps.
///
/// ```
/// use distdl_dl::Schedule;
///
/// let rates = |schedule: &Schedule, steps: [u64; 4]| steps.map(|step| schedule.learning_rate(step));
/// let decay = Schedule::StepDecay { initial: 0.8, factor: 0.5, steps: 100 };
/// assert_eq!(rates(&decay, [0, 99, 100, 200]), [0.8, 0.8, 0.4, 0.2]);
/// let milestones = Schedule::MultiStep { initial: 0.8, factor: 0.5, milestones: vec![10, 50] };
/// assert_eq!(rates(&milestones, [9, 10, 49, 50]), [0.8, 0.4, 0.4, 0.2]);
/// let cosine = Schedule::Cosine { initial: 1.0, minimum: 0.0, steps: 100 };
/// let warm_up = Schedule::WarmUp { start_factor: 0.0, steps: 10, then: Box::new(cosine) };
/// assert_eq!(rates(&warm_up, [0, 5, 10, 60]), [0.0, 0.5, 1.0, 0.5], "the cosine begins at step 10");
/// assert_eq!(warm_up.learning_rate(1_000_000), 0.0);
/// // Up in a line to step 4, down to step 8, then one rate from step 9 on.
/// let own = Schedule::Points(vec![(0, 0.0), (4, 1.0), (8, 0.5), (9, 0.125)]);
/// assert_eq!(rates(&own, [1, 6, 8, 9]), [0.25, 0.75, 0.5, 0.125]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Schedule {
    /// The same rate at each step.
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
    /// `initial`, multiplied with `factor` once for each milestone that the step has reached.
    MultiStep {
        /// The rate of the first steps.
        initial: f32,
        /// What the rate is multiplied with each time.
        factor: f32,
        /// The steps from which on it is, in any order.
        milestones: Vec<u64>,
    },
    /// `initial` * `factor`^step.
    Exponential {
        /// The rate of the first step.
        initial: f32,
        /// What the rate is multiplied with at each step.
        factor: f32,
    },
    /// Half a cosine from `initial` down to `minimum`, which is reached at step `steps` and kept: `minimum` +
    /// (`initial` - `minimum`) * (1 + cos(pi * step / `steps`)) / 2 (Loshchilov and Hutter, "SGDR", 2017, without
    /// restarts).
    Cosine {
        /// The rate of the first step.
        initial: f32,
        /// The rate at the end.
        minimum: f32,
        /// Length of the descent.
        steps: u64,
    },
    /// For `steps` steps the first rate of `then`, times a factor that grows in a line from `start_factor` to 1; behind
    /// them `then`, whose steps are counted from there.
    WarmUp {
        /// The factor of the first step.
        start_factor: f32,
        /// Length of the warm-up.
        steps: u64,
        /// What follows.
        then: Box<Schedule>,
    },
    /// A schedule of one's own: rates at some steps, which ascend. Between two of them the rate goes in a line; before
    /// the first it is that one's, and behind the last that one's. Two steps that follow each other make a jump, so
    /// this can be any function of the step. It is data and no closure, so that a checkpoint knows it.
    Points(Vec<(u64, f32)>),
}

impl Schedule {
    /// Errors if a rate or a factor is not finite, or is negative, or points are not in order.
    pub(crate) fn check(&self) -> Result<()> {
        if let Schedule::Points(points) = self {
            return check_points(points);
        }
        let numbers: &[(&str, f32)] = match self {
            Schedule::Constant(rate) => &[("the rate", *rate)],
            Schedule::StepDecay { initial, factor, .. }
            | Schedule::MultiStep { initial, factor, .. }
            | Schedule::Exponential { initial, factor } => &[("`initial`", *initial), ("`factor`", *factor)],
            Schedule::Cosine { initial, minimum, .. } => &[("`initial`", *initial), ("`minimum`", *minimum)],
            Schedule::WarmUp { start_factor, then, .. } => {
                then.check()?;
                &[("`start_factor`", *start_factor)]
            }
            Schedule::Points(_) => &[],
        };
        match numbers.iter().find(|(_, number)| !is_rate(*number)) {
            Some((what, number)) => Err(Error::Options(format!(
                "{what} of the schedule of learning rates is {number}; give a finite number from 0 on"
            ))),
            None => Ok(()),
        }
    }

    /// The learning rate of a 0-based step.
    pub fn learning_rate(&self, step: u64) -> f32 {
        match self {
            Schedule::Constant(rate) => *rate,
            Schedule::StepDecay { initial, factor, steps } => {
                times(*initial, *factor, step.checked_div(*steps).unwrap_or(0))
            }
            Schedule::MultiStep {
                initial,
                factor,
                milestones,
            } => {
                let reached = milestones.iter().filter(|milestone| **milestone <= step);
                times(*initial, *factor, reached.count() as u64)
            }
            Schedule::Exponential { initial, factor } => times(*initial, *factor, step),
            Schedule::Cosine {
                initial,
                minimum,
                steps,
            } => cosine((*initial).into(), (*minimum).into(), step, *steps),
            Schedule::WarmUp {
                start_factor,
                steps,
                then,
            } => match step.checked_sub(*steps) {
                Some(behind) => then.learning_rate(behind),
                None => {
                    let start = f64::from(*start_factor);
                    let factor = start + (1.0 - start) * (step as f64 / *steps as f64);
                    (f64::from(then.learning_rate(0)) * factor) as f32
                }
            },
            Schedule::Points(points) => between(points, step),
        }
    }
}

fn is_rate(number: f32) -> bool {
    number.is_finite() && number >= 0.0
}

fn check_points(points: &[(u64, f32)]) -> Result<()> {
    let problem = match points {
        [] => "has no points; give at least one step with its rate".to_owned(),
        _ if !points.is_sorted_by(|(before, _), (after, _)| before < after) => {
            "has points whose steps do not ascend; sort them, and give each step once".to_owned()
        }
        _ => match points.iter().find(|(_, rate)| !is_rate(*rate)) {
            Some((step, rate)) => format!("has a rate of {rate} at step {step}; give a finite number from 0 on"),
            None => return Ok(()),
        },
    };
    Err(Error::Options(format!("the schedule of learning rates {problem}")))
}

/// The rate of a step on the lines between points.
fn between(points: &[(u64, f32)], step: u64) -> f32 {
    let behind = points.partition_point(|(there, _)| *there <= step);
    let (before, after) = (
        behind.checked_sub(1).and_then(|before| points.get(before)),
        points.get(behind),
    );
    match (before, after) {
        (Some((begin, from)), Some((end, to))) => {
            let (from, to) = (f64::from(*from), f64::from(*to));
            (from + (to - from) * ((step - begin) as f64 / (end - begin) as f64)) as f32
        }
        (Some((_, rate)), None) | (None, Some((_, rate))) => *rate,
        // Refused before training begins.
        (None, None) => 0.0,
    }
}

fn cosine(initial: f64, minimum: f64, step: u64, steps: u64) -> f32 {
    if step >= steps {
        return minimum as f32;
    }
    // libm's, since that of the C library has other bits on other machines.
    let share = (1.0 + libm::cos(PI * (step as f64 / steps as f64))) / 2.0;
    (minimum + (initial - minimum) * share) as f32
}

fn times(initial: f32, factor: f32, times: u64) -> f32 {
    if initial == 0.0 {
        // Times infinity it would be no number.
        return 0.0;
    }
    (f64::from(initial) * power(factor.into(), times)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates<const STEPS: usize>(schedule: &Schedule, steps: [u64; STEPS]) -> [f32; STEPS] {
        steps.map(|step| schedule.learning_rate(step))
    }

    #[test]
    fn rates_by_steps() {
        assert_eq!(Schedule::Constant(0.1).learning_rate(1_000_000), 0.1);
        let decay = |steps| Schedule::StepDecay {
            initial: 1.0,
            factor: 0.5,
            steps,
        };
        assert_eq!(rates(&decay(10), [0, 9, 10, 39, u64::MAX]), [1.0, 1.0, 0.5, 0.125, 0.0]);
        assert_eq!(decay(0).learning_rate(99), 1.0);
        let several = Schedule::MultiStep {
            initial: 0.5,
            factor: 0.5,
            milestones: vec![7, 3],
        };
        assert_eq!(
            rates(&several, [0, 2, 3, 6, 7, 99]),
            [0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
        );
        let exponential = Schedule::Exponential {
            initial: 2.0,
            factor: 0.5,
        };
        assert_eq!(rates(&exponential, [0, 1, 4]), [2.0, 1.0, 0.125]);
    }

    #[test]
    fn nothing_grows_to_nothing() {
        let (initial, factor) = (0.0, 2.0);
        let steps = 1;
        let milestones = vec![0; 1100];
        for schedule in [
            Schedule::Exponential { initial, factor },
            Schedule::StepDecay { initial, factor, steps },
            Schedule::MultiStep {
                initial,
                factor,
                milestones,
            },
        ] {
            assert_eq!(rates(&schedule, [0, 1, 1100, u64::MAX]), [0.0; 4], "{schedule:?}");
        }
    }

    #[test]
    fn a_cosine_falls_from_its_first_rate_to_its_last() {
        let cosine = |steps| Schedule::Cosine {
            initial: 0.9,
            minimum: 0.1,
            steps,
        };
        assert_eq!(rates(&cosine(8), [0, 4, 8, 9, u64::MAX]), [0.9, 0.5, 0.1, 0.1, 0.1]);
        for step in 0..8 {
            let expected = 0.1 + 0.4 * (1.0 + (PI * step as f64 / 8.0).cos());
            assert!((f64::from(cosine(8).learning_rate(step)) - expected).abs() < 1e-7);
        }
        assert_eq!(cosine(0).learning_rate(0), 0.1);
    }

    #[test]
    fn rates_that_make_no_sense_are_refused() {
        let warm = |rate| Schedule::WarmUp {
            start_factor: 0.1,
            steps: 3,
            then: Box::new(Schedule::Constant(rate)),
        };
        assert!(warm(0.5).check().is_ok() && Schedule::Constant(0.0).check().is_ok());
        for rate in [f32::NAN, f32::INFINITY, -0.1] {
            let error = warm(rate).check().map_err(|error| error.to_string());
            assert!(error.is_err_and(|error| error.contains(&format!("is {rate}"))));
        }
    }

    #[test]
    fn points_are_joined_by_lines_and_kept_beyond_their_ends() {
        let points = Schedule::Points(vec![(10, 0.5), (14, 1.0), (15, 0.25), (u64::MAX, 0.25)]);
        assert_eq!(
            rates(&points, [0, 10, 11, 12, 14, 15, 99, u64::MAX]),
            [0.5, 0.5, 0.625, 0.75, 1.0, 0.25, 0.25, 0.25]
        );
        let one = Schedule::Points(vec![(7, 0.5)]);
        assert_eq!(rates(&one, [0, 7, 8]), [0.5; 3]);
        assert!(points.check().is_ok() && one.check().is_ok());
        for (points, says) in [
            (vec![], "has no points"),
            (vec![(3, 0.1), (3, 0.2)], "do not ascend"),
            (vec![(3, 0.1), (2, 0.2)], "do not ascend"),
            (vec![(3, 0.1), (4, -0.5)], "a rate of -0.5 at step 4"),
            (vec![(3, f32::NAN)], "a rate of NaN at step 3"),
        ] {
            let warm_up = Schedule::WarmUp {
                start_factor: 0.5,
                steps: 3,
                then: Box::new(Schedule::Points(points)),
            };
            let error = warm_up.check().map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(says)), "{error:?}");
        }
        let text = serde_json::to_string(&points).unwrap_or_default();
        assert_eq!(serde_json::from_str::<Schedule>(&text).ok(), Some(points));
    }

    #[test]
    fn a_warm_up_ends_where_the_schedule_behind_it_begins() {
        let then = Schedule::Exponential {
            initial: 0.8,
            factor: 0.5,
        };
        let warm_up = |steps| Schedule::WarmUp {
            start_factor: 0.25,
            steps,
            then: Box::new(then.clone()),
        };
        assert_eq!(rates(&warm_up(3), [0, 1, 2, 3, 4]), [0.2, 0.4, 0.6, 0.8, 0.4]);
        assert_eq!(rates(&warm_up(0), [0, 1]), [0.8, 0.4]);
    }
}
