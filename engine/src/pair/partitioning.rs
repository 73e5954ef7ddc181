//! Transformations that place records anew.

use std::sync::Arc;

use distdl_storage::Record;

use crate::dataset::Dataset;
use crate::lineage::{Compute, Dependency, NodeSpec};
use crate::pair::KeyPlacement;
use crate::partitioner::{Checked, Key, Partitioner};
use crate::shuffle::{Plain, RoundRobin};

impl<T: Record> Dataset<T> {
    /// Spreads the records evenly over `partitions`: those of each source partition in turn. One shuffle.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let numbers = context.range(0..6, 1).repartition(2);
    /// assert_eq!(numbers.glom().collect()?, [vec![0, 2, 4], vec![1, 3, 5]], "in turn, so that the order is another");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn repartition(&self, partitions: usize) -> Dataset<T> {
        let spec = Arc::new(Plain::<T, _>::new(RoundRobin(partitions), partitions));
        let dependencies = vec![Dependency::Shuffle {
            parent: self.id(),
            spec,
        }];
        NodeSpec::new("repartition", partitions, dependencies, Compute::Pass).build(self.context())
    }
}

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// The same pairs where `partitioner` puts their keys, in order of (source partition, position). One shuffle; none,
    /// and the dataset itself, if they lie like that already.
    ///
    /// What comes of it by key stays there: transformations without a number of partitions take over a partitioner of
    /// the program's own, and datasets that were placed by the same one are joined without a shuffle.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// use distdl_engine::HashPartitioner;
    ///
    /// let left = context.parallelize([(1, 'a'), (2, 'b')], 3).partition_by(HashPartitioner::new(4));
    /// let right = context.parallelize([(2, 'x')], 2).partition_by(HashPartitioner::new(4));
    /// let shuffles = |plan: &str| plan.matches("by shuffle").count();
    /// assert_eq!(shuffles(&left.join_into(&right, 4).explain()), 2, "those of `partition_by`; the join needs none");
    /// assert_eq!(shuffles(&left.join_into(&right, 5).explain()), 4);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn partition_by(&self, partitioner: impl Partitioner<K>) -> Dataset<(K, V)> {
        let placement = KeyPlacement::by(Arc::new(Checked(partitioner)));
        let (dependency, shuffles) = placement.bring(self, None);
        if !shuffles {
            return self.clone();
        }
        placement
            .derive("partition_by", vec![dependency], Compute::Pass)
            .build(self.context())
    }
}
