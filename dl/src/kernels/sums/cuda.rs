//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length, check_rows};
use crate::kernels::programs::{Device, Grid};

/// Adds `values` to `sums`, each to its.
pub(crate) fn add(device: &Device, values: GpuSlice<'_>, sums: GpuSlice<'_>) -> Result<()> {
    check_length("the values", sums.len(), values.len())?;
    let arguments = [
        Argument::Count(sums.len() as u64),
        Argument::Words(values),
        Argument::Words(sums),
    ];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("add", Grid::of_elements(sums.len()), &arguments) }
}

/// The sum of each column of rows of as many columns as there are `sums`.
pub(crate) fn columns(device: &Device, values: GpuSlice<'_>, sums: GpuSlice<'_>) -> Result<()> {
    let columns = sums.len();
    let rows = check_rows("the values", columns, values.len())?;
    let counts = [rows, columns].map(|count| Argument::Count(count as u64));
    let arguments = [counts[0], counts[1], Argument::Words(values), Argument::Words(sums)];
    // SAFETY: these are its arguments: rows x columns elements, and one sum for each column.
    unsafe { device.run("column_sums", Grid::of_columns(columns), &arguments) }
}

/// The sum of each channel of rows of as many channels as there are `sums`, each of so many positions.
pub(crate) fn channels(
    device: &Device,
    rows: usize,
    positions: usize,
    values: GpuSlice<'_>,
    sums: GpuSlice<'_>,
) -> Result<()> {
    check_length("the values", rows * sums.len() * positions, values.len())?;
    let counts = [rows, sums.len(), positions].map(|count| Argument::Count(count as u64));
    let arguments = [
        counts[0],
        counts[1],
        counts[2],
        Argument::Words(values),
        Argument::Words(sums),
    ];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("channel_sums", Grid::of_rows(sums.len(), rows * positions), &arguments) }
}

/// Elements that [`total`] needs room for meanwhile.
pub(crate) fn parts(count: usize) -> usize {
    Grid::of_parts(count).1
}

/// The sum of elements of `f64`, two words each, to one; `between` has room for [`parts`] of them. There are at most 8192
/// parts.
pub(crate) fn total(device: &Device, values: GpuSlice<'_>, between: GpuSlice<'_>, sum: GpuSlice<'_>) -> Result<()> {
    let count = check_rows("the values", 2, values.len())?;
    let parts = parts(count);
    check_length("the sum", 2, sum.len())?;
    if parts > 1 {
        check_length("the sums of parts", 2 * parts, between.len())?;
        sums_of_parts(device, values, between)?;
        return total(device, between, between, sum);
    }
    sums_of_parts(device, values, sum)
}

/// `sums` has room for the sum of each part.
fn sums_of_parts(device: &Device, values: GpuSlice<'_>, sums: GpuSlice<'_>) -> Result<()> {
    let count = values.len() / 2;
    let (grid, parts) = Grid::of_parts(count);
    check_length("the sums of parts", 2 * parts, sums.len())?;
    let arguments = [
        Argument::Count(count as u64),
        Argument::Words(values),
        Argument::Words(sums),
    ];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("sums_of_parts", grid, &arguments) }
}
