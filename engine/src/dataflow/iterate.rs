//! A feedback loop with the step as timestamp: lanes compute updates, shard owners sum and apply them, and what they
//! have finished lets the lanes go on. No round trip to the driver.
//!
//! Step `t` reads version `t` of the parameters and makes version `t + 1`. Lanes let go of version `t` before they hand
//! out their updates, and owners begin version `t + 1` when they have all updates of step `t`: so nobody reads version
//! `t - 1` any more, into whose buffer it is written.
//!
//! ```text
//!            +--> lanes (step t) --contributions, by worker--> apply (step t) --+
//!            |                                                                  |
//!            +---------------- feedback: worker w finished step t <-------------+
//! ```
//!
//! Lanes and owners of other processes stand beside this loop: see `exchange`.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange as ByWorker;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, ConnectLoop, Feedback};
use timely::dataflow::scope::Scope;
use timely::worker::Worker;

use crate::dataflow::exchange::{Exchange, Makers, Partial, REPORT_DELAY, Setting};
use crate::dataflow::team::Team;
use crate::dataflow::vector::Vector;
use crate::dataflow::workers::{Build, Idle, Workers};
use crate::error::{EngineError, Result};
use crate::iteration::{Iteration, Lane, ShardUpdate, StepReport, Tallies};
use crate::parameters::{Parameters, RangeGuard};
use crate::tree::{self, Part};

/// One lane's update of one step, on its way to the workers of this process that use it. All read the same vector.
#[derive(Serialize, Deserialize)]
struct Contribution {
    worker: u64,
    step: u64,
    lane: u64,
    tallies: Tallies,
    update: Arc<Vector>,
}

/// Tells a worker that shards have finished a step.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Finished {
    worker: u64,
    step: u64,
}

/// Runs an iteration on the workers of this process alone; `observe` sees each step once it is applied, in order.
pub fn run(
    workers: &Workers,
    iteration: Iteration,
    parameters: Arc<Parameters>,
    makers: Makers,
    observe: &mut dyn FnMut(&StepReport),
) -> Result<()> {
    let placement = iteration.placement(workers.count())?;
    iteration.check(&parameters)?;
    parameters.begin(iteration.first_step)?;
    let (reports, received) = channel();
    let team = Team::alone(workers.count());
    let exchange = Exchange::new(
        iteration,
        placement,
        team,
        parameters,
        makers,
        Setting::default(),
        reports,
    );
    run_loop(workers, &Arc::new(exchange), &received, observe)
}

/// Runs this process's part of an iteration to its end, or until it fails or is stopped.
pub fn run_loop(
    workers: &Workers,
    exchange: &Arc<Exchange>,
    reports: &Receiver<Vec<StepReport>>,
    observe: &mut dyn FnMut(&StepReport),
) -> Result<()> {
    let ended = start(workers, exchange)?;
    let mut waiting = watch(exchange, reports, observe);
    let _ = ended.recv();
    exchange.spread_states();
    waiting.extend(exchange.seal());
    observe_applied(exchange, &mut waiting, observe);
    workers.check()?;
    match exchange.take_failure() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Follows the steps until no more reports come. Returns the reports of steps that were not applied by then.
fn watch(
    exchange: &Exchange,
    received: &Receiver<Vec<StepReport>>,
    observe: &mut dyn FnMut(&StepReport),
) -> VecDeque<StepReport> {
    let mut waiting = VecDeque::new();
    loop {
        // An owner reports when its own shards have finished a step; others may be about to.
        let reports = match waiting.is_empty() {
            true => received.recv().map_err(RecvTimeoutError::from),
            false => received.recv_timeout(REPORT_DELAY),
        };
        match reports {
            Ok(reports) => waiting.extend(reports),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return waiting,
        }
        observe_applied(exchange, &mut waiting, observe);
    }
}

fn observe_applied(exchange: &Exchange, waiting: &mut VecDeque<StepReport>, observe: &mut dyn FnMut(&StepReport)) {
    let applied = |report: &StepReport| report.step < exchange.parameters.version();
    while waiting.front().is_some_and(applied)
        && let Some(report) = waiting.pop_front()
    {
        observe(&report);
    }
}

fn start(workers: &Workers, exchange: &Arc<Exchange>) -> Result<Receiver<()>> {
    let exchange = Arc::clone(exchange);
    // No report comes when the last worker is done: then this is dropped.
    let closing = Arc::new(Closing(Arc::clone(&exchange)));
    let closings = Mutex::new(vec![closing; workers.count()]);
    let idle = (exchange.team.ranks() > 1).then(|| Arc::clone(&exchange) as Arc<dyn Idle>);
    let build: Build = Arc::new(move |worker| {
        let closing = closings.lock().unwrap_or_else(PoisonError::into_inner).pop();
        build(worker, &exchange, closing);
    });
    workers.run(build, idle)
}

/// Held by every worker while its part of the loop runs.
struct Closing(Arc<Exchange>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close_reports();
    }
}

