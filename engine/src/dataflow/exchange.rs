//! The parameter exchange: what the workers of one process share while an iteration runs, and what they push to and
//! pull from other processes.
//!
//! Each process sums the updates of its lanes as far as the tree over lanes allows, and pushes to each other process
//! the part that belongs to the shards there. An owner finishes the tree, applies the sum, and sends the new range of
//! the parameters once to each process, whose threads all read it in place. A range comes in straight from the socket
//! into the version that is being made; an update comes into a buffer that is used again.

mod fragments;
mod incoming;
mod local_role;
mod measures;
mod outgoing;
mod packed;
mod sequencer;
mod shared_memory;
mod state;

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, RwLock};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;
use timely::dataflow::scope::Scope;
use timely::scheduling::activate::SyncActivator;

use self::fragments::UpdateFragments;
use self::incoming::Arrived;
pub(crate) use self::incoming::Partial;
use self::local_role::{LocalRole, attending};
use self::measures::Measures;
use self::sequencer::Sequencer;
pub(crate) use self::sequencer::UpdateSlot;
use self::shared_memory::SharedMemoryExchange;
use crate::cluster::member::Faults;
use crate::dataflow::team::Team;
use crate::error::{EngineError, Result, panic_text};
use crate::iteration::{Iteration, Lane, Placement, ShardUpdate, StepReport};
use crate::metrics::WorkerTimes;
use crate::parameters::{Parameters, RangeGuard, ReadGuard};
use crate::staleness::Staleness;

/// Makes the lane with an index, on the worker that hosts it.
pub(crate) type MakeLane = Arc<dyn Fn(usize) -> Result<Box<dyn Lane>> + Send + Sync>;
/// Makes the update of the shard with an index, on the worker that owns it.
pub(crate) type MakeShard = Arc<dyn Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync>;

/// The user's side of an iteration.
#[derive(Clone)]
pub(crate) struct Makers {
    /// Of lanes.
    pub lane: MakeLane,
    /// Of shard updates.
    pub shard: MakeShard,
}

/// A process that others of a team push to.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// Its rank.
    pub rank: usize,
    /// The worker of this process that sends to it.
    pub courier: usize,
    /// The ranges of its shards, ascending: what an update for it consists of.
    pub ranges: Vec<Range<usize>>,
}

/// What is laid down from outside: by the name node of a cluster, and by faults that are planned.
#[derive(Default)]
pub(crate) struct Setting {
    /// For each shard, the rank that keeps its optimizer state as well.
    pub copies: Vec<Option<usize>>,
    /// Faults that are planned.
    pub faults: Option<Faults>,
    /// Whether parameters go through shared memory where they can.
    pub shares_memory: bool,
    /// Workers that are slowed, counted through, and how many times as long steps of lanes take there.
    pub slowed: Vec<(usize, u32)>,
    /// The version that another process gives to this one, which lacks it: it may have one of that number, of another
    /// history.
    pub lacking: Option<u64>,
}

