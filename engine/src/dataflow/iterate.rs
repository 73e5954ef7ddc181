//! A feedback loop with the step as timestamp: lanes compute updates, shard owners sum and apply them, and what they
//! have finished lets the lanes go on. No round trip to the driver.
//!
//! Step `t` reads version `t` of the parameters, or an older one where lanes may lag behind, and makes version `t + 1`.
//! Lanes let go of what they read before they hand out their updates, and owners begin version `t + 1` when they have
//! all updates of step `t`: so nobody reads the version any more into whose buffer it is written. (Asynchronous lanes
//! read a copy.)
//!
//! ```text
//!            +--> lanes (step t) --contributions, by worker--> apply (step t) --+
//!            |                                                                  |
//!            +---------------- feedback: worker w finished step t <-------------+
//! ```
//!
//! Lanes and owners of other processes stand beside this loop: see `exchange`.

mod lane;
mod lanes;
mod parts;
mod pool;
mod shards;

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;
use serde::{Deserialize, Serialize};
use timely::dataflow::operators::{ConnectLoop, Feedback};
use timely::worker::Worker;

use self::lanes::{Hosted, lanes};
use self::pool::{LanesAtWork, Pool};
use self::shards::{Owned, apply};
use crate::cancel::RunningAction;
use crate::dataflow::exchange::{Exchange, Makers, REPORT_DELAY, Setting};
use crate::dataflow::observer::Observer;
use crate::dataflow::team::Team;
use crate::dataflow::vector::Vector;
use crate::dataflow::workers::{Build, IdlePoll, Workers};
use crate::error::Result;
use crate::iteration::{Iteration, StepReport, Tallies};
use crate::metrics::Metrics;
use crate::parameters::Parameters;
use crate::progress::told_after;

/// One lane's update of one step, on its way to the workers of this process that use it. All read the same vector.
/// Where updates come in any order, the lane is the place that it was given.
#[derive(Serialize, Deserialize)]
struct Contribution {
    worker: u64,
    step: u64,
    lane: u64,
    tallies: Tallies,
    update: Arc<Vector>,
}

/// Tells a worker that shards have finished a step.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Finished {
    worker: u64,
    step: u64,
}

/// Time between two looks at lanes where no step ends.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// Sees a step that is applied.
pub(crate) type Observe<'a> = &'a mut dyn FnMut(&StepReport) -> Result<()>;

/// Runs an iteration on the workers of this process alone; `observer` sees each step once it is applied, in order.
pub(crate) fn run(
    (workers, metrics): (&Workers, &Metrics),
    running: &RunningAction<'_>,
    iteration: Iteration,
    parameters: Arc<Parameters>,
    makers: Makers,
    setting: Setting,
    observer: &mut Observer<'_>,
) -> Result<()> {
    let placement = iteration.placement(workers.count())?;
    iteration.check(&parameters)?;
    parameters.begin(iteration.first_step)?;
    let (reports, received) = channel();
    let team = Team::alone(workers.count());
    let exchange = Exchange::new(iteration, placement, team, parameters, makers, setting, reports);
    let exchange = Arc::new(exchange);
    let stopped = Arc::clone(&exchange);
    running.stops_by(Arc::new(move |error| stopped.fail(error)));
    run_loop(workers, &exchange, metrics, &received, &mut |report| {
        observer.show(report)
    })
}

