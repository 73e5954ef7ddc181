//! Statistics of numbers, in one pass each.

use std::iter::Sum;

use distdl_storage::Record;
use serde::{Deserialize, Serialize};

use crate::action::fold::join_in_tree;
use crate::batch::typed_batches;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};

/// Count, mean, spread and extremes of numbers.
///
/// Each number is taken in by Welford's formula (1962), and parts are merged by that of Chan, Golub and LeVeque (1979):
/// no sum of squares is formed, so that a small spread around a large mean keeps its digits. What is not a number makes
/// all but the count not a number.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    count: u64,
    mean: f64,
    /// Sum of the squared distances from the mean.
    squares: f64,
    min: f64,
    max: f64,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            count: 0,
            mean: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
        }
    }
}

impl Stats {
    /// Takes in one more number.
    pub fn add(&mut self, value: f64) {
        self.count += 1;
        let distance = value - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (value - self.mean);
        self.min = smaller(self.min, value);
        self.max = -smaller(-self.max, -value);
    }

    /// The statistics of the numbers of both.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        if self.count == 0 || other.count == 0 {
            return if self.count == 0 { other } else { self };
        }
        let (left, right) = (self.count as f64, other.count as f64);
        let (distance, share) = (other.mean - self.mean, right / (left + right));
        Self {
            count: self.count + other.count,
            mean: self.mean + distance * share,
            squares: self.squares + other.squares + distance * distance * left * share,
            min: smaller(self.min, other.min),
            max: -smaller(-self.max, -other.max),
        }
    }

    /// How many numbers there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their mean; 0 if there were none.
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// Their sum, from count and mean.
    pub fn sum(&self) -> f64 {
        self.mean * self.count as f64
    }

    /// The mean squared distance from the mean; not a number if there were none.
    pub fn variance(&self) -> f64 {
        self.squares / self.count as f64
    }

    /// The variance of what the numbers are a sample of: by `count - 1`. Not a number if there were fewer than two.
    pub fn sample_variance(&self) -> f64 {
        match self.count {
            0 => f64::NAN,
            count => self.squares / (count - 1) as f64,
        }
    }

    /// The standard deviation: the root of [`Stats::variance`].
    pub fn stdev(&self) -> f64 {
        self.variance().sqrt()
    }

    /// The root of [`Stats::sample_variance`].
    pub fn sample_stdev(&self) -> f64 {
        self.sample_variance().sqrt()
    }

    /// The smallest number; infinity if there were none.
    pub fn min(&self) -> f64 {
        self.min
    }

    /// The largest number; minus infinity if there were none.
    pub fn max(&self) -> f64 {
        self.max
    }
}

/// The smaller one, or what is not a number.
fn smaller(left: f64, right: f64) -> f64 {
    if right < left || right.is_nan() { right } else { left }
}

/// How many numbers lie between neighbouring edges.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Histogram {
    /// Ascending; one more than there are counts.
    pub edges: Vec<f64>,
    /// Count `n` is that of the numbers from edge `n`, included, to edge `n + 1`, which only the last one includes.
    pub counts: Vec<u64>,
}

/// Most buckets of a histogram.
const BUCKETS_MAX: usize = 1 << 20;

impl<T: Record + Sum> Dataset<T> {
    /// The sum of all records, in their order within a partition, and of partitions in a fixed binary tree: of floats,
    /// too, its bits do not depend on the number of workers. Integers that do not hold it do what their `+` does.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// assert_eq!(context.range(0..101, 4).sum()?, 5050);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn sum(&self) -> Result<T> {
        let sum = self.tree_reduce(|left, right| [left, right].into_iter().sum())?;
        Ok(sum.unwrap_or_else(|| std::iter::empty().sum()))
    }
}

