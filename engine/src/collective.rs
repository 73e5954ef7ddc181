//! Actions that all processes of a cluster run together: arrive, take part in rounds, take the answer.

use std::any::Any;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;

use bytes::Bytes;
use distdl_storage::BlockStore;
use serde::{Deserialize, Serialize};

use crate::cluster::member::{Member, Round, RoundKey};
use crate::cluster::protocol::{ActionKind, Answer, Generation, Held, LoopState, Order, Outcome, Report, Work};
use crate::context::{Answered, Context};
use crate::dataflow::exchange::{Exchange, Makers, Setting};
use crate::dataflow::iterate;
use crate::dataflow::job::{Job, Reduce};
use crate::dataflow::round::{self, Facts};
use crate::dataflow::run::{self, EXTRA_ROUNDS_MAX};
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::iteration::{Iteration, StepReport};
use crate::lineage::{Dependency, Lineage};
use crate::parameters::Parameters;
use crate::plan::plan;

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

/// Computes `partitions` together with the other processes; all get all results.
pub(crate) fn compute<R: Answered>(
    context: &Context,
    member: &Member,
    lineage: &Lineage,
    partitions: &[usize],
    reduce: &Reduce,
) -> Result<Results> {
    let kind = ActionKind::Compute {
        wanted: partitions.iter().map(|partition| *partition as u64).collect(),
        dataset: lineage.target(),
        rounds_max: rounds_max(lineage, partitions),
    };
    let arrival = Arrival::new(context, member, lineage, kind, LoopState::default());
    // Results that the name node may not have: it forgets none that it has confirmed by calling it finished.
    let mut own: BTreeMap<u64, Bytes> = BTreeMap::new();
    loop {
        match arrival.next()? {
            Next::Round(
                generation,
                number,
                Work::Compute {
                    finished, held, costs, ..
                },
            ) => {
                own.retain(|partition, _| finished.binary_search(partition).is_err());
                let facts = Facts {
                    lineage,
                    wanted: partitions,
                    finished: &finished,
                    held: &held,
                    generation: &generation,
                    costs: &costs,
                    pins: &|_| None,
                };
                let outcome = arrival.round(&generation, number, &facts, reduce, &mut |results| {
                    for (partition, value) in results {
                        own.insert(partition as u64, encoded::<R>(value.as_ref())?);
                    }
                    let results = own.iter().map(|(partition, bytes)| (*partition, bytes.clone()));
                    Ok((true, results.collect()))
                });
                arrival.ended(&generation, number, outcome);
            }
            Next::Round(generation, number, Work::Loop { .. }) => arrival.ended(&generation, number, unexpected()),
            Next::Answer(Answer::Computed { results, updates }) => {
                let updates: Result<Vec<_>> = updates
                    .iter()
                    .map(|bytes| context.accumulators().decode(bytes))
                    .collect();
                context.accumulators().merge(updates?);
                return results.iter().map(decoded::<R>).collect();
            }
            Next::Answer(Answer::Failed(error)) => return Err(error),
            Next::Answer(Answer::Iterated { .. }) => return Err(diverged()),
        }
    }
}

/// An iteration as this process sees it.
pub(crate) struct Loop<'a> {
    pub(crate) iteration: Iteration,
    pub(crate) parameters: Arc<Parameters>,
    pub(crate) makers: Makers,
    /// Reads a partition of the lanes' data.
    pub(crate) read: Reduce,
    /// Partitions of the lanes' data.
    pub(crate) partitions: usize,
    /// Keeps what was read; says which partitions are here.
    pub(crate) load: &'a mut dyn FnMut(Results) -> Vec<u64>,
    pub(crate) observe: &'a mut dyn FnMut(&StepReport),
}

/// What a process that comes after an iteration needs to know of it.
#[derive(Serialize, Deserialize)]
struct Iterated {
    parameters: Vec<f32>,
    /// Optimizer state, slot after slot.
    state: Vec<f32>,
    reports: Vec<StepReport>,
}

impl Iterated {
    fn install(&self, parameters: &Parameters, version: u64) -> Result<()> {
        let (length, slots) = (parameters.len(), parameters.slots());
        if self.parameters.len() != length || self.state.len() != length * slots {
            return Err(diverged());
        }
        let mut whole = parameters.install(version)?;
        whole.after().copy_from_slice(&self.parameters);
        whole.finish();
        for (slot, state) in self.state.chunks_exact(length).enumerate() {
            parameters.install_state(version, slot, 0, state)?;
        }
        Ok(())
    }
}

/// Under this name a process tells which partitions of its lanes' data it has at hand.
const LOADED: DatasetId = DatasetId(u64::MAX);

