//! Pooling on a GPU.

use super::{Kind, PoolLayer};
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::windows::cuda as windows;
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl GpuLayer for PoolLayer {
    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        match self.kind {
            Kind::Largest => windows::largest(device, &self.windows, pass.rows, pass.inputs, pass.outputs),
            Kind::Mean => windows::mean(device, &self.windows, pass.rows, pass.inputs, pass.outputs),
        }
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        let (windows, rows) = (&self.windows, pass.rows);
        let Some(input_gradient) = pass.input_gradient else {
            return Ok(());
        };
        match self.kind {
            Kind::Largest => {
                let gradient = pass.output_gradient;
                windows::largest_backward(device, windows, rows, pass.inputs, gradient, input_gradient)
            }
            Kind::Mean => windows::mean_backward(device, windows, rows, pass.output_gradient, input_gradient),
        }
    }
}
