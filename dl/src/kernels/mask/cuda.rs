//! The kernel of `cuda.cu`, with its lengths checked.
#![allow(unsafe_code)] // starts it

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};

/// `to` = `from` where the word of `counts` is not 0, and else 0; both may be the same.
pub(crate) fn apply(device: &GpuContext, counts: GpuSlice<'_>, from: GpuSlice<'_>, to: GpuSlice<'_>) -> Result<()> {
    check_length("the mask", from.len(), counts.len())?;
    check_length("what is masked", from.len(), to.len())?;
    let words = [counts, from, to].map(Argument::Words);
    let arguments = [Argument::Count(from.len() as u64), words[0], words[1], words[2]];
    // SAFETY: these are its arguments, all of as many elements.
    unsafe { device.run("mask", Grid::of_elements(from.len()), &arguments) }
}
