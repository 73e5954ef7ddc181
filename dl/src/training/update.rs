//! What is done with the sum of gradients: it is applied to a shard.

use std::ops::Range;
use std::sync::Arc;

use distdl_engine::{ShardBefore, ShardUpdate, ShardValues, SquareSum, StepReport};

use super::failed::Failed;
use super::plan::TrainingPlan;
use super::{Decay, TrainingOptions, from_tallies};
use crate::error::{Error, Result, check_length};
use crate::kernels::lane_limit::factor_to;
use crate::layer::Statistics;
use crate::metrics::BatchReport;
use crate::network::{NeuralNetwork, show_unwritten};

/// The update of one shard: the optimizer's, but for running statistics.
pub(super) struct Update {
    plan: Arc<TrainingPlan>,
    ranges: Vec<GroupRange>,
    failed: Failed,
}

/// Contiguous parameters of one group within a shard, all learnt or all not.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupRange {
    /// Within the shard.
    pub(super) range: Range<usize>,
    /// Of running statistics; 0 of what is frozen.
    pub(super) momentum: Option<f64>,
    /// Where measures are wanted of every tensor, which one it belongs to; otherwise 0.
    pub(super) tensor: usize,
    /// What the optimizer does with it.
    pub(super) group: ParameterGroup,
}

/// What an optimizer does with some tensors and not with others.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ParameterGroup {
    /// Whether decay reaches them.
    pub(super) decays: bool,
    /// What the learning rate is multiplied with.
    pub(super) rate_factor: f32,
}

/// Parameters, the place of their tensor, and what is done with them.
type Tensor = (Range<usize>, usize, ParameterGroup);

/// The tensors of a network that an optimizer treats one by one. Where it wants no measures of them, neighbours of a
/// group count as one.
fn tensors(network: &NeuralNetwork, options: &TrainingOptions) -> Vec<Tensor> {
    let are_weights = match options.decay {
        Decay::All => Vec::new(),
        Decay::Weights => network.are_weights(),
    };
    let entries = network.parameter_layout().entries().iter().enumerate();
    let tensors = entries.zip(network.layers_of_tensors()).map(|((place, entry), layer)| {
        let group = ParameterGroup {
            decays: are_weights.get(place).copied().unwrap_or(true),
            rate_factor: options.layer_rates.get(&layer).copied().unwrap_or(1.0),
        };
        (entry.range.clone(), place, group)
    });
    if options.optimizer.measures() > 0 {
        return tensors.collect();
    }
    let mut joined: Vec<Tensor> = Vec::new();
    for (range, _, group) in tensors {
        match joined.last_mut().filter(|(.., before)| *before == group) {
            Some((before, ..)) => before.end = range.end,
            None => joined.push((range, 0, group)),
        }
    }
    joined
}

/// How many sums the shards measure in each round of a step: one for the norm of the whole gradient if that is limited,
/// then those of the optimizer.
pub(super) fn measures(network: &NeuralNetwork, options: &TrainingOptions) -> Vec<usize> {
    let limit = options.gradient_norm_max.map(|_| 1);
    let own = options.optimizer.measures() * network.parameter_layout().entries().len();
    limit.into_iter().chain((own > 0).then_some(own)).collect()
}

/// The ranges of the shard that `whole` is of a network's parameters, in order.
pub(super) fn group_ranges(network: &NeuralNetwork, options: &TrainingOptions, whole: Range<usize>) -> Vec<GroupRange> {
    let (tensors, not_learnt) = (tensors(network, options).into_iter(), network.not_learnt());
    let all = tensors.flat_map(|(range, tensor, group)| {
        let within = |parameter: usize| parameter.clamp(whole.start, whole.end);
        let ranges = split_statistics(&not_learnt, within(range.start)..within(range.end));
        let ranges = ranges.into_iter();
        ranges.map(move |(range, momentum)| (range, momentum, tensor, group))
    });
    let ranges = all.map(|(range, momentum, tensor, group)| GroupRange {
        range: range.start - whole.start..range.end - whole.start,
        momentum,
        tensor,
        group,
    });
    ranges.collect()
}

