//! Transformations that number the records.

use std::sync::{Arc, OnceLock};

use distdl_storage::Record;

use crate::batch::{AnyBatch, Batch, typed_batches};
use crate::dataset::Dataset;
use crate::lineage::{BatchStep, Compute, NodeSpec, Prepare};
use crate::task::TaskContext;

impl<T: Record> Dataset<T> {
    /// Pairs each record with its 0-based position in the whole dataset. Counts the partitions before the first job.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let words = context.parallelize(["a", "b", "", "c"].map(str::to_owned), 2).filter(|word| !word.is_empty());
    /// let indexed = words.zip_with_index().map(|(_, index)| index);
    /// assert_eq!(indexed.collect()?, [0, 1, 2], "indices go on where the partition before ends");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
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
        let mut spec = NodeSpec::new("zip_with_index", partitions, self.narrow_dependency(), compute);
        spec.prepare = Some(prepare);
        spec.build(self.context())
    }

    /// Pairs each record with a number that no other record has: the record at `position` of partition `p` gets
    /// `position * partitions + p`. Nothing is counted before, other than by [`zip_with_index`](Self::zip_with_index).
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let numbered = context.parallelize(['a', 'b', 'c'], 2).zip_with_unique_id();
    /// assert_eq!(numbered.collect()?, [('a', 0), ('b', 1), ('c', 3)], "uneven partitions leave gaps");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn zip_with_unique_id(&self) -> Dataset<(T, u64)> {
        let step = self.partitions() as u64;
        self.batchwise_with("zip_with_unique_id", step.to_string(), false, move |_, partition| {
            let mut next = partition as u64;
            move |batch: Batch<T>| {
                Ok(batch.map(|record| {
                    next += step;
                    (record, next - step)
                }))
            }
        })
    }
}
