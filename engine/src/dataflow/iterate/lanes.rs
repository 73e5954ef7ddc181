//! What one worker does for lanes: it computes steps of them, and hands their updates to the workers that use them.

use std::sync::Arc;
use std::time::Instant;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange as ByWorker;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::scope::Scope;

use super::lane::{HostedLane, Ready};
use super::pool::Pool;
use super::{Contribution, Finished};
use crate::dataflow::exchange::{Exchange, UpdateSlot};

/// The lanes of this process, for one of its workers.
pub(super) struct Hosted {
    exchange: Arc<Exchange>,
    pool: Arc<Pool>,
    worker: usize,
    /// The last step for which this worker has said that it begins.
    begun: Option<u64>,
}

impl Hosted {
    /// Makes the lanes that are placed on the worker.
    pub(super) fn new(exchange: &Arc<Exchange>, pool: &Arc<Pool>, worker: usize) -> Self {
        let global = exchange.team.global(worker);
        for index in exchange.placement.lanes_of(global) {
            if let Some(lane) = exchange.guarded("lane", index, || (exchange.makers.lane)(index)) {
                pool.put(HostedLane::new(exchange, index, lane));
            }
        }
        Self {
            exchange: Arc::clone(exchange),
            pool: Arc::clone(pool),
            worker,
            begun: None,
        }
    }

    fn done(&self) -> bool {
        let exchange = &self.exchange;
        let last = exchange.iteration.last_step();
        let computed = self.pool.step().is_none_or(|step| step >= last);
        exchange.ended() || exchange.is_finished() || (computed && !exchange.iteration.staleness.is_asynchronous())
    }

    /// Computes a step of a lane, if one can be begun. When this returns, the parameters are let go. Whether there may
    /// be more to do.
    fn compute(&mut self, contributions: &mut Vec<Contribution>) -> bool {
        let exchange = Arc::clone(&self.exchange);
        let Some((mut hosted, step)) = self.pool.take(self.worker, &exchange) else {
            return false;
        };
        if self.begun.is_none_or(|begun| begun < step) {
            exchange.begin_step(step);
            self.begun = Some(step);
        }
        let begun = Instant::now();
        match exchange.guarded("lane", hosted.index, || hosted.compute(&exchange, step)) {
            Some(ready) => {
                let behind = exchange.parameters.version() - ready.version;
                exchange.lane_took(self.worker, begun, behind);
                self.hand_out(hosted, ready, step, contributions);
                true
            }
            None => {
                self.pool.given_up(hosted.index);
                hosted.end(&exchange);
                false
            }
        }
    }

    /// Hands an update out as part of its lane's step, or has it wait for a place in some step.
    fn hand_out(&self, mut hosted: HostedLane, ready: Ready, step: u64, contributions: &mut Vec<Contribution>) {
        if self.exchange.iteration.staleness.is_asynchronous() {
            let lane = hosted.index;
            hosted.ready = Some(ready);
            self.pool.put_on(hosted);
            self.exchange.request_slot(lane);
            return self.hand_out_placed(contributions);
        }
        let place = hosted.index;
        self.contribute(&mut hosted, ready, UpdateSlot { step, place }, contributions);
        self.pool.put_on(hosted);
    }

    /// Hands out the updates that have been given their places.
    fn hand_out_placed(&self, contributions: &mut Vec<Contribution>) {
        for (mut hosted, slot) in self.pool.placed(&self.exchange) {
            if let Some(ready) = hosted.ready.take() {
                self.contribute(&mut hosted, ready, slot, contributions);
            }
            self.pool.put(hosted);
        }
    }

    fn contribute(
        &self,
        hosted: &mut HostedLane,
        ready: Ready,
        slot: UpdateSlot,
        contributions: &mut Vec<Contribution>,
    ) {
        hosted.is_part_of(&ready.values, slot.step);
        if slot.step >= self.exchange.iteration.last_step() {
            return;
        }
        contributions.extend(self.exchange.targets.iter().map(|worker| Contribution {
            worker: *worker as u64,
            step: slot.step,
            lane: slot.place as u64,
            tallies: ready.tallies,
            update: Arc::clone(&ready.values),
        }));
    }
}

pub(super) fn lanes<'scope>(
    scope: Scope<'scope, u64>,
    finished: Stream<'scope, u64, Vec<Finished>>,
    mut hosted: Hosted,
) -> Stream<'scope, u64, Vec<Contribution>> {
    let mut builder = OperatorBuilder::new("iterate: lanes".to_owned(), scope);
    let address = builder.operator_info().address;
    hosted.exchange.enlist(scope, &address);
    let activator = scope.activator_for(address);
    let mut input = builder.new_input(finished, ByWorker::new(|finished: &Finished| finished.worker));
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<_, CapacityContainerBuilder<Vec<Contribution>>>::from(output);
    builder.build(move |capabilities| {
        let mut capability: Option<Capability<u64>> = capabilities.into_iter().next();
        let mut contributions = Vec::new();
        move |_| {
            input.for_each(|_, finished| {
                // They have woken this operator, which is all they are for: the version tells the rest.
                finished.clear();
            });
            if hosted.done() {
                capability = None;
            }
            let Some(capability) = &mut capability else { return };
            if let Some(step) = hosted.pool.step() {
                capability.downgrade(&step.max(*capability.time()));
            }
            hosted.hand_out_placed(&mut contributions);
            if hosted.compute(&mut contributions) {
                // The shards of this worker come first: others wait for them.
                activator.activate();
            }
            output
                .activate()
                .session(&*capability)
                .give_iterator(contributions.drain(..));
        }
    });
    stream
}
