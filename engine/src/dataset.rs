//! The typed face of lineage: `Dataset<T>` and the transformations that need no shuffle.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::{Arc, OnceLock};

use distdl_storage::{Level, Record};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::batch::{
    AnyBatch, AnyStream, Batch, Batches, Failure, PartitionIter, RecordType, TaskResult, typed_batches,
};
use crate::context::Answered;
use crate::context::{Context, Handle};
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::lineage::{BatchStep, Compute, Dependency, Node, NodeSpec, PartitionMap, Partitioning, Prepare};
use crate::task::TaskContext;

/// A lazy, partitioned collection with lineage. Cheap to clone; does nothing until an action asks for records.
///
/// Order is part of the value: partitions are ordered, and so are the records in each of them.
#[must_use = "a dataset is lazy: it does nothing until an action such as `collect` or `count`"]
pub struct Dataset<T> {
    pub(crate) handle: Arc<Handle>,
    records: PhantomData<fn() -> T>,
}

impl<T> Clone for Dataset<T> {
    fn clone(&self) -> Self {
        Self {
            handle: Arc::clone(&self.handle),
            records: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Dataset<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "Dataset({:?}, {} partitions)",
            self.handle.node, self.handle.node.partitions
        )
    }
}

/// What a new dataset is made of, with the defaults that most operators share.
pub(crate) struct Derivation {
    pub operator: &'static str,
    pub site: &'static Location<'static>,
    pub partitions: usize,
    pub dependencies: Vec<Dependency>,
    pub compute: Compute,
    pub partitioning: Option<Partitioning>,
    pub prepare: Option<Prepare>,
    pub remark: String,
}

impl Derivation {
    #[track_caller]
    pub(crate) fn new(
        operator: &'static str,
        partitions: usize,
        dependencies: Vec<Dependency>,
        compute: Compute,
    ) -> Self {
        Self {
            operator,
            site: Location::caller(),
            partitions,
            dependencies,
            compute,
            partitioning: None,
            prepare: None,
            remark: String::new(),
        }
    }

    pub(crate) fn build<T: Record>(self, context: &Context) -> Dataset<T> {
        let handle = context.insert(NodeSpec {
            operator: self.operator,
            site: self.site,
            partitions: self.partitions,
            dependencies: self.dependencies,
            compute: self.compute,
            record_type: RecordType::of::<T>(),
            partitioning: self.partitioning,
            prepare: self.prepare,
            remark: self.remark,
        });
        Dataset {
            handle: Arc::new(handle),
            records: PhantomData,
        }
    }
}

/// A computation over whole streams, erased.
pub(crate) fn streams(
    function: impl Fn(&TaskContext, usize, Vec<AnyStream>) -> TaskResult<AnyStream> + Send + Sync + 'static,
) -> Compute {
    Compute::Streams(Arc::new(function))
}

/// The only stream of an operator with one parent partition.
pub(crate) fn only(streams: Vec<AnyStream>) -> AnyStream {
    Box::new(streams.into_iter().flatten())
}

impl<T: Record> Dataset<T> {
    /// The engine that this dataset belongs to.
    pub fn context(&self) -> &Context {
        &self.handle.context
    }

    /// Its name in lineage.
    pub fn id(&self) -> DatasetId {
        self.handle.node.id
    }

    /// Number of partitions; it never follows from the number of workers.
    pub fn partitions(&self) -> usize {
        self.handle.node.partitions
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.handle.node
    }

    pub(crate) fn narrow_dependency(&self) -> Vec<Dependency> {
        vec![Dependency::Narrow {
            parent: self.id(),
            partitions: PartitionMap::Same,
        }]
    }

    /// A dataset with the same partitions, made batch by batch.
    #[track_caller]
    pub(crate) fn batchwise<U: Record, S>(
        &self,
        operator: &'static str,
        keeps_partitioning: bool,
        open: impl Fn(&TaskContext, usize) -> S + Send + Sync + 'static,
    ) -> Dataset<U>
    where
        S: FnMut(Batch<T>) -> TaskResult<Vec<U>> + 'static,
    {
        let compute = Compute::Batchwise(Arc::new(move |context: &TaskContext, partition| {
            let mut step = open(context, partition);
            Box::new(move |batch: AnyBatch| Ok(AnyBatch::owned(step(batch.typed::<T>())?))) as BatchStep
        }));
        let mut derivation = Derivation::new(operator, self.partitions(), self.narrow_dependency(), compute);
        derivation.partitioning = self.node().partitioning.filter(|_| keeps_partitioning);
        derivation.build(self.context())
    }

