//! An iteration that all processes run together: rounds that bring the data of lanes to where they are hosted, and
//! rounds of the loop.

mod basis;

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use bytes::Bytes;

use self::basis::{Basis, basis, what_is_here};
use super::history::{History, Iterated, Values, check_length};
use super::{Arrival, Next, Results, diverged, held, rounds_max, unexpected, unreadable};
use crate::cancel::RunningAction;
use crate::cluster::member::{Member, Round};
use crate::cluster::origins::Origins;
use crate::cluster::protocol::{ActionKind, Answer, Asset, Generation, Inventory, LoopStart, Outcome, Work};
use crate::context::Context;
use crate::dataflow::exchange::{Exchange, Makers, Setting};
use crate::dataflow::iterate;
use crate::dataflow::job::Reduce;
use crate::dataflow::observer::Observer;
use crate::dataflow::round::{self, RoundInputs};
use crate::error::Result;
use crate::iteration::{Iteration, Placement, StepReport};
use crate::lineage::Lineage;
use crate::parameters::Parameters;

/// Says of a partition whether it stays.
pub(crate) type Stays<'a> = &'a dyn Fn(usize) -> bool;

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
    /// Forgets what was read of all other partitions than these.
    pub(crate) keep_only: &'a mut dyn FnMut(Stays<'_>),
    pub(crate) observer: &'a mut Observer<'a>,
}

/// What an iteration is asked for, and begins with, beside what the name node is told.
fn asked_for(iteration: &Iteration, parameters: &Parameters) -> impl Debug + use<> {
    let values = blake3::hash(bytemuck::cast_slice(&parameters.latest_values()));
    let Iteration {
        steps,
        shards,
        state_slots,
        staleness,
        updates,
        measures,
        lanes_remember,
        settings,
        // In the kind of the action.
        lanes: _,
        first_step: _,
        // Each process's own matter.
        piece_min: _,
        // In the name of the action.
        site: _,
        // A cluster has none.
        assigned: _,
    } = iteration.clone();
    let rules = (staleness, updates, measures, lanes_remember);
    (steps, shards, state_slots, rules, settings, values)
}

/// Runs an iteration together with the other processes; all end with the same parameters and have seen every step.
pub(crate) fn iterate(
    context: &Context,
    member: &Member,
    running: &RunningAction<'_>,
    lineage: &Lineage,
    mut looped: Loop<'_>,
) -> Result<()> {
    let (iteration, parameters) = (looped.iteration.clone(), Arc::clone(&looped.parameters));
    iteration.check_cluster()?;
    iteration.check(&parameters)?;
    let answer_bytes_max = check_length(&iteration, &parameters)?;
    parameters.begin(iteration.first_step)?;
    let all: Vec<usize> = (0..looped.partitions).collect();
    let kind = ActionKind::Iterate {
        dataset: lineage.target(),
        rounds_max: rounds_max(lineage),
        first_step: iteration.first_step,
        lanes: iteration.lanes as u32,
        answer_bytes_max,
    };
    let beginning = iteration.lanes_remember.then(|| Values::of(&parameters));
    let state = match beginning {
        Some(_) => Exchange::beginning(&parameters, &iteration),
        None => Exchange::state(&parameters, &iteration, &Origins::default()),
    };
    let arrival = Arrival::new(
        context,
        member,
        running,
        lineage,
        kind,
        &asked_for(&iteration, &parameters),
        state,
    );
    let delays = iteration.state_slots > 0 || !iteration.staleness.is_determinate();
    let mut history = History::new(iteration.first_step, delays);
    history.beginning = beginning;
    loop {
        match arrival.next()? {
            Next::Round(generation, number, Work::Compute { held, costs, lanes, .. }) => {
                let placing = PlacementInputs {
                    held: &held,
                    costs: &costs,
                    lanes: &lanes,
                };
                let outcome = place(&arrival, &generation, number, &placing, &all, &mut looped);
                let held = held_and_loaded(&arrival, &mut looped);
                member.ended(arrival.key(&generation, number), outcome, held);
            }
            Next::Round(generation, number, Work::Loop { start, lanes }) => {
                let round = (&generation, number);
                let outcome = run_loop(&arrival, round, &start, &lanes, &mut looped, &mut history);
                // Who has a lane's data has it in the next generation, too.
                let held = held_and_loaded(&arrival, &mut looped);
                let outcome = outcome.unwrap_or_else(Outcome::Failed);
                member.ended(arrival.key(&generation, number), outcome, held);
            }
            Next::Answer(answer) => return take(answer, &mut looped, &mut history),
        }
    }
}

