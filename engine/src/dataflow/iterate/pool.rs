//! The lanes of one process. A lane is placed on a worker, but who has nothing left to do computes steps of others: so
//! a slow worker holds one lane up and not all of its own.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use distdl_storage::Unpoisoned;

use super::lane::HostedLane;
use crate::dataflow::exchange::{Exchange, UpdateSlot};

/// See the [module](self).
pub(super) struct Pool {
    exchange: Arc<Exchange>,
    entries: Arc<Mutex<Vec<LaneEntry>>>,
}

/// What is told of a pool's lanes as long as it is there, without holding what it ends with.
#[derive(Default)]
pub(super) struct LanesAtWork(Arc<Mutex<Vec<LaneEntry>>>);

impl LanesAtWork {
    /// The lanes whose steps are computed, each since when.
    pub(super) fn now(&self) -> Vec<(usize, Instant)> {
        let entries = self.0.lock().unpoisoned();
        let at_work = entries.iter().filter_map(|entry| Some((entry.index, entry.since?)));
        at_work.collect()
    }
}

/// Of one lane.
struct LaneEntry {
    index: usize,
    /// The worker of this process that it is placed on.
    home: usize,
    /// The next step to compute.
    step: u64,
    /// Not here before it is made, and while a worker has it.
    lane: Option<HostedLane>,
    /// Since when a worker computes its step.
    since: Option<Instant>,
}

impl Pool {
    /// Entries for the lanes of this process. They are made by the workers that they are placed on.
    pub(super) fn new(exchange: &Arc<Exchange>) -> Self {
        let first = exchange.team.workers(exchange.team.rank).start;
        let entry = |lane: &usize| LaneEntry {
            index: *lane,
            home: exchange.placement.lanes[*lane] - first,
            step: exchange.parameters.version(),
            lane: None,
            since: None,
        };
        Self {
            exchange: Arc::clone(exchange),
            entries: Arc::new(Mutex::new(exchange.lanes.iter().map(entry).collect())),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Vec<LaneEntry>> {
        self.entries.lock().unpoisoned()
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
        if let Some(entry) = self.entries().iter_mut().find(|entry| entry.index == lane.index) {
            (entry.lane, entry.since) = (Some(lane), None);
            go_on(&mut entry.step);
        }
    }

    /// The lane that this worker is to compute a step of, with the step: one of its own, and of these the one that is
    /// behind most; if none can begin, one of another worker. Where nobody waits its own always can, and lanes of slow
    /// workers would fall behind with all their data: there the one behind most comes first, whosesoever it is.
    pub(super) fn take(&self, worker: usize, exchange: &Exchange) -> Option<(HostedLane, u64)> {
        let newest = exchange.parameters.version();
        let mut entries = self.entries();
        let can_begin = |entry: &&mut LaneEntry| {
            let lane = entry.lane.as_ref();
            lane.is_some_and(|lane| lane.has_room(newest)) && exchange.can_begin(entry.step, newest)
        };
        let next = entries.iter_mut().filter(can_begin);
        let is_asynchronous = exchange.iteration.staleness.is_asynchronous();
        let next = next.min_by_key(|entry| {
            let is_other = entry.home != worker;
            (is_other && !is_asynchronous, entry.step, is_other, entry.index)
        })?;
        next.since = Some(Instant::now());
        Some((next.lane.take()?, next.step))
    }

    /// Nobody computes a step of a lane that has failed.
    pub(super) fn given_up(&self, lane: usize) {
        if let Some(entry) = self.entries().iter_mut().find(|entry| entry.index == lane) {
            entry.since = None;
        }
    }

    pub(super) fn at_work(&self) -> LanesAtWork {
        LanesAtWork(Arc::clone(&self.entries))
    }

    /// Takes back the lanes whose updates have their places in steps now.
    pub(super) fn placed(&self, exchange: &Exchange) -> Vec<(HostedLane, UpdateSlot)> {
        let mut entries = self.entries();
        let waiting = entries
            .iter_mut()
            .filter(|entry| entry.lane.as_ref().is_some_and(|lane| lane.ready.is_some()));
        let placed = waiting.filter_map(|entry| Some((exchange.take_slot(entry.index)?, entry)));
        placed
            .filter_map(|(slot, entry)| Some((entry.lane.take()?, slot)))
            .collect()
    }

    /// The step that is behind most; none if there are no lanes.
    pub(super) fn step(&self) -> Option<u64> {
        self.entries().iter().map(|entry| entry.step).min()
    }
}

impl Drop for Pool {
    /// On whichever worker is the last that holds it.
    fn drop(&mut self) {
        let lanes: Vec<HostedLane> = self
            .entries()
            .iter_mut()
            .filter_map(|entry| entry.lane.take())
            .collect();
        lanes.into_iter().for_each(|lane| lane.end(&self.exchange));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::dataflow::exchange::{Makers, Setting};
    use crate::dataflow::team::Team;
    use crate::error::Result;
    use crate::iteration::{Iteration, Lane, Placement, Tallies};
    use crate::parameters::Parameters;

    struct Nothing;

    impl Lane for Nothing {
        fn step(&mut self, _: u64, _: &[f32], _: &mut [f32]) -> Result<Tallies> {
            Ok(Tallies::default())
        }
    }

    #[test]
    fn a_lane_is_at_work_from_when_it_is_taken_until_it_is_put_back() {
        let placement = Placement {
            lanes: vec![0, 0],
            shards: vec![0],
        };
        let makers = Makers {
            lane: Arc::new(|_| Ok(Box::new(Nothing))),
            shard: Arc::new(|_| unreachable!("no shard is made")),
        };
        let exchange = Exchange::new(
            Iteration::new(1, 2).with_shards(1),
            placement,
            Team::alone(1),
            Arc::new(Parameters::new(vec![1.0; 4])),
            makers,
            Setting::default(),
            std::sync::mpsc::channel().0,
        );
        let exchange = Arc::new(exchange);
        let pool = Pool::new(&exchange);
        (0..2).for_each(|index| pool.put(HostedLane::new(&exchange, index, Box::new(Nothing))));
        assert_eq!(pool.at_work().now(), []);
        let before = Instant::now();
        let (lane, _) = pool.take(0, &exchange).unwrap();
        let [(index, since)] = pool.at_work().now()[..] else {
            panic!("{:?}", pool.at_work().now())
        };
        assert!(index == lane.index && since >= before);
        pool.put_on(lane);
        assert_eq!(pool.at_work().now(), []);
    }
}
