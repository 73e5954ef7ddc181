//! What a training has in the memory of a GPU that takes resident steps.

use distdl_engine::ShardValues;
use distdl_engine::device::{GpuBuffer, GpuPort};

use super::super::update::learnt;
use super::graphs::Graphs;
use super::measuring::{Measuring, MeasuringShape};
use crate::error::Result;
use crate::kernels::augment::cuda::TRANSFORM_WORDS;
use crate::kernels::gather::cuda::SampleIndicesPort;
use crate::kernels::lane_limit::cuda::LaneLimit;
use crate::kernels::programs::GpuContext;
use crate::network::{GpuWorkspace, NeuralNetwork, TALLY, WorkspaceShape};

/// What shapes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResidentShape {
    /// Of its passes.
    pub(super) workspace: WorkspaceShape,
    /// Whether features are bytes.
    pub(super) are_bytes: bool,
    /// Rows of each lane in a step, at most.
    pub(super) shares: Vec<usize>,
    /// Slots of the optimizer's state.
    pub(super) slots: usize,
    /// Whether the norm of each lane's gradient is limited.
    pub(super) limits_lanes: bool,
    /// What is measured of each step, if anything is.
    pub(super) measuring: Option<MeasuringShape>,
}

/// Its buffers, for some steps at a time.
#[derive(Debug)]
pub(super) struct ResidentBuffers {
    shape: ResidentShape,
    pub(super) graphs: Graphs,
    /// How many steps are worth their copies; found by taking some.
    pub(super) steps: u64,
    /// Gradients that wait to be added to another.
    pub(super) partial_sums: Vec<GpuBuffer>,
    /// What a lane adds that has no rows in a step.
    pub(super) zeros: Option<GpuBuffer>,
    /// Of each pass its tallies.
    pub(super) tallies: GpuPort,
    /// Of each lane where its rows are.
    pub(super) sample_indices: Vec<SampleIndicesPort>,
    /// Of each lane what is done to its rows; none if they stay as they are.
    pub(super) transforms: Vec<GpuPort>,
    /// The slots of the optimizer's state.
    pub(super) state: Vec<GpuPort>,
    /// What is measured of steps, if anything is.
    pub(super) measuring: Option<Measuring>,
    /// What limits the norm of each lane's gradient, if it is limited.
    pub(super) lane_limit: Option<LaneLimit>,
    /// Behind what its device works on.
    pub(super) workspace: GpuWorkspace,
}

/// Steps that are taken at a time, at most: those of 30 microseconds and more fill a quarter of a second.
const STEPS_MAX: u64 = 8192;

/// Passes of a step that is asked for as a graph, at most: a graph of many is large, and saves a smaller part of the
/// time.
const GRAPH_PASSES_MAX: usize = 64;

/// Passes at a time at most, of more than one step.
const PASSES_MAX: usize = 1 << 16;

/// Rows at a time at most, of more than one step.
const ROWS_MAX: usize = 1 << 22;

/// Rows at a time at most, of more than one step, where they are augmented: the transform of each takes 32 bytes.
const AUGMENTED_MAX: usize = 1 << 20;

impl ResidentShape {
    /// Passes of a step, at most.
    fn passes(&self) -> usize {
        self.shares
            .iter()
            .map(|share| share.div_ceil(self.workspace.rows_max))
            .sum()
    }

    /// How many gradients wait at a time, at most: one at each level of the tree over lanes, and one where a lane's is
    /// summed up by micro-batches.
    fn partial_sums(&self) -> usize {
        let levels = usize::BITS - self.shares.len().saturating_sub(1).leading_zeros();
        levels as usize + usize::from(self.shares.iter().any(|share| *share > self.workspace.rows_max))
    }

    /// The most steps at a time.
    pub(super) fn steps_max(&self) -> u64 {
        let rows = self.shares.iter().sum::<usize>();
        let measured = self.measuring.as_ref().map_or(usize::MAX, MeasuringShape::steps_max);
        let rows_max = match self.workspace.augments {
            true => AUGMENTED_MAX,
            false => ROWS_MAX,
        };
        let steps = (PASSES_MAX / self.passes().max(1))
            .min(rows_max / rows.max(1))
            .min(measured);
        (steps as u64).clamp(1, STEPS_MAX)
    }
}

