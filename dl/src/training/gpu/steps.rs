//! Whole steps on a GPU: of all lanes the gradients, their sum along the tree, and the optimizer's update.
//!
//! The host asks for some steps in a row and waits once, for what they report; then it fetches the parameters. If the GPU is
//! lost on the way, or a loss or a measure is not finite, the host still has the parameters that the first of these steps has read.
#![allow(unsafe_code)] // asks for a graph, which has places in memory

use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use distdl_engine::device::{GpuBuffer, GpuGraph, GpuPort, GpuSlice};
use distdl_engine::{Resident, ShardValues, StepReport, Tallies, tree};

use super::super::device::{LaneId, Whole};
use super::super::failed::Failed;
use super::super::lane_samples::LaneSamples;
use super::super::order::SampleOrder;
use super::super::update::{Part, check_step, parts_of_shard};
use super::super::{TrainingOptions, to_tallies};
use super::card::{Card, SamplesOnGpu};
use super::cards::Cards;
use super::graphs::{Graphs, StepCounts, StepGraph};
use super::measuring::{Measuring, MeasuringShape};
use super::residence::{Residence, ResidenceShape, TALLY};
use crate::deal::Deal;
use crate::error::{Error, Result};
use crate::kernels::gather::cuda::Places;
use crate::kernels::programs::DeviceCounts;
use crate::kernels::sums::cuda::add;
use crate::kernels::update::cuda::{GpuScale, GpuShard, statistics};
use crate::layer::Draw;
use crate::metrics::BatchReport;
use crate::network::{GpuWorkspace, NeuralNetwork, WorkspaceShape};

/// What takes whole steps of a training on one GPU.
pub(super) struct GpuSteps {
    cards: Arc<Cards>,
    card: Arc<Card>,
    /// There until this is dropped.
    residence: Option<Residence>,
    rules: Rules,
    lanes: Vec<StepLane>,
    /// The step that would read the parameters that are there.
    next: Option<u64>,
    failed: Failed,
}

/// What a step has reported.
struct Taken {
    tallies: Tallies,
    /// What was measured of it.
    totals: Vec<f64>,
}

/// What steps follow.
struct Rules {
    network: NeuralNetwork,
    deal: Deal,
    options: TrainingOptions,
    state_begin: u64,
    rate_factor: f32,
    rows_max: usize,
    /// All parameters.
    parts: Vec<Part>,
}

/// A lane, whose samples are there.
struct StepLane {
    samples: SamplesOnGpu,
    order: SampleOrder,
}

impl GpuSteps {
    /// On `card`. `None` if not all samples can stay there.
    pub(super) fn new(cards: &Arc<Cards>, card: &Arc<Card>, whole: Whole<'_>) -> Result<Option<Self>> {
        let Whole {
            network, deal, options, ..
        } = whole;
        let mut shapes = whole.samples.iter().filter_map(LaneSamples::shape);
        let Some(shape) = shapes.next() else {
            return Ok(None);
        };
        let are_alike = shapes.all(|other| other == shape) && whole.samples.iter().all(LaneSamples::are_alike);
        if !are_alike || !card.has_room(&whole.samples) {
            return Ok(None);
        }
        let parts = parts_of_shard(network, options, 0..network.parameter_count());
        let shares: Vec<usize> = (0..options.lanes).map(|lane| deal.share_max(lane)).collect();
        let share_max = shares.iter().copied().max().unwrap_or(0);
        let rows_max = options.micro_batch.map_or(share_max, |rows| rows.min(share_max));
        let shape = ResidenceShape {
            workspace: WorkspaceShape {
                rows_max,
                target_length: shape.target_length,
                has_gradient: true,
            },
            are_bytes: shape.scale.is_some(),
            shares,
            slots: options.optimizer.state_slots(),
            measuring: MeasuringShape::new(network, options, &parts),
        };
        // Dropped if not all samples can stay: lanes by themselves need the room.
        let residence = card.residence(network, shape)?;
        let mut lanes = Vec::with_capacity(options.lanes);
        for (lane, mut samples) in whole.samples.into_iter().enumerate() {
            let lane = LaneId {
                dataset: whole.dataset,
                lanes: options.lanes,
                lane,
            };
            let Some(samples) = card.keep(&residence.workspace, network, &mut samples, lane)? else {
                return Ok(None);
            };
            let order = SampleOrder::default();
            lanes.push(StepLane { samples, order });
        }
        Ok(Some(Self {
            cards: Arc::clone(cards),
            card: Arc::clone(card),
            residence: Some(residence),
            rules: Rules {
                network: network.clone(),
                deal: deal.clone(),
                options: options.clone(),
                state_begin: whole.state_begin,
                rate_factor: whole.rate_factor,
                rows_max,
                parts,
            },
            lanes,
            next: None,
            failed: whole.failed.clone(),
        }))
    }

