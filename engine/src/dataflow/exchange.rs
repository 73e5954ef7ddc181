//! The parameter exchange: what the workers of one process share while an iteration runs, and what they push to and
//! pull from other processes.
//!
//! Each process sums the updates of its lanes as far as the tree over lanes allows, and pushes to each other process
//! the part that belongs to the shards there. An owner finishes the tree, applies the sum, and sends the new range of
//! the parameters once to each process, whose threads all read it in place. A range comes in straight from the socket
//! into the version that is being made; an update comes into a buffer that is used again.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use timely::dataflow::scope::Scope;
use timely::scheduling::activate::SyncActivator;

use crate::cluster::link::Body;
use crate::cluster::member::{Faults, Receive};
use crate::cluster::protocol::LoopState;
use crate::cluster::wire::{Header, Kind, WireError};
use crate::dataflow::team::Team;
use crate::error::{EngineError, Result, panic_text};
use crate::iteration::{Iteration, Lane, Placement, ShardUpdate, StepReport, Tallies};
use crate::parameters::Parameters;
use crate::tree;

/// Makes the lane with an index, on the worker that hosts it.
pub type MakeLane = Arc<dyn Fn(usize) -> Result<Box<dyn Lane>> + Send + Sync>;
/// Makes the update of the shard with an index, on the worker that owns it.
pub type MakeShard = Arc<dyn Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync>;

/// The user's side of an iteration.
#[derive(Clone)]
pub struct Makers {
    /// Of lanes.
    pub lane: MakeLane,
    /// Of shard updates.
    pub shard: MakeShard,
}

/// A process that others of a team push to.
#[derive(Debug, Clone)]
pub struct Owner {
    /// Its rank.
    pub rank: usize,
    /// The worker of this process that sends to it.
    pub courier: usize,
    /// The ranges of its shards, ascending: what an update for it consists of.
    pub ranges: Vec<Range<usize>>,
}

/// What the workers of a process share while they run one iteration.
pub struct Exchange {
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
    /// Nodes of the tree that come from other processes, with the rank that sends each.
    expected: BTreeMap<usize, (Range<usize>, usize)>,
    faults: Option<Faults>,
    cancelled: AtomicBool,
    failure: Mutex<Option<EngineError>>,
    operators: Mutex<Vec<SyncActivator>>,
    arrived: Mutex<Arrived>,
    changed: Condvar,
    reports: Mutex<Reports>,
}

/// What has come from other processes.
#[derive(Default)]
struct Arrived {
    /// For each step, by the first lane of the node.
    updates: BTreeMap<u64, BTreeMap<usize, Arc<Partial>>>,
    /// Buffers that have served.
    spare: Vec<Vec<f32>>,
    /// The version that was to be given to this process, once it is here.
    given: Option<u64>,
}

/// The sum over some lanes, for the shards of this process.
pub struct Partial {
    /// Which lanes.
    pub lanes: Range<usize>,
    /// Their tallies, summed.
    pub tallies: Tallies,
    /// Over the ranges of this process's shards, one after the other.
    pub values: Vec<f32>,
}

/// Reports on their way to the driver, some at a time: waking it takes a core from a worker.
struct Reports {
    waiting: Vec<StepReport>,
    sent: Instant,
    driver: Option<Sender<Vec<StepReport>>>,
}

/// How long a report may wait for others while there are steps to come.
pub const REPORT_DELAY: Duration = Duration::from_millis(5);

impl Exchange {
    /// Of the process that `team` says, for an iteration whose reports go to `reports`.
    pub fn new(
        iteration: Iteration,
        placement: Placement,
        team: Team,
        parameters: Arc<Parameters>,
        makers: Makers,
        faults: Option<Faults>,
        reports: Sender<Vec<StepReport>>,
    ) -> Self {
        let ranges = |rank: usize| {
            let held = iteration.shards_held(parameters.len());
            let held = held.filter(|shard| team.rank_of(placement.shards[*shard]) == rank);
            let ranges = held.map(|shard| (shard, iteration.shard_range(shard, parameters.len())));
            ranges.collect::<BTreeMap<usize, Range<usize>>>()
        };
        let own = ranges(team.rank);
        let others = (0..team.ranks()).filter(|rank| *rank != team.rank);
        let workers = team.workers(team.rank);
        let owners: Vec<Owner> = others
            .clone()
            .map(|rank| Owner {
                rank,
                courier: rank % workers.len().max(1),
                ranges: ranges(rank).into_values().collect(),
            })
            .filter(|owner| !owner.ranges.is_empty())
            .collect();
        let hosted = |rank: usize| {
            let placement = &placement;
            let team = &team;
            move |lane: usize| team.rank_of(placement.lanes[lane]) == rank
        };
        let lanes = (0..iteration.lanes).filter(|lane| hosted(team.rank)(*lane)).collect();
        let mut expected = BTreeMap::new();
        for rank in others.filter(|_| !own.is_empty()) {
            for node in tree::cover(0..iteration.lanes, &hosted(rank)) {
                expected.insert(node.start, (node, rank));
            }
        }
        let held = own.keys().map(|shard| placement.shards[*shard] - workers.start);
        let mut targets: Vec<usize> = held.chain(owners.iter().map(|owner| owner.courier)).collect();
        targets.sort_unstable();
        targets.dedup();
        Self {
            lanes,
            targets,
            owners,
            own,
            expected,
            iteration,
            placement,
            team,
            parameters,
            makers,
            faults,
            cancelled: AtomicBool::new(false),
            failure: Mutex::new(None),
            operators: Mutex::default(),
            arrived: Mutex::default(),
            changed: Condvar::new(),
            reports: Mutex::new(Reports {
                waiting: Vec::new(),
                sent: Instant::now(),
                driver: Some(reports),
            }),
        }
    }

