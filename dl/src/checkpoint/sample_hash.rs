//! What tells the data of one training from that of another.

use crate::samples::{Features, SampleTargets, Samples};

/// Adds samples to a hash: their shape and all their bits.
pub(crate) fn hash_samples(hasher: &mut blake3::Hasher, samples: &Samples) {
    let mut numbers = |numbers: [u64; 2]| {
        hasher.update(bytemuck::cast_slice(&numbers));
    };
    numbers([samples.len() as u64, samples.feature_length() as u64]);
    match samples.features() {
        Features::U8 { bytes, scale } => {
            hasher.update(&scale.to_le_bytes()).update(bytes);
        }
        Features::F32(values) => {
            hasher.update(b"f32").update(bytemuck::cast_slice(values));
        }
    }
    match samples.targets() {
        SampleTargets::Labels(labels) => {
            hasher.update(b"labels").update(bytemuck::cast_slice(labels));
        }
        SampleTargets::Values { length, values } => {
            let length = *length as u64;
            hasher
                .update(&length.to_le_bytes())
                .update(bytemuck::cast_slice(values));
        }
        SampleTargets::None => {
            hasher.update(b"none");
        }
    }
}
