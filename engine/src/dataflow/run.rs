//! An action from plan to results: rounds of jobs, until nothing is missing.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;

use crate::cancel::RunningAction;
use crate::dataflow::job::{Event, Job, Reduce};
use crate::dataflow::stage;
use crate::dataflow::team::Team;
use crate::dataflow::workers::{Build, Workers};
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::lineage::Lineage;
use crate::plan::assign::Assignment;
use crate::plan::recover::recover;
use crate::task::{Resources, Updates};

/// Results by partition, and what was added to accumulators on the way.
#[derive(Default)]
pub(crate) struct Outcome {
    /// One result for each partition asked for.
    pub results: BTreeMap<usize, Box<dyn Any + Send>>,
    /// Additions, to be counted once per origin.
    pub updates: Vec<Updates>,
    /// Tasks that were ended, and how long workers were busy with tasks, in microseconds.
    pub tasks: (u64, u64),
}

/// Rounds that an action may take beyond one for each stage of its first plan. Each round finds all losses that do not
/// hide behind another one, so that only blocks that are lost again and again can use them up.
pub(crate) const EXTRA_ROUNDS_MAX: usize = 16;

/// Time between two looks at tasks that may not end, while nothing comes of others.
const LOOK_TIME: Duration = Duration::from_secs(1);

/// Computes `partitions` of the lineage's target, planning again for what blocks lost on the way have left missing.
pub(crate) fn run(
    workers: &Workers,
    resources: &Arc<Resources>,
    running: &RunningAction<'_>,
    lineage: &Lineage,
    partitions: &[usize],
    reduce: &Reduce,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let available = |dataset: DatasetId, partition: usize| resources.store.contains(dataset.block(partition));
    let (mut rounds, mut rounds_max) = (0, None);
    loop {
        let finished: BTreeSet<usize> = outcome.results.keys().copied().collect();
        // Blocks that memory cannot hold together may be lost in every round: in the end no plan counts on any.
        let counts_on_blocks = rounds_max.is_none_or(|rounds_max| 2 * rounds < rounds_max);
        let counted_on =
            |dataset, partition| (counts_on_blocks || lineage.node(dataset).is_cut()) && available(dataset, partition);
        let Some(plan) = recover(lineage, partitions, &finished, &counted_on, &|_, _| false) else {
            return Ok(outcome);
        };
        if let Some(dataset) = plan.unprepared {
            return Err(EngineError::Unprepared { dataset });
        }
        if rounds == *rounds_max.get_or_insert(plan.stages.len() + EXTRA_ROUNDS_MAX) {
            let missing = partitions
                .iter()
                .copied()
                .filter(|partition| !finished.contains(partition));
            return Err(EngineError::RecoveryExhausted {
                dataset: lineage.target(),
                partitions: missing.collect(),
                rounds,
            });
        }
        resources.metrics.job();
        let assignment = Assignment::alone(&plan);
        let job = Job::new(
            plan,
            assignment,
            Team::alone(workers.count()),
            lineage.clone(),
            Arc::clone(resources),
            reduce.clone(),
            workers.count(),
        );
        let job = Arc::new(job);
        let stopped = Arc::clone(&job);
        running.stops_by(Arc::new(move |error| stopped.fail(error)));
        let round = run_once(workers, 0, &job)?;
        outcome.results.extend(round.results);
        outcome.updates.extend(round.updates);
        rounds += 1;
    }
}

/// Runs this process's part of a job of an action once, to the end or until it is cancelled: there may be results
/// missing.
pub(crate) fn run_once(workers: &Workers, action: u64, job: &Arc<Job>) -> Result<Outcome> {
    let resources = &job.resources;
    resources.board.begin(action, &job.progress, resources.bytes_read());
    let mut outcome = Outcome::default();
    let (events, received) = channel();
    let ended = start(workers, job, events)?;
    loop {
        match received.recv_timeout(LOOK_TIME) {
            Ok(Event::Result(partition, value, updates)) => {
                outcome.results.insert(partition, value);
                outcome.updates.push(updates);
            }
            Ok(Event::Updates(updates)) => outcome.updates.push(updates),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(warning) = job.progress.warning(Instant::now()) {
            resources.board.suspend(|| tracing::warn!("{warning}"));
        }
    }
    // The workers drop their senders before they report the end; wait for it, so that the next dataflow finds them
    // idle.
    let _ = ended.recv();
    workers.check()?;
    outcome.tasks = job.tasks();
    match job.take_failure() {
        Some(error) => Err(error),
        None => Ok(outcome),
    }
}

fn start(workers: &Workers, job: &Arc<Job>, events: Sender<Event>) -> Result<Receiver<()>> {
    let job = Arc::clone(job);
    // One sender a worker and no other, so that the driver's receiver disconnects when the last worker is done.
    let senders = Mutex::new(vec![events; workers.count()]);
    let build: Build = Arc::new(move |worker| {
        if let Some(events) = senders.lock().unpoisoned().pop() {
            stage::build(worker, &job, &events);
        }
    });
    workers.run(build, None)
}