    /// Ends the iteration with an error; the first one counts.
    pub fn fail(&self, error: EngineError) {
        lock(&self.failure).get_or_insert(error);
        self.stop();
    }

    /// The error that the iteration ended with, once.
    pub fn take_failure(&self) -> Option<EngineError> {
        lock(&self.failure).take()
    }

    /// Ends the iteration where it is. In a loop nobody's frontier moves until everybody lets go, so all operators of
    /// all workers are woken to look.
    pub fn stop(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Whether it has failed or was stopped.
    pub fn ended(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether all steps are finished here.
    pub fn is_finished(&self) -> bool {
        self.parameters.version() == self.iteration.last_step()
    }

    /// Has an operator woken when something has come from elsewhere. It must be scheduled at least once after this.
    pub fn enlist(&self, scope: Scope<'_, u64>, address: &[usize]) {
        lock(&self.operators).push(scope.worker().sync_activator_for(address.to_vec()));
    }

    /// Wakes all that wait.
    pub fn wake(&self) {
        for operator in &*lock(&self.operators) {
            // An operator whose worker is gone needs no waking.
            let _ = operator.activate();
        }
        drop(lock(&self.arrived));
        self.changed.notify_all();
    }

    /// Runs user code: an error or a panic in it ends the iteration.
    pub fn guarded<R>(&self, what: &str, index: usize, work: impl FnOnce() -> Result<R>) -> Option<R> {
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
    pub fn begin_step(&self, step: u64) {
        if let Some(faults) = &self.faults {
            faults.begin_step(step);
        }
    }

    /// A step's version is complete: wakes the owners of this process that wait for it.
    pub fn completed(&self, step: u64) {
        if self.team.ranks() > 1 || step + 1 == self.iteration.last_step() {
            self.wake();
        }
    }

    /// Pushes the sum over a node of this process's lanes to the owner of other shards.
    pub fn push(&self, owner: &Owner, step: u64, lanes: &Range<usize>, tallies: Tallies, values: &[&[f32]]) {
        let words = [step, lanes.start as u64, lanes.len() as u64, 0, 0, 0];
        let mut header = Header::new(Kind::Update, words);
        header.tallies = tallies.0;
        let payload: Vec<&[u8]> = values.iter().map(|values| bytemuck::cast_slice(values)).collect();
        self.team.send(owner.rank, header, &payload);
    }

    /// Sends the new values of a shard to all other processes.
    pub fn publish(&self, report: &StepReport, shard: usize, values: &[f32]) {
        let mut header = Header::new(Kind::Shard, [report.step + 1, shard as u64, 0, 0, 0, 0]);
        header.tallies = report.tallies.0;
        for rank in self.team.others() {
            self.team.send(rank, header.clone(), &[bytemuck::cast_slice(values)]);
        }
    }

    /// The updates of a step from other processes, once all are here. The caller gives them back.
    pub fn remote(&self, step: u64) -> Option<Vec<Arc<Partial>>> {
        if self.expected.is_empty() {
            return Some(Vec::new());
        }
        let arrived = lock(&self.arrived);
        let updates = arrived.updates.get(&step)?;
        (updates.len() == self.expected.len()).then(|| updates.values().cloned().collect())
    }

    /// Takes the updates of a step back, when all workers of this process have used them.
    pub fn release(&self, step: u64) {
        if self.expected.is_empty() {
            return;
        }
        let mut arrived = lock(&self.arrived);
        let Some(updates) = arrived.updates.remove(&step) else {
            return;
        };
        let buffers = updates
            .into_values()
            .filter_map(Arc::into_inner)
            .map(|partial| partial.values);
        arrived.spare.extend(buffers);
    }

    /// Notes a step's report; the driver passes it on when the step is applied everywhere here.
    pub fn report(&self, report: StepReport) {
        let mut reports = lock(&self.reports);
        reports.waiting.push(report);
        if reports.sent.elapsed() >= REPORT_DELAY {
            reports.send();
        }
    }

    /// No report will come any more.
    pub fn close_reports(&self) {
        let mut reports = lock(&self.reports);
        reports.send();
        reports.driver = None;
    }

    /// Whether the owner of this shard reports its steps.
    pub fn reports(&self, shard: usize) -> bool {
        // A shard without parameters has no owner; the last one always has some.
        shard + 1 == self.iteration.shards
    }

    /// What this process could go on from.
    pub fn state(&self) -> LoopState {
        LoopState {
            versions: self.parameters.versions().collect(),
            shards: Vec::new(),
        }
    }

    /// Gives the parameters of a version to a process that lacks it, with the reports of the steps before it.
    pub fn give(&self, rank: usize, version: u64, reports: &[StepReport]) {
        let Ok(values) = self.parameters.read(version) else {
            return;
        };
        for report in reports {
            let mut header = Header::new(Kind::Sum, [report.step, 0, 0, 0, 0, 0]);
            header.tallies = report.tallies.0;
            self.team.send(rank, header, &[]);
        }
        let header = Header::new(Kind::State, [version, 0, 0, 0, 0, 0]);
        self.team.send(rank, header, &[bytemuck::cast_slice(&values)]);
    }

    /// Waits until this process has been given a version. False if the iteration ended before.
    pub fn wait_for(&self, version: u64) -> bool {
        let mut arrived = lock(&self.arrived);
        while arrived.given != Some(version) && !self.ended() {
            arrived = self.changed.wait(arrived).unwrap_or_else(PoisonError::into_inner);
        }
        arrived.given == Some(version)
    }

    /// An update for this process's shards.
    fn take_update(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        let [step, start, length, ..] = header.words;
        let (start, length) = (start as usize, length as usize);
        let known = self.expected.get(&start);
        let steps = self.parameters.version()..self.iteration.last_step();
        if known.is_none_or(|(node, from)| node.len() != length || *from != rank) || !steps.contains(&step) {
            // A lane's second copy of a step that is over; or no part of this iteration.
            return Ok(());
        }
        let values_length = self.own.values().map(ExactSizeIterator::len).sum();
        let mut values = lock(&self.arrived).spare.pop().unwrap_or_default();
        values.resize(values_length, 0.0);
        body.into_floats(&mut values)?;
        let partial = Partial {
            lanes: start..start + length,
            tallies: Tallies(header.tallies),
            values,
        };
        let mut arrived = lock(&self.arrived);
        let updates = arrived.updates.entry(step).or_default();
        // A second copy of an update changes nothing.
        updates.entry(start).or_insert_with(|| Arc::new(partial));
        let complete = updates.len() == self.expected.len();
        drop(arrived);
        if complete {
            self.wake();
        }
        Ok(())
    }

    /// New values of another process's shard.
    fn take_shard(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        let [version, shard, ..] = header.words;
        let shard = shard as usize;
        let owned = self
            .placement
            .shards
            .get(shard)
            .is_some_and(|worker| self.team.rank_of(*worker) == rank);
        if !owned || !self.reached(version) {
            return Ok(());
        }
        let range = self.iteration.shard_range(shard, self.parameters.len());
        let Ok(mut claimed) = self.parameters.claim(version, range) else {
            // A second copy.
            return Ok(());
        };
        body.into_floats(claimed.after())?;
        if self.reports(shard) {
            self.report(StepReport {
                step: version - 1,
                tallies: Tallies(header.tallies),
            });
        }
        if claimed.finish() {
            self.wake();
        }
        Ok(())
    }

    /// Waits until a version can be written here: a process without lanes may be behind. False if it is too late, or the
    /// iteration is over.
    fn reached(&self, version: u64) -> bool {
        let mut arrived = lock(&self.arrived);
        while self.parameters.version() + 1 < version && !self.ended() {
            arrived = self.changed.wait(arrived).unwrap_or_else(PoisonError::into_inner);
        }
        self.parameters.version() + 1 == version && !self.ended()
    }

    /// All parameters, for a process that has just come.
    fn take_state(&self, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        let version = header.words[0];
        let Ok(mut whole) = self.parameters.install(version) else {
            return Ok(());
        };
        body.into_floats(whole.after())?;
        whole.finish();
        lock(&self.arrived).given = Some(version);
        self.changed.notify_all();
        Ok(())
    }
}

impl Receive for Exchange {
    fn receive(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        match header.kind {
            Kind::Update => self.take_update(rank, header, body),
            Kind::Shard => self.take_shard(rank, header, body),
            Kind::State => self.take_state(header, body),
            Kind::Sum => {
                self.report(StepReport {
                    step: header.words[0],
                    tallies: Tallies(header.tallies),
                });
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn cancel(&self) {
        self.stop();
    }
}

impl Reports {
    fn send(&mut self) {
        self.sent = Instant::now();
        let waiting = std::mem::take(&mut self.waiting);
        if let (Some(driver), false) = (&self.driver, waiting.is_empty()) {
            // The driver may have given up; then nobody wants the reports.
            let _ = driver.send(waiting);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
