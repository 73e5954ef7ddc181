//! Operators on datasets of samples that count samples and not blocks.

use std::ops::Range;

use distdl_engine::{Dataset, PartitionFunction, Partitioner};

use crate::error::{Error, Result};
use crate::rng::{Purpose, Stream};
use crate::samples::Samples;

/// What small blocks are put together to, at most, in bytes.
const BLOCK_BYTES: u64 = 1 << 20;

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
    /// sample goes to exactly one of them, in the partition where it was. Which one is a function of (seed, partition,
    /// place in the partition), however the partition is cut into blocks. Blocks that nothing is left of are left out.
    ///
    /// # Errors
    /// If the weights are not positive finite numbers.
    #[track_caller]
    fn split_samples(&self, weights: &[f64], seed: u64) -> Result<Vec<Dataset<Samples>>>;

    /// Deals the samples of each partition at random to as many partitions, so that these are alike wherever samples
    /// lay: to be done before training on data that lies in some order, such as by class, as each lane has its
    /// partitions. One shuffle, best persisted.
    ///
    /// Of as many samples in a row as there are partitions each gets one, so they have nearly equally many. Where a
    /// sample goes is a function of (seed, partition, place in the partition), however the partition is cut into
    /// blocks; there, samples are in the order of (partition, place) where they were: training walks through them in
    /// another order in each epoch by itself.
    ///
    /// ```
    /// use distdl_dl::{Features, PrepareSamples, SampleTargets, Samples};
    /// use distdl_engine::{Config, Context};
    ///
    /// let context = Context::new(Config::default())?;
    /// let labels = (0..100).map(|sample| sample / 50).collect(); // the first half is of one class
    /// let samples = Samples::new(1, Features::F32(vec![0.5; 100]), SampleTargets::Labels(labels))?;
    /// let data = context.parallelize(samples.split(2)?, 2).shuffle_samples(7).cache();
    /// for samples in data.collect()? {
    ///     let SampleTargets::Labels(labels) = samples.targets() else { unreachable!() };
    ///     assert_eq!(labels.iter().filter(|label| **label == 0).count(), 25);
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    fn shuffle_samples(&self, seed: u64) -> Dataset<Samples>;
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

    #[track_caller]
    fn shuffle_samples(&self, seed: u64) -> Dataset<Samples> {
        let partitions = self.partitions();
        let parameters = format!("shuffle_samples {partitions} {seed}");
        let dealt = self.map_partitions_with_parameters(parameters, move |partition, blocks| {
            let mut dealer = Dealer::new(seed, partition, partitions);
            blocks.flat_map(move |samples: Samples| dealer.deal(&samples))
        });
        dealt.partition_by(Dealt(partitions)).values().map_partitions(in_blocks)
    }
}

/// Deals the samples of a partition, in order.
struct Dealer {
    stream: Stream,
    /// Those before `left` have no sample of the current round yet.
    partitions: Vec<u32>,
    left: usize,
}

impl Dealer {
    fn new(seed: u64, partition: usize, partitions: usize) -> Self {
        Self {
            stream: Stream::new(seed, Purpose::Dealing, [partition as u64, 0]),
            partitions: (0..partitions as u32).collect(),
            left: partitions,
        }
    }

    /// The partition of the next sample: by Fisher and Yates's shuffle, begun anew when each has had one.
    fn next(&mut self) -> u32 {
        if self.left == 0 {
            self.left = self.partitions.len();
        }
        let drawn = self.stream.next_below(self.left as u32) as usize;
        self.left -= 1;
        self.partitions.swap(drawn, self.left);
        self.partitions[self.left]
    }

    /// What of the samples goes to each partition that gets any.
    fn deal(&mut self, samples: &Samples) -> Vec<(u32, Samples)> {
        let places: Vec<u32> = (0..samples.len()).map(|_| self.next()).collect();
        let mut wanted = places.clone();
        wanted.sort_unstable();
        wanted.dedup();
        let piece = |partition| (partition, samples.filter(|row| places[row] == partition));
        wanted.into_iter().map(piece).collect()
    }
}

/// Partitions by their number.
struct Dealt(usize);

impl Partitioner<u32> for Dealt {
    fn partitions(&self) -> usize {
        self.0
    }

    fn partition(&self, partition: &u32) -> usize {
        *partition as usize
    }

    fn function(&self) -> PartitionFunction {
        PartitionFunction::custom::<Self>("")
    }
}

/// Small blocks of the same shape as fewer larger ones, in order: what reads them takes one at a time.
fn in_blocks(pieces: impl Iterator<Item = Samples>) -> impl Iterator<Item = Samples> {
    let mut pieces = pieces.peekable();
    std::iter::from_fn(move || {
        let mut block = pieces.next()?;
        while let Some(piece) = pieces.peek() {
            if block.memory_bytes() + piece.memory_bytes() > BLOCK_BYTES || !block.append(piece) {
                break;
            }
            pieces.next();
        }
        Some(block)
    })
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
