//! How records are cut into buckets on the writing side of a shuffle, and gathered by key on the reading side.
//!
//! Hash tables keep the order in which keys first came, so that the order of a result is a function of its input.

mod runs;

mod fold;

mod join;

mod sort;

mod table;

use std::marker::PhantomData;
use std::sync::Arc;

use distdl_storage::Record;

pub(crate) use self::fold::{Arrival, Closures, Collecting, Combine, Combining, Merging};
pub(crate) use self::join::{Pair, join_on_disk};
pub(crate) use self::sort::sorted;
pub(crate) use self::table::{Hint, KeyEntry, Table, hint};
use crate::batch::{AnyBatch, RecordType, TaskResult};
use crate::lineage::{BucketWriter, Emit, ShuffleSpec};
use crate::partitioner::{Key, Partitioner};
use crate::task::TaskContext;
use crate::working::bytes_of_one;

/// Which bucket a record goes to, given the source partition and its position there.
pub(crate) trait Route<T>: Send + Sync + 'static {
    fn bucket(&self, record: &T, source: usize, position: u64) -> usize;
}

/// By key.
pub(crate) struct ByKey<K>(pub Arc<dyn Partitioner<K>>);

impl<K: Key, V: Record> Route<(K, V)> for ByKey<K> {
    fn bucket(&self, (key, _): &(K, V), _: usize, _: u64) -> usize {
        self.0.partition(key)
    }
}

/// In turn, beginning with another bucket for each source.
pub(crate) struct RoundRobin(pub usize);

impl<T> Route<T> for RoundRobin {
    fn bucket(&self, _: &T, source: usize, position: u64) -> usize {
        ((source as u64).wrapping_add(position) % self.0 as u64) as usize
    }
}

/// Sends every record as it is.
pub(crate) struct Plain<T, R> {
    route: Arc<R>,
    buckets: usize,
    records: PhantomData<fn() -> T>,
}

impl<T, R> Plain<T, R> {
    pub(crate) fn new(route: R, buckets: usize) -> Self {
        Self {
            route: Arc::new(route),
            buckets,
            records: PhantomData,
        }
    }
}

impl<T: Record, R: Route<T>> ShuffleSpec for Plain<T, R> {
    fn buckets(&self) -> usize {
        self.buckets
    }

    fn record_type(&self) -> RecordType {
        RecordType::of::<T>()
    }

    fn writer(&self, context: &TaskContext, partition: usize) -> Box<dyn BucketWriter> {
        Box::new(PlainWriter {
            route: Arc::clone(&self.route),
            source: partition,
            position: 0,
            cutting: Cutting::new(context, self.buckets),
        })
    }

    fn combines(&self) -> bool {
        false
    }
}

/// Records on their way into batches, by bucket.
struct Cutting<T> {
    /// By number of the bucket, in pages that are made when a record comes: a partition may have few for very many
    /// buckets.
    pages: Vec<Option<Box<[Cut<T>; PAGE]>>>,
    buckets: usize,
    batch_records: usize,
    bytes: u64,
    bytes_max: u64,
}

/// The batch of a bucket that is being filled.
struct Cut<T> {
    records: Vec<T>,
    bytes: u64,
}

/// Buckets in a page.
const PAGE: usize = 32;

/// A batch is full with so many bytes, however few records they are.
const BATCH_BYTES_MAX: u64 = 256 << 10;

/// The batches that a writer fills may take this part of a task's share, together; then all are sent as they are.
const CUTTING_PART: u64 = 8;

impl<T: Record> Cutting<T> {
    fn new(context: &TaskContext, buckets: usize) -> Self {
        Self {
            pages: (0..buckets.div_ceil(PAGE)).map(|_| None).collect(),
            buckets,
            batch_records: context.resources.batch_records,
            bytes: 0,
            bytes_max: context.resources.share_bytes() / CUTTING_PART,
        }
    }

    fn push(&mut self, index: usize, record: T, emit: Emit<'_>) {
        let empty = |_| Cut {
            records: Vec::new(),
            bytes: 0,
        };
        let page = self.pages[index / PAGE].get_or_insert_with(|| Box::new(std::array::from_fn(empty)));
        let bucket = &mut page[index % PAGE];
        let bytes = bytes_of_one(&record);
        bucket.records.push(record);
        bucket.bytes += bytes;
        self.bytes += bytes;
        if bucket.records.len() >= self.batch_records || bucket.bytes >= BATCH_BYTES_MAX {
            let full = std::mem::take(&mut bucket.records);
            // Nobody counts what is empty: the next batch has its room at once only if there is room for one of each
            // bucket.
            if (full.len() * size_of::<T>() * self.buckets) as u64 <= self.bytes_max {
                bucket.records.reserve_exact(full.len());
            }
            let bytes = std::mem::take(&mut bucket.bytes);
            self.bytes -= bytes;
            emit(index, AnyBatch::owned(full), bytes);
        } else if self.bytes > self.bytes_max {
            self.flush(emit);
        }
    }

    /// Emits what is left, by bucket.
    fn flush(&mut self, emit: Emit<'_>) {
        self.bytes = 0;
        let pages = self.pages.iter_mut().enumerate();
        for (number, page) in pages.filter_map(|(number, page)| Some((number, page.as_mut()?))) {
            for (offset, bucket) in page
                .iter_mut()
                .enumerate()
                .filter(|(_, bucket)| !bucket.records.is_empty())
            {
                let (mut records, bytes) = (std::mem::take(&mut bucket.records), std::mem::take(&mut bucket.bytes));
                // It may wait for long.
                records.shrink_to_fit();
                emit(number * PAGE + offset, AnyBatch::owned(records), bytes);
            }
        }
    }
}

