//! The shards of one worker: when all updates of a step are here they are summed and applied, and what other processes
//! own is pushed to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange as ByWorker;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::scope::Scope;

use super::parts::{Parts, Updates, push_to};
use super::{Closing, Contribution, Finished};
use crate::dataflow::exchange::Exchange;
use crate::dataflow::vector::Vector;
use crate::error::EngineError;
use crate::iteration::{ShardUpdate, StepReport, Tallies};
use crate::parameters::RangeGuard;
use crate::square_sum::SquareSum;
use crate::tree::{self, PartialSum};

/// The shards of one worker, and the other processes that it sends to.
pub(super) struct Owned {
    exchange: Arc<Exchange>,
    worker: usize,
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
    /// The next step, when all its updates are here and measures of it are waited for.
    gathered: Option<Gathered>,
    /// The next version that others are to be told of, if this worker is to tell them.
    attend: Option<u64>,
    scratch: Vec<f32>,
}

/// A step of which all updates are here.
struct Gathered {
    report: StepReport,
    parts: Parts,
    /// The round whose measures come next, and whether this worker's shards have given theirs.
    round: usize,
    has_measured: bool,
    /// What the rounds before came to.
    totals: Vec<f64>,
}

struct OwnedShard {
    index: usize,
    /// Where its part begins in what other processes send.
    offset: usize,
    update: Box<dyn ShardUpdate>,
    sum: Vec<f32>,
}

impl Owned {
    pub(super) fn new(exchange: &Arc<Exchange>, worker: usize) -> Self {
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
            worker,
            shards,
            copies,
            sends_to: owners
                .filter(|(_, owner)| owner.courier == worker)
                .map(|(position, _)| position)
                .collect(),
            waiting: BTreeMap::new(),
            push: step,
            step,
            gathered: None,
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
        if step < self.exchange.parameters.version() {
            return;
        }
        if self.exchange.iteration.staleness.is_asynchronous() {
            self.push_alone(step, lane as usize, (tallies, &update));
            if self.shards.is_empty() {
                return;
            }
        }
        // A second copy of an update changes nothing.
        self.waiting
            .entry(step)
            .or_default()
            .entry(lane as usize)
            .or_insert((tallies, update));
    }

    /// This process's updates of a step, once all are here; where any updates make a step, those that are here.
    fn local(&self, step: u64) -> Option<&Updates> {
        static NONE: Updates = Updates::new();
        if self.exchange.lanes.is_empty() {
            return Some(&NONE);
        }
        if self.exchange.iteration.staleness.is_asynchronous() {
            return Some(self.waiting.get(&step).unwrap_or(&NONE));
        }
        self.waiting
            .get(&step)
            .filter(|updates| updates.len() == self.exchange.lanes.len())
    }

    /// Pushes one update to the processes that this worker sends to.
    fn push_alone(&mut self, step: u64, place: usize, (tallies, update): (Tallies, &Arc<Vector>)) {
        let updates = Updates::from([(place, (tallies, Arc::clone(update)))]);
        for owner in &self.sends_to {
            push_to(&self.exchange, *owner, step, &updates, &mut self.scratch);
        }
    }

