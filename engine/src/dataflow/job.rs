//! One action on its way through the workers: what they share, and what comes back.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;

use crate::batch::{AnyStream, TaskResult};
use crate::cluster::wire::{Header, Kind};
use crate::dataflow::inbox::{Inbox, shuffle};
use crate::dataflow::parcel::Payload;
use crate::dataflow::parcel_memory::ParcelMemory;
use crate::dataflow::speculation::Speculation;
use crate::dataflow::team::Team;
use crate::error::EngineError;
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::Lineage;
use crate::plan::assign::Assignment;
use crate::plan::{Plan, Stage};
use crate::progress::RunningJob;
use crate::task::{Elsewhere, Resources, TaskContext, Updates};

type Function = dyn Fn(&TaskContext, usize, AnyStream) -> TaskResult<Box<dyn Any + Send>> + Send + Sync;

/// What an action makes of one partition.
#[derive(Clone)]
pub(crate) struct Reduce {
    /// The function.
    pub function: Arc<Function>,
    /// Whether it is the program's and may do something to the world: then there is one attempt at a time, and none is
    /// stopped because another one has ended.
    pub has_effects: bool,
    /// What is known of what it has captured, the same in all processes of a cluster; empty if nothing is.
    pub parameters: String,
}

impl Reduce {
    /// Of a function that only gives its result.
    pub(crate) fn new(
        function: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<Box<dyn Any + Send>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            function: Arc::new(function),
            has_effects: false,
            parameters: String::new(),
        }
    }

    /// Of one of the program's, which may do something to the world, and what it has captured.
    pub(crate) fn with_effects(self, parameters: String) -> Self {
        Self {
            has_effects: true,
            parameters,
            ..self
        }
    }
}

/// What a worker tells the driver.
pub(crate) enum Event {
    /// A partition's result, and what its closures added to accumulators.
    Result(usize, Box<dyn Any + Send>, Updates),
    /// A task of an inner stage ended; what its closures added.
    Updates(Updates),
}

/// A task that is run: there may be others at the same partition, in other processes.
#[derive(Clone)]
pub(crate) struct Attempt {
    /// The partition of its stage.
    pub partition: usize,
    /// When it began.
    pub begun: Instant,
    /// What ends it once another attempt has; none if there can be no other.
    pub stop: Option<Arc<AtomicBool>>,
    /// Whether the partition is another process's.
    pub is_copy: bool,
}

impl Attempt {
    /// Whether another attempt has ended.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::SeqCst))
    }
}

/// Who reads a bucket for a stage.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Readers {
    /// Workers of this process.
    pub workers: BTreeSet<usize>,
    /// The ranks of other processes.
    pub ranks: BTreeSet<usize>,
}

/// Of one stage: who reads each bucket of each shuffle. There are few of them, and many partitions may read one bucket.
type StageReaders = BTreeMap<ShuffleId, BTreeMap<usize, Readers>>;

/// What the workers share while they run one plan.
pub(crate) struct Job {
    /// The plan.
    pub plan: Plan,
    /// Which process computes what.
    pub assignment: Assignment,
    /// The processes, and which of them this is.
    pub team: Team,
    /// What the others send.
    pub inbox: Inbox,
    /// Memory for what shuffles bring.
    pub parcel_memory: Arc<ParcelMemory>,
    /// What it was made from.
    pub lineage: Lineage,
    /// Blocks of the other processes.
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
    /// The cluster's generation; 0 for a process alone.
    pub generation: u64,
    /// Which tasks of other processes are computed here as well; none if none are.
    pub speculation: Option<Speculation>,
    /// Stores and limits.
    pub resources: Arc<Resources>,
    /// The action.
    pub reduce: Reduce,
    /// Set when the action has failed: everybody stops.
    pub cancelled: Arc<AtomicBool>,
    /// Set when a block is lost that only a new plan can replace. What reads a shuffle then skips its work, since the
    /// shuffle is not whole; the others go on, so that the next plan knows of every other loss.
    pub incomplete: AtomicBool,
    /// For each stage: the partitions of this process, ascending.
    pub own: Vec<Vec<usize>>,
    /// For each stage: who reads what.
    readers: Vec<StageReaders>,
    /// For each stage: how many of them have been claimed.
    pub claimed: Vec<AtomicUsize>,
    /// How far it is, for people.
    pub progress: Arc<RunningJob>,
    /// Tasks that were ended here, and how long workers were busy with tasks, in nanoseconds.
    ended: AtomicU64,
    busy: AtomicU64,
    /// Workers of this process.
    workers: usize,
    failure: Mutex<Option<EngineError>>,
}

