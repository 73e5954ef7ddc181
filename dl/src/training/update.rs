//! What is done with gradients: a lane's are limited, their sum is applied to a shard.

use std::ops::Range;

use distdl_engine::{ShardValues, StepReport};

use super::{TrainingOptions, from_tallies};
use crate::error::{Error, Result};
use crate::kernels::sums::sum_of_squares;
use crate::layer::Statistics;

/// The update of one shard: the optimizer's, but for running statistics.
pub(super) struct Update {
    options: TrainingOptions,
    /// The first step that was applied with the optimizer's state at 0.
    state_begin: u64,
    /// What the schedule's learning rate is multiplied with.
    rate_factor: f32,
    /// Parts of the shard, and the momentum of those that are running statistics.
    parts: Vec<(Range<usize>, Option<f64>)>,
}

impl Update {
    /// For the shard that `range` is, of parameters among which are `statistics`.
    pub(super) fn new(
        options: TrainingOptions,
        state_begin: u64,
        statistics: &[Statistics],
        range: Range<usize>,
    ) -> Self {
        let parts = parts(statistics, range.clone()).into_iter();
        let within = |part: Range<usize>| part.start - range.start..part.end - range.start;
        Self {
            options,
            state_begin,
            rate_factor: 1.0,
            parts: parts.map(|(part, momentum)| (within(part), momentum)).collect(),
        }
    }

    pub(super) fn with_rate_factor(self, rate_factor: f32) -> Self {
        Self { rate_factor, ..self }
    }

    /// Applies the summed gradients of a step whose loss is finite.
    pub(super) fn apply(&self, step: &StepReport, gradient_sum: &[f32], shard: &mut ShardValues<'_>) -> Result<()> {
        let report = from_tallies(step.tallies);
        if !report.is_finite() {
            return Err(Error::NotFinite {
                step: step.step,
                what: "the loss",
                value: report.loss_sum,
            });
        }
        if report.samples == 0 {
            keep(shard);
            return Ok(());
        }
        let scale = 1.0 / report.samples as f32;
        let rate = self.options.schedule.learning_rate(step.step) * self.rate_factor;
        let update = step.step - self.state_begin;
        for (range, momentum) in &self.parts {
            let (sum, mut part) = (&gradient_sum[range.clone()], shard.part(range.clone()));
            match momentum {
                Some(momentum) => move_statistics(*momentum as f32, scale, sum, &mut part),
                None => self.options.optimizer.apply(update, rate, scale, sum, &mut part)?,
            }
        }
        Ok(())
    }
}

/// The parts of a range of parameters, in order, and the momentum of those that are running statistics.
fn parts(statistics: &[Statistics], whole: Range<usize>) -> Vec<(Range<usize>, Option<f64>)> {
    let (mut parts, mut begin) = (Vec::with_capacity(2 * statistics.len() + 1), whole.start);
    for Statistics { range, momentum } in statistics {
        let range = range.start.clamp(begin, whole.end)..range.end.clamp(begin, whole.end);
        parts.push((begin..range.start, None));
        parts.push((range.clone(), Some(*momentum)));
        begin = range.end;
    }
    parts.push((begin..whole.end, None));
    parts.retain(|(range, _)| !range.is_empty());
    parts
}

/// Moves running statistics towards the mean over the step's rows, of which `sum` is the sum.
fn move_statistics(momentum: f32, scale: f32, sum: &[f32], shard: &mut ShardValues<'_>) {
    for ((after, before), sum) in shard.after.iter_mut().zip(shard.before).zip(sum) {
        *after = before + momentum * (sum * scale - before);
    }
    keep_state(shard);
}

/// Leaves all as it is: what a step without samples does, which can only be where updates come in any order, and all that came
/// were those of lanes that have run out before others.
fn keep(shard: &mut ShardValues<'_>) {
    shard.after.copy_from_slice(shard.before);
    keep_state(shard);
}

fn keep_state(shard: &mut ShardValues<'_>) {
    for slot in shard.state.iter_mut() {
        slot.after.copy_from_slice(slot.before);
    }
}