fn build(worker: &mut Worker, exchange: &Arc<Exchange>, closing: Option<Arc<Closing>>) {
    let index = worker.index();
    worker.dataflow::<u64, _, _>(|scope| {
        let (handle, finished) = scope.feedback::<Vec<Finished>>(1);
        let contributions = lanes(scope, finished, Hosted::new(exchange, index));
        apply(scope, contributions, Owned::new(exchange, index), closing).connect_loop(handle);
    });
}

/// The lanes of one worker.
struct Hosted {
    exchange: Arc<Exchange>,
    lanes: Vec<HostedLane>,
    /// The next step to compute.
    step: u64,
}

struct HostedLane {
    index: usize,
    lane: Box<dyn Lane>,
    update: Arc<Vector>,
}

impl Hosted {
    fn new(exchange: &Arc<Exchange>, worker: usize) -> Self {
        let length = exchange.parameters.len();
        let worker = exchange.team.global(worker);
        let mut lanes = Vec::new();
        for index in exchange.placement.lanes_of(worker) {
            if let Some(lane) = exchange.guarded("lane", index, || (exchange.makers.lane)(index)) {
                lanes.push(HostedLane {
                    index,
                    lane,
                    update: Arc::new(exchange.vector(index).unwrap_or_else(|| Vector::new(length))),
                });
            }
        }
        Self {
            exchange: Arc::clone(exchange),
            lanes,
            step: exchange.parameters.version(),
        }
    }

    fn done(&self) -> bool {
        self.exchange.ended() || self.lanes.is_empty() || self.step == self.exchange.iteration.last_step()
    }

    /// Whether every shard has finished the step before.
    fn ready(&self) -> bool {
        self.exchange.parameters.version() == self.step
    }