    /// Applies `function` to each record.
    #[track_caller]
    pub fn map<U: Record>(&self, function: impl Fn(T) -> U + Send + Sync + 'static) -> Dataset<U> {
        let function = Arc::new(function);
        self.batchwise("map", false, move |_, _| {
            let function = Arc::clone(&function);
            move |batch| Ok(batch.map(&*function))
        })
    }

    /// Keeps the records for which `predicate` holds.
    #[track_caller]
    pub fn filter(&self, predicate: impl Fn(&T) -> bool + Send + Sync + 'static) -> Dataset<T> {
        let predicate = Arc::new(predicate);
        self.batchwise("filter", true, move |_, _| {
            let predicate = Arc::clone(&predicate);
            move |batch: Batch<T>| {
                Ok(match batch {
                    Batch::Owned(mut records) => {
                        records.retain(&*predicate);
                        records
                    }
                    shared @ Batch::Shared { .. } => shared
                        .as_slice()
                        .iter()
                        .filter(|record| predicate(record))
                        .cloned()
                        .collect(),
                })
            }
        })
    }

    /// Replaces each record by any number of others.
    #[track_caller]
    pub fn flat_map<U: Record, I: IntoIterator<Item = U>>(
        &self,
        function: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        let function = Arc::new(function);
        self.batchwise("flat_map", false, move |_, _| {
            let function = Arc::clone(&function);
            move |batch: Batch<T>| {
                let mut records = Vec::with_capacity(batch.len());
                batch.for_each(|record| records.extend(function(record)));
                Ok(records)
            }
        })
    }

    /// Applies `function` to the records of each partition as a whole.
    #[track_caller]
    pub fn map_partitions<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        function: impl Fn(PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.map_streams("map_partitions", move |_, records| function(records))
    }

    /// As [`map_partitions`](Self::map_partitions), with the 0-based index of the partition.
    #[track_caller]
    pub fn map_partitions_with_index<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        function: impl Fn(usize, PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.map_streams("map_partitions_with_index", function)
    }

    #[track_caller]
    fn map_streams<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        operator: &'static str,
        function: impl Fn(usize, PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        let compute = streams(move |context, partition, inputs| {
            let failure = Failure::default();
            let records = PartitionIter::<T>::new(only(inputs), Failure::clone(&failure));
            let output = function(partition, records).into_iter();
            Ok(Box::new(Batches::new(output, context.resources.batch_records, failure)))
        });
        Derivation::new(operator, self.partitions(), self.narrow_dependency(), compute).build(self.context())
    }

    /// Pairs each record with a key that `function` makes from it.
    #[track_caller]
    pub fn key_by<K: Record>(&self, function: impl Fn(&T) -> K + Send + Sync + 'static) -> Dataset<(K, T)> {
        let function = Arc::new(function);
        self.batchwise("key_by", false, move |_, _| {
            let function = Arc::clone(&function);
            move |batch| Ok(batch.map(|record| (function(&record), record)))
        })
    }

    /// The partitions of this dataset followed by those of `other`. Duplicates stay.
    #[track_caller]
    pub fn union(&self, other: &Dataset<T>) -> Dataset<T> {
        let arm = |dataset: &Self, offset| Dependency::Narrow {
            parent: dataset.id(),
            partitions: PartitionMap::Offset(offset),
        };
        let dependencies = vec![arm(self, 0), arm(other, self.partitions())];
        let partitions = self.partitions() + other.partitions();
        Derivation::new("union", partitions, dependencies, Compute::Pass).build(self.context())
    }

