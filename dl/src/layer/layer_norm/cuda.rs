//! Layer normalisation on a GPU.

use distdl_engine::device::GpuSlice;

use super::LayerNormLayer;
use crate::error::{Result, check_length};
use crate::kernels::layer_norm::cuda::NormalizedRows;
use crate::kernels::programs::{GpuContext, ReductionSplit};
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl LayerNormLayer {
    /// Rows with room for their moments, which are computed there.
    fn rows<'a>(
        &self,
        device: &GpuContext,
        rows: usize,
        inputs: GpuSlice<'a>,
        scratch: GpuSlice<'a>,
    ) -> Result<NormalizedRows<'a>> {
        let wanted = GpuLayer::scratch_length(self, device, rows);
        check_length("the layer's scratch", wanted, scratch.len().min(wanted))?;
        let rows = NormalizedRows {
            columns: self.shape.length(),
            inputs,
            means: scratch.part(0..rows),
            scales: scratch.part(rows..2 * rows),
            between: scratch.part(2 * rows..scratch.len()),
        };
        rows.moments(device, self.epsilon as f32)?;
        Ok(rows)
    }

    /// Weight and bias, or their gradients.
    fn split<'a>(&self, what: &'static str, parameters: GpuSlice<'a>) -> Result<(GpuSlice<'a>, GpuSlice<'a>)> {
        let length = self.shape.length();
        check_length(what, 2 * length, parameters.len())?;
        Ok((parameters.part(0..length), parameters.part(length..2 * length)))
    }
}

impl GpuLayer for LayerNormLayer {
    fn scratch_length(&self, _: &GpuContext, rows: usize) -> usize {
        2 * rows + ReductionSplit::scratch_of_columns(rows, self.shape.length())
    }

    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        let learnt = self.split("the layer's parameters", pass.parameters)?;
        let rows = self.rows(device, pass.rows, pass.inputs, pass.scratch)?;
        rows.forward(device, learnt, pass.outputs)
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        let (weight, _) = self.split("the layer's parameters", pass.parameters)?;
        let gradients = self.split("the layer's gradient", pass.gradient)?;
        let rows = self.rows(device, pass.rows, pass.inputs, pass.scratch)?;
        rows.backward(device, weight, pass.output_gradient, gradients, pass.input_gradient)
    }
}
