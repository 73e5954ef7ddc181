//! Operators on datasets of samples that count samples and not blocks.

use std::ops::Range;

use distdl_engine::Dataset;

use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use crate::samples::Samples;

/// What is done to samples before training. [`Normalization`](crate::Normalization) fits and transforms datasets too.
///
/// ```
/// use distdl_dl::{Features, PrepareSamples, SampleTargets, Samples};
/// use distdl_engine::{Config, Context};
///
/// let context = Context::new(Config::default())?;
/// let samples = Samples::new(1, Features::F32(vec![0.5; 100]), SampleTargets::Labels(vec![2; 100]))?;
/// let data = context.parallelize(samples.split(4)?, 4).one_hot(3);
/// let [training, test] = &data.split_samples(&[0.8, 0.2], 7)?[..] else { unreachable!() };
/// let count = |data: &distdl_engine::Dataset<Samples>| data.map(|samples| samples.len()).reduce(|a, b| a + b);
/// assert_eq!(count(training)?.unwrap_or(0) + count(test)?.unwrap_or(0), 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait PrepareSamples {
    /// Value targets, `classes` for each sample, instead of labels: 1 at the label and 0 elsewhere, as
    /// [`Samples::one_hot`] for each block. A label that is out of range ends an action with an error that names its
    /// partition and its row in the block.
    #[track_caller]
    fn one_hot(&self, classes: usize) -> Dataset<Samples>;

    /// Splits the samples at random into one dataset for each weight, such as one for training and one for tests; every
    /// sample goes to exactly one of them, in the partition where it was. Which one is a function of (seed, partition, place
    /// in the partition), however the partition is cut into blocks. Blocks that nothing is left of are left out.
    ///
    /// # Errors
    /// If the weights are not positive finite numbers.
    #[track_caller]
    fn split_samples(&self, weights: &[f64], seed: u64) -> Result<Vec<Dataset<Samples>>>;
}

impl PrepareSamples for Dataset<Samples> {
    #[track_caller]
    fn one_hot(&self, classes: usize) -> Dataset<Samples> {
        self.try_map_with_parameters(format!("one_hot {classes}"), move |samples| samples.one_hot(classes))
    }

    #[track_caller]
    fn split_samples(&self, weights: &[f64], seed: u64) -> Result<Vec<Dataset<Samples>>> {
        let mut splits = Vec::with_capacity(weights.len());
        for part in parts(weights)? {
            let parameters = format!("split_samples {part:?} {seed}");
            splits.push(
                self.map_partitions_with_parameters(parameters, move |partition, blocks| {
                    let mut stream = Stream::new(seed, Purpose::Split, [partition as u64, 0]);
                    let part = part.clone();
                    let kept = blocks.map(move |samples| samples.filter(|_| part.contains(&stream.next_unit())));
                    kept.filter(|samples| !samples.is_empty())
                }),
            );
        }
        Ok(splits)
    }
}

/// Parts of [0, 1) as long as their weights say.
fn parts(weights: &[f64]) -> Result<Vec<Range<f64>>> {
    let total: f64 = weights.iter().sum();
    let is_weight = |weight: &f64| *weight > 0.0 && weight.is_finite();
    if weights.is_empty() || !total.is_finite() || !weights.iter().all(is_weight) {
        return Err(Error::Samples(format!(
            "a split by weights {weights:?}; give at least one, all of them positive and finite"
        )));
    }
    let (mut sum, mut low) = (0.0, 0.0);
    let mut parts = Vec::with_capacity(weights.len());
    for (index, weight) in weights.iter().enumerate() {
        sum += weight;
        // The last one ends at 1 whatever rounding made of the sum.
        let high = if index + 1 == weights.len() { 1.0 } else { sum / total };
        parts.push(low..high);
        low = high;
    }
    Ok(parts)
}
