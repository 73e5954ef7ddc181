//! Speculative copies: a process that has nothing left to do in a stage computes what others are slow to finish.
//!
//! Results do not depend on who computed them, so whichever attempt at a partition ends first counts, for each reader
//! by itself, and the others are stopped. Only stages that read no shuffle are copied: what a shuffle brings is sent to
//! one process alone.
//!
//! The rule is that of Spark (`spark.speculation`): a task is slow that takes some times the median. Here nobody hears
//! of the tasks that others begin, only of those that end, so a process counts as slow when none of its tasks has ended
//! for one and a half times the median. One with many threads is silent only if all of them are slow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;

use crate::plan::assign::Assignment;
use crate::plan::{Output, Plan};

/// Nobody sleeps longer without looking.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Time between two looks while it is not known how long tasks take.
const LOOK_TIME: Duration = Duration::from_millis(10);

/// The stages of a job whose tasks may be copied, as one process sees them.
pub(crate) struct Speculation {
    rank: usize,
    /// Ranks that compute, ascending.
    computing: Vec<usize>,
    /// How long a process may be silent at least.
    silence_min: Duration,
    stages: BTreeMap<usize, Mutex<StageAttempts>>,
}

/// What is known of a stage.
struct StageAttempts {
    /// Partitions that may be copied.
    covered: BTreeSet<usize>,
    /// Partitions of which no attempt has ended as far as is known here, and whose they are.
    open: BTreeMap<usize, usize>,
    /// What stops the attempts that run here.
    running: BTreeMap<usize, Arc<AtomicBool>>,
    /// How long tasks took, in any process; ascending.
    times: Vec<Duration>,
    /// When each rank has last ended a task, or else when this process began to watch.
    heard: BTreeMap<usize, Instant>,
}

/// What a worker does that has no task of its process left.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SpareWork {
    /// Computes this partition of another process.
    Copies(usize),
    /// Looks again after this time, or when a task has ended.
    Waits(Duration),
    /// There is nothing that it could do any more.
    Leaves,
}

impl Speculation {
    /// For the process with a rank, one of those that are `computing`, which copies where another is silent for longer
    /// than `silence_min`. Results that are bound to their place are not copied; outputs that are kept are sent by who
    /// has them.
    pub(crate) fn new(
        silence_min: Duration,
        (plan, assignment): (&Plan, &Assignment),
        (rank, computing): (usize, &[usize]),
        is_bound: &dyn Fn(usize) -> bool,
    ) -> Self {
        let stages = plan.stages.iter().enumerate().filter(|(_, stage)| {
            let free = stage.output != Output::Result || !stage.partitions.iter().any(|partition| is_bound(*partition));
            stage.reads.is_empty() && free
        });
        let stages = stages.map(|(index, stage)| {
            let open = stage
                .partitions
                .iter()
                .filter(|partition| !stage.kept.contains(*partition));
            let open = open.filter_map(|partition| Some((*partition, assignment.rank(index, *partition)?)));
            let open: BTreeMap<usize, usize> = open.collect();
            let stage = StageAttempts {
                covered: open.keys().copied().collect(),
                open,
                running: BTreeMap::new(),
                times: Vec::new(),
                heard: BTreeMap::new(),
            };
            (index, Mutex::new(stage))
        });
        Self {
            rank,
            computing: computing.to_vec(),
            silence_min,
            stages: stages.collect(),
        }
    }

    /// Whether a partition of a stage may be copied.
    pub(crate) fn covers(&self, stage: usize, partition: usize) -> bool {
        self.stage(stage)
            .is_some_and(|stage| stage.covered.contains(&partition))
    }

    /// An attempt at a partition begins here: what stops it. `None` if another one has ended already, or is run by
    /// another worker of this process: readers tell attempts apart by their process.
    pub(crate) fn begin(&self, stage: usize, partition: usize) -> Option<Arc<AtomicBool>> {
        let mut stage = self.stage(stage)?;
        if !stage.open.contains_key(&partition) || stage.running.contains_key(&partition) {
            return None;
        }
        let stop = Arc::<AtomicBool>::default();
        stage.running.insert(partition, Arc::clone(&stop));
        Some(stop)
    }

    /// An attempt at a partition, by `rank`, has ended `now`, after this `time`: one that runs here is stopped.
    pub(crate) fn ended(&self, (stage, partition): (usize, usize), rank: usize, time: Duration, now: Instant) {
        let Some(mut stage) = self.stage(stage) else { return };
        stage.open.remove(&partition);
        if let Some(stop) = stage.running.remove(&partition) {
            stop.store(true, Ordering::SeqCst);
        }
        let position = stage.times.partition_point(|other| *other < time);
        stage.times.insert(position, time);
        stage.heard.insert(rank, now);
    }

