//! The same on a GPU.

use super::SumLayer;
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl GpuLayer for SumLayer {
    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        Ok(device.gpu().copy(pass.inputs, pass.outputs)?)
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        match pass.input_gradient {
            Some(input_gradient) => Ok(device.gpu().copy(pass.output_gradient, input_gradient)?),
            None => Ok(()),
        }
    }
}
