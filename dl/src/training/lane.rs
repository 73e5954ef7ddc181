//! A lane of a training: what it keeps of its partitions, its order, and the buffers of one step.
//!
//! Samples whose block is in memory are read there. Others are kept in working memory while there is room, up to three
//! eighths of the store's limit, and beyond that in a file of rows. Where they lie does not show in what the lane computes.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use distdl_engine::{DatasetId, EngineError, Lane, LaneData, LanePartition, LaneRecords, Tallies};
use distdl_storage::{BlockStore, Pin, Records, Reservation, Spill};

use super::compression::Residual;
use super::failed::Failed;
use super::update::limit_norm;
use super::{TrainingOptions, to_tallies};
use crate::augmentation::Augmenter;
use crate::batch::{Batch, RowSource, shuffle};
use crate::deal::Deal;
use crate::error::{Error, Result};
use crate::layer::Draw;
use crate::metrics::BatchReport;
use crate::network::{NeuralNetwork, Workspace};
use crate::samples::{Row, SampleShape, Samples};
use crate::spilled::SpilledSamples;

/// Loads partitions for the lanes that this process hosts. Those that memory has no room for share one file.
#[derive(Default)]
pub(super) struct Loader {
    spill: OnceLock<Arc<Spill>>,
}

/// A partition of a lane's samples.
pub(super) struct LanePart {
    blocks: Vec<Block>,
    /// Of what lies in working memory.
    _reservation: Option<Reservation>,
    _pin: Option<Pin>,
}

/// Some samples, where they lie.
enum Block {
    Shared { records: Records<Samples>, index: usize },
    Kept(Samples),
    Spilled(SpilledSamples),
}

impl Loader {
    pub(super) fn load(&self, partition: LanePartition<Samples>) -> Result<Arc<LanePart>> {
        let part = match partition.records {
            LaneRecords::Pinned(records, pin) => {
                let shared = |index| Block::Shared {
                    records: records.clone(),
                    index,
                };
                LanePart {
                    blocks: (0..records.len()).map(shared).collect(),
                    _reservation: None,
                    _pin: Some(pin),
                }
            }
            LaneRecords::Passing(passing) => {
                let mut reservation = partition.store.reservation();
                let keep = |samples: Samples| match takes_room(&partition.store, &mut reservation, &samples) {
                    true => Ok(Block::Kept(samples)),
                    false => SpilledSamples::write(self.spill(&partition.store)?, &samples).map(Block::Spilled),
                };
                LanePart {
                    blocks: passing.map(keep).collect::<Result<_>>()?,
                    _reservation: Some(reservation),
                    _pin: None,
                }
            }
        };
        Ok(Arc::new(part))
    }

    fn spill(&self, store: &BlockStore) -> Result<&Arc<Spill>> {
        if let Some(spill) = self.spill.get() {
            return Ok(spill);
        }
        let made = store
            .spill()
            .map_err(|error| Error::Engine(EngineError::Storage(error)))?;
        Ok(self.spill.get_or_init(|| Arc::new(made)))
    }
}

/// Takes room in memory for samples, if there is. The rest of the limit is for blocks, batches and the program itself.
fn takes_room(store: &BlockStore, reservation: &mut Reservation, samples: &Samples) -> bool {
    let bytes = samples.memory_bytes();
    let reserved_bytes = store.reserved_bytes().saturating_add(bytes);
    reserved_bytes <= store.memory_bytes_max() / 8 * 3 && reservation.grow(bytes)
}

impl Block {
    fn len(&self) -> usize {
        match self {
            Block::Shared { records, index } => records[*index].len(),
            Block::Kept(samples) => samples.len(),
            Block::Spilled(samples) => samples.len(),
        }
    }

    fn shape(&self) -> SampleShape {
        match self {
            Block::Shared { records, index } => records[*index].shape(),
            Block::Kept(samples) => samples.shape(),
            Block::Spilled(samples) => samples.shape(),
        }
    }
}

/// All samples of a lane, in the order of its partitions.
pub(super) struct LaneSamples {
    parts: Vec<Arc<LanePart>>,
    /// Of each block that is not empty: the index of its first sample, its part and its place there.
    places: Vec<(u32, usize, usize)>,
    length: u32,
    /// For a row that is read from a file.
    buffer: Vec<u32>,
}

impl LaneSamples {
    /// Errors if there are not as many samples as `length` says.
    fn new(parts: Vec<Arc<LanePart>>, length: u32) -> Result<Self> {
        let (mut places, mut found) = (Vec::new(), 0_usize);
        for (part, blocks) in parts.iter().enumerate() {
            for (block, samples) in blocks.blocks.iter().enumerate().filter(|(_, block)| block.len() > 0) {
                places.push((u32::try_from(found).unwrap_or(u32::MAX), part, block));
                found += samples.len();
            }
        }
        crate::error::check_length(
            "the lane's data (was it changed since training began?)",
            length as usize,
            found,
        )?;
        Ok(Self {
            parts,
            places,
            length,
            buffer: Vec::new(),
        })
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.length as usize
    }

