//! Dropout on a GPU: what is left out is what the CPU leaves out.

use distdl_engine::device::GpuSlice;

use super::DropoutLayer;
use crate::error::Result;
use crate::kernels::dropout;
use crate::kernels::programs::GpuContext;
use crate::layer::Mode;
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl DropoutLayer {
    fn apply_on_gpu(&self, device: &GpuContext, mode: Mode, from: GpuSlice<'_>, to: GpuSlice<'_>) -> Result<()> {
        match self.chance(mode) {
            Some(chance) => dropout::cuda::apply(device, &chance, from, to),
            None => Ok(device.gpu().copy(from, to)?),
        }
    }
}

impl GpuLayer for DropoutLayer {
    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        self.apply_on_gpu(device, pass.mode, pass.inputs, pass.outputs)
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        match pass.input_gradient {
            Some(input_gradient) => self.apply_on_gpu(device, pass.mode, pass.output_gradient, input_gradient),
            None => Ok(()),
        }
    }
}
