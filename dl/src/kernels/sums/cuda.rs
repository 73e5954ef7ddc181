//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length, check_rows};
use crate::kernels::programs::{GpuContext, Grid, ReductionSplit};

/// Adds `values` to `sums`, each to its.
pub(crate) fn add(device: &GpuContext, values: GpuSlice<'_>, sums: GpuSlice<'_>) -> Result<()> {
    check_length("the values", sums.len(), values.len())?;
    let arguments = [
        Argument::Count(sums.len() as u64),
        Argument::Words(values),
        Argument::Words(sums),
    ];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("add", Grid::of_elements(sums.len()), &arguments) }
}

/// The sum of each column of rows of as many columns as there are `sums`; `between` has the length of
/// [`ReductionSplit::scratch_of_columns`].
pub(crate) fn columns(
    device: &GpuContext,
    values: GpuSlice<'_>,
    between: GpuSlice<'_>,
    sums: GpuSlice<'_>,
) -> Result<()> {
    let columns = sums.len();
    let rows = check_rows("the values", columns, values.len())?;
    let parts = ReductionSplit::of_columns(rows, columns);
    over_parts(device, parts, 1.0, (between, sums), |scale, sums| {
        column_sums(device, (rows, columns), parts, scale, values, sums)
    })
}

/// The sum of each channel of rows of as many channels as there are `sums`, each of so many positions, times `scale`;
/// `between` has the length of [`ReductionSplit::scratch_of_channels`].
pub(crate) fn channels(
    device: &GpuContext,
    (rows, positions): (usize, usize),
    scale: f32,
    values: GpuSlice<'_>,
    between: GpuSlice<'_>,
    sums: GpuSlice<'_>,
) -> Result<()> {
    let channels = sums.len();
    check_length("the values", rows * channels * positions, values.len())?;
    let parts = ReductionSplit::of_channels(rows, channels, positions);
    over_parts(device, parts, scale, (between, sums), |scale, sums| {
        check_length("the sums", parts.count * channels, sums.len())?;
        let counts = [rows, channels, positions, parts.rows].map(|count| Argument::Count(count as u64));
        let others = [Argument::Number(scale), Argument::Words(values), Argument::Words(sums)];
        let arguments: Vec<_> = counts.into_iter().chain(others).collect();
        let grid = Grid::of_channels(channels, positions, parts);
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("channel_sums", grid, &arguments) }
    })
}

/// Makes `sums`: `each` writes those of every part, times the scale that it is given, and if there are more than one,
/// they are summed and scaled here.
pub(crate) fn over_parts(
    device: &GpuContext,
    parts: ReductionSplit,
    scale: f32,
    (between, sums): (GpuSlice<'_>, GpuSlice<'_>),
    each: impl FnOnce(f32, GpuSlice<'_>) -> Result<()>,
) -> Result<()> {
    if parts.count == 1 {
        return each(scale, sums);
    }
    let scratch = parts.count * sums.len();
    check_length("the scratch for the sums of parts", scratch, between.len().min(scratch))?;
    let between = between.part(0..scratch);
    each(1.0, between)?;
    let whole = ReductionSplit {
        rows: parts.count,
        count: 1,
    };
    column_sums(device, (parts.count, sums.len()), whole, scale, between, sums)
}

fn column_sums(
    device: &GpuContext,
    (rows, columns): (usize, usize),
    parts: ReductionSplit,
    scale: f32,
    values: GpuSlice<'_>,
    sums: GpuSlice<'_>,
) -> Result<()> {
    check_length("the values", rows * columns, values.len())?;
    check_length("the sums", parts.count * columns, sums.len())?;
    let counts = [rows, columns, parts.rows].map(|count| Argument::Count(count as u64));
    let others = [Argument::Number(scale), Argument::Words(values), Argument::Words(sums)];
    let arguments: Vec<_> = counts.into_iter().chain(others).collect();
    // SAFETY: these are its arguments: rows x columns elements, and one sum for each part and column.
    unsafe { device.run("column_sums", Grid::of_columns(columns, parts), &arguments) }
}

/// Elements that [`totals`] needs as scratch, for each sum.
pub(crate) fn total_scratch(count: usize) -> usize {
    Grid::of_pieces(1, count).1
}

/// The sum of each of as many rows of `f64` as there are `sums`, two words each; `between` has room for
/// [`total_scratch`] of each. A row has at most 8192 pieces.
pub(crate) fn totals(
    device: &GpuContext,
    values: GpuSlice<'_>,
    between: GpuSlice<'_>,
    sums: GpuSlice<'_>,
) -> Result<()> {
    let rows = sums.len() / 2;
    let count = check_rows("the values", rows, values.len() / 2)?;
    let pieces = total_scratch(count);
    if pieces > 1 {
        check_length("the sums of pieces", 2 * rows * pieces, between.len())?;
        sums_of_pieces(device, (rows, count), values, between)?;
        return totals(device, between, between, sums);
    }
    sums_of_pieces(device, (rows, count), values, sums)
}

/// `sums` has room for the sum of each piece.
fn sums_of_pieces(
    device: &GpuContext,
    (rows, count): (usize, usize),
    values: GpuSlice<'_>,
    sums: GpuSlice<'_>,
) -> Result<()> {
    let (grid, pieces) = Grid::of_pieces(rows, count);
    check_length("the values", 2 * rows * count, values.len())?;
    check_length("the sums of pieces", 2 * rows * pieces, sums.len())?;
    let counts = [rows, count].map(|count| Argument::Count(count as u64));
    let arguments = [counts[0], counts[1], Argument::Words(values), Argument::Words(sums)];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("sums_of_pieces", grid, &arguments) }
}