struct PlainWriter<T, R> {
    route: Arc<R>,
    source: usize,
    position: u64,
    cutting: Cutting<T>,
}

impl<T: Record, R: Route<T>> BucketWriter for PlainWriter<T, R> {
    fn write(&mut self, batch: AnyBatch, emit: Emit<'_>) -> TaskResult<()> {
        batch.typed::<T>().for_each(|record| {
            let index = self.route.bucket(&record, self.source, self.position);
            self.position += 1;
            self.cutting.push(index, record, emit);
        });
        Ok(())
    }

    fn finish(&mut self, emit: Emit<'_>) -> TaskResult<()> {
        self.cutting.flush(emit);
        Ok(())
    }
}

/// Combines the values of a key on the writing side, so that one record a key and source travels.
pub(crate) struct Combined<K, V, C, M> {
    partitioner: Arc<dyn Partitioner<K>>,
    combine: Arc<M>,
    records: PhantomData<fn() -> (V, C)>,
}

impl<K, V, C, M> Combined<K, V, C, M> {
    pub(crate) fn new(partitioner: Arc<dyn Partitioner<K>>, combine: Arc<M>) -> Self {
        Self {
            partitioner,
            combine,
            records: PhantomData,
        }
    }
}

impl<K: Key, V: Record, C: Record, M: Combine<V, C>> ShuffleSpec for Combined<K, V, C, M> {
    fn buckets(&self) -> usize {
        self.partitioner.partitions()
    }

    fn record_type(&self) -> RecordType {
        RecordType::of::<(K, C)>()
    }

    fn writer(&self, context: &TaskContext, _: usize) -> Box<dyn BucketWriter> {
        Box::new(CombinedWriter {
            context: context.clone(),
            partitioner: Arc::clone(&self.partitioner),
            combining: Some(Combining::<K, V, C, M>::new(context, &self.combine)),
        })
    }

    fn combines(&self) -> bool {
        true
    }
}

struct CombinedWriter<K, V, C, M> {
    context: TaskContext,
    partitioner: Arc<dyn Partitioner<K>>,
    combining: Option<Combining<K, V, C, M>>,
}

impl<K: Key, V: Record, C: Record, M: Combine<V, C>> BucketWriter for CombinedWriter<K, V, C, M> {
    fn write(&mut self, batch: AnyBatch, _: Emit<'_>) -> TaskResult<()> {
        match &mut self.combining {
            Some(combining) => combining.add(batch),
            None => Ok(()),
        }
    }

    fn finish(&mut self, emit: Emit<'_>) -> TaskResult<()> {
        let Some(combining) = self.combining.take() else {
            return Ok(());
        };
        let mut cutting = Cutting::new(&self.context, self.partitioner.partitions());
        // Nothing else is cut meanwhile: long batches, since the reader's are.
        cutting.batch_records = usize::MAX;
        for record in combining.into_records() {
            let (key, combined) = record?;
            cutting.push(self.partitioner.partition(&key), (key, combined), emit);
        }
        cutting.flush(emit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::config::Config;
    use crate::context::Context;
    use crate::id::DatasetId;

    fn cutting(memory_bytes_max: u64, buckets: usize) -> Cutting<u64> {
        let config = Config::default()
            .with_threads(1)
            .with_memory_bytes_max(memory_bytes_max);
        let context = Context::new(config).unwrap();
        let task = TaskContext::new(Arc::clone(context.resources()), DatasetId(0), 0, Arc::default());
        Cutting::new(&task, buckets)
    }

    #[test]
    fn few_records_take_few_pages_and_leave_in_the_order_of_buckets() {
        let mut cutting = cutting(1 << 30, 1_000_000);
        let records = [999_999, 3, 500_000, 3, 17];
        for (record, bucket) in records.into_iter().enumerate() {
            cutting.push(bucket, record as u64, &mut |_, _, _| unreachable!("no batch is full"));
        }
        let pages = |cutting: &Cutting<u64>| cutting.pages.iter().flatten().count();
        assert_eq!(pages(&cutting), 3);
        let mut sent = Vec::new();
        cutting.flush(&mut |bucket, batch, bytes| sent.push((bucket, batch.typed::<u64>().into_vec(), bytes)));
        let expected = [
            (3, vec![1, 3], 16),
            (17, vec![4], 8),
            (500_000, vec![2], 8),
            (999_999, vec![0], 8),
        ];
        assert_eq!(sent, expected);
        assert_eq!((pages(&cutting), cutting.bytes), (3, 0));
    }

    /// What a writer's buffers take when records came bucket by bucket, and what it may fill them with, in bytes.
    fn held(memory_bytes_max: u64) -> (u64, u64) {
        let mut cutting = cutting(memory_bytes_max, 100);
        let mut sent = 0;
        for bucket in 0..100 {
            // Whole batches, so that nothing is left in them.
            for record in 0..5 * 1024 {
                cutting.push(bucket, record, &mut |_, batch, _| sent += batch.records());
            }
        }
        assert_eq!(sent, 100 * 5 * 1024);
        let slots: usize = cutting
            .pages
            .iter()
            .flatten()
            .flat_map(|page| page.iter())
            .map(|bucket| bucket.records.capacity())
            .sum();
        (slots as u64 * 8, cutting.bytes_max)
    }

    #[test]
    fn buffers_that_wait_keep_to_the_limit() {
        let (held, most) = held(2 << 20);
        assert!(held <= most, "{held} of {most}");
    }

    #[test]
    fn where_there_is_room_buffers_are_made_once() {
        let (held, most) = held(1 << 30);
        assert!(held >= 100 * 1024 * 8 && held <= most, "{held} of {most}");
    }
}
