//! What a GPU is asked for in a resident step: as a graph, or thing by thing.
#![allow(unsafe_code)] // asks for a graph, which has addresses in memory

use std::mem;
use std::ops::Range;

use distdl_engine::device::{GpuBuffer, GpuGraph, GpuSlice};
use distdl_engine::tree;

use super::super::order::SampleOrder;
use super::super::plan::TrainingPlan;
use super::super::update::GroupRange;
use super::graphs::{Graphs, StepCounts, StepGraph};
use super::measuring::Measuring;
use super::samples::SamplesOnGpu;
use crate::augmentation::Drawn;
use crate::error::{Error, Result};
use crate::kernels::augment::cuda::TRANSFORM_WORDS;
use crate::kernels::gather::cuda::SampleIndices;
use crate::kernels::lane_limit::cuda::LaneLimit;
use crate::kernels::sums::cuda::add;
use crate::kernels::update::cuda::{GpuScale, GpuShard, statistics};
use crate::layer::Draw;
use crate::network::{GpuWorkspace, PassRows, TALLY};

/// What resident steps follow.
pub(super) struct Rules {
    pub(super) plan: TrainingPlan,
    pub(super) rows_max: usize,
    /// All parameters.
    pub(super) ranges: Vec<GroupRange>,
}

impl Rules {
    /// Of a row of a lane in a step.
    pub(super) fn draw(&self, step: u64, lane: usize, first_row: u64) -> Draw {
        Draw {
            seed: self.plan.options.seed(),
            step,
            lane: lane as u64,
            first_row,
        }
    }
}

/// A lane, whose samples are there.
pub(super) struct StepLane {
    pub(super) samples: SamplesOnGpu,
    pub(super) order: SampleOrder,
    /// What is done to its rows, if anything is.
    pub(super) drawn: Option<Drawn>,
}

/// Submits resident steps to the GPU.
pub(super) struct StepSubmission<'a> {
    pub(super) rules: &'a Rules,
    pub(super) workspace: &'a GpuWorkspace,
    pub(super) partial_sums: &'a [GpuBuffer],
    pub(super) zeros: Option<&'a GpuBuffer>,
    pub(super) tallies: GpuSlice<'a>,
    pub(super) lanes: &'a [StepLane],
    pub(super) sample_indices: &'a [SampleIndices<'a>],
    /// Those indices in the host's memory.
    pub(super) sample_indices_of: &'a [Vec<u32>],
    /// Of each lane what is done to its rows; none if they stay as they are.
    pub(super) transforms: &'a [GpuSlice<'a>],
    pub(super) state: &'a [GpuSlice<'a>],
    pub(super) measuring: Option<&'a Measuring>,
    pub(super) lane_limit: Option<&'a LaneLimit>,
    /// The first of them.
    pub(super) first: u64,
    pub(super) graphs: &'a mut Graphs,
    /// The rows of each pass so far.
    pub(super) passes: Vec<PassRows>,
    pub(super) counts: &'a mut StepCounts,
}

