//! The lanes of one worker: each step they read the parameters, and hand their updates to the workers that use them.

use std::sync::Arc;
use std::time::Instant;

use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Exchange as ByWorker;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::scope::Scope;

use super::{Contribution, Finished};
use crate::dataflow::exchange::Exchange;
use crate::dataflow::vector::Vector;
use crate::iteration::{Lane, Tallies};

/// The lanes of one worker.
pub(super) struct Hosted {
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
    pub(super) fn new(exchange: &Arc<Exchange>, worker: usize) -> Self {
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

pub(super) fn lanes<'scope>(
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
