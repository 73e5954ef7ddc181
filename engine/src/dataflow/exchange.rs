//! The parameter exchange: what the workers of one process share while an iteration runs, and what they push to and
//! pull from other processes.
//!
//! Each process sums the updates of its lanes as far as the tree over lanes allows, and pushes to each other process
//! the part that belongs to the shards there. An owner finishes the tree, applies the sum, and sends the new range of
//! the parameters once to each process, whose threads all read it in place. A range comes in straight from the socket
//! into the version that is being made; an update comes into a buffer that is used again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use timely::dataflow::scope::Scope;
use timely::scheduling::activate::SyncActivator;

use crate::cluster::link::Body;
use crate::cluster::member::{Faults, Receive};
use crate::cluster::protocol::LoopState;
use crate::cluster::shared_memory::{Piece, Region, RegionName, View};
use crate::cluster::wire::{Header, Kind, WireError};
use crate::dataflow::team::Team;
use crate::dataflow::vector::Vector;
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

/// What only a process of a cluster has.
#[derive(Default)]
pub struct Setting {
    /// For each shard, the rank that keeps its optimizer state as well.
    pub copies: Vec<Option<usize>>,
    /// Faults that are planned.
    pub faults: Option<Faults>,
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
    /// For each shard, the rank that keeps its optimizer state as well.
    copies: Vec<Option<usize>>,
    /// Nodes of the tree that come from other processes, with the rank that sends each.
    expected: BTreeMap<usize, (Range<usize>, usize)>,
    sharing: Option<Sharing>,
    faults: Option<Faults>,
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

/// What has come from other processes.
#[derive(Default)]
struct Arrived {
    /// For each step, by the first lane of the node.
    updates: BTreeMap<u64, BTreeMap<usize, Arc<Partial>>>,
    /// Buffers that have served.
    spare: Vec<Vec<f32>>,
    /// For each step, the sums over shards of which this process keeps a copy, with their reports.
    sums: BTreeMap<u64, BTreeMap<usize, (Tallies, Vec<f32>)>>,
    /// The version that was to be given to this process, once it is here.
    given: Option<u64>,
    /// States that have been given to this process: (version, shard, slot).
    states: BTreeSet<(u64, usize, usize)>,
}

/// The sum over some lanes, for the shards of this process.
pub struct Partial {
    /// Which lanes.
    pub lanes: Range<usize>,
    /// Their tallies, summed.
    pub tallies: Tallies,
    values: Values,
}

enum Values {
    /// Over the ranges of this process's shards, one after the other.
    Packed(Vec<f32>),
    /// A vector over all parameters, which begins here in the memory of the process that wrote it.
    InPlace(Arc<View>, usize),
}

impl Partial {
    /// The values of a shard of this process: `range` of the parameters, which begins at `offset` among its shards.
    pub fn of(&self, range: &Range<usize>, offset: usize) -> &[f32] {
        match &self.values {
            Values::Packed(values) => &values[offset..offset + range.len()],
            // That the whole vector lies in the view was checked when it came.
            Values::InPlace(view, start) => view.read(start + range.start..start + range.end).unwrap_or_default(),
        }
    }
}

/// The memory that this process shares with others of its host while a loop runs.
struct Sharing {
    region: Arc<Region>,
    /// Vectors for lanes, until they are taken.
    vectors: Mutex<HashMap<usize, Piece>>,
    /// Sums over several lanes of this process, by the first one; parts for one owner after the other are written.
    sums: Mutex<HashMap<usize, Piece>>,
    /// New values of this process's shards, of even and of odd versions: while a version is read, the next is written.
    outboxes: [Mutex<HashMap<usize, Piece>>; 2],
    /// Ranks that read this process's memory in place.
    readers: Vec<AtomicBool>,
    /// The memory of other ranks.
    views: Mutex<HashMap<usize, Arc<View>>>,
}

impl Sharing {
    /// Memory for these lanes and sums, each as long as the parameters, and these shards.
    fn new(
        ranks: usize,
        length: usize,
        lanes: &[usize],
        nodes: &[Range<usize>],
        shards: &BTreeMap<usize, Range<usize>>,
    ) -> Option<Self> {
        let several = nodes.iter().filter(|node| node.len() > 1).map(|node| node.start);
        let vectors = lanes.iter().copied().chain(several.clone()).map(|_| length);
        let outboxes = shards.values().map(ExactSizeIterator::len);
        let lengths: Vec<usize> = vectors.chain(outboxes.clone()).chain(outboxes).collect();
        let created = Region::create(&lengths);
        let created = created.inspect_err(|error| tracing::debug!("no memory to share: {error}"));
        let (region, pieces) = created.ok()?;
        let mut pieces = pieces.into_iter();
        let vectors = lanes.iter().copied().zip(pieces.by_ref()).collect();
        let sums = several.zip(pieces.by_ref()).collect();
        let even = shards.keys().copied().zip(pieces.by_ref()).collect();
        let odd = shards.keys().copied().zip(pieces).collect();
        Some(Self {
            region,
            vectors: Mutex::new(vectors),
            sums: Mutex::new(sums),
            outboxes: [Mutex::new(even), Mutex::new(odd)],
            readers: (0..ranks).map(|_| AtomicBool::new(false)).collect(),
            views: Mutex::default(),
        })
    }
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
        setting: Setting,
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
        let lanes: Vec<usize> = lanes;
        let sharing = match team.ranks() {
            1 => None,
            ranks => {
                let nodes = tree::cover(0..iteration.lanes, &hosted(team.rank));
                Sharing::new(ranks, parameters.len(), &lanes, &nodes, &own)
            }
        };
        Self {
            sharing,
            lanes,
            targets,
            owners,
            own,
            copies: if iteration.state_slots > 0 {
                setting.copies
            } else {
                Vec::new()
            },
            expected,
            iteration,
            placement,
            team,
            parameters,
            makers,
            faults: setting.faults,
            cancelled: AtomicBool::new(false),
            failure: Mutex::new(None),
            operators: Mutex::default(),
            transferring: Mutex::new(()),
            sealed: RwLock::new(false),
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

    /// Writes a sum over several lanes of this process, as far as an owner needs it, where that one reads it in place.
    /// Says where the vector begins that it is a part of.
    pub fn sum_in_place(
        &self,
        owner: &Owner,
        lanes: &Range<usize>,
        sum: &mut dyn FnMut(&Range<usize>, &mut [f32]),
    ) -> Option<usize> {
        if !self.shares_with(owner.rank) {
            return None;
        }
        let mut sums = lock(&self.sharing.as_ref()?.sums);
        let piece = sums.get_mut(&lanes.start)?;
        for range in &owner.ranges {
            sum(range, &mut piece[range.clone()]);
        }
        Some(piece.start())
    }

    /// Tells the owner of other shards where an update of this process lies.
    pub fn push_in_place(&self, owner: &Owner, step: u64, lanes: &Range<usize>, tallies: Tallies, start: usize) {
        let words = [step, lanes.start as u64, lanes.len() as u64, 1, start as u64, 0];
        let mut header = Header::new(Kind::Update, words);
        header.tallies = tallies.0;
        self.team.send(owner.rank, header, &[]);
    }

    /// Sends the new values of a shard to all other processes; to the one that keeps a copy of its state the sum that
    /// they were made with.
    pub fn publish(&self, report: &StepReport, shard: usize, sum: &[f32], values: &[f32]) {
        let version = report.step + 1;
        let start = self.put_out(version, shard, values);
        let keeper = self.copies.get(shard).copied().flatten();
        if let Some(rank) = keeper {
            // First: if this process dies now, nobody is further than the one that can stand in for it.
            let mut header = Header::new(Kind::Sum, [report.step, shard as u64, 0, 0, 0, 0]);
            header.tallies = report.tallies.0;
            self.team.send(rank, header, &[bytemuck::cast_slice(sum)]);
        }
        for rank in self.team.others().filter(|rank| Some(*rank) != keeper) {
            let in_place = start.filter(|_| self.shares_with(rank) && self.keeps_up(rank));
            let words = [
                version,
                shard as u64,
                u64::from(in_place.is_some()),
                in_place.unwrap_or(0) as u64,
                0,
                0,
            ];
            let mut header = Header::new(Kind::Shard, words);
            header.tallies = report.tallies.0;
            let payload: &[&[u8]] = if in_place.is_some() {
                &[]
            } else {
                &[bytemuck::cast_slice(values)]
            };
            self.team.send(rank, header, payload);
        }
    }

    /// Writes a shard's new values where others read them in place.
    fn put_out(&self, version: u64, shard: usize, values: &[f32]) -> Option<usize> {
        let sharing = self.sharing.as_ref()?;
        self.team
            .others()
            .find(|rank| self.shares_with(*rank) && self.keeps_up(*rank))?;
        let mut outbox = lock(&sharing.outboxes[(version % 2) as usize]);
        let piece = outbox.get_mut(&shard)?;
        piece.copy_from_slice(values);
        Some(piece.start())
    }

    /// Whether a rank reads this process's memory in place.
    pub fn shares_with(&self, rank: usize) -> bool {
        let readers = self.sharing.as_ref().and_then(|sharing| sharing.readers.get(rank));
        readers.is_some_and(|reads| reads.load(Ordering::Acquire))
    }

    /// Whether a rank cannot fall behind by more than a version: the others wait for its lanes or shards.
    fn keeps_up(&self, rank: usize) -> bool {
        let workers = self.team.workers(rank);
        let hosts = self.placement.lanes.iter().any(|worker| workers.contains(worker));
        hosts || self.owners.iter().any(|owner| owner.rank == rank)
    }

    /// A vector for a lane that others can read in place.
    pub fn vector(&self, lane: usize) -> Option<Vector> {
        let sharing = self.sharing.as_ref()?;
        lock(&sharing.vectors).remove(&lane).map(Vector::Shared)
    }

    /// Tells the other processes where this one's memory is.
    pub fn share(&self) {
        if let Some(sharing) = &self.sharing {
            let name = sharing.region.name();
            let words = [
                u64::from(name.process),
                u64::from(name.descriptor),
                name.floats,
                0,
                0,
                0,
            ];
            self.team.tell_all(&Header::new(Kind::Share, words));
        }
    }

    /// Looks for the memory of another process: it is there if that is on the same host.
    fn take_share(&self, rank: usize, header: &Header) {
        let [process, descriptor, floats, ..] = header.words;
        let name = RegionName {
            process: process as u32,
            descriptor: descriptor as u32,
            floats,
        };
        let (Some(sharing), Ok(view)) = (&self.sharing, View::open(&name)) else {
            return;
        };
        lock(&sharing.views).insert(rank, Arc::new(view));
        self.team.send(rank, Header::new(Kind::Shared, [0; 6]), &[]);
    }

    fn take_shared(&self, rank: usize) {
        if let Some(reads) = self.sharing.as_ref().and_then(|sharing| sharing.readers.get(rank)) {
            reads.store(true, Ordering::Release);
        }
    }

    /// The memory of another process, if it has the numbers in `range`.
    fn view(&self, rank: usize, range: Range<usize>) -> Option<Arc<View>> {
        let view = lock(&self.sharing.as_ref()?.views).get(&rank).cloned()?;
        view.read(range).is_some().then_some(view)
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
        let partials = updates.into_values().filter_map(Arc::into_inner);
        arrived
            .spare
            .extend(partials.filter_map(|partial| match partial.values {
                Values::Packed(values) => Some(values),
                Values::InPlace(..) => None,
            }));
    }

    /// Notes a step's report; the driver passes it on when the step is applied everywhere here.
    pub fn report(&self, report: StepReport) {
        let mut reports = lock(&self.reports);
        reports.waiting.push(report);
        if reports.sent.elapsed() >= REPORT_DELAY {
            reports.send();
        }
    }

    /// Takes no frame any more: from here on nothing changes. Returns reports that came too late for the driver.
    pub fn seal(&self) -> Vec<StepReport> {
        self.stop();
        *self.sealed.write().unwrap_or_else(PoisonError::into_inner) = true;
        std::mem::take(&mut lock(&self.reports).waiting)
    }

    /// No worker will report any more.
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

    /// The shards of which this process keeps a copy, for one of its workers.
    pub fn copied(&self, worker: usize) -> impl Iterator<Item = usize> + '_ {
        let workers = self.team.workers(self.team.rank).len().max(1);
        let kept = self
            .copies
            .iter()
            .enumerate()
            .filter(|(_, keeper)| **keeper == Some(self.team.rank));
        kept.map(|(shard, _)| shard)
            .filter(move |shard| shard % workers == worker)
    }

