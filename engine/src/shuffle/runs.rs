//! Records that an operator has put on disk in some order, to be read in that order: whole or merged with others.

use std::cmp::Ordering;
use std::marker::PhantomData;
use std::sync::Arc;

use distdl_storage::{Block, Codec, Record, Spill, SpilledRows};
use itertools::Itertools;

use crate::batch::{AnyStream, Batches, Failure, TaskResult};
use crate::task::{Resources, TaskContext};
use crate::working::bytes_of_one;

/// Runs that are merged at once.
const RUNS_MAX: usize = 64;

/// Pieces are this part of a share, so that those of [`RUNS_MAX`] runs leave room for the rest.
const PIECE_PART: u64 = 256;

/// Pieces, in bytes: what is less costs too much to look up, what is more gains nothing.
const PIECE_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=256 << 10;

/// Bytes of records that are written at once.
fn piece_bytes(resources: &Resources) -> u64 {
    let part = resources.share_bytes() / PIECE_PART;
    part.clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end())
}

/// A file for the runs of one operator of one task.
pub(crate) fn spill(context: &TaskContext) -> TaskResult<Arc<Spill>> {
    Ok(Arc::new(context.resources.store.spill()?))
}

/// Writes a run.
pub(crate) struct RunWriter<T> {
    context: TaskContext,
    spill: Arc<Spill>,
    codec: Codec,
    piece_bytes: u64,
    records: Vec<T>,
    bytes: u64,
    places: Vec<SpilledRows>,
}

