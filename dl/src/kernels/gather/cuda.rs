//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use std::ops::Range;

use distdl_engine::device::{Argument, GpuBuffer, GpuPort, GpuSlice};

use crate::error::{Error, Result, check_length};
use crate::kernels::programs::{Device, Grid};

/// Some samples on a GPU, row after row.
#[derive(Clone, Copy)]
pub(crate) enum Rows<'a> {
    /// Bytes, and what they are multiplied with.
    Bytes(&'a GpuBuffer, f32),
    /// Words of four bytes.
    Words(&'a GpuBuffer),
}

/// Places among samples, in the memory of a GPU.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    samples: usize,
    words: GpuSlice<'a>,
}

impl<'a> Places<'a> {
    /// Sends places to the GPU. Errors unless each is of one of so many samples.
    pub(crate) fn send(device: &Device, samples: usize, places: &[u32], to: &'a mut GpuPort) -> Result<Self> {
        if let Some(&index) = places.iter().find(|place| **place as usize >= samples) {
            let length = samples;
            return Err(Error::SampleIndex { index, length });
        }
        to.send(device.gpu(), places)?;
        let words = to.words().part(0..places.len());
        Ok(Self { samples, words })
    }

    /// How many they are.
    pub(crate) fn len(self) -> usize {
        self.words.len()
    }

    /// Some of them.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        Self {
            words: self.words.part(range),
            ..self
        }
    }
}

/// Writes the samples at `places`, of `columns` elements each, to the rows of `batch`.
pub(crate) fn gather(
    device: &Device,
    samples: Rows<'_>,
    columns: usize,
    places: Places<'_>,
    batch: GpuSlice<'_>,
) -> Result<()> {
    let (buffer, width) = match samples {
        Rows::Bytes(buffer, _) => (buffer, 1),
        Rows::Words(buffer) => (buffer, 4),
    };
    check_length(
        "the samples on the GPU",
        places.samples * columns * width,
        buffer.bytes(),
    )?;
    check_length("the batch", places.words.len() * columns, batch.len())?;
    let [count, columns] = [batch.len(), columns].map(|count| Argument::Count(count as u64));
    let (from, places) = (Argument::Buffer(buffer), Argument::Words(places.words));
    let (to, grid) = (Argument::Words(batch), Grid::of_elements(batch.len()));
    match samples {
        Rows::Bytes(_, scale) => {
            let arguments = [count, columns, places, from, Argument::Number(scale), to];
            // SAFETY: these are its arguments, with lengths that are checked, and places that were.
            unsafe { device.run("gather_bytes", grid, &arguments) }
        }
        // SAFETY: as above.
        Rows::Words(_) => unsafe { device.run("gather_values", grid, &[count, columns, places, from, to]) },
    }
}