    /// The sum over a shard's updates of a step, from its owner.
    pub fn take_sum(&self, step: u64, shard: usize) -> Option<(Tallies, Vec<f32>)> {
        let mut arrived = lock(&self.arrived);
        let sum = arrived.sums.get_mut(&step)?.remove(&shard)?;
        arrived.sums.retain(|kept, _| *kept >= step);
        Some(sum)
    }

    /// Takes a buffer back.
    pub fn give_back(&self, buffer: Vec<f32>) {
        lock(&self.arrived).spare.push(buffer);
    }

    /// What is known of the state of each shard in this process.
    pub fn state(parameters: &Parameters, iteration: &Iteration) -> LoopState {
        let mut shards = Vec::new();
        if iteration.state_slots > 0 {
            shards.extend(iteration.shards_held(parameters.len()).map(|shard| {
                let range = iteration.shard_range(shard, parameters.len());
                (shard as u32, parameters.state_versions(&range))
            }));
        }
        LoopState {
            versions: parameters.versions().collect(),
            shards,
        }
    }

    /// The shards whose state a rank is to have: those that it owns and those of which it keeps a copy.
    fn kept_by(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        let held = self.iteration.shards_held(self.parameters.len());
        held.filter(move |shard| {
            self.iteration.state_slots > 0
                && (self.team.rank_of(self.placement.shards[*shard]) == rank
                    || self.copies.get(*shard) == Some(&Some(rank)))
        })
    }