/// Runs an iteration together with the other processes; all end with the same parameters and have seen every step.
pub(crate) fn iterate(context: &Context, member: &Member, lineage: &Lineage, mut looped: Loop<'_>) -> Result<()> {
    let (iteration, parameters) = (looped.iteration.clone(), Arc::clone(&looped.parameters));
    iteration.placement(1)?;
    iteration.check(&parameters)?;
    parameters.begin(iteration.first_step)?;
    let all: Vec<usize> = (0..looped.partitions).collect();
    let kind = ActionKind::Iterate {
        dataset: lineage.target(),
        rounds_max: rounds_max(lineage, &all),
        first_step: iteration.first_step,
        lanes: iteration.lanes as u32,
    };
    let state = Exchange::state(&parameters, &iteration);
    let arrival = Arrival::new(context, member, lineage, kind, state);
    let mut history = History {
        first_step: iteration.first_step,
        reports: Vec::new(),
        shown: 0,
        delays: iteration.state_slots > 0,
    };
    loop {
        match arrival.next()? {
            Next::Round(generation, number, Work::Compute { held, costs, lanes, .. }) => {
                let known = Known {
                    held: &held,
                    costs: &costs,
                    lanes: &lanes,
                };
                let outcome = place(&arrival, &generation, number, &known, &all, &mut looped);
                let loaded = (looped.load)(Results::new());
                let mut held = self::held(lineage, context.store());
                held.push((LOADED, loaded));
                member.ended(arrival.key(&generation, number), outcome, held);
            }
            Next::Round(
                generation,
                number,
                Work::Loop {
                    version,
                    source,
                    states,
                    lanes,
                },
            ) => {
                let start = Start {
                    version,
                    source,
                    states,
                    lanes,
                };
                let outcome = run_loop(&arrival, &generation, number, &start, &mut looped, &mut history);
                arrival.ended(&generation, number, outcome.unwrap_or_else(Outcome::Failed));
            }
            Next::Answer(Answer::Iterated { result: None }) => {
                history.show_all(looped.observe);
                return Ok(());
            }
            Next::Answer(Answer::Iterated { result: Some(result) }) => {
                let result: Iterated = postcard::from_bytes(&result).map_err(|error| unreadable::<Iterated>(&error))?;
                result.install(&parameters, iteration.last_step())?;
                result
                    .reports
                    .iter()
                    .for_each(|report| history.note(report, looped.observe));
                history.show_all(looped.observe);
                return Ok(());
            }
            Next::Answer(Answer::Failed(error)) => {
                history.show_all(looped.observe);
                return Err(error);
            }
            Next::Answer(Answer::Computed { .. }) => return Err(diverged()),
        }
    }
}

/// What the name node says of a round that places lanes.
struct Known<'a> {
    held: &'a [Held],
    costs: &'a [u64],
    lanes: &'a [u32],
}

/// Brings the data of lanes to the processes that host them.
fn place(
    arrival: &Arrival<'_>,
    generation: &Generation,
    number: u32,
    known: &Known<'_>,
    all: &[usize],
    looped: &mut Loop<'_>,
) -> Outcome {
    let (held, lanes) = (known.held, known.lanes);
    if lanes.len() != looped.iteration.lanes || lanes.iter().any(|rank| *rank as usize >= held.len()) {
        return unexpected();
    }
    let host = |partition: usize| Some(lanes[partition % lanes.len()] as usize);
    let is_loaded = |partition: usize| {
        let loaded = host(partition).and_then(|rank| held[rank].iter().find(|(dataset, _)| *dataset == LOADED));
        loaded.is_some_and(|(_, partitions)| partitions.binary_search(&(partition as u64)).is_ok())
    };
    let missing: Vec<usize> = all.iter().copied().filter(|partition| !is_loaded(*partition)).collect();
    let facts = Facts {
        lineage: arrival.lineage,
        wanted: &missing,
        finished: &[],
        held,
        generation,
        costs: known.costs,
        pins: &host,
    };
    let id = arrival.member.id();
    let own = generation.members.iter().position(|peer| Some(peer.member) == id);
    let read = Arc::clone(&looped.read);
    arrival.round(generation, number, &facts, &read, &mut |results| {
        let loaded = (looped.load)(results);
        let mine = all.iter().filter(|partition| host(**partition) == own);
        let complete = mine
            .copied()
            .all(|partition| loaded.binary_search(&(partition as u64)).is_ok());
        Ok((complete, Vec::new()))
    })
}

/// From what a round of a loop goes on.
struct Start {
    version: u64,
    source: Option<u32>,
    states: Vec<LoopState>,
    lanes: Vec<u32>,
}

