//! Samples of a lane, or of a block, as they are kept on a GPU.

use std::sync::Arc;

use distdl_engine::device::{Gpu, GpuBuffer};
use distdl_storage::{BlockId, DeviceKey, DeviceMemory, DevicePin};

use super::super::device::{LaneId, SampleBlock};
use super::super::lane_samples::LaneSamples;
use crate::batch::RowSource;
use crate::error::{Error, Result};
use crate::kernels::gather::cuda::GpuSamples;
use crate::kernels::softmax_cross_entropy::check_labels;
use crate::loss::Loss;
use crate::network::{NeuralNetwork, PassRows};
use crate::samples::{Features, RowFeatures, RowTarget, SampleShape, SampleTargets, Samples};

/// Samples of a lane, or of a block, on a GPU.
pub(super) struct SamplesOnGpu {
    pub(super) rows: usize,
    pub(super) scale: Option<f32>,
    pub(super) features: DevicePin<GpuBuffer>,
    pub(super) targets: DevicePin<GpuBuffer>,
    /// What each weighs, for the host; none where all weigh 1.
    pub(super) weights: Arc<[f32]>,
}

impl SamplesOnGpu {
    /// Those of some indices, as the rows of a pass.
    pub(super) fn rows(&self, sample_indices: &[u32]) -> PassRows {
        let weight = |index: &u32| {
            self.weights
                .get(*index as usize)
                .map_or(1.0, |weight| f64::from(*weight))
        };
        let weight = match self.weights.is_empty() {
            true => sample_indices.len() as f64,
            false => sample_indices.iter().map(weight).sum(),
        };
        PassRows {
            count: sample_indices.len(),
            weight,
        }
    }

    /// As a workspace takes them.
    pub(super) fn as_ref(&self) -> GpuSamples<'_> {
        GpuSamples {
            rows: self.rows,
            features: &self.features,
            scale: self.scale,
            targets: &self.targets,
        }
    }
}

impl SampleBlock {
    /// What a part of it is known by: its features, or its targets.
    pub(super) fn key(self, part: u64) -> DeviceKey {
        let block = BlockId {
            dataset: self.dataset.0,
            partition: self.partition as u64,
        };
        let batch = 2 * self.index as u64 + part;
        DeviceKey::Batch { block, batch }
    }
}

impl LaneId {
    /// What a part of its samples is known by.
    pub(super) fn key(self, part: &str) -> DeviceKey {
        let mut hasher = blake3::Hasher::new_derive_key("distdl 2026 samples of a lane on a device");
        for number in [self.dataset.0, self.lanes as u64, self.lane as u64] {
            hasher.update(&number.to_le_bytes());
        }
        DeviceKey::Content(*hasher.update(part.as_bytes()).finalize().as_bytes())
    }
}

/// What so many samples take there, in bytes: features and targets are buffers of their own.
pub(super) fn taken_bytes(shape: SampleShape, samples: usize) -> u64 {
    let target_bytes = shape.target_bytes();
    let parts = [shape.row_bytes() - target_bytes, target_bytes];
    parts.iter().map(|bytes| Gpu::taken_bytes(bytes * samples) as u64).sum()
}

/// All features of a lane as they are kept, row after row. Errors if the network cannot take one.
pub(super) fn features_of_lane(samples: &mut LaneSamples, network: &NeuralNetwork) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for index in 0..samples.len() {
        match samples.row(index as u32)?.features {
            RowFeatures::U8(row, scale) => {
                let mut inputs = row.iter().map(|byte| f32::from(*byte) * scale);
                in_row(index, network.check_inputs(&mut inputs))?;
                bytes.extend_from_slice(row);
            }
            RowFeatures::F32(row) => {
                in_row(index, network.check_inputs(&mut row.iter().copied()))?;
                bytes.extend_from_slice(bytemuck::cast_slice(row));
            }
        }
    }
    Ok(bytes)
}

/// With the row in the error, which is of one row alone.
fn in_row(index: usize, checked: Result<()>) -> Result<()> {
    checked.map_err(|mut error| {
        if let Error::Index { row, .. } = &mut error {
            *row += index;
        }
        error
    })
}

/// All targets of a lane, row after row. Errors if a label is no class.
pub(super) fn targets_of_lane(samples: &mut LaneSamples, classes: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for index in 0..samples.len() {
        match samples.row(index as u32)?.target {
            RowTarget::Label(label) => {
                check_labels(&[label], classes)?;
                bytes.extend_from_slice(&label.to_ne_bytes());
            }
            RowTarget::Values(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
        }
    }
    Ok(bytes)
}

/// All features of a block as they are kept. Errors if the network cannot take one.
pub(super) fn features_of_block<'a>(samples: &'a Samples, network: &NeuralNetwork) -> Result<&'a [u8]> {
    match samples.features() {
        Features::U8 { bytes, scale } => {
            network.check_inputs(&mut bytes.iter().map(|byte| f32::from(*byte) * scale))?;
            Ok(bytes)
        }
        Features::F32(values) => {
            network.check_inputs(&mut values.iter().copied())?;
            Ok(bytemuck::cast_slice(values))
        }
    }
}

/// All targets of a block as they are kept. Errors if a label is no class.
pub(super) fn targets_of_block(samples: &Samples, classes: usize) -> Result<&[u8]> {
    match samples.targets() {
        SampleTargets::Labels(labels) => {
            check_labels(labels, classes)?;
            Ok(bytemuck::cast_slice(labels))
        }
        SampleTargets::Values { values, .. } => Ok(bytemuck::cast_slice(values)),
        SampleTargets::None => Ok(&[]),
    }
}

/// What each of a block's samples weighs; none where all weigh 1.
pub(super) fn weights_of_block(samples: &Samples, loss: &Loss) -> Arc<[f32]> {
    match samples.targets() {
        SampleTargets::Labels(labels) if !loss.class_weights().is_empty() => {
            labels.iter().map(|label| loss.weight_of(*label)).collect()
        }
        _ => Arc::default(),
    }
}

/// What each of a lane's samples weighs.
pub(super) fn weights_of_lane(samples: &mut LaneSamples, loss: &Loss) -> Result<Vec<f32>> {
    let count = samples.len();
    let weight = |index: usize| match samples.row(index as u32)?.target {
        RowTarget::Label(label) => Ok(loss.weight_of(label)),
        RowTarget::Values(_) => Ok(1.0),
    };
    (0..count).map(weight).collect()
}