    /// What the first has in common with the others; `None` if there is none.
    pub(super) fn shape(&self) -> Option<SampleShape> {
        let (_, part, block) = self.places.first()?;
        Some(self.parts[*part].blocks[*block].shape())
    }

    /// Whether all have in common what the first has.
    pub(super) fn are_alike(&self) -> bool {
        let mut shapes = self
            .places
            .iter()
            .map(|(_, part, block)| self.parts[*part].blocks[*block].shape());
        let first = shapes.next();
        shapes.all(|shape| Some(shape) == first)
    }

    /// The block of a sample, and its index there.
    fn locate(&self, index: u32) -> Result<(usize, usize, usize)> {
        let behind = self.places.partition_point(|(start, ..)| *start <= index);
        match behind.checked_sub(1).filter(|_| index < self.length) {
            Some(place) => {
                let (start, part, block) = self.places[place];
                Ok((part, block, (index - start) as usize))
            }
            None => Err(Error::SampleIndex {
                index,
                length: self.length as usize,
            }),
        }
    }

    /// Lets the system fetch samples that are read soon, where they lie in a file.
    fn will_read(&self, indices: &[u32]) {
        for index in indices {
            if let Ok((part, block, within)) = self.locate(*index)
                && let Block::Spilled(samples) = &self.parts[part].blocks[block]
            {
                samples.will_read(within);
            }
        }
    }
}

impl RowSource for LaneSamples {
    fn row(&mut self, index: u32) -> Result<Row<'_>> {
        let (part, block, within) = self.locate(index)?;
        match &self.parts[part].blocks[block] {
            Block::Shared { records, index } => Ok(records[*index].row(within)),
            Block::Kept(samples) => Ok(samples.row(within)),
            Block::Spilled(samples) => samples.row(within, &mut self.buffer),
        }
    }
}

/// Another device than the CPU, for the lanes that this process hosts.
pub(super) trait LaneDevices: Send + Sync {
    /// The lane's part of a device, for up to `rows_max` rows at a time; its samples stay there, if there is room and they
    /// are to. `None` if the CPU computes.
    fn lane(
        self: Arc<Self>,
        network: &NeuralNetwork,
        rows_max: usize,
        samples: &mut LaneSamples,
        lane: LaneId,
        stays: bool,
    ) -> Result<Option<Box<dyn LaneDevice>>>;
}

/// One lane's part of a device.
pub(super) trait LaneDevice: Send {
    /// Whether the lane's samples are there.
    fn has_samples(&self) -> bool;

    /// Writes the gradient of some rows, or adds it where they are not the first of their step. `None` if the device is
    /// lost, and another one must compute this and all that follows.
    fn gradient(&mut self, pass: Pass<'_>) -> Result<Option<BatchReport>>;
}

/// What a device computes a gradient from, and where it goes.
pub(super) struct Pass<'a> {
    pub(super) draw: Draw,
    pub(super) parameters: &'a [f32],
    pub(super) rows: LaneRows<'a>,
    pub(super) gradient: &'a mut [f32],
}

