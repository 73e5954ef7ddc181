//! The fully connected layer on a GPU.

use distdl_engine::device::GpuMatrix;

use super::DenseLayer;
use crate::error::{Result, check_length};
use crate::kernels::activation;
use crate::kernels::programs::{GpuContext, ReductionSplit};
use crate::layer::on_gpu::{GpuBackward, GpuForward, GpuLayer};

impl GpuLayer for DenseLayer {
    fn scratch_length(&self, _: &GpuContext, rows: usize) -> usize {
        ReductionSplit::scratch_of_columns(rows, self.outputs)
    }

    fn forward(&self, device: &GpuContext, pass: GpuForward<'_>) -> Result<()> {
        self.check_parameters("the dense layer's parameters", pass.parameters.len())?;
        check_length("the layer's inputs", pass.rows * self.inputs, pass.inputs.len())?;
        check_length("the layer's outputs", pass.rows * self.outputs, pass.outputs.len())?;
        let weight = GpuMatrix::new(pass.parameters, self.inputs, self.outputs);
        let bias = pass.parameters.part(self.weight_length()..pass.parameters.len());
        let inputs = GpuMatrix::new(pass.inputs, pass.rows, self.inputs);
        let outputs = GpuMatrix::new(pass.outputs, pass.rows, self.outputs);
        device.multiply(outputs, inputs, weight, false)?;
        match self.has_bias {
            true => activation::cuda::forward(device, self.activation, bias, pass.outputs),
            false => activation::cuda::apply(device, self.activation, self.outputs, pass.outputs),
        }
    }

    fn backward(&self, device: &GpuContext, pass: GpuBackward<'_>) -> Result<()> {
        self.check_parameters("the dense layer's parameters", pass.parameters.len())?;
        self.check_parameters("the dense layer's gradient", pass.gradient.len())?;
        check_length("the layer's inputs", pass.rows * self.inputs, pass.inputs.len())?;
        check_length(
            "the output gradient",
            pass.rows * self.outputs,
            pass.output_gradient.len(),
        )?;
        if self.has_bias {
            let bias_gradient = pass.gradient.part(self.weight_length()..pass.gradient.len());
            activation::cuda::backward(
                device,
                self.activation,
                pass.outputs,
                pass.output_gradient,
                (pass.scratch, bias_gradient),
            )?;
        } else {
            activation::cuda::derive(
                device,
                self.activation,
                self.outputs,
                pass.outputs,
                pass.output_gradient,
            )?;
        }

        let inputs = GpuMatrix::new(pass.inputs, pass.rows, self.inputs);
        let gradient = GpuMatrix::new(pass.output_gradient, pass.rows, self.outputs);
        let weight_gradient = GpuMatrix::new(pass.gradient, self.inputs, self.outputs);
        device.multiply(weight_gradient, inputs.transpose(), gradient, false)?;
        let Some(input_gradient) = pass.input_gradient else {
            return Ok(());
        };
        check_length("the input gradient", pass.inputs.len(), input_gradient.len())?;
        let weight = GpuMatrix::new(pass.parameters, self.inputs, self.outputs);
        let input_gradient = GpuMatrix::new(input_gradient, pass.rows, self.inputs);
        device.multiply(input_gradient, gradient, weight.transpose(), false)
    }
}
