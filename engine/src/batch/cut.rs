//! Records cut into batches.

use std::iter::Fuse;

use distdl_storage::{Record, size_of_value};

use super::{AnyBatch, AnyStream, Failure, TaskResult};

/// Cuts an iterator of records into owned batches, and reports `failure` in place of what came after it.
pub(crate) struct Batches<I> {
    /// An iterator that has ended may begin again if it is asked once more (`map_while`), so it is not.
    records: Fuse<I>,
    batch_records: usize,
    failure: Failure,
}

impl<I: Iterator> Batches<I> {
    pub(crate) fn new(records: I, batch_records: usize, failure: Failure) -> Self {
        Self {
            records: records.fuse(),
            batch_records,
            failure,
        }
    }
}

impl<T: Record, I: Iterator<Item = T>> Iterator for Batches<I> {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = next_batch(&mut self.records, self.batch_records);
        if let Some(error) = self.failure.borrow_mut().take() {
            return Some(Err(error));
        }
        (!batch.is_empty()).then(|| Ok(AnyBatch::owned(batch)))
    }
}

/// Records that take about as much end a batch, however few they are.
pub(crate) const BATCH_BYTES: u64 = 8 << 20;

/// One record of so many is measured.
const MEASURED_OF: usize = 16;

/// What the records of a batch take, from some of them.
#[derive(Default)]
pub(crate) struct Fill {
    records: usize,
    bytes: u64,
}

impl Fill {
    /// Records that come before the next one that is measured: first each, or a few that are large would be many bytes.
    pub(crate) fn step(&self) -> usize {
        self.records.clamp(1, MEASURED_OF)
    }

    /// Whether a batch that records were put into takes as much as one may.
    pub(crate) fn is_full<T: Record>(&mut self, batch: &[T]) -> bool {
        let added = batch.len() - self.records;
        if added >= self.step() {
            let size = batch.last().map_or(0, size_of_value);
            self.bytes = self.bytes.saturating_add(size.saturating_mul(added as u64));
            self.records = batch.len();
        }
        self.bytes >= BATCH_BYTES
    }
}

/// The records of the next batch: `batch_records` of them, or fewer that fill it; none at the end.
pub(crate) fn next_batch<T: Record>(records: &mut impl Iterator<Item = T>, batch_records: usize) -> Vec<T> {
    let (mut batch, mut fill) = (Vec::new(), Fill::default());
    while batch.len() < batch_records {
        let count = fill.step().min(batch_records - batch.len());
        let before = batch.len();
        batch.extend(records.by_ref().take(count));
        let has_ended = batch.len() - before < count || records.size_hint().1 == Some(0);
        if has_ended || fill.is_full(&batch) {
            break;
        }
    }
    batch
}

/// Owned records as a stream of batches.
pub(crate) fn stream_of<T: Record>(records: impl Iterator<Item = T> + 'static, batch_records: usize) -> AnyStream {
    Box::new(Batches::new(records, batch_records, Failure::default()))
}
