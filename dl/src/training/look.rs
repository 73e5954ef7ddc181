//! A first look at the data of a training.

use std::ops::Range;

use distdl_engine::Dataset;

use crate::checkpoint;
use crate::error::{Error, Result, no_index};
use crate::network::NeuralNetwork;
use crate::samples::{Features, SampleTargets, Samples};

/// What a training has to know of its data.
pub(super) struct Look {
    /// Number of samples of each lane.
    pub(super) lengths: Vec<u32>,
    /// Whether all targets are labels.
    pub(super) has_labels: bool,
    /// Of all samples, if it was wanted.
    pub(super) digest: String,
}

/// Looks at all samples, and makes a digest of them if it is `wanted`; checks that they suit the network. What a block
/// without samples would have is no matter.
pub(super) fn look_at(network: &NeuralNetwork, data: &Dataset<Samples>, lanes: usize, wanted: bool) -> Result<Look> {
    let of_network = network.clone();
    let looks = data.run_partitions(move |_, blocks| {
        let mut hasher = blake3::Hasher::new();
        let mut shapes: Vec<(usize, usize, Option<usize>)> = Vec::new();
        let (mut before, mut unsuitable) = (0, None);
        for samples in blocks {
            if unsuitable.is_none() && samples.feature_length() == of_network.input_length() {
                let rows = 0..samples.len();
                let checked = check_row_features(&of_network, &samples, rows.clone());
                let checked = checked.and_then(|()| check_row_targets(&of_network, &samples, rows));
                unsuitable = checked.err().map(|found| (before + found.row, found.what));
            }
            if !samples.is_empty() {
                shapes.push((samples.feature_length(), samples.len(), samples.shape().target_length));
            }
            before += samples.len();
            if wanted {
                checkpoint::hash_samples(&mut hasher, &samples);
            }
        }
        Ok((shapes, *hasher.finalize().as_bytes(), unsuitable))
    })?;
    let mut digest = blake3::Hasher::new();
    let (mut lengths, mut has_labels, mut target_length) = (vec![0u32; lanes], None, None);
    for (partition, (shapes, hash, unsuitable)) in looks.into_iter().enumerate() {
        digest.update(&hash);
        for (features, _, targets) in &shapes {
            check_features(network, partition, *features)?;
            check_targets(network, partition, *targets)?;
        }
        if let Some((sample, what)) = unsuitable {
            return Err(unsuitable_sample(partition, sample, &what));
        }
        for (_, samples, targets) in shapes {
            check_kind(
                partition,
                *has_labels.get_or_insert(targets.is_none()),
                targets.is_none(),
            )?;
            check_length_of_targets(partition, *target_length.get_or_insert(targets), targets)?;
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

/// A row of a block that a network cannot use, and why.
pub(super) struct UnsuitableRow {
    pub(super) row: usize,
    pub(super) what: String,
}

/// The error of a sample that a network cannot use, counted from the partition's first.
pub(super) fn unsuitable_sample(partition: usize, sample: usize, what: &str) -> Error {
    Error::Data(format!("sample {sample} of partition {partition} {what}"))
}

/// The first of some rows of a block whose features a network refuses, for their values.
pub(super) fn check_row_features(
    network: &NeuralNetwork,
    samples: &Samples,
    mut rows: Range<usize>,
) -> Result<(), UnsuitableRow> {
    let length = samples.feature_length();
    rows.try_for_each(|row| {
        let features = row * length..(row + 1) * length;
        let checked = match samples.features() {
            Features::F32(values) => network.check_inputs(&mut values[features].iter().copied()),
            Features::U8 { bytes, scale } => {
                network.check_inputs(&mut bytes[features].iter().map(|byte| f32::from(*byte) * scale))
            }
        };
        checked.map_err(|error| UnsuitableRow {
            row,
            what: match error {
                Error::Index {
                    feature,
                    value,
                    num_embeddings,
                    ..
                } => format!(
                    "has {value} as feature {feature}, which is {}",
                    no_index(num_embeddings)
                ),
                error => format!("is refused: {error}"),
            },
        })
    })
}

/// The first of some rows of a block whose target a network's loss does not take, for its value.
pub(super) fn check_row_targets(
    network: &NeuralNetwork,
    samples: &Samples,
    rows: Range<usize>,
) -> Result<(), UnsuitableRow> {
    let SampleTargets::Values { length, values } = samples.targets() else {
        return check_row_labels(network, samples, rows);
    };
    let loss = network.loss();
    match loss.first_refused(&values[rows.start * length..rows.end * length]) {
        None => Ok(()),
        Some((place, takes)) => {
            let place = rows.start * length + place;
            Err(UnsuitableRow {
                row: place / length,
                what: format!(
                    "has {} as target value {}, and {} takes {takes}; mend the data, or take another loss",
                    values[place],
                    place % length,
                    loss.name()
                ),
            })
        }
    }
}

/// The first of some rows of a block whose label is no class of a network.
pub(super) fn check_row_labels(
    network: &NeuralNetwork,
    samples: &Samples,
    rows: Range<usize>,
) -> Result<(), UnsuitableRow> {
    let (SampleTargets::Labels(labels), classes) = (samples.targets(), network.output_length()) else {
        return Ok(());
    };
    let mut labelled = rows.clone().zip(&labels[rows]);
    match labelled.find(|(_, label)| **label as usize >= classes) {
        None => Ok(()),
        Some((row, label)) => Err(UnsuitableRow {
            row,
            what: format!(
                "has the label {label}, and the network has {classes} outputs; labels count from 0: mend the data, or give the \
                 last layer more outputs"
            ),
        }),
    }
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

/// The first number of samples that is NaN or infinite, and where it is.
pub(super) fn not_finite(data: &Dataset<Samples>) -> Result<Option<String>> {
    let found = data.run_partitions(|partition, blocks| {
        let mut before = 0;
        for samples in blocks {
            if let Some((row, what)) = not_finite_in(&samples) {
                let sample = before + row;
                return Ok(Some(format!("sample {sample} of partition {partition} has {what}")));
            }
            before += samples.len();
        }
        Ok(None)
    })?;
    Ok(found.into_iter().flatten().next())
}

/// The row of the first such number, and what it is.
fn not_finite_in(samples: &Samples) -> Option<(usize, String)> {
    let find = |values: &[f32], length: usize, name: &str| {
        let place = values.iter().position(|value| !value.is_finite())?;
        let what = format!("{} as {name} {}", values[place], place % length);
        Some((place / length, what))
    };
    let feature = match samples.features() {
        Features::F32(values) => find(values, samples.feature_length(), "feature"),
        Features::U8 { .. } => None,
    };
    feature.or_else(|| match samples.targets() {
        SampleTargets::Values { length, values } => find(values, *length, "target value"),
        SampleTargets::Labels(_) | SampleTargets::None => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use distdl_engine::{Config, Context};

    use super::*;

    #[test]
    fn the_first_number_that_is_not_finite_is_named_by_its_place_in_the_partition() {
        let context = Context::new(Config::default()).unwrap();
        let block = |features: [f32; 4], values: [f32; 4]| {
            let targets = SampleTargets::Values {
                length: 2,
                values: values.to_vec(),
            };
            Samples::new(2, Features::F32(features.to_vec()), targets).unwrap()
        };
        let zeros = [0.0; 4];
        let of = |blocks| not_finite(&context.parallelize(blocks, 1)).unwrap();
        assert_eq!(of(vec![block(zeros, zeros); 2]), None);
        let targets = [0.0, 0.0, 0.0, f32::NAN];
        let says = "sample 3 of partition 0 has NaN as target value 1";
        assert_eq!(of(vec![block(zeros, zeros), block(zeros, targets)]).unwrap(), says);
        let features = [0.0, 0.0, f32::INFINITY, 0.0];
        let says = "sample 1 of partition 0 has inf as feature 0";
        assert_eq!(of(vec![block(features, targets), block(zeros, targets)]).unwrap(), says);
    }
}
