//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length, check_rows};
use crate::kernels::programs::{GpuContext, Grid};

/// Words of four bytes that a total takes, an `f64`.
pub(crate) const TOTAL: usize = 2;

/// Digits of a part, words of eight bytes; behind them it says how many values were not finite.
const DIGITS: usize = 20;

/// Words of four bytes that a part takes.
const PART: usize = 2 * (DIGITS + 1);

/// Words of four bytes that the sum over so many values needs as scratch.
pub(crate) fn scratch_length(count: usize) -> usize {
    PART * Grid::of_squares(count).blocks as usize
}

/// Writes the parts of the sum of the squares of `values` to the beginning of `parts`, and gives what is left of that.
pub(crate) fn parts<'a>(device: &GpuContext, values: GpuSlice<'_>, parts: GpuSlice<'a>) -> Result<GpuSlice<'a>> {
    let (count, scratch) = (values.len(), scratch_length(values.len()));
    check_length("the scratch for a sum of squares", scratch, parts.len().min(scratch))?;
    let (own, rest) = (parts.part(0..scratch), parts.part(scratch..parts.len()));
    if count > 0 {
        let arguments = [
            Argument::Count(count as u64),
            Argument::Words(values),
            Argument::Words(own),
        ];
        // SAFETY: these are its arguments, with a part for each block.
        unsafe { device.run("square_sum_parts", Grid::of_squares(count), &arguments) }?;
    }
    Ok(rest)
}

/// Writes the sum of all `parts` to `total`, NaN if a value was not finite.
pub(crate) fn total(device: &GpuContext, parts: GpuSlice<'_>, total: GpuSlice<'_>) -> Result<()> {
    let count = check_rows("the parts of a sum of squares", PART, parts.len())?;
    check_length("the total", TOTAL, total.len())?;
    let arguments = [
        Argument::Count(count as u64),
        Argument::Words(parts),
        Argument::Words(total),
    ];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("square_sum", Grid::of_one_block(), &arguments) }
}

/// Writes to `limit`, one word, what the mean over samples of this weight of a gradient is multiplied with so that its
/// norm is `norm_max` at most, where `total` is of the squares of the sum over them.
pub(crate) fn norm_limit(
    device: &GpuContext,
    norm_max: f32,
    weight: f64,
    total: GpuSlice<'_>,
    limit: GpuSlice<'_>,
) -> Result<()> {
    check_length("the total", TOTAL, total.len())?;
    check_length("the limit", 1, limit.len())?;
    let arguments = [
        Argument::Number(norm_max),
        Argument::Wide(weight),
        Argument::Words(total),
        Argument::Words(limit),
    ];
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("norm_limit", Grid::of_rows(1, 1), &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::programs::PROGRAMS;

    #[test]
    fn a_part_is_as_long_as_the_program_makes_it() {
        let program = PROGRAMS.iter().find(|program| program.name == "square_sum");
        let line = format!("const u32 DIGITS = {DIGITS};");
        assert!(program.is_some_and(|program| program.text.contains(&line)), "{line}");
    }
}
