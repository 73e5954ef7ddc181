//! Which partition a key belongs to: a function of the key alone, the same in every process.

use std::any::{Any, TypeId};
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use distdl_storage::Record;
use foldhash::fast::FixedState;
use rand_core::RngCore;

use crate::error::{EngineError, Result};
use crate::id::DatasetId;

/// What may be a key of a shuffle. Floating-point numbers have neither a hash nor an order: the crate `ordered-float`,
/// with its feature `serde`, has types around them that are keys and can be sorted.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no key of a dataset",
    label = "cannot be a key",
    note = "derive `Clone`, `PartialEq`, `Eq`, `Hash`, `serde::Serialize` and `serde::Deserialize` for it; of floating-point numbers take `ordered_float::OrderedFloat`, with the feature `serde` of that crate"
)]
pub trait Key: Record + Hash + Eq {}

#[diagnostic::do_not_recommend]
impl<K: Record + Hash + Eq> Key for K {}

/// The hash behind every hash-partitioned dataset and hash table of the engine: one fixed seed, so that all processes
/// and all runs of one binary agree.
pub(crate) fn hasher() -> FixedState {
    FixedState::with_seed(0x6469_7374_646c)
}

/// Where a range of keys begins and ends.
pub type KeyRange<'a, K> = (Bound<&'a K>, Bound<&'a K>);

/// A function from keys to partitions. Programs may bring their own to
/// [`partition_by`](crate::Dataset::partition_by).
///
/// ```
/// use distdl_engine::{PartitionFunction, Partitioner};
///
/// /// Words by their first letter.
/// struct FirstLetter;
///
/// impl Partitioner<String> for FirstLetter {
///     fn partitions(&self) -> usize {
///         27
///     }
///     fn partition(&self, word: &String) -> usize {
///         let letter = word.bytes().next().map(|letter| letter.to_ascii_lowercase());
///         letter.filter(u8::is_ascii_lowercase).map_or(26, |letter| usize::from(letter - b'a'))
///     }
///     fn function(&self) -> PartitionFunction {
///         PartitionFunction::custom::<Self>("")
///     }
/// }
/// ```
pub trait Partitioner<K>: Send + Sync + 'static {
    /// Number of partitions, at least 1: with 0 the first action fails.
    fn partitions(&self) -> usize;
    /// The 0-based partition of a key: a function of the key alone, the same in every process.
    fn partition(&self, key: &K) -> usize;
    /// Which function of the key this is. What two partitioners of the same number of partitions with equal answers
    /// have placed lies alike, and is joined without a shuffle.
    fn function(&self) -> PartitionFunction;
    /// Whether [`partition`](Self::partition) can be relied on yet. Where keys are sorted it is known only once they
    /// have been sampled, and never where sorted records are read that another run has kept.
    fn is_known(&self) -> bool {
        true
    }
    /// Whether a partition may hold keys of a range. One that says so need not be read for
    /// [`filter_by_range`](crate::Dataset::filter_by_range). All processes must come to the same; a panic rules nothing
    /// out.
    fn may_hold(&self, _partition: usize, _range: KeyRange<'_, K>) -> bool {
        true
    }
}

/// A function from keys to partitions, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartitionFunction {
    /// The engine's fixed hash.
    Hash,
    /// Ranges of the keys' order, with bounds sampled from this dataset.
    Range {
        /// The dataset that was sampled.
        sampled: DatasetId,
        /// Whether the largest keys come first.
        descending: bool,
    },
    /// One of the program's own.
    Custom {
        /// The type that implements [`Partitioner`].
        partitioner: TypeId,
        /// That type's name, which is the same in another run.
        name: &'static str,
        /// What tells its values apart.
        parameters: Arc<str>,
    },
}

impl PartitionFunction {
    /// The function of a partitioner of type `P`. `parameters` tell its values apart: two with equal ones must send
    /// every key to the same partition.
    pub fn custom<P: 'static>(parameters: impl fmt::Display) -> Self {
        Self::Custom {
            partitioner: TypeId::of::<P>(),
            name: std::any::type_name::<P>(),
            parameters: parameters.to_string().into(),
        }
    }
}

