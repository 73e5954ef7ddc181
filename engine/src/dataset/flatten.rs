//! Any number of records for each record, however many: made as they are asked for.

use std::iter::Fuse;

use distdl_storage::Record;

use crate::batch::{AnyBatch, AnyStream, Batch, BatchRecords, Fill, TaskResult};
use crate::task::TaskContext;

/// Records that a batch has room for before one is there.
const ROOM_AT_FIRST: usize = 1024;

/// What `function` makes of each record of a stream, cut into batches.
pub(crate) struct Flattened<T, F, I> {
    context: TaskContext,
    stream: AnyStream,
    records: BatchRecords<T>,
    function: F,
    /// What is left of what was made of the last record; it is asked again where it may have ended.
    made: Option<Fuse<I>>,
}

impl<T: Record, F: Fn(T) -> I, I: Iterator> Flattened<T, F, I> {
    pub(crate) fn new(context: &TaskContext, stream: AnyStream, function: F) -> Self {
        Self {
            context: context.clone(),
            stream,
            records: Batch::Owned(Vec::new()).into_records(),
            function,
            made: None,
        }
    }
}

impl<T: Record, F: Fn(T) -> I, I: Iterator<Item: Record>> Iterator for Flattened<T, F, I> {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch_records = self.context.resources.batch_records;
        let mut batch = Vec::with_capacity(batch_records.min(ROOM_AT_FIRST));
        let mut fill = Fill::default();
        loop {
            if let Some(made) = &mut self.made {
                let (before, room) = (batch.len(), fill.step().min(batch_records - batch.len()));
                match made.size_hint() {
                    // The common case: to know that it fits spares a look at the room for each record.
                    (_, Some(most)) if most <= room => batch.extend(made),
                    _ => batch.extend(made.take(room)),
                }
                if batch.len() - before < room {
                    self.made = None;
                }
                if batch.len() >= batch_records || fill.is_full(&batch) {
                    return Some(Ok(AnyBatch::owned(batch)));
                }
                if self.made.is_some() {
                    continue;
                }
            }
            if let Some(record) = self.records.next() {
                self.made = Some((self.function)(record).fuse());
                continue;
            }
            // It may take many batches before there is one.
            if let Err(error) = self.context.check() {
                return Some(Err(error));
            }
            match self.stream.next() {
                Some(Ok(next)) => self.records = next.typed::<T>().into_records(),
                Some(Err(error)) => return Some(Err(error)),
                None => return (!batch.is_empty()).then(|| Ok(AnyBatch::owned(batch))),
            }
        }
    }
}
