//! The state of a loop on its way between processes: parameters and optimizer state for those that lack them.

use std::collections::BTreeSet;

use distdl_storage::Unpoisoned;

use super::Exchange;
use super::incoming::Arrived;
use crate::cluster::link::Body;
use crate::cluster::origins::Origins;
use crate::cluster::protocol::LoopState;
use crate::cluster::wire::{Header, Kind, WireError};
use crate::error::EngineError;
use crate::iteration::{Iteration, StepReport, Tallies};
use crate::parameters::Parameters;

/// Reports of steps in one frame: a loop that has run for long has many.
const REPORTS_PER_FRAME: usize = 1 << 16;

/// The numbers that a report consists of.
const NUMBERS: usize = 5;

fn numbers_of(report: &StepReport) -> [u64; NUMBERS] {
    let [first, second, third, fourth] = report.tallies.0.map(f64::to_bits);
    [report.step, first, second, third, fourth]
}

fn report_of([step, tallies @ ..]: [u64; NUMBERS]) -> StepReport {
    let tallies = Tallies(tallies.map(f64::from_bits));
    StepReport { step, tallies }
}

impl Exchange {
    /// What is known of the state of each shard in this process, where rounds with these `origins` have made it.
    pub(crate) fn state(parameters: &Parameters, iteration: &Iteration, origins: &Origins) -> LoopState {
        let mut shards = Vec::new();
        if iteration.state_slots > 0 {
            shards.extend(iteration.shards_held(parameters.len()).map(|shard| {
                let range = iteration.shard_range(shard, parameters.len());
                (shard as u32, parameters.state_versions(&range))
            }));
        }
        let versions = parameters.versions();
        let oldest = *versions.start();
        LoopState {
            // A version can be gone on from where those are that its step and later ones read.
            versions: versions
                .filter(|version| iteration.oldest_given(*version) >= oldest)
                .collect(),
            // The state of the version before those may be here still.
            origins: origins.since(oldest.saturating_sub(1)),
            shards,
        }
    }