    /// The shards whose state is to be brought to a rank, and the rank that gives each: the lowest one that has it.
    fn transfers(&self, version: u64, states: &[LoopState], rank: usize) -> Vec<(usize, Option<usize>)> {
        let has = |rank: usize, shard: usize| {
            let known = states
                .get(rank)
                .and_then(|state| state.shards.iter().find(|(known, _)| *known as usize == shard));
            known.is_some_and(|(_, versions)| versions.contains(&version))
        };
        let lacking = self.kept_by(rank).filter(|shard| !has(rank, *shard));
        lacking
            .map(|shard| (shard, (0..states.len()).find(|giver| has(*giver, shard))))
            .collect()
    }

    /// Gives the state of shards to the processes that are to keep it and do not have it.
    pub fn give_states(&self, version: u64, states: &[LoopState]) {
        for rank in self.team.others() {
            for (shard, giver) in self.transfers(version, states, rank) {
                if giver == Some(self.team.rank) {
                    self.give_state(rank, version, shard);
                }
            }
        }
    }

    fn give_state(&self, rank: usize, version: u64, shard: usize) {
        let range = self.iteration.shard_range(shard, self.parameters.len());
        for slot in 0..self.iteration.state_slots {
            let state = {
                let _transferring = lock(&self.transferring);
                let values = self.parameters.read(version);
                let state = values.as_ref().ok().and_then(|values| values.state(slot));
                state.map(|state| state[range.clone()].to_vec())
            };
            let header = Header::new(Kind::State, [version, shard as u64, slot as u64 + 1, 0, 0, 0]);
            if let Some(state) = state {
                self.team.send(rank, header, &[bytemuck::cast_slice(&state)]);
            }
        }
    }