    /// Takes some of `steps`, and brings what they have come to to the host.
    fn take_some(
        &mut self,
        steps: Range<u64>,
        all: &mut ShardValues<'_>,
        counts: &mut StepCounts,
    ) -> Result<Vec<Tallies>> {
        let (rules, lanes) = (&self.rules, &mut self.lanes);
        let Some(residence) = &mut self.residence else {
            return Err(Error::Internal("a training that has ended was asked for a step".into()));
        };
        let mut steps = steps.start..steps.end.min(steps.start + residence.steps);
        let is_there = self.next.take() == Some(steps.start);
        let begun = Instant::now();
        if !is_there {
            residence.send(all)?;
        }
        let sent = begun.elapsed();
        let mut taken = rules.take(steps.clone(), residence, lanes, counts)?;
        let computed = begun.elapsed();
        if let Some((count, error)) = rules.first_refused(steps.start, &taken) {
            if count == 0 {
                return Err(error);
            }
            // Those before it count.
            steps.end = steps.start + count as u64;
            residence.send(all)?;
            taken = rules.take(steps.clone(), residence, lanes, counts)?;
        }
        let fetching = Instant::now();
        residence.fetch(all)?;
        residence.adapt(
            taken.len() as u64,
            (computed - sent).as_secs_f64(),
            (sent + fetching.elapsed()).as_secs_f64(),
        );
        self.next = Some(steps.end);
        Ok(taken.into_iter().map(|step| step.tallies).collect())
    }

    fn counts(&self) -> DeviceCounts {
        let residence = self.residence.as_ref();
        residence.map_or_else(DeviceCounts::default, |residence| residence.workspace.device().counts())
    }
}

impl Resident for GpuSteps {
    fn take(&mut self, steps: Range<u64>, all: &mut ShardValues<'_>) -> distdl_engine::Result<Vec<Tallies>> {
        let (before, mut counts, cards) = (self.counts(), StepCounts::default(), Arc::clone(&self.cards));
        let under_way = cards.counted().begin();
        let taken = self.take_some(steps, all, &mut counts);
        if taken.is_ok() {
            under_way.count(counts.passes, [before, self.counts()]);
            cards.counted().count_steps(counts);
        }
        drop(under_way);
        let taken = self.cards.unless_lost(&self.card, taken);
        taken
            .map(Option::unwrap_or_default)
            .map_err(|error| self.failed.keep(error))
    }
}

impl Drop for GpuSteps {
    /// Nothing that the GPU works on is freed before it is done.
    fn drop(&mut self) {
        if let Some(residence) = self.residence.take() {
            self.card.take_residence_back(residence);
        }
    }
}

impl Rules {
    /// The first of steps from `first` on whose update the host would refuse, counted from 0, and why.
    fn first_refused(&self, first: u64, taken: &[Taken]) -> Option<(usize, Error)> {
        let refused = |(index, taken): (usize, &Taken)| {
            let report = StepReport {
                step: first + index as u64,
                tallies: taken.tallies,
            };
            let checked = check_step(&self.options, &self.parts, &report, &taken.totals);
            Some((index, checked.err()?))
        };
        taken.iter().enumerate().find_map(refused)
    }

