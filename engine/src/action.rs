//! Actions: what runs a job and brings an answer to the driver.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use bytes::Bytes;
use distdl_storage::{Record, Records};

use crate::batch::{AnyStream, Batch, Failure, PartitionIter, TaskResult, typed_batches};
use crate::context::Answered;
use crate::dataflow::job::Reduce;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::task::TaskContext;

impl<T: Record> Dataset<T> {
    /// All records, in order.
    ///
    /// # Errors
    /// As any action: a closure that panicked, a source that could not be read.
    pub fn collect(&self) -> Result<Vec<T>> {
        let partitions = self.run_all(|_, _, stream| {
            let mut records = Vec::new();
            for batch in typed_batches::<T>(stream) {
                match batch? {
                    Batch::Owned(batch) if records.is_empty() => records = batch,
                    batch => batch.for_each(|record| records.push(record)),
                }
            }
            Ok(records)
        })?;
        Ok(partitions.into_iter().flatten().collect())
    }

    /// The number of records.
    ///
    /// # Errors
    /// As any action.
    pub fn count(&self) -> Result<u64> {
        let counts = self.run_all(|_, _, stream| {
            typed_batches::<T>(stream).try_fold(0u64, |count, batch| Ok(count + batch?.len() as u64))
        })?;
        Ok(counts.into_iter().sum())
    }

    /// The first record.
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

    /// Combines all records by `function`, which must be associative: within partitions in order, then over partitions
    /// in order. `None` if there is no record.
    ///
    /// # Errors
    /// As any action.
    pub fn reduce(&self, function: impl Fn(T, T) -> T + Send + Sync + 'static) -> Result<Option<T>> {
        let function = Arc::new(function);
        let inner = Arc::clone(&function);
        let parts = self.run_all(move |_, _, stream| {
            let mut reduced: Option<T> = None;
            for batch in typed_batches::<T>(stream) {
                batch?.for_each(|record| {
                    reduced = Some(match reduced.take() {
                        Some(left) => inner(left, record),
                        None => record,
                    });
                });
            }
            Ok(reduced)
        })?;
        Ok(parts.into_iter().flatten().reduce(|left, right| function(left, right)))
    }

    /// Folds the records of each partition into `zero` by `function`, then the results, in order. As in Spark, `zero`
    /// enters once for each partition and once more.
    ///
    /// # Errors
    /// As any action.
    pub fn fold(&self, zero: T, function: impl Fn(T, T) -> T + Send + Sync + 'static) -> Result<T> {
        let function = Arc::new(function);
        let merge = Arc::clone(&function);
        self.aggregate(
            zero,
            move |sum, record| function(sum, record),
            move |left, right| merge(left, right),
        )
    }

    /// Folds the records of each partition into `zero` by `add`, then joins the results in order by `merge`.
    ///
    /// # Errors
    /// As any action.
    pub fn aggregate<A: Record>(
        &self,
        zero: A,
        add: impl Fn(A, T) -> A + Send + Sync + 'static,
        merge: impl Fn(A, A) -> A + Send + Sync + 'static,
    ) -> Result<A> {
        let parts = self.fold_partitions(zero.clone(), add)?;
        Ok(parts.into_iter().fold(zero, merge))
    }

    /// As [`aggregate`](Self::aggregate), but joins the results of partitions in a fixed binary tree over their indices,
    /// so that rounding errors of floating-point sums grow with the logarithm of the number of partitions.
    ///
    /// # Errors
    /// As any action.
    pub fn tree_aggregate<A: Record>(
        &self,
        zero: A,
        add: impl Fn(A, T) -> A + Send + Sync + 'static,
        merge: impl Fn(A, A) -> A + Send + Sync + 'static,
    ) -> Result<A> {
        let mut parts = self.fold_partitions(zero.clone(), add)?;
        while parts.len() > 1 {
            let mut rest = parts.into_iter();
            let mut merged = Vec::with_capacity(rest.len().div_ceil(2));
            while let Some(left) = rest.next() {
                merged.push(match rest.next() {
                    Some(right) => merge(left, right),
                    None => left,
                });
            }
            parts = merged;
        }
        Ok(parts.pop().unwrap_or(zero))
    }

