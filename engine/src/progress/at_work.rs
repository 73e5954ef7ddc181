//! Which tasks of a job are computed in this process, and since when: of one that does not end people are told.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;
use serde::{Deserialize, Serialize};

/// A task that lasts so long is told of; for each next one of the job it takes twice as long as for the one before.
const LONG: Duration = Duration::from_secs(30);

/// A task that lasts so long is shown with how far its action is.
const SHOWN: Duration = Duration::from_secs(10);

/// The task of an action that has been computed for longest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LongestTask {
    /// Whole seconds so far.
    pub seconds: u64,
    /// The dataset that its stage ends with, and where that was declared.
    pub operator: String,
    /// Its partition.
    pub partition: u64,
    /// The process that computes it, as numbered by its operating system.
    pub process: u32,
}

impl Display for LongestTask {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let Self {
            operator,
            partition,
            seconds,
            process,
        } = self;
        write!(
            formatter,
            "{operator} has been at partition {partition} for {seconds} s (process {process})"
        )
    }
}

/// How long something must last for people to be told of it, when they were told of something so often before.
pub(crate) fn told_after(told: u32) -> Duration {
    LONG.saturating_mul(2_u32.saturating_pow(told))
}

/// The tasks that workers of this process are at.
#[derive(Debug, Default)]
pub(super) struct AtWork {
    /// By stage: its dataset and where that was declared.
    operators: Vec<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By stage and worker: the partition, and since when.
    tasks: BTreeMap<(usize, usize), (usize, Instant)>,
    /// How often it was told of one.
    told: u32,
}

impl AtWork {
    pub(super) fn new(operators: Vec<String>) -> Self {
        Self {
            operators,
            ..Self::default()
        }
    }

    pub(super) fn stages(&self) -> usize {
        self.operators.len()
    }

    pub(super) fn begin(&self, stage: usize, worker: usize, partition: usize, now: Instant) {
        let mut state = self.state.lock().unpoisoned();
        state.tasks.insert((stage, worker), (partition, now));
    }

    pub(super) fn end(&self, stage: usize, worker: usize) {
        self.state.lock().unpoisoned().tasks.remove(&(stage, worker));
    }

    /// The one to be shown, if any lasts for long.
    pub(super) fn longest(&self, now: Instant) -> Option<LongestTask> {
        self.oldest(&self.state.lock().unpoisoned(), now, SHOWN)
    }

    /// What people are to be told now, if anything.
    pub(super) fn warning(&self, now: Instant) -> Option<String> {
        let mut state = self.state.lock().unpoisoned();
        let long = told_after(state.told);
        let longest = self.oldest(&state, now, long)?;
        state.told += 1;
        let lasts = |(_, since): &&(usize, Instant)| now.saturating_duration_since(*since) >= long;
        let others = match state.tasks.values().filter(lasts).count() - 1 {
            0 => String::new(),
            1 => ", and another worker at another one for as long".to_owned(),
            others => format!(", and {others} other workers at others for as long"),
        };
        Some(format!("{longest}{others}: the action waits for that"))
    }

    fn oldest(&self, state: &State, now: Instant, least: Duration) -> Option<LongestTask> {
        let ((stage, _), (partition, since)) = state.tasks.iter().min_by_key(|(_, (_, since))| *since)?;
        let lasted = now.saturating_duration_since(*since);
        (lasted >= least).then(|| LongestTask {
            seconds: lasted.as_secs(),
            operator: self.operators.get(*stage).cloned().unwrap_or_default(),
            partition: *partition as u64,
            process: std::process::id(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_task_that_does_not_end_is_told_of_at_doubling_times() {
        let at_work = AtWork::new(
            ["`map` (main.rs:62)", "`count` (main.rs:70)"]
                .map(str::to_owned)
                .to_vec(),
        );
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert_eq!(at_work.warning(at(1000)), None, "nothing runs");
        at_work.begin(0, 1, 3, begun);
        at_work.begin(1, 0, 7, at(1));
        assert_eq!(at_work.warning(at(29)), None);
        let told: Vec<_> = (30..=1000).filter_map(|seconds| at_work.warning(at(seconds))).collect();
        let expected = |seconds: u64, others: &str| {
            format!(
                "`map` (main.rs:62) has been at partition 3 for {seconds} s (process {}){others}: the action waits \
                 for that",
                std::process::id()
            )
        };
        let times: Vec<_> = [30, 60, 120, 240, 480, 960]
            .map(|seconds| expected(seconds, ""))
            .to_vec();
        assert_eq!(told, times);
        assert_eq!(
            at_work.warning(at(2000)).unwrap(),
            expected(2000, ", and another worker at another one for as long")
        );
        at_work.end(0, 1);
        at_work.end(1, 0);
        assert_eq!(at_work.warning(at(1_000_000)), None, "all have ended");
    }

    #[test]
    fn the_task_that_has_lasted_longest_is_shown_once_it_is_long() {
        let at_work = AtWork::new(vec!["`map` (main.rs:62)".to_owned()]);
        let begun = Instant::now();
        at_work.begin(0, 1, 3, begun);
        at_work.begin(0, 0, 2, begun + Duration::from_secs(5));
        assert_eq!(at_work.longest(begun + Duration::from_secs(9)), None);
        let shown = at_work.longest(begun + Duration::from_secs(12)).unwrap();
        assert_eq!((shown.partition, shown.seconds), (3, 12));
        at_work.begin(0, 1, 4, begun + Duration::from_secs(13));
        assert_eq!(at_work.longest(begun + Duration::from_secs(16)).unwrap().partition, 2);
    }
}
