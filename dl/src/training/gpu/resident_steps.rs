//! Resident steps on a GPU: of all lanes the gradients, their sum along the tree, and the optimizer's update.
//!
//! The host asks for some steps in a row and waits once, for what they report; then it fetches the parameters. If the
//! GPU is lost on the way, or a loss or a measure is not finite, the host still has the parameters that the first of
//! these steps has read.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use distdl_engine::device::{GpuPort, GpuSlice};
use distdl_engine::{Resident, ShardValues, StepReport, Tallies, tree};

use super::super::device::{LaneId, ResidentTraining};
use super::super::failed::Failed;
use super::super::lane_samples::LaneSamples;
use super::super::order::SampleOrder;
use super::super::plan::TrainingPlan;
use super::super::to_tallies;
use super::super::update::{check_step, group_ranges};
use super::graphs::StepCounts;
use super::measuring::MeasuringShape;
use super::resident_buffers::{ResidentBuffers, ResidentShape};
use super::shared_gpus::ChosenGpu;
use super::submission::{Rules, StepLane, StepSubmission};
use crate::augmentation::Drawn;
use crate::error::{Error, Result};
use crate::kernels::augment::TRANSFORM_LENGTH;
use crate::kernels::gather::cuda::{SampleIndices, SampleIndicesPort};
use crate::kernels::programs::GpuCounts;
use crate::metrics::BatchReport;
use crate::network::{PassRows, TALLY, WorkspaceShape};

/// Takes resident steps of a training on one GPU.
pub(super) struct ResidentSteps {
    chosen: ChosenGpu,
    /// There until this is dropped.
    buffers: Option<ResidentBuffers>,
    rules: Rules,
    lanes: Vec<StepLane>,
    /// The step that would read the parameters that are there.
    next: Option<u64>,
    failed: Failed,
}

/// What a resident step has reported.
struct StepOutcome {
    tallies: Tallies,
    /// What was measured of it.
    totals: Vec<f64>,
}

/// What was sent of each lane's rows.
#[derive(Default)]
struct Sent {
    /// Where they are among its samples.
    sample_indices_of: Vec<Vec<u32>>,
    /// Which of them are each step's.
    rows_of: Vec<Vec<Range<usize>>>,
}

impl ResidentSteps {
    /// On a GPU. `None` if not all samples can stay there.
    pub(super) fn new(chosen: ChosenGpu, training: ResidentTraining<'_>) -> Result<Option<Self>> {
        let gpu = &chosen.gpu;
        let TrainingPlan {
            network, deal, options, ..
        } = training.plan;
        let mut shapes = training.samples.iter().filter_map(LaneSamples::shape);
        let Some(shape) = shapes.next() else {
            return Ok(None);
        };
        let are_alike = shapes.all(|other| other == shape) && training.samples.iter().all(LaneSamples::are_alike);
        if !are_alike || !gpu.has_room(&training.samples) {
            return Ok(None);
        }
        let ranges = group_ranges(network, options, 0..network.parameter_count());
        let shares: Vec<usize> = (0..options.lanes).map(|lane| deal.share_max(lane)).collect();
        let share_max = shares.iter().copied().max().unwrap_or(0);
        let rows_max = options.micro_batch.map_or(share_max, |rows| rows.min(share_max));
        let shape = ResidentShape {
            workspace: WorkspaceShape {
                rows_max,
                // They are summed in the partial sums of lanes.
                micro_batches_max: 1,
                target_length: shape.target_length,
                has_gradient: true,
                augments: options.augmentation.is_some(),
            },
            are_bytes: shape.scale.is_some(),
            shares,
            slots: options.optimizer.state_slots(),
            limits_lanes: options.lane_gradient_norm_max.is_some(),
            measuring: MeasuringShape::new(network, options, &ranges),
        };
        // Dropped if not all samples can stay: lanes by themselves need the room.
        let buffers = gpu.resident_buffers(network, shape)?;
        let mut lanes = Vec::with_capacity(options.lanes);
        for (lane, mut samples) in training.samples.into_iter().enumerate() {
            let lane = LaneId {
                dataset: training.dataset,
                lanes: options.lanes,
                lane,
            };
            let Some(samples) = gpu.keep(&buffers.workspace, network, &mut samples, lane)? else {
                return Ok(None);
            };
            lanes.push(StepLane {
                samples,
                order: SampleOrder::new(&training.plan.orders),
                drawn: options.augmentation.map(Drawn::new),
            });
        }
        Ok(Some(Self {
            chosen,
            buffers: Some(buffers),
            rules: Rules {
                plan: training.plan.clone(),
                rows_max,
                ranges,
            },
            lanes,
            next: None,
            failed: training.failed.clone(),
        }))
    }