    /// Takes steps, and waits for what they report.
    fn take(
        &self,
        steps: Range<u64>,
        residence: &mut Residence,
        lanes: &mut [StepLane],
        counts: &mut StepCounts,
    ) -> Result<Vec<Taken>> {
        let device = residence.workspace.device();
        let mut rows_of = Vec::with_capacity(lanes.len());
        let mut places = Vec::with_capacity(lanes.len());
        for ((index, lane), port) in lanes.iter_mut().enumerate().zip(&mut residence.places) {
            let (all, rows) = self.places(index, lane, steps.clone());
            places.push(Places::send(device, lane.samples.as_ref().rows, &all, port)?);
            rows_of.push(rows);
        }
        let state: Vec<GpuSlice<'_>> = residence.state.iter().map(GpuPort::words).collect();
        let mut asking = Asking {
            rules: self,
            workspace: &residence.workspace,
            held: &residence.held,
            zeros: residence.zeros.as_ref(),
            tallies: residence.tallies.words(),
            lanes,
            places: &places,
            state: &state,
            measuring: residence.measuring.as_ref(),
            first: steps.start,
            graphs: &mut residence.graphs,
            passes: Vec::new(),
            counts,
        };
        for (step, index) in steps.clone().zip(0..) {
            let rows = rows_of.iter().map(|rows: &Vec<Range<usize>>| rows[index].clone());
            let rows: Vec<Range<usize>> = rows.collect();
            asking.step(step, &rows)?;
        }
        let asked = asking.passes;
        counts.passes += asked.len() as u64;
        drop(places);
        let gpu = residence.workspace.device().gpu();
        let bytes = asked.len() * TALLY * size_of::<f32>();
        let count = (steps.end - steps.start) as usize;
        residence.tallies.fetch(gpu, bytes)?;
        let mut totals = vec![Vec::new(); count];
        if let Some(measuring) = &mut residence.measuring {
            measuring.fetch(gpu, count)?;
            totals = measuring.take(gpu, count)?;
        }
        let mut found = vec![[0.0_f64; 2]; asked.len()];
        bytemuck::cast_slice_mut(&mut found).copy_from_slice(&residence.tallies.take(gpu)?[..bytes]);
        let mut reports = asked
            .iter()
            .zip(found)
            .map(|(rows, tallies)| residence.workspace.report(*rows, tallies));
        let mut of_step = |index: usize| {
            let mut of_lane = |lane: usize| {
                let pieces = rows_of[lane][index].len().div_ceil(self.rows_max);
                let mut total = BatchReport::default();
                reports.by_ref().take(pieces).for_each(|report| total.merge(&report));
                to_tallies(total)
            };
            tree::fold(0..rows_of.len(), &mut of_lane, &mut Tallies::plus).unwrap_or_default()
        };
        let taken = totals.into_iter().enumerate().map(|(index, totals)| Taken {
            tallies: of_step(index),
            totals,
        });
        Ok(taken.collect())
    }

    /// Where the rows of some steps of a lane lie among its samples, and which of them are each step's.
    fn places(&self, index: usize, lane: &mut StepLane, steps: Range<u64>) -> (Vec<u32>, Vec<Range<usize>>) {
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for step in steps {
            let (epoch, step_of_epoch) = self.deal.place(step);
            lane.order
                .begin(self.options.seed(), epoch, index, self.deal.lengths[index]);
            let begin = places.len();
            places.extend_from_slice(&lane.order[self.deal.range(index, step_of_epoch)]);
            rows.push(begin..places.len());
        }
        (places, rows)
    }
}

/// Steps that the GPU is asked for.
struct Asking<'a> {
    rules: &'a Rules,
    workspace: &'a GpuWorkspace,
    held: &'a [GpuBuffer],
    zeros: Option<&'a GpuBuffer>,
    tallies: GpuSlice<'a>,
    lanes: &'a [StepLane],
    places: &'a [Places<'a>],
    state: &'a [GpuSlice<'a>],
    measuring: Option<&'a Measuring>,
    /// The first of them.
    first: u64,
    graphs: &'a mut Graphs,
    /// The rows of each pass so far.
    passes: Vec<usize>,
    counts: &'a mut StepCounts,
}