/// How the keys of a dataset are placed, compared to see whether two datasets lie alike.
#[derive(Clone)]
pub(crate) struct Partitioning {
    /// Number of partitions.
    pub partitions: usize,
    /// Type of the keys.
    pub key: TypeId,
    /// Which function of the key.
    pub function: PartitionFunction,
    /// An `Arc<dyn Partitioner<K>>`.
    partitioner: Arc<dyn Any + Send + Sync>,
}

impl Partitioning {
    /// That of a partitioner.
    pub(crate) fn of<K: Key>(partitioner: Arc<dyn Partitioner<K>>) -> Self {
        Self {
            partitions: partitioner.partitions(),
            key: TypeId::of::<K>(),
            function: partitioner.function(),
            partitioner: Arc::new(partitioner),
        }
    }

    /// The function itself, if keys are of type `K`.
    pub(crate) fn partitioner<K: Key>(&self) -> Option<Arc<dyn Partitioner<K>>> {
        self.partitioner.downcast_ref::<Arc<dyn Partitioner<K>>>().cloned()
    }
}

impl PartialEq for Partitioning {
    fn eq(&self, other: &Self) -> bool {
        (self.partitions, self.key, &self.function) == (other.partitions, other.key, &other.function)
    }
}

impl Eq for Partitioning {}

impl fmt::Debug for Partitioning {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} partitions by {:?}", self.partitions, self.function)
    }
}

/// A partitioner of the program's own, of which nothing wrong is believed.
pub(crate) struct Checked<P>(pub(crate) P);

impl<K, P: Partitioner<K>> Partitioner<K> for Checked<P> {
    fn partitions(&self) -> usize {
        self.0.partitions()
    }

    /// # Panics
    /// If there is no such partition; the action then fails with an error that names its operator.
    fn partition(&self, key: &K) -> usize {
        let (partition, partitions) = (self.0.partition(key), self.0.partitions());
        assert!(
            partition < partitions,
            "the partitioner puts a key into partition {partition} of {partitions}"
        );
        partition
    }

    fn function(&self) -> PartitionFunction {
        self.0.function()
    }

    fn is_known(&self) -> bool {
        self.0.is_known()
    }

    fn may_hold(&self, partition: usize, range: KeyRange<'_, K>) -> bool {
        self.0.may_hold(partition, range)
    }
}

/// Spreads keys evenly by a fixed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashPartitioner {
    partitions: usize,
}

impl HashPartitioner {
    /// Over a number of partitions, at least 1: with 0 the first action fails.
    pub fn new(partitions: usize) -> Self {
        Self { partitions }
    }
}

impl<K: Key> Partitioner<K> for HashPartitioner {
    fn partitions(&self) -> usize {
        self.partitions
    }

    fn partition(&self, key: &K) -> usize {
        // The high bits of the product choose, so that hash tables keyed by the low bits stay well spread.
        ((u128::from(hasher().hash_one(key)) * self.partitions as u128) >> 64) as usize
    }

    fn function(&self) -> PartitionFunction {
        PartitionFunction::Hash
    }
}

/// Gives each partition a range of the keys' order; equal keys share a partition. Where a dataset is sorted the bounds
/// come from a sample that is taken before the first job; here they are given, or come from a sample that is.
///
/// ```
/// # use distdl_engine::{Config, Context, RangePartitioner};
/// # let context = Context::new(Config::default())?;
/// let years = context.parallelize([(1999, 'a'), (2000, 'b'), (2026, 'c'), (1987, 'd')], 2);
/// let placed = years.partition_by(RangePartitioner::from_bounds([2000, 2020])?);
/// let first = vec![(1999, 'a'), (1987, 'd')];
/// assert_eq!(placed.glom().collect()?, [first, vec![(2000, 'b')], vec![(2026, 'c')]]);
/// assert_eq!(placed.filter_by_range(..2000).count()?, 2, "reads one partition");
/// # Ok::<(), distdl_engine::EngineError>(())
/// ```
#[derive(Debug, Clone)]
pub struct RangePartitioner<K> {
    partitions: usize,
    descending: bool,
    function: PartitionFunction,
    bounds: Arc<OnceLock<Vec<K>>>,
}