    /// Pushes what is complete to the processes that this worker sends to.
    fn push(&mut self) {
        if self.exchange.iteration.staleness.is_asynchronous() {
            return;
        }
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

    /// Applies the next step if all its updates are here, and all measures. Returns it.
    fn apply(&mut self) -> Option<u64> {
        let exchange = Arc::clone(&self.exchange);
        let step = self.step;
        if self.shards.is_empty() || exchange.parameters.version() != step || exchange.is_finished() {
            return None;
        }
        let mut gathered = match self.gathered.take() {
            Some(gathered) => gathered,
            None => self.gather(step)?,
        };
        if !self.measure(&exchange, &mut gathered) {
            self.gathered = Some(gathered);
            return None;
        }
        let mut written = Vec::new();
        for shard in &mut self.shards {
            written.push(shard.apply(&exchange, &gathered)?);
        }
        let Gathered { report, parts, .. } = gathered;
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

    /// Sums the updates of a step once all are here.
    fn gather(&mut self, step: u64) -> Option<Gathered> {
        let exchange = Arc::clone(&self.exchange);
        let remote = exchange.remote(step, self.local(step)?.len())?;
        let local = self.waiting.remove(&step).unwrap_or_default();
        let parts = Parts { local, remote };
        let tallies = parts.tallies(0..exchange.iteration.lanes)?;
        for shard in &mut self.shards {
            shard.add_up(&exchange, &parts);
        }
        Some(Gathered {
            report: StepReport { step, tallies },
            parts,
            round: 0,
            has_measured: false,
            totals: Vec::new(),
        })
    }

    /// Goes through the rounds of measures as far as it can. Whether all are over.
    fn measure(&mut self, exchange: &Exchange, gathered: &mut Gathered) -> bool {
        while gathered.round < exchange.iteration.measures.len() {
            if !gathered.has_measured {
                let mut shards = self.shards.iter_mut();
                if !shards.all(|shard| shard.measure(exchange, gathered).is_some()) {
                    return false;
                }
                gathered.has_measured = true;
            }
            let Some(totals) = exchange.totals(gathered.report.step, gathered.round) else {
                return false;
            };
            gathered.totals.extend(totals);
            gathered.round += 1;
            gathered.has_measured = false;
        }
        true
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
        if self.copies.is_empty() {
            return None;
        }
        let totals = exchange.all_totals(step)?;
        let mut complete = false;
        for copy in &mut self.copies {
            let Some((tallies, sum)) = exchange.take_sum(step, copy.index) else {
                continue;
            };
            let report = StepReport { step, tallies };
            let range = exchange.iteration.shard_range(copy.index, exchange.parameters.len());
            let update = &mut copy.update;
            complete |= exchange.guarded("shard", copy.index, || {
                let mut claimed = exchange.claim(step + 1, range)?;
                let mut values = claimed.values();
                values.totals = &totals;
                update.apply(&report, &sum, &mut values)?;
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

impl Drop for Owned {
    fn drop(&mut self) {
        for shard in self.shards.drain(..).chain(self.copies.drain(..)) {
            shard.end(&self.exchange);
        }
    }
}

impl OwnedShard {
    /// Drops the shard's update, whose own code may run then.
    fn end(self, exchange: &Exchange) {
        exchange.guarded("shard", self.index, || {
            drop(self);
            Ok(())
        });
    }

    /// Sums the updates of a step over the shard, if there are several.
    fn add_up(&mut self, exchange: &Exchange, parts: &Parts) {
        let Some(range) = exchange.own.get(&self.index) else {
            return;
        };
        if let parts @ [_, _, ..] = &parts.of(range, self.offset)[..] {
            let iteration = &exchange.iteration;
            tree::sum(parts, 0..iteration.lanes, iteration.updates, &mut self.sum);
        }
    }

    /// Gives what the shard measures in a round.
    fn measure(&mut self, exchange: &Exchange, gathered: &Gathered) -> Option<()> {
        let range = exchange.own.get(&self.index)?;
        let parts = gathered.parts.of(range, self.offset);
        let sum = only(&parts).unwrap_or(&self.sum);
        let (step, round) = (gathered.report.step, gathered.round);
        let mut sums = vec![SquareSum::default(); exchange.iteration.measures[round]];
        let update = &mut self.update;
        exchange.guarded("shard", self.index, || {
            let before = exchange.parameters.read(step)?;
            let shard = before.shard(range, &gathered.totals);
            update.measure(round, &gathered.report, sum, &shard, &mut sums)
        })?;
        exchange.give_measures(step, round, self.index, &sums);
        Some(())
    }

    /// Writes the shard's part of the version that the step makes, for the caller to finish.
    fn apply<'a>(&mut self, exchange: &'a Exchange, gathered: &Gathered) -> Option<RangeGuard<'a>> {
        let range = exchange.own.get(&self.index)?.clone();
        let parts = gathered.parts.of(&range, self.offset);
        let sum = only(&parts).unwrap_or(&self.sum);
        let (report, update) = (&gathered.report, &mut self.update);
        exchange.guarded("shard", self.index, || {
            let mut claimed = exchange.claim(report.step + 1, range)?;
            let mut values = claimed.values();
            values.totals = &gathered.totals;
            update.apply(report, sum, &mut values)?;
            exchange.publish(report, self.index, sum, claimed.after());
            Ok(claimed)
        })
    }
}

/// The values of the only part, which need not be summed.
fn only<'a>(parts: &[PartialSum<'a>]) -> Option<&'a [f32]> {
    match parts {
        [only] => Some(only.values),
        _ => None,
    }
}

pub(super) fn apply<'scope>(
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
            let begun = Instant::now();
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
                // Any of them may compute a lane, if there are lanes.
                let hosting = if owned.exchange.lanes.is_empty() {
                    0
                } else {
                    workers.len()
                };
                let finished = (0..hosting).map(|worker| Finished {
                    worker: worker as u64,
                    step,
                });
                output.activate().session(&*capability).give_iterator(finished);
                owned.attend();
            }
            owned.exchange.shards_took(owned.worker, begun.elapsed());
            if owned.done() {
                capability = None;
                drop(closing.take());
                owned.waiting.clear();
                owned.gathered = None;
            }
        }
    });
    stream
}