impl Job {
    /// A job that nobody has begun, for this process's `workers`.
    pub(crate) fn new(
        plan: Plan,
        assignment: Assignment,
        team: Team,
        lineage: Lineage,
        resources: Arc<Resources>,
        reduce: Reduce,
        workers: usize,
    ) -> Self {
        let own = (0..plan.stages.len()).map(|stage| assignment.partitions(stage, team.rank).collect());
        let own: Vec<Vec<usize>> = own.collect();
        let name_of = |dataset: DatasetId| {
            let node = lineage.node(dataset);
            format!("`{}` ({}:{})", node.title(), node.site.file(), node.site.line())
        };
        let operators = plan.stages.iter().map(|stage| name_of(stage.root)).collect();
        let name = name_of(lineage.target());
        let tasks = own.iter().map(Vec::len).sum();
        Self {
            progress: Arc::new(RunningJob::new(name, operators, tasks)),
            readers: readers(&plan, &assignment, &own, workers),
            own,
            claimed: plan.stages.iter().map(|_| AtomicUsize::new(0)).collect(),
            inbox: Inbox::new(&plan, &assignment, team.rank, workers),
            parcel_memory: Arc::new(ParcelMemory::new(&resources)),
            plan,
            assignment,
            team,
            lineage,
            resources,
            reduce,
            elsewhere: None,
            generation: 0,
            speculation: None,
            cancelled: Arc::default(),
            incomplete: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            busy: AtomicU64::new(0),
            workers,
            failure: Mutex::new(None),
        }
    }

    /// With blocks and tasks of the other processes of a generation.
    pub(crate) fn with_others(
        self,
        generation: u64,
        elsewhere: Arc<dyn Elsewhere>,
        speculation: Option<Speculation>,
    ) -> Self {
        Self {
            generation,
            elsewhere: Some(elsewhere),
            speculation,
            ..self
        }
    }

    /// Whether a block is to be had, here or elsewhere.
    pub(crate) fn available(&self, dataset: DatasetId, partition: usize) -> bool {
        let id = dataset.block(partition);
        self.resources.store.contains(id) || self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.has(id))
    }

    /// The worker of this process that computes a partition of a stage which reads shuffles; none if another process
    /// does.
    pub(crate) fn worker(&self, stage: usize, partition: usize) -> Option<usize> {
        let position = self.own[stage].binary_search(&partition).ok()?;
        Some(position % self.workers)
    }

    /// Ends the job without an error: another round will do what is missing.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.inbox.wake();
    }

    /// Takes what another rank sent. While memory has no room for it, that takes as long as writing it to disk, and the
    /// sender waits.
    pub(crate) fn receive(&self, rank: usize, header: &Header, payload: Vec<u8>) {
        match header.kind {
            Kind::Parcel => self.receive_parcel(rank, header, payload),
            Kind::SourceDone => self.inbox.source_done(rank, header),
            Kind::TaskDone => {
                let [stage, partition, micros, ..] = header.words;
                if let Some(speculation) = &self.speculation {
                    let (task, time) = ((stage as usize, partition as usize), Duration::from_micros(micros));
                    speculation.ended(task, rank, time, Instant::now());
                    self.inbox.wake();
                }
            }
            Kind::Abandon => {
                self.incomplete.store(true, Ordering::SeqCst);
                self.inbox.wake();
            }
            _ => {}
        }
    }

    fn receive_parcel(&self, rank: usize, header: &Header, frame: Vec<u8>) {
        let (stage, bucket) = (header.words[2] as usize, header.words[3] as usize);
        let shuffle = shuffle(header);
        let readers = self.readers_of_bucket(stage, shuffle, bucket);
        let Some(readers) = readers.filter(|readers| !readers.workers.is_empty()) else {
            return;
        };
        let Some(spec) = self.lineage.shuffle_spec(shuffle) else {
            return;
        };
        let parcels = readers.workers.len();
        let (payload, charge) = match self.parcel_memory.reserve(frame.len() as u64, parcels) {
            Some(charge) => (Payload::Frame(frame.into()), charge),
            None => match self.parcel_memory.put_frame(&frame) {
                Ok(stored) => {
                    let payload = Payload::Stored(stored, Arc::new(spec.record_type()));
                    (payload, self.parcel_memory.count(parcels))
                }
                Err(error) => return self.fail(error),
            },
        };
        self.inbox.parcel(rank, header, payload, &charge, &readers.workers);
    }

    /// An attempt at a partition of a stage has ended, and whatever it has sent is sent.
    pub(crate) fn ended(&self, stage: usize, attempt: &Attempt) {
        self.resources.metrics.task();
        self.over(attempt);
        if attempt.stop.is_some()
            && let Some(speculation) = &self.speculation
        {
            let (partition, time, now) = (attempt.partition, attempt.begun.elapsed(), Instant::now());
            speculation.ended((stage, partition), self.team.rank, time, now);
            let words = [stage as u64, partition as u64, time.as_micros() as u64, 0, 0, 0];
            self.team.tell_all(&Header::new(Kind::TaskDone, words));
            self.inbox.wake();
        }
    }

    /// An attempt is over, ended or overtaken: it counts for how long tasks take here.
    pub(crate) fn over(&self, attempt: &Attempt) {
        self.ended.fetch_add(1, Ordering::Relaxed);
        if !attempt.is_copy {
            self.progress.task_ended();
        }
    }

    /// A worker has worked on a task.
    pub(crate) fn was_busy(&self, time: Duration) {
        self.busy.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
    }

    /// Tasks that were ended here, and how long workers were busy with tasks, in microseconds.
    pub(crate) fn tasks(&self) -> (u64, u64) {
        (
            self.ended.load(Ordering::Relaxed),
            self.busy.load(Ordering::Relaxed) / 1000,
        )
    }

    /// The error that the job ended with, once.
    pub(crate) fn take_failure(&self) -> Option<EngineError> {
        self.failure.lock().unpoisoned().take()
    }

    /// Ends the job with an error; the first one counts. The others are told soon: a thread that reads a link may be
    /// who has found the error.
    pub(crate) fn fail(&self, error: EngineError) {
        self.failure.lock().unpoisoned().get_or_insert(error);
        self.cancelled.store(true, Ordering::SeqCst);
        self.team.tell_all_soon(&Header::new(Kind::Abandon, [0; 6]));
        self.inbox.wake();
    }

    /// Notes that this round cannot give every result: what is missing will be planned again.
    pub(crate) fn lose(&self) {
        if !self.incomplete.swap(true, Ordering::SeqCst) {
            self.team.tell_all_soon(&Header::new(Kind::Abandon, [0; 6]));
            self.inbox.wake();
        }
    }

    /// Who reads a bucket of `shuffle` for a stage.
    pub(crate) fn readers_of_bucket(&self, stage: usize, shuffle: ShuffleId, bucket: usize) -> Option<&Readers> {
        self.readers.get(stage)?.get(&shuffle)?.get(&bucket)
    }

    /// The stages that read `shuffle`, by index.
    pub(crate) fn readers(&self, shuffle: ShuffleId) -> Vec<usize> {
        let stages = self.plan.stages.iter().enumerate();
        stages
            .filter(|(_, stage)| stage.reads.contains_key(&shuffle))
            .map(|(index, _)| index)
            .collect()
    }
}