impl ResidentBuffers {
    /// Errors if the GPU has too little memory, or fails.
    pub(super) fn new(device: GpuContext, network: &NeuralNetwork, shape: ResidentShape) -> Result<Self> {
        let (count, steps_max) = (network.parameter_count(), shape.steps_max() as usize);
        let partial_sums = (0..shape.partial_sums()).map(|_| device.allocate(count));
        let partial_sums = partial_sums.collect::<Result<_>>()?;
        let zeros = (shape.shares.len() > 1).then(|| device.allocate(count)).transpose()?;
        if let Some(zeros) = &zeros {
            device.gpu().write(&vec![0.0_f32; count], zeros.words())?;
        }
        let sample_indices = shape
            .shares
            .iter()
            .map(|share| SampleIndicesPort::new(&device, share * steps_max));
        let sample_indices = sample_indices.collect::<Result<_>>()?;
        let augmented = shape.shares.iter().filter(|_| shape.workspace.augments);
        let transforms = augmented.map(|share| device.port(TRANSFORM_WORDS * share * steps_max));
        let transforms = transforms.collect::<Result<_>>()?;
        let state = (0..shape.slots).map(|_| device.port(count));
        let state = state.collect::<Result<_>>()?;
        let measuring = shape.measuring.clone();
        let measuring = measuring.map(|measuring| Measuring::new(&device, measuring, steps_max));
        let lane_limit = shape.limits_lanes.then(|| LaneLimit::new(&device, &learnt(network)));
        Ok(Self {
            graphs: Graphs::new(shape.passes() <= GRAPH_PASSES_MAX),
            steps: 1,
            partial_sums,
            zeros,
            tallies: device.port(TALLY * shape.passes() * steps_max)?,
            sample_indices,
            transforms,
            state,
            measuring: measuring.transpose()?,
            lane_limit: lane_limit.transpose()?,
            workspace: network.workspace_on_gpu(device, shape.workspace)?,
            shape,
        })
    }

    /// Whether it has this shape.
    pub(super) fn is(&self, shape: &ResidentShape) -> bool {
        self.shape == *shape
    }

    /// Sends parameters and state as they were before some steps.
    pub(super) fn send(&mut self, all: &ShardValues<'_>) -> Result<()> {
        self.workspace.set_parameters(all.before)?;
        let gpu = self.workspace.device().gpu();
        for (port, slot) in self.state.iter_mut().zip(all.state.iter()) {
            port.send(gpu, slot.before)?;
        }
        Ok(())
    }

    /// Fetches them as they are behind these steps.
    pub(super) fn fetch(&mut self, all: &mut ShardValues<'_>) -> Result<()> {
        self.workspace.fetch_parameters()?;
        for port in &mut self.state {
            let bytes = port.buffer().bytes();
            port.fetch(self.workspace.device().gpu(), bytes)?;
        }
        self.workspace.take_parameters(all.after)?;
        let gpu = self.workspace.device().gpu();
        for (port, slot) in self.state.iter_mut().zip(all.state.iter_mut()) {
            let to: &mut [u8] = bytemuck::cast_slice_mut(slot.after);
            to.copy_from_slice(&port.take(gpu)?[..to.len()]);
        }
        Ok(())
    }

    /// Takes more steps at a time from now on if so many were quicker than need be, or fewer if they took too long, so
    /// that the copies take a small part of the time.
    pub(super) fn adapt(&mut self, taken: u64, computing: f64, copying: f64) {
        let wanted = (COPIES * copying).clamp(SECONDS.0, SECONDS.1);
        let steps = (taken as f64 * wanted / computing.max(1e-6)) as u64;
        if taken == self.steps || steps < self.steps {
            self.steps = steps.clamp(1, self.shape.steps_max().min(4 * self.steps));
        }
    }
}

/// How many times as long as the copies the steps between them should take.
const COPIES: f64 = 100.0;

/// How many seconds they should take at least and at most: whoever looks on sees them go on, and can end them.
const SECONDS: (f64, f64) = (0.25, 5.0);
