//! The lanes of one process. A lane is placed on a worker, but who has nothing left to do computes steps of others: so a slow
//! worker holds one lane up and not all of its own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lane::HostedLane;
use crate::dataflow::exchange::{Exchange, Turn};

/// See the [module](self).
pub(super) struct Pool {
    exchange: Arc<Exchange>,
    places: Mutex<Vec<Place>>,
}

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

impl Pool {
    /// Places for the lanes of this process. They are made by the workers that they are placed on.
    pub(super) fn new(exchange: &Arc<Exchange>) -> Self {
        let first = exchange.team.workers(exchange.team.rank).start;
        let place = |lane: &usize| Place {
            index: *lane,
            home: exchange.placement.lanes[*lane] - first,
            step: exchange.parameters.version(),
            lane: None,
        };
        Self {
            exchange: Arc::clone(exchange),
            places: Mutex::new(exchange.lanes.iter().map(place).collect()),
        }
    }

    fn places(&self) -> MutexGuard<'_, Vec<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
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

impl Drop for Pool {
    fn drop(&mut self) {
        let lanes: Vec<HostedLane> = self.places().iter_mut().filter_map(|place| place.lane.take()).collect();
        lanes.into_iter().for_each(|lane| lane.end(&self.exchange));
    }
}
