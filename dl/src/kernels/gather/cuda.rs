//! The kernels of `cuda.cu`, with their lengths checked.
#![allow(unsafe_code)] // starts them

use std::ops::Range;

use distdl_engine::device::{Argument, GpuBuffer, GpuPort, GpuSlice};

use crate::error::{Error, Result, check_length};
use crate::kernels::programs::{GpuContext, Grid};

/// Indices of samples, in the memory of a GPU.
#[derive(Clone, Copy)]
pub(crate) struct SampleIndices<'a> {
    samples: usize,
    words: GpuSlice<'a>,
}

/// Room for indices of samples in the memory of a GPU, and those that were sent there last.
#[derive(Debug)]
pub(crate) struct SampleIndicesPort {
    port: GpuPort,
    samples: usize,
    count: usize,
}

impl SampleIndicesPort {
    /// For so many indices at most.
    pub(crate) fn new(device: &GpuContext, count_max: usize) -> Result<Self> {
        Ok(Self {
            port: device.port(count_max)?,
            samples: 0,
            count: 0,
        })
    }

    /// Sends indices to the GPU. Errors unless each is of one of so many samples.
    pub(crate) fn send(&mut self, device: &GpuContext, samples: usize, sample_indices: &[u32]) -> Result<()> {
        if let Some(&index) = sample_indices.iter().find(|place| **place as usize >= samples) {
            let length = samples;
            return Err(Error::SampleIndex { index, length });
        }
        self.port.send(device.gpu(), sample_indices)?;
        (self.samples, self.count) = (samples, sample_indices.len());
        Ok(())
    }

    /// Those that were sent.
    pub(crate) fn sent(&self) -> SampleIndices<'_> {
        SampleIndices {
            samples: self.samples,
            words: self.port.words().part(0..self.count),
        }
    }
}

impl SampleIndices<'_> {
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

/// Samples that lie on a GPU, one behind the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GpuSamples<'a> {
    pub(crate) rows: usize,
    pub(crate) features: &'a GpuBuffer,
    /// What a byte is multiplied with; none for features as they are.
    pub(crate) scale: Option<f32>,
    pub(crate) targets: &'a GpuBuffer,
}

/// Where they go.
#[derive(Clone, Copy)]
pub(crate) struct GpuBatch<'a> {
    pub(crate) inputs: GpuSlice<'a>,
    pub(crate) targets: GpuSlice<'a>,
    /// Words of a row's inputs, and of its target.
    pub(crate) lengths: (usize, usize),
}

/// Writes the samples of some indices to the first rows of a batch.
pub(crate) fn gather(
    device: &GpuContext,
    samples: GpuSamples<'_>,
    sample_indices: SampleIndices<'_>,
    to: GpuBatch<'_>,
) -> Result<()> {
    let (rows, (columns, target_columns)) = (sample_indices.len(), to.lengths);
    check_length("the samples that indices are of", sample_indices.samples, samples.rows)?;
    let width = if samples.scale.is_some() { 1 } else { size_of::<f32>() };
    check_length(
        "the features on the GPU",
        samples.rows * columns * width,
        samples.features.bytes(),
    )?;
    check_length(
        "the targets on the GPU",
        samples.rows * target_columns * size_of::<u32>(),
        samples.targets.bytes(),
    )?;
    let [rows_there, columns_there, target_columns_there] =
        [rows, columns, target_columns].map(|count| Argument::Count(count as u64));
    let (sample_indices, features) = (
        Argument::Words(sample_indices.words),
        Argument::Buffer(samples.features),
    );
    let targets = Argument::Buffer(samples.targets);
    let inputs = Argument::Words(to.inputs.part(0..rows * columns));
    let target = Argument::Words(to.targets.part(0..rows * target_columns));
    let before = [
        rows_there,
        columns_there,
        target_columns_there,
        sample_indices,
        features,
    ];
    let (kernel, scale) = match samples.scale {
        Some(scale) => ("gather_bytes", Some(Argument::Number(scale))),
        None => ("gather_values", None),
    };
    let arguments: Vec<_> = before
        .into_iter()
        .chain(scale)
        .chain([targets, inputs, target])
        .collect();
    // SAFETY: these are its arguments, with lengths that are checked, and indices that were.
    unsafe { device.run(kernel, Grid::of_rows(rows, columns), &arguments) }
}
