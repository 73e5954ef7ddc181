//! Transformations of one dataset, partition by partition.

use std::fmt::Display;
use std::panic::Location;
use std::sync::Arc;

use distdl_storage::Record;

use crate::batch::{Batch, Batches, Failure, PartitionIter};
use crate::dataset::flatten::Flattened;
use crate::dataset::{Dataset, only, streams};
use crate::error::{EngineError, Result};
use crate::lineage::NodeSpec;

impl<T: Record> Dataset<T> {
    /// Applies `function` to each record.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let calls = context.counter();
    /// let counted = calls.clone();
    /// let squares = context.range(0..4, 2).map(move |number| {
    ///     counted.add(1);
    ///     number * number
    /// });
    /// assert_eq!(calls.value(), 0, "nothing runs until an action asks");
    /// assert_eq!(squares.collect()?, [0, 1, 4, 9]);
    /// assert_eq!(calls.value(), 4);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn map<U: Record>(&self, function: impl Fn(T) -> U + Send + Sync + 'static) -> Dataset<U> {
        let function = Arc::new(function);
        self.batchwise("map", false, move |_, _| {
            let function = Arc::clone(&function);
            move |batch| Ok(batch.map(&*function))
        })
    }

    /// As [`map`](Self::map) with a function that may fail: an action that meets an error ends with
    /// [`EngineError::Operator`], which has the error's words and the partition. Records are computed in batches
    /// ([`Config::batch_records`](crate::Config::batch_records)), so that an action that takes a few may also meet the
    /// error, or the panic, of one behind them. Where an operator makes any number of records that may fail, let it
    /// make `Result<_, String>` of them, and go on with `try_map(|record| record)`.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let words = context.parallelize(["1", "2", "three"].map(str::to_owned), 3);
    /// let numbers = words.try_map(|word| word.parse::<i32>());
    /// assert_eq!(numbers.first()?, 1, "an action that does not come to the third partition meets no error");
    /// let error = numbers.collect().expect_err("`three` is no number");
    /// assert!(error.to_string().contains("partition 2"));
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn try_map<U: Record, E: Display>(
        &self,
        function: impl Fn(T) -> Result<U, E> + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.tried("try_map", String::new(), function)
    }

    /// As [`try_map`](Self::try_map), and `parameters` say what the function has captured, as for
    /// [`map_partitions_with_parameters`](Self::map_partitions_with_parameters).
    #[track_caller]
    pub fn try_map_with_parameters<U: Record, E: Display>(
        &self,
        parameters: impl Into<String>,
        function: impl Fn(T) -> Result<U, E> + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.tried("try_map_with_parameters", parameters.into(), function)
    }

    #[track_caller]
    fn tried<U: Record, E: Display>(
        &self,
        operator: &'static str,
        parameters: String,
        function: impl Fn(T) -> Result<U, E> + Send + Sync + 'static,
    ) -> Dataset<U> {
        let (function, site) = (Arc::new(function), Location::caller());
        self.batchwise_with(operator, parameters, false, move |_, partition| {
            let function = Arc::clone(&function);
            move |batch: Batch<T>| {
                let results = batch.map(&*function).into_iter();
                let failed = |error: E| EngineError::Operator {
                    operator: operator.into(),
                    site: site.to_string(),
                    partition,
                    message: error.to_string(),
                };
                Ok(results.map(|result| result.map_err(failed)).collect::<Result<_>>()?)
            }
        })
    }

    /// Keeps the records for which `predicate` holds.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let small = context.range(0..8, 4).filter(|number| *number < 3);
    /// assert_eq!(small.partitions(), 4, "partitions stay, also those of which nothing is left");
    /// assert_eq!(small.glom().collect()?, [vec![0, 1], vec![2], vec![], vec![]]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
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

    /// Replaces each record by any number of others, which are made as they are needed: they may be more than memory
    /// holds.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let lines = context.parallelize(["to be", "", "or not"].map(str::to_owned), 2);
    /// let words = lines.flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    /// assert_eq!(words.collect()?, ["to", "be", "or", "not"]);
    /// let endless = context.range(0..1, 1).flat_map(|first| first..);
    /// assert_eq!(endless.take(3)?, [0, 1, 2]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn flat_map<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        function: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.flattened("flat_map", move |record| function(record).into_iter())
            .build(self.context())
    }

    /// What `function` makes of each record, one after the other.
    #[track_caller]
    pub(crate) fn flattened<U: Record, I: Iterator<Item = U> + 'static>(
        &self,
        operator: &'static str,
        function: impl Fn(T) -> I + Send + Sync + 'static,
    ) -> NodeSpec {
        let function = Arc::new(function);
        let compute = streams(move |context, _, inputs| {
            let function = Arc::clone(&function);
            let flattened = Flattened::new(context, only(inputs), move |record| function(record));
            Ok(Box::new(flattened))
        });
        NodeSpec::new(operator, self.partitions(), self.narrow_dependency(), compute)
    }

    /// Applies `function` to the records of each partition as a whole.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let numbers = context.range(0..5, 2).filter(|number| *number < 2);
    /// let sums = numbers.map_partitions(|records| [records.sum::<u64>()]);
    /// assert_eq!(sums.collect()?, [1, 0], "it is called for a partition without records, too");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn map_partitions<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        function: impl Fn(PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.map_streams("map_partitions", move |_, records| function(records))
    }

    /// As [`map_partitions`](Self::map_partitions), with the 0-based index of the partition.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let placed = context.range(10..14, 2).map_partitions_with_index(|partition, records| {
    ///     records.map(move |number| (partition, number))
    /// });
    /// assert_eq!(placed.collect()?, [(0, 10), (0, 11), (1, 12), (1, 13)]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn map_partitions_with_index<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        function: impl Fn(usize, PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.map_streams("map_partitions_with_index", function)
    }

    /// As [`map_partitions_with_index`](Self::map_partitions_with_index), and `parameters` say what the function has
    /// captured, by which it gives other records than another one from the same line of the program. Where they differ,
    /// [`checkpoint`](Self::checkpoint) and [`memoize`](Self::memoize) find no earlier result, and processes of a
    /// cluster find each other out.
    #[track_caller]
    pub fn map_partitions_with_parameters<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        parameters: impl Into<String>,
        function: impl Fn(usize, PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        let spec = self.map_streams_spec("map_partitions_with_parameters", function);
        spec.with_agreed_parameters(parameters.into()).build(self.context())
    }

    /// As [`map_partitions_with_parameters`](Self::map_partitions_with_parameters), and `of_process` says what else the
    /// records follow from that may be another in each process, such as which kind of device computes them:
    /// [`checkpoint`](Self::checkpoint) and [`memoize`](Self::memoize) find no result of another one, and processes of
    /// a cluster do not compare it.
    #[track_caller]
    pub fn map_partitions_with_parameters_of_process<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        parameters: impl Into<String>,
        of_process: &str,
        function: impl Fn(usize, PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        let spec = self.map_streams_spec("map_partitions_with_parameters_of_process", function);
        let mut spec = spec.with_agreed_parameters(parameters.into());
        spec.parameters = format!("{}\n{of_process}", spec.parameters);
        spec.build(self.context())
    }

    /// The records of each partition as one vector; an empty one where a partition has none.
    #[track_caller]
    pub fn glom(&self) -> Dataset<Vec<T>> {
        self.map_streams("glom", |_, records| std::iter::once_with(|| records.collect()))
    }

    #[track_caller]
    fn map_streams<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        operator: &'static str,
        function: impl Fn(usize, PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> Dataset<U> {
        self.map_streams_spec(operator, function).build(self.context())
    }

    /// The same, before it is a dataset.
    #[track_caller]
    fn map_streams_spec<U: Record, I: IntoIterator<Item = U> + 'static>(
        &self,
        operator: &'static str,
        function: impl Fn(usize, PartitionIter<T>) -> I + Send + Sync + 'static,
    ) -> NodeSpec {
        let compute = streams(move |context, partition, inputs| {
            let failure = Failure::default();
            let records = PartitionIter::<T>::new(only(inputs), Failure::clone(&failure));
            let output = function(partition, records).into_iter();
            Ok(Box::new(Batches::new(output, context.resources.batch_records, failure)))
        });
        NodeSpec::new(operator, self.partitions(), self.narrow_dependency(), compute)
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

    /// Groups the records of each partition into vectors of `records`, the last one shorter.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let batches = context.range(0..6, 2).batch(2)?;
    /// let expected = [vec![0, 1], vec![2], vec![3, 4], vec![5]];
    /// assert_eq!(batches.collect()?, expected, "no batch has records of two partitions");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// If `records` is 0.
    #[track_caller]
    pub fn batch(&self, records: usize) -> Result<Dataset<Vec<T>>> {
        if records == 0 {
            return Err(EngineError::invalid("`batch` of 0 records", "give at least 1"));
        }
        let groups = move |_, mut input: PartitionIter<T>| {
            std::iter::from_fn(move || {
                let group: Vec<T> = input.by_ref().take(records).collect();
                (!group.is_empty()).then_some(group)
            })
        };
        let spec = self.map_streams_spec("batch", groups);
        Ok(spec.with_agreed_parameters(records.to_string()).build(self.context()))
    }
}
