//! What lanes, resident steps and evaluations ask of another device than the CPU.
#![cfg_attr(not(feature = "gpu"), allow(dead_code))]

use std::ops::Range;
use std::sync::Arc;

use distdl_engine::{DatasetId, Resident};

use super::TrainingOptions;
use super::failed::Failed;
use super::lane_samples::LaneSamples;
use super::look::{UnsuitableRow, unsuitable_sample};
use super::plan::TrainingPlan;
use crate::augmentation::Augmentation;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::layer::Draw;
use crate::metrics::BatchReport;
use crate::network::NeuralNetwork;
use crate::samples::{SampleShape, Samples};

/// How often a dataset is evaluated on another device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evaluates {
    Once,
    /// Perhaps again and again: samples stay there if there is room.
    Again,
}

/// Another device than the CPU, for the lanes that this process hosts.
pub(super) trait LaneDevices: Send + Sync {
    /// The lane's part of a device, for steps of this size; its samples stay there, if there is
    /// room, and are changed there. `None` if the CPU computes.
    fn lane(
        &self,
        network: &NeuralNetwork,
        size: PassSize,
        samples: &mut LaneSamples,
        lane: LaneId,
        augmentation: Option<Augmentation>,
    ) -> Result<Option<Box<dyn LaneDevice>>>;

    /// What evaluates up to so many rows of such samples at a time with these parameters, for a task of this index.
    /// `None` if the CPU does.
    fn evaluation(
        &self,
        network: &NeuralNetwork,
        parameters: &Arc<Vec<f32>>,
        rows_max: usize,
        shape: SampleShape,
        task: usize,
    ) -> Result<Option<Box<dyn EvaluationDevice>>>;

    /// Whether steps of such a training can be resident: one device may take all of its lanes, and do what its
    /// optimizer does.
    fn can_be_resident(&self, options: &TrainingOptions, dataset: DatasetId) -> bool;

    /// What takes resident steps on it, if there is room for all of that.
    fn resident_steps(&self, training: ResidentTraining<'_>) -> Result<Option<Box<dyn Resident>>>;
}

/// What a lane's steps take at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassSize {
    /// Rows of a micro-batch.
    pub(super) rows_max: usize,
    /// Micro-batches of a step.
    pub(super) micro_batches_max: usize,
}

/// A training whose steps are to be resident, and the samples of all of its lanes.
pub(super) struct ResidentTraining<'a> {
    pub(super) plan: &'a TrainingPlan,
    pub(super) dataset: DatasetId,
    pub(super) samples: Vec<LaneSamples>,
    pub(super) failed: &'a Failed,
}

/// One lane's part of a device.
pub(super) trait LaneDevice: Send {
    /// Whether the lane's samples are there.
    fn has_samples(&self) -> bool;

    /// Writes the gradient of a step, the sum of those of its micro-batches from the first to the last. `None` if the
    /// device is lost, and another one must compute all of this step, and all that follow.
    fn gradient(&mut self, step: LaneStep<'_>) -> Result<Option<BatchReport>>;
}

/// A device's part in an evaluation.
pub(super) trait EvaluationDevice {
    /// Loss and hits of some rows. `None` if the device is lost, and another one must compute this and all that
    /// follows.
    fn report(&mut self, rows: &mut BlockRows<'_>) -> Result<Option<BatchReport>>;

    /// Writes the outputs of the last layer for some rows, rows x output length. `false` if the device is lost.
    fn outputs(&mut self, rows: &mut BlockRows<'_>, outputs: &mut [f32]) -> Result<bool>;
}

/// What checks rows of a block.
type CheckRows = fn(&NeuralNetwork, &Samples, Range<usize>) -> Result<(), UnsuitableRow>;

/// Some rows of a block of samples, which become a batch if somebody wants one.
pub(super) struct BlockRows<'a> {
    pub(super) block: SampleBlock,
    pub(super) samples: &'a Samples,
    pub(super) rows: Range<usize>,
    batch: &'a mut Batch,
    is_gathered: bool,
}

impl<'a> BlockRows<'a> {
    /// `batch` has room for them.
    pub(super) fn new(block: SampleBlock, samples: &'a Samples, rows: Range<usize>, batch: &'a mut Batch) -> Self {
        Self {
            block,
            samples,
            rows,
            batch,
            is_gathered: false,
        }
    }

    /// Errors if a network cannot use one of the rows, by one of the checks of rows.
    pub(super) fn check(&self, network: &NeuralNetwork, check: CheckRows) -> Result<()> {
        check(network, self.samples, self.rows.clone()).map_err(|found| self.unsuitable(found.row, &found.what))
    }

    /// The error of a row of the block.
    pub(super) fn unsuitable(&self, row: usize, what: &str) -> Error {
        unsuitable_sample(self.block.partition, self.block.samples_before + row, what)
    }

    /// The rows as a batch.
    pub(super) fn batch(&mut self) -> Result<&Batch> {
        if !self.is_gathered {
            let rows = self.rows.start as u32..self.rows.end as u32;
            self.batch.gather(&[self.samples], rows)?;
            self.is_gathered = true;
        }
        Ok(self.batch)
    }
}

/// A block of a dataset's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampleBlock {
    pub(super) dataset: DatasetId,
    pub(super) partition: usize,
    /// Its 0-based index in the partition.
    pub(super) index: usize,
    /// Samples of the partition before it.
    pub(super) samples_before: usize,
    /// Whether it has the same samples whenever they are computed. If not, those that came before are of no use.
    pub(super) is_determinate: bool,
}

/// Rows of a lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct RowSelection<'a> {
    /// Of the first row.
    pub(super) draw: Draw,
    /// Which of the lane's samples they are.
    pub(super) sample_indices: &'a [u32],
}

/// What a device computes a gradient from, and where it goes.
pub(super) struct LaneStep<'a> {
    pub(super) selection: RowSelection<'a>,
    pub(super) parameters: &'a [f32],
    /// Brings those that the device has not.
    pub(super) rows: &'a mut dyn LaneRows,
    /// Rows of the next step; none if they are not known.
    pub(super) ahead: RowSelection<'a>,
    pub(super) gradient: &'a mut [f32],
}

/// Brings rows of a lane.
pub(super) trait LaneRows {
    /// Brings these, as they are computed where `draw` says.
    fn gather(&mut self, selection: RowSelection<'_>) -> Result<&Batch>;
}

/// A lane of a dataset: the same samples wherever it is hosted.
#[derive(Clone, Copy)]
pub(super) struct LaneId {
    pub(super) dataset: DatasetId,
    pub(super) lanes: usize,
    pub(super) lane: usize,
}