fn run_loop(
    arrival: &Arrival<'_>,
    generation: &Generation,
    number: u32,
    start: &Start,
    looped: &mut Loop<'_>,
    history: &mut History,
) -> Result<Outcome> {
    let (iteration, parameters) = (&looped.iteration, &looped.parameters);
    let placement = round::placement(generation, &start.lanes, iteration.shards)
        .filter(|placement| placement.lanes.len() == iteration.lanes)
        .ok_or_else(diverged)?;
    let state = |finished: bool, result: Option<Bytes>| Outcome::Looped {
        finished,
        state: Exchange::state(parameters, iteration),
        result,
    };
    let Some(round) = arrival.member.enter(generation, arrival.action, number) else {
        return Ok(state(false, None));
    };
    let has = parameters.versions().contains(&start.version);
    let lacks = |state: &LoopState| !state.versions.contains(&start.version);
    if start.states.get(round.rank).is_none_or(lacks) == has {
        // The name node is mistaken; what is reported now is so.
        return Ok(state(false, None));
    }
    let (reports, received) = channel();
    let team = round::team(&round, generation);
    let copies = match arrival.context.config().parameter_copies {
        1 => Vec::new(),
        _ => round::copies(generation, &team, &placement),
    };
    let exchange = Arc::new(Exchange::new(
        iteration.clone(),
        placement,
        team,
        Arc::clone(parameters),
        looped.makers.clone(),
        Setting {
            copies,
            faults: Some(arrival.member.faults()),
        },
        reports,
    ));
    if has {
        parameters.rewind(start.version)?;
        history.rewind(start.version);
    }
    let is_source = start.source == Some(round.rank as u32);
    if round.begin(Arc::clone(&exchange) as Arc<_>) {
        exchange.share();
        if is_source {
            let lacking = start.states.iter().enumerate().filter(|(_, state)| lacks(state));
            lacking.for_each(|(rank, _)| exchange.give(rank, start.version, &history.reports));
        }
        let mut ready = exchange.wait_for_parameters(start.version, &start.states);
        if ready {
            exchange.give_states(start.version, &start.states);
            ready = exchange.wait_for_states(start.version, &start.states);
        }
        if ready {
            exchange.begin();
            let observe = &mut *looped.observe;
            let mut seen = |report: &StepReport| history.note(report, observe);
            iterate::run_loop(arrival.context.workers(), &exchange, &received, &mut seen)?;
        }
    }
    // Also where the loop was stopped before it began. Then the reports of the steps before a version that was given may
    // wait here, and nobody gives that version again.
    let mut late: Vec<StepReport> = received.try_iter().flatten().collect();
    late.extend(exchange.seal());
    late.retain(|report| report.step < parameters.version());
    late.iter().for_each(|report| history.note(report, looped.observe));
    let state_is_whole = Exchange::state(parameters, iteration)
        .shards
        .iter()
        .all(|(_, versions)| versions.contains(&iteration.last_step()));
    let finished = exchange.is_finished() && state_is_whole;
    let result = match finished && round.rank == 0 {
        true => Some(history.result(parameters)?),
        false => None,
    };
    Ok(state(finished, result))
}

/// The steps that were applied, and how many of them the driver program has seen.
struct History {
    first_step: u64,
    reports: Vec<StepReport>,
    shown: usize,
    /// Whether a step is shown only when the one behind it is applied. Then whoever keeps the state of its version has
    /// it, so that it is never taken again, whichever process dies.
    delays: bool,
}

impl History {
    /// A step is applied here. It counts once: one that was taken again has the same report.
    fn note(&mut self, report: &StepReport, observe: &mut dyn FnMut(&StepReport)) {
        if report.step == self.first_step + self.reports.len() as u64 {
            self.reports.push(*report);
            self.show(self.reports.len() - usize::from(self.delays), observe);
        }
    }

    /// The iteration is over: nothing is taken again.
    fn show_all(&mut self, observe: &mut dyn FnMut(&StepReport)) {
        self.show(self.reports.len(), observe);
    }

    fn show(&mut self, count: usize, observe: &mut dyn FnMut(&StepReport)) {
        while self.shown < count {
            observe(&self.reports[self.shown]);
            self.shown += 1;
        }
    }

    /// Forgets steps that will be taken again.
    fn rewind(&mut self, version: u64) {
        let kept = version.saturating_sub(self.first_step) as usize;
        self.reports.truncate(kept.max(self.shown));
    }

    fn result(&self, parameters: &Parameters) -> Result<Bytes> {
        let latest = parameters.latest();
        let slots = (0..parameters.slots()).filter_map(|slot| latest.state(slot));
        let result = Iterated {
            parameters: latest.to_vec(),
            state: slots.flatten().copied().collect(),
            reports: self.reports.clone(),
        };
        let bytes = postcard::to_stdvec(&result).map_err(|error| unreadable::<Iterated>(&error))?;
        Ok(bytes.into())
    }
}

