//! The lanes of one process. A lane is placed on a worker, but who has nothing left to do computes steps of others: so a slow
//! worker holds one lane up and not all of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::dataflow::exchange::{Exchange, Turn};
use crate::dataflow::vector::Vector;
use crate::error::Result;
use crate::iteration::{Lane, Tallies};
use crate::updates::UpdateFormat;

/// See the [module](self).
pub(super) struct Pool(Mutex<Vec<Place>>);

/// Of one lane.
struct Place {
    index: usize,
    /// The worker of this process that it is placed on.
    home: usize,
    /// The next step to compute.
    step: u64,
    /// Not here before it is made, and while a worker has it.
    lane: Option<HostedLane>,
}

/// A lane with what it writes into.
pub(super) struct HostedLane {
    pub(super) index: usize,
    pub(super) lane: Box<dyn Lane>,
    /// As many as may be on their way.
    updates: Vec<Update>,
    /// A copy of the parameters, where it reads one.
    pub(super) copy: Vec<f32>,
    /// What is computed and waits for its place in a step.
    pub(super) ready: Option<Ready>,
}

struct Update {
    values: Arc<Vector>,
    /// The step that it was a part of last.
    step: Option<u64>,
}

/// An update that is computed.
pub(super) struct Ready {
    pub(super) tallies: Tallies,
    pub(super) values: Arc<Vector>,
    /// The version that was read.
    pub(super) version: u64,
}

impl Pool {
    /// Places for the lanes of this process. They are made by the workers that they are placed on.
    pub(super) fn new(exchange: &Exchange) -> Self {
        let first = exchange.team.workers(exchange.team.rank).start;
        let place = |lane: &usize| Place {
            index: *lane,
            home: exchange.placement.lanes[*lane] - first,
            step: exchange.parameters.version(),
            lane: None,
        };
        Self(Mutex::new(exchange.lanes.iter().map(place).collect()))
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a lane that was made.
    pub(super) fn put(&self, lane: HostedLane) {
        self.put_back(lane, |_| {});
    }

    /// Takes a lane back of which a step was computed.
    pub(super) fn put_on(&self, lane: HostedLane) {
        self.put_back(lane, |step| *step += 1);
    }

    fn put_back(&self, lane: HostedLane, go_on: impl Fn(&mut u64)) {
        if let Some(place) = self.places().iter_mut().find(|place| place.index == lane.index) {
            place.lane = Some(lane);
            go_on(&mut place.step);
        }
    }

    /// The lane that this worker is to compute a step of, with the step: one of its own, and of these the one that is behind
    /// most; if none can begin, one of another worker. Where nobody waits its own always can, and lanes of slow workers
    /// would fall behind with all their data: there the one behind most comes first, whosesoever it is.
    pub(super) fn take(&self, worker: usize, exchange: &Exchange) -> Option<(HostedLane, u64)> {
        let newest = exchange.parameters.version();
        let mut places = self.places();
        let can_begin = |place: &&mut Place| {
            let lane = place.lane.as_ref();
            lane.is_some_and(|lane| lane.has_room(newest)) && exchange.can_begin(place.step, newest)
        };
        let next = places.iter_mut().filter(can_begin);
        let is_asynchronous = exchange.iteration.staleness.is_asynchronous();
        let next = next.min_by_key(|place| {
            let is_other = place.home != worker;
            (is_other && !is_asynchronous, place.step, is_other, place.index)
        })?;
        Some((next.lane.take()?, next.step))
    }

    /// Takes back the lanes whose updates have their places in steps now.
    pub(super) fn placed(&self, exchange: &Exchange) -> Vec<(HostedLane, Turn)> {
        let mut places = self.places();
        let waiting = places
            .iter_mut()
            .filter(|place| place.lane.as_ref().is_some_and(|lane| lane.ready.is_some()));
        let placed = waiting.filter_map(|place| Some((exchange.take_turn(place.index)?, place)));
        placed
            .filter_map(|(turn, place)| Some((place.lane.take()?, turn)))
            .collect()
    }

    /// The step that is behind most; none if there are no lanes.
    pub(super) fn step(&self) -> Option<u64> {
        self.places().iter().map(|place| place.step).min()
    }
}

impl HostedLane {
    pub(super) fn new(exchange: &Exchange, index: usize, lane: Box<dyn Lane>) -> Self {
        let update = |values: Vector| Update {
            values: Arc::new(values),
            step: None,
        };
        Self {
            index,
            lane,
            updates: exchange.vectors(index).into_iter().map(update).collect(),
            copy: Vec::new(),
            ready: None,
        }
    }

    /// Whether there is something to write the next update into.
    fn has_room(&self, newest: u64) -> bool {
        self.ready.is_none() && self.updates.iter().any(|update| update.is_free(newest))
    }

    /// Computes a step with a version of the parameters. What it is written into is gone until it has a
    /// [place](Self::is_part_of).
    pub(super) fn compute_with(
        &mut self,
        step: u64,
        read: (u64, &[f32]),
        newest: u64,
        format: UpdateFormat,
    ) -> Result<Ready> {
        let (version, parameters) = read;
        let free = self.updates.iter().position(|update| update.is_free(newest));
        let free = free.map(|free| self.updates.swap_remove(free).values);
        let mut values = free.unwrap_or_else(|| Arc::new(Vector::new(parameters.len())));
        if Arc::get_mut(&mut values).is_none() {
            // An owner still holds the vector of an earlier step: leave it that one.
            values = Arc::new(Vector::new(parameters.len()));
        }
        let update: &mut [f32] = match Arc::get_mut(&mut values) {
            Some(values) => values,
            None => &mut [],
        };
        let tallies = self.lane.step(step, parameters, update)?;
        format.round(update);
        Ok(Ready {
            tallies,
            values,
            version,
        })
    }

    /// Notes the step that an update has become a part of.
    pub(super) fn is_part_of(&mut self, values: &Arc<Vector>, step: u64) {
        self.updates.push(Update {
            values: Arc::clone(values),
            step: Some(step),
        });
    }
}

impl Update {
    /// Whether all owners have applied what was in it.
    fn is_free(&self, newest: u64) -> bool {
        self.step.is_none_or(|step| step < newest)
    }
}
