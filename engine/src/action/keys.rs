//! Actions that look up or count keys and values.

use distdl_storage::Record;

use crate::batch::typed_batches;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::partitioner::Key;
use crate::shuffle::{KeyEntry, Table, hint};

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// All values of `key`, in order. Computes one partition only where the dataset is partitioned by key.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('b', 1), ('a', 2), ('b', 3)], 2);
    /// assert_eq!(pairs.lookup(&'b')?, [1, 3]);
    /// let sums = pairs.reduce_by_key_into(|left, right| left + right, 8).cache();
    /// assert_eq!(sums.lookup(&'b')?, [4]);
    /// assert_eq!(sums.partitions_computed(), 1, "the one in which the key must be");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn lookup(&self, key: &K) -> Result<Vec<V>> {
        // What is not determinate is computed before anything is prepared from it. Before that, bounds of ranges may
        // not be known; nor are they after it where the lineage was cut behind a sort that was remembered.
        let lineage = self.context().cut_lineage(self.id())?;
        self.context().prepare_all(&lineage)?;
        let partitioning = self.node().partitioning.as_ref();
        let partitioner = partitioning.and_then(|placed| placed.partitioner::<K>());
        let partitions = match partitioner.filter(|partitioner| partitioner.is_known()) {
            Some(partitioner) => vec![self.in_driver("lookup", || partitioner.partition(key))?],
            None => (0..self.partitions()).collect(),
        };
        let wanted = key.clone();
        let found = self.run(&partitions, move |_, _, stream| {
            let mut values = Vec::new();
            for batch in typed_batches::<(K, V)>(stream) {
                let batch = batch?;
                let matching = batch.as_slice().iter().filter(|(key, _)| *key == wanted);
                values.extend(matching.map(|(_, value)| value.clone()));
            }
            Ok(values)
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The number of records of each key, in the order of [`reduce_by_key`](Self::reduce_by_key): the same on every
    /// process, as that of a map would not be. One shuffle, of a number for each key and partition.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('b', 10), ('a', 20), ('b', 30)], 1);
    /// assert_eq!(pairs.count_by_key()?, [('b', 2), ('a', 1)], "a vector whose order is the same in every run");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn count_by_key(&self) -> Result<Vec<(K, u64)>> {
        self.map_values(|_| 1u64)
            .reduce_by_key(|left, right| left + right)
            .collect()
    }
}

impl<T: Key> Dataset<T> {
    /// How often each record occurs, in the order in which they first come. A pass without a shuffle, in which each
    /// partition counts its own and the driver adds them up: for records of which not too many are different.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let letters = context.parallelize("banana".chars(), 3);
    /// assert_eq!(letters.count_by_value()?, [('b', 1), ('a', 3), ('n', 2)]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn count_by_value(&self) -> Result<Vec<(T, u64)>> {
        let parts = self.run_all(|_, _, stream| {
            let (mut counts, mut hints) = (Table::<T, u64>::new(), Vec::new());
            for batch in typed_batches::<T>(stream) {
                let batch = batch?.into_vec();
                counts.look_up(batch.iter(), &mut hints);
                for (record, hint) in batch.into_iter().zip(&hints) {
                    match counts.entry(record, *hint) {
                        KeyEntry::Occupied(count) => *count += 1,
                        KeyEntry::Vacant(entry) => entry.insert(1),
                    }
                }
            }
            Ok(counts.into_entries())
        })?;
        self.in_driver("count_by_value", || {
            let mut counts = Table::<T, u64>::new();
            for (record, count) in parts.into_iter().flatten() {
                let hint = hint(&record);
                match counts.entry(record, hint) {
                    KeyEntry::Occupied(total) => *total += count,
                    KeyEntry::Vacant(entry) => entry.insert(count),
                }
            }
            counts.into_entries()
        })
    }
}