/// What the workers of a process share while they run one iteration.
pub(crate) struct Exchange {
    /// The iteration.
    pub iteration: Iteration,
    /// Global workers of lanes and shards.
    pub placement: Placement,
    /// The processes.
    pub team: Team,
    /// The parameters.
    pub parameters: Arc<Parameters>,
    /// Makers of lanes and shards.
    pub makers: Makers,
    /// Lanes of this process, ascending.
    pub lanes: Vec<usize>,
    /// Local workers that lanes hand their updates to: owners of shards, and couriers.
    pub targets: Vec<usize>,
    /// The other processes that own shards.
    pub owners: Vec<Owner>,
    /// The ranges of this process's shards, by shard.
    pub own: BTreeMap<usize, Range<usize>>,
    /// For each shard, the rank that keeps its optimizer state as well.
    copies: Vec<Option<usize>>,
    /// Nodes of the tree that come from other processes, with the rank that sends each.
    expected: BTreeMap<usize, (Range<usize>, usize)>,
    /// Ranks that keep optimizer state and may fall behind, since they host no lanes or need not read the newest
    /// version. Nobody begins a step before they have its version: what the others have left behind, they can go on
    /// from.
    attending: Vec<usize>,
    measures: Measures,
    /// The largest nodes of the tree over lanes that are all hosted here.
    nodes: Vec<Range<usize>>,
    fragments: UpdateFragments,
    /// Who comes next in a step, where that depends on time.
    sequencer: Sequencer,
    /// Held for reading while parameters are copied that an owner might write over.
    copying: RwLock<()>,
    /// Of each worker of this process.
    times: Vec<Mutex<WorkerTimes>>,
    shared_memory: Option<SharedMemoryExchange>,
    faults: Option<Faults>,
    slowed: Vec<(usize, u32)>,
    /// As in [`Setting`].
    lacking: Option<u64>,
    /// Updates and parameters that were given to others.
    sent_bytes: AtomicU64,
    /// Those of updates that were not handed out yet.
    early_bytes: AtomicU64,
    cancelled: AtomicBool,
    failure: Mutex<Option<EngineError>>,
    operators: Mutex<Vec<SyncActivator>>,
    /// Held while state is read to be given, or put in its place: the one excludes the other.
    transferring: Mutex<()>,
    /// Held for reading while a frame is taken; true once none may be taken any more.
    sealed: RwLock<bool>,
    arrived: Mutex<Arrived>,
    changed: Condvar,
    reports: Mutex<Reports>,
}

/// Reports on their way to the driver, some at a time: waking it takes a core from a worker.
struct Reports {
    waiting: Vec<StepReport>,
    /// When some were sent last; the first ones do not wait.
    sent: Option<Instant>,
    driver: Option<Sender<Vec<StepReport>>>,
}

/// A report that comes so soon after some were sent waits for the next one, however long that step takes, or for the
/// last.
pub(crate) const REPORT_DELAY: Duration = Duration::from_millis(5);

impl Exchange {
    /// Of the process that `team` says, for an iteration whose reports go to `reports`.
    pub(crate) fn new(
        iteration: Iteration,
        placement: Placement,
        team: Team,
        parameters: Arc<Parameters>,
        makers: Makers,
        setting: Setting,
        reports: Sender<Vec<StepReport>>,
    ) -> Self {
        let LocalRole {
            lanes,
            nodes,
            own,
            owners,
            targets,
            expected,
        } = LocalRole::new(&iteration, &placement, &team, parameters.len());
        let shared_memory = match team.ranks() {
            1 => None,
            _ if !setting.shares_memory => None,
            ranks => {
                let all = team.workers(ranks - 1).end;
                SharedMemoryExchange::new(
                    ranks,
                    all,
                    (parameters.len(), iteration.staleness),
                    &lanes,
                    &nodes,
                    &own,
                )
            }
        };
        let copies = if iteration.state_slots > 0 {
            setting.copies
        } else {
            Vec::new()
        };
        let keeps = |rank: &usize| copies.contains(&Some(*rank));
        let attending = attending(&iteration, &placement, &team, &copies);
        let applies = |rank: &usize| owners.iter().any(|owner| owner.rank == *rank) || keeps(rank);
        let shards = iteration.shards_held(parameters.len()).count();
        let measures = Measures::new(shards, team.others().filter(applies).collect());
        Self {
            shared_memory,
            lanes,
            targets,
            owners,
            own,
            copies,
            expected,
            attending,
            measures,
            nodes,
            fragments: UpdateFragments::default(),
            sequencer: Sequencer::new(&iteration),
            copying: RwLock::new(()),
            times: team.workers(team.rank).map(|_| Mutex::default()).collect(),
            iteration,
            placement,
            team,
            parameters,
            makers,
            faults: setting.faults,
            slowed: setting.slowed,
            lacking: setting.lacking,
            sent_bytes: AtomicU64::new(0),
            early_bytes: AtomicU64::new(0),
            cancelled: AtomicBool::new(false),
            failure: Mutex::new(None),
            operators: Mutex::default(),
            transferring: Mutex::new(()),
            sealed: RwLock::new(false),
            arrived: Mutex::default(),
            changed: Condvar::new(),
            reports: Mutex::new(Reports {
                waiting: Vec::new(),
                sent: None,
                driver: Some(reports),
            }),
        }
    }

