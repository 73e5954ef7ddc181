//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use super::Activation;
use crate::error::{Result, check_length, check_rows};
use crate::kernels::programs::{Device, Grid};

/// As [`super::forward`] where there is a `bias` of each of `columns`, and as [`super::apply`] where there is none.
pub(crate) fn forward(
    device: &Device,
    function: Activation,
    columns: usize,
    bias: Option<GpuSlice<'_>>,
    outputs: GpuSlice<'_>,
) -> Result<()> {
    let rows = check_rows("the outputs", columns, outputs.len())?;
    check_length("the bias", columns, bias.map_or(columns, GpuSlice::len))?;
    let arguments = [
        Argument::Kind(function as u32),
        Argument::Count(outputs.len() as u64),
        Argument::Count(columns as u64),
        bias.map_or(Argument::Absent, Argument::Words),
        Argument::Words(outputs),
    ];
    if bias.is_some() || !matches!(function, Activation::Identity | Activation::Softmax) {
        // SAFETY: these are its arguments, and the bias has an element for each column.
        unsafe { device.run("activation_forward", Grid::of_elements(outputs.len()), &arguments) }?;
    }
    match function {
        Activation::Softmax => softmax_rows(device, rows, columns, outputs),
        _ => Ok(()),
    }
}

/// The same for images of channels of so many positions, with a bias of each channel. Not for softmax.
pub(crate) fn forward_channels(
    device: &Device,
    function: Activation,
    positions: usize,
    bias: GpuSlice<'_>,
    outputs: GpuSlice<'_>,
) -> Result<()> {
    let rows = check_rows("the outputs", positions, outputs.len())?;
    check_rows("the channels of the outputs", bias.len(), rows)?;
    let counts = [rows, bias.len(), positions].map(|count| Argument::Count(count as u64));
    let arguments = [
        Argument::Kind(function as u32),
        counts[0],
        counts[1],
        counts[2],
        Argument::Words(bias),
        Argument::Words(outputs),
    ];
    // SAFETY: these are its arguments, of rows x positions elements, with a bias for each channel.
    unsafe { device.run("activation_channels", Grid::of_rows(rows, positions), &arguments) }
}

/// As [`super::derive`].
pub(crate) fn derive(
    device: &Device,
    function: Activation,
    columns: usize,
    outputs: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
) -> Result<()> {
    let rows = check_rows("the outputs", columns, outputs.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    match function {
        Activation::Identity => Ok(()),
        Activation::Softmax => {
            let counts = [rows, columns].map(|count| Argument::Count(count as u64));
            let arguments = [
                counts[0],
                counts[1],
                Argument::Words(outputs),
                Argument::Words(gradient),
            ];
            // SAFETY: these are its arguments, both of rows x columns elements.
            unsafe { device.run("softmax_rows_backward", Grid::of_rows(rows, columns), &arguments) }
        }
        _ => {
            let arguments = [
                Argument::Kind(function as u32),
                Argument::Count(outputs.len() as u64),
                Argument::Words(outputs),
                Argument::Words(gradient),
            ];
            // SAFETY: these are its arguments, both of as many elements.
            unsafe { device.run("activation_backward", Grid::of_elements(outputs.len()), &arguments) }
        }
    }
}

fn softmax_rows(device: &Device, rows: usize, columns: usize, values: GpuSlice<'_>) -> Result<()> {
    let counts = [rows, columns].map(|count| Argument::Count(count as u64));
    let arguments = [counts[0], counts[1], Argument::Words(values)];
    // SAFETY: these are its arguments, of rows x columns elements.
    unsafe { device.run("softmax_rows", Grid::of_rows(rows, columns), &arguments) }
}
