//! Flattening on a GPU: nothing is done.

use super::FlattenLayer;
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl GpuLayer for FlattenLayer {
    fn is_view(&self) -> bool {
        true
    }

    fn forward(&self, _device: &GpuContext, _pass: GpuForward<'_>) -> Result<()> {
        Ok(())
    }

    fn backward(&self, _device: &GpuContext, _pass: GpuBackward<'_>) -> Result<()> {
        Ok(())
    }
}