/// Ends the iteration with its answer: what came of it elsewhere is installed and shown here.
fn take(answer: Answer, looped: &mut Loop<'_>, history: &mut History) -> Result<()> {
    match answer {
        Answer::Iterated { result: None } => history.show_all(looped.observer),
        Answer::Iterated { result: Some(result) } => {
            let result: Iterated = postcard::from_bytes(&result).map_err(|error| unreadable::<Iterated>(&error))?;
            result.install(&looped.parameters, looped.iteration.last_step())?;
            for report in &result.reports {
                history.note(report, looped.observer)?;
            }
            history.show_all(looped.observer)
        }
        Answer::Failed(error) => {
            // What went wrong first is what is told.
            let _ = history.show_all(looped.observer);
            Err(error)
        }
        Answer::Computed { .. } => Err(diverged()),
    }
}

/// The blocks of this process, and the lanes' data that it has loaded.
fn held_and_loaded(arrival: &Arrival<'_>, looped: &mut Loop<'_>) -> Inventory {
    let mut held = held(arrival.lineage, arrival.context);
    held.insert(Asset::Lanes, (looped.load)(Results::new()).into());
    held
}

/// The rank of this process in a generation, if it is a member of it.
fn own_rank(arrival: &Arrival<'_>, generation: &Generation) -> Option<usize> {
    let id = arrival.member.id();
    generation.members.iter().position(|peer| Some(peer.member) == id)
}

/// The rank that hosts the lane of a partition, where `lanes` has those of all lanes, of which there is one at least.
fn host(lanes: &[u32], partition: usize) -> Option<usize> {
    Some(lanes[partition % lanes.len()] as usize)
}

/// What the name node says of a round that places lanes.
struct PlacementInputs<'a> {
    held: &'a [Inventory],
    costs: &'a [u64],
    lanes: &'a [u32],
}

/// Brings the data of lanes to the processes that host them.
fn place(
    arrival: &Arrival<'_>,
    generation: &Generation,
    number: u32,
    placing: &PlacementInputs<'_>,
    all: &[usize],
    looped: &mut Loop<'_>,
) -> Outcome {
    let (held, lanes) = (placing.held, placing.lanes);
    if lanes.len() != looped.iteration.lanes || lanes.iter().any(|rank| *rank as usize >= held.len()) {
        return unexpected();
    }
    let host = |partition: usize| host(lanes, partition);
    let is_loaded = |partition: usize| {
        let loaded = host(partition).and_then(|rank| held[rank].get(&Asset::Lanes));
        loaded.is_some_and(|loaded| loaded.contains(partition))
    };
    let missing: Vec<usize> = all.iter().copied().filter(|partition| !is_loaded(*partition)).collect();
    let inputs = RoundInputs {
        lineage: arrival.lineage,
        wanted: &missing,
        finished: &[],
        held,
        generation,
        costs: placing.costs,
        required_rank: &host,
    };
    let own = own_rank(arrival, generation);
    let (read, begun) = (looped.read.clone(), Instant::now());
    let outcome = arrival.round(generation, number, &inputs, &read, &mut |results| {
        let loaded = (looped.load)(results);
        let mine = all.iter().filter(|partition| host(**partition) == own);
        let complete = mine
            .copied()
            .all(|partition| loaded.binary_search(&(partition as u64)).is_ok());
        Ok((complete, Vec::new()))
    });
    arrival.context.metrics().loaded_since(begun);
    outcome
}