    /// Computes the next step of every lane. When this returns, the parameters are let go.
    fn compute(&mut self) -> Vec<Contribution> {
        let (exchange, step) = (Arc::clone(&self.exchange), self.step);
        self.step += 1;
        exchange.begin_step(step);
        let mut contributions = Vec::new();
        let parameters = match exchange.parameters.read(step) {
            Ok(parameters) => parameters,
            Err(error) => {
                exchange.fail(error);
                return contributions;
            }
        };
        for hosted in &mut self.lanes {
            let Some(tallies) = hosted.compute(&exchange, step, &parameters) else {
                break;
            };
            contributions.extend(exchange.targets.iter().map(|worker| Contribution {
                worker: *worker as u64,
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
    fn compute(&mut self, exchange: &Exchange, step: u64, parameters: &[f32]) -> Option<Tallies> {
        if Arc::get_mut(&mut self.update).is_none() {
            // An owner still holds the vector of the step before: leave it that one.
            self.update = Arc::new(Vector::new(parameters.len()));
        }
        let update = Arc::get_mut(&mut self.update)?;
        let begun = Instant::now();
        let tallies = exchange.guarded("lane", self.index, || self.lane.step(step, parameters, update));
        exchange.lane_took(begun.elapsed());
        tallies
    }
}

fn lanes<'scope>(
    scope: Scope<'scope, u64>,
    finished: Stream<'scope, u64, Vec<Finished>>,
    mut hosted: Hosted,
) -> Stream<'scope, u64, Vec<Contribution>> {
    let mut builder = OperatorBuilder::new("iterate: lanes".to_owned(), scope);
    hosted.exchange.enlist(scope, &builder.operator_info().address);
    let mut input = builder.new_input(finished, ByWorker::new(|finished: &Finished| finished.worker));
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Contribution>>>::from(output);
    builder.build(move |capabilities| {
        let mut capability: Option<Capability<u64>> = capabilities.into_iter().next();
        if let Some(capability) = &mut capability {
            capability.downgrade(&hosted.step);
        }
        move |_| {
            input.for_each(|_, finished| {
                // They have woken this operator, which is all they are for: the version tells the rest.
                finished.clear();
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

/// The updates of one step by this process's lanes.
type Updates = BTreeMap<usize, (Tallies, Arc<Vector>)>;

/// The shards of one worker, and the other processes that it sends to.
struct Owned {
    exchange: Arc<Exchange>,
    shards: Vec<OwnedShard>,
    /// Shards of other processes whose state is kept here as well.
    copies: Vec<OwnedShard>,
    /// Positions among the other owners, of those that this worker sends to.
    sends_to: Vec<usize>,
    /// What has come from this process's lanes, by step.
    waiting: BTreeMap<u64, Updates>,
    /// The next step to push to other processes.
    push: u64,
    /// The next step to apply.
    step: u64,
    /// The next version that others are to be told of, if this worker is to tell them.
    attend: Option<u64>,
    scratch: Vec<f32>,
}

struct OwnedShard {
    index: usize,
    /// Where its part begins in what other processes send.
    offset: usize,
    update: Box<dyn ShardUpdate>,
    sum: Vec<f32>,
}

impl Owned {
    fn new(exchange: &Arc<Exchange>, worker: usize) -> Self {
        let mut shards = Vec::new();
        let mut offset = 0;
        for (index, range) in &exchange.own {
            if exchange.placement.shards[*index] == exchange.team.global(worker)
                && let Some(update) = exchange.guarded("shard", *index, || (exchange.makers.shard)(*index))
            {
                let sum = if exchange.iteration.lanes > 1 {
                    vec![0.0; range.len()]
                } else {
                    Vec::new()
                };
                shards.push(OwnedShard {
                    index: *index,
                    offset,
                    update,
                    sum,
                });
            }
            offset += range.len();
        }
        let mut copies = Vec::new();
        for index in exchange.copied(worker) {
            if let Some(update) = exchange.guarded("shard", index, || (exchange.makers.shard)(index)) {
                copies.push(OwnedShard {
                    index,
                    offset: 0,
                    update,
                    sum: Vec::new(),
                });
            }
        }
        let owners = exchange.owners.iter().enumerate();
        let step = exchange.parameters.version();
        Self {
            exchange: Arc::clone(exchange),
            shards,
            copies,
            sends_to: owners
                .filter(|(_, owner)| owner.courier == worker)
                .map(|(position, _)| position)
                .collect(),
            waiting: BTreeMap::new(),
            push: step,
            step,
            attend: (worker == 0 && exchange.attends()).then_some(step),
            scratch: Vec::new(),
        }
    }

    /// Whether this worker has nothing left to do.
    fn done(&self) -> bool {
        self.exchange.ended() || self.exchange.is_finished()
    }

    /// Tells others that this process has come to the newest version, if they wait for that.
    fn attend(&mut self) {
        let version = self.exchange.parameters.version();
        if self.attend.is_some_and(|next| next <= version) {
            self.exchange.attend(version);
            self.attend = Some(version + 1);
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
        let (length, lanes) = (self.exchange.parameters.len(), self.exchange.iteration.lanes);
        if update.len() != length || lane as usize >= lanes {
            return self.exchange.fail(EngineError::invalid(
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

    /// This process's updates of a step, once all are here.
    fn local(&self, step: u64) -> Option<&Updates> {
        static NONE: Updates = Updates::new();
        if self.exchange.lanes.is_empty() {
            return Some(&NONE);
        }
        self.waiting
            .get(&step)
            .filter(|updates| updates.len() == self.exchange.lanes.len())
    }

    /// Pushes what is complete to the processes that this worker sends to.
    fn push(&mut self) {
        while !self.sends_to.is_empty()
            && self.push < self.exchange.iteration.last_step()
            && !self.exchange.lanes.is_empty()
            && self.local(self.push).is_some()
        {
            let mut scratch = std::mem::take(&mut self.scratch);
            if let Some(updates) = self.local(self.push) {
                for owner in &self.sends_to {
                    push_to(&self.exchange, *owner, self.push, updates, &mut scratch);
                }
            }
            self.scratch = scratch;
            if self.shards.is_empty() {
                self.waiting.remove(&self.push);
            }
            self.push += 1;
        }
    }

    /// Applies the next step if all its updates are here. Returns it.
    fn apply(&mut self) -> Option<u64> {
        let exchange = Arc::clone(&self.exchange);
        let step = self.step;
        if self.shards.is_empty() || exchange.parameters.version() != step || exchange.is_finished() {
            return None;
        }
        self.local(step)?;
        let remote = exchange.remote(step)?;
        let local = self.waiting.remove(&step).unwrap_or_default();
        let parts = Parts { local, remote };
        let lanes = exchange.iteration.lanes;
        let tallies = parts.tallies(0..lanes)?;
        let report = StepReport { step, tallies };
        let mut written = Vec::new();
        for shard in &mut self.shards {
            written.push(shard.apply(&exchange, &report, &parts)?);
        }
        // Lanes go on when the version is complete: by then they are to have their vectors back.
        drop(parts);
        if self.shards.last().is_some_and(|shard| exchange.reports(shard.index)) {
            exchange.report(report);
        }
        self.step += 1;
        let mut complete = false;
        for range in written {
            complete |= range.finish_with_state();
        }
        self.completed(step, complete);
        Some(step)
    }

    fn completed(&self, step: u64, complete: bool) {
        if complete {
            self.exchange.release(step);
            self.exchange.completed(step);
        }
    }

    /// Applies the next step to the shards whose state this process keeps as well. Returns it if that completes it.
    fn apply_copies(&mut self) -> Option<u64> {
        let exchange = Arc::clone(&self.exchange);
        let step = exchange.parameters.version();
        let mut complete = false;
        for copy in &mut self.copies {
            let Some((tallies, sum)) = exchange.take_sum(step, copy.index) else {
                continue;
            };
            let report = StepReport { step, tallies };
            let range = exchange.iteration.shard_range(copy.index, exchange.parameters.len());
            let update = &mut copy.update;
            complete |= exchange.guarded("shard", copy.index, || {
                let mut claimed = exchange.parameters.claim(step + 1, range)?;
                update.apply(&report, &sum, &mut claimed.values())?;
                if exchange.reports(copy.index) {
                    exchange.report(report);
                }
                Ok(claimed.finish_with_state())
            })?;
            exchange.give_back(sum);
        }
        self.completed(step, complete);
        complete.then_some(step)
    }
}

/// Sums what this process's lanes have for another owner, as far as the tree allows, and pushes it.
fn push_to(exchange: &Exchange, owner: usize, step: u64, updates: &Updates, scratch: &mut Vec<f32>) {
    let owner = &exchange.owners[owner];
    for node in tree::cover(0..exchange.iteration.lanes, &|lane| updates.contains_key(&lane)) {
        let Some(tallies) = tree::fold(node.clone(), &mut |lane| updates[&lane].0, &mut Tallies::plus) else {
            continue;
        };
        if node.len() == 1 {
            let update = &updates[&node.start].1;
            if let (Some(start), true) = (update.start(), exchange.shares_with(owner.rank)) {
                exchange.push_in_place(owner, step, &node, tallies, start);
                continue;
            }
            let values: Vec<&[f32]> = owner.ranges.iter().map(|range| &update[range.clone()]).collect();
            exchange.push(owner, step, &node, tallies, &values);
            continue;
        }
        let mut sum = |range: &Range<usize>, sum: &mut [f32]| {
            let leaves = node.clone().map(|lane| leaf(lane, &updates[&lane].1[range.clone()]));
            tree::sum(&leaves.collect::<Vec<Part<'_>>>(), node.clone(), sum);
        };
        if let Some(start) = exchange.sum_in_place(owner, &node, &mut sum) {
            exchange.push_in_place(owner, step, &node, tallies, start);
            continue;
        }
        scratch.resize(owner.ranges.iter().map(ExactSizeIterator::len).sum(), 0.0);
        let mut rest = &mut scratch[..];
        for range in &owner.ranges {
            let (part, after) = rest.split_at_mut(range.len());
            sum(range, part);
            rest = after;
        }
        exchange.push(owner, step, &node, tallies, &[&*scratch]);
    }
}

fn leaf(lane: usize, values: &[f32]) -> Part<'_> {
    Part {
        lanes: lane..lane + 1,
        values,
    }
}

/// All updates of one step.
struct Parts {
    local: Updates,
    remote: Vec<Arc<Partial>>,
}

impl Parts {
    /// The tallies of all lanes, summed along the tree.
    fn tallies(&self, lanes: Range<usize>) -> Option<Tallies> {
        if let Some(partial) = self.remote.iter().find(|partial| partial.lanes == lanes) {
            return Some(partial.tallies);
        }
        match tree::split(&lanes) {
            None => self.local.get(&lanes.start).map(|(tallies, _)| *tallies),
            Some(middle) => {
                let left = self.tallies(lanes.start..middle)?;
                Some(left.plus(self.tallies(middle..lanes.end)?))
            }
        }
    }

    /// What there is of a shard: `range` of the parameters, which begins at `offset` in what other processes sent.
    fn of(&self, range: &Range<usize>, offset: usize) -> Vec<Part<'_>> {
        let local = self
            .local
            .iter()
            .map(|(lane, (_, update))| leaf(*lane, &update[range.clone()]));
        let remote = self.remote.iter().map(|partial| Part {
            lanes: partial.lanes.clone(),
            values: partial.of(range, offset),
        });
        let mut parts: Vec<Part<'_>> = local.chain(remote).collect();
        parts.sort_unstable_by_key(|part| part.lanes.start);
        parts
    }
}

impl OwnedShard {
    /// Writes the shard's part of the version that the step makes, for the caller to finish.
    fn apply<'a>(&mut self, exchange: &'a Exchange, report: &StepReport, parts: &Parts) -> Option<RangeGuard<'a>> {
        let range = exchange.own.get(&self.index)?.clone();
        let parts = parts.of(&range, self.offset);
        let sum = match &parts[..] {
            [only] => only.values,
            parts => {
                tree::sum(parts, 0..exchange.iteration.lanes, &mut self.sum);
                &self.sum[..]
            }
        };
        let update = &mut self.update;
        exchange.guarded("shard", self.index, || {
            let mut claimed = exchange.parameters.claim(report.step + 1, range)?;
            update.apply(report, sum, &mut claimed.values())?;
            exchange.publish(report, self.index, sum, claimed.after());
            Ok(claimed)
        })
    }
}

fn apply<'scope>(
    scope: Scope<'scope, u64>,
    contributions: Stream<'scope, u64, Vec<Contribution>>,
    mut owned: Owned,
    closing: Option<Arc<Closing>>,
) -> Stream<'scope, u64, Vec<Finished>> {
    let mut builder = OperatorBuilder::new("iterate: apply".to_owned(), scope);
    owned.exchange.enlist(scope, &builder.operator_info().address);
    let mut input = builder.new_input(
        contributions,
        ByWorker::new(|contribution: &Contribution| contribution.worker),
    );
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Finished>>>::from(output);
    builder.build(move |capabilities| {
        // Held to the end: what lets the loop go on may come from another process.
        let mut capability: Option<Capability<u64>> = capabilities.into_iter().next();
        let mut closing = closing;
        move |_| {
            input.for_each(|_, contributions| {
                contributions
                    .drain(..)
                    .for_each(|contribution| owned.receive(contribution));
            });
            owned.push();
            owned.attend();
            while let (false, Some(capability)) = (owned.exchange.ended(), &mut capability)
                && let Some(step) = owned.apply().or_else(|| owned.apply_copies())
            {
                capability.downgrade(&step);
                let workers = owned.exchange.team.workers(owned.exchange.team.rank);
                let hosts = owned.exchange.placement.hosts().filter(|host| workers.contains(host));
                let finished = hosts.map(|host| Finished {
                    worker: (host - workers.start) as u64,
                    step,
                });
                output.activate().session(&*capability).give_iterator(finished);
                owned.attend();
            }
            if owned.done() {
                capability = None;
                drop(closing.take());
                owned.waiting.clear();
            }
        }
    });
    stream
}