impl Asking<'_> {
    /// Asks for a step, with the rows of each lane: as a graph if there is one for those.
    fn step(&mut self, step: u64, rows: &[Range<usize>]) -> Result<()> {
        let Some(before) = self.graphs.of(rows).map(|kind| mem::take(&mut kind.graph)) else {
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
                        self.replay(graph, step, rows)
                    }
                    Err(error) => {
                        let after = self.graphs.give_up(self.counts.fall_back(&error));
                        (self.eager(step, rows), after)
                    }
                }
            }
            StepGraph::Graph(graph) => self.replay(graph, step, rows),
        };
        match after {
            StepGraph::Graph(_) => self.counts.graph_steps += 1,
            _ => self.counts.eager_steps += 1,
        }
        if let Some(kind) = self.graphs.of(rows) {
            kind.graph = after;
        }
        asked
    }

    /// Asks for a step as a graph, or thing by thing if it is another than was captured, as where an optimizer does other things
    /// from some step on.
    fn replay(&mut self, mut graph: GpuGraph, step: u64, rows: &[Range<usize>]) -> (Result<()>, StepGraph) {
        let (gpu, passes) = (self.workspace.device().gpu(), self.passes.len());
        // SAFETY: buffers, cuBLAS and cuDNN are the residence's, and samples the lanes', which both wait for the GPU before they end.
        let asked = unsafe { gpu.replay(&mut graph, || self.eager(step, rows)) };
        match asked {
            Ok(()) => (Ok(()), StepGraph::Graph(graph)),
            Err(error) => {
                // Nothing of that is done.
                self.passes.truncate(passes);
                let after = self.graphs.is_another(rows, self.counts.fall_back(&error));
                (self.eager(step, rows), after)
            }
        }
    }

    /// Asks for all of a step, thing by thing.
    fn eager(&mut self, step: u64, rows: &[Range<usize>]) -> Result<()> {
        self.gradient(0..rows.len(), step, rows, 0)?;
        let samples = rows.iter().map(ExactSizeIterator::len).sum();
        self.update(step, samples)
    }

    /// Applies the sum of the gradients of so many samples.
    fn update(&self, step: u64, samples: usize) -> Result<()> {
        let Rules { options, parts, .. } = self.rules;
        let Some(optimizer) = options.optimizer.on_gpu() else {
            return Err(Error::Internal("the optimizer has no kernels for GPUs".into()));
        };
        let (workspace, index) = (self.workspace, (step - self.first) as usize);
        let rate = options.learning_rate(step) * self.rules.rate_factor;
        let (update, mean, device) = (step - self.rules.state_begin, 1.0 / samples as f32, workspace.device());
        let limits = options.gradient_norm_max.zip(self.measuring);
        let limit = limits.map(|(norm_max, measuring)| {
            let network = &self.rules.network;
            measuring.limit(index, (norm_max, samples), network, workspace)
        });
        let scale = GpuScale {
            factor: mean,
            limit: limit.transpose()?,
        };
        for Part {
            range,
            momentum,
            tensor,
        } in parts
        {
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

    /// Has the workspace's gradient be the sum of those of some lanes, whose rows of the step are `rows`. Gradients wait in
    /// what is held, from `depth` on.
    fn gradient(&mut self, lanes: Range<usize>, step: u64, rows: &[Range<usize>], depth: usize) -> Result<()> {
        let Some(middle) = tree::split(&lanes) else {
            return self.gradient_of(lanes.start, step, rows[lanes.start].clone(), depth);
        };
        self.gradient(lanes.start..middle, step, rows, depth)?;
        self.hold(depth)?;
        self.gradient(middle..lanes.end, step, rows, depth + 1)?;
        add(
            self.workspace.device(),
            self.held[depth].words(),
            self.workspace.gradient(),
        )
    }

    /// The same for one lane.
    fn gradient_of(&mut self, lane: usize, step: u64, rows: Range<usize>, depth: usize) -> Result<()> {
        let (device, gradient) = (self.workspace.device(), self.workspace.gradient());
        let rows_max = self.rules.rows_max;
        if rows.is_empty()
            && let Some(zeros) = self.zeros
        {
            return Ok(device.gpu().copy(zeros.words(), gradient)?);
        }
        for first in rows.clone().step_by(rows_max) {
            let piece = first..rows.end.min(first + rows_max);
            self.pass(lane, step, piece.clone(), (first - rows.start) as u64)?;
            match (first == rows.start, piece.end == rows.end) {
                (true, true) => {}
                (true, false) => self.hold(depth)?,
                (false, false) => add(device, gradient, self.held[depth].words())?,
                // As a sum the other way round: it has the same bits.
                (false, true) => add(device, self.held[depth].words(), gradient)?,
            }
        }
        Ok(())
    }

    /// Keeps the gradient while others are computed.
    fn hold(&self, depth: usize) -> Result<()> {
        let gpu = self.workspace.device().gpu();
        Ok(gpu.copy(self.workspace.gradient(), self.held[depth].words())?)
    }

    /// One pass over some rows.
    fn pass(&mut self, lane: usize, step: u64, rows: Range<usize>, first_row: u64) -> Result<()> {
        let count = rows.len();
        let (samples, places) = (self.lanes[lane].samples.as_ref(), self.places[lane].part(rows));
        self.workspace.take_rows_at(samples, places)?;
        let draw = Draw {
            seed: self.rules.options.seed(),
            step,
            lane: lane as u64,
            first_row,
        };
        let tally = TALLY * self.passes.len();
        let tallies = self.tallies.part(tally..tally + TALLY);
        self.rules.network.pass_on_gpu(draw, count, self.workspace, tallies)?;
        self.passes.push(count);
        Ok(())
    }
}
