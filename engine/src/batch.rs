//! Records on their way through a stage: batches with their type erased once a batch, never once a record.

mod cut;

use std::any::Any;
use std::cell::RefCell;
use std::mem::needs_drop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use distdl_storage::{Block, BlockId, Codec, Record, Records, Source, size_of_value};

pub(crate) use self::cut::{BATCH_BYTES, Batches, Fill, next_batch, stream_of};
use crate::error::{EngineError, Result};

/// A thousand records or so, owned or borrowed from a stored block.
#[derive(Debug, Clone)]
pub(crate) enum Batch<T> {
    /// Records that nobody else holds.
    Owned(Vec<T>),
    /// A range of a block that others may read at the same time.
    Shared {
        /// The block's records.
        records: Records<T>,
        /// Which of them.
        range: Range<usize>,
    },
}

impl<T: Record> Batch<T> {
    /// The records in place.
    pub(crate) fn as_slice(&self) -> &[T] {
        match self {
            Self::Owned(records) => records,
            Self::Shared { records, range } => &records[range.clone()],
        }
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// The records by value: moved where they are owned, cloned where they are shared.
    pub(crate) fn into_vec(self) -> Vec<T> {
        match self {
            Self::Owned(records) => records,
            Self::Shared { records, range } if range.len() == records.len() => records.into_vec(),
            Self::Shared { records, range } => records[range].to_vec(),
        }
    }

    /// Hands every record by value to `each`, cloning only what is shared.
    pub(crate) fn for_each(self, mut each: impl FnMut(T)) {
        match self {
            Self::Owned(records) => records.into_iter().for_each(each),
            Self::Shared { .. } => self.as_slice().iter().for_each(|record| each(record.clone())),
        }
    }

    /// A new batch of what `function` makes of each record.
    pub(crate) fn map<U>(self, mut function: impl FnMut(T) -> U) -> Vec<U> {
        match self {
            Self::Owned(records) => records.into_iter().map(function).collect(),
            Self::Shared { .. } => self.as_slice().iter().map(|record| function(record.clone())).collect(),
        }
    }

    /// Every record by value, cloned only where it is shared.
    pub(crate) fn into_records(self) -> BatchRecords<T> {
        match self {
            Self::Owned(records) => BatchRecords::Owned(records.into_iter()),
            Self::Shared { records, range } => BatchRecords::Shared { records, range },
        }
    }
}

/// The records of a [`Batch`] by value.
pub(crate) enum BatchRecords<T> {
    /// Those of one that nobody else holds.
    Owned(std::vec::IntoIter<T>),
    /// Those of a block that others may read at the same time.
    Shared {
        /// The block's records.
        records: Records<T>,
        /// Which of them are left.
        range: Range<usize>,
    },
}

impl<T: Record> Iterator for BatchRecords<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Owned(records) => records.next(),
            Self::Shared { records, range } => range.next().map(|index| records[index].clone()),
        }
    }
}

/// Why a task ended before its partition was complete.
#[derive(Debug, Clone)]
pub(crate) enum TaskError {
    /// The program, the source or a store failed: the action ends with this error.
    Failed(EngineError),
    /// A stored block is gone and cannot be computed within this job: plan again without it.
    Lost(BlockId),
    /// Another task failed first.
    Cancelled,
}

impl<E: Into<EngineError>> From<E> for TaskError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Result of a step of a task.
pub(crate) type TaskResult<T> = std::result::Result<T, TaskError>;

/// A batch that is taken a few records at a time.
pub(crate) trait Pieces: Send {
    /// The next `most` records, or what is left; none at the end.
    fn next_piece(&mut self, most: usize) -> Option<AnyBatch>;
}

impl<T: Record> Pieces for BatchRecords<T> {
    fn next_piece(&mut self, most: usize) -> Option<AnyBatch> {
        let piece = match self {
            Self::Owned(records) => Batch::Owned(records.take(most).collect()),
            Self::Shared { records, range } => {
                let first = range.start..range.end.min(range.start.saturating_add(most));
                range.start = first.end;
                Batch::Shared {
                    records: records.clone(),
                    range: first,
                }
            }
        };
        (piece.len() > 0).then(|| AnyBatch::new(piece))
    }
}

/// What can be done with a batch without its record type.
trait Erased: Any + Send {
    /// See [`AnyBatch::record_bytes`].
    fn record_bytes(&self) -> u64;

