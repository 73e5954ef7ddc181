//! An activation on a GPU.

use super::{ActivateLayer, Function};
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::{activation, gelu};
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl GpuLayer for ActivateLayer {
    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        let Function::Activation(function) = self.function else {
            return gelu::cuda::forward(device, pass.inputs, pass.outputs);
        };
        device.gpu().copy(pass.inputs, pass.outputs)?;
        activation::cuda::apply(device, function, self.shape.length(), pass.outputs)
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        let Some(input_gradient) = pass.input_gradient else {
            return Ok(());
        };
        let Function::Activation(function) = self.function else {
            return gelu::cuda::backward(device, pass.inputs, pass.output_gradient, input_gradient);
        };
        device.gpu().copy(pass.output_gradient, input_gradient)?;
        activation::cuda::derive(device, function, self.shape.length(), pass.outputs, input_gradient)
    }
}
