//! Datasets of pairs, and the transformations that bring the records of a key together.
//!
//! Each wide transformation has a form without a number of partitions, which takes its parent's, and a form `..._into`
//! with one. Where records already lie as asked for, nothing is shuffled.

use std::any::TypeId;
use std::sync::Arc;

use distdl_storage::Record;

use crate::batch::{AnyBatch, AnyStream, Batch, TaskResult, stream_of, typed_batches};
use crate::dataset::{Dataset, Derivation, only, streams};
use crate::error::EngineError;
use crate::lineage::{Compute, Dependency, Exchange, PartitionFunction, Partitioning, Prepare};
use crate::partitioner::{HashPartitioner, Key, Partitioner, RangePartitioner, Thinned};
use crate::shuffle::{ByKey, Closures, Combine, Combined, Combining, InTurn, Merging, Plain, table};

impl<K: Record, V: Record> Dataset<(K, V)> {
    /// Applies `function` to each value; keys stay where they are.
    #[track_caller]
    pub fn map_values<W: Record>(&self, function: impl Fn(V) -> W + Send + Sync + 'static) -> Dataset<(K, W)> {
        let function = Arc::new(function);
        self.batchwise("map_values", true, move |_, _| {
            let function = Arc::clone(&function);
            move |batch| Ok(batch.map(|(key, value)| (key, function(value))))
        })
    }

