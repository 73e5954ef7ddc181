//! Transformations that put whole partitions together, of one dataset or of two.

use std::panic::Location;

use distdl_storage::Record;

use crate::batch::{AnyBatch, AnyStream, Batches, Failure, Fill, PartitionIter, TaskResult, typed_batches};
use crate::context::Context;
use crate::dataset::{Dataset, both, of_two_contexts, streams};
use crate::error::{EngineError, Result};
use crate::lineage::{Compute, Dependency, NodeSpec, PartitionMap};

impl Context {
    /// The partitions of all these datasets, one after the other. Duplicates stay. Of many datasets it makes a smaller
    /// plan than [`Dataset::union`] again and again; of none it is empty.
    #[track_caller]
    pub fn union<'a, T: Record>(&self, datasets: impl IntoIterator<Item = &'a Dataset<T>>) -> Dataset<T> {
        let datasets: Vec<&Dataset<T>> = datasets.into_iter().collect();
        if datasets.is_empty() {
            return self.parallelize(Vec::new(), 1);
        }
        let mut partitions = 0;
        let arms = datasets.iter().map(|dataset| {
            let offset = partitions;
            partitions += dataset.partitions();
            Dependency::Narrow {
                parent: dataset.id(),
                partitions: PartitionMap::Offset(offset),
            }
        });
        let dependencies = arms.collect();
        let union = NodeSpec::new("union", partitions, dependencies, Compute::Pass);
        let of_one_context = |union: NodeSpec, dataset: &&Dataset<T>| union.of_one_context(self, dataset.context());
        datasets.iter().fold(union, of_one_context).build(self)
    }
}