impl<K: Key + Ord> RangePartitioner<K> {
    /// Ranges of which each but the first begins with one of `bounds`, ascending: one partition more than there are
    /// bounds.
    ///
    /// # Errors
    /// If a bound is not above the one before, or the keys refuse to become bytes, by which two partitioners are
    /// compared.
    pub fn from_bounds(bounds: impl IntoIterator<Item = K>) -> Result<Self> {
        let bounds: Vec<K> = bounds.into_iter().collect();
        let partitions = bounds.len() + 1;
        Self::between(bounds, partitions)
    }

    /// `partitions` ranges that would get equal shares of `sample`, whose keys may come in any order and more than
    /// once. If it has fewer different ones than there are partitions, the last ones stay empty. With 0 partitions the
    /// first action fails.
    ///
    /// # Errors
    /// If the keys refuse to become bytes, by which two partitioners are compared.
    pub fn from_sample(sample: impl IntoIterator<Item = K>, partitions: usize) -> Result<Self> {
        let sample = sample.into_iter().map(|key| (key, 1)).collect();
        Self::between(quantiles(sample, partitions), partitions)
    }

    fn between(bounds: Vec<K>, partitions: usize) -> Result<Self> {
        if let Some(at) = bounds.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(EngineError::invalid(
                format!("bound {} of a range partitioner is not above the one before", at + 1),
                "give each bound once, in ascending order",
            ));
        }
        let bytes = postcard::to_stdvec(&bounds).map_err(|error| {
            EngineError::invalid(
                format!("the bounds of a range partitioner do not become bytes: {error}"),
                "use keys of a type that serde can write",
            )
        })?;
        Ok(Self {
            partitions,
            descending: false,
            function: PartitionFunction::custom::<Self>(blake3::hash(&bytes)),
            bounds: Arc::new(bounds.into()),
        })
    }

    /// Ranges with bounds that a sample of a dataset will have.
    pub(crate) fn sampling(partitions: usize, descending: bool, sampled: DatasetId) -> Self {
        Self {
            partitions,
            descending,
            function: PartitionFunction::Range { sampled, descending },
            bounds: Arc::default(),
        }
    }

    /// The partition of a range, and the range of a partition.
    fn in_order(&self, index: usize) -> usize {
        if self.descending {
            self.partitions - 1 - index
        } else {
            index
        }
    }

    /// Sets the bounds to the `partitions - 1` quantiles of a weighted sample.
    pub(crate) fn set_bounds(&self, sample: Vec<(K, u64)>) {
        let _ = self.bounds.set(quantiles(sample, self.partitions));
    }
}

/// Those keys of a weighted sample that cut it into so many parts of about equal weight, ascending; fewer if there are
/// not as many different ones.
fn quantiles<K: Ord>(mut sample: Vec<(K, u64)>, partitions: usize) -> Vec<K> {
    sample.sort_by(|left, right| left.0.cmp(&right.0));
    let total: u128 = sample.iter().map(|(_, weight)| u128::from(*weight)).sum();
    let mut bounds: Vec<K> = Vec::new();
    let mut below = 0u128;
    for (key, weight) in sample {
        let cut = (bounds.len() + 1) as u128;
        below += u128::from(weight);
        if cut < partitions as u128 && below * partitions as u128 > cut * total {
            bounds.push(key);
        }
    }
    bounds.dedup();
    bounds
}

/// One key at random of every n in a row of a partition, where n doubles each time that the sample has grown too large:
/// a sample of bounded size that depends on nothing but the records and the numbers that are drawn. Each key stands for
/// `weight` records. It is at random since records may alternate.
pub(crate) struct Thinned<K, R> {
    keys: Vec<K>,
    keys_max: usize,
    weight: u64,
    /// How many of the `weight` records in a row have come.
    come: u64,
    /// Which of them is taken.
    chosen: u64,
    draws: R,
}

/// Keys sampled from a partition, at most; enough for quantiles to within half a percent.
const SAMPLE_MAX: usize = 4096;
/// Keys sampled from all partitions, about, where there are many.
const SAMPLES_MAX: usize = 1 << 20;

