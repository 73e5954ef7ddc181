//! The kernel of `cuda.cu`, with its lengths checked.
#![allow(unsafe_code)] // starts it

use distdl_engine::device::{Argument, GpuSlice};

use super::TRANSFORM_LENGTH;
use crate::error::{Result, check_length, check_rows};
use crate::kernels::programs::{GpuContext, Grid};
use crate::shape::Image;

/// Words of four bytes that say what is done to a picture.
pub(crate) const TRANSFORM_WORDS: usize = TRANSFORM_LENGTH * size_of::<u64>() / size_of::<f32>();

/// Writes changed pictures: `transforms` has [`words`](super::AffineTransform::words) for each of them.
pub(crate) fn augment(
    device: &GpuContext,
    image: Image,
    transforms: GpuSlice<'_>,
    from: GpuSlice<'_>,
    to: GpuSlice<'_>,
) -> Result<()> {
    let rows = check_rows("the transforms", TRANSFORM_WORDS, transforms.len())?;
    let length = rows * image.channels * image.pixels();
    check_length("the pictures", length, from.len())?;
    check_length("the changed pictures", length, to.len())?;
    let counts = [rows, image.channels, image.height, image.width].map(|count| Argument::Count(count as u64));
    let arguments: Vec<_> = counts
        .into_iter()
        .chain([transforms, from, to].map(Argument::Words))
        .collect();
    // SAFETY: these are its arguments, with lengths that are checked.
    unsafe { device.run("augment", Grid::of_elements(rows * image.pixels()), &arguments) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::programs::PROGRAMS;

    #[test]
    fn a_transform_has_as_many_words_as_the_program_takes() {
        let program = PROGRAMS.iter().find(|program| program.name == "augment");
        let line = format!("const u32 TRANSFORM_LENGTH = {TRANSFORM_LENGTH};");
        assert!(program.is_some_and(|program| program.text.contains(&line)), "{line}");
    }
}
