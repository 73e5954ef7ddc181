//! A feedback loop with the step as timestamp: lanes compute updates, shard owners sum and apply them, and what they
//! have finished lets the lanes go on. No round trip to the driver.
//!
//! ```text
//!            +--> lanes (step t) --contributions, by owner--> apply (step t) --+
//!            |                                                                 |
//!            +---------------- feedback: shard s finished step t <-------------+
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLockReadGuard};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, ConnectLoop, Feedback};
use timely::dataflow::scope::Scope;
use timely::scheduling::activate::SyncActivator;
use timely::worker::Worker;

use crate::dataflow::workers::Workers;
use crate::error::{EngineError, Result, panic_text};
use crate::iteration::{Iteration, Lane, Parameters, Placement, ShardUpdate, StepReport, Tallies};
use crate::tree;

/// Makes the lane with an index, on the worker that hosts it.
pub type MakeLane = Arc<dyn Fn(usize) -> Result<Box<dyn Lane>> + Send + Sync>;
/// Makes the update of the shard with an index, on the worker that owns it.
pub type MakeShard = Arc<dyn Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync>;

/// One lane's update of one step, on its way to a shard's owner. Within a process all owners read the same vector.
#[derive(Serialize, Deserialize)]
struct Contribution {
    owner: u64,
    step: u64,
    lane: u64,
    tallies: Tallies,
    update: Arc<Vec<f32>>,
}

/// Tells a worker that a shard has finished a step.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Finished {
    worker: u64,
    shard: u64,
    step: u64,
}

/// What the workers share while they run one iteration.
struct Shared {
    iteration: Iteration,
    placement: Placement,
    parameters: Arc<Parameters>,
    make_lane: MakeLane,
    make_shard: MakeShard,
    cancelled: AtomicBool,
    failure: Mutex<Option<EngineError>>,
    operators: Mutex<Vec<SyncActivator>>,
}

impl Shared {
    /// Ends the iteration with an error; the first one counts. In a loop nobody's frontier moves until everybody lets
    /// go, so all operators of all workers are woken to look.
    fn fail(&self, error: EngineError) {
        lock(&self.failure).get_or_insert(error);
        self.cancelled.store(true, Ordering::SeqCst);
        for operator in &*lock(&self.operators) {
            // An operator whose worker is gone needs no waking.
            let _ = operator.activate();
        }
    }

    /// Has an operator woken when the iteration fails. It must be scheduled at least once after this.
    fn enlist(&self, scope: Scope<'_, u64>, address: &[usize]) {
        lock(&self.operators).push(scope.worker().sync_activator_for(address.to_vec()));
    }

