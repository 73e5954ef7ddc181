//! What a stage reads of shuffles and writes into one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::{AnyBatch, AnyStream, RecordType, TaskError, TaskResult};
use crate::dataflow::inbox::{parcel_header, source_done_header};
use crate::dataflow::job::Attempt;
use crate::dataflow::parcel::{Parcel, Payload};
use crate::dataflow::parcel_memory::Charge;
use crate::error::Result;
use crate::evaluate::{short_of_room, titled};
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::BucketWriter;
use crate::outputs::Keeping;
use crate::plan::{Operation, Output};
use crate::task::TaskContext;

use super::Tasks;

/// What came for a bucket, and how many partitions on this worker have yet to read it.
pub(super) struct Received {
    pub(super) parcels: Vec<Parcel>,
    pub(super) readers: usize,
}

/// What a program reads of shuffles, counted once for all its reads.
pub(super) struct Uses {
    /// How often each bucket.
    buckets: BTreeMap<(ShuffleId, usize), usize>,
    /// Whether it reads blocks too, which may be lost.
    may_fail: bool,
}

impl Uses {
    pub(super) fn of(program: &[Operation]) -> Self {
        let mut uses = Self {
            buckets: BTreeMap::new(),
            may_fail: false,
        };
        for operation in program {
            match operation {
                Operation::Shuffle(shuffle, bucket) => *uses.buckets.entry((*shuffle, *bucket)).or_default() += 1,
                Operation::Read(..) => uses.may_fail = true,
                Operation::Compute { .. } | Operation::Keep(..) => {}
            }
        }
        uses
    }

    /// Whether it reads a bucket once, and certainly not again.
    fn is_only(&self, shuffle: ShuffleId, bucket: usize) -> bool {
        !self.may_fail && self.buckets.get(&(shuffle, bucket)) == Some(&1)
    }
}

/// The logical address of a batch in a shuffle.
#[derive(Clone, Copy)]
pub(super) struct Address {
    /// The parent's partition that it comes from.
    pub(super) source: usize,
    /// The child's partition that it goes to.
    pub(super) bucket: usize,
    /// 0-based position among what `source` sends to `bucket`.
    pub(super) sequence: u64,
}

/// Readers of a bucket: (position among the reading stages, worker) here, (stage, rank) elsewhere.
type Targets = (Vec<(usize, usize)>, Vec<(usize, usize)>);

/// A partition of an inner stage that is being cut into buckets.
pub(super) struct Running {
    pub(super) context: TaskContext,
    pub(super) attempt: Attempt,
    pub(super) parent: DatasetId,
    pub(super) child: DatasetId,
    pub(super) stream: AnyStream,
    pub(super) writer: Box<dyn BucketWriter>,
    pub(super) kind: Arc<RecordType>,
    /// How many batches each bucket has been sent, of those that were sent any.
    pub(super) sequences: BTreeMap<usize, u64>,
    /// What keeps a copy of what it sends, if something does.
    pub(super) kept: Option<Keeping>,
}

impl Running {
    /// Cuts a batch into buckets, or what is left if there is no more; the code that combines belongs to the child.
    pub(super) fn write(&mut self, tasks: &mut Tasks, batch: Option<AnyBatch>) -> TaskResult<()> {
        let _writing = self.context.writing(self.child);
        let (partition, kind, sequences) = (self.attempt.partition, &self.kind, &mut self.sequences);
        let kept = &mut self.kept;
        let mut failure = None;
        let mut emit = |bucket, batch, bytes| {
            let sent = sequences.entry(bucket).or_default();
            let address = Address {
                source: partition,
                bucket,
                sequence: *sent,
            };
            *sent += 1;
            if let Err(error) = tasks.send_parcel(address, batch, kind, bytes, kept) {
                failure.get_or_insert(error);
            }
        };
        let written = match batch {
            Some(batch) => self.writer.write(batch, &mut emit),
            None => self.writer.finish(&mut emit),
        };
        // The partition is the parent's, and so are the records that find no room.
        let lineage = &tasks.job.lineage;
        let (parent, child) = (lineage.node(self.parent), lineage.node(self.child));
        let title = || format!("{}, cut for {}", parent.title(), child.title());
        let titled = |error| titled(child, partition, short_of_room(parent, title(), partition, error));
        written.map_err(titled)?;
        failure.map_or(Ok(()), |error| Err(titled(error.into())))
    }
}

impl Tasks {
    /// What a shuffle brought for a bucket. Parcels are moved where this is certainly their only use, shared where
    /// another partition, another operation, or this one after the loss of a block may read them again.
    pub(super) fn read(&mut self, uses: &Uses, shuffle: ShuffleId, bucket: usize) -> AnyStream {
        let Some(received) = self.received.get_mut(&(shuffle, bucket)) else {
            return Box::new(std::iter::empty());
        };
        let mut parcels = if received.readers == 1 && uses.is_only(shuffle, bucket) {
            std::mem::take(&mut received.parcels)
        } else {
            let (kept, given) = received.parcels.drain(..).map(Parcel::share).unzip();
            received.parcels = kept;
            given
        };
        parcels.sort_unstable_by_key(Parcel::order);
        let Some(spec) = self.job.lineage.shuffle_spec(shuffle) else {
            return Box::new(std::iter::empty());
        };
        let kind = spec.record_type();
        let batches = parcels.into_iter().map(move |parcel| parcel.open(kind));
        Box::new(batches.filter_map(|batch| batch.map_err(TaskError::from).transpose()))
    }