fn run_loop(
    arrival: &Arrival<'_>,
    (generation, number): (&Generation, u32),
    start: &LoopStart,
    lanes: &[u32],
    looped: &mut Loop<'_>,
    history: &mut History,
) -> Result<Outcome> {
    let own = own_rank(arrival, generation);
    // All have the data of the lanes that they host, or this round would not have begun.
    if own.is_some() && !lanes.is_empty() {
        (looped.keep_only)(&|partition| host(lanes, partition) == own);
    }
    let (iteration, parameters) = (&looped.iteration, &looped.parameters);
    let placement = round::placement(generation, lanes, iteration.shards)
        .filter(|placement| placement.lanes.len() == iteration.lanes)
        .ok_or_else(diverged)?;
    let state = |history: &History, finished: bool, result: Option<Bytes>| Outcome::Looped {
        finished,
        state: what_is_here((iteration, parameters), history),
        result,
    };
    let Some(mut basis) = basis(
        (generation.number, number),
        own,
        start,
        (iteration, parameters),
        history,
    )?
    else {
        return Ok(state(history, false, None));
    };
    let Some(round) = arrival.member.enter(generation, arrival.action, number) else {
        return Ok(state(history, false, None));
    };
    let (exchange, received) = exchange(
        arrival,
        generation,
        &round,
        placement,
        (!basis.has).then_some(start.version),
        looped,
    )?;
    let begins = round.begin(Arc::clone(&exchange) as Arc<_>);
    if begins && make_ready(&exchange, round.rank, start, &mut basis, history) {
        exchange.begin();
        let observer = &mut *looped.observer;
        let mut seen = |report: &StepReport| history.note(report, observer);
        let metrics = arrival.context.metrics();
        iterate::run_loop(arrival.context.workers(), &exchange, metrics, &received, &mut seen)?;
    }
    // Also where the loop was stopped before it began. Then the reports of the steps before a version that was given
    // may wait here, and nobody gives that version again.
    let last = exchange.seal();
    if let Some(error) = exchange.take_failure() {
        return Err(error);
    }
    // With a lag older versions are needed as well, and the newest of them comes last.
    let is_given_in_part = !basis.has && exchange.is_given();
    if is_given_in_part {
        history.replace(basis.origins);
    }
    let mut late: Vec<StepReport> = received.try_iter().flatten().chain(last).collect();
    late.retain(|report| report.step < parameters.version());
    for report in &late {
        match is_given_in_part {
            true => drop(history.keep(report)),
            false => history.note(report, looped.observer)?,
        }
    }
    arrival
        .context
        .metrics()
        .exchanged(exchange.sent_bytes(), exchange.early_bytes());
    let state_is_whole = Exchange::state(parameters, iteration, &history.origins)
        .shards
        .iter()
        .all(|(_, versions)| versions.contains(&iteration.last_step()));
    let finished = exchange.is_finished() && state_is_whole;
    let result = match finished && round.rank == 0 {
        true => Some(history.result(parameters)?),
        false => None,
    };
    Ok(state(history, finished, result))
}

/// Gives the others what they lack of the version that is gone on from, and waits for what is lacking here; `basis` has
/// it then. Whether all have what the loop takes, or it was stopped before.
fn make_ready(exchange: &Exchange, rank: usize, start: &LoopStart, basis: &mut Basis, history: &mut History) -> bool {
    exchange.share();
    if start.source == Some(rank as u32) {
        let lacking = start
            .states
            .iter()
            .enumerate()
            .filter(|(_, state)| start.is_lacked_by(state));
        lacking.for_each(|(rank, theirs)| exchange.give(rank, start.version, theirs, &history.reports));
    }
    if !exchange.wait_for_parameters() {
        return false;
    }
    if !basis.has {
        history.replace(basis.origins.clone());
        basis.has = true;
    }
    exchange.give_states(start.version, &start.states);
    exchange.wait_for_states(start.version, &start.states)
}

/// What the workers of this process share in a round, and where its reports come from.
fn exchange(
    arrival: &Arrival<'_>,
    generation: &Generation,
    round: &Round,
    placement: Placement,
    lacking: Option<u64>,
    looped: &Loop<'_>,
) -> Result<(Arc<Exchange>, Receiver<Vec<StepReport>>)> {
    let (reports, received) = channel();
    let team = round::team(round, generation);
    let copies = match arrival.context.config().parameter_copies {
        1 => Vec::new(),
        _ => round::copies(generation, &team, &placement),
    };
    let setting = Setting {
        copies,
        faults: Some(arrival.member.faults()),
        shares_memory: arrival.context.config().shared_memory,
        slowed: arrival.context.slowed()?,
        lacking,
    };
    let (iteration, makers) = (looped.iteration.clone(), looped.makers.clone());
    let parameters = Arc::clone(&looped.parameters);
    let exchange = Exchange::new(iteration, placement, team, parameters, makers, setting, reports);
    Ok((Arc::new(exchange), received))
}
