//! Actions that all processes of a cluster run together: arrive, take part in rounds, take the answer.

mod compute;
mod history;
mod iterate;

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use distdl_storage::Digest;

use crate::cancel::RunningAction;
use crate::cluster::member::{Member, Round, RoundKey};
use crate::cluster::protocol::{
    ActionKind, Answer, Asset, Generation, Head, Inventory, LoopState, Order, Outcome, Report, Work,
};
use crate::context::{Context, action_on};
use crate::dataflow::job::{Job, Reduce};
use crate::dataflow::round::{self, RoundInputs};
use crate::dataflow::run::{self, EXTRA_ROUNDS_MAX};
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::lineage::{Dependency, Lineage};

pub(crate) use compute::compute;
pub(crate) use iterate::{Loop, iterate};

/// What an action brought, by partition.
pub(crate) type Results = BTreeMap<usize, Box<dyn Any + Send>>;

/// An action that this process has arrived at.
pub(crate) struct Arrival<'a> {
    pub(crate) context: &'a Context,
    pub(crate) member: &'a Member,
    pub(crate) lineage: &'a Lineage,
    pub(crate) action: u64,
    /// The newest round that was run here.
    last: Cell<Option<RoundKey>>,
}

/// Whether a process has all that it was to have, and the results to report.
pub(crate) type RoundResult = (bool, Vec<(u64, Bytes)>);

/// What comes next at an action.
pub(crate) enum Next {
    Round(Generation, u32, Work),
    Answer(Answer),
}

impl<'a> Arrival<'a> {
    pub(crate) fn new(
        context: &'a Context,
        member: &'a Member,
        running: &RunningAction<'_>,
        lineage: &'a Lineage,
        kind: ActionKind,
        asked_for: &dyn Debug,
        state: LoopState,
    ) -> Self {
        context.resources().outputs.begin();
        let arrival = Self {
            context,
            member,
            lineage,
            action: context.next_action(),
            last: Cell::new(None),
        };
        let head = Head {
            action: arrival.action,
            fingerprint: fingerprint(lineage, &(&kind, asked_for)),
            site: action_on(lineage.node(lineage.target())),
            kind,
        };
        member.arrive(Report::Arrive {
            head,
            held: held(lineage, context),
            state,
        });
        let (canceller, action) = (member.canceller(), arrival.action);
        running.stops_by(Arc::new(move |error| canceller.cancel(action, error)));
        arrival
    }

    pub(crate) fn next(&self) -> Result<Next> {
        loop {
            match self.member.next_order()? {
                Order::Begin {
                    generation,
                    action,
                    round,
                    work,
                } if action == self.action => {
                    // A name node that was started again may order a round a second time.
                    let key = Some(self.key(&generation, round));
                    if self.last.get() < key {
                        self.last.set(key);
                        return Ok(Next::Round(generation, round, work));
                    }
                }
                Order::Answer { action, answer } if action == self.action => return Ok(Next::Answer(answer)),
                // Orders for an action that is over here.
                _ => {}
            }
        }
    }

    pub(crate) fn key(&self, generation: &Generation, round: u32) -> RoundKey {
        RoundKey {
            generation: generation.number,
            action: self.action,
            round,
        }
    }

    pub(crate) fn ended(&self, generation: &Generation, round: u32, outcome: Outcome) {
        let held = held(self.lineage, self.context);
        self.member.ended(self.key(generation, round), outcome, held);
    }

    /// Takes part in a round of computing; `keep` takes this process's results, and says whether it has all that it was
    /// to have, and what to report.
    pub(crate) fn round(
        &self,
        generation: &Generation,
        number: u32,
        inputs: &RoundInputs<'_>,
        reduce: &Reduce,
        keep: &mut dyn FnMut(Results) -> Result<RoundResult>,
    ) -> Outcome {
        let before = || round::drop_unheard(inputs, self.context.store());
        let entered = self.member.enter_after(generation, self.action, number, &before);
        let ran = entered.map(|round| self.run(&round, inputs, reduce)).transpose();
        let outcome = ran.and_then(|ran| {
            let ran = ran.unwrap_or_default();
            let (updates, tasks) = (self.context.accumulators().encode(&ran.updates)?, ran.tasks);
            let (complete, results) = keep(ran.results)?;
            Ok(Outcome::Computed {
                complete,
                results,
                updates: if ran.updates.is_empty() {
                    Vec::new()
                } else {
                    vec![updates.into()]
                },
                tasks,
            })
        });
        outcome.unwrap_or_else(Outcome::Failed)
    }

