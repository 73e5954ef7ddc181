//! Which partition a key belongs to: a function of the key alone, the same in every process.

use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, OnceLock};

use distdl_storage::Record;
use foldhash::fast::FixedState;

/// What may be a key of a shuffle.
pub trait Key: Record + Hash + Eq {}
impl<K: Record + Hash + Eq> Key for K {}

/// The hash behind every hash-partitioned dataset and hash table of the engine: one fixed seed, so that all processes
/// and all runs of one binary agree.
pub(crate) fn hasher() -> FixedState {
    FixedState::with_seed(0x6469_7374_646c)
}

/// A function from keys to partitions.
pub trait Partitioner<K>: Send + Sync {
    /// Number of partitions.
    fn partitions(&self) -> usize;
    /// The 0-based partition of a key.
    fn partition(&self, key: &K) -> usize;
}

/// Spreads keys evenly by a fixed hash.
#[derive(Debug, Clone, Copy)]
pub struct HashPartitioner {
    partitions: usize,
}

impl HashPartitioner {
    /// At least one partition.
    pub fn new(partitions: usize) -> Self {
        Self {
            partitions: partitions.max(1),
        }
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
}

/// Gives each partition a range of the keys' order; equal keys share a partition. The bounds come from a sample that
/// is taken before the first job.
#[derive(Debug, Clone)]
pub struct RangePartitioner<K> {
    partitions: usize,
    descending: bool,
    bounds: Arc<OnceLock<Vec<K>>>,
}

impl<K: Key + Ord> RangePartitioner<K> {
    pub(crate) fn new(partitions: usize, descending: bool) -> Self {
        Self {
            partitions: partitions.max(1),
            descending,
            bounds: Arc::default(),
        }
    }

    /// Sets the bounds to the `partitions - 1` quantiles of a weighted sample.
    pub(crate) fn set_bounds(&self, mut sample: Vec<(K, u64)>) {
        sample.sort_by(|left, right| left.0.cmp(&right.0));
        let total: u128 = sample.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let mut bounds: Vec<K> = Vec::with_capacity(self.partitions - 1);
        let mut below = 0u128;
        for (key, weight) in sample {
            let cut = (bounds.len() + 1) as u128;
            below += u128::from(weight);
            if cut < self.partitions as u128 && below * self.partitions as u128 > cut * total {
                bounds.push(key);
            }
        }
        bounds.dedup();
        let _ = self.bounds.set(bounds);
    }
}

/// Every n-th key of a partition, where n doubles each time that the sample has grown too large: a sample of bounded
/// size that depends on nothing but the records. Each key stands for `weight` records.
pub(crate) struct Thinned<K> {
    keys: Vec<K>,
    weight: u64,
    until_next: u64,
}

/// Keys sampled from a partition, at most; enough for quantiles to within half a percent.
const SAMPLE_MAX: usize = 4096;

impl<K> Thinned<K> {
    pub(crate) fn new() -> Self {
        Self {
            keys: Vec::new(),
            weight: 1,
            until_next: 0,
        }
    }

    pub(crate) fn offer(&mut self, key: impl FnOnce() -> K) {
        if self.until_next > 0 {
            self.until_next -= 1;
            return;
        }
        if self.keys.len() == SAMPLE_MAX {
            let mut even = false;
            self.keys.retain(|_| {
                even = !even;
                even
            });
            self.weight *= 2;
        }
        self.keys.push(key());
        self.until_next = self.weight - 1;
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
        let range = bounds.partition_point(|bound| bound <= key);
        if self.descending {
            self.partitions - 1 - range
        } else {
            range
        }
    }
}
