//! What is measured of resident steps, on the way to their updates.

use std::ops::Range;

use bytemuck::cast_slice_mut;
use distdl_engine::device::{Gpu, GpuBuffer, GpuPort, GpuSlice};

use super::super::TrainingOptions;
use super::super::update::{GroupRange, learnt, measures, own_measures};
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::square_sum::cuda as square_sum;
use crate::kernels::update::cuda::GpuMeasures;
use crate::network::{GpuWorkspace, NeuralNetwork};

/// Totals at a time at most, of more than one step.
const TOTALS_MAX: usize = 1 << 18;

/// What shapes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MeasuringShape {
    /// Of each step.
    totals: usize,
    /// Of them, how many come before those of the optimizer.
    own: usize,
    /// Of each tensor.
    of_tensor: usize,
    /// Words that sums need as scratch.
    scratch: usize,
}

/// Its buffers, for some steps at a time.
#[derive(Debug)]
pub(super) struct Measuring {
    shape: MeasuringShape,
    totals: GpuPort,
    /// What the scale of the gradient is multiplied with.
    limit: GpuBuffer,
    scratch: GpuBuffer,
}

impl MeasuringShape {
    /// `None` where nothing is measured.
    pub(super) fn new(network: &NeuralNetwork, options: &TrainingOptions, ranges: &[GroupRange]) -> Option<Self> {
        let (totals, own) = (measures(network, options).iter().sum(), own_measures(options));
        let scratch = |range: &Range<usize>| square_sum::scratch_length(range.len());
        let of_gradient = learnt(network).iter().map(scratch).sum::<usize>();
        let tensors = ranges.iter().filter(|range| range.momentum.is_none());
        let of_tensor = tensors.map(|range| scratch(&range.range)).max().unwrap_or(0);
        (totals > 0).then(|| Self {
            totals,
            own,
            of_tensor: options.optimizer.measures(),
            scratch: of_tensor.max(if own > 0 { of_gradient } else { 0 }),
        })
    }

    /// The most steps at a time whose totals are not too many.
    pub(super) fn steps_max(&self) -> usize {
        TOTALS_MAX / self.totals
    }

    /// Words of a step's totals.
    fn words(&self) -> usize {
        self.totals * square_sum::TOTAL
    }
}

impl Measuring {
    pub(super) fn new(device: &GpuContext, shape: MeasuringShape, steps_max: usize) -> Result<Self> {
        let totals = device.port(shape.words() * steps_max)?;
        // As the host's are where an optimizer measures nothing.
        device
            .gpu()
            .write(&vec![0.0_f32; totals.words().len()], totals.words())?;
        Ok(Self {
            totals,
            limit: device.allocate(1)?,
            scratch: device.allocate(shape.scratch)?,
            shape,
        })
    }

    /// Measures a workspace's gradient in the step of an index, and gives what its scale is multiplied with so that the
    /// mean over samples of this weight has a norm of `norm_max` at most.
    pub(super) fn limit(
        &self,
        index: usize,
        (norm_max, weight): (f32, f64),
        network: &NeuralNetwork,
        workspace: &GpuWorkspace,
    ) -> Result<GpuSlice<'_>> {
        let device = workspace.device();
        let (all, mut rest) = (self.scratch.words(), self.scratch.words());
        for range in learnt(network) {
            rest = square_sum::parts(device, workspace.gradient().part(range), rest)?;
        }
        let total = self.of_step(index).part(0..square_sum::TOTAL);
        square_sum::total(device, all.part(0..all.len() - rest.len()), total)?;
        square_sum::norm_limit(device, norm_max, weight, total, self.limit.words())?;
        Ok(self.limit.words())
    }

    /// Room for what the optimizer measures of a tensor in the step of an index. `None` if that is nothing.
    pub(super) fn of_tensor(&self, index: usize, tensor: usize) -> Option<GpuMeasures<'_>> {
        let MeasuringShape { own, of_tensor, .. } = self.shape;
        let first = (own + tensor * of_tensor) * square_sum::TOTAL;
        (of_tensor > 0).then(|| GpuMeasures {
            totals: self.of_step(index).part(first..first + of_tensor * square_sum::TOTAL),
            scratch: self.scratch.words(),
        })
    }

    /// Begins to fetch the totals of so many steps.
    pub(super) fn fetch(&mut self, gpu: &Gpu, steps: usize) -> Result<()> {
        Ok(self.totals.fetch(gpu, steps * self.shape.words() * size_of::<f32>())?)
    }

    /// Those that were fetched, of each step.
    pub(super) fn take(&mut self, gpu: &Gpu, steps: usize) -> Result<Vec<Vec<f64>>> {
        let mut totals = vec![0.0_f64; steps * self.shape.totals];
        let bytes: &mut [u8] = cast_slice_mut(&mut totals);
        bytes.copy_from_slice(&self.totals.take(gpu)?[..bytes.len()]);
        Ok(totals.chunks(self.shape.totals).map(<[f64]>::to_vec).collect())
    }

    fn of_step(&self, index: usize) -> GpuSlice<'_> {
        let words = self.shape.words();
        self.totals.words().part(index * words..(index + 1) * words)
    }
}
