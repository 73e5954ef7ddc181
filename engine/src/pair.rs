//! Datasets of pairs, and the transformations that bring the records of a key together.
//!
//! Each wide transformation has a form without a number of partitions and a form `..._into` with one. The first leaves
//! keys where a partitioner of the program's own has put them ([`Dataset::partition_by`]); otherwise it takes its
//! parent's number of partitions, of two parents the larger one, and places keys by their hash, as the second does.
//! Where records already lie as asked for, nothing is shuffled.

mod by_key;

mod joins;

mod sets;

mod order;

mod partitioning;

use std::sync::Arc;

use distdl_storage::Record;

pub use self::joins::{Cogrouped, FullyJoined};

use crate::dataset::Dataset;
use crate::lineage::{Compute, Dependency, NodeSpec, ShuffleSpec};
use crate::partitioner::{HashPartitioner, Key, PartitionFunction, Partitioner, Partitioning};
use crate::shuffle::{ByKey, Plain};

impl<K: Record, V: Record> Dataset<(K, V)> {
    /// Applies `function` to each value; keys stay where they are.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('a', 1), ('b', 2)], 2);
    /// assert_eq!(pairs.map_values(|value| value * 10).collect()?, [('a', 10), ('b', 20)]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn map_values<W: Record>(&self, function: impl Fn(V) -> W + Send + Sync + 'static) -> Dataset<(K, W)> {
        let function = Arc::new(function);
        self.batchwise("map_values", true, move |_, _| {
            let function = Arc::clone(&function);
            move |batch| Ok(batch.map(|(key, value)| (key, function(value))))
        })
    }

    /// Replaces each value by any number of others under the same key, which are made as they are needed.
    #[track_caller]
    pub fn flat_map_values<W: Record, I: IntoIterator<Item = W> + 'static>(
        &self,
        function: impl Fn(V) -> I + Send + Sync + 'static,
    ) -> Dataset<(K, W)> {
        let mut spec = self.flattened("flat_map_values", move |(key, value): (K, V)| {
            function(value).into_iter().map(move |value| (key.clone(), value))
        });
        spec.partitioning = self.node().partitioning.clone();
        spec.build(self.context())
    }

    /// The keys.
    #[track_caller]
    pub fn keys(&self) -> Dataset<K> {
        self.batchwise("keys", false, |_, _| |batch| Ok(batch.map(|(key, _)| key)))
    }

    /// The values.
    #[track_caller]
    pub fn values(&self) -> Dataset<V> {
        self.batchwise("values", false, |_, _| |batch| Ok(batch.map(|(_, value)| value)))
    }
}

/// Where the records of a wide transformation lie.
struct KeyPlacement<K> {
    partitioner: Arc<dyn Partitioner<K>>,
    partitioning: Partitioning,
}

impl<K: Key> KeyPlacement<K> {
    fn by(partitioner: Arc<dyn Partitioner<K>>) -> Self {
        let partitioning = Partitioning::of(Arc::clone(&partitioner));
        Self {
            partitioner,
            partitioning,
        }
    }

    fn by_hash(partitions: usize) -> Self {
        Self::by(Arc::new(HashPartitioner::new(partitions)))
    }

    /// Where the program has put the keys of `parent`, if it has.
    fn of<V: Record>(parent: &Dataset<(K, V)>) -> Option<Self> {
        let partitioning = parent.node().partitioning.as_ref()?;
        let custom = matches!(partitioning.function, PartitionFunction::Custom { .. });
        custom.then(|| partitioning.partitioner::<K>()).flatten().map(Self::by)
    }

    fn like<V: Record>(parent: &Dataset<(K, V)>) -> Self {
        Self::of(parent).unwrap_or_else(|| Self::by_hash(parent.partitions()))
    }

    fn like_either<V: Record, W: Record>(left: &Dataset<(K, V)>, right: &Dataset<(K, W)>) -> Self {
        let custom = Self::of(left).or_else(|| Self::of(right));
        custom.unwrap_or_else(|| Self::by_hash(left.partitions().max(right.partitions())))
    }

    /// The dependency that brings the records of `parent` here, by way of `spec` unless they are here already.
    fn bring<V: Record>(&self, parent: &Dataset<(K, V)>, spec: Option<Arc<dyn ShuffleSpec>>) -> (Dependency, bool) {
        if parent.node().partitioning.as_ref() == Some(&self.partitioning) {
            return (parent.narrow_dependency().remove(0), false);
        }
        let plain = || {
            let route = ByKey(Arc::clone(&self.partitioner));
            Arc::new(Plain::<(K, V), _>::new(route, self.partitioning.partitions)) as Arc<dyn ShuffleSpec>
        };
        (
            Dependency::Shuffle {
                parent: parent.id(),
                spec: spec.unwrap_or_else(plain),
            },
            true,
        )
    }

    #[track_caller]
    fn derive(&self, operator: &'static str, dependencies: Vec<Dependency>, compute: Compute) -> NodeSpec {
        let mut spec = NodeSpec::new(operator, self.partitioning.partitions, dependencies, compute);
        spec.partitioning = Some(self.partitioning.clone());
        spec
    }
}
