//! Flattening on a GPU: a copy, as a layer's outputs have a place of their own.

use super::FlattenLayer;
use crate::error::Result;
use crate::kernels::programs::Device;
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl GpuLayer for FlattenLayer {
    fn forward(&self, device: &Device, pass: GpuForward<'_>) -> Result<()> {
        Ok(device.gpu().copy(pass.inputs, pass.outputs)?)
    }

    fn backward(&self, device: &Device, pass: GpuBackward<'_>) -> Result<()> {
        if let Some(input_gradient) = pass.input_gradient {
            device.gpu().copy(pass.output_gradient, input_gradient)?;
        }
        Ok(())
    }
}
