//! What other processes send for the shuffles of one job, until the stages that read them take it.
//!
//! Frontiers tell a stage when everything from this process has come. For the others each finished source partition
//! is announced behind its parcels, on the same link: a shuffle is whole when every source has been announced. A source
//! that fails half way is never announced, so that nobody can take a part of a shuffle for all of it. Several processes
//! may compute one source partition (speculation): of each the first one that is announced counts, and no record of the
//! others is read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use distdl_storage::Unpoisoned;
use timely::scheduling::activate::SyncActivator;

use crate::cluster::wire::{Header, Kind};
use crate::dataflow::parcel::{Parcel, Payload};
use crate::dataflow::parcel_memory::Charge;
use crate::id::{DatasetId, ShuffleId};
use crate::plan::assign::Assignment;
use crate::plan::{Output, Plan};

/// One inbox a job.
pub(crate) struct Inbox {
    stages: Mutex<Vec<Waiting>>,
    operators: Mutex<Vec<SyncActivator>>,
}

/// What one stage waits for.
struct Waiting {
    /// Source partitions of other processes that have not been announced.
    missing: BTreeSet<(ShuffleId, u64)>,
    /// Whose attempt at a source partition counts, of those that were announced, by this process too.
    counting: BTreeMap<(ShuffleId, u64), u64>,
    /// For each worker of this process.
    parcels: Vec<Vec<(ShuffleId, Parcel)>>,
}

impl Inbox {
    /// The inbox of the process with a `rank`, for each of its `workers`.
    pub(crate) fn new(plan: &Plan, assignment: &Assignment, rank: usize, workers: usize) -> Self {
        let stages = plan.stages.iter().enumerate().map(|(index, stage)| {
            let mut missing = BTreeSet::new();
            let reads_here = assignment.partitions(index, rank).next().is_some();
            for shuffle in stage.reads.keys().filter(|_| reads_here) {
                let writer = plan
                    .stages
                    .iter()
                    .position(|stage| stage.output == Output::Shuffle(*shuffle));
                for (writer, partition) in writer.iter().flat_map(|writer| {
                    plan.stages[*writer]
                        .partitions
                        .iter()
                        .map(move |partition| (*writer, *partition))
                }) {
                    if assignment.rank(writer, partition) != Some(rank) {
                        missing.insert((*shuffle, partition as u64));
                    }
                }
            }
            let parcels = (0..workers).map(|_| Vec::new()).collect();
            Waiting {
                missing,
                counting: BTreeMap::new(),
                parcels,
            }
        });
        Self {
            stages: Mutex::new(stages.collect()),
            operators: Mutex::default(),
        }
    }

    /// Has an operator woken when something has changed that it may wait for.
    pub(crate) fn enlist(&self, operator: SyncActivator) {
        self.operators.lock().unpoisoned().push(operator);
    }

    /// Wakes all operators.
    pub(crate) fn wake(&self) {
        for operator in &*self.operators.lock().unpoisoned() {
            // An operator whose worker is gone needs no waking.
            let _ = operator.activate();
        }
    }

    /// Whether everything from other processes has come for a stage.
    pub(crate) fn is_whole(&self, stage: usize) -> bool {
        self.stages
            .lock()
            .unpoisoned()
            .get(stage)
            .is_none_or(|waiting| waiting.missing.is_empty())
    }

    /// What has come for a worker's part of a stage.
    pub(crate) fn take(&self, stage: usize, worker: usize) -> Vec<(ShuffleId, Parcel)> {
        let mut stages = self.stages.lock().unpoisoned();
        let parcels = stages
            .get_mut(stage)
            .and_then(|waiting| waiting.parcels.get_mut(worker));
        parcels.map(std::mem::take).unwrap_or_default()
    }

    /// Drops what came of attempts that do not count. Once a stage is whole it is known of all which those are.
    pub(crate) fn retain_counting(&self, stage: usize, shuffle: ShuffleId, parcels: &mut Vec<Parcel>) {
        if let Some(waiting) = self.stages.lock().unpoisoned().get(stage) {
            parcels.retain(|parcel| waiting.counts(shuffle, parcel.source, parcel.rank));
        }
    }

    /// Puts a parcel from another rank in for `workers` of this process, who all read its bucket.
    pub(crate) fn parcel(
        &self,
        rank: usize,
        header: &Header,
        payload: Payload,
        charge: &Arc<Charge>,
        workers: &BTreeSet<usize>,
    ) {
        let [_, _, stage, bucket, source, sequence] = header.words;
        let shuffle = shuffle(header);
        let mut stages = self.stages.lock().unpoisoned();
        let Some(waiting) = stages.get_mut(stage as usize) else {
            return;
        };
        if !waiting.counts(shuffle, source, rank as u64) {
            return;
        }
        let mut rest = payload;
        for (index, worker) in workers.iter().enumerate() {
            let payload = if index + 1 == workers.len() {
                std::mem::replace(&mut rest, Payload::Taken)
            } else {
                let (given, kept) = rest.share();
                rest = kept;
                given
            };
            if let Some(parcels) = waiting.parcels.get_mut(*worker) {
                let charge = Some(Arc::clone(charge));
                let parcel = Parcel::new((*worker, rank), bucket, (source, sequence), payload, charge);
                parcels.push((shuffle, parcel));
            }
        }
    }

    /// Notes that a rank has sent everything of a source partition.
    pub(crate) fn source_done(&self, rank: usize, header: &Header) {
        let [_, _, stage, _, source, _] = header.words;
        let whole = {
            let mut stages = self.stages.lock().unpoisoned();
            let Some(waiting) = stages.get_mut(stage as usize) else {
                return;
            };
            let source = (shuffle(header), source);
            waiting.counting.entry(source).or_insert(rank as u64);
            waiting.missing.remove(&source) && waiting.missing.is_empty()
        };
        if whole {
            self.wake();
        }
    }
}

impl Waiting {
    /// Whether what a rank sent of a source partition is read, as far as is known.
    fn counts(&self, shuffle: ShuffleId, source: u64, rank: u64) -> bool {
        let counting = self.counting.get(&(shuffle, source));
        counting.is_none_or(|counting| *counting == rank)
    }
}

/// The shuffle that a header names.
pub(crate) fn shuffle(header: &Header) -> ShuffleId {
    let [child, dependency, ..] = header.words;
    ShuffleId {
        child: DatasetId(child),
        dependency: dependency as usize,
    }
}

/// The header of a parcel for a reading stage.
pub(crate) fn parcel_header(shuffle: ShuffleId, stage: usize, bucket: usize, source: usize, sequence: u64) -> Header {
    let words = [
        shuffle.child.0,
        shuffle.dependency as u64,
        stage as u64,
        bucket as u64,
        source as u64,
        sequence,
    ];
    Header::new(Kind::Parcel, words)
}

/// The header that announces that a source partition has sent everything to a reading stage.
pub(crate) fn source_done_header(shuffle: ShuffleId, stage: usize, source: usize) -> Header {
    let words = [
        shuffle.child.0,
        shuffle.dependency as u64,
        stage as u64,
        0,
        source as u64,
        0,
    ];
    Header::new(Kind::SourceDone, words)
}