/// Runs this process's part of an iteration to its end, or until it fails, `observe` does or it is stopped.
pub(crate) fn run_loop(
    workers: &Workers,
    exchange: &Arc<Exchange>,
    metrics: &Metrics,
    reports: &Receiver<Vec<StepReport>>,
    observe: Observe<'_>,
) -> Result<()> {
    let begun = Instant::now();
    let pool = Arc::new(Pool::new(exchange));
    let mut lanes = LongLanes {
        at_work: pool.at_work(),
        told: 0,
    };
    let ended = start(workers, exchange, pool)?;
    let mut waiting = watch(exchange, &mut lanes, reports, observe);
    let _ = ended.recv();
    metrics.iterated(exchange.times(begun.elapsed()));
    exchange.spread_states();
    waiting.extend(exchange.seal());
    observe_applied(exchange, &mut waiting, observe);
    workers.check()?;
    match exchange.take_failure() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Follows the steps until no more reports come. Returns the reports of steps that were not applied by then.
fn watch(
    exchange: &Exchange,
    lanes: &mut LongLanes,
    received: &Receiver<Vec<StepReport>>,
    observe: Observe<'_>,
) -> VecDeque<StepReport> {
    let mut waiting = VecDeque::new();
    loop {
        // An owner reports when its own shards have finished a step; others may be about to.
        let look_time = if waiting.is_empty() { LOOK_TIME } else { REPORT_DELAY };
        match received.recv_timeout(look_time) {
            Ok(reports) => waiting.extend(reports),
            Err(RecvTimeoutError::Timeout) => lanes.look(exchange),
            Err(RecvTimeoutError::Disconnected) => return waiting,
        }
        observe_applied(exchange, &mut waiting, observe);
    }
}

fn observe_applied(exchange: &Exchange, waiting: &mut VecDeque<StepReport>, observe: Observe<'_>) {
    let applied = |report: &StepReport| report.step < exchange.parameters.version();
    while waiting.front().is_some_and(applied)
        && let Some(report) = waiting.pop_front()
    {
        if let Err(error) = observe(&report) {
            exchange.fail(error);
        }
    }
}

/// Lanes whose steps do not end: people are told, as they are of tasks.
struct LongLanes {
    at_work: LanesAtWork,
    /// How often it was told of one.
    told: u32,
}

impl LongLanes {
    fn look(&mut self, exchange: &Exchange) {
        if let Some(longest) = self.warning(&self.at_work.now(), Instant::now()) {
            tracing::warn!("`iterate` (declared at {}) {longest}", exchange.iteration.site);
        }
    }

    /// What people are to be told of lanes that are at work since then, if anything.
    fn warning(&mut self, at_work: &[(usize, Instant)], now: Instant) -> Option<String> {
        let (lane, since) = at_work.iter().min_by_key(|(_, since)| *since)?;
        let lasted = now.saturating_duration_since(*since);
        if lasted < told_after(self.told) {
            return None;
        }
        self.told += 1;
        let (seconds, process) = (lasted.as_secs(), std::process::id());
        Some(format!(
            "has been at a step of lane {lane} for {seconds} s (process {process}): the action waits for that"
        ))
    }
}

fn start(workers: &Workers, exchange: &Arc<Exchange>, pool: Arc<Pool>) -> Result<Receiver<()>> {
    let exchange = Arc::clone(exchange);
    // No report comes when the last worker is done: then this is dropped.
    let closing = Arc::new(Closing(Arc::clone(&exchange)));
    let closings = Mutex::new(vec![closing; workers.count()]);
    let idle = (exchange.team.ranks() > 1).then(|| Arc::clone(&exchange) as Arc<dyn IdlePoll>);
    let build: Build = Arc::new(move |worker| {
        let closing = closings.lock().unpoisoned().pop();
        build(worker, &exchange, &pool, closing);
    });
    workers.run(build, idle)
}

/// Held by every worker while its part of the loop runs.
struct Closing(Arc<Exchange>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close_reports();
    }
}

fn build(worker: &mut Worker, exchange: &Arc<Exchange>, pool: &Arc<Pool>, closing: Option<Arc<Closing>>) {
    let index = worker.index();
    worker.dataflow::<u64, _, _>(|scope| {
        let (handle, finished) = scope.feedback::<Vec<Finished>>(1);
        let contributions = lanes(scope, finished, Hosted::new(exchange, pool, index));
        apply(scope, contributions, Owned::new(exchange, index), closing).connect_loop(handle);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_whose_step_does_not_end_is_told_of_at_doubling_times() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut lanes = LongLanes {
            at_work: LanesAtWork::default(),
            told: 0,
        };
        assert_eq!(lanes.warning(&[], at(1000)), None, "no lane is at work");
        let at_work = [(7, at(5)), (3, begun)];
        let told = (0..200).filter_map(|seconds| Some((seconds, lanes.warning(&at_work, at(seconds))?)));
        let told: Vec<(u64, String)> = told.collect();
        let expected = [30, 60, 120].map(|seconds| {
            let process = std::process::id();
            let words = "the action waits for that";
            (
                seconds,
                format!("has been at a step of lane 3 for {seconds} s (process {process}): {words}"),
            )
        });
        assert_eq!(told, expected);
    }
}