    /// When all steps are finished: brings the state of every shard to every process, so that between two iterations
    /// each of them has all there is to go on from. False if the iteration ended before.
    pub fn spread_states(&self) -> bool {
        let last = self.iteration.last_step();
        if self.iteration.state_slots == 0 || !self.is_finished() {
            return self.is_finished();
        }
        for rank in self.team.others() {
            self.own.keys().for_each(|shard| self.give_state(rank, last, *shard));
        }
        let others = self
            .iteration
            .shards_held(self.parameters.len())
            .filter(|shard| !self.own.contains_key(shard));
        let slots = 0..self.iteration.state_slots;
        let wanted = others.flat_map(|shard| slots.clone().map(move |slot| (last, shard, slot)));
        let wanted: BTreeSet<(u64, usize, usize)> = wanted.collect();
        self.wait(|arrived| wanted.is_subset(&arrived.states))
    }

    /// Gives the parameters of a version to a process that lacks it, with the reports of the steps before it.
    pub fn give(&self, rank: usize, version: u64, reports: &[StepReport]) {
        let values = {
            let _transferring = lock(&self.transferring);
            self.parameters.read(version).map(|values| values.to_vec())
        };
        let Ok(values) = values else { return };
        for report in reports {
            let mut header = Header::new(Kind::Report, [report.step, 0, 0, 0, 0, 0]);
            header.tallies = report.tallies.0;
            self.team.send(rank, header, &[]);
        }
        let header = Header::new(Kind::State, [version, 0, 0, 0, 0, 0]);
        self.team.send(rank, header, &[bytemuck::cast_slice(&values)]);
    }

