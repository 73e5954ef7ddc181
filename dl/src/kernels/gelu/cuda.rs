//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};

/// As [`super::forward`].
pub(crate) fn forward(device: &GpuContext, inputs: GpuSlice<'_>, outputs: GpuSlice<'_>) -> Result<()> {
    check_length("the outputs", inputs.len(), outputs.len())?;
    let count = Argument::Count(inputs.len() as u64);
    let arguments = [count, Argument::Words(inputs), Argument::Words(outputs)];
    // SAFETY: these are its arguments, both of as many elements.
    unsafe { device.run("gelu_forward", Grid::of_elements(inputs.len()), &arguments) }
}

/// As [`super::backward`].
pub(crate) fn backward(
    device: &GpuContext,
    inputs: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
    input_gradient: GpuSlice<'_>,
) -> Result<()> {
    check_length("the output gradient", inputs.len(), gradient.len())?;
    check_length("the input gradient", inputs.len(), input_gradient.len())?;
    let words = [inputs, gradient, input_gradient].map(Argument::Words);
    let arguments = [Argument::Count(inputs.len() as u64), words[0], words[1], words[2]];
    // SAFETY: these are its arguments, all of as many elements.
    unsafe { device.run("gelu_backward", Grid::of_elements(inputs.len()), &arguments) }
}