    fn run(&self, round: &Round, inputs: &RoundInputs<'_>, reduce: &Reduce) -> Result<run::Outcome> {
        let (workers, resources) = (self.context.workers(), self.context.resources());
        let Some(job) = round::job(inputs, round, resources, reduce, workers.count()) else {
            return Ok(run::Outcome::default());
        };
        // The others have planned alike and end with the same error.
        if let Some(dataset) = job.plan.unprepared {
            return Err(EngineError::Unprepared { dataset });
        }
        let job: Arc<Job> = Arc::new(job);
        resources.metrics.job();
        if !round.begin(Arc::clone(&job) as Arc<_>) {
            return Ok(run::Outcome::default());
        }
        let outcome = run::run_once(workers, self.action, &job)?;
        round::copy_again(&job);
        Ok(outcome)
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.context.resources().outputs.end();
    }
}

/// What this process has of a lineage: what it sent into shuffles, blocks, also those that a lost process has left in a
/// cache folder that they share, and partitions of sources whose bytes its cache may have.
pub(crate) fn held(lineage: &Lineage, context: &Context) -> Inventory {
    let outputs = context.resources().outputs.held();
    let outputs = outputs
        .into_iter()
        .map(|(shuffle, partitions)| (Asset::Output(shuffle), partitions.into()));
    let partitions = partitions(lineage, context).into_iter();
    let partitions = partitions.map(|(dataset, partitions)| (Asset::Dataset(dataset), partitions.into()));
    partitions.chain(outputs).collect()
}

fn partitions(lineage: &Lineage, context: &Context) -> BTreeMap<DatasetId, Vec<u64>> {
    let mut held = near(lineage, context);
    let kept: Vec<u64> = lineage
        .nodes()
        .filter(|node| node.level().is_some())
        .map(|node| node.id.0)
        .collect();
    if kept.is_empty() {
        return held;
    }
    context.recall(lineage);
    for dataset in kept {
        let partitions = context.store().partitions(dataset);
        if !partitions.is_empty() {
            held.insert(DatasetId(dataset), partitions);
        }
    }
    held
}

/// The partitions of sources of which all bytes may be in this process's cache.
fn near(lineage: &Lineage, context: &Context) -> BTreeMap<DatasetId, Vec<u64>> {
    let stores = context.stores();
    let sources = lineage
        .nodes()
        .filter(|node| stores.keeps() && node.level().is_none())
        .filter_map(|node| Some((node, node.reads.as_ref()?)));
    let near = sources.map(|(node, reads)| {
        let is_near = |partition: &usize| {
            let pieces = reads(*partition);
            !pieces.is_empty() && pieces.iter().all(|(object, range)| stores.may_hold(object, range))
        };
        let near = (0..node.partitions).filter(is_near).map(|partition| partition as u64);
        (node.id, near.collect::<Vec<u64>>())
    });
    near.filter(|(_, partitions)| !partitions.is_empty()).collect()
}

/// Rounds that an action may take although nobody was lost: those of a plan with all stages that there could be, and
/// some more. Every process comes to the same number, whatever it has.
pub(crate) fn rounds_max(lineage: &Lineage) -> u32 {
    let dependencies = lineage.nodes().flat_map(|node| node.dependencies());
    let shuffles = dependencies.filter(|dependency| matches!(dependency, Dependency::Shuffle { .. }));
    (shuffles.count() + 1 + EXTRA_ROUNDS_MAX) as u32
}

/// A digest of what an action computes: the same in all processes that run the same driver program.
fn fingerprint(lineage: &Lineage, asked_for: &dyn Debug) -> Digest {
    use std::fmt::Write;
    let mut text = format!("{asked_for:?}");
    for node in lineage.nodes() {
        let _ = write!(
            text,
            "\n{} {} {} {} {:?} {:?}",
            node.id,
            node.operator,
            node.site,
            node.partitions,
            node.level(),
            node.determinacy()
        );
        if let Some(agreed) = &node.agreed {
            let _ = write!(text, " {agreed:?}");
        }
        for dependency in node.dependencies() {
            let _ = match dependency {
                Dependency::Narrow { parent, .. } => write!(text, " {parent}"),
                Dependency::Shuffle { parent, spec } => write!(text, " {parent}*{}", spec.buckets()),
            };
        }
    }
    *blake3::hash(text.as_bytes()).as_bytes()
}

fn unreadable<R>(error: &postcard::Error) -> EngineError {
    EngineError::invalid(
        format!(
            "a result of type {} cannot travel between processes: {error}",
            std::any::type_name::<R>()
        ),
        "`Deserialize` must mirror `Serialize`, without attributes that need to know what comes next",
    )
}

/// The name node answered another action than the one that this process asked about.
pub(crate) fn diverged() -> EngineError {
    EngineError::invalid(
        "the processes of the cluster came to different actions",
        "the driver program must do the same in every process: no randomness of its own, no clock, no input that differs",
    )
}

/// A round that makes no sense for the action.
pub(crate) fn unexpected() -> Outcome {
    Outcome::Failed(diverged())
}