impl StepSubmission<'_> {
    /// Asks for a step, with the rows of each lane: as a graph if there is one for those.
    pub(super) fn step(&mut self, step: u64, rows: &[Range<usize>]) -> Result<()> {
        let weighs = self.weighs(rows);
        let kind = self.graphs.of(rows, weighs);
        let Some(before) = kind.map(|kind| mem::take(&mut kind.graph)) else {
            self.counts.eager_steps += 1;
            return self.eager(step, rows);
        };
        let (gpu, passes) = (self.workspace.device().gpu(), self.passes.len());
        let (asked, after) = match before {
            StepGraph::New => (self.eager(step, rows), StepGraph::Warm),
            StepGraph::Eager => (self.eager(step, rows), StepGraph::Eager),
            StepGraph::Warm => {
                let graph = gpu.capture(|| self.eager(step, rows));
                // Nothing of that is done yet.
                self.passes.truncate(passes);
                match graph {
                    Ok(graph) => {
                        self.counts.graphs += 1;
                        self.replay(graph, step, rows, weighs)
                    }
                    Err(error) => {
                        let after = self.graphs.give_up(self.counts.fall_back(&error));
                        (self.eager(step, rows), after)
                    }
                }
            }
            StepGraph::Graph(graph) => self.replay(graph, step, rows, weighs),
        };
        match after {
            StepGraph::Graph(_) => self.counts.graph_steps += 1,
            _ => self.counts.eager_steps += 1,
        }
        if let Some(kind) = self.graphs.of(rows, weighs) {
            kind.graph = after;
        }
        asked
    }

    /// Whether any of these rows of lanes weighs anything.
    fn weighs(&self, rows: &[Range<usize>]) -> bool {
        let mut lanes = self.lanes.iter().zip(self.sample_indices_of).zip(rows);
        lanes.any(|((lane, sample_indices), rows)| lane.samples.rows(&sample_indices[rows.clone()]).weight > 0.0)
    }

    /// Asks for a step as a graph, or thing by thing if it is another than was captured, as where an optimizer does
    /// other things from some step on.
    fn replay(
        &mut self,
        mut graph: GpuGraph,
        step: u64,
        rows: &[Range<usize>],
        weighs: bool,
    ) -> (Result<()>, StepGraph) {
        let (gpu, passes) = (self.workspace.device().gpu(), self.passes.len());
        // SAFETY: buffers, cuBLAS and cuDNN are those of `ResidentBuffers`, and samples the lanes', which both wait for
        // the GPU before they end.
        let asked = unsafe { gpu.replay(&mut graph, || self.eager(step, rows)) };
        match asked {
            Ok(()) => (Ok(()), StepGraph::Graph(graph)),
            Err(error) => {
                // Nothing of that is done.
                self.passes.truncate(passes);
                let after = self.graphs.is_another(rows, weighs, self.counts.fall_back(&error));
                (self.eager(step, rows), after)
            }
        }
    }

    /// Asks for all of a step, thing by thing.
    fn eager(&mut self, step: u64, rows: &[Range<usize>]) -> Result<()> {
        let weight = self.gradient(0..rows.len(), step, rows, 0)?;
        let count = rows.iter().map(ExactSizeIterator::len).sum();
        match weight > 0.0 {
            true => self.update(step, PassRows { count, weight }),
            // It changes nothing.
            false => Ok(()),
        }
    }

    /// Applies the sum of the gradients of some samples.
    fn update(&self, step: u64, samples: PassRows) -> Result<()> {
        let Rules { plan, ranges, .. } = self.rules;
        let TrainingPlan { network, options, .. } = plan;
        let optimizers = options.optimizers();
        let [Some(decaying), Some(others)] = optimizers.each_ref().map(|optimizer| optimizer.on_gpu()) else {
            return Err(Error::Internal("the optimizer has no kernels for GPUs".into()));
        };
        let (workspace, index) = (self.workspace, (step - self.first) as usize);
        let (rate, update, device) = (plan.learning_rate(step), plan.update_of(step), workspace.device());
        let mean = 1.0 / samples.count as f32;
        let limits = options.gradient_norm_max.zip(self.measuring);
        let limit =
            limits.map(|(norm_max, measuring)| measuring.limit(index, (norm_max, samples.weight), network, workspace));
        let scale = GpuScale {
            factor: 1.0 / samples.weight as f32,
            limit: limit.transpose()?,
        };
        for GroupRange {
            range,
            momentum,
            tensor,
            group,
        } in ranges
        {
            let optimizer = if group.decays { decaying } else { others };
            let rate = rate * group.rate_factor;
            let slots: Vec<GpuSlice<'_>> = self.state.iter().map(|slot| slot.part(range.clone())).collect();
            let shard = GpuShard {
                gradient_sum: workspace.gradient().part(range.clone()),
                parameters: workspace.parameters().part(range.clone()),
                state: &slots,
                measures: self.measuring.and_then(|measuring| measuring.of_tensor(index, *tensor)),
            };
            match momentum {
                None => optimizer.apply_on_gpu(device, update, rate, scale, shard)?,
                Some(0.0) => {}
                Some(momentum) => statistics(device, mean, *momentum as f32, GpuShard { state: &[], ..shard })?,
            }
        }
        Ok(())
    }

    /// Has the workspace's gradient be the sum of those of some lanes, whose rows of the step are `rows`, and says what
    /// these weigh. Gradients wait in `partial_sums`, from `depth` on.
    fn gradient(&mut self, lanes: Range<usize>, step: u64, rows: &[Range<usize>], depth: usize) -> Result<f64> {
        let Some(middle) = tree::split(&lanes) else {
            return self.gradient_of(lanes.start, step, rows[lanes.start].clone(), depth);
        };
        let first = self.gradient(lanes.start..middle, step, rows, depth)?;
        self.save_partial_sum(depth)?;
        let second = self.gradient(middle..lanes.end, step, rows, depth + 1)?;
        let (partial_sum, workspace) = (self.partial_sums[depth].words(), self.workspace);
        add(workspace.device(), partial_sum, workspace.gradient())?;
        Ok(first + second)
    }

    /// Has the workspace's gradient be that of one lane, and says what its rows weigh.
    fn gradient_of(&mut self, lane: usize, step: u64, rows: Range<usize>, depth: usize) -> Result<f64> {
        let (device, gradient) = (self.workspace.device(), self.workspace.gradient());
        let rows_max = self.rules.rows_max;
        if rows.is_empty()
            && let Some(zeros) = self.zeros
        {
            device.gpu().copy(zeros.words(), gradient)?;
            return Ok(0.0);
        }
        let mut weight = 0.0;
        for first in rows.clone().step_by(rows_max) {
            let micro_batch = first..rows.end.min(first + rows_max);
            weight += self.pass(lane, step, micro_batch.clone(), (first - rows.start) as u64)?;
            match (first == rows.start, micro_batch.end == rows.end) {
                (true, true) => {}
                (true, false) => self.save_partial_sum(depth)?,
                (false, false) => add(device, gradient, self.partial_sums[depth].words())?,
                // As a sum the other way round: it has the same bits.
                (false, true) => add(device, self.partial_sums[depth].words(), gradient)?,
            }
        }
        if let Some((norm_max, limit)) = self.rules.plan.options.lane_gradient_norm_max.zip(self.lane_limit) {
            limit.apply(device, norm_max, weight, gradient)?;
        }
        Ok(weight)
    }

    /// Keeps the gradient while others are computed.
    fn save_partial_sum(&self, depth: usize) -> Result<()> {
        let gpu = self.workspace.device().gpu();
        Ok(gpu.copy(self.workspace.gradient(), self.partial_sums[depth].words())?)
    }

    /// One pass over some rows; says what they weigh.
    fn pass(&mut self, lane: usize, step: u64, rows: Range<usize>, first_row: u64) -> Result<f64> {
        let samples = &self.lanes[lane].samples;
        let pass = samples.rows(&self.sample_indices_of[lane][rows.clone()]);
        let sample_indices = self.sample_indices[lane].part(rows.clone());
        let transforms = self.transforms.get(lane);
        let transforms =
            transforms.map(|transforms| transforms.part(TRANSFORM_WORDS * rows.start..TRANSFORM_WORDS * rows.end));
        self.workspace.take_rows(samples.as_ref(), sample_indices, transforms)?;
        let draw = self.rules.draw(step, lane, first_row);
        let tally = TALLY * self.passes.len();
        let tallies = self.tallies.part(tally..tally + TALLY);
        self.rules
            .plan
            .network
            .pass_on_gpu(draw, pass.count, self.workspace, tallies)?;
        self.passes.push(pass);
        Ok(pass.weight)
    }
}
