//! What is measured of steps that a GPU takes whole, on the way to their updates.

use bytemuck::cast_slice_mut;
use distdl_engine::device::{Gpu, GpuBuffer, GpuPort, GpuSlice};

use super::super::TrainingOptions;
use super::super::update::{Part, measures, own_measures};
use crate::error::Result;
use crate::kernels::programs::Device;
use crate::kernels::square_sum::cuda as square_sum;
use crate::kernels::update::cuda::GpuMeasures;
use crate::network::NeuralNetwork;

/// What shapes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MeasuringShape {
    /// Of each step.
    totals: usize,
    /// Of them, how many come before those of the optimizer.
    own: usize,
    /// Of each tensor.
    of_tensor: usize,
    /// Words that sums need room for meanwhile.
    room: usize,
}

/// Its buffers, for some steps at a time.
#[derive(Debug)]
pub(super) struct Measuring {
    shape: MeasuringShape,
    totals: GpuPort,
    /// What the scale of the gradient is multiplied with.
    limit: GpuBuffer,
    room: GpuBuffer,
}

impl MeasuringShape {
    /// `None` where nothing is measured.
    pub(super) fn new(network: &NeuralNetwork, options: &TrainingOptions, parts: &[Part]) -> Option<Self> {
        let totals = measures(network, options).iter().sum();
        let learnt = parts.iter().filter(|part| part.momentum.is_none());
        (totals > 0).then(|| Self {
            totals,
            own: own_measures(options),
            of_tensor: options.optimizer.measures(),
            room: learnt.map(|part| square_sum::room(part.range.len())).sum(),
        })
    }

    /// Words of a step's totals.
    fn words(&self) -> usize {
        self.totals * square_sum::TOTAL
    }
}

impl Measuring {
    pub(super) fn new(device: &Device, shape: MeasuringShape, steps_max: usize) -> Result<Self> {
        Ok(Self {
            totals: device.port(shape.words() * steps_max)?,
            limit: device.allocate(1)?,
            room: device.allocate(shape.room)?,
            shape,
        })
    }

    /// Measures the gradient in the step of an index, and gives what its scale is multiplied with so that the mean over so
    /// many samples has a norm of `norm_max` at most.
    pub(super) fn limit<'a>(
        &'a self,
        device: &Device,
        index: usize,
        (norm_max, samples): (f32, usize),
        gradient: impl Iterator<Item = GpuSlice<'a>>,
    ) -> Result<GpuSlice<'a>> {
        let (all, mut rest) = (self.room.words(), self.room.words());
        for part in gradient {
            rest = square_sum::parts(device, part, rest)?;
        }
        let total = self.of_step(index).part(0..square_sum::TOTAL);
        square_sum::total(device, all.part(0..all.len() - rest.len()), total)?;
        square_sum::norm_limit(device, norm_max, samples, total, self.limit.words())?;
        Ok(self.limit.words())
    }

    /// Room for what the optimizer measures of a tensor in the step of an index. `None` if that is nothing.
    pub(super) fn of_tensor(&self, index: usize, tensor: usize) -> Option<GpuMeasures<'_>> {
        let MeasuringShape { own, of_tensor, .. } = self.shape;
        let first = (own + tensor * of_tensor) * square_sum::TOTAL;
        (of_tensor > 0).then(|| GpuMeasures {
            totals: self.of_step(index).part(first..first + of_tensor * square_sum::TOTAL),
            room: self.room.words(),
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