    /// What is known of the state of each shard in a process that can only start over.
    pub(crate) fn beginning(parameters: &Parameters, iteration: &Iteration) -> LoopState {
        let first = vec![iteration.first_step];
        let shards = iteration
            .shards_held(parameters.len())
            .filter(|_| iteration.state_slots > 0);
        LoopState {
            versions: first.clone(),
            origins: Origins::default(),
            shards: shards.map(|shard| (shard as u32, first.clone())).collect(),
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
    pub(crate) fn give_states(&self, version: u64, states: &[LoopState]) {
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
                let _transferring = self.transferring.lock().unpoisoned();
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
    pub(crate) fn spread_states(&self) -> bool {
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

    /// Gives the parameters of a version to a process that lacks it and has `theirs`, with the reports of the steps
    /// before it; before them those of older versions that are still to be read.
    pub(crate) fn give(&self, rank: usize, version: u64, theirs: &LoopState, reports: &[StepReport]) {
        let oldest = self.iteration.oldest_given(version);
        let newest_there = theirs.versions.iter().max().copied();
        let reaches = newest_there.filter(|newest| (oldest..version).contains(newest));
        let first = reaches.map_or(oldest, |newest| newest + 1);
        for some in reports.chunks(REPORTS_PER_FRAME) {
            let numbers: Vec<u64> = some.iter().flat_map(numbers_of).collect();
            let header = Header::new(Kind::Report, [0; 6]);
            self.team.send(rank, header, &[bytemuck::cast_slice(&numbers)]);
        }
        for given in first..=version {
            let values = {
                let _transferring = self.transferring.lock().unpoisoned();
                self.parameters.read_values(given).map(|values| values.to_vec())
            };
            let Ok(values) = values else { return };
            let follows = u64::from(reaches.is_some() || given > first);
            let header = Header::new(Kind::State, [given, follows, 0, 0, 0, 0]);
            self.team.send(rank, header, &[bytemuck::cast_slice(&values)]);
        }
    }

    /// Waits until this process has the parameters that the iteration goes on from. False if it ended before.
    pub(crate) fn wait_for_parameters(&self) -> bool {
        self.wait(|arrived| self.has_parameters(arrived))
    }

    /// Whether this process has parameters that were given to it: the last ones, or some that come before those.
    pub(crate) fn is_given(&self) -> bool {
        self.arrived.lock().unpoisoned().given.is_some()
    }

    /// The number of the newest version does not say that: it may be of another history.
    fn has_parameters(&self, arrived: &Arrived) -> bool {
        self.lacking.is_none() || arrived.given == self.lacking
    }

    /// Waits until this process has the state of the shards that it is to keep. False if the iteration ended before.
    pub(crate) fn wait_for_states(&self, version: u64, states: &[LoopState]) -> bool {
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

    /// From here on this process has all that the first step reads.
    pub(crate) fn begin(&self) {
        self.sequencer.begin(self.parameters.version());
        self.arrived.lock().unpoisoned().ready = true;
        self.changed.notify_all();
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
        body.take_floats(&mut values)?;
        let mut arrived = self.arrived.lock().unpoisoned();
        // The parameters may come from another process, later, and forget all state.
        let is_here = |arrived: &Arrived| self.has_parameters(arrived) && self.parameters.version() == version;
        while !is_here(&arrived) && !self.ended() {
            arrived = self.changed.wait(arrived).unpoisoned();
        }
        drop(arrived);
        if self.ended() {
            return Ok(());
        }
        let installed = {
            let _transferring = self.transferring.lock().unpoisoned();
            self.parameters.install_state(version, slot, range.start, &values)
        };
        match installed {
            Ok(()) => drop(self.arrived.lock().unpoisoned().states.insert((version, shard, slot))),
            Err(error) => self.fail(error),
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Reports of steps before the version that is given to this process.
    pub(super) fn take_reports(&self, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        let bytes = body.take_bytes()?;
        let (numbers, []) = bytes.as_chunks::<8>() else {
            return Err(WireError::NoFrame);
        };
        let numbers: Vec<u64> = numbers.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect();
        let (reports, []) = numbers.as_chunks::<NUMBERS>() else {
            return Err(WireError::NoFrame);
        };
        reports.iter().for_each(|numbers| self.report(report_of(*numbers)));
        Ok(())
    }

    /// All parameters, for a process that has just come.
    pub(super) fn take_state(&self, header: &Header, body: &mut Body<'_>) -> std::result::Result<(), WireError> {
        if header.words[2] > 0 {
            return self.take_shard_state(header, body);
        }
        let [version, follows, ..] = header.words;
        let whole = match follows {
            0 => self.parameters.install(version),
            _ => self.parameters.install_next(version),
        };
        let mut whole = match whole {
            Ok(whole) => whole,
            Err(error) => {
                self.fail(error);
                return Ok(());
            }
        };
        body.take_floats(whole.after())?;
        whole.finish();
        self.arrived.lock().unpoisoned().given = Some(version);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cluster::identity::MemberId;
    use crate::cluster::link::Link;
    use crate::cluster::socket::{Listener, connect};
    use crate::cluster::wire::Limits;
    use crate::dataflow::exchange::{Makers, Setting};
    use crate::dataflow::team::Team;
    use crate::iteration::Placement;

    /// Who lacks a version may have one of that number, of another history. State that came before the parameters was
    /// taken for there, and then forgotten with that.
    #[test]
    fn state_waits_for_the_parameters_that_it_belongs_to() {
        let parameters = Arc::new(Parameters::with_state(vec![1.0; 4], 1).unwrap());
        let iteration = Iteration::new(1, 1).with_shards(1).with_state_slots(1);
        let placement = Placement {
            lanes: vec![0],
            shards: vec![0],
        };
        let makers = Makers {
            lane: Arc::new(|_| unreachable!("no lane is made")),
            shard: Arc::new(|_| unreachable!("no shard is made")),
        };
        let setting = Setting {
            lacking: Some(0),
            ..Setting::default()
        };
        let (reports, _received) = std::sync::mpsc::channel();
        let team = Team::alone(1);
        let exchange = Exchange::new(
            iteration,
            placement,
            team,
            Arc::clone(&parameters),
            makers,
            setting,
            reports,
        );

        let listener = Listener::bind_local().unwrap();
        let link = || {
            let there = connect(&listener.address(), Duration::from_secs(20)).unwrap();
            let here = listener.accept().unwrap();
            (Link::new(MemberId(0), here), Link::new(MemberId(1), there))
        };
        let limits = Limits { payload_bytes_max: 100 };
        let take = |link: &Link| link.read(&limits, &mut |header, body| exchange.take_state(header, body));
        let frame = |slot| Header::new(Kind::State, [0, 0, slot, 0, 0, 0]);
        std::thread::scope(|scope| {
            let (state_here, state_there) = link();
            state_there
                .send(frame(1), &[bytemuck::cast_slice(&[7.0_f32; 4])])
                .unwrap();
            state_there.close();
            let taking = scope.spawn(move || take(&state_here));
            // As long as it takes where it does not wait.
            for _ in 0..10_000 {
                std::thread::yield_now();
            }
            let (values_here, values_there) = link();
            values_there
                .send(frame(0), &[bytemuck::cast_slice(&[2.0_f32; 4])])
                .unwrap();
            values_there.close();
            take(&values_here);
            taking.join().unwrap();
        });
        let latest = parameters.latest();
        assert_eq!((&latest[..], latest.state(0)), (&[2.0; 4][..], Some(&[7.0; 4][..])));
        assert_eq!(parameters.state_versions(&(0..4)), [0]);
    }
}
