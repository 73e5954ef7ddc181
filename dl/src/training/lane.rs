//! A lane of a training: its order, and the buffers of one step.

use std::ops::Range;
use std::sync::Arc;

use distdl_engine::{DatasetId, Lane, LaneData, Tallies};

use super::compression::Residual;
use super::device::{LaneDevice, LaneDevices, LaneId, LaneRows, LaneStep, PassSize, RowSelection};
use super::failed::Failed;
use super::lane_samples::{LanePart, LaneSamples};
use super::order::SampleOrder;
use super::plan::TrainingPlan;
use super::{TrainingOptions, to_tallies};
use crate::augmentation::Augmenter;
use crate::batch::Batch;
use crate::deal::Deal;
use crate::error::{Error, Result};
use crate::kernels::lane_limit::limit_norm;
use crate::layer::Draw;
use crate::metrics::BatchReport;
use crate::network::{NeuralNetwork, Workspace};
use crate::samples::SampleShape;

/// One lane.
pub(super) struct TrainingLane {
    network: NeuralNetwork,
    deal: Deal,
    seed: u64,
    lane: usize,
    /// The most rows that are computed at a time.
    rows_max: usize,
    order: SampleOrder,
    rows: LaneBatches,
    workspace: Workspace,
    /// What computes instead of the CPU.
    device: Option<Box<dyn LaneDevice>>,
    /// Where that comes from, and under which name; `None` once the CPU computes.
    devices: Option<(Arc<dyn LaneDevices>, LaneId)>,
}

/// A lane's samples, and those of them that are computed at a time.
struct LaneBatches {
    samples: LaneSamples,
    /// `None` if there are no samples.
    batch: Option<Batch>,
    augmenter: Option<Augmenter>,
}

impl LaneRows for LaneBatches {
    fn gather(&mut self, selection: RowSelection<'_>) -> Result<&Batch> {
        let RowSelection { draw, sample_indices } = selection;
        let Some(batch) = &mut self.batch else {
            return Err(Error::Internal("a lane without samples was asked for some".into()));
        };
        batch.gather_from(&mut self.samples, sample_indices.iter().copied())?;
        if let Some(augmenter) = &mut self.augmenter {
            augmenter.apply(draw, batch.features_mut())?;
        }
        Ok(batch)
    }
}

impl TrainingLane {
    pub(super) fn new(
        plan: &TrainingPlan,
        data: LaneData<Arc<LanePart>>,
        devices: Option<(Arc<dyn LaneDevices>, DatasetId)>,
    ) -> Result<Self> {
        let TrainingPlan {
            network,
            deal,
            options,
            orders,
            ..
        } = plan;
        let samples = LaneSamples::new(data.partitions, deal.lengths[data.lane])?;
        let share = deal.share_max(data.lane);
        let augmentation = options.augmentation;
        let augmenter = augmentation.map(|augmentation| Augmenter::new(augmentation, network.input_shape()));
        let rows_max = options.micro_batch.map_or(share, |rows| rows.min(share));
        let (lanes, lane) = (options.lanes, data.lane);
        let no_memory = |_| no_memory(network, options, (lane, rows_max), samples.shape());
        let batch = samples.shape().map(|shape| Batch::try_of(shape, rows_max));
        let (batch, workspace) = (
            batch.transpose().map_err(no_memory)?,
            network.try_workspace(rows_max).map_err(no_memory)?,
        );
        let mut training = Self {
            device: None,
            devices: devices.map(|(devices, dataset)| (devices, LaneId { dataset, lanes, lane })),
            rows: LaneBatches {
                batch,
                augmenter: augmenter.transpose()?,
                samples,
            },
            workspace,
            network: network.clone(),
            deal: deal.clone(),
            seed: options.seed(),
            lane: data.lane,
            rows_max,
            order: SampleOrder::new(orders),
        };
        training.find_device()?;
        Ok(training)
    }

    /// Looks for what computes instead of the CPU. Errors if the CPU may not, and there is nothing else.
    fn find_device(&mut self) -> Result<()> {
        let Some((devices, lane)) = self.devices.clone() else {
            return Ok(());
        };
        let augmentation = self.rows.augmenter.as_ref().map(Augmenter::augmentation);
        let micro_batches_max = self.deal.share_max(self.lane).div_ceil(self.rows_max.max(1));
        let size = PassSize {
            rows_max: self.rows_max,
            micro_batches_max: micro_batches_max.max(1),
        };
        self.device = devices.lane(&self.network, size, &mut self.rows.samples, lane, augmentation)?;
        if self.device.is_none() {
            self.devices = None;
        }
        Ok(())
    }

