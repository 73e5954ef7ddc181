//! One action on its way through the workers: what they share, and what comes back.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::batch::{AnyStream, TaskResult};
use crate::error::EngineError;
use crate::id::ShuffleId;
use crate::lineage::Lineage;
use crate::plan::Plan;
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
    /// A job that nobody has begun.
    pub fn new(plan: Plan, lineage: Lineage, resources: Arc<Resources>, reduce: Reduce) -> Self {
        Self {
            claimed: plan.stages.iter().map(|_| AtomicUsize::new(0)).collect(),
            plan,
            lineage,
            resources,
            reduce,
            cancelled: Arc::default(),
            incomplete: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// The error that the job ended with, once.
    pub fn take_failure(&self) -> Option<EngineError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

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
