//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use super::Activation;
use crate::error::{Result, check_length, check_rows};
use crate::kernels::programs::{GpuContext, Grid, ReductionSplit, in_words};
use crate::kernels::sums::cuda::{self as sums, over_parts};

/// As [`super::forward`].
pub(crate) fn forward(
    device: &GpuContext,
    function: Activation,
    bias: GpuSlice<'_>,
    outputs: GpuSlice<'_>,
) -> Result<()> {
    let columns = bias.len();
    let rows = check_rows("the outputs", columns, outputs.len())?;
    let [rows_there, columns_there] = counts([rows, columns]);
    let (kind, bias) = (Argument::Kind(function as u32), Argument::Words(bias));
    let arguments = [kind, rows_there, columns_there, bias, Argument::Words(outputs)];
    // SAFETY: these are its arguments, and the bias has an element for each column.
    unsafe { device.run("activation_rows", Grid::of_rows(rows, columns), &arguments) }?;
    match function {
        Activation::Softmax => softmax_rows(device, (rows, columns), outputs),
        _ => Ok(()),
    }
}

/// As [`super::apply`].
pub(crate) fn apply(device: &GpuContext, function: Activation, columns: usize, values: GpuSlice<'_>) -> Result<()> {
    let rows = check_rows("the values", columns, values.len())?;
    let [count] = counts([values.len()]);
    let arguments = [Argument::Kind(function as u32), count, Argument::Words(values)];
    match function {
        Activation::Identity => Ok(()),
        Activation::Softmax => softmax_rows(device, (rows, columns), values),
        // SAFETY: these are its arguments, with as many elements.
        _ => unsafe { device.run("activation_apply", Grid::of_elements(values.len()), &arguments) },
    }
}

/// As [`forward`] for images of channels of so many positions, with a bias of each channel. Not for softmax.
pub(crate) fn forward_channels(
    device: &GpuContext,
    function: Activation,
    positions: usize,
    bias: GpuSlice<'_>,
    outputs: GpuSlice<'_>,
) -> Result<()> {
    let rows = check_rows("the outputs", positions, outputs.len())?;
    check_rows("the channels of the outputs", bias.len(), rows)?;
    let [rows_there, channels, positions_there] = counts([rows, bias.len(), positions]);
    let arguments = [
        Argument::Kind(function as u32),
        rows_there,
        channels,
        positions_there,
        Argument::Words(bias),
        Argument::Words(outputs),
    ];
    // SAFETY: these are its arguments, of rows x positions elements, with a bias for each channel.
    unsafe { device.run("activation_channels", Grid::of_rows(rows, positions), &arguments) }
}

