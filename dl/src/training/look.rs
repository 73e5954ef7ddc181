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
pub(super) fn look_at(network: &NeuralNetwork, data: &Dataset<Samples>, lanes: usize, wanted: bool) -> Result<Look> {
    let classes = network.output_length();
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
    let (mut lengths, mut has_labels, mut target_length) = (vec![0u32; lanes], None, None);
    for (partition, (shapes, hash, no_class)) in looks.into_iter().enumerate() {
        digest.update(&hash);
        let mut targets = shapes.iter().map(|(.., targets)| *targets);
        targets.try_for_each(|targets| check_targets(network, partition, targets))?;
        if let Some((sample, label)) = no_class {
            return Err(Error::Data(format!(
                "sample {sample} of partition {partition} has the label {label}, and the network has {classes} outputs; labels count \
                 from 0: mend the data, or give the last layer more outputs"
            )));
        }
        for (got, samples, targets) in shapes {
            if samples > 0 {
                check_kind(
                    partition,
                    *has_labels.get_or_insert(targets.is_none()),
                    targets.is_none(),
                )?;
                check_length_of_targets(partition, *target_length.get_or_insert(targets), targets)?;
            }
            check_features(network, partition, got)?;
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
        has_labels: has_labels.unwrap_or(true),
        digest: digest.finalize().to_hex().to_string(),
    })
}

/// Errors if samples of so many features are not what a network takes.
pub(super) fn check_features(network: &NeuralNetwork, partition: usize, got: usize) -> Result<()> {
    let expected = network.input_length();
    match expected == got {
        true => Ok(()),
        false => Err(Error::Data(format!(
            "partition {partition} has samples of {got} features, the network takes {expected}; change `Input` or the data"
        ))),
    }
}

/// Errors if targets of so many values, or labels, are not what a network's loss takes.
pub(super) fn check_targets(network: &NeuralNetwork, partition: usize, target_length: Option<usize>) -> Result<()> {
    match network.loss().trouble_with(target_length, network.output_length()) {
        None => Ok(()),
        Some(trouble) => Err(Error::Data(format!("partition {partition}: {trouble}"))),
    }
}

/// Errors if targets are of another kind than those before them.
fn check_kind(partition: usize, before_are_labels: bool, are_labels: bool) -> Result<()> {
    let name = |are_labels| if are_labels { "labels" } else { "target values" };
    match before_are_labels == are_labels {
        true => Ok(()),
        false => Err(Error::Data(format!(
            "partition {partition} has samples with {}, and those before them have {}; give all samples targets of one kind",
            name(are_labels),
            name(before_are_labels)
        ))),
    }
}

/// Errors if the length of target values is not that of those before them, `None` of labels.
fn check_length_of_targets(partition: usize, before: Option<usize>, length: Option<usize>) -> Result<()> {
    match (before, length) {
        (Some(before), Some(length)) if before != length => Err(Error::Data(format!(
            "partition {partition} has samples with {length} target values, and those before them have {before}; give all samples as \
             many"
        ))),
        _ => Ok(()),
    }
}
