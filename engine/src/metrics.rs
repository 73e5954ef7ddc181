//! Counters of work done, for programs and tests.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;
use serde::Serialize;

use crate::id::DatasetId;

/// What one worker has done in an iteration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerTimes {
    /// The worker, counted through over all processes.
    pub worker: usize,
    /// Steps of lanes that it has computed.
    pub lane_steps: u64,
    /// Time it took to compute them.
    pub computing: Duration,
    /// Time it took to sum updates, to apply them and to send what others need.
    pub applying: Duration,
    /// The rest of the iteration's time.
    pub waiting: Duration,
    /// The most versions that were complete after the one that a lane's step had read, when its update was ready.
    pub behind_max: u64,
    /// Of all these steps together.
    pub behind_sum: u64,
}

impl WorkerTimes {
    pub(crate) fn lane_took(&mut self, time: Duration, behind: u64) {
        self.lane_steps += 1;
        self.computing += time;
        self.behind_max = self.behind_max.max(behind);
        self.behind_sum += behind;
    }

    /// Those of `worker`, of an iteration that took so long.
    pub(crate) fn of(self, worker: usize, whole: Duration) -> Self {
        let waiting = whole.saturating_sub(self.computing + self.applying);
        Self {
            worker,
            waiting,
            ..self
        }
    }

    /// Of both.
    fn plus(self, other: Self) -> Self {
        Self {
            worker: self.worker,
            lane_steps: self.lane_steps + other.lane_steps,
            computing: self.computing + other.computing,
            applying: self.applying + other.applying,
            waiting: self.waiting + other.waiting,
            behind_max: self.behind_max.max(other.behind_max),
            behind_sum: self.behind_sum + other.behind_sum,
        }
    }
}

/// Counters of a context; they only grow.
#[derive(Debug, Default)]
pub struct Metrics {
    computed: Mutex<HashMap<DatasetId, Computed>>,
    blocks: AtomicU64,
    blocks_lost: AtomicU64,
    tasks: AtomicU64,
    jobs: AtomicU64,
    spilled_bytes: AtomicU64,
    outputs_sent_again: AtomicU64,
    tasks_copied: AtomicU64,
    exchanged_bytes: AtomicU64,
    exchanged_early_bytes: AtomicU64,
    loading_nanoseconds: AtomicU64,
    worker_times: Mutex<BTreeMap<usize, WorkerTimes>>,
}

/// The partitions of one persisted dataset.
#[derive(Debug, Default)]
struct Computed {
    count: u64,
    /// Of each partition's newest block.
    sizes: HashMap<usize, Size>,
}

/// What a block holds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) records: u64,
    pub(crate) memory_bytes: u64,
}

impl Metrics {
    /// How often a partition of a persisted dataset was computed, first times included.
    pub fn partitions_computed(&self, dataset: DatasetId) -> u64 {
        self.lock().get(&dataset).map_or(0, |computed| computed.count)
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

    /// What shuffles, sorts, aggregations and joins put on disk because memory had no room for it, in bytes.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes.load(Ordering::Relaxed)
    }

    /// Tasks that were not run again, since what they had sent into a shuffle was kept.
    pub fn outputs_sent_again(&self) -> u64 {
        self.outputs_sent_again.load(Ordering::Relaxed)
    }

    /// Tasks of slow processes that were begun here as well (`speculate_after`).
    pub fn tasks_copied(&self) -> u64 {
        self.tasks_copied.load(Ordering::Relaxed)
    }

    /// Time in which iterations have waited in this process for the data of their lanes: before steps, partitions are
    /// read or computed and loaded, at the beginning of each iteration and again where lanes have moved. It is no part
    /// of [`worker_times`](Self::worker_times).
    pub fn loading(&self) -> Duration {
        Duration::from_nanos(self.loading_nanoseconds.load(Ordering::Relaxed))
    }

    /// What iterations have given to other processes of updates, measures and new parameters, in bytes: sent, or left
    /// in memory that they share, once for each process that it is for.
    pub fn exchanged_bytes(&self) -> u64 {
        self.exchanged_bytes.load(Ordering::Relaxed)
    }

    /// What of that was sent of updates before their lanes handed them out as a whole, in bytes.
    pub fn exchanged_early_bytes(&self) -> u64 {
        self.exchanged_early_bytes.load(Ordering::Relaxed)
    }

    /// What each worker of this process has done in iterations so far.
    pub fn worker_times(&self) -> Vec<WorkerTimes> {
        let times = self.worker_times.lock().unpoisoned();
        times.values().copied().collect()
    }

    /// The data of lanes has been loaded since then.
    pub(crate) fn loaded_since(&self, begun: Instant) {
        let nanoseconds = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.loading_nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn iterated(&self, times: Vec<WorkerTimes>) {
        let mut all = self.worker_times.lock().unpoisoned();
        for times in times {
            let sum = all.entry(times.worker).or_default();
            *sum = times.plus(*sum);
        }
    }

    pub(crate) fn exchanged(&self, bytes: u64, early_bytes: u64) {
        self.exchanged_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.exchanged_early_bytes.fetch_add(early_bytes, Ordering::Relaxed);
    }

    pub(crate) fn task_copied(&self) {
        self.tasks_copied.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sent_again(&self) {
        self.outputs_sent_again.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn spilled(&self, bytes: u64) {
        self.spilled_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a computed block; returns how many there were before.
    pub(crate) fn computed(&self, dataset: DatasetId, partition: usize, size: Size) -> u64 {
        let mut all = self.lock();
        let computed = all.entry(dataset).or_default();
        computed.count += 1;
        computed.sizes.insert(partition, size);
        self.blocks.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes the size of a block of which this process keeps a copy.
    pub(crate) fn copied(&self, dataset: DatasetId, partition: usize, size: Size) {
        self.lock().entry(dataset).or_default().sizes.insert(partition, size);
    }

    /// The size of a block that was computed or copied here, whether or not it is still there.
    pub(crate) fn size(&self, dataset: DatasetId, partition: usize) -> Option<Size> {
        self.lock().get(&dataset)?.sizes.get(&partition).copied()
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

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<DatasetId, Computed>> {
        self.computed.lock().unpoisoned()
    }
}