/// The parameters that gradients change.
pub(super) fn learnt(statistics: &[Statistics], count: usize) -> Vec<Range<usize>> {
    let parts = parts(statistics, 0..count).into_iter();
    parts
        .filter(|(_, momentum)| momentum.is_none())
        .map(|(range, _)| range)
        .collect()
}

/// Scales the sum of the gradients of `samples` samples by `learnt` parameters so that the norm of their mean is at most
/// `norm_max`. A gradient that is not finite stays as it is, so that it is found.
pub(super) fn limit_norm(norm_max: f32, samples: u64, learnt: &[Range<usize>], gradient_sum: &mut [f32]) {
    let squares = learnt.iter().map(|range| sum_of_squares(&gradient_sum[range.clone()]));
    let norm = squares.sum::<f64>().sqrt() / samples.max(1) as f64;
    // The small number is PyTorch's.
    let factor = (f64::from(norm_max) / (norm + 1e-6)) as f32;
    if norm.is_finite() && factor < 1.0 {
        for range in learnt {
            gradient_sum[range.clone()]
                .iter_mut()
                .for_each(|value| *value *= factor);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use distdl_engine::{Parameters, Tallies};

    use super::*;

    #[test]
    fn a_step_without_samples_changes_nothing() {
        let statistics = [Statistics {
            range: 1..2,
            momentum: 0.5,
        }];
        let options = TrainingOptions {
            optimizer: std::sync::Arc::new(crate::Adam::default()),
            ..TrainingOptions::default()
        };
        let parameters = Parameters::with_state(vec![3.0, 4.0, 5.0], 2).unwrap();
        let update = Update::new(options, 0, &statistics, 0..3);
        for (step, samples) in [(0, 2.0), (1, 0.0)] {
            let mut claimed = parameters.claim(step + 1, 0..3).unwrap();
            let tallies = Tallies([1.0, 0.0, samples, 0.0]);
            let sum = if samples > 0.0 { [1.0, 2.0, 3.0] } else { [0.0; 3] };
            let step = StepReport { step, tallies };
            update.apply(&step, &sum, &mut claimed.values()).unwrap();
            assert!(claimed.finish_with_state());
        }
        let (before, after) = (parameters.read(1).unwrap(), parameters.read(2).unwrap());
        assert_eq!(before[..], after[..]);
        assert_ne!(after[..], [3.0, 4.0, 5.0]);
        for slot in 0..2 {
            assert_eq!(before.state(slot).unwrap(), after.state(slot).unwrap());
        }
    }

    #[test]
    fn parts_are_the_whole_in_order() {
        let statistics = [2..4, 4..5, 8..9].map(|range| Statistics { range, momentum: 0.5 });
        let found = |whole| {
            let parts = parts(&statistics, whole).into_iter();
            parts
                .map(|(range, momentum)| (range, momentum.is_some()))
                .collect::<Vec<_>>()
        };
        let all = [
            (0..2, false),
            (2..4, true),
            (4..5, true),
            (5..8, false),
            (8..9, true),
            (9..12, false),
        ];
        assert_eq!(found(0..12), all);
        assert_eq!(found(3..6), [(3..4, true), (4..5, true), (5..6, false)]);
        assert_eq!(found(6..7), [(6..7, false)]);
        assert_eq!(found(8..9), [(8..9, true)]);
        assert_eq!(found(10..10), []);
    }

    #[test]
    fn a_limit_leaves_statistics_alone_and_what_is_not_finite() {
        let statistics = [Statistics {
            range: 1..2,
            momentum: 0.5,
        }];
        let mut gradient = [6.0, 100.0, 8.0];
        let learnt = learnt(&statistics, 3);
        limit_norm(1.0, 2, &learnt, &mut gradient);
        assert_eq!(gradient[1], 100.0);
        let norm = gradient[0].hypot(gradient[2]) / 2.0;
        assert!((norm - 1.0).abs() < 1e-5, "{gradient:?}");
        let mut infinite = [f32::INFINITY, 1.0, 1.0];
        limit_norm(1.0, 1, &learnt, &mut infinite);
        assert_eq!(infinite, [f32::INFINITY, 1.0, 1.0]);
    }
}