    /// Replaces each value by any number of others under the same key.
    #[track_caller]
    pub fn flat_map_values<W: Record, I: IntoIterator<Item = W>>(
        &self,
        function: impl Fn(V) -> I + Send + Sync + 'static,
    ) -> Dataset<(K, W)> {
        let function = Arc::new(function);
        self.batchwise("flat_map_values", true, move |_, _| {
            let function = Arc::clone(&function);
            move |batch: Batch<(K, V)>| {
                let mut records = Vec::with_capacity(batch.len());
                batch.for_each(|(key, value)| {
                    records.extend(function(value).into_iter().map(|value| (key.clone(), value)));
                });
                Ok(records)
            }
        })
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
struct Placed<K> {
    partitioner: Arc<dyn Partitioner<K>>,
    partitioning: Partitioning,
}

impl<K: Key> Placed<K> {
    fn by_hash(partitions: usize) -> Self {
        let partitions = partitions.max(1);
        let partitioning = Partitioning {
            partitions,
            key: TypeId::of::<K>(),
            function: PartitionFunction::Hash,
        };
        Self {
            partitioner: Arc::new(HashPartitioner::new(partitions)),
            partitioning,
        }
    }

    /// The dependency that brings the records of `parent` here, by way of `exchange` unless they are here already.
    fn bring<V: Record>(&self, parent: &Dataset<(K, V)>, exchange: Option<Arc<dyn Exchange>>) -> (Dependency, bool) {
        if parent.node().partitioning == Some(self.partitioning) {
            return (parent.narrow_dependency().remove(0), false);
        }
        let plain = || {
            let route = ByKey(Arc::clone(&self.partitioner));
            Arc::new(Plain::<(K, V), _>::new(route, self.partitioning.partitions)) as Arc<dyn Exchange>
        };
        (
            Dependency::Shuffle {
                parent: parent.id(),
                exchange: exchange.unwrap_or_else(plain),
            },
            true,
        )
    }

    #[track_caller]
    fn derive(&self, operator: &'static str, dependencies: Vec<Dependency>, compute: Compute) -> Derivation {
        let mut derivation = Derivation::new(operator, self.partitioning.partitions, dependencies, compute);
        derivation.partitioning = Some(self.partitioning);
        derivation
    }
}

/// What [`Dataset::cogroup`] makes: a key with all its values on either side.
pub type Cogrouped<K, V, W> = Dataset<(K, (Vec<V>, Vec<W>))>;

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// Combines the values of each key by `function`, which must be associative; on the writing side first.
    ///
    /// Values are taken in order of (source partition, position), so that a sum of floats has the same bits for any
    /// number of workers.
    #[track_caller]
    pub fn reduce_by_key(&self, function: impl Fn(V, V) -> V + Send + Sync + 'static) -> Dataset<(K, V)> {
        self.reduce_by_key_into(function, self.partitions())
    }

    /// [`reduce_by_key`](Self::reduce_by_key) into a number of partitions.
    #[track_caller]
    pub fn reduce_by_key_into(
        &self,
        function: impl Fn(V, V) -> V + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<(K, V)> {
        self.combine("reduce_by_key", Merging(function), partitions)
    }

    /// Combines the values of each key into a result of another type: `create` makes it from the first value, `add`
    /// takes another one, `merge` joins two results.
    #[track_caller]
    pub fn combine_by_key<C: Record>(
        &self,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
    ) -> Dataset<(K, C)> {
        self.combine("combine_by_key", Closures(create, add, merge), self.partitions())
    }

    /// Folds the values of each key into `zero` by `add`, and joins two results by `merge`.
    #[track_caller]
    pub fn aggregate_by_key<C: Record>(
        &self,
        zero: C,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
    ) -> Dataset<(K, C)> {
        let add = Arc::new(add);
        let first = Arc::clone(&add);
        let create = move |value| first(zero.clone(), value);
        let add = move |combined, value| add(combined, value);
        self.combine("aggregate_by_key", Closures(create, add, merge), self.partitions())
    }

    #[track_caller]
    fn combine<C: Record, M: Combine<V, C>>(
        &self,
        operator: &'static str,
        combine: M,
        partitions: usize,
    ) -> Dataset<(K, C)> {
        let placed = Placed::by_hash(partitions);
        let combine = Arc::new(combine);
        let exchange = Combined::<K, V, C, M>::new(Arc::clone(&placed.partitioner), Arc::clone(&combine));
        let (dependency, shuffled) = placed.bring(self, Some(Arc::new(exchange)));
        let compute = streams(move |context, _, inputs| {
            let mut combining = Combining::<K, V, C, M>::new(Arc::clone(&combine));
            for batch in only(inputs) {
                if shuffled {
                    combining.merge(batch?)
                } else {
                    combining.add(batch?)
                }
            }
            Ok(stream_of(combining.into_records(), context.resources.batch_records))
        });
        placed.derive(operator, vec![dependency], compute).build(self.context())
    }

    /// All values of each key, in order of (source partition, position).
    #[track_caller]
    pub fn group_by_key(&self) -> Dataset<(K, Vec<V>)> {
        self.group_by_key_into(self.partitions())
    }

    /// [`group_by_key`](Self::group_by_key) into a number of partitions.
    #[track_caller]
    pub fn group_by_key_into(&self, partitions: usize) -> Dataset<(K, Vec<V>)> {
        let placed = Placed::by_hash(partitions);
        let (dependency, _) = placed.bring(self, None);
        let compute = streams(|context, _, inputs| {
            let mut groups = table::<K, Vec<V>>();
            for batch in typed_batches::<(K, V)>(only(inputs)) {
                batch?.for_each(|(key, value)| groups.entry(key).or_default().push(value));
            }
            Ok(stream_of(groups.into_iter(), context.resources.batch_records))
        });
        placed
            .derive("group_by_key", vec![dependency], compute)
            .build(self.context())
    }

    /// For each key of either dataset: all its values here, and all its values in `other`.
    #[track_caller]
    pub fn cogroup<W: Record>(&self, other: &Dataset<(K, W)>) -> Cogrouped<K, V, W> {
        self.cogroup_into(other, self.partitions().max(other.partitions()))
    }

    /// [`cogroup`](Self::cogroup) into a number of partitions.
    #[track_caller]
    pub fn cogroup_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Cogrouped<K, V, W> {
        let placed = Placed::by_hash(partitions);
        let dependencies = vec![placed.bring(self, None).0, placed.bring(other, None).0];
        let compute = streams(|context, _, inputs| {
            let (left, right) = both(inputs);
            let mut groups = table::<K, (Vec<V>, Vec<W>)>();
            for batch in typed_batches::<(K, V)>(left) {
                batch?.for_each(|(key, value)| groups.entry(key).or_default().0.push(value));
            }
            for batch in typed_batches::<(K, W)>(right) {
                batch?.for_each(|(key, value)| groups.entry(key).or_default().1.push(value));
            }
            Ok(stream_of(groups.into_iter(), context.resources.batch_records))
        });
        placed.derive("cogroup", dependencies, compute).build(self.context())
    }

    /// All pairs of values that share a key: for each record of `other`, in its order, those of this dataset in theirs.
    #[track_caller]
    pub fn join<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, (V, W))> {
        self.join_into(other, self.partitions().max(other.partitions()))
    }

    /// [`join`](Self::join) into a number of partitions.
    #[track_caller]
    pub fn join_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Dataset<(K, (V, W))> {
        let placed = Placed::by_hash(partitions);
        let dependencies = vec![placed.bring(self, None).0, placed.bring(other, None).0];
        let compute = streams(|_, _, inputs| {
            let (left, right) = both(inputs);
            let build = Chains::<K, V>::collect(left)?;
            Ok(Box::new(typed_batches::<(K, W)>(right).map(move |batch| {
                let mut pairs = Vec::new();
                batch?.for_each(|(key, right)| build.join(key, right, &mut pairs));
                Ok(AnyBatch::owned(pairs))
            })))
        });
        placed.derive("join", dependencies, compute).build(self.context())
    }

    /// All values of `key`. Computes one partition only where the dataset is partitioned by key.
    ///
    /// # Errors
    /// As any action.
    pub fn lookup(&self, key: &K) -> crate::error::Result<Vec<V>> {
        let hashed = self
            .node()
            .partitioning
            .filter(|placed| placed.function == PartitionFunction::Hash);
        let partitions = match hashed {
            Some(placed) => vec![HashPartitioner::new(placed.partitions).partition(key)],
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

    /// The number of records of each key.
    ///
    /// # Errors
    /// As any action.
    pub fn count_by_key(&self) -> crate::error::Result<std::collections::HashMap<K, u64>> {
        let counts = self
            .map_values(|_| 1u64)
            .reduce_by_key(|left, right| left + right)
            .collect()?;
        Ok(counts.into_iter().collect())
    }
}

impl<K: Key + Ord, V: Record> Dataset<(K, V)> {
    /// Sorts by key, ascending and stable: records of one key keep their order. Samples the keys before the first job.
    #[track_caller]
    pub fn sort_by_key(&self) -> Dataset<(K, V)> {
        self.sort("sort_by_key", false, self.partitions())
    }

    /// [`sort_by_key`](Self::sort_by_key) into a number of partitions.
    #[track_caller]
    pub fn sort_by_key_into(&self, partitions: usize) -> Dataset<(K, V)> {
        self.sort("sort_by_key", false, partitions)
    }

    /// Sorts by key, descending and stable.
    #[track_caller]
    pub fn sort_by_key_descending(&self) -> Dataset<(K, V)> {
        self.sort("sort_by_key_descending", true, self.partitions())
    }

    #[track_caller]
    fn sort(&self, operator: &'static str, descending: bool, partitions: usize) -> Dataset<(K, V)> {
        let range = RangePartitioner::<K>::new(partitions, descending);
        let partitioning = Partitioning {
            partitions: range.partitions(),
            key: TypeId::of::<K>(),
            function: PartitionFunction::Range {
                sampled: self.id(),
                descending,
            },
        };
        let placed = Placed {
            partitioner: Arc::new(range.clone()),
            partitioning,
        };
        let (dependency, _) = placed.bring(self, None);
        let compute = streams(move |context, _, inputs| {
            let mut records: Vec<(K, V)> = Vec::new();
            for batch in typed_batches::<(K, V)>(only(inputs)) {
                batch?.for_each(|record| records.push(record));
            }
            if descending {
                records.sort_by(|left, right| right.0.cmp(&left.0));
            } else {
                records.sort_by(|left, right| left.0.cmp(&right.0));
            }
            Ok(stream_of(records.into_iter(), context.resources.batch_records))
        });
        let mut derivation = placed.derive(operator, vec![dependency], compute);
        derivation.prepare = (range.partitions() > 1).then(|| self.sampling(range));
        derivation.build(self.context())
    }

    /// Finds the bounds of the ranges from a sample of every partition.
    fn sampling(&self, range: RangePartitioner<K>) -> Prepare {
        let (weak, parent, partitions) = (self.context().downgrade(), self.id(), self.partitions());
        Arc::new(move || {
            let all: Vec<usize> = (0..partitions).collect();
            let samples = weak.upgrade()?.run_job(parent, &all, |_, _, stream| {
                let mut sample = Thinned::new();
                for batch in typed_batches::<(K, V)>(stream) {
                    batch?
                        .as_slice()
                        .iter()
                        .for_each(|(key, _)| sample.offer(|| key.clone()));
                }
                Ok(sample.into_weighted())
            })?;
            range.set_bounds(samples.into_iter().flatten().collect());
            Ok(())
        })
    }
}

impl<T: Record> Dataset<T> {
    /// Spreads the records evenly over `partitions`: those of each source partition in turn.
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

impl<T: Key> Dataset<T> {
    /// Each different record once.
    #[track_caller]
    pub fn distinct(&self) -> Dataset<T> {
        self.distinct_into(self.partitions())
    }

    /// [`distinct`](Self::distinct) into a number of partitions.
    #[track_caller]
    pub fn distinct_into(&self, partitions: usize) -> Dataset<T> {
        let keyed: Dataset<(T, ())> = self.batchwise("distinct", false, |_, _| |batch| Ok(batch.map(|key| (key, ()))));
        keyed.combine("distinct", Merging(|(), ()| ()), partitions).keys()
    }
}

fn both(mut inputs: Vec<AnyStream>) -> (AnyStream, AnyStream) {
    let (right, left) = (inputs.pop(), inputs.pop());
    let open = |stream: Option<AnyStream>| stream.unwrap_or_else(|| Box::new(std::iter::empty()));
    (open(left), open(right))
}

/// A hash table of chains: all values of a key, in order, without an allocation for each key.
struct Chains<K, V> {
    /// Key to (first, last) position in `links`.
    keys: crate::shuffle::Table<K, (u32, u32)>,
    /// Values, each with the position of the next one of its key.
    links: Vec<(V, u32)>,
}

const END: u32 = u32::MAX;

impl<K: Key, V: Record> Chains<K, V> {
    fn collect(stream: AnyStream) -> TaskResult<Self> {
        let mut chains = Self {
            keys: table(),
            links: Vec::new(),
        };
        for batch in typed_batches::<(K, V)>(stream) {
            let batch = batch?;
            if chains.links.len() + batch.len() >= END as usize {
                let what = format!("one partition of the left side of a `join` has {END} records or more");
                return Err(EngineError::invalid(what, "join into more partitions with `join_into`").into());
            }
            batch.for_each(|(key, value)| {
                let position = chains.links.len() as u32;
                chains.links.push((value, END));
                match chains.keys.entry(key) {
                    indexmap::map::Entry::Occupied(mut entry) => {
                        let (_, last) = entry.get_mut();
                        chains.links[*last as usize].1 = position;
                        *last = position;
                    }
                    indexmap::map::Entry::Vacant(entry) => {
                        entry.insert((position, position));
                    }
                }
            });
        }
        Ok(chains)
    }

    fn join<W: Record>(&self, key: K, right: W, pairs: &mut Vec<(K, (V, W))>) {
        let Some((first, _)) = self.keys.get(&key) else { return };
        let mut position = *first;
        while position != END {
            let (value, next) = &self.links[position as usize];
            pairs.push((key.clone(), (value.clone(), right.clone())));
            position = *next;
        }
    }
}