    /// Waits until this process has the parameters of a version. False if the iteration ended before.
    pub fn wait_for_parameters(&self, version: u64, states: &[LoopState]) -> bool {
        let has = |state: &LoopState| state.versions.contains(&version);
        let has = states.get(self.team.rank).is_some_and(has);
        self.wait(|arrived| has || arrived.given == Some(version))
    }

    /// Waits until this process has the state of the shards that it is to keep. False if the iteration ended before.
    pub fn wait_for_states(&self, version: u64, states: &[LoopState]) -> bool {
        let shards = self.transfers(version, states, self.team.rank);
        if let Some((shard, _)) = shards.iter().find(|(_, giver)| giver.is_none()) {
            self.fail(lost_state(version, *shard));
            return false;
        }
        let slots = 0..self.iteration.state_slots;
        let wanted = shards
            .iter()
            .flat_map(|(shard, _)| slots.clone().map(move |slot| (version, *shard, slot)));
        let wanted: BTreeSet<(u64, usize, usize)> = wanted.collect();
        self.wait(|arrived| wanted.is_subset(&arrived.states))
    }

    fn wait(&self, done: impl Fn(&Arrived) -> bool) -> bool {
        let mut arrived = lock(&self.arrived);
        while !done(&arrived) {
            if self.ended() {
                return false;
            }
            arrived = self.changed.wait(arrived).unwrap_or_else(PoisonError::into_inner);
        }
        true
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
        let values = match header.words[3] {
            0 => {
                let length = self.own.values().map(ExactSizeIterator::len).sum();
                let mut values = lock(&self.arrived).spare.pop().unwrap_or_default();
                values.resize(length, 0.0);
                body.into_floats(&mut values)?;
                Values::Packed(values)
            }
            _ => {
                let at = header.words[4] as usize;
                let view = self.view(rank, at..at.saturating_add(self.parameters.len()));
                Values::InPlace(view.ok_or(WireError::NoFrame)?, at)
            }
        };
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
        match header.words[2] {
            0 => body.into_floats(claimed.after())?,
            _ => {
                let at = header.words[3] as usize;
                let range = at..at.saturating_add(claimed.after().len());
                let view = self.view(rank, range.clone()).ok_or(WireError::NoFrame)?;
                claimed.after().copy_from_slice(view.read(range).unwrap_or_default());
            }
        }
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

    /// The sum over a shard of which this process keeps a copy.
    fn take_copy(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        let [step, shard, ..] = header.words;
        let shard = shard as usize;
        let owned = self
            .placement
            .shards
            .get(shard)
            .is_some_and(|worker| self.team.rank_of(*worker) == rank);
        let steps = self.parameters.version()..self.iteration.last_step();
        if !owned || self.copies.get(shard) != Some(&Some(self.team.rank)) || !steps.contains(&step) {
            return Ok(());
        }
        let range = self.iteration.shard_range(shard, self.parameters.len());
        let mut values = lock(&self.arrived).spare.pop().unwrap_or_default();
        values.resize(range.len(), 0.0);
        body.into_floats(&mut values)?;
        let sum = (Tallies(header.tallies), values);
        lock(&self.arrived)
            .sums
            .entry(step)
            .or_default()
            .entry(shard)
            .or_insert(sum);
        self.wake();
        Ok(())
    }

    /// The state of a shard that this process is to keep from now on.
    fn take_shard_state(&self, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        let [version, shard, slot, ..] = header.words;
        let (shard, slot) = (shard as usize, slot as usize - 1);
        if shard >= self.iteration.shards || slot >= self.iteration.state_slots {
            return Err(WireError::NoFrame);
        }
        let range = self.iteration.shard_range(shard, self.parameters.len());
        let mut values = vec![0.0; range.len()];
        body.into_floats(&mut values)?;
        let mut arrived = lock(&self.arrived);
        // The parameters may come from another process, later.
        while self.parameters.version() != version && !self.ended() {
            arrived = self.changed.wait(arrived).unwrap_or_else(PoisonError::into_inner);
        }
        drop(arrived);
        if self.ended() {
            return Ok(());
        }
        let installed = {
            let _transferring = lock(&self.transferring);
            self.parameters.install_state(version, slot, range.start, &values)
        };
        match installed {
            Ok(()) => drop(lock(&self.arrived).states.insert((version, shard, slot))),
            Err(error) => self.fail(error),
        }
        self.changed.notify_all();
        Ok(())
    }

    /// All parameters, for a process that has just come.
    fn take_state(&self, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        if header.words[2] > 0 {
            return self.take_shard_state(header, body);
        }
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

fn lost_state(version: u64, shard: usize) -> EngineError {
    EngineError::invalid(
        format!("the optimizer's state of shard {shard} at version {version} was lost with the processes that kept it"),
        "keep two copies (`--parameter-copies 2`), or start again: a training with checkpoints goes on from the last one",
    )
}

impl Receive for Exchange {
    fn receive(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        let sealed = self.sealed.read().unwrap_or_else(PoisonError::into_inner);
        if *sealed {
            return Ok(());
        }
        match header.kind {
            Kind::Update => self.take_update(rank, header, body),
            Kind::Shard => self.take_shard(rank, header, body),
            Kind::State => self.take_state(header, body),
            Kind::Share => {
                self.take_share(rank, header);
                Ok(())
            }
            Kind::Shared => {
                self.take_shared(rank);
                Ok(())
            }
            Kind::Sum => self.take_copy(rank, header, body),
            Kind::Report => {
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
        if let (Some(driver), false) = (&self.driver, self.waiting.is_empty()) {
            // The driver may have given up; then nobody wants the reports.
            let _ = driver.send(std::mem::take(&mut self.waiting));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
