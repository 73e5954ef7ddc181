//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use distdl_engine::device::{Argument, GpuSlice};

use crate::error::{Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};

/// Vectors of so many words each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vectors {
    pub(crate) count: usize,
    pub(crate) width: usize,
}

impl Vectors {
    /// Writes for each index its vector; what is no index of one gives no number.
    pub(crate) fn look_up(
        self,
        device: &GpuContext,
        indices: GpuSlice<'_>,
        weight: GpuSlice<'_>,
        outputs: GpuSlice<'_>,
    ) -> Result<()> {
        self.check(indices, weight, outputs)?;
        let [count, width, vectors] =
            [outputs.len(), self.width, self.count].map(|count| Argument::Count(count as u64));
        let [indices, weight, to] = [indices, weight, outputs].map(Argument::Words);
        let grid = Grid::of_elements(outputs.len());
        // SAFETY: these are its arguments, with lengths that are checked; it reads no vector that is not there.
        unsafe { device.run("embedding_forward", grid, &[count, width, vectors, indices, weight, to]) }
    }

    /// Writes the gradient by each vector, from that by what was looked up.
    pub(crate) fn add_up(
        self,
        device: &GpuContext,
        indices: GpuSlice<'_>,
        output_gradient: GpuSlice<'_>,
        gradient: GpuSlice<'_>,
    ) -> Result<()> {
        self.check(indices, gradient, output_gradient)?;
        let [vectors, width, places] =
            [self.count, self.width, indices.len()].map(|count| Argument::Count(count as u64));
        let indices_count = indices.len();
        let [indices, from, to] = [indices, output_gradient, gradient].map(Argument::Words);
        let grid = Grid::of_rows(self.count, self.width.max(indices_count));
        // SAFETY: these are its arguments, with lengths that are checked.
        unsafe { device.run("embedding_backward", grid, &[vectors, width, places, indices, from, to]) }
    }

    fn check(self, indices: GpuSlice<'_>, vectors: GpuSlice<'_>, found: GpuSlice<'_>) -> Result<()> {
        check_length("the embedding's weight", self.count * self.width, vectors.len())?;
        check_length("the outputs of an embedding", indices.len() * self.width, found.len())
    }
}