impl<T: Record + Into<f64>> Dataset<T> {
    /// Count, mean, variance, standard deviation and extremes, in one pass without a shuffle. Of integers of 64 bits,
    /// which are not all of them an `f64`: `map(|number| number as f64)` first.
    ///
    /// Records are taken in order and partitions merged in a fixed binary tree over their indices, so that the bits
    /// depend on neither placement nor the number of workers.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let stats = context.parallelize([2.0, 4.0, 4.0, 6.0], 2).stats()?;
    /// assert_eq!((stats.count(), stats.mean(), stats.min(), stats.max()), (4, 4.0, 2.0, 6.0));
    /// assert_eq!(stats.variance(), 2.0);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn stats(&self) -> Result<Stats> {
        let parts = self.run_all(|_, _, stream| {
            let mut stats = Stats::default();
            for batch in typed_batches::<T>(stream) {
                batch?.for_each(|record| stats.add(record.into()));
            }
            Ok(stats)
        })?;
        Ok(join_in_tree(parts, Stats::merge).unwrap_or_default())
    }

    /// Counts the numbers in `buckets` ranges of equal width from the smallest to the largest one; in one range if
    /// these are equal. Two passes without a shuffle.
    ///
    /// # Errors
    /// [`EngineError::Empty`] if there is no record; if `buckets` is 0 or beyond 2^20, or there is a number that is not
    /// finite; otherwise as any action.
    pub fn histogram(&self, buckets: usize) -> Result<Histogram> {
        self.context().keep_for_several_reads(self.id())?;
        let stats = self.stats()?;
        if stats.count() == 0 {
            return Err(EngineError::Empty {
                action: "histogram".into(),
                instead: "histogram_between".into(),
            });
        }
        let (low, high) = (stats.min(), stats.max());
        if !low.is_finite() || !high.is_finite() {
            let what = format!("`histogram` of numbers from {low} to {high}");
            return Err(EngineError::invalid(
                what,
                "filter out what is not finite, or name the edges",
            ));
        }
        if buckets == 0 || buckets > BUCKETS_MAX {
            let what = format!("`histogram` of {buckets} buckets");
            return Err(EngineError::invalid(what, format!("ask for 1 to {BUCKETS_MAX}")));
        }
        self.histogram_between(&even_edges(low, high, buckets))
    }

    /// Counts the numbers between neighbouring `edges`; what lies outside all of them counts nowhere. A pass without a
    /// shuffle.
    ///
    /// # Errors
    /// If there are fewer than two edges or more than 2^20 ranges, or edges do not ascend; otherwise as any action.
    pub fn histogram_between(&self, edges: &[f64]) -> Result<Histogram> {
        let ascend = edges.windows(2).all(|pair| pair[0] < pair[1]) || edges.len() == 2 && edges[0] == edges[1];
        if edges.len() < 2 || edges.len() > BUCKETS_MAX + 1 || !ascend {
            let what = format!("a histogram between {} edges", edges.len());
            return Err(EngineError::invalid(
                what,
                format!("give 2 to {} that ascend", BUCKETS_MAX + 1),
            ));
        }
        let edges = edges.to_vec();
        let between = edges.clone();
        let parts = self.run_all(move |_, _, stream| {
            let mut counts = vec![0u64; between.len() - 1];
            for batch in typed_batches::<T>(stream) {
                batch?.for_each(|record| {
                    if let Some(bucket) = bucket(&between, record.into()) {
                        counts[bucket] += 1;
                    }
                });
            }
            Ok(counts)
        })?;
        let mut counts = vec![0u64; edges.len() - 1];
        for part in parts {
            counts.iter_mut().zip(part).for_each(|(count, more)| *count += more);
        }
        Ok(Histogram { edges, counts })
    }
}

/// From `low` to `high`, both exactly; fewer where floats lie no closer.
fn even_edges(low: f64, high: f64, buckets: usize) -> Vec<f64> {
    let inner = (1..buckets).map(|edge| {
        let share = edge as f64 / buckets as f64;
        // Each end by its share: their difference might overflow.
        low * (1.0 - share) + high * share
    });
    let mut edges = vec![low];
    for edge in inner {
        if edges.last().is_some_and(|last| *last < edge) && edge < high {
            edges.push(edge);
        }
    }
    edges.push(high);
    edges
}

fn bucket(edges: &[f64], value: f64) -> Option<usize> {
    let (low, high) = (edges.first()?, edges.last()?);
    if value == *high {
        return Some(edges.len() - 2);
    }
    (*low <= value && value < *high).then(|| edges.partition_point(|edge| *edge <= value) - 1)
}