    /// Takes some of `steps`, and brings what they have come to to the host.
    fn run_some(
        &mut self,
        steps: Range<u64>,
        all: &mut ShardValues<'_>,
        counts: &mut StepCounts,
    ) -> Result<Vec<Tallies>> {
        let (rules, lanes) = (&self.rules, &mut self.lanes);
        let Some(buffers) = &mut self.buffers else {
            return Err(Error::Internal("a training that has ended was asked for a step".into()));
        };
        let until = steps.end;
        let mut steps = steps.start..until.min(steps.start + buffers.steps);
        let is_there = self.next.take() == Some(steps.start);
        let begun = Instant::now();
        if !is_there {
            buffers.send(all)?;
        }
        let sent = begun.elapsed();
        let mut outcomes = rules.run(steps.clone(), until, buffers, lanes, counts)?;
        let computed = begun.elapsed();
        if let Some((count, error)) = rules.first_refused(steps.start, &outcomes) {
            if count == 0 {
                return Err(error);
            }
            // Those before it count.
            steps.end = steps.start + count as u64;
            buffers.send(all)?;
            outcomes = rules.run(steps.clone(), until, buffers, lanes, counts)?;
        }
        let fetching = Instant::now();
        buffers.fetch(all)?;
        buffers.adapt(
            outcomes.len() as u64,
            (computed - sent).as_secs_f64(),
            (sent + fetching.elapsed()).as_secs_f64(),
        );
        self.next = Some(steps.end);
        Ok(outcomes.into_iter().map(|step| step.tallies).collect())
    }

    fn counts(&self) -> GpuCounts {
        let buffers = self.buffers.as_ref();
        buffers.map_or_else(GpuCounts::default, |buffers| buffers.workspace.device().counts())
    }
}

impl Resident for ResidentSteps {
    fn take(&mut self, steps: Range<u64>, all: &mut ShardValues<'_>) -> distdl_engine::Result<Vec<Tallies>> {
        let (before, mut counts, gpus) = (self.counts(), StepCounts::default(), Arc::clone(&self.chosen.gpus));
        let under_way = gpus.counted().begin();
        let tallies = self.run_some(steps, all, &mut counts);
        if tallies.is_ok() {
            under_way.count(counts.passes, [before, self.counts()]);
            gpus.counted().count_steps(counts);
        }
        drop(under_way);
        let tallies = self.chosen.unless_lost(tallies);
        tallies
            .map(Option::unwrap_or_default)
            .map_err(|error| self.failed.keep(error))
    }
}

impl Drop for ResidentSteps {
    /// Nothing that the GPU works on is freed before it is done.
    fn drop(&mut self) {
        if let Some(buffers) = self.buffers.take() {
            self.chosen.gpu.take_buffers_back(buffers);
        }
    }
}

impl Rules {
    /// The first of steps from `first` on whose update the host would refuse, counted from 0, and why.
    fn first_refused(&self, first: u64, outcomes: &[StepOutcome]) -> Option<(usize, Error)> {
        let refused = |(index, outcome): (usize, &StepOutcome)| {
            let report = StepReport {
                step: first + index as u64,
                tallies: outcome.tallies,
            };
            let checked = check_step(&self.plan.options, &self.ranges, &report, &outcome.totals);
            Some((index, checked.err()?))
        };
        outcomes.iter().enumerate().find_map(refused)
    }

    /// Takes steps, and waits for what they report. Meanwhile it draws for as many that follow, before step `until`.
    fn run(
        &self,
        steps: Range<u64>,
        until: u64,
        buffers: &mut ResidentBuffers,
        lanes: &mut [StepLane],
        counts: &mut StepCounts,
    ) -> Result<Vec<StepOutcome>> {
        let sent = self.send(steps.clone(), buffers, lanes)?;
        let passes = self.submit(steps.clone(), buffers, lanes, &sent, counts)?;
        counts.passes += passes.len() as u64;
        self.draw_ahead(steps.end..until.min(steps.end + (steps.end - steps.start)), lanes);
        self.reported((steps.end - steps.start) as usize, buffers, &sent, &passes)
    }

    /// Sends where the rows of steps are, and what is done to them.
    fn send(&self, steps: Range<u64>, buffers: &mut ResidentBuffers, lanes: &mut [StepLane]) -> Result<Sent> {
        let device = buffers.workspace.device();
        let mut sent = Sent::default();
        for ((index, lane), port) in lanes.iter_mut().enumerate().zip(&mut buffers.sample_indices) {
            let (sample_indices, rows) = self.sample_indices(index, lane, steps.clone());
            port.send(device, lane.samples.as_ref().rows, &sample_indices)?;
            sent.sample_indices_of.push(sample_indices);
            sent.rows_of.push(rows);
        }
        let lanes = lanes.iter_mut().zip(&sent.rows_of).enumerate();
        for ((index, (lane, rows)), port) in lanes.zip(&mut buffers.transforms) {
            port.send(device.gpu(), &self.transforms(index, lane, rows, steps.start))?;
        }
        Ok(sent)
    }

