//! Actions that ask for the smallest or largest records.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

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
