//! Transformations of datasets as sets of their records.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::typed_batches;
use crate::dataset::{Dataset, both, streams};
use crate::pair::KeyPlacement;
use crate::partitioner::Key;
use crate::shuffle::{Arrival, Combining, Merging};

/// Whether a record was seen on the left side, and on the right one.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Seen(bool, bool);

impl Seen {
    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0, self.1 | other.1)
    }
}

impl<T: Key> Dataset<T> {
    /// Each different record once, in the order in which they first come. One shuffle, of the different records of each
    /// partition.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let letters = context.parallelize(['c', 'a', 'c', 'b'], 2);
    /// assert_eq!(letters.distinct_into(1).collect()?, ['c', 'a', 'b'], "in the order in which they first come");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn distinct(&self) -> Dataset<T> {
        self.distinct_into(self.partitions())
    }

    /// [`distinct`](Self::distinct) into a number of partitions.
    #[track_caller]
    pub fn distinct_into(&self, partitions: usize) -> Dataset<T> {
        let placement = KeyPlacement::by_hash(partitions);
        self.as_keys()
            .combine("distinct", Merging(|(), ()| ()), placement)
            .keys()
    }

    /// Each different record that is in both datasets once, in the order in which they first come here. Shuffles the
    /// different records of each partition of both.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let (left, right) = (context.parallelize([3, 1, 3, 2], 1), context.parallelize([2, 3, 4], 1));
    /// assert_eq!(left.intersection(&right).collect()?, [3, 2], "each once");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn intersection(&self, other: &Dataset<T>) -> Dataset<T> {
        self.intersection_into(other, self.partitions().max(other.partitions()))
    }

    /// [`intersection`](Self::intersection) into a number of partitions.
    #[track_caller]
    pub fn intersection_into(&self, other: &Dataset<T>, partitions: usize) -> Dataset<T> {
        let placement = KeyPlacement::by_hash(partitions);
        let (left, right) = (self.as_keys(), other.as_keys());
        let dependencies = vec![placement.bring_keys(&left), placement.bring_keys(&right)];
        let compute = streams(|context, _, inputs| {
            let (left, right) = both(inputs);
            let mut seen = Combining::<T, Seen, Seen, _>::new(context, &Arc::new(Merging(Seen::and)));
            for batch in typed_batches::<(T, ())>(left) {
                seen.take(batch?.into_vec(), |()| Arrival::Value(Seen(true, false)))?;
            }
            for batch in typed_batches::<(T, ())>(right) {
                seen.take(batch?.into_vec(), |()| Arrival::Value(Seen(false, true)))?;
            }
            Ok(seen.into_stream())
        });
        let seen: Dataset<(T, Seen)> = placement
            .derive("intersection", dependencies, compute)
            .of_one_context(self.context(), other.context())
            .build(self.context());
        seen.batchwise("shared", false, |_, _| {
            |batch| {
                let mut shared = Vec::new();
                batch.for_each(|(record, seen)| shared.extend(Some(record).filter(|_| seen.0 && seen.1)));
                Ok(shared)
            }
        })
    }

    /// The records that are not in `other`, as often as they are here, in order of (source partition, position).
    /// Shuffles this dataset, and the different records of each partition of the other one.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let (left, right) = (context.parallelize([3, 1, 3, 2], 1), context.parallelize([2, 4], 1));
    /// assert_eq!(left.subtract(&right).collect()?, [3, 1, 3], "as often as they are here");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn subtract(&self, other: &Dataset<T>) -> Dataset<T> {
        self.subtract_into(other, self.partitions())
    }

    /// [`subtract`](Self::subtract) into a number of partitions.
    #[track_caller]
    pub fn subtract_into(&self, other: &Dataset<T>, partitions: usize) -> Dataset<T> {
        let placement = KeyPlacement::by_hash(partitions);
        self.as_keys().without("subtract", &other.as_keys(), &placement).keys()
    }

    #[track_caller]
    fn as_keys(&self) -> Dataset<(T, ())> {
        self.batchwise("as_keys", false, |_, _| |batch| Ok(batch.map(|record| (record, ()))))
    }
}
