//! Transformations that sort, and what is quicker on sorted datasets.

use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Arc;

use distdl_storage::Record;

use crate::batch::{AnyBatch, typed_batches};
use crate::dataset::{Dataset, Purpose, generator, only, streams};
use crate::error::in_driver;
use crate::lineage::{BatchStep, Compute, Dependency, NodeSpec, PartitionMap, Prepare, Wanted};
use crate::pair::KeyPlacement;
use crate::partitioner::{Checked, Key, Partitioner, RangePartitioner, Thinned};
use crate::shuffle::sorted;
use crate::task::TaskContext;

/// With which the keys of a sample are drawn: the bounds of ranges are the same in every run.
const SAMPLE_SEED: u64 = 0x736f_7274_696e_6721;

impl<K: Key + Ord, V: Record> Dataset<(K, V)> {
    /// Sorts by key, ascending and stable: records of one key keep their order. One shuffle; a job before the first one
    /// samples the keys, and so computes what is sorted once more: persist it if that costs much.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([(2, 'a'), (1, 'b'), (2, 'c'), (1, 'd')], 2);
    /// let sorted = pairs.sort_by_key();
    /// assert_eq!(sorted.collect()?, [(1, 'b'), (1, 'd'), (2, 'a'), (2, 'c')], "of one key in the order of before");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
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

    /// [`sort_by_key_descending`](Self::sort_by_key_descending) into a number of partitions.
    #[track_caller]
    pub fn sort_by_key_descending_into(&self, partitions: usize) -> Dataset<(K, V)> {
        self.sort("sort_by_key_descending", true, partitions)
    }

    #[track_caller]
    fn sort(&self, operator: &'static str, descending: bool, partitions: usize) -> Dataset<(K, V)> {
        let site = Location::caller();
        let range = RangePartitioner::<K>::sampling(partitions, descending, self.id());
        let placement = KeyPlacement::by(Arc::new(range.clone()));
        let (dependency, _) = placement.bring(self, None);
        let mut spec = placement.derive(operator, vec![dependency], sorted_by_key::<K, V>(descending));
        spec.prepare = (range.partitions() > 1).then(|| self.sampling(operator, site, range));
        spec.build(self.context())
    }

    /// The same pairs where `partitioner` puts their keys, each partition sorted by key, ascending and stable. One
    /// shuffle, none if they lie there already; sorting on the way costs less than a sort after
    /// [`partition_by`](Self::partition_by).
    #[track_caller]
    pub fn repartition_and_sort_within_partitions(&self, partitioner: impl Partitioner<K>) -> Dataset<(K, V)> {
        let placement = KeyPlacement::by(Arc::new(Checked(partitioner)));
        let (dependency, _) = placement.bring(self, None);
        let compute = sorted_by_key::<K, V>(false);
        let operator = "repartition_and_sort_within_partitions";
        placement
            .derive(operator, vec![dependency], compute)
            .build(self.context())
    }