impl<K, R: RngCore> Thinned<K, R> {
    /// For one of so many partitions.
    pub(crate) fn of(partitions: usize, draws: R) -> Self {
        let keys_max = (SAMPLES_MAX / partitions.max(1)).clamp(16, SAMPLE_MAX);
        Self {
            keys: Vec::new(),
            // They are thinned by pairs.
            keys_max: keys_max & !1,
            weight: 1,
            come: 0,
            chosen: 0,
            draws,
        }
    }

    pub(crate) fn offer(&mut self, key: impl FnOnce() -> K) {
        if self.come == 0 {
            if self.keys.len() >= self.keys_max {
                self.thin();
            }
            // It is a power of two.
            self.chosen = self.draws.next_u64() & (self.weight - 1);
        }
        if self.come == self.chosen {
            self.keys.push(key());
        }
        self.come = (self.come + 1) & (self.weight - 1);
    }

    /// Keeps one of each two keys.
    fn thin(&mut self) {
        let (draws, mut first, mut keeps) = (&mut self.draws, true, false);
        self.keys.retain(|_| {
            keeps = if first { draws.next_u32() & 1 == 0 } else { !keeps };
            first = !first;
            keeps
        });
        self.weight *= 2;
    }

    pub(crate) fn into_weighted(self) -> Vec<(K, u64)> {
        let weight = self.weight;
        self.keys.into_iter().map(|key| (key, weight)).collect()
    }
}

impl<K: Key + Ord> Partitioner<K> for RangePartitioner<K> {
    fn partitions(&self) -> usize {
        self.partitions
    }

    fn partition(&self, key: &K) -> usize {
        let bounds = self.bounds.get().map_or(&[][..], Vec::as_slice);
        self.in_order(bounds.partition_point(|bound| bound <= key))
    }

    fn function(&self) -> PartitionFunction {
        self.function.clone()
    }

    fn is_known(&self) -> bool {
        self.bounds.get().is_some()
    }

    fn may_hold(&self, partition: usize, (low, high): KeyRange<'_, K>) -> bool {
        // As long as the bounds are not known, any partition may.
        let Some(bounds) = self.bounds.get() else { return true };
        let range = self.in_order(partition);
        let first = match low {
            Bound::Included(low) | Bound::Excluded(low) => bounds.partition_point(|bound| bound <= low),
            Bound::Unbounded => 0,
        };
        let last = match high {
            Bound::Included(high) => bounds.partition_point(|bound| bound <= high),
            Bound::Excluded(high) => bounds.partition_point(|bound| bound < high),
            Bound::Unbounded => bounds.len(),
        };
        (first..=last).contains(&range)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_chacha::ChaCha8Rng;
    use rand_core::SeedableRng;

    use super::*;

    fn sample(records: u64, key: impl Fn(u64) -> u64) -> Vec<(u64, u64)> {
        let mut sample = Thinned::of(1, ChaCha8Rng::seed_from_u64(7));
        (0..records).for_each(|position| sample.offer(|| key(position)));
        sample.into_weighted()
    }

    #[test]
    fn kinds_of_records_that_take_turns_are_all_sampled() {
        for kinds in [2, 3, 4, 16] {
            let sample = sample(200_000, |position| position % kinds);
            for kind in 0..kinds {
                let sampled = sample.iter().filter(|(key, _)| *key == kind).count();
                let (even, all) = (sample.len() / kinds as usize, sample.len());
                assert!(
                    sampled * 3 > even * 2 && sampled * 2 < even * 3,
                    "{sampled} of {all}: {kind} of {kinds}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn there_is_one_key_of_each_stretch(records in 0..60_000u64) {
            let sample = sample(records, |position| position);
            let weight = sample.first().map_or(1, |(_, weight)| *weight);
            prop_assert!(sample.len() <= SAMPLE_MAX && (weight == 1 || sample.len() >= SAMPLE_MAX / 2));
            let whole = records / weight;
            prop_assert!((whole..=whole + 1).contains(&(sample.len() as u64)));
            for (stretch, (key, weight)) in sample.iter().enumerate() {
                prop_assert_eq!(key / weight, stretch as u64);
            }
        }
    }
}