/// Rows of a lane.
pub(super) enum LaneRows<'a> {
    /// Themselves.
    Batch(&'a Batch),
    /// Where they are among the lane's samples, which the device has.
    Places(&'a [u32]),
}

/// A lane of a dataset: the same samples wherever it is hosted.
#[derive(Clone, Copy)]
pub(super) struct LaneId {
    pub(super) dataset: DatasetId,
    pub(super) lanes: usize,
    pub(super) lane: usize,
}

/// One lane.
pub(super) struct TrainingLane {
    network: NeuralNetwork,
    deal: Deal,
    seed: u64,
    lane: usize,
    /// The most rows that are computed at a time.
    rows_max: usize,
    samples: LaneSamples,
    order: Vec<u32>,
    /// The epoch that `order` belongs to.
    epoch: Option<u64>,
    batch: Option<Batch>,
    augmenter: Option<Augmenter>,
    workspace: Workspace,
    /// What computes instead of the CPU.
    device: Option<Box<dyn LaneDevice>>,
    /// Where that comes from, and under which name; `None` once the CPU computes.
    devices: Option<(Arc<dyn LaneDevices>, LaneId)>,
}

impl TrainingLane {
    pub(super) fn new(
        network: &NeuralNetwork,
        deal: &Deal,
        options: &TrainingOptions,
        data: LaneData<Arc<LanePart>>,
        devices: Option<(Arc<dyn LaneDevices>, DatasetId)>,
    ) -> Result<Self> {
        let samples = LaneSamples::new(data.partitions, deal.lengths[data.lane])?;
        let share = deal.shares[data.lane];
        let augmentation = options.augmentation;
        let augmenter = augmentation.map(|augmentation| Augmenter::new(augmentation, network.input_shape()));
        let rows_max = options.micro_batch.map_or(share, |rows| rows.min(share));
        let (lanes, lane) = (options.lanes, data.lane);
        let mut training = Self {
            device: None,
            devices: devices.map(|(devices, dataset)| (devices, LaneId { dataset, lanes, lane })),
            batch: samples.shape().map(|shape| Batch::of(shape, rows_max)),
            augmenter: augmenter.transpose()?,
            workspace: network.workspace(rows_max),
            network: network.clone(),
            deal: deal.clone(),
            seed: options.seed,
            lane: data.lane,
            rows_max,
            samples,
            order: Vec::new(),
            epoch: None,
        };
        training.find_device()?;
        Ok(training)
    }

    /// Looks for what computes instead of the CPU. Errors if the CPU may not, and there is nothing else.
    fn find_device(&mut self) -> Result<()> {
        let Some((devices, lane)) = self.devices.clone() else {
            return Ok(());
        };
        // What is changed before it is computed is made anew in each step.
        let stays = self.augmenter.is_none();
        self.device = devices.lane(&self.network, self.rows_max, &mut self.samples, lane, stays)?;
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
        let (epoch, step_of_epoch) = self.deal.place(step);
        if self.epoch != Some(epoch) {
            self.order = shuffle(self.seed, epoch, self.lane as u64, self.deal.lengths[self.lane]);
            self.epoch = Some(epoch);
        }
        let range = self.deal.range(self.lane, step_of_epoch);
        self.samples.will_read(self.ahead(&range));
        if range.is_empty() {
            gradient.fill(0.0);
            return Ok(BatchReport::default());
        }
        let (mut total, mut draw) = (BatchReport::default(), self.draw(step));
        let is_whole = range.len() <= self.rows_max;
        let mut has_end = |start: usize, end: &[f32]| {
            if is_whole {
                has_end(start, end);
            }
        };
        for start in range.clone().step_by(self.rows_max) {
            let rows = start..range.end.min(start + self.rows_max);
            draw.first_row = (start - range.start) as u64;
            total.merge(&self.piece(draw, rows, parameters, gradient, &mut has_end)?);
        }
        Ok(total)
    }

    fn draw(&self, step: u64) -> Draw {
        Draw {
            seed: self.seed,
            step,
            lane: self.lane as u64,
            first_row: 0,
        }
    }

    /// Computes a piece of the step, whose places in the order are `rows`: the first one's gradient is written, that of later
    /// ones is added.
    fn piece(
        &mut self,
        draw: Draw,
        rows: Range<usize>,
        parameters: &[f32],
        gradient: &mut [f32],
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<BatchReport> {
        if let Some(report) = self.piece_on_device(draw, rows.clone(), parameters, gradient)? {
            return Ok(report);
        }
        self.gather(draw, rows)?;
        let Some(batch) = &self.batch else {
            return Ok(BatchReport::default());
        };
        self.workspace.set_draw(draw);
        let (inputs, targets, rows) = (batch.features(), batch.targets(), batch.rows());
        let (network, workspace) = (&self.network, &mut self.workspace);
        match draw.first_row {
            0 => network.gradient_from_end(parameters, (inputs, targets, rows), workspace, gradient, has_end),
            _ => network.add_gradient(parameters, inputs, targets, rows, workspace, gradient),
        }
    }

    /// The same on another device, if there is one; on the next one if that is lost. `None` if the CPU must compute, and
    /// then from here on.
    fn piece_on_device(
        &mut self,
        draw: Draw,
        rows: Range<usize>,
        parameters: &[f32],
        gradient: &mut [f32],
    ) -> Result<Option<BatchReport>> {
        while let Some(has_samples) = self.device.as_ref().map(|device| device.has_samples()) {
            if !has_samples {
                self.gather(draw, rows.clone())?;
            }
            let batch = self.batch.as_ref().filter(|_| !has_samples);
            let pass = Pass {
                draw,
                parameters,
                rows: batch.map_or(LaneRows::Places(&self.order[rows.clone()]), LaneRows::Batch),
                gradient: &mut *gradient,
            };
            if let Some(device) = &mut self.device
                && let Some(report) = device.gradient(pass)?
            {
                return Ok(Some(report));
            }
            self.device = None;
            self.find_device()?;
        }
        Ok(None)
    }

    /// Brings the samples at some places of the order into the batch.
    fn gather(&mut self, draw: Draw, rows: Range<usize>) -> Result<()> {
        let Some(batch) = &mut self.batch else {
            return Ok(());
        };
        batch.gather_from(&mut self.samples, self.order[rows].iter().copied())?;
        if let Some(augmenter) = &mut self.augmenter {
            augmenter.apply(draw, batch.features_mut());
        }
        Ok(())
    }

    /// What the step behind this one takes, if it is of the same epoch.
    fn ahead(&self, range: &Range<usize>) -> &[u32] {
        &self.order[range.end..self.order.len().min(range.end + range.len())]
    }
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
            limit_norm(norm_max, report.samples, &self.learnt, gradient);
        }
        if let Some(residual) = &mut self.residual {
            residual.keep_small(step, gradient);
        }
        Ok(to_tallies(report))
    }
}
