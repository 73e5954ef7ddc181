//! Transformations of datasets as sets of their records.

use crate::batch::stream_of;
use crate::dataset::{Dataset, both, streams};
use crate::pair::Placed;
use crate::pair::joins::collect_keys;
use crate::partitioner::Key;
use crate::shuffle::Merging;

impl<T: Key> Dataset<T> {
    /// Each different record once, in the order in which they first come. One shuffle, of the different records of each
    /// partition.
    #[track_caller]
    pub fn distinct(&self) -> Dataset<T> {
        self.distinct_into(self.partitions())
    }

    /// [`distinct`](Self::distinct) into a number of partitions.
    #[track_caller]
    pub fn distinct_into(&self, partitions: usize) -> Dataset<T> {
        let placed = Placed::by_hash(partitions);
        self.as_keys().combine("distinct", Merging(|(), ()| ()), placed).keys()
    }

    /// Each different record that is in both datasets once, in the order in which they first come here. Shuffles the
    /// different records of each partition of both.
    #[track_caller]
    pub fn intersection(&self, other: &Dataset<T>) -> Dataset<T> {
        self.intersection_into(other, self.partitions().max(other.partitions()))
    }

    /// [`intersection`](Self::intersection) into a number of partitions.
    #[track_caller]
    pub fn intersection_into(&self, other: &Dataset<T>, partitions: usize) -> Dataset<T> {
        let placed = Placed::by_hash(partitions);
        let (left, right) = (self.as_keys(), other.as_keys());
        let dependencies = vec![placed.bring_keys(&left), placed.bring_keys(&right)];
        let compute = streams(|context, _, inputs| {
            let (left, right) = both(inputs);
            let (left, right) = (collect_keys::<T>(left)?, collect_keys::<T>(right)?);
            let shared = left.into_iter().filter(move |(record, ())| right.contains_key(record));
            Ok(stream_of(shared, context.resources.batch_records))
        });
        let shared: Dataset<(T, ())> = placed
            .derive("intersection", dependencies, compute)
            .build(self.context());
        shared.keys()
    }

    /// The records that are not in `other`, as often as they are here, in order of (source partition, position). Shuffles
    /// this dataset, and the different records of each partition of the other one.
    #[track_caller]
    pub fn subtract(&self, other: &Dataset<T>) -> Dataset<T> {
        self.subtract_into(other, self.partitions())
    }

    /// [`subtract`](Self::subtract) into a number of partitions.
    #[track_caller]
    pub fn subtract_into(&self, other: &Dataset<T>, partitions: usize) -> Dataset<T> {
        let placed = Placed::by_hash(partitions);
        self.as_keys().without("subtract", &other.as_keys(), &placed).keys()
    }

    #[track_caller]
    fn as_keys(&self) -> Dataset<(T, ())> {
        self.batchwise("as_keys", false, |_, _| |batch| Ok(batch.map(|record| (record, ()))))
    }
}