/// Whether a process has all that it was to have, and the results to report.
pub(crate) type Kept = (bool, Vec<(u64, Bytes)>);

/// What comes next at an action.
pub(crate) enum Next {
    Round(Generation, u32, Work),
    Answer(Answer),
}

impl<'a> Arrival<'a> {
    pub(crate) fn new(
        context: &'a Context,
        member: &'a Member,
        lineage: &'a Lineage,
        kind: ActionKind,
        state: LoopState,
    ) -> Self {
        let arrival = Self {
            context,
            member,
            lineage,
            action: context.next_action(),
            last: Cell::new(None),
        };
        let target = lineage.node(lineage.target());
        member.arrive(Report::Arrive {
            action: arrival.action,
            fingerprint: fingerprint(lineage, &kind),
            site: format!("an action on `{}` (declared at {})", target.operator, target.site),
            kind,
            held: held(lineage, context.store()),
            state,
        });
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
        let held = held(self.lineage, self.context.store());
        self.member.ended(self.key(generation, round), outcome, held);
    }

    /// Takes part in a round of computing; `keep` takes this process's results, and says whether it has all that it was
    /// to have, and what to report.
    pub(crate) fn round(
        &self,
        generation: &Generation,
        number: u32,
        facts: &Facts<'_>,
        reduce: &Reduce,
        keep: &mut dyn FnMut(Results) -> Result<Kept>,
    ) -> Outcome {
        let entered = self.member.enter(generation, self.action, number);
        let ran = entered.map(|round| self.run(&round, facts, reduce)).transpose();
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

    fn run(&self, round: &Round, facts: &Facts<'_>, reduce: &Reduce) -> Result<run::Outcome> {
        let (workers, resources) = (self.context.workers(), self.context.resources());
        let Some(job) = round::job(facts, round, resources, reduce, workers.count()) else {
            return Ok(run::Outcome::default());
        };
        let job: Arc<Job> = Arc::new(job);
        resources.metrics.job();
        if !round.begin(Arc::clone(&job) as Arc<_>) {
            return Ok(run::Outcome::default());
        }
        run::run_once(workers, &job)
    }
}

/// The blocks that a store has of a lineage.
pub(crate) fn held(lineage: &Lineage, store: &BlockStore) -> Held {
    let mut held: BTreeMap<DatasetId, Vec<u64>> = BTreeMap::new();
    let kept: Vec<u64> = lineage
        .nodes()
        .filter(|node| node.level().is_some())
        .map(|node| node.id.0)
        .collect();
    if kept.is_empty() {
        return Held::new();
    }
    for block in store.ids() {
        if kept.binary_search(&block.dataset).is_ok() {
            held.entry(DatasetId(block.dataset)).or_default().push(block.partition);
        }
    }
    for partitions in held.values_mut() {
        partitions.sort_unstable();
    }
    held.into_iter().collect()
}

/// Rounds that an action may take although nobody was lost: those of the first plan, and some more.
pub(crate) fn rounds_max(lineage: &Lineage, partitions: &[usize]) -> u32 {
    let stages = plan(lineage, partitions, &|_, _| false).stages.len();
    (stages + EXTRA_ROUNDS_MAX) as u32
}

/// A digest of what an action computes: the same in all processes that run the same driver program.
fn fingerprint(lineage: &Lineage, kind: &ActionKind) -> [u8; 32] {
    use std::fmt::Write;
    let mut text = format!("{kind:?}");
    for node in lineage.nodes() {
        let _ = write!(
            text,
            "\n{} {} {} {} {:?}",
            node.id,
            node.operator,
            node.site,
            node.partitions,
            node.level()
        );
        for dependency in &node.dependencies {
            let _ = match dependency {
                Dependency::Narrow { parent, .. } => write!(text, " {parent}"),
                Dependency::Shuffle { parent, exchange } => write!(text, " {parent}*{}", exchange.buckets()),
            };
        }
    }
    *blake3::hash(text.as_bytes()).as_bytes()
}

fn encoded<R: Answered>(value: &(dyn Any + Send)) -> Result<Bytes> {
    let bytes = value.downcast_ref::<R>().map(postcard::to_stdvec);
    match bytes {
        Some(Ok(bytes)) => Ok(bytes.into()),
        Some(Err(error)) => Err(unreadable::<R>(&error)),
        None => Err(diverged()),
    }
}

fn decoded<R: Answered>((partition, bytes): &(u64, Bytes)) -> Result<(usize, Box<dyn Any + Send>)> {
    let value: R = postcard::from_bytes(bytes).map_err(|error| unreadable::<R>(&error))?;
    Ok((*partition as usize, Box::new(value)))
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