    /// Pairs the records of two datasets by position.
    ///
    /// # Errors
    /// If they do not have the same number of partitions. That partitions differ in length shows when they are
    /// computed: the action then fails with an error that names the partition.
    #[track_caller]
    pub fn zip<U: Record>(&self, other: &Dataset<U>) -> Result<Dataset<(T, U)>> {
        if self.partitions() != other.partitions() {
            return Err(EngineError::invalid(
                format!("`zip` of {} with {} partitions", self.partitions(), other.partitions()),
                "bring both to the same number, for example with `repartition`, or join them by `zip_with_index`",
            ));
        }
        let mut dependencies = self.narrow_dependency();
        dependencies.extend(other.narrow_dependency());
        let site = Location::caller();
        let compute = streams(move |context, partition, mut inputs| {
            let (right, left) = (inputs.pop(), inputs.pop());
            let failure = Failure::default();
            let open = |stream: Option<AnyStream>| stream.unwrap_or_else(|| Box::new(std::iter::empty()));
            let mut left = PartitionIter::<T>::new(open(left), Failure::clone(&failure));
            let mut right = PartitionIter::<U>::new(open(right), Failure::clone(&failure));
            let uneven = Failure::clone(&failure);
            let pairs = std::iter::from_fn(move || match (left.next(), right.next()) {
                (Some(left), Some(right)) => Some((left, right)),
                (None, None) => None,
                _ => {
                    let message = "the two partitions do not have the same number of records; use `zip_with_index` \
                                   and `join` where lengths differ";
                    let error = EngineError::Operator {
                        operator: "zip".into(),
                        site: site.to_string(),
                        partition,
                        message: message.into(),
                    };
                    uneven.borrow_mut().get_or_insert(error.into());
                    None
                }
            });
            Ok(Box::new(Batches::new(pairs, context.resources.batch_records, failure)))
        });
        Ok(Derivation::new("zip", self.partitions(), dependencies, compute).build(self.context()))
    }

    /// Pairs each record with its 0-based position in the whole dataset. Counts the partitions before the first job.
    #[track_caller]
    pub fn zip_with_index(&self) -> Dataset<(T, u64)> {
        let offsets: Arc<OnceLock<Vec<u64>>> = Arc::default();
        let (weak, parent, partitions) = (self.context().downgrade(), self.id(), self.partitions());
        let found = Arc::clone(&offsets);
        let prepare: Prepare = Arc::new(move || {
            let all: Vec<usize> = (0..partitions).collect();
            let lengths = weak.upgrade()?.run_job(parent, &all, |_, _, stream| {
                typed_batches::<T>(stream).try_fold(0u64, |sum, batch| Ok(sum + batch?.len() as u64))
            })?;
            let starts = lengths
                .iter()
                .scan(0, |start, length| Some(std::mem::replace(start, *start + length)));
            let _ = found.set(starts.collect());
            Ok(())
        });
        let compute = Compute::Batchwise(Arc::new(move |_: &TaskContext, partition| {
            let mut index = offsets.get().map_or(0, |offsets| offsets[partition]);
            Box::new(move |batch: AnyBatch| {
                let indexed = batch.typed::<T>().map(|record| {
                    index += 1;
                    (record, index - 1)
                });
                Ok(AnyBatch::owned(indexed))
            }) as BatchStep
        }));
        let mut derivation = Derivation::new("zip_with_index", partitions, self.narrow_dependency(), compute);
        derivation.prepare = Some(prepare);
        derivation.build(self.context())
    }

    /// Keeps each record with probability `fraction`, decided by a generator keyed by (seed, partition, position).
    ///
    /// # Errors
    /// If `fraction` is not between 0 and 1.
    #[track_caller]
    pub fn sample(&self, fraction: f64, seed: u64) -> Result<Dataset<T>> {
        if !(0.0..=1.0).contains(&fraction) {
            return Err(EngineError::invalid(
                format!("`sample` of a fraction of {fraction}"),
                "give a fraction between 0 and 1",
            ));
        }
        Ok(self.keep_where_drawn("sample", seed, move |draw| draw < fraction))
    }