    /// Ends the iteration with an error; the first one counts.
    pub(crate) fn fail(&self, error: EngineError) {
        self.failure.lock().unpoisoned().get_or_insert(error);
        self.stop();
    }

    /// The error that the iteration ended with, once.
    pub(crate) fn take_failure(&self) -> Option<EngineError> {
        self.failure.lock().unpoisoned().take()
    }

    /// Ends the iteration where it is. In a loop nobody's frontier moves until everybody lets go, so all operators of
    /// all workers are woken to look.
    pub(crate) fn stop(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// What was given to others of updates and parameters, in bytes.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// What of that was given before its lanes had handed it out, in bytes.
    pub(crate) fn early_bytes(&self) -> u64 {
        self.early_bytes.load(Ordering::Relaxed)
    }

    fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether it has failed or was stopped.
    pub(crate) fn ended(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether all steps are finished here.
    pub(crate) fn is_finished(&self) -> bool {
        self.parameters.version() == self.iteration.last_step()
    }

    /// Has an operator woken when something has come from elsewhere. It must be scheduled at least once after this.
    pub(crate) fn enlist(&self, scope: Scope<'_, u64>, address: &[usize]) {
        self.operators
            .lock()
            .unpoisoned()
            .push(scope.worker().sync_activator_for(address.to_vec()));
    }

    /// Wakes all that wait.
    pub(crate) fn wake(&self) {
        for operator in &*self.operators.lock().unpoisoned() {
            // An operator whose worker is gone needs no waking.
            let _ = operator.activate();
        }
        drop(self.arrived.lock().unpoisoned());
        self.changed.notify_all();
    }

    /// Runs user code: an error or a panic in it ends the iteration.
    pub(crate) fn guarded<R>(&self, what: &str, index: usize, work: impl FnOnce() -> Result<R>) -> Option<R> {
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(error)) => self.fail(error),
            Err(panic) => self.fail(EngineError::Panic {
                operator: format!("iterate ({what})"),
                site: self.iteration.site.to_string(),
                partition: index,
                message: panic_text(panic.as_ref()),
            }),
        }
        None
    }

    /// Carries out the faults that are planned for the beginning of a step.
    pub(crate) fn begin_step(&self, step: u64) {
        if let Some(faults) = &self.faults {
            faults.begin_step(step);
        }
    }

    /// Notes how long a lane's step took a worker, and how many versions there were after the one that it read when it
    /// was handed out.
    pub(crate) fn lane_took(&self, worker: usize, begun: Instant, behind: u64) {
        if let Some((_, times)) = self.slowed.iter().find(|(slow, _)| *slow == self.team.global(worker)) {
            std::thread::sleep(begun.elapsed().saturating_mul(times - 1));
        }
        if let Some(faults) = &self.faults {
            faults.lane_took(begun.elapsed());
        }
        self.times[worker]
            .lock()
            .unpoisoned()
            .lane_took(begun.elapsed(), behind);
    }

    /// Notes how long a worker was busy with shards.
    pub(crate) fn shards_took(&self, worker: usize, time: Duration) {
        self.times[worker].lock().unpoisoned().applying += time;
    }

    /// What the workers of this process have done in an iteration that took so long.
    pub(crate) fn times(&self, whole: Duration) -> Vec<WorkerTimes> {
        let first = self.team.workers(self.team.rank).start;
        let times = self.times.iter().enumerate();
        times
            .map(|(worker, times)| times.lock().unpoisoned().of(first + worker, whole))
            .collect()
    }

    /// Whether a lane can begin a step when `newest` is the newest version.
    pub(crate) fn can_begin(&self, step: u64, newest: u64) -> bool {
        let iteration = &self.iteration;
        let is_due = step < iteration.last_step() || iteration.staleness.is_asynchronous();
        is_due
            && iteration
                .staleness
                .version(step, iteration.first_step, newest)
                .is_some()
    }