/// Whether each tensor that an optimizer measures is one range: it may be cut where a layer has statistics within a
/// tensor.
pub(super) fn tensors_are_whole(network: &NeuralNetwork, options: &TrainingOptions) -> bool {
    let ranges = group_ranges(network, options, 0..network.parameter_count());
    let learnt = ranges.into_iter().filter(|range| range.momentum.is_none());
    let tensors = learnt.map(|range| range.tensor);
    // Ranges are in the order of their tensors.
    options.optimizer.measures() == 0 || tensors.is_sorted_by(|before, after| before < after)
}

impl Update {
    /// For the shard that `range` is of a network's parameters.
    pub(super) fn new(plan: Arc<TrainingPlan>, range: Range<usize>, failed: Failed) -> Self {
        Self {
            ranges: group_ranges(&plan.network, &plan.options, range),
            plan,
            failed,
        }
    }

    /// Adds up what is to be known of all shards before the step.
    fn add_measures(
        &self,
        round: usize,
        step: &StepReport,
        gradient_sum: &[f32],
        shard: &ShardBefore<'_>,
        measures: &mut [SquareSum],
    ) -> Result<()> {
        let report = from_tallies(step.tallies);
        check_finite(step, "the loss", report.loss_sum)?;
        if report.weight == 0.0 {
            return Ok(());
        }
        let learnt = self.ranges.iter().filter(|range| range.momentum.is_none());
        if round < own_measures(&self.plan.options) {
            learnt.for_each(|range| measures[0].add(&gradient_sum[range.range.clone()]));
            return Ok(());
        }
        let scale = gradient_scale(&self.plan.options, step, shard.totals)?;
        let (update, options) = (self.plan.update_of(step.step), &self.plan.options);
        let ([decaying, others], count) = (options.optimizers(), options.optimizer.measures());
        for GroupRange {
            range, tensor, group, ..
        } in learnt
        {
            let optimizer = if group.decays { &decaying } else { &others };
            let (sum, part) = (&gradient_sum[range.clone()], shard.part(range.clone()));
            let measures = &mut measures[tensor * count..][..count];
            optimizer.measure(update, scale, sum, &part, measures)?;
        }
        Ok(())
    }

    /// Applies the summed gradients of a step whose loss is finite.
    fn try_apply(&self, step: &StepReport, gradient_sum: &[f32], shard: &mut ShardValues<'_>) -> Result<()> {
        let report = from_tallies(step.tallies);
        let (totals, mean) = (shard.totals, 1.0 / report.samples as f32);
        let options = &self.plan.options;
        check_step(options, &self.ranges, step, totals)?;
        if report.weight == 0.0 {
            keep(shard);
            return Ok(());
        }
        let scale = gradient_scale(options, step, totals)?;
        let (rate, update) = (self.plan.learning_rate(step.step), self.plan.update_of(step.step));
        let (count, [decaying, others]) = (options.optimizer.measures(), options.optimizers());
        for GroupRange {
            range,
            momentum,
            tensor,
            group,
        } in &self.ranges
        {
            let optimizer = if group.decays { &decaying } else { &others };
            let rate = rate * group.rate_factor;
            let (sum, mut part) = (&gradient_sum[range.clone()], shard.part(range.clone()));
            part.totals = &totals[own_measures(options) + tensor * count..][..count];
            match momentum {
                Some(momentum) => move_statistics(*momentum as f32, mean, sum, &mut part),
                None => {
                    show_unwritten(part.after);
                    part.state.iter_mut().for_each(|slot| _ = show_unwritten(slot.after));
                    optimizer.apply(update, rate, scale, sum, &mut part)?;
                }
            }
        }
        Ok(())
    }
}

/// How many measures come before those of the optimizer.
pub(super) fn own_measures(options: &TrainingOptions) -> usize {
    usize::from(options.gradient_norm_max.is_some())
}

/// What the summed gradient is to be multiplied with: the mean over samples has it, and the limit of that one's norm.
fn gradient_scale(options: &TrainingOptions, step: &StepReport, totals: &[f64]) -> Result<f32> {
    let BatchReport { weight, .. } = from_tallies(step.tallies);
    let mean = 1.0 / weight as f32;
    let Some(norm_max) = options.gradient_norm_max else {
        return Ok(mean);
    };
    check_length("the measures of the gradient", 1, totals.len().min(1))?;
    let norm = totals[0].sqrt() / weight;
    check_finite(step, "the norm of the gradient", norm)?;
    Ok(mean * factor_to(norm_max, norm).min(1.0))
}

