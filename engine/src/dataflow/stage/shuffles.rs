//! What a stage reads of shuffles and writes into one.

use crate::batch::{AnyBatch, AnyStream, RecordType, TaskError, TaskResult};
use crate::dataflow::inbox::{parcel_header, source_done_header};
use crate::dataflow::parcel::{Parcel, Payload};
use crate::error::Result;
use crate::evaluate::titled;
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::BucketWriter;
use crate::plan::{Operation, Output};
use crate::task::TaskContext;

use super::Tasks;

/// What came for a bucket, and how many partitions on this worker have yet to read it.
pub(super) struct Received {
    pub(super) parcels: Vec<Parcel>,
    pub(super) readers: usize,
}

/// Readers of a bucket, here and elsewhere.
type Targets = (Vec<(usize, usize)>, Vec<(usize, usize)>);

/// A partition of an inner stage that is being cut into buckets.
pub(super) struct Running {
    pub(super) context: TaskContext,
    pub(super) partition: usize,
    pub(super) child: DatasetId,
    pub(super) stream: AnyStream,
    pub(super) writer: Box<dyn BucketWriter>,
    pub(super) kind: RecordType,
    pub(super) sequences: Vec<u64>,
}

impl Running {
    /// Cuts a batch into buckets, or what is left if there is no more; the code that combines belongs to the child.
    pub(super) fn write(&mut self, tasks: &mut Tasks, batch: Option<AnyBatch>) -> TaskResult<()> {
        let _writing = self.context.writing(self.child);
        let (partition, kind, sequences) = (self.partition, self.kind, &mut self.sequences);
        let mut failure = None;
        let mut emit = |bucket, batch, bytes| {
            let address = (partition, bucket, sequences[bucket]);
            sequences[bucket] += 1;
            if let Err(error) = tasks.send_parcel(address, batch, kind, bytes) {
                failure.get_or_insert(error);
            }
        };
        let written = match batch {
            Some(batch) => self.writer.write(batch, &mut emit),
            None => self.writer.finish(&mut emit),
        };
        let child = tasks.job.lineage.node(self.child);
        written.map_err(|error| titled(child, error))?;
        failure.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Tasks {
    /// What a shuffle brought for a bucket. Parcels are moved where this is certainly their only use, shared where
    /// another partition, another operation, or this one after the loss of a block may read them again.
    pub(super) fn read(&mut self, program: &[Operation], shuffle: ShuffleId, bucket: usize) -> AnyStream {
        let Some(received) = self.received.get_mut(&(shuffle, bucket)) else {
            return Box::new(std::iter::empty());
        };
        let uses = program
            .iter()
            .filter(|operation| **operation == Operation::Shuffle(shuffle, bucket))
            .count();
        let may_fail = program.iter().any(|operation| matches!(operation, Operation::Read(..)));
        let mut parcels = if received.readers == 1 && uses == 1 && !may_fail {
            std::mem::take(&mut received.parcels)
        } else {
            let (kept, given) = received.parcels.drain(..).map(Parcel::share).unzip();
            received.parcels = kept;
            given
        };
        parcels.sort_unstable_by_key(Parcel::order);
        let Some(exchange) = self.job.lineage.exchange(shuffle) else {
            return Box::new(std::iter::empty());
        };
        let kind = exchange.record_type();
        let batches = parcels.into_iter().map(move |parcel| parcel.open(kind));
        Box::new(batches.filter_map(|batch| batch.map_err(TaskError::from).transpose()))
    }

    /// A partition has read its buckets: drop those that no other partition of this worker will read.
    pub(super) fn forget(&mut self, program: &[Operation]) {
        let mut buckets: Vec<(ShuffleId, usize)> = Vec::new();
        for operation in program {
            if let Operation::Shuffle(shuffle, bucket) = operation
                && !buckets.contains(&(*shuffle, *bucket))
            {
                buckets.push((*shuffle, *bucket));
            }
        }
        for key in buckets {
            if let Some(received) = self.received.get_mut(&key) {
                received.readers -= 1;
                if received.readers == 0 {
                    self.received.remove(&key);
                }
            }
        }
    }

    /// Sends one batch of a bucket to every stage and worker that reads that bucket: (source partition, bucket, sequence).
    fn send_parcel(
        &mut self,
        (source, bucket, sequence): (usize, usize, u64),
        batch: AnyBatch,
        kind: RecordType,
        bytes: u64,
    ) -> Result<()> {
        let Output::Shuffle(shuffle) = self.stage().output else {
            return Ok(());
        };
        let (targets, elsewhere) = self.targets(shuffle, bucket);
        let mut rest = Some(batch);
        if !elsewhere.is_empty()
            && let Some(batch) = rest.take()
        {
            let (given, kept) = if targets.is_empty() {
                (batch, None)
            } else {
                let (given, kept) = kind.share(batch);
                (given, Some(kept))
            };
            rest = kept;
            let frame = kind.encode(given)?;
            for (reader, rank) in elsewhere {
                let header = parcel_header(shuffle, reader, bucket, source, sequence);
                self.job.team.send(rank, header, &[&frame]);
            }
        }
        let Some(batch) = rest.filter(|_| !targets.is_empty()) else {
            return Ok(());
        };
        let charge = self.job.room.take(bytes);
        let mut payload = match charge {
            Some(_) => Payload::Batch(batch, kind),
            None => Payload::Stored(self.job.room.put_batch(kind, batch)?, kind),
        };
        let address = (source as u64, sequence);
        for (index, (position, worker)) in targets.iter().enumerate() {
            let (given, kept) = if index + 1 == targets.len() {
                (payload, Payload::Taken)
            } else {
                payload.share()
            };
            payload = kept;
            let parcel = Parcel::new(*worker, bucket as u64, address, given, charge.clone());
            self.outgoing[*position].push(parcel);
        }
        Ok(())
    }

    /// Who reads a bucket: (position among the reading stages, worker) in this process, (stage, rank) of the others.
    fn targets(&self, shuffle: ShuffleId, bucket: usize) -> Targets {
        let (mut targets, mut elsewhere) = (Vec::new(), Vec::new());
        for (position, reader) in self.readers.iter().enumerate() {
            let users = self.job.plan.stages[*reader].reads[&shuffle].get(&bucket);
            for user in users.into_iter().flatten() {
                match (
                    self.job.worker(*reader, *user),
                    self.job.assignment.rank(*reader, *user),
                ) {
                    (Some(worker), _) if !targets.contains(&(position, worker)) => targets.push((position, worker)),
                    (None, Some(rank)) if !elsewhere.contains(&(*reader, rank)) => elsewhere.push((*reader, rank)),
                    _ => {}
                }
            }
        }
        (targets, elsewhere)
    }

    /// Tells the other processes that a source partition has sent everything.
    pub(super) fn announce(&self, source: usize) {
        let Output::Shuffle(shuffle) = self.stage().output else {
            return;
        };
        for reader in &self.readers {
            for rank in self.job.assignment.ranks(*reader) {
                if rank != self.job.team.rank {
                    let header = source_done_header(shuffle, *reader, source);
                    self.job.team.send(rank, header, &[]);
                }
            }
        }
    }
}