    /// Writes the gradient of a step; `has_end` is told of ends of it that stay as they are.
    fn step(
        &mut self,
        step: u64,
        parameters: &[f32],
        gradient: &mut [f32],
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<BatchReport> {
        let (epoch, step_of_epoch) = self.deal.epoch_and_step(step);
        self.order
            .begin(self.seed, epoch, self.lane, self.deal.lengths[self.lane]);
        let range = self.deal.range(self.lane, step_of_epoch);
        if self.device.as_ref().is_none_or(|device| !device.has_samples()) {
            self.rows.samples.will_read(self.ahead(&range));
        }
        if range.is_empty() {
            gradient.fill(0.0);
            return Ok(BatchReport::default());
        }
        let mut draw = self.draw(step);
        if let Some(report) = self.step_on_device(draw, range.clone(), parameters, gradient)? {
            return Ok(report);
        }
        let mut total = BatchReport::default();
        let is_whole = range.len() <= self.rows_max;
        let mut has_end = |start: usize, end: &[f32]| {
            if is_whole {
                has_end(start, end);
            }
        };
        for start in range.clone().step_by(self.rows_max) {
            let rows = start..range.end.min(start + self.rows_max);
            draw.first_row = (start - range.start) as u64;
            total.merge(&self.micro_batch(draw, rows, parameters, gradient, &mut has_end)?);
        }
        Ok(total)
    }

    /// Samples of a step, over all lanes.
    fn samples_of(&self, step: u64) -> u64 {
        self.deal.samples_of(self.deal.epoch_and_step(step).1)
    }

    fn draw(&self, step: u64) -> Draw {
        Draw {
            seed: self.seed,
            step,
            lane: self.lane as u64,
            first_row: 0,
        }
    }

    /// Computes a micro-batch of the step, whose rows are `rows` of the order: the first one's gradient is written,
    /// that of later ones is added.
    fn micro_batch(
        &mut self,
        draw: Draw,
        rows: Range<usize>,
        parameters: &[f32],
        gradient: &mut [f32],
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<BatchReport> {
        let batch = self.rows.gather(RowSelection {
            draw,
            sample_indices: &self.order[rows],
        })?;
        self.workspace.set_draw(draw);
        let (inputs, targets, rows) = (batch.features(), batch.targets(), batch.rows());
        let (network, workspace) = (&self.network, &mut self.workspace);
        match draw.first_row {
            0 => network.gradient_from_end(parameters, (inputs, targets, rows), workspace, gradient, has_end),
            _ => network.add_gradient(parameters, inputs, targets, rows, workspace, gradient),
        }
    }

    /// All micro-batches of a step on another device, if there is one; on the next one if that is lost, from the first
    /// micro-batch on. `None` if the CPU must compute, and then from here on.
    fn step_on_device(
        &mut self,
        draw: Draw,
        rows: Range<usize>,
        parameters: &[f32],
        gradient: &mut [f32],
    ) -> Result<Option<BatchReport>> {
        let behind = self.deal.range(self.lane, self.deal.epoch_and_step(draw.step).1 + 1);
        let ahead = self.draw(draw.step + 1);
        while let Some(device) = &mut self.device {
            let step = LaneStep {
                selection: RowSelection {
                    draw,
                    sample_indices: &self.order[rows.clone()],
                },
                ahead: RowSelection {
                    draw: ahead,
                    sample_indices: &self.order[behind.clone()],
                },
                parameters,
                rows: &mut self.rows,
                gradient: &mut *gradient,
            };
            if let Some(report) = device.gradient(step)? {
                return Ok(Some(report));
            }
            self.device = None;
            self.find_device()?;
        }
        Ok(None)
    }

    /// What the step behind this one takes, if it is of the same epoch.
    fn ahead(&self, range: &Range<usize>) -> &[u32] {
        // Shares differ by one from step to step.
        &self.order[range.end..self.order.len().min(range.end + range.len() + 1)]
    }
}

/// That a lane has no room for as many rows as it is to compute at a time.
fn no_memory(
    network: &NeuralNetwork,
    options: &TrainingOptions,
    (lane, rows): (usize, usize),
    shape: Option<SampleShape>,
) -> Error {
    let targets = shape.map_or(0, |shape| shape.target_length.unwrap_or(1));
    let row_length = network.buffered_row_length() as u128 + targets as u128;
    let bytes = rows as u128 * row_length * size_of::<f32>() as u128;
    let remedy = match options.micro_batch {
        Some(rows) => format!("lower `micro_batch`, which is {rows}"),
        None => "set `micro_batch`, which is none".to_owned(),
    };
    Error::Memory(format!(
        "lane {lane} is to compute {rows} samples at a time, and there is no memory for the {bytes} bytes of their layers' outputs and \
         gradients: {remedy}, lower `batch` ({}), or raise `lanes` ({}) where they run on several machines",
        options.batch, options.lanes
    ))
}

/// A lane's gradients as they are pushed.
pub(super) struct Gradients {
    pub(super) lane: TrainingLane,
    pub(super) norm_max: Option<f32>,
    /// What is kept back of them.
    pub(super) residual: Option<Residual>,
    /// The parameters that gradients change.
    pub(super) learnt: Vec<Range<usize>>,
    pub(super) failed: Failed,
}

impl Lane for Gradients {
    fn step(&mut self, step: u64, parameters: &[f32], gradient: &mut [f32]) -> distdl_engine::Result<Tallies> {
        self.step_from_end(step, parameters, gradient, &mut |_, _| ())
    }

    fn step_from_end(
        &mut self,
        step: u64,
        parameters: &[f32],
        gradient: &mut [f32],
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> distdl_engine::Result<Tallies> {
        let stays = self.norm_max.is_none() && self.residual.is_none();
        let mut has_end = |start: usize, end: &[f32]| {
            if stays {
                has_end(start, end);
            }
        };
        let report = self.lane.step(step, parameters, gradient, &mut has_end);
        let report = report.map_err(|error| self.failed.keep(error))?;
        if let Some(norm_max) = self.norm_max {
            let limited = limit_norm(norm_max, report.weight, &self.learnt, gradient);
            limited.map_err(|error| self.failed.keep(error))?;
        }
        if let Some(residual) = &mut self.residual {
            residual.keep_small(step, self.lane.samples_of(step), gradient);
        }
        Ok(to_tallies(report))
    }
}