    fn into_pieces(self: Box<Self>) -> Box<dyn Pieces>;

    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: Record> Erased for Batch<T> {
    fn record_bytes(&self) -> u64 {
        match needs_drop::<T>() {
            true => {
                let records = self.as_slice();
                let size = |record: Option<&T>| record.map_or(0, size_of_value);
                size(records.first()).max(size(records.last()))
            }
            false => size_of::<T>() as u64,
        }
    }

    fn into_pieces(self: Box<Self>) -> Box<dyn Pieces> {
        Box::new(self.into_records())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A [`Batch`] whose record type only the operators on both sides of it know.
pub(crate) struct AnyBatch {
    batch: Box<dyn Erased>,
    records: usize,
}

impl AnyBatch {
    /// Erases the type.
    pub(crate) fn new<T: Record>(batch: Batch<T>) -> Self {
        Self {
            records: batch.len(),
            batch: Box::new(batch),
        }
    }

    /// Erases the type of a vector of records.
    pub(crate) fn owned<T: Record>(records: Vec<T>) -> Self {
        Self::new(Batch::Owned(records))
    }

    /// Number of records.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// About what one of its records takes, in bytes: the first or the last one, if they own memory; 0 without any.
    pub(crate) fn record_bytes(&self) -> u64 {
        self.batch.record_bytes()
    }

    /// The same records, to be taken a few at a time.
    pub(crate) fn into_pieces(self) -> Box<dyn Pieces> {
        self.batch.into_pieces()
    }

    /// The typed batch. The typed dataset API builds both ends of every edge of the lineage, so the type is known.
    #[expect(
        clippy::panic,
        reason = "a wrong type here is a bug of this crate, and goes on would be a wrong result"
    )]
    pub(crate) fn typed<T: Record>(self) -> Batch<T> {
        match self.batch.into_any().downcast::<Batch<T>>() {
            Ok(batch) => *batch,
            Err(_) => panic!(
                "an operator received a batch that is not of {}",
                std::any::type_name::<T>()
            ),
        }
    }
}

/// The batches of one partition, in order.
pub(crate) type AnyStream = Box<dyn Iterator<Item = TaskResult<AnyBatch>>>;

/// Typed batches of one partition.
pub(crate) fn typed_batches<T: Record>(stream: AnyStream) -> impl Iterator<Item = TaskResult<Batch<T>>> {
    stream.map(|batch| batch.map(AnyBatch::typed))
}

/// The records of one partition by value, as a user's closure sees them.
///
/// If what comes before fails, or the task is stopped because another one failed, a process died or time is up, then
/// [`next`](Iterator::next) does not return: the closure is unwound as by a panic, without a message, so that it never
/// takes a part of a partition for all of it. (Where panics abort, the iteration ends early instead.) What it made is
/// discarded. A mutex that it holds is then poisoned, as what is behind it may be half done: take records in first, and
/// lock it after.
pub struct PartitionIter<T> {
    stream: AnyStream,
    current: Option<BatchRecords<T>>,
    failure: Failure,
}

impl<T> std::fmt::Debug for PartitionIter<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "PartitionIter<{}>", std::any::type_name::<T>())
    }
}

/// Where a [`PartitionIter`] leaves the error that ended it.
pub(crate) type Failure = Rc<RefCell<Option<TaskError>>>;

impl<T: Record> PartitionIter<T> {
    pub(crate) fn new(stream: AnyStream, failure: Failure) -> Self {
        Self {
            stream,
            current: None,
            failure,
        }
    }

    /// One that is unwound before it is an error here as well, for a closure that stops the unwinding.
    fn next_batch(&mut self) -> Option<TaskResult<AnyBatch>> {
        let stream = &mut self.stream;
        match catch_unwind(AssertUnwindSafe(|| stream.next())) {
            Ok(batch) => batch,
            Err(panic) => match panic.downcast::<Interrupted>() {
                Ok(interrupted) => Some(Err(interrupted.0)),
                Err(panic) => resume_unwind(panic),
            },
        }
    }
}

impl<T: Record> Iterator for PartitionIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        loop {
            if let Some(record) = self.current.as_mut().and_then(Iterator::next) {
                return Some(record);
            }
            match self.next_batch()? {
                Ok(batch) => self.current = Some(batch.typed::<T>().into_records()),
                Err(error) => {
                    *self.failure.borrow_mut() = Some(error.clone());
                    self.stream = Box::new(std::iter::empty());
                    self.current = None;
                    if cfg!(panic = "unwind") {
                        resume_unwind(Box::new(Interrupted(error)));
                    }
                    return None;
                }
            }
        }
    }
}

/// What unwinds a closure whose input ended with an error. It is turned back into that where panics are.
pub(crate) struct Interrupted(pub(crate) TaskError);