    /// What a worker does `now` that has no task of its process left in a stage.
    pub(crate) fn idle(&self, stage: usize, now: Instant) -> SpareWork {
        let Some(mut stage) = self.stage(stage) else {
            return SpareWork::Leaves;
        };
        let stage = &mut *stage;
        let others: Vec<(usize, usize)> = stage
            .open
            .iter()
            .filter(|(partition, rank)| **rank != self.rank && !stage.running.contains_key(*partition))
            .map(|(partition, rank)| (*partition, *rank))
            .collect();
        if others.is_empty() {
            return SpareWork::Leaves;
        }
        let Some(median) = stage.times.get(stage.times.len() / 2) else {
            return SpareWork::Waits(LOOK_TIME);
        };
        let silence_max = (*median * 3 / 2).max(self.silence_min);
        let mut wait = WAIT_MAX;
        // A process takes its tasks in ascending order: the last ones are the least likely to have been begun.
        for (partition, rank) in others.into_iter().rev() {
            // The next rank comes first, and the one behind it when that should have ended, so that not all copy the
            // same.
            let turn = self.turn_behind(rank);
            let silent = now.saturating_duration_since(*stage.heard.entry(rank).or_insert(now));
            let left = silence_max.saturating_mul(turn).saturating_sub(silent);
            if left.is_zero() {
                return SpareWork::Copies(partition);
            }
            wait = wait.min(left);
        }
        SpareWork::Waits(wait)
    }

    /// How many turns behind `rank` this process has its own, from 1, among those that compute.
    fn turn_behind(&self, rank: usize) -> u32 {
        let position = |rank| {
            self.computing
                .iter()
                .position(|computing| *computing == rank)
                .unwrap_or(0)
        };
        let count = self.computing.len().max(1);
        let turn = (position(self.rank) + count - position(rank)) % count;
        u32::try_from(turn.max(1)).unwrap_or(u32::MAX)
    }

    fn stage(&self, stage: usize) -> Option<MutexGuard<'_, StageAttempts>> {
        let stage = self.stages.get(&stage)?;
        Some(stage.lock().unpoisoned())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::id::DatasetId;

    const SECOND: Duration = Duration::from_secs(1);

    /// Partition p of eight is that of rank p % 4; partition 7 is kept where it is.
    fn speculation(rank: usize, is_pinned: bool) -> Speculation {
        let stage = crate::plan::Stage {
            root: DatasetId(0),
            partitions: (0..8).collect(),
            output: Output::Result,
            kept: BTreeSet::from([7]),
            reads: BTreeMap::new(),
            blocks: BTreeMap::new(),
        };
        let plan = Plan {
            stages: vec![stage],
            unprepared: None,
        };
        let assignment = Assignment::of(vec![(0..8).map(|partition| (partition, partition % 4)).collect()]);
        Speculation::new(SECOND / 10, (&plan, &assignment), (rank, &[0, 1, 2, 3]), &|_| is_pinned)
    }

    #[test]
    fn the_last_task_of_a_silent_process_is_copied_by_the_next_one() {
        let (next, after) = (speculation(1, false), speculation(2, false));
        let begin = Instant::now();
        for speculation in [&next, &after] {
            assert_eq!(
                speculation.idle(0, begin),
                SpareWork::Waits(LOOK_TIME),
                "nobody knows how long"
            );
            for partition in [1, 2, 3, 5, 6] {
                speculation.ended((0, partition), partition % 4, SECOND, begin);
            }
            assert_eq!(
                speculation.idle(0, begin),
                SpareWork::Waits(SECOND * 3 / 2 * speculation.rank as u32)
            );
        }
        let later = begin + SECOND * 3 / 2;
        assert_eq!(next.idle(0, later), SpareWork::Copies(4));
        assert!(next.begin(0, 4).is_some());
        assert_eq!(
            next.idle(0, later),
            SpareWork::Copies(0),
            "another worker takes another one"
        );
        assert_eq!(after.idle(0, later), SpareWork::Waits(SECOND * 3 / 2));
        after.ended((0, 4), 1, SECOND, later);
        after.ended((0, 0), 0, SECOND, later);
        assert_eq!(after.idle(0, later), SpareWork::Leaves);
    }

    #[test]
    fn who_is_heard_of_is_not_copied_soon() {
        let speculation = speculation(1, false);
        let begin = Instant::now();
        speculation.ended((0, 1), 1, SECOND, begin);
        speculation.idle(0, begin);
        speculation.ended((0, 0), 0, SECOND, begin + SECOND);
        assert_eq!(speculation.idle(0, begin + SECOND * 2), SpareWork::Waits(SECOND / 2));
    }

    #[test]
    fn the_first_to_end_stops_the_others() {
        let speculation = speculation(0, false);
        let stop = speculation.begin(0, 4).unwrap();
        assert!(speculation.begin(0, 4).is_none(), "one attempt a process");
        speculation.ended((0, 4), 1, SECOND, Instant::now());
        assert!(stop.load(Ordering::SeqCst));
        assert!(speculation.begin(0, 4).is_none(), "it is not begun again");
    }

    #[test]
    fn what_is_bound_to_a_place_is_not_copied() {
        let pinned = speculation(1, true);
        assert!(!pinned.covers(0, 0));
        assert_eq!(pinned.idle(0, Instant::now()), SpareWork::Leaves);
        let free = speculation(1, false);
        assert!(free.covers(0, 3) && !free.covers(0, 7));
    }
}