    fn ended(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Runs user code: an error or a panic in it ends the iteration.
    fn guarded<R>(&self, what: &str, index: usize, work: impl FnOnce() -> Result<R>) -> Option<R> {
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
}

/// Runs an iteration on the workers; `observe` sees each step once all its updates are known, in order.
pub fn run(
    workers: &Workers,
    iteration: Iteration,
    parameters: Arc<Parameters>,
    make_lane: MakeLane,
    make_shard: MakeShard,
    observe: &mut dyn FnMut(&StepReport),
) -> Result<()> {
    let placement = iteration.placement(workers.count())?;
    let shared = Arc::new(Shared {
        iteration,
        placement,
        parameters,
        make_lane,
        make_shard,
        cancelled: AtomicBool::new(false),
        failure: Mutex::new(None),
        operators: Mutex::default(),
    });
    let (reports, received) = channel();
    let ended = start(workers, &shared, reports)?;
    for reports in received {
        reports.iter().for_each(&mut *observe);
    }
    let _ = ended.recv();
    workers.check()?;
    match lock(&shared.failure).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn start(workers: &Workers, shared: &Arc<Shared>, reports: Sender<Vec<StepReport>>) -> Result<Receiver<()>> {
    let shared = Arc::clone(shared);
    // One sender a worker and no other, so that the driver's receiver disconnects when the last worker is done.
    let senders = Mutex::new(vec![reports; workers.count()]);
    workers.run(Arc::new(move |worker| {
        if let Some(reports) = lock(&senders).pop() {
            build(worker, &shared, reports);
        }
    }))
}

fn build(worker: &mut Worker, shared: &Arc<Shared>, reports: Sender<Vec<StepReport>>) {
    let index = worker.index();
    worker.dataflow::<u64, _, _>(|scope| {
        let (handle, finished) = scope.feedback::<Vec<Finished>>(1);
        let contributions = lanes(scope, finished, Hosted::new(shared, index));
        apply(scope, contributions, Owned::new(shared, index, reports)).connect_loop(handle);
    });
}

/// The lanes of one worker.
struct Hosted {
    shared: Arc<Shared>,
    lanes: Vec<HostedLane>,
    /// The next step to compute.
    step: u64,
    /// How many shards have finished a step.
    finished: BTreeMap<u64, usize>,
}

struct HostedLane {
    index: usize,
    lane: Box<dyn Lane>,
    update: Arc<Vec<f32>>,
}

impl Hosted {
    fn new(shared: &Arc<Shared>, worker: usize) -> Self {
        let length = shared.parameters.len();
        let mut lanes = Vec::new();
        for index in shared.placement.lanes_of(worker) {
            if let Some(lane) = shared.guarded("lane", index, || (shared.make_lane)(index)) {
                lanes.push(HostedLane {
                    index,
                    lane,
                    update: Arc::new(vec![0.0; length]),
                });
            }
        }
        Self {
            shared: Arc::clone(shared),
            lanes,
            step: shared.iteration.first_step,
            finished: BTreeMap::new(),
        }
    }

    fn done(&self) -> bool {
        self.shared.ended() || self.lanes.is_empty() || self.step == self.shared.iteration.last_step()
    }

    /// Whether every shard has finished the step before.
    fn ready(&self) -> bool {
        let first = self.step == self.shared.iteration.first_step;
        first || self.finished.get(&(self.step - 1)) == Some(&self.shared.iteration.shards)
    }

    /// Computes the next step of every lane.
    fn compute(&mut self) -> Vec<Contribution> {
        let (shared, step) = (Arc::clone(&self.shared), self.step);
        self.finished.remove(&step.wrapping_sub(1));
        self.step += 1;
        let parameters = shared.parameters.read();
        let mut contributions = Vec::new();
        for hosted in &mut self.lanes {
            let Some(tallies) = hosted.compute(&shared, step, &parameters) else {
                break;
            };
            contributions.extend(shared.placement.owners().map(|owner| Contribution {
                owner: owner as u64,
                step,
                lane: hosted.index as u64,
                tallies,
                update: Arc::clone(&hosted.update),
            }));
        }
        contributions
    }
}

impl HostedLane {
    fn compute(&mut self, shared: &Shared, step: u64, parameters: &RwLockReadGuard<'_, Vec<f32>>) -> Option<Tallies> {
        if Arc::get_mut(&mut self.update).is_none() {
            // An owner still holds the vector of the step before: leave it that one.
            self.update = Arc::new(vec![0.0; parameters.len()]);
        }
        let update = Arc::get_mut(&mut self.update)?;
        shared.guarded("lane", self.index, || self.lane.step(step, parameters, update))
    }
}

fn lanes<'scope>(
    scope: Scope<'scope, u64>,
    finished: Stream<'scope, u64, Vec<Finished>>,
    mut hosted: Hosted,
) -> Stream<'scope, u64, Vec<Contribution>> {
    let mut builder = OperatorBuilder::new("iterate: lanes".to_owned(), scope);
    hosted.shared.enlist(scope, &builder.operator_info().address);
    let mut input = builder.new_input(finished, Exchange::new(|finished: &Finished| finished.worker));
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Contribution>>>::from(output);
    builder.build(move |capabilities| {
        let mut capability: Option<Capability<u64>> = capabilities.into_iter().next();
        if let Some(capability) = &mut capability {
            capability.downgrade(&hosted.step);
        }
        move |_| {
            input.for_each(|_, finished| {
                for Finished { step, .. } in finished.drain(..) {
                    *hosted.finished.entry(step).or_default() += 1;
                }
            });
            if hosted.done() {
                capability = None;
            }
            let Some(capability) = &mut capability else { return };
            if hosted.ready() {
                capability.downgrade(&hosted.step);
                let contributions = hosted.compute();
                output
                    .activate()
                    .session(&*capability)
                    .give_iterator(contributions.into_iter());
            }
        }
    });
    stream
}

/// The updates of one step that have come, by lane.
type Updates = BTreeMap<usize, (Tallies, Arc<Vec<f32>>)>;

/// The shards of one worker.
struct Owned {
    shared: Arc<Shared>,
    shards: Vec<OwnedShard>,
    /// What has come, by step.
    waiting: BTreeMap<u64, Updates>,
    reports: Reports,
}

/// Reports on their way to the driver, some at a time: waking it takes a core from a worker.
struct Reports {
    waiting: Vec<StepReport>,
    sent: Instant,
    driver: Option<Sender<Vec<StepReport>>>,
}

/// How long a report may wait for others while there are steps to come.
const REPORT_DELAY: Duration = Duration::from_millis(5);

impl Reports {
    fn new(driver: Sender<Vec<StepReport>>) -> Self {
        Self {
            waiting: Vec::new(),
            sent: Instant::now(),
            driver: Some(driver),
        }
    }

    fn push(&mut self, report: StepReport) {
        self.waiting.push(report);
        if self.sent.elapsed() >= REPORT_DELAY {
            self.send();
        }
    }