/// For each stage of `plan`: who reads what, where `own` are the partitions of this process with its `workers`.
fn readers(plan: &Plan, assignment: &Assignment, own: &[Vec<usize>], workers: usize) -> Vec<StageReaders> {
    let of_bucket = |stage: usize, users: &[usize]| {
        let mut readers = Readers::default();
        for user in users {
            match own[stage].binary_search(user) {
                Ok(position) => _ = readers.workers.insert(position % workers),
                Err(_) => readers.ranks.extend(assignment.rank(stage, *user)),
            }
        }
        readers
    };
    let of_stage = |(index, stage): (usize, &Stage)| {
        let shuffles = stage.reads.iter().map(|(shuffle, buckets)| {
            let buckets = buckets.iter().map(|(bucket, users)| (*bucket, of_bucket(index, users)));
            (*shuffle, buckets.collect())
        });
        shuffles.collect()
    };
    plan.stages.iter().enumerate().map(of_stage).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Output;

    #[test]
    fn however_many_partitions_read_a_bucket_its_readers_are_the_workers_and_ranks_that_have_them() {
        let shuffle = ShuffleId {
            child: DatasetId(1),
            dependency: 0,
        };
        let users: Vec<usize> = (0..1000).collect();
        let plan = Plan {
            stages: vec![Stage {
                root: shuffle.child,
                partitions: users.clone(),
                output: Output::Result,
                kept: BTreeSet::new(),
                reads: BTreeMap::from([(shuffle, BTreeMap::from([(0, users), (1, vec![2, 998]), (2, vec![3])]))]),
                blocks: BTreeMap::new(),
            }],
            unprepared: None,
        };
        // Partition 2 p is the p-th of rank 0, where worker p % 3 has it.
        let assignment = Assignment::of(vec![
            (0..1000).map(|partition| (partition, partition % 2 * 7)).collect(),
        ]);
        let own = vec![assignment.partitions(0, 0).collect()];
        let readers = readers(&plan, &assignment, &own, 3);
        let of = |workers: &[usize], ranks: &[usize]| Readers {
            workers: workers.iter().copied().collect(),
            ranks: ranks.iter().copied().collect(),
        };
        let expected = [(0, of(&[0, 1, 2], &[7])), (1, of(&[1], &[])), (2, of(&[], &[7]))];
        assert_eq!(readers, [BTreeMap::from([(shuffle, BTreeMap::from(expected))])]);
    }
}