/// Errors unless the loss of a step is finite, and so is all that was measured of these ranges, if the step weighs
/// anything.
pub(super) fn check_step(
    options: &TrainingOptions,
    ranges: &[GroupRange],
    step: &StepReport,
    totals: &[f64],
) -> Result<()> {
    let report = from_tallies(step.tallies);
    check_finite(step, "the loss", report.loss_sum)?;
    if report.weight == 0.0 {
        return Ok(());
    }
    gradient_scale(options, step, totals)?;
    let count = options.optimizer.measures();
    for GroupRange { tensor, .. } in ranges.iter().filter(|range| range.momentum.is_none()) {
        let measured = &totals[own_measures(options) + tensor * count..][..count];
        measured
            .iter()
            .try_for_each(|total| check_finite(step, "what the optimizer measures", *total))?;
    }
    Ok(())
}

impl ShardUpdate for Update {
    fn measure(
        &mut self,
        round: usize,
        step: &StepReport,
        sum: &[f32],
        shard: &ShardBefore<'_>,
        measures: &mut [SquareSum],
    ) -> distdl_engine::Result<()> {
        self.add_measures(round, step, sum, shard, measures)
            .map_err(|error| self.failed.keep(error))
    }

    fn apply(&mut self, step: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>) -> distdl_engine::Result<()> {
        self.try_apply(step, sum, shard)
            .map_err(|error| self.failed.keep(error))
    }
}

fn check_finite(step: &StepReport, what: &'static str, value: f64) -> Result<()> {
    match value.is_finite() {
        true => Ok(()),
        false => Err(Error::NotFinite {
            step: step.step,
            what: what.into(),
            value,
            input: None,
        }),
    }
}

/// A range of parameters, split into what is learnt and what is not, in order, and the momentum of running statistics.
fn split_statistics(statistics: &[Statistics], whole: Range<usize>) -> Vec<(Range<usize>, Option<f64>)> {
    let (mut ranges, mut begin) = (Vec::with_capacity(2 * statistics.len() + 1), whole.start);
    for Statistics { range, momentum } in statistics {
        let range = range.start.clamp(begin, whole.end)..range.end.clamp(begin, whole.end);
        ranges.push((begin..range.start, None));
        ranges.push((range.clone(), Some(*momentum)));
        begin = range.end;
    }
    ranges.push((begin..whole.end, None));
    ranges.retain(|(range, _)| !range.is_empty());
    ranges
}

/// Moves running statistics towards the mean over the step's rows, of which `sum` is the sum.
fn move_statistics(momentum: f32, scale: f32, sum: &[f32], shard: &mut ShardValues<'_>) {
    if momentum == 0.0 {
        // The formula would make a 0 of a -0.
        return keep(shard);
    }
    for ((after, before), sum) in shard.after.iter_mut().zip(shard.before).zip(sum) {
        *after = before + momentum * (sum * scale - before);
    }
    keep_state(shard);
}

/// Leaves all as it is: what is frozen, and all in a step that weighs nothing. Such a step has samples of classes of
/// weight 0 only, or none, where updates come in any order and all that came were of lanes without samples in it.
fn keep(shard: &mut ShardValues<'_>) {
    shard.after.copy_from_slice(shard.before);
    keep_state(shard);
}

fn keep_state(shard: &mut ShardValues<'_>) {
    for slot in shard.state.iter_mut() {
        slot.after.copy_from_slice(slot.before);
    }
}

/// The parameters of a network that gradients change.
pub(super) fn learnt(network: &NeuralNetwork) -> Vec<Range<usize>> {
    let ranges = split_statistics(&network.not_learnt(), 0..network.parameter_count()).into_iter();
    ranges
        .filter(|(_, momentum)| momentum.is_none())
        .map(|(range, _)| range)
        .collect()
}

/// Parameters that are worth a shard of their own, which one thread applies.
const SHARD_MIN: usize = 1 << 20;

/// The most shards for each lane.
const SHARDS_OF_LANE_MAX: usize = 16;

/// How many shards there are: as many as lanes, and some times as many where there are many parameters, so that threads
/// without a lane apply some. It shows in no bit, and is the same in all processes, as it follows from the training
/// alone.
pub(super) fn shards(lanes: usize, parameters: usize) -> usize {
    lanes * (parameters / lanes.max(1) / SHARD_MIN).clamp(1, SHARDS_OF_LANE_MAX)
}

#[cfg(test)]
mod tests;
