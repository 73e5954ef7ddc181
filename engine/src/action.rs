//! Actions: what runs a job and brings an answer to the driver.

mod fold;

mod order;

mod statistics;

mod distinct;

mod keys;

mod draw;

mod once;

mod encoders;

mod publish;

mod save;

mod save_by_key;

mod checkpoint;

use distdl_storage::{Record, Records};

pub use self::encoders::SaveOptions;
pub use self::statistics::{Histogram, Stats};
use crate::batch::{AnyStream, Batch, Failure, PartitionIter, TaskResult, typed_batches};
use crate::dataflow::job::Reduce;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::task::TaskContext;

impl<T: Record> Dataset<T> {
    /// All records, in order.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let squares = context.range(0..5, 3).map(|number| number * number);
    /// assert_eq!(squares.collect()?, [0, 1, 4, 9, 16], "whatever computed which partition first");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action: a closure that panicked, a source that could not be read.
    pub fn collect(&self) -> Result<Vec<T>> {
        let partitions = self.run_all(|_, _, stream| read_all::<T>(stream))?;
        Ok(partitions.into_iter().flatten().collect())
    }

    /// The number of records.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// assert_eq!(context.range(0..1000, 4).filter(|number| number % 3 == 0).count()?, 334);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn count(&self) -> Result<u64> {
        let counts = self.run_all(|_, _, stream| {
            typed_batches::<T>(stream).try_fold(0u64, |count, batch| Ok(count + batch?.len() as u64))
        })?;
        Ok(counts.into_iter().sum())
    }

    /// Whether there is no record. Computes only as many partitions as it needs to find one.
    ///
    /// # Errors
    /// As any action.
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.take(1)?.is_empty())
    }

    /// The first record.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// use distdl_engine::EngineError;
    ///
    /// assert_eq!(context.range(5..9, 2).first()?, 5);
    /// assert!(matches!(context.range(0..0, 2).first(), Err(EngineError::Empty { .. })));
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// [`EngineError::Empty`] if there is none; otherwise as any action.
    pub fn first(&self) -> Result<T> {
        let first = self.take(1)?.pop();
        first.ok_or(EngineError::Empty {
            action: "first".into(),
            instead: "take(1)".into(),
        })
    }

    /// The first `count` records, or all if there are fewer. Computes only as many partitions as it needs, a few at
    /// first and four times as many at each further try.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let squares = context.range(0..1000, 100).map(|number| number * number).cache();
    /// assert_eq!(squares.take(3)?, [0, 1, 4]);
    /// assert_eq!(squares.partitions_computed(), 1, "that of 10 records was enough");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn take(&self, count: usize) -> Result<Vec<T>> {
        let mut taken = Vec::new();
        let (mut next, mut tried) = (0, 1);
        while taken.len() < count && next < self.partitions() {
            let partitions: Vec<usize> = (next..self.partitions().min(next + tried)).collect();
            let wanted = count - taken.len();
            let found = self.run(&partitions, move |_, _, stream| {
                let mut records = Vec::new();
                for batch in typed_batches::<T>(stream) {
                    records.extend(batch?.as_slice().iter().take(wanted - records.len()).cloned());
                    if records.len() == wanted {
                        break;
                    }
                }
                Ok(records)
            })?;
            taken.extend(found.into_iter().flatten().take(wanted));
            next += partitions.len();
            tried *= 4;
        }
        Ok(taken)
    }

    /// All records in order, of which one partition at a time is in the driver's memory. After an error it ends.
    ///
    /// Each partition is an action of its own, and a shuffle behind the dataset is done again for each of them:
    /// `persist` it first. All processes of a cluster must read equally far.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let squares = context.range(0..8, 4).map(|number| number * number).cache();
    /// let mut records = squares.to_local_iter();
    /// assert_eq!(records.next().transpose()?, Some(0));
    /// assert_eq!(squares.partitions_computed(), 1, "partitions are computed as they are asked for");
    /// assert_eq!(records.last().transpose()?, Some(49));
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    pub fn to_local_iter(&self) -> impl Iterator<Item = Result<T>> {
        let dataset = self.clone();
        let mut partitions = 0..self.partitions();
        std::iter::from_fn(move || {
            let partition = partitions.next()?;
            let read = dataset.run(&[partition], |_, _, stream| read_all::<T>(stream));
            if read.is_err() {
                partitions = 0..0;
            }
            Some(read)
        })
        .flat_map(|read| {
            let (records, error) = match read {
                Ok(records) => (records, None),
                Err(error) => (Vec::new(), Some(Err(error))),
            };
            records.into_iter().flatten().map(Ok).chain(error)
        })
    }

    /// Runs `function` on each record, for its effects, which may happen again where a partition is computed again.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let total = context.counter();
    /// let sum = total.clone();
    /// context.range(0..5, 2).for_each(move |number| sum.add(number))?;
    /// assert_eq!(total.value(), 10, "a variable would not do: other processes have their own");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn for_each(&self, function: impl Fn(T) + Send + Sync + 'static) -> Result<()> {
        self.for_each_partition(move |_, records| records.for_each(&function))
    }

    /// Runs `function` over the records of each partition, for its effects; its first argument is the partition's
    /// index. The effects may happen again where a partition is computed again. Where the input fails or the action is
    /// stopped, the function is unwound: see [`PartitionIter`].
    ///
    /// # Errors
    /// As any action.
    pub fn for_each_partition(&self, function: impl Fn(usize, PartitionIter<T>) + Send + Sync + 'static) -> Result<()> {
        self.run_partitions(move |partition, records| {
            function(partition, records);
            Ok(())
        })
        .map(drop)
    }

    /// Runs `function` over the records of each partition and returns its results in order of partitions.
    ///
    /// # Errors
    /// The first error of `function`; otherwise as any action.
    pub fn run_partitions<R: Record>(
        &self,
        function: impl Fn(usize, PartitionIter<T>) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.run_partitions_with_parameters("", function)
    }

    /// As [`run_partitions`](Self::run_partitions), and `parameters` say what the function has captured by which it
    /// gives other results than another one from the same line of the program. Processes of a cluster where they differ
    /// find each other out.
    ///
    /// # Errors
    /// As there.
    pub fn run_partitions_with_parameters<R: Record>(
        &self,
        parameters: impl Into<String>,
        function: impl Fn(usize, PartitionIter<T>) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        let all: Vec<usize> = (0..self.partitions()).collect();
        self.context()
            .run_effects(self.id(), &all, parameters.into(), move |_, partition, stream| {
                let failure = Failure::default();
                let result = function(partition, PartitionIter::new(stream, Failure::clone(&failure)));
                match failure.take() {
                    Some(error) => Err(error),
                    None => Ok(result?),
                }
            })
    }

    /// Reads a partition's records, in place where its block is here.
    fn read_records(&self) -> impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<Records<T>> + Send + Sync + use<T> {
        let (dataset, kind) = (self.id(), self.node().record_type);
        move |context, partition, stream| {
            let id = dataset.block(partition);
            if let Ok(Some(block)) = context.resources.store.get(id, kind.codec) {
                let mut stream = stream;
                stream.try_for_each(|batch| batch.map(drop))?;
                return Ok(block.records::<T>()?);
            }
            Ok(kind.collect(stream)?.records::<T>()?)
        }
    }

    /// The same, for an action that keeps the records where they were read.
    pub(crate) fn record_reader(&self) -> Reduce {
        let read = self.read_records();
        Reduce::new(move |context, partition, stream| Ok(Box::new(read(context, partition, stream)?) as Box<_>))
    }
}

fn read_all<T: Record>(stream: AnyStream) -> TaskResult<Vec<T>> {
    let mut records = Vec::new();
    for batch in typed_batches::<T>(stream) {
        match batch? {
            Batch::Owned(batch) if records.is_empty() => records = batch,
            batch => batch.for_each(|record| records.push(record)),
        }
    }
    Ok(records)
}