    /// Asks for steps whose rows were sent; gives the rows of each pass.
    fn submit(
        &self,
        steps: Range<u64>,
        buffers: &mut ResidentBuffers,
        lanes: &[StepLane],
        sent: &Sent,
        counts: &mut StepCounts,
    ) -> Result<Vec<PassRows>> {
        let sample_indices: Vec<SampleIndices<'_>> =
            buffers.sample_indices.iter().map(SampleIndicesPort::sent).collect();
        let transforms: Vec<GpuSlice<'_>> = buffers.transforms.iter().map(GpuPort::words).collect();
        let state: Vec<GpuSlice<'_>> = buffers.state.iter().map(GpuPort::words).collect();
        let mut submission = StepSubmission {
            rules: self,
            workspace: &buffers.workspace,
            partial_sums: &buffers.partial_sums,
            zeros: buffers.zeros.as_ref(),
            tallies: buffers.tallies.words(),
            lanes,
            sample_indices: &sample_indices,
            sample_indices_of: &sent.sample_indices_of,
            transforms: &transforms,
            state: &state,
            measuring: buffers.measuring.as_ref(),
            lane_limit: buffers.lane_limit.as_ref(),
            first: steps.start,
            graphs: &mut buffers.graphs,
            passes: Vec::new(),
            counts,
        };
        for (step, index) in steps.zip(0..) {
            let rows = sent.rows_of.iter().map(|rows: &Vec<Range<usize>>| rows[index].clone());
            let rows: Vec<Range<usize>> = rows.collect();
            submission.step(step, &rows)?;
        }
        Ok(submission.passes)
    }

    /// Waits for what so many steps report, by the rows of each pass that was asked for.
    fn reported(
        &self,
        count: usize,
        buffers: &mut ResidentBuffers,
        Sent { rows_of, .. }: &Sent,
        passes: &[PassRows],
    ) -> Result<Vec<StepOutcome>> {
        let gpu = buffers.workspace.device().gpu();
        let bytes = passes.len() * TALLY * size_of::<f32>();
        buffers.tallies.fetch(gpu, bytes)?;
        let mut totals = vec![Vec::new(); count];
        if let Some(measuring) = &mut buffers.measuring {
            measuring.fetch(gpu, count)?;
            totals = measuring.take(gpu, count)?;
        }
        let mut found = vec![[0.0_f64; 2]; passes.len()];
        bytemuck::cast_slice_mut(&mut found).copy_from_slice(&buffers.tallies.take(gpu)?[..bytes]);
        let mut reports = passes
            .iter()
            .zip(found)
            .map(|(rows, tallies)| buffers.workspace.shape().report(*rows, tallies));
        let mut of_step = |index: usize| {
            let mut of_lane = |lane: usize| {
                let micro_batches = rows_of[lane][index].len().div_ceil(self.rows_max);
                let mut total = BatchReport::default();
                reports
                    .by_ref()
                    .take(micro_batches)
                    .for_each(|report| total.merge(&report));
                to_tallies(total)
            };
            tree::fold(0..rows_of.len(), &mut of_lane, &mut Tallies::plus).unwrap_or_default()
        };
        let outcomes = totals.into_iter().enumerate().map(|(index, totals)| StepOutcome {
            tallies: of_step(index),
            totals,
        });
        Ok(outcomes.collect())
    }

    /// What is done to the rows of some steps of a lane, from `first` on; nothing if they stay as they are.
    fn transforms(
        &self,
        index: usize,
        lane: &mut StepLane,
        rows: &[Range<usize>],
        first: u64,
    ) -> Vec<[u64; TRANSFORM_LENGTH]> {
        let Some(drawn) = &mut lane.drawn else {
            return Vec::new();
        };
        let of_step = |(step, rows): (u64, &Range<usize>)| drawn.take(self.draw(step, index, 0), rows.len());
        (first..).zip(rows).flat_map(of_step).collect()
    }

    /// Draws what will be done to the rows of some steps.
    fn draw_ahead(&self, steps: Range<u64>, lanes: &mut [StepLane]) {
        for (index, lane) in lanes.iter_mut().enumerate() {
            let rows = |step: u64| self.plan.deal.range(index, self.plan.deal.epoch_and_step(step).1).len();
            if let Some(drawn) = &mut lane.drawn {
                drawn.draw_ahead(steps.clone().map(|step| (self.draw(step, index, 0), rows(step))));
            }
        }
    }

    /// Where the rows of some steps of a lane lie among its samples, and which of them are each step's.
    fn sample_indices(&self, index: usize, lane: &mut StepLane, steps: Range<u64>) -> (Vec<u32>, Vec<Range<usize>>) {
        let (mut sample_indices, mut rows) = (Vec::new(), Vec::new());
        for step in steps {
            let (epoch, step_of_epoch) = self.plan.deal.epoch_and_step(step);
            lane.order
                .begin(self.plan.options.seed(), epoch, index, self.plan.deal.lengths[index]);
            let begin = sample_indices.len();
            sample_indices.extend_from_slice(&lane.order[self.plan.deal.range(index, step_of_epoch)]);
            rows.push(begin..sample_indices.len());
        }
        (sample_indices, rows)
    }
}
