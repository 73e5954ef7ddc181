//! Batch normalisation on a GPU.

use distdl_engine::device::GpuSlice;

use super::BatchNormLayer;
use crate::error::{Result, check_length};
use crate::kernels::batch_norm::cuda::Channels;
use crate::kernels::programs::{GpuContext, ReductionSplit};
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl BatchNormLayer {
    /// Channels, with mean and variance where they are.
    fn channels_of<'a>(
        &self,
        rows: usize,
        inputs: GpuSlice<'a>,
        (moments, are_of_inputs): (GpuSlice<'a>, bool),
        between: GpuSlice<'a>,
    ) -> Result<Channels<'a>> {
        let channels = self.channels;
        check_length("the layer's moments", 2 * channels, moments.len())?;
        Ok(Channels {
            rows,
            positions: self.positions,
            epsilon: self.epsilon as f32,
            are_of_inputs,
            inputs,
            mean: moments.part(0..channels),
            variance: moments.part(channels..2 * channels),
            between,
        })
    }

    /// Room for moments, and for sums.
    fn split_scratch<'a>(&self, scratch: GpuSlice<'a>) -> Result<[GpuSlice<'a>; 2]> {
        let moments = 2 * self.channels;
        check_length("the layer's scratch", moments, scratch.len().min(moments))?;
        Ok([scratch.part(0..moments), scratch.part(moments..scratch.len())])
    }

    /// What is learnt of the parameters: weight and bias; and the running statistics.
    fn split<'a>(&self, what: &'static str, all: GpuSlice<'a>) -> Result<([GpuSlice<'a>; 2], GpuSlice<'a>)> {
        let channels = self.channels;
        check_length(what, 4 * channels, all.len())?;
        let learnt = [all.part(0..channels), all.part(channels..2 * channels)];
        Ok((learnt, all.part(2 * channels..4 * channels)))
    }
}

impl GpuLayer for BatchNormLayer {
    fn scratch_length(&self, _: &GpuContext, rows: usize) -> usize {
        2 * self.channels + ReductionSplit::scratch_of_channels(rows, self.channels, self.positions)
    }

    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        let ([weight, bias], running) = self.split("the layer's parameters", pass.parameters)?;
        let [moments, between] = self.split_scratch(pass.scratch)?;
        let measures = self.measures(pass.mode, pass.rows);
        let moments = if measures { moments } else { running };
        let channels = self.channels_of(pass.rows, pass.inputs, (moments, measures), between)?;
        if measures {
            channels.moments(device)?;
        }
        channels.forward(device, (weight, bias), pass.outputs)
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        let ([weight, _], running) = self.split("the layer's parameters", pass.parameters)?;
        let ([by_weight, by_bias], found) = self.split("the layer's gradient", pass.gradient)?;
        let [moments, between] = self.split_scratch(pass.scratch)?;
        let measures = self.measures(pass.mode, pass.rows);
        let moments = if measures { moments } else { running };
        let channels = self.channels_of(pass.rows, pass.inputs, (moments, measures), between)?;
        if measures {
            channels.moments(device)?;
        }
        channels.running(device, found)?;
        channels.backward(
            device,
            weight,
            pass.output_gradient,
            (by_weight, by_bias),
            pass.input_gradient,
        )
    }
}