    /// The version that a step reads, in place; an error if none is new enough.
    pub(crate) fn read_for(&self, step: u64) -> Result<ReadGuard<'_>> {
        let (iteration, newest) = (&self.iteration, self.parameters.version());
        let version = iteration.staleness.version(step, iteration.first_step, newest);
        let version = version.ok_or_else(|| {
            EngineError::invalid(
                format!("step {step} was to read version {newest}, which is too old for it"),
                "this is a bug of the exchange; report it",
            )
        })?;
        self.parameters.read_values(version)
    }

    /// Copies the newest version, and says which it is.
    pub(crate) fn copy_latest(&self, copy: &mut Vec<f32>) -> u64 {
        let _copying = self.copying.read().unpoisoned();
        let read = self.parameters.latest_values();
        copy.clear();
        copy.extend_from_slice(&read);
        read.version()
    }

    /// Claims a range of the next version, when nobody copies what that is written over.
    pub(crate) fn claim(&self, version: u64, range: Range<usize>) -> Result<RangeGuard<'_>> {
        let _none_copies = (self.iteration.staleness.is_asynchronous()).then(|| self.copying.write().unpoisoned());
        self.parameters.claim(version, range)
    }

    /// A step's version is complete: wakes the owners of this process that may wait for that alone, since what the next
    /// step needs may have come before it.
    pub(crate) fn completed(&self, step: u64) {
        let may_be_early = self.team.ranks() > 1 || self.iteration.staleness != Staleness::Synchronous;
        if may_be_early || step + 1 == self.iteration.last_step() {
            self.wake();
        }
    }

    /// Whether this process tells others which version it has come to.
    pub(crate) fn attends(&self) -> bool {
        self.attending.contains(&self.team.rank)
    }

    /// Notes a step's report; the driver passes it on when the step is applied everywhere here.
    pub(crate) fn report(&self, report: StepReport) {
        let mut reports = self.reports.lock().unpoisoned();
        reports.waiting.push(report);
        if reports.sent.is_none_or(|sent| sent.elapsed() >= REPORT_DELAY) {
            reports.send();
        }
    }

    /// Takes no frame any more: from here on nothing changes. Returns reports that came too late for the driver.
    pub(crate) fn seal(&self) -> Vec<StepReport> {
        self.stop();
        *self.sealed.write().unpoisoned() = true;
        std::mem::take(&mut self.reports.lock().unpoisoned().waiting)
    }

    /// No worker will report any more.
    pub(crate) fn close_reports(&self) {
        let mut reports = self.reports.lock().unpoisoned();
        reports.send();
        reports.driver = None;
    }

    /// Whether the owner of this shard reports its steps.
    pub(crate) fn reports(&self, shard: usize) -> bool {
        // A shard without parameters has no owner; the last one always has some.
        shard + 1 == self.iteration.shards
    }

    /// The shards of which this process keeps a copy, for one of its workers.
    pub(crate) fn copied(&self, worker: usize) -> impl Iterator<Item = usize> + '_ {
        let workers = self.team.workers(self.team.rank).len().max(1);
        let kept = self
            .copies
            .iter()
            .enumerate()
            .filter(|(_, keeper)| **keeper == Some(self.team.rank));
        kept.map(|(shard, _)| shard)
            .filter(move |shard| shard % workers == worker)
    }

    fn wait(&self, done: impl Fn(&Arrived) -> bool) -> bool {
        let mut arrived = self.arrived.lock().unpoisoned();
        while !done(&arrived) {
            if self.ended() {
                return false;
            }
            arrived = self.changed.wait(arrived).unpoisoned();
        }
        true
    }
}

impl Reports {
    fn send(&mut self) {
        self.sent = Some(Instant::now());
        if let (Some(driver), false) = (&self.driver, self.waiting.is_empty()) {
            // The driver may have given up; then nobody wants the reports.
            let _ = driver.send(std::mem::take(&mut self.waiting));
        }
    }
}
