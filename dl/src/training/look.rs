//! A first look at the data of a training.

use distdl_engine::Dataset;

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::network::NeuralNetwork;
use crate::samples::{SampleTargets, Samples};

/// What a training has to know of its data.
pub(super) struct Look {
    /// Number of samples of each lane.
    pub(super) lengths: Vec<u32>,
    /// Whether all targets are labels.
    pub(super) has_labels: bool,
    /// Of all samples, if it was wanted.
    pub(super) digest: String,
}

/// Looks at all samples, and makes a digest of them if it is `wanted`; checks that blocks suit the network.
pub(super) fn look_at(
    network: &NeuralNetwork,
    data: &Dataset<Samples>,
    lanes: usize,
    wanted: bool,
) -> Result<Look> {
    let (classes, loss) = (network.output_length(), network.loss());
    let looks = data.run_partitions(move |_, blocks| {
        let mut hasher = blake3::Hasher::new();
        let mut shapes: Vec<(usize, usize, Option<usize>)> = Vec::new();
        let (mut before, mut no_class) = (0, None);
        for samples in blocks {
            if let SampleTargets::Labels(labels) = samples.targets() {
                let found = labels.iter().position(|label| *label as usize >= classes);
                no_class = no_class.or_else(|| found.map(|row| (before + row, labels[row])));
            }
            before += samples.len();
            shapes.push((samples.feature_length(), samples.len(), samples.shape().target_length));
            if wanted {
                checkpoint::hash_samples(&mut hasher, &samples);
            }
        }
        Ok((shapes, *hasher.finalize().as_bytes(), no_class))
    })?;
    let mut digest = blake3::Hasher::new();
    let (mut lengths, mut has_labels) = (vec![0u32; lanes], true);
    for (partition, (shapes, hash, no_class)) in looks.into_iter().enumerate() {
        digest.update(&hash);
        let trouble = shapes
            .iter()
            .find_map(|(.., targets)| loss.trouble_with(*targets, classes));
        if let Some(trouble) = trouble {
            return Err(Error::Data(format!("partition {partition}: {trouble}")));
        }
        if let Some((sample, label)) = no_class {
            return Err(Error::Data(format!(
                "sample {sample} of partition {partition} has the label {label}, and the network has {classes} outputs; labels count \
                 from 0: mend the data, or give the last layer more outputs"
            )));
        }
        for (got, samples, targets) in shapes {
            has_labels &= samples == 0 || targets.is_none();
            let expected = network.input_length();
            if expected != got {
                return Err(Error::Data(format!(
                    "partition {partition} has samples of {got} features, the network takes {expected}; change `Input` or the data"
                )));
            }
            let length = &mut lengths[partition % lanes];
            *length = u32::try_from(samples)
                .ok()
                .and_then(|samples| length.checked_add(samples))
                .ok_or_else(|| {
                    Error::Data(format!(
                        "lane {} has more than {} samples; use more lanes",
                        partition % lanes,
                        u32::MAX
                    ))
                })?;
        }
    }
    Ok(Look {
        lengths,
        has_labels,
        digest: digest.finalize().to_hex().to_string(),
    })
}
