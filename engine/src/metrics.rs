//! What the engine did, counted, so that tests can assert which work was done again.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::id::DatasetId;

/// Counters of a context; they only grow.
#[derive(Debug, Default)]
pub struct Metrics {
    computed: Mutex<HashMap<DatasetId, u64>>,
    blocks: AtomicU64,
    blocks_lost: AtomicU64,
    tasks: AtomicU64,
    jobs: AtomicU64,
}

impl Metrics {
    /// How often a partition of a persisted dataset was computed, first times included.
    pub fn partitions_computed(&self, dataset: DatasetId) -> u64 {
        self.lock().get(&dataset).copied().unwrap_or(0)
    }

    /// Blocks that were planned on and turned out to be evicted, deleted or corrupt.
    pub fn blocks_lost(&self) -> u64 {
        self.blocks_lost.load(Ordering::Relaxed)
    }

    /// Tasks completed: one a partition of a stage.
    pub fn tasks(&self) -> u64 {
        self.tasks.load(Ordering::Relaxed)
    }

    /// Jobs run, rounds of recovery included.
    pub fn jobs(&self) -> u64 {
        self.jobs.load(Ordering::Relaxed)
    }

    /// Counts a computed block; returns how many there were before.
    pub(crate) fn computed(&self, dataset: DatasetId) -> u64 {
        *self.lock().entry(dataset).or_default() += 1;
        self.blocks.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) {
        self.blocks_lost.fetch_add(1, Ordering::Relaxed);
    }

    /// Forgets a dataset that is gone.
    pub(crate) fn forget(&self, dataset: DatasetId) {
        self.lock().remove(&dataset);
    }

    pub(crate) fn task(&self) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn job(&self) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<DatasetId, u64>> {
        self.computed.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