/// As [`forward_channels`], or without a bias, where `rows` is one row for each channel, which has the pixels of all
/// images.
pub(crate) fn forward_from_channels(
    device: &GpuContext,
    function: Activation,
    (channels, pixels): (usize, usize),
    bias: Option<GpuSlice<'_>>,
    (rows, images): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<()> {
    check_length("the images", rows.len(), images.len())?;
    let planes = check_rows("the images", pixels, images.len())?;
    let count = check_rows("the channels of the images", channels, planes)?;
    check_length("the bias", channels, bias.map_or(channels, GpuSlice::len))?;
    let [count, channels, pixels] = [in_words(count)?, in_words(channels)?, in_words(pixels)?];
    let arguments = [
        Argument::Kind(function as u32),
        count,
        channels,
        pixels,
        Argument::Words(rows),
        Argument::Kind(u32::from(bias.is_some())),
        // Not read where there is none.
        Argument::Words(bias.unwrap_or(rows)),
        Argument::Words(images),
    ];
    in_words(planes)?;
    // SAFETY: these are its arguments: count x channels x pixels elements twice, and a bias for each channel, if it is
    // said to be there.
    unsafe { device.run("activation_from_channels", Grid::of_lines(planes), &arguments) }
}

/// As [`super::derive`].
pub(crate) fn derive(
    device: &GpuContext,
    function: Activation,
    columns: usize,
    outputs: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
) -> Result<()> {
    let rows = check_rows("the outputs", columns, outputs.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    let [rows_there, columns_there, count] = counts([rows, columns, outputs.len()]);
    let [outputs_there, gradient] = [outputs, gradient].map(Argument::Words);
    match function {
        Activation::Identity => Ok(()),
        Activation::Softmax => {
            let arguments = [rows_there, columns_there, outputs_there, gradient];
            // SAFETY: these are its arguments, both of rows x columns elements.
            unsafe { device.run("softmax_rows_backward", Grid::of_rows(rows, columns), &arguments) }
        }
        _ => {
            let arguments = [Argument::Kind(function as u32), count, outputs_there, gradient];
            // SAFETY: these are its arguments, both of as many elements.
            unsafe { device.run("activation_backward", Grid::of_elements(outputs.len()), &arguments) }
        }
    }
}

/// As [`super::backward`]; `between` has the length of [`ReductionSplit::scratch_of_columns`].
pub(crate) fn backward(
    device: &GpuContext,
    function: Activation,
    outputs: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
    (between, bias_gradient): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<()> {
    let columns = bias_gradient.len();
    if let Activation::Identity | Activation::Softmax = function {
        derive(device, function, columns, outputs, gradient)?;
        return sums::columns(device, gradient, between, bias_gradient);
    }
    let rows = check_rows("the outputs", columns, outputs.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    let parts = ReductionSplit::of_columns(rows, columns);
    over_parts(device, parts, 1.0, (between, bias_gradient), |_, sums| {
        check_length("the sums", parts.count * columns, sums.len())?;
        let before = [Argument::Kind(function as u32)]
            .into_iter()
            .chain(counts([rows, columns, parts.rows]));
        let arguments: Vec<_> = before.chain([outputs, gradient, sums].map(Argument::Words)).collect();
        let grid = Grid::of_columns(columns, parts);
        // SAFETY: these are its arguments: rows x columns elements twice, and one sum for each part and column.
        unsafe { device.run("activation_backward_columns", grid, &arguments) }
    })
}

/// As [`backward`], for images of channels of so many positions, with a bias of each channel; `between` has the length
/// of [`ReductionSplit::scratch_of_channels`]. Not for softmax.
pub(crate) fn backward_channels(
    device: &GpuContext,
    function: Activation,
    positions: usize,
    outputs: GpuSlice<'_>,
    gradient: GpuSlice<'_>,
    (between, bias_gradient): (GpuSlice<'_>, GpuSlice<'_>),
) -> Result<()> {
    let channels = bias_gradient.len();
    let rows = check_rows("the outputs", channels * positions, outputs.len())?;
    check_length("the output gradient", outputs.len(), gradient.len())?;
    if function == Activation::Identity {
        return sums::channels(device, (rows, positions), 1.0, gradient, between, bias_gradient);
    }
    let parts = ReductionSplit::of_channels(rows, channels, positions);
    over_parts(device, parts, 1.0, (between, bias_gradient), |_, sums| {
        check_length("the sums", parts.count * channels, sums.len())?;
        let sides = counts([rows, channels, positions, parts.rows]);
        let before = [Argument::Kind(function as u32)].into_iter().chain(sides);
        let arguments: Vec<_> = before.chain([outputs, gradient, sums].map(Argument::Words)).collect();
        let grid = Grid::of_channels(channels, positions, parts);
        // SAFETY: these are its arguments: rows x channels x positions elements twice, and one sum for each part and
        // channel.
        unsafe { device.run("activation_backward_channels", grid, &arguments) }
    })
}

fn softmax_rows(device: &GpuContext, (rows, columns): (usize, usize), values: GpuSlice<'_>) -> Result<()> {
    let [rows_there, columns_there] = counts([rows, columns]);
    let arguments = [rows_there, columns_there, Argument::Words(values)];
    // SAFETY: these are its arguments, of rows x columns elements.
    unsafe { device.run("softmax_rows", Grid::of_rows(rows, columns), &arguments) }
}

fn counts<'a, const COUNT: usize>(counts: [usize; COUNT]) -> [Argument<'a>; COUNT] {
    counts.map(|count| Argument::Count(count as u64))
}