    /// A partition has read its buckets: drop those that no other partition of this worker will read.
    pub(super) fn forget(&mut self, uses: &Uses) {
        for key in uses.buckets.keys() {
            if let Some(received) = self.received.get_mut(key) {
                received.readers -= 1;
                if received.readers == 0 {
                    self.received.remove(key);
                }
            }
        }
    }

    /// Sends one batch of a bucket to every stage and worker that reads that bucket, and keeps it where `kept` says so.
    fn send_parcel(
        &mut self,
        address: Address,
        batch: AnyBatch,
        kind: &Arc<RecordType>,
        bytes: u64,
        kept: &mut Option<Keeping>,
    ) -> Result<()> {
        let (here, elsewhere) = self.targets(address);
        let charge = match here.is_empty() {
            true => None,
            false => self.job.parcel_memory.reserve(bytes, here.len()),
        };
        let (mut rest, mut stored) = (Some(batch), None);
        if (!elsewhere.is_empty() || kept.is_some())
            && let Some(batch) = rest.take()
        {
            let (given, left) = if here.is_empty() {
                (batch, None)
            } else {
                let (given, left) = kind.share(batch);
                (given, Some(left))
            };
            rest = left;
            let frame = kind.encode(given)?;
            let is_awaited = !here.is_empty() && charge.is_none();
            let outputs = &self.job.resources.outputs;
            stored = outputs.put(kept, address.bucket, &frame, is_awaited);
            self.post(&elsewhere, address, &frame);
        }
        let Some(batch) = rest.filter(|_| !here.is_empty()) else {
            return Ok(());
        };
        let memory = &self.job.parcel_memory;
        let (payload, charge) = match (charge, stored) {
            (Some(charge), _) => (Payload::Batch(batch, Arc::clone(kind)), charge),
            (None, stored) => {
                let stored = match stored {
                    Some(stored) => stored,
                    None => memory.put_frame(&kind.encode(batch)?)?,
                };
                (Payload::Stored(stored, Arc::clone(kind)), memory.count(here.len()))
            }
        };
        self.deliver(&here, address, payload, &charge);
        Ok(())
    }

    /// Hands a batch to those who read its bucket in this process.
    pub(super) fn deliver(
        &mut self,
        here: &[(usize, usize)],
        address: Address,
        mut payload: Payload,
        charge: &Arc<Charge>,
    ) {
        for (index, (position, worker)) in here.iter().enumerate() {
            let (given, kept) = if index + 1 == here.len() {
                (payload, Payload::Taken)
            } else {
                payload.share()
            };
            payload = kept;
            let source = (address.source as u64, address.sequence);
            let processes = (*worker, self.job.team.rank);
            let parcel = Parcel::new(
                processes,
                address.bucket as u64,
                source,
                given,
                Some(Arc::clone(charge)),
            );
            self.outgoing[*position].push(parcel);
        }
    }

    /// Sends a frame to those who read its bucket in other processes.
    pub(super) fn post(&self, elsewhere: &[(usize, usize)], address: Address, frame: &[u8]) {
        let Output::Shuffle(shuffle) = self.stage().output else {
            return;
        };
        for (reader, rank) in elsewhere {
            let header = parcel_header(shuffle, *reader, address.bucket, address.source, address.sequence);
            self.job.team.send(*rank, header, &[frame]);
        }
    }

    /// Who reads what is sent to an address.
    pub(super) fn targets(&self, address: Address) -> Targets {
        let (mut targets, mut elsewhere) = (Vec::new(), Vec::new());
        let Output::Shuffle(shuffle) = self.stage().output else {
            return (targets, elsewhere);
        };
        for (position, reader) in self.readers.iter().enumerate() {
            if let Some(readers) = self.job.readers_of_bucket(*reader, shuffle, address.bucket) {
                targets.extend(readers.workers.iter().map(|worker| (position, *worker)));
                elsewhere.extend(readers.ranks.iter().map(|rank| (*reader, *rank)));
            }
        }
        (targets, elsewhere)
    }

    /// Tells all readers that a source partition has sent everything.
    pub(super) fn announce(&self, source: usize) {
        let Output::Shuffle(shuffle) = self.stage().output else {
            return;
        };
        let own = self.job.team.rank;
        for reader in &self.readers {
            let header = source_done_header(shuffle, *reader, source);
            for rank in self.job.assignment.ranks(*reader) {
                if rank == own {
                    self.job.inbox.source_done(own, &header);
                } else {
                    self.job.team.send(rank, header.clone(), &[]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_reads_again_or_may_read_again_is_not_its_only_use() {
        let shuffle = |dependency| ShuffleId {
            child: DatasetId(7),
            dependency,
        };
        let (once, twice) = (shuffle(0), shuffle(1));
        let mut program = vec![
            Operation::Shuffle(twice, 3),
            Operation::Shuffle(once, 3),
            Operation::Shuffle(twice, 3),
            Operation::Shuffle(twice, 4),
            Operation::Keep(DatasetId(7), 3),
        ];
        let uses = Uses::of(&program);
        assert!(uses.is_only(once, 3) && uses.is_only(twice, 4));
        assert!(!uses.is_only(twice, 3) && !uses.is_only(once, 4));
        assert!(
            uses.buckets.keys().eq(&[(once, 3), (twice, 3), (twice, 4)]),
            "each is forgotten once"
        );
        program.push(Operation::Read(DatasetId(5), 3));
        assert!(!Uses::of(&program).is_only(once, 3), "a lost block has it read again");
    }
}