    fn send(&mut self) {
        self.sent = Instant::now();
        let waiting = std::mem::take(&mut self.waiting);
        if let (Some(driver), false) = (&self.driver, waiting.is_empty()) {
            // The driver may have given up; then nobody wants the reports.
            let _ = driver.send(waiting);
        }
    }

    fn finish(&mut self) {
        self.send();
        self.driver = None;
    }
}

struct OwnedShard {
    index: usize,
    update: Box<dyn ShardUpdate>,
    sum: Vec<f32>,
}

impl Owned {
    fn new(shared: &Arc<Shared>, worker: usize, reports: Sender<Vec<StepReport>>) -> Self {
        let mut shards = Vec::new();
        for index in shared.placement.shards_of(worker) {
            if let Some(update) = shared.guarded("shard", index, || (shared.make_shard)(index)) {
                let length = shared.iteration.shard_range(index, shared.parameters.len()).len();
                let sum = if shared.iteration.lanes > 1 {
                    vec![0.0; length]
                } else {
                    Vec::new()
                };
                shards.push(OwnedShard { index, update, sum });
            }
        }
        Self {
            shared: Arc::clone(shared),
            shards,
            waiting: BTreeMap::new(),
            reports: Reports::new(reports),
        }
    }

    fn receive(&mut self, contribution: Contribution) {
        let Contribution {
            step,
            lane,
            tallies,
            update,
            ..
        } = contribution;
        let (length, lanes) = (self.shared.parameters.len(), self.shared.iteration.lanes);
        if update.len() != length || lane as usize >= lanes {
            return self.shared.fail(EngineError::invalid(
                format!(
                    "lane {lane} of {lanes} pushed an update of {} values to {length} parameters",
                    update.len()
                ),
                "this is a bug of the exchange; report it",
            ));
        }
        // A second copy of an update changes nothing.
        self.waiting
            .entry(step)
            .or_default()
            .entry(lane as usize)
            .or_insert((tallies, update));
    }

    /// Applies the oldest step if all its updates are here. Returns it.
    fn apply(&mut self) -> Option<u64> {
        let lanes = self.shared.iteration.lanes;
        let entry = self.waiting.first_entry().filter(|entry| entry.get().len() == lanes)?;
        let (step, updates) = entry.remove_entry();
        let tallies = tree::fold(0..lanes, &mut |lane| updates[&lane].0, &mut Tallies::plus)?;
        let report = StepReport { step, tallies };
        let vectors: Vec<&[f32]> = updates.values().map(|(_, update)| update.as_slice()).collect();
        for shard in &mut self.shards {
            shard.apply(&self.shared, &report, &vectors)?;
        }
        if self.shards.first().is_some_and(|shard| shard.index == 0) {
            self.reports.push(report);
        }
        Some(step)
    }
}

impl OwnedShard {
    fn apply(&mut self, shared: &Shared, report: &StepReport, vectors: &[&[f32]]) -> Option<()> {
        let range = shared.iteration.shard_range(self.index, shared.parameters.len());
        let sum = match vectors {
            [only] => &only[range.clone()],
            _ => {
                tree::sum(vectors, range.clone(), &mut self.sum);
                &self.sum[..]
            }
        };
        let mut parameters = shared.parameters.write();
        let update = &mut self.update;
        shared.guarded("shard", self.index, || {
            update.apply(report, sum, &mut parameters[range])
        })
    }
}

fn apply<'scope>(
    scope: Scope<'scope, u64>,
    contributions: Stream<'scope, u64, Vec<Contribution>>,
    mut owned: Owned,
) -> Stream<'scope, u64, Vec<Finished>> {
    let mut builder = OperatorBuilder::new("iterate: apply".to_owned(), scope);
    owned.shared.enlist(scope, &builder.operator_info().address);
    let mut input = builder.new_input(
        contributions,
        Exchange::new(|contribution: &Contribution| contribution.owner),
    );
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Finished>>>::from(output);
    builder.build(move |_| {
        let mut capabilities: BTreeMap<u64, Capability<u64>> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|capability, contributions| {
                for contribution in contributions.drain(..) {
                    let step = contribution.step;
                    capabilities.entry(step).or_insert_with(|| capability.delayed(&step, 0));
                    owned.receive(contribution);
                }
            });
            while !owned.shared.ended()
                && let Some(step) = owned.apply()
            {
                let Some(capability) = capabilities.remove(&step) else {
                    continue;
                };
                let hosts: Vec<usize> = owned.shared.placement.hosts().collect();
                let finished = owned.shards.iter().flat_map(|shard| {
                    let shard = shard.index as u64;
                    hosts.iter().map(move |worker| Finished {
                        worker: *worker as u64,
                        shard,
                        step,
                    })
                });
                output.activate().session(&capability).give_iterator(finished);
            }
            if owned.shared.ended() || frontiers[0].frontier().is_empty() {
                capabilities.clear();
                owned.waiting.clear();
                owned.reports.finish();
            }
        }
    });
    stream
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
