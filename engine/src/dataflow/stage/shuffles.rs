//! What a stage reads of shuffles and writes into one.

use crate::batch::{AnyBatch, AnyStream, RecordType};
use crate::dataflow::inbox::{parcel_header, source_done_header};
use crate::dataflow::parcel::Parcel;
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::{BucketWriter, Dependency};
use crate::plan::{Operation, Output};
use crate::task::TaskContext;

use super::Tasks;

/// What came for a bucket, and how many partitions on this worker have yet to read it.
pub(super) struct Received {
    pub(super) parcels: Vec<Parcel>,
    pub(super) readers: usize,
}

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
    pub(super) fn write(&mut self, tasks: &mut Tasks, batch: Option<AnyBatch>) {
        let _writing = self.context.writing(self.child);
        let (partition, kind, sequences) = (self.partition, self.kind, &mut self.sequences);
        let mut emit = |bucket, batch| tasks.send_parcel(partition, bucket, batch, kind, sequences);
        match batch {
            Some(batch) => self.writer.write(batch, &mut emit),
            None => self.writer.finish(&mut emit),
        }
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
        let Dependency::Shuffle { exchange, .. } =
            &self.job.lineage.node(shuffle.child).dependencies[shuffle.dependency]
        else {
            return Box::new(std::iter::empty());
        };
        let (kind, batch_records) = (exchange.record_type(), self.job.resources.batch_records);
        Box::new(
            parcels
                .into_iter()
                .flat_map(move |parcel| match parcel.open(kind, batch_records) {
                    Ok(stream) => stream,
                    Err(error) => Box::new(std::iter::once(Err(error))),
                }),
        )
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

    /// Sends one batch of a bucket to every stage and worker that reads that bucket.
    pub(super) fn send_parcel(
        &mut self,
        source: usize,
        bucket: usize,
        batch: AnyBatch,
        kind: RecordType,
        sequences: &mut [u64],
    ) {
        let Output::Shuffle(shuffle) = self.stage().output else {
            return;
        };
        let sequence = sequences[bucket];
        sequences[bucket] += 1;
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
            match kind.encode(given) {
                Ok(frame) => {
                    for (reader, rank) in elsewhere {
                        let header = parcel_header(shuffle, reader, bucket, source, sequence);
                        self.job.team.send(rank, header, &[&frame]);
                    }
                }
                Err(error) => self.job.fail(error),
            }
        }
        while let (Some(batch), Some((position, worker))) = (rest.take(), targets.pop()) {
            let (given, kept) = if targets.is_empty() {
                (batch, None)
            } else {
                let (given, kept) = kind.share(batch);
                (given, Some(kept))
            };
            rest = kept;
            self.outgoing[position].push(Parcel::new(worker, bucket, source, sequence, given, kind));
        }
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