impl<T: Record> Dataset<T> {
    /// The partitions of this dataset followed by those of `other`. Duplicates stay.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let numbers = context.range(0..3, 2);
    /// let twice = numbers.union(&numbers);
    /// assert_eq!(twice.collect()?, [0, 1, 2, 0, 1, 2]);
    /// assert_eq!(twice.partitions(), 4);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn union(&self, other: &Dataset<T>) -> Dataset<T> {
        self.context().union([self, other])
    }

    /// At most `partitions` partitions, each the concatenation of neighbouring ones, without a shuffle.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let numbers = context.range(0..6, 6);
    /// let pairs = [vec![0, 1], vec![2, 3], vec![4, 5]];
    /// assert_eq!(numbers.coalesce(3).glom().collect()?, pairs, "neighbours, so that the order stays");
    /// assert_eq!(numbers.coalesce(100).partitions(), 6, "`repartition` makes more");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn coalesce(&self, partitions: usize) -> Dataset<T> {
        let (parents, count) = (self.partitions(), partitions.min(self.partitions()));
        let groups = (0..count).map(|group| (group * parents / count..(group + 1) * parents / count).collect());
        let map = PartitionMap::Groups(groups.collect());
        let dependencies = vec![Dependency::Narrow {
            parent: self.id(),
            partitions: map,
        }];
        NodeSpec::new("coalesce", count, dependencies, Compute::Pass).build(self.context())
    }

    /// Pairs the records of two datasets by position.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let (numbers, squares) = (context.range(0..4, 2), context.range(0..4, 2).map(|number| number * number));
    /// assert_eq!(numbers.zip(&squares)?.collect()?, [(0, 0), (1, 1), (2, 4), (3, 9)]);
    /// assert!(numbers.zip(&context.range(0..4, 3)).is_err(), "it knows how many partitions there are");
    /// let shorter = numbers.zip(&context.range(0..3, 2))?;
    /// assert!(shorter.collect().is_err(), "and learns how long they are when it computes them");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If they do not have the same number of partitions. That partitions differ in length shows when they are
    /// computed: the action then fails with an error that names the partition.
    #[track_caller]
    pub fn zip<U: Record>(&self, other: &Dataset<U>) -> Result<Dataset<(T, U)>> {
        let dependencies = self.beside("zip", other)?;
        let site = Location::caller();
        let compute = streams(move |context, partition, inputs| {
            let (left, right) = both(inputs);
            let failure = Failure::default();
            let mut left = PartitionIter::<T>::new(left, Failure::clone(&failure));
            let mut right = PartitionIter::<U>::new(right, Failure::clone(&failure));
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
        Ok(NodeSpec::new("zip", self.partitions(), dependencies, compute).build(self.context()))
    }

    /// Applies `function` to the partitions of two datasets side by side, which need not be of one length.
    ///
    /// # Errors
    /// If they do not have the same number of partitions.
    #[track_caller]
    pub fn zip_partitions<U: Record, W: Record, I: IntoIterator<Item = W> + 'static>(
        &self,
        other: &Dataset<U>,
        function: impl Fn(PartitionIter<T>, PartitionIter<U>) -> I + Send + Sync + 'static,
    ) -> Result<Dataset<W>> {
        let dependencies = self.beside("zip_partitions", other)?;
        let compute = streams(move |context, _, inputs| {
            let (left, right) = both(inputs);
            let failure = Failure::default();
            let left = PartitionIter::<T>::new(left, Failure::clone(&failure));
            let right = PartitionIter::<U>::new(right, Failure::clone(&failure));
            let output = function(left, right).into_iter();
            Ok(Box::new(Batches::new(output, context.resources.batch_records, failure)))
        });
        Ok(NodeSpec::new("zip_partitions", self.partitions(), dependencies, compute).build(self.context()))
    }

    /// The same partitions of both.
    #[track_caller]
    fn beside<U: Record>(&self, operator: &str, other: &Dataset<U>) -> Result<Vec<Dependency>> {
        if !self.context().is(other.context()) {
            return Err(of_two_contexts(operator, Location::caller()));
        }
        if self.partitions() != other.partitions() {
            return Err(EngineError::invalid(
                format!(
                    "`{operator}` of {} with {} partitions",
                    self.partitions(),
                    other.partitions()
                ),
                "bring both to the same number, for example with `repartition`, or join them by `zip_with_index`",
            ));
        }
        let mut dependencies = self.narrow_dependency();
        dependencies.extend(other.narrow_dependency());
        Ok(dependencies)
    }

    /// Every record with every record of `other`: partition `p * other.partitions() + q` pairs each record of partition
    /// `p`, in order, with those of partition `q` of `other` in theirs.
    ///
    /// No shuffle, but each partition is read once for every partition of the other dataset: `persist` both. One
    /// partition of `other` at a time is held in memory by a task.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let (digits, letters) = (context.parallelize([1, 2], 1), context.parallelize(['a', 'b'], 2));
    /// let pairs = digits.cartesian(&letters);
    /// assert_eq!(pairs.glom().collect()?, [vec![(1, 'a'), (2, 'a')], vec![(1, 'b'), (2, 'b')]]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn cartesian<U: Record>(&self, other: &Dataset<U>) -> Dataset<(T, U)> {
        let (rows, columns) = (self.partitions(), other.partitions());
        let side = |parent, partitions| Dependency::Narrow { parent, partitions };
        let dependencies = vec![
            side(self.id(), PartitionMap::Row(columns)),
            side(other.id(), PartitionMap::Column(columns)),
        ];
        let compute = streams(|context, _, inputs| {
            let (left, right) = both(inputs);
            let mut columns: Vec<U> = Vec::new();
            for batch in typed_batches::<U>(right) {
                batch?.for_each(|record| columns.push(record));
            }
            Ok(Box::new(Paired {
                left,
                batch: Vec::<T>::new().into_iter(),
                columns,
                begun: None,
                batch_records: context.resources.batch_records,
            }))
        });
        NodeSpec::new("cartesian", rows.saturating_mul(columns), dependencies, compute)
            .of_one_context(self.context(), other.context())
            .build(self.context())
    }
}

/// The pairs of one partition of `cartesian`.
struct Paired<T, U> {
    left: AnyStream,
    /// Of the left side, the records that were read and are not paired.
    batch: std::vec::IntoIter<T>,
    columns: Vec<U>,
    /// A record of the left side, and how many of the columns it was paired with.
    begun: Option<(T, usize)>,
    batch_records: usize,
}

impl<T: Record, U: Record> Iterator for Paired<T, U> {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let (mut pairs, mut fill) = (Vec::new(), Fill::default());
        loop {
            if let Some((record, paired)) = self.begun.take() {
                let rest = &self.columns[paired..];
                let room = rest.len().min(fill.step()).min(self.batch_records - pairs.len());
                pairs.extend(rest[..room].iter().map(|column| (record.clone(), column.clone())));
                self.begun = (room < rest.len()).then_some((record, paired + room));
                if pairs.len() >= self.batch_records || fill.is_full(&pairs) {
                    return Some(Ok(AnyBatch::owned(pairs)));
                }
                if self.begun.is_some() {
                    continue;
                }
            }
            if let Some(record) = self.batch.next() {
                self.begun = Some((record, 0));
                continue;
            }
            match self.left.next() {
                Some(Ok(batch)) => self.batch = batch.typed::<T>().into_vec().into_iter(),
                Some(Err(error)) => return Some(Err(error)),
                None => return (!pairs.is_empty()).then(|| Ok(AnyBatch::owned(pairs))),
            }
        }
    }
}