    fn fold_partitions<A: Record>(&self, zero: A, add: impl Fn(A, T) -> A + Send + Sync + 'static) -> Result<Vec<A>> {
        self.run_all(move |_, _, stream| {
            let mut sum = Some(zero.clone());
            for batch in typed_batches::<T>(stream) {
                batch?.for_each(|record| sum = sum.take().map(|sum| add(sum, record)));
            }
            Ok(sum)
        })
        .map(|sums| sums.into_iter().flatten().collect())
    }

    /// Runs `function` over the records of each partition, for its effects; its first argument is the partition's index.
    /// The effects may happen again where a partition is computed again.
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
    pub fn run_partitions<R: Answered>(
        &self,
        function: impl Fn(usize, PartitionIter<T>) -> Result<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.run_all(move |_, partition, stream| {
            let failure = Failure::default();
            let result = function(partition, PartitionIter::new(stream, Failure::clone(&failure)));
            match failure.take() {
                Some(error) => Err(error),
                None => Ok(result?),
            }
        })
    }

    /// Each partition's records as one shared slice, in order of partitions; read in place where the dataset is
    /// persisted and its block fits.
    ///
    /// # Errors
    /// As any action.
    pub fn partition_records(&self) -> Result<Vec<Records<T>>> {
        self.run_all(self.read_records())
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
        Arc::new(move |context, partition, stream| Ok(Box::new(read(context, partition, stream)?) as Box<_>))
    }

    /// Writes each partition as a text file, `part-00000` and so on, a line a record, into a new folder or object
    /// prefix `url`. All of it appears at once, when every part is complete and synced, or not at all.
    ///
    /// # Errors
    /// If `url` exists or cannot be written; otherwise as any action.
    pub fn save_as_text_file(&self, url: &str) -> Result<()>
    where
        T: std::fmt::Display,
    {
        if self.context().member().is_some() {
            return Err(EngineError::invalid(
                format!("saving {url} as text from several processes at once"),
                "not possible yet: save from a program with one process, or `collect` and write the lines",
            ));
        }
        let folder = Arc::new(self.context().stores().create_folder(url)?);
        let parts = Arc::clone(&folder);
        self.run_partitions(move |partition, records| {
            let mut text = String::new();
            for record in records {
                use std::fmt::Write;
                let _ = writeln!(text, "{record}");
            }
            parts.write_part(&format!("part-{partition:05}"), Bytes::from(text))?;
            Ok(())
        })?;
        // The job is over and has dropped its handle.
        match Arc::into_inner(folder) {
            Some(folder) => Ok(folder.commit()?),
            None => Err(EngineError::WorkersStopped {
                reason: format!("a task still writes to {url}"),
            }),
        }
    }
}

impl<T: Record + Ord> Dataset<T> {
    /// The `count` largest records, largest first.
    ///
    /// # Errors
    /// As any action.
    pub fn top(&self, count: usize) -> Result<Vec<T>> {
        let parts = self.run_all(move |_, _, stream| {
            let mut heap: BinaryHeap<Reverse<T>> = BinaryHeap::new();
            for batch in typed_batches::<T>(stream) {
                let batch: Batch<T> = batch?;
                for record in batch.as_slice() {
                    if heap.len() < count {
                        heap.push(Reverse(record.clone()));
                    } else if heap.peek().is_some_and(|Reverse(least)| record > least) {
                        heap.pop();
                        heap.push(Reverse(record.clone()));
                    }
                }
            }
            TaskResult::Ok(heap.into_iter().map(|Reverse(record)| record).collect::<Vec<T>>())
        })?;
        let mut records: Vec<T> = parts.into_iter().flatten().collect();
        records.sort_unstable_by(|left, right| right.cmp(left));
        records.truncate(count);
        Ok(records)
    }
}