    /// The records whose key is in `range`, in order. No shuffle; where the dataset is known to be partitioned by
    /// ranges of its keys, after a sort, partitions that cannot hold such keys are neither computed nor read.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let sorted = context.range(0..1000, 4).key_by(|number| 999 - number).sort_by_key().cache();
    /// assert_eq!(sorted.filter_by_range(..3).keys().collect()?, [0, 1, 2]);
    /// assert_eq!(sorted.partitions_computed(), 1, "others cannot hold such keys");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn filter_by_range(&self, range: impl RangeBounds<K>) -> Dataset<(K, V)> {
        let range = Arc::new((range.start_bound().cloned(), range.end_bound().cloned()));
        let parameters = in_words(&range);
        let mut dependencies = self.narrow_dependency();
        let partitioning = self.node().partitioning.clone();
        let known = partitioning.as_ref().and_then(|placement| placement.partitioner::<K>());
        if let (Some(partitioner), [Dependency::Narrow { partitions, .. }]) = (known, &mut dependencies[..]) {
            let range = Arc::clone(&range);
            let holds = move |partition| {
                let range = (range.0.as_ref(), range.1.as_ref());
                // Who cannot say it rules nothing out.
                catch_unwind(AssertUnwindSafe(|| partitioner.may_hold(partition, range))).unwrap_or(true)
            };
            *partitions = PartitionMap::Where(Wanted(Arc::new(holds)));
        }
        let compute = Compute::Batchwise(Arc::new(move |_: &TaskContext, _| {
            let range = Arc::clone(&range);
            Box::new(move |batch: AnyBatch| {
                let mut records = batch.typed::<(K, V)>().into_vec();
                records.retain(|(key, _)| (range.0.as_ref(), range.1.as_ref()).contains(key));
                Ok(AnyBatch::owned(records))
            }) as BatchStep
        }));
        let mut spec = NodeSpec::new("filter_by_range", self.partitions(), dependencies, compute)
            .with_agreed_parameters(parameters);
        spec.partitioning = partitioning;
        spec.build(self.context())
    }

    /// Finds the bounds of the ranges from a sample of every partition.
    fn sampling(
        &self,
        operator: &'static str,
        site: &'static Location<'static>,
        range: RangePartitioner<K>,
    ) -> Prepare {
        let (weak, parent, partitions) = (self.context().downgrade(), self.id(), self.partitions());
        Arc::new(move || {
            let all: Vec<usize> = (0..partitions).collect();
            let samples = weak.upgrade()?.run_job(parent, &all, move |_, partition, stream| {
                let mut sample = Thinned::of(partitions, generator(Purpose::SortBounds, SAMPLE_SEED, partition));
                for batch in typed_batches::<(K, V)>(stream) {
                    batch?
                        .as_slice()
                        .iter()
                        .for_each(|(key, _)| sample.offer(|| key.clone()));
                }
                Ok(sample.into_weighted())
            })?;
            in_driver(operator, site, || {
                range.set_bounds(samples.into_iter().flatten().collect())
            })
        })
    }
}

/// The bounds of a range, for the keys of computations.
fn in_words<K: Record>((low, high): &(Bound<K>, Bound<K>)) -> String {
    let bytes = |bound: &Bound<K>| bound.as_ref().map(|key| postcard::to_stdvec(key).ok());
    format!("{:?} {:?}", bytes(low), bytes(high))
}

impl<T: Record> Dataset<T> {
    /// Sorts by what `function` makes of each record, ascending and stable. One shuffle, in which the key travels with
    /// its record; a job before the first one samples the keys, as for [`sort_by_key`](Self::sort_by_key). To sort by
    /// floating-point numbers, see [`Key`].
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let words = context.parallelize(["three", "one", "two"].map(str::to_owned), 2);
    /// assert_eq!(words.sort_by(String::len).collect()?, ["one", "two", "three"], "equal ones keep their order");
    /// assert_eq!(words.sort_by(|word| word.clone()).first()?, "one");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn sort_by<K: Key + Ord>(&self, function: impl Fn(&T) -> K + Send + Sync + 'static) -> Dataset<T> {
        self.key_by(function).sort("sort_by", false, self.partitions()).values()
    }

    /// [`sort_by`](Self::sort_by) into a number of partitions.
    #[track_caller]
    pub fn sort_by_into<K: Key + Ord>(
        &self,
        function: impl Fn(&T) -> K + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<T> {
        self.key_by(function).sort("sort_by", false, partitions).values()
    }

    /// As [`sort_by`](Self::sort_by), descending and stable.
    #[track_caller]
    pub fn sort_by_descending<K: Key + Ord>(&self, function: impl Fn(&T) -> K + Send + Sync + 'static) -> Dataset<T> {
        let keyed = self.key_by(function);
        keyed.sort("sort_by_descending", true, self.partitions()).values()
    }

    /// [`sort_by_descending`](Self::sort_by_descending) into a number of partitions.
    #[track_caller]
    pub fn sort_by_descending_into<K: Key + Ord>(
        &self,
        function: impl Fn(&T) -> K + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<T> {
        let keyed = self.key_by(function);
        keyed.sort("sort_by_descending", true, partitions).values()
    }
}

/// Sorts a partition by key.
fn sorted_by_key<K: Key + Ord, V: Record>(descending: bool) -> Compute {
    streams(move |context, _, inputs| {
        let compare = move |left: &(K, V), right: &(K, V)| match descending {
            true => right.0.cmp(&left.0),
            false => left.0.cmp(&right.0),
        };
        sorted(context, only(inputs), compare)
    })
}
