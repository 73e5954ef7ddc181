//! The kernel of `cuda.cu`, with its lengths checked.
#![allow(unsafe_code)] // starts it

use distdl_engine::device::{Argument, GpuSlice};

use super::Chance;
use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};
use crate::rng::Purpose;

/// Words of a stream that one thread makes.
const BLOCK: u64 = 16;

/// As [`super::apply`], with the same elements left out.
pub(crate) fn apply(device: &GpuContext, chance: &Chance, from: GpuSlice<'_>, to: GpuSlice<'_>) -> Result<()> {
    check_length("the outputs", from.len(), to.len())?;
    let arguments = arguments(chance, from.len(), Argument::Words(from), Argument::Words(to));
    let blocks = (chance.first % BLOCK + from.len() as u64).div_ceil(BLOCK);
    // SAFETY: these are its arguments, both buffers of as many elements.
    unsafe { device.run("dropout", Grid::of_elements(blocks as usize), &arguments) }
}

fn arguments<'a>(chance: &Chance, count: usize, from: Argument<'a>, to: Argument<'a>) -> [Argument<'a>; 10] {
    // A whole number is below another one if it is below the next whole number from there on.
    let out = (chance.probability * 4_294_967_296.0).ceil() as u64;
    let [id, other_id] = chance.ids;
    let key = [chance.seed, Purpose::Dropout as u64, id, other_id].map(Argument::Count);
    [
        Argument::Count(count as u64),
        key[0],
        key[1],
        key[2],
        key[3],
        Argument::Count(chance.first),
        Argument::Count(out),
        Argument::Number(chance.scale() as f32),
        from,
        to,
    ]
}
