//! Transformations that place records anew.

use std::sync::Arc;

use distdl_storage::Record;

use crate::dataset::{Dataset, Derivation};
use crate::lineage::{Compute, Dependency};
use crate::pair::Placed;
use crate::partitioner::{Checked, Key, Partitioner};
use crate::shuffle::{InTurn, Plain};

impl<T: Record> Dataset<T> {
    /// Spreads the records evenly over `partitions`: those of each source partition in turn. One shuffle.
    #[track_caller]
    pub fn repartition(&self, partitions: usize) -> Dataset<T> {
        let partitions = partitions.max(1);
        let exchange = Arc::new(Plain::<T, _>::new(InTurn(partitions), partitions));
        let dependencies = vec![Dependency::Shuffle {
            parent: self.id(),
            exchange,
        }];
        Derivation::new("repartition", partitions, dependencies, Compute::Pass).build(self.context())
    }
}

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// The same pairs where `partitioner` puts their keys, in order of (source partition, position). One shuffle; none,
    /// and the dataset itself, if they lie like that already.
    ///
    /// What comes of it by key stays there: transformations without a number of partitions take over a partitioner of the
    /// program's own, and datasets that were placed by the same one are joined without a shuffle.
    #[track_caller]
    pub fn partition_by(&self, partitioner: impl Partitioner<K>) -> Dataset<(K, V)> {
        let placed = Placed::by(Arc::new(Checked(partitioner)));
        let (dependency, shuffles) = placed.bring(self, None);
        if !shuffles {
            return self.clone();
        }
        placed
            .derive("partition_by", vec![dependency], Compute::Pass)
            .build(self.context())
    }
}
