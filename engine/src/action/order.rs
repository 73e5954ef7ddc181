//! Actions that ask for the smallest or largest records.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use distdl_storage::Record;

use crate::batch::typed_batches;
use crate::dataset::Dataset;
use crate::error::Result;

impl<T: Record + Ord> Dataset<T> {
    /// The `count` largest records, largest first. A pass without a shuffle; each partition keeps `count` records.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// assert_eq!(context.parallelize([3, 9, 1, 9, 4], 2).top(3)?, [9, 9, 4]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn top(&self, count: usize) -> Result<Vec<T>> {
        let parts = self.run_all(move |_, _, stream| {
            let mut largest: Smallest<Reverse<T>> = Smallest::new(count);
            for batch in typed_batches::<T>(stream) {
                for record in batch?.as_slice() {
                    largest.offer(|Reverse(least)| record > least, || Reverse(record.clone()));
                }
            }
            let records = largest.into_vec().into_iter().map(|Reverse(record)| record);
            Ok(records.collect::<Vec<T>>())
        })?;
        self.in_driver("top", || {
            let mut records: Vec<T> = parts.into_iter().flatten().collect();
            records.sort_unstable_by(|left, right| right.cmp(left));
            records.truncate(count);
            records
        })
    }

    /// The `count` smallest records, smallest first. A pass without a shuffle; each partition keeps `count` records.
    ///
    /// # Errors
    /// As any action.
    pub fn take_ordered(&self, count: usize) -> Result<Vec<T>> {
        let parts = self.run_all(move |_, _, stream| {
            let mut smallest: Smallest<T> = Smallest::new(count);
            for batch in typed_batches::<T>(stream) {
                for record in batch?.as_slice() {
                    smallest.offer(|largest| record < largest, || record.clone());
                }
            }
            Ok(smallest.into_vec())
        })?;
        self.in_driver("take_ordered", || {
            let mut records: Vec<T> = parts.into_iter().flatten().collect();
            records.sort_unstable();
            records.truncate(count);
            records
        })
    }

    /// The smallest record, of equal ones the first; `None` if there is no record.
    ///
    /// # Errors
    /// As any action.
    pub fn min(&self) -> Result<Option<T>> {
        self.reduce(|left, right| if right < left { right } else { left })
    }

    /// The largest record, of equal ones the first; `None` if there is no record.
    ///
    /// # Errors
    /// As any action.
    pub fn max(&self) -> Result<Option<T>> {
        self.reduce(|left, right| if right > left { right } else { left })
    }
}

impl<T: Record> Dataset<T> {
    /// The `count` records with the largest keys, largest first, and of equal keys in their order. A pass without a
    /// shuffle; each partition keeps `count` records.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let counts = context.parallelize([('a', 3), ('b', 9), ('c', 3), ('d', 5)], 2);
    /// assert_eq!(counts.top_by_key(3, |(_, count)| *count)?, [('b', 9), ('d', 5), ('a', 3)]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn top_by_key<K: Ord + 'static>(
        &self,
        count: usize,
        key: impl Fn(&T) -> K + Send + Sync + 'static,
    ) -> Result<Vec<T>> {
        self.smallest_by("top_by_key", count, move |record| Reverse(key(record)))
    }

    /// The `count` records with the smallest keys, smallest first, and of equal keys in their order. A pass without a
    /// shuffle; each partition keeps `count` records.
    ///
    /// # Errors
    /// As any action.
    pub fn take_ordered_by_key<K: Ord + 'static>(
        &self,
        count: usize,
        key: impl Fn(&T) -> K + Send + Sync + 'static,
    ) -> Result<Vec<T>> {
        self.smallest_by("take_ordered_by_key", count, key)
    }

    /// The record with the smallest key, of equal ones the first; `None` if there is no record.
    ///
    /// # Errors
    /// As any action.
    pub fn min_by_key<K: Ord + 'static>(&self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> Result<Option<T>> {
        Ok(self.smallest_by("min_by_key", 1, key)?.pop())
    }

    /// The record with the largest key, of equal ones the first; `None` if there is no record. For floating-point
    /// numbers as keys see [`Key`](crate::Key).
    ///
    /// # Errors
    /// As any action.
    pub fn max_by_key<K: Ord + 'static>(&self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> Result<Option<T>> {
        let key = move |record: &T| Reverse(key(record));
        Ok(self.smallest_by("max_by_key", 1, key)?.pop())
    }

    fn smallest_by<K: Ord + 'static>(
        &self,
        action: &'static str,
        count: usize,
        key: impl Fn(&T) -> K + Send + Sync + 'static,
    ) -> Result<Vec<T>> {
        let key = Arc::new(key);
        let of_record = Arc::clone(&key);
        let parts = self.run_all(move |_, _, stream| {
            let mut smallest: Smallest<Ranked<K, T>> = Smallest::new(count);
            let mut position = 0;
            for batch in typed_batches::<T>(stream) {
                for record in batch?.as_slice() {
                    smallest.offer_ranked((of_record(record), position), record);
                    position += 1;
                }
            }
            let mut smallest = smallest.into_vec();
            smallest.sort_unstable();
            Ok(smallest.into_iter().map(|ranked| ranked.record).collect::<Vec<T>>())
        })?;
        self.in_driver(action, || {
            let mut records: Vec<T> = parts.into_iter().flatten().collect();
            // Stable: of equal keys the first partition's come first.
            records.sort_by_cached_key(|record| key(record));
            records.truncate(count);
            records
        })
    }
}

/// The smallest of what it is offered, at most `count`.
pub(super) struct Smallest<O> {
    heap: BinaryHeap<O>,
    count: usize,
}

impl<O: Ord> Smallest<O> {
    pub(super) fn new(count: usize) -> Self {
        let heap = BinaryHeap::new();
        Self { heap, count }
    }

    /// Takes what `make` makes if it is among the smallest; `is_less` compares it with one that is.
    pub(super) fn offer(&mut self, is_less: impl FnOnce(&O) -> bool, make: impl FnOnce() -> O) {
        if self.heap.len() < self.count {
            self.heap.push(make());
        } else if self.heap.peek().is_some_and(is_less) {
            self.heap.pop();
            self.heap.push(make());
        }
    }

    /// In any order.
    pub(super) fn into_vec(self) -> Vec<O> {
        self.heap.into_vec()
    }
}

impl<K: Ord, T: Clone> Smallest<Ranked<K, T>> {
    /// Takes a copy of a record if its rank is among the smallest.
    pub(super) fn offer_ranked(&mut self, rank: (K, u64), record: &T) {
        let is_full = self.heap.len() >= self.count;
        if is_full && self.heap.peek().is_none_or(|largest| rank >= largest.rank) {
            return;
        }
        if is_full {
            self.heap.pop();
        }
        let record = record.clone();
        self.heap.push(Ranked { rank, record });
    }
}

/// A record in the order of its rank: a key, and the record's position in its partition.
pub(super) struct Ranked<K, T> {
    pub(super) rank: (K, u64),
    pub(super) record: T,
}

impl<K: Ord, T> PartialEq for Ranked<K, T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<K: Ord, T> Eq for Ranked<K, T> {}

impl<K: Ord, T> PartialOrd for Ranked<K, T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K: Ord, T> Ord for Ranked<K, T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank.cmp(&other.rank)
    }
}