impl<T: Record> RunWriter<T> {
    pub(crate) fn new(context: &TaskContext, spill: &Arc<Spill>) -> Self {
        Self {
            context: context.clone(),
            spill: Arc::clone(spill),
            codec: Codec::of::<T>(),
            piece_bytes: piece_bytes(&context.resources),
            records: Vec::new(),
            bytes: 0,
            places: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, record: T) -> TaskResult<()> {
        self.bytes += bytes_of_one(&record);
        self.records.push(record);
        if self.bytes >= self.piece_bytes {
            self.write_piece()?;
        }
        Ok(())
    }

    fn write_piece(&mut self) -> TaskResult<()> {
        self.context.check()?;
        let capacity = self.records.len();
        let records = std::mem::replace(&mut self.records, Vec::with_capacity(capacity));
        self.bytes = 0;
        let frame = self.codec.encode(&Block::new(records))?;
        self.places.push(self.context.resources.put_away(&self.spill, &frame)?);
        Ok(())
    }

    pub(crate) fn finish(mut self) -> TaskResult<Run<T>> {
        if !self.records.is_empty() {
            self.write_piece()?;
        }
        Ok(Run {
            context: self.context,
            spill: self.spill,
            codec: self.codec,
            places: self.places,
            records: PhantomData,
        })
    }
}

/// Records on disk, in the order in which they were written. To go through them ends where the task is to stop.
pub(crate) struct Run<T> {
    context: TaskContext,
    spill: Arc<Spill>,
    codec: Codec,
    places: Vec<SpilledRows>,
    records: PhantomData<fn() -> T>,
}

impl<T: Record> Run<T> {
    /// A run of `records`.
    pub(crate) fn write(
        context: &TaskContext,
        spill: &Arc<Spill>,
        records: impl Iterator<Item = TaskResult<T>>,
    ) -> TaskResult<Self> {
        let mut writer = RunWriter::new(context, spill);
        for record in records {
            writer.push(record?)?;
        }
        writer.finish()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The records, of which one piece at a time is in memory.
    pub(crate) fn into_records(self) -> impl Iterator<Item = TaskResult<T>> + use<T> {
        let Self {
            context,
            spill,
            codec,
            places,
            ..
        } = self;
        let read = move |rows: SpilledRows| -> TaskResult<Vec<T>> {
            context.check()?;
            let frame = spill.read_one(&rows)?;
            Ok(codec.decode(frame.into())?.into_records::<T>()?.into_vec())
        };
        let pieces = places.into_iter().map(read);
        pieces.flat_map(|piece| match piece {
            Ok(records) => itertools::Either::Left(records.into_iter().map(Ok)),
            Err(error) => itertools::Either::Right(std::iter::once(Err(error))),
        })
    }
}

/// All records of sorted runs, sorted; of equal ones those of earlier runs come first. Of more runs than can be open at
/// once neighbours are merged first.
pub(crate) fn merged<T: Record>(
    context: &TaskContext,
    mut runs: Vec<Run<T>>,
    last: impl Iterator<Item = T> + 'static,
    compare: impl Fn(&T, &T) -> Ordering + Clone + 'static,
) -> TaskResult<Box<dyn Iterator<Item = TaskResult<T>>>> {
    while runs.len() > RUNS_MAX {
        let spill = spill(context)?;
        let mut fewer = Vec::new();
        let mut rest = runs.into_iter();
        loop {
            let group: Vec<Run<T>> = rest.by_ref().take(RUNS_MAX).collect();
            if group.is_empty() {
                break;
            }
            let sources = group.into_iter().map(boxed);
            fewer.push(Run::write(context, &spill, merge(sources, compare.clone()))?);
        }
        runs = fewer;
    }
    let last: Source<T> = Box::new(last.map(Ok));
    Ok(Box::new(merge(runs.into_iter().map(boxed).chain([last]), compare)))
}

type Source<T> = Box<dyn Iterator<Item = TaskResult<T>>>;

fn boxed<T: Record>(run: Run<T>) -> Source<T> {
    Box::new(run.into_records())
}

/// An error comes before all records.
fn merge<T: Record>(
    sources: impl Iterator<Item = Source<T>>,
    compare: impl Fn(&T, &T) -> Ordering,
) -> impl Iterator<Item = TaskResult<T>> {
    let numbered = sources.enumerate();
    let numbered = numbered.map(|(index, source)| source.map(move |record| (record, index)));
    let first = move |left: &(TaskResult<T>, usize), right: &(TaskResult<T>, usize)| match (&left.0, &right.0) {
        (Ok(one), Ok(other)) => compare(one, other).then(left.1.cmp(&right.1)).is_lt(),
        (one, _) => one.is_err(),
    };
    numbered.kmerge_by(first).map(|(record, _)| record)
}

/// Records that may end in an error as a stream of batches.
pub(crate) fn fallible_stream<T: Record>(
    records: impl Iterator<Item = TaskResult<T>> + 'static,
    batch_records: usize,
) -> AnyStream {
    let failure = Failure::default();
    let ending = Failure::clone(&failure);
    let records = records.map_while(move |record| record.map_err(|error| *ending.borrow_mut() = Some(error)).ok());
    Box::new(Batches::new(records, batch_records, failure))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::batch::TaskError;
    use crate::config::Config;
    use crate::context::Context;
    use crate::id::DatasetId;

    fn is_cancelled<T>(result: TaskResult<T>) -> bool {
        matches!(result, Err(TaskError::Cancelled))
    }

    /// Of several pieces each, and more of them than are merged at once.
    #[test]
    fn runs_are_read_written_and_merged_until_the_task_is_to_stop() {
        const RECORDS: u64 = 2_000;
        let config = Config::default().with_threads(1).with_memory_bytes_max(1 << 20);
        let context = Context::new(config).unwrap();
        let cancelled = Arc::new(AtomicBool::new(false));
        let resources = Arc::clone(context.resources());
        let task = TaskContext::new(resources, DatasetId(0), 0, Arc::clone(&cancelled));
        let file = spill(&task).unwrap();
        let run = || Run::write(&task, &file, (0..RECORDS).map(Ok)).unwrap();
        let runs: Vec<Run<u64>> = (0..=RUNS_MAX).map(|_| run()).collect();
        let mut read = run().into_records();
        let mut writer = RunWriter::new(&task, &file);
        assert_eq!(read.next().unwrap().unwrap(), 0);
        writer.push(0).unwrap();
        cancelled.store(true, Ordering::SeqCst);
        assert!(read.any(is_cancelled), "it was read to its end");
        assert!(is_cancelled((0..RECORDS).try_for_each(|record| writer.push(record))));
        assert!(is_cancelled(
            merged(&task, runs, std::iter::empty(), u64::cmp).map(drop)
        ));
    }
}
