//! One action on its way through the workers: what they share, and what comes back.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use distdl_storage::BlockId;

use crate::batch::{AnyStream, TaskResult};
use crate::dataflow::stage;
use crate::dataflow::workers::Workers;
use crate::error::{EngineError, Result};
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::Lineage;
use crate::plan::Plan;
use crate::recover::recover;
use crate::task::{Resources, TaskContext, Updates};

/// What an action makes of one partition.
pub type Reduce = Arc<dyn Fn(&TaskContext, usize, AnyStream) -> TaskResult<Box<dyn Any + Send>> + Send + Sync>;

/// What a worker tells the driver.
pub enum Event {
    /// A partition's result, and what its closures added to accumulators.
    Result(usize, Box<dyn Any + Send>, Updates),
    /// A task of an inner stage ended; what its closures added.
    Updates(Updates),
}

/// Results by partition, and what was added to accumulators on the way.
pub struct Outcome {
    /// One result for each partition asked for.
    pub results: BTreeMap<usize, Box<dyn Any + Send>>,
    /// Additions, to be counted once a place.
    pub updates: Vec<Updates>,
}

/// What the workers share while they run one plan.
pub struct Job {
    /// The plan.
    pub plan: Plan,
    /// What it was made from.
    pub lineage: Lineage,
    /// Stores and limits.
    pub resources: Arc<Resources>,
    /// The action.
    pub reduce: Reduce,
    /// Set when the action has failed: everybody stops.
    pub cancelled: Arc<AtomicBool>,
    /// Set when a block is lost that only a new plan can replace. What reads a shuffle then skips its work, since the
    /// shuffle is not whole; the others go on, so that the next plan knows of every other loss.
    pub incomplete: AtomicBool,
    /// For each stage: how many of its partitions have been claimed.
    pub claimed: Vec<AtomicUsize>,
    failure: Mutex<Option<EngineError>>,
}

impl Job {
    /// Ends the job with an error; the first one counts.
    pub fn fail(&self, error: EngineError) {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.cancelled.store(true, Ordering::SeqCst);
    }

    /// Notes that this round cannot give every result: what is missing will be planned again.
    pub fn lose(&self) {
        self.incomplete.store(true, Ordering::SeqCst);
    }

    /// The stages that read `shuffle`, by index.
    pub fn readers(&self, shuffle: ShuffleId) -> Vec<usize> {
        let stages = self.plan.stages.iter().enumerate();
        stages
            .filter(|(_, stage)| stage.reads.contains_key(&shuffle))
            .map(|(index, _)| index)
            .collect()
    }
}

/// Rounds that an action may take beyond one for each stage of its first plan. Each round finds all losses that do not
/// hide behind another one, so that only blocks that are lost again and again can use them up.
const EXTRA_ROUNDS_MAX: usize = 16;

/// Computes `partitions` of the lineage's target, planning again for what blocks lost on the way have left missing.
pub fn run(
    workers: &Workers,
    resources: &Arc<Resources>,
    lineage: &Lineage,
    partitions: &[usize],
    reduce: &Reduce,
) -> Result<Outcome> {
    let mut outcome = Outcome {
        results: BTreeMap::new(),
        updates: Vec::new(),
    };
    let available = |dataset: DatasetId, partition: usize| {
        resources.store.contains(BlockId {
            dataset: dataset.0,
            partition: partition as u64,
        })
    };
    let (mut rounds, mut rounds_max) = (0, None);
    loop {
        let finished: BTreeSet<usize> = outcome.results.keys().copied().collect();
        let Some(plan) = recover(lineage, partitions, &finished, &available) else {
            return Ok(outcome);
        };
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
        run_once(workers, resources, lineage, plan, reduce, &mut outcome)?;
        rounds += 1;
    }
}

fn run_once(
    workers: &Workers,
    resources: &Arc<Resources>,
    lineage: &Lineage,
    plan: Plan,
    reduce: &Reduce,
    outcome: &mut Outcome,
) -> Result<()> {
    resources.metrics.job();
    let job = Arc::new(Job {
        claimed: plan.stages.iter().map(|_| AtomicUsize::new(0)).collect(),
        plan,
        lineage: lineage.clone(),
        resources: Arc::clone(resources),
        reduce: Arc::clone(reduce),
        cancelled: Arc::default(),
        incomplete: AtomicBool::new(false),
        failure: Mutex::new(None),
    });
    let (events, received) = channel();
    let ended = start(workers, &job, events)?;
    for event in received {
        match event {
            Event::Result(partition, value, updates) => {
                outcome.results.insert(partition, value);
                outcome.updates.push(updates);
            }
            Event::Updates(updates) => outcome.updates.push(updates),
        }
    }
    // The workers drop their senders before they report the end; wait for it, so that the next dataflow finds them idle.
    let _ = ended.recv();
    workers.check()?;
    match job.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn start(workers: &Workers, job: &Arc<Job>, events: Sender<Event>) -> Result<Receiver<()>> {
    let job = Arc::clone(job);
    // One sender a worker and no other, so that the driver's receiver disconnects when the last worker is done.
    let senders = Mutex::new(vec![events; workers.count()]);
    workers.run(Arc::new(move |worker| {
        if let Some(events) = senders.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            stage::build(worker, &job, &events);
        }
    }))
}
