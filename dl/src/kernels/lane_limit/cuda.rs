//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use std::ops::Range;

use distdl_engine::device::{Argument, GpuBuffer, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};
use crate::kernels::sums::BLOCK;

/// Words of four bytes of a sum, an `f64`.
const SUM: usize = 2;

/// What limits the norm of a lane's gradient by some ranges of parameters, in the memory of a GPU.
#[derive(Debug)]
pub(crate) struct LaneLimit {
    /// Of each stretch its first value, how many they are, and whether it is the first of its range.
    stretches: GpuBuffer,
    count: usize,
    /// One past the last value.
    end: usize,
    sums: GpuBuffer,
    /// What the gradient is multiplied with.
    limit: GpuBuffer,
}

impl LaneLimit {
    /// For these ranges. Errors if the GPU has too little memory, or fails.
    pub(crate) fn new(device: &GpuContext, ranges: &[Range<usize>]) -> Result<Self> {
        let stretches = ranges.iter().flat_map(|range| {
            range.clone().step_by(BLOCK).map(|begin| {
                let length = BLOCK.min(range.end - begin);
                [begin, length, usize::from(begin == range.start)].map(|number| number as u64)
            })
        });
        let stretches: Vec<[u64; 3]> = stretches.collect();
        let count = stretches.len();
        let numbers = stretches.as_flattened();
        let there = device.allocate(size_of_val(numbers) / size_of::<f32>())?;
        device.gpu().write(numbers, there.words())?;
        Ok(Self {
            stretches: there,
            count,
            end: ranges.iter().map(|range| range.end).max().unwrap_or(0),
            sums: device.allocate(SUM * count)?,
            limit: device.allocate(1)?,
        })
    }

    /// Scales the sum of the gradients of samples of this weight so that the norm of their mean is at most `norm_max`,
    /// both by the ranges alone. A gradient that is not finite stays as it is.
    pub(crate) fn apply(&self, device: &GpuContext, norm_max: f32, weight: f64, gradient: GpuSlice<'_>) -> Result<()> {
        check_length("the gradient", self.end, gradient.len().min(self.end))?;
        let (count, stretches) = (Argument::Count(self.count as u64), Argument::Buffer(&self.stretches));
        let [sums, limit] = [&self.sums, &self.limit].map(Argument::Buffer);
        let (gradient, grid) = (Argument::Words(gradient), Grid::of_rows(self.count, BLOCK));
        let numbers = [Argument::Number(norm_max), Argument::Wide(weight)];
        let total = [numbers[0], numbers[1], count, stretches, sums, gradient, limit];
        // SAFETY: these are their arguments; stretches lie within the gradient, whose length is checked, and each has a
        // sum.
        unsafe {
            device.run("lane_limit_squares", grid, &[count, stretches, gradient, sums])?;
            device.run("lane_limit", Grid::of_one_block(), &total)?;
            device.run("lane_limit_scale", grid, &[count, stretches, limit, gradient])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::programs::PROGRAMS;

    #[test]
    fn a_stretch_is_as_long_as_the_block_of_a_sum_on_the_cpu() {
        let program = PROGRAMS.iter().find(|program| program.name == "lane_limit");
        let line = format!("const u32 BLOCK = {BLOCK};");
        assert!(program.is_some_and(|program| program.text.contains(&line)), "{line}");
    }
}