/// What the engine needs to know of a record type once it has erased it.
#[derive(Clone, Copy)]
pub(crate) struct RecordType {
    /// The type's name, for people.
    pub name: &'static str,
    /// How its blocks become bytes.
    pub codec: Codec,
    collect: fn(AnyStream) -> TaskResult<Block>,
    stream: fn(Block, usize) -> Result<AnyStream>,
    share: fn(AnyBatch) -> (AnyBatch, AnyBatch),
    into_block: fn(AnyBatch) -> Block,
    from_block: fn(Block) -> Result<AnyBatch>,
}

impl std::fmt::Debug for RecordType {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("RecordType").field(&self.name).finish()
    }
}

impl RecordType {
    /// The description of `T`.
    pub(crate) fn of<T: Record>() -> Self {
        Self {
            name: std::any::type_name::<T>(),
            codec: Codec::of::<T>(),
            collect: collect::<T>,
            stream: stream::<T>,
            share: share::<T>,
            into_block: |batch| Block::new(batch.typed::<T>().into_vec()),
            from_block: |block| Ok(AnyBatch::owned(block.into_records::<T>()?.into_vec())),
        }
    }

    /// Drains a stream into one block.
    pub(crate) fn collect(self, stream: AnyStream) -> TaskResult<Block> {
        (self.collect)(stream)
    }

    /// A block's records in batches that share it.
    pub(crate) fn stream(self, block: Block, batch_records: usize) -> Result<AnyStream> {
        (self.stream)(block, batch_records)
    }

    /// Two handles on one batch, without copying its records.
    pub(crate) fn share(self, batch: AnyBatch) -> (AnyBatch, AnyBatch) {
        (self.share)(batch)
    }

    /// The records of a frame that this process or another of its cluster made, as one batch that nobody shares.
    pub(crate) fn decode(self, frame: impl Into<Source>) -> Result<AnyBatch> {
        (self.from_block)(self.codec.decode(frame.into())?)
    }

    /// A batch as a frame of bytes, for processes of this cluster: all of them run the same build, so that plain
    /// numbers travel as they lie in memory.
    pub(crate) fn encode(self, batch: AnyBatch) -> Result<Vec<u8>> {
        Ok(self.codec.encode(&(self.into_block)(batch))?)
    }
}

fn collect<T: Record>(stream: AnyStream) -> TaskResult<Block> {
    let mut owned: Vec<T> = Vec::new();
    // Batches that are neighbours in one block, so far: the whole block if nothing else comes.
    let mut shared: Option<(Records<T>, usize)> = None;
    for batch in typed_batches::<T>(stream) {
        match (batch?, &mut shared) {
            (Batch::Shared { records, range }, None) if owned.is_empty() && range.start == 0 => {
                shared = Some((records, range.end));
            }
            (Batch::Shared { records, range }, Some((whole, end)))
                if records.as_ptr() == whole.as_ptr() && range.start == *end =>
            {
                *end = range.end;
            }
            (batch, earlier) => {
                if let Some((records, end)) = earlier.take() {
                    owned.extend_from_slice(&records[..end]);
                }
                match batch {
                    Batch::Owned(batch) if owned.is_empty() => owned = batch,
                    batch => batch.for_each(|record| owned.push(record)),
                }
            }
        }
    }
    match shared {
        Some((records, end)) if end == records.len() => return Ok(Block::from_records(records)),
        Some((records, end)) => owned.extend_from_slice(&records[..end]),
        None => {}
    }
    owned.shrink_to_fit();
    Ok(Block::new(owned))
}

fn stream<T: Record>(block: Block, batch_records: usize) -> Result<AnyStream> {
    let records = block.records::<T>()?;
    let length = records.len();
    Ok(Box::new((0..length).step_by(batch_records.max(1)).map(move |start| {
        let range = start..length.min(start + batch_records);
        Ok(AnyBatch::new(Batch::Shared {
            records: records.clone(),
            range,
        }))
    })))
}

fn share<T: Record>(batch: AnyBatch) -> (AnyBatch, AnyBatch) {
    let (records, range) = match batch.typed::<T>() {
        Batch::Owned(records) => {
            let range = 0..records.len();
            (Records::from(records), range)
        }
        Batch::Shared { records, range } => (records, range),
    };
    let twin = Batch::Shared {
        records: records.clone(),
        range: range.clone(),
    };
    (AnyBatch::new(Batch::Shared { records, range }), AnyBatch::new(twin))
}

#[cfg(test)]
mod tests;
