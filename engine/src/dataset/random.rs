//! Transformations that draw random numbers, keyed by logical ids.

use std::collections::HashMap;
use std::sync::Arc;

use distdl_storage::Record;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::batch::Batch;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::memo::{digest, digest_in_words};
use crate::partitioner::Key;

impl<T: Record> Dataset<T> {
    /// Keeps each record with probability `fraction`, decided by a generator keyed by (seed, partition, position). What
    /// other operators draw with the same seed is independent of it.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let sample = context.range(0..10_000, 4).sample(0.1, 7)?;
    /// let records = sample.collect()?;
    /// assert!((900..1100).contains(&records.len()), "about a tenth, not exactly");
    /// assert!(records.is_sorted(), "records keep their order");
    /// assert_eq!(sample.collect()?, records, "what is drawn is a function of the seed");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If `fraction` is not between 0 and 1.
    #[track_caller]
    pub fn sample(&self, fraction: f64, seed: u64) -> Result<Dataset<T>> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(EngineError::invalid(
                format!("`sample` of a fraction of {fraction}"),
                "give a fraction between 0 and 1",
            ));
        }
        let parameters = format!("{fraction:?} {seed}");
        Ok(self.keep_where_drawn(Purpose::Sample, parameters, seed, move |_, draw| draw < fraction))
    }

    /// Splits the dataset at random into one dataset for each weight; every record goes to exactly one of them.
    ///
    /// # Errors
    /// If the weights are not positive finite numbers.
    #[track_caller]
    pub fn random_split(&self, weights: &[f64], seed: u64) -> Result<Vec<Dataset<T>>> {
        let total: f64 = weights.iter().sum();
        if weights.is_empty() || !total.is_finite() || weights.iter().any(|weight| weight.is_nan() || *weight <= 0.0) {
            return Err(EngineError::invalid(
                format!("`random_split` by weights {weights:?}"),
                "give at least one weight, all of them positive and finite",
            ));
        }
        let mut splits = Vec::with_capacity(weights.len());
        let mut sum = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            let low = sum / total;
            sum += weight;
            // The last one ends at 1 whatever rounding made of the sum.
            let high = if index + 1 == weights.len() { 1.0 } else { sum / total };
            let (keep, parameters) = (
                move |_: &T, draw| low <= draw && draw < high,
                format!("{low:?} {high:?} {seed}"),
            );
            splits.push(self.keep_where_drawn(Purpose::RandomSplit, parameters, seed, keep));
        }
        Ok(splits)
    }

    #[track_caller]
    fn keep_where_drawn(
        &self,
        purpose: Purpose,
        parameters: String,
        seed: u64,
        keep: impl Fn(&T, f64) -> bool + Send + Sync + 'static,
    ) -> Dataset<T> {
        let keep = Arc::new(keep);
        self.batchwise_with(purpose.operator(), parameters, true, move |_, partition| {
            let (mut draws, keep) = (draws(purpose, seed, partition), Arc::clone(&keep));
            move |batch: Batch<T>| {
                let mut kept = Vec::new();
                for record in batch.as_slice() {
                    if keep(record, draws()) {
                        kept.push(record.clone());
                    }
                }
                Ok(kept)
            }
        })
    }
}

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// Keeps each record with the probability that `fractions` gives for its key, and none of a key that is not in
    /// there. What is drawn is keyed by (seed, partition, position), as for [`sample`](Self::sample).
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.range(0..300, 2).key_by(|number| number % 3);
    /// let sample = pairs.sample_by_key([(0, 1.0), (1, 0.5)].into(), 7)?;
    /// let counts = sample.map(|(key, _)| key).count_by_value()?;
    /// assert_eq!(counts[0], (0, 100));
    /// assert_eq!(counts.len(), 2, "nothing is kept of a key without a fraction");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If a fraction is not between 0 and 1.
    #[track_caller]
    pub fn sample_by_key(&self, fractions: HashMap<K, f64>, seed: u64) -> Result<Dataset<(K, V)>> {
        if let Some(wrong) = fractions.values().find(|fraction| !(0.0..=1.0).contains(*fraction)) {
            return Err(EngineError::invalid(
                format!("`sample_by_key` with a fraction of {wrong}"),
                "give fractions between 0 and 1",
            ));
        }
        let mut named: Vec<_> = fractions
            .iter()
            .map(|(key, fraction)| digest(&(key, fraction)))
            .collect();
        named.sort_unstable();
        let parameters = format!("{seed} {}", digest_in_words(&named));
        let keep = move |(key, _): &(K, V), draw: f64| fractions.get(key).is_some_and(|fraction| draw < *fraction);
        Ok(self.keep_where_drawn(Purpose::SampleByKey, parameters, seed, keep))
    }
}

/// What numbers are drawn for. Each operator has numbers of its own, so that a sample of a dataset is not all in one
/// part of a split of it with the same seed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Sample,
    RandomSplit,
    SampleByKey,
    TakeSample,
    TakeSampleWithReplacement,
    SortBounds,
}

impl Purpose {
    fn operator(self) -> &'static str {
        match self {
            Self::Sample => "sample",
            Self::RandomSplit => "random_split",
            Self::SampleByKey => "sample_by_key",
            Self::TakeSample => "take_sample",
            Self::TakeSampleWithReplacement => "take_sample_with_replacement",
            Self::SortBounds => "sort_by_key",
        }
    }
}

/// Uniform numbers in [0, 1), the n-th of which is a function of (purpose, seed, partition, n).
fn draws(purpose: Purpose, seed: u64, partition: usize) -> impl FnMut() -> f64 {
    let mut generator = generator(purpose, seed, partition);
    // 53 random bits fill the mantissa.
    move || (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Numbers of which the n-th is a function of (purpose, seed, partition, n).
pub(crate) fn generator(purpose: Purpose, seed: u64, partition: usize) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    // There are no more than a million partitions.
    generator.set_stream(((purpose as u64) << 32) | partition as u64);
    generator
}