    /// Splits the dataset at random into one dataset for each weight; every record goes to exactly one of them.
    ///
    /// # Errors
    /// If the weights are not positive finite numbers.
    #[track_caller]
    pub fn random_split(&self, weights: &[f64], seed: u64) -> Result<Vec<Dataset<T>>> {
        let total: f64 = weights.iter().sum();
        if weights.is_empty() || !total.is_finite() || weights.iter().any(|weight| weight.is_nan() || *weight <= 0.0) {
            return Err(EngineError::invalid(
                format!("`random_split` by weights {weights:?}"),
                "give at least one weight, all of them positive and finite",
            ));
        }
        let mut splits = Vec::with_capacity(weights.len());
        let mut sum = 0.0;
        for (index, weight) in weights.iter().enumerate() {
            let low = sum / total;
            sum += weight;
            // The last one ends at 1 whatever rounding made of the sum.
            let high = if index + 1 == weights.len() { 1.0 } else { sum / total };
            splits.push(self.keep_where_drawn("random_split", seed, move |draw| low <= draw && draw < high));
        }
        Ok(splits)
    }

    #[track_caller]
    fn keep_where_drawn(
        &self,
        operator: &'static str,
        seed: u64,
        keep: impl Fn(f64) -> bool + Copy + Send + Sync + 'static,
    ) -> Dataset<T> {
        self.batchwise(operator, true, move |_, partition| {
            let mut draws = draws(seed, partition);
            move |batch: Batch<T>| {
                let mut kept = Vec::new();
                for record in batch.as_slice() {
                    if keep(draws()) {
                        kept.push(record.clone());
                    }
                }
                Ok(kept)
            }
        })
    }

    /// Groups the records of each partition into vectors of `records`, the last one shorter.
    ///
    /// # Errors
    /// If `records` is 0.
    #[track_caller]
    pub fn batch(&self, records: usize) -> Result<Dataset<Vec<T>>> {
        if records == 0 {
            return Err(EngineError::invalid("`batch` of 0 records", "give at least 1"));
        }
        Ok(self.map_streams("batch", move |_, mut input| {
            std::iter::from_fn(move || {
                let group: Vec<T> = input.by_ref().take(records).collect();
                (!group.is_empty()).then_some(group)
            })
        }))
    }

    /// At most `partitions` partitions, each the concatenation of neighbouring ones, without a shuffle.
    #[track_caller]
    pub fn coalesce(&self, partitions: usize) -> Dataset<T> {
        let (parents, count) = (self.partitions(), partitions.max(1).min(self.partitions()));
        let groups = (0..count).map(|group| (group * parents / count..(group + 1) * parents / count).collect());
        let map = PartitionMap::Groups(groups.collect());
        let dependencies = vec![Dependency::Narrow {
            parent: self.id(),
            partitions: map,
        }];
        Derivation::new("coalesce", count, dependencies, Compute::Pass).build(self.context())
    }

    /// Keeps the blocks of this dataset at `level` once they are computed; returns the dataset itself.
    ///
    /// A block that is evicted, deleted or damaged later is computed again from lineage.
    pub fn persist(&self, level: Level) -> Dataset<T> {
        self.node().set_level(Some(level));
        self.clone()
    }

    /// [`persist`](Self::persist) at memory level.
    pub fn cache(&self) -> Dataset<T> {
        self.persist(Level::Memory)
    }

    /// Drops the blocks of this dataset and keeps none from now on.
    pub fn unpersist(&self) -> Dataset<T> {
        self.node().set_level(None);
        self.context().drop_blocks(self.id());
        self.clone()
    }

    /// The level at which blocks are kept, if they are.
    pub fn level(&self) -> Option<Level> {
        self.node().level()
    }

    /// How often a partition of this dataset was computed and kept since the context began: first times, and again
    /// after a loss. Only counted while it is persisted.
    pub fn partitions_computed(&self) -> u64 {
        self.context().metrics().partitions_computed(self.id())
    }

    pub(crate) fn run<R: Answered>(
        &self,
        partitions: &[usize],
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.context().run_job(self.id(), partitions, reduce)
    }

    pub(crate) fn run_all<R: Answered>(
        &self,
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        let all: Vec<usize> = (0..self.partitions()).collect();
        self.run(&all, reduce)
    }
}

/// Uniform numbers in [0, 1), the n-th of which is a function of (seed, partition, n).
pub(crate) fn draws(seed: u64, partition: usize) -> impl FnMut() -> f64 {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(partition as u64);
    // 53 random bits fill the mantissa.
    move || (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}
