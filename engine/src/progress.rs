//! How far the tasks of an action are, for people: counted where they run, and drawn as a bar on a terminal, or written
//! in lines where there is none.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::{Deserialize, Serialize};

mod at_work;

use at_work::AtWork;
pub use at_work::LongestTask;
pub(crate) use at_work::told_after;

/// Time between two looks at what runs.
pub(crate) const LOOK_TIME: Duration = Duration::from_millis(100);

/// Looks that an action must last to be drawn: what is over sooner only flickers.
const LOOKS_MIN: u32 = 3;

/// Without a terminal: time from the beginning of an action to its first line, and from line to line at least.
const LINE_TIME: Duration = Duration::from_secs(10);

const TEMPLATE: &str = "{prefix} [{bar:24}] {pos}/{len} tasks, {msg}";

/// How far the tasks of the action that runs are, in one process or in all together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobProgress {
    /// Number of the action; 0 with one process.
    pub action: u64,
    /// Its dataset and where that was declared.
    pub name: String,
    /// Stages of the plan that runs.
    pub stages: u64,
    /// Tasks of that plan.
    pub tasks: u64,
    /// Of those, the ones that have ended.
    pub tasks_ended: u64,
    /// Records that came out of tasks so far.
    pub records: u64,
    /// Bytes that were read since the plan began: remote and local files, from peers, and blocks.
    pub bytes: u64,
    /// The task that has been computed for longest, if that is some seconds.
    pub longest: Option<LongestTask>,
}

impl JobProgress {
    /// What several processes have done of one action.
    pub(crate) fn sum<'a>(parts: impl Iterator<Item = &'a Self>) -> Option<Self> {
        parts.cloned().reduce(|left, right| Self {
            stages: left.stages.max(right.stages),
            tasks: left.tasks.saturating_add(right.tasks),
            tasks_ended: left.tasks_ended.saturating_add(right.tasks_ended),
            records: left.records.saturating_add(right.records),
            bytes: left.bytes.saturating_add(right.bytes),
            longest: [left.longest, right.longest]
                .into_iter()
                .flatten()
                .max_by_key(|task| task.seconds),
            ..left
        })
    }

    fn message(&self) -> String {
        let stages = match self.stages {
            1 => "1 stage".to_owned(),
            stages => format!("{stages} stages"),
        };
        let (records, bytes) = (HumanCount(self.records), HumanBytes(self.bytes));
        let longest = self
            .longest
            .as_ref()
            .map_or_else(String::new, |longest| format!("; {longest}"));
        format!("{stages}, {records} records, {bytes} read{longest}")
    }
}

/// Counters of the tasks that this process runs of a plan.
#[derive(Debug, Default)]
pub(crate) struct RunningJob {
    name: String,
    tasks: u64,
    tasks_ended: AtomicU64,
    records: AtomicU64,
    at_work: AtWork,
}

impl RunningJob {
    /// Of `operators` people are told what their stages end with.
    pub(crate) fn new(name: String, operators: Vec<String>, tasks: usize) -> Self {
        Self {
            name,
            tasks: tasks as u64,
            at_work: AtWork::new(operators),
            ..Self::default()
        }
    }

    pub(crate) fn task_ended(&self) {
        self.tasks_ended.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn put_out(&self, records: usize) {
        self.records.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// A worker begins a task of a stage.
    pub(crate) fn begins(&self, stage: usize, worker: usize, partition: usize, now: Instant) {
        self.at_work.begin(stage, worker, partition, now);
    }

    /// A worker is at no task of a stage any more, however that has ended.
    pub(crate) fn leaves(&self, stage: usize, worker: usize) {
        self.at_work.end(stage, worker);
    }

    /// What people are to be told of tasks that do not end, if anything.
    pub(crate) fn warning(&self, now: Instant) -> Option<String> {
        self.at_work.warning(now)
    }
}

/// What runs in a process now, and the bar that shows it, if one is shown.
#[derive(Debug, Default)]
pub(crate) struct Board {
    running: Mutex<Option<Running>>,
    bar: Bar,
    is_hidden: AtomicBool,
}

#[derive(Debug)]
struct Running {
    action: u64,
    job: Arc<RunningJob>,
    bytes_before: u64,
}

impl Board {
    /// A plan begins, in this action; so many bytes were read before.
    pub(crate) fn begin(&self, action: u64, job: &Arc<RunningJob>, bytes_before: u64) {
        *self.running.lock().unpoisoned() = Some(Running {
            action,
            job: Arc::clone(job),
            bytes_before,
        });
    }

    /// The action is over: nothing is drawn any more when this returns.
    pub(crate) fn end(&self) {
        let over = self.running.lock().unpoisoned().take();
        if over.is_some() {
            self.bar.clear();
        }
    }

    /// Draws nothing from now on.
    pub(crate) fn hide(&self) {
        self.is_hidden.store(true, Ordering::SeqCst);
        self.bar.clear();
    }

    /// How far it is, given the bytes that were read up to now.
    pub(crate) fn now(&self, bytes: impl Fn() -> u64) -> Option<JobProgress> {
        let running = self.running.lock().unpoisoned();
        let Running {
            action,
            job,
            bytes_before,
        } = running.as_ref()?;
        Some(JobProgress {
            action: *action,
            name: job.name.clone(),
            stages: job.at_work.stages() as u64,
            tasks: job.tasks,
            tasks_ended: job.tasks_ended.load(Ordering::Relaxed),
            records: job.records.load(Ordering::Relaxed),
            bytes: bytes().saturating_sub(*bytes_before),
            longest: job.at_work.longest(Instant::now()),
        })
    }

    /// Writes something else to the terminal, not through the bar.
    pub(crate) fn suspend(&self, write: impl FnOnce()) {
        self.bar.suspend(write);
    }

    /// Draws how far it is at each look, until the other end of the channel is dropped.
    pub(crate) fn watch(over: &Receiver<()>, look: impl Fn(&dyn Fn(&Self, Option<JobProgress>)) -> bool) {
        let draw = |board: &Self, progress: Option<JobProgress>| {
            if let Some(progress) = progress {
                let still_runs =
                    || board.running.lock().unpoisoned().is_some() && !board.is_hidden.load(Ordering::SeqCst);
                board.bar.show_if(&progress, &still_runs);
            }
        };
        while over.recv_timeout(LOOK_TIME) == Err(RecvTimeoutError::Timeout) && look(&draw) {}
    }
}

/// A bar on the standard error stream, or lines if that is no terminal.
#[derive(Debug, Default)]
pub(crate) struct Bar(Mutex<Drawn>);

#[derive(Debug, Default)]
struct Drawn {
    bar: Option<ProgressBar>,
    looks: u32,
    lines: Lines,
}

/// When the action that lasts was first seen, and how long it must last for its next line.
#[derive(Debug, Default)]
struct Lines {
    began: Option<Instant>,
    next: Option<Duration>,
}

impl Lines {
    /// The line that is due, if one is. With time they become rarer: a tenth of what has passed.
    fn line(&mut self, progress: &JobProgress, now: Instant) -> Option<String> {
        let lasted = now.saturating_duration_since(*self.began.get_or_insert(now));
        if lasted < self.next.unwrap_or(LINE_TIME) {
            return None;
        }
        self.next = Some(lasted + LINE_TIME.max(lasted / 10));
        let JobProgress {
            name,
            tasks,
            tasks_ended,
            ..
        } = progress;
        let (message, seconds) = (progress.message(), lasted.as_secs());
        Some(format!(
            "{name}: {tasks_ended}/{tasks} tasks after {seconds} s, {message}"
        ))
    }
}

impl Bar {
    /// Shows how far an action is that has lasted for some looks.
    pub(crate) fn show(&self, progress: &JobProgress) {
        self.show_if(progress, &|| true);
    }

    fn show_if(&self, progress: &JobProgress, still_runs: &dyn Fn() -> bool) {
        let mut drawn = self.0.lock().unpoisoned();
        if !still_runs() {
            return;
        }
        if stderr().is_terminal() {
            drawn.show(progress, ProgressDrawTarget::stderr);
        } else if let Some(line) = drawn.lines.line(progress, Instant::now()) {
            // Without it the action is the same.
            let _ = writeln!(stderr(), "{line}");
        }
    }

    /// Removes the bar. The next action is drawn once it has lasted for some looks.
    pub(crate) fn clear(&self) {
        self.0.lock().unpoisoned().clear();
    }

    /// Writes something else to the terminal, not through the bar.
    pub(crate) fn suspend(&self, write: impl FnOnce()) {
        match &self.0.lock().unpoisoned().bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drawn {
    fn show(&mut self, progress: &JobProgress, target: impl FnOnce() -> ProgressDrawTarget) {
        self.looks += 1;
        if self.looks < LOOKS_MIN {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, target());
            let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            bar
        });
        bar.set_prefix(progress.name.clone());
        bar.set_length(progress.tasks);
        bar.set_message(progress.message());
        bar.set_position(progress.tasks_ended);
        bar.tick();
    }

    fn clear(&mut self) {
        (self.looks, self.lines) = (0, Lines::default());
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps what is written to it, and where it was cleared.
    #[derive(Debug, Clone, Default)]
    struct Recorder(Arc<Mutex<String>>);

    impl Recorder {
        fn text(&self) -> String {
            self.0.lock().unpoisoned().clone()
        }

        fn write(&self, text: &str) -> io::Result<()> {
            self.0.lock().unpoisoned().push_str(text);
            Ok(())
        }
    }

    impl TermLike for Recorder {
        fn width(&self) -> u16 {
            200
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write(text)
        }
        fn clear_line(&self) -> io::Result<()> {
            self.write("<clear>")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn progress() -> JobProgress {
        JobProgress {
            action: 4,
            name: "`map` (declared at main.rs:3:4)".to_owned(),
            stages: 2,
            tasks: 9,
            tasks_ended: 5,
            records: 12345,
            bytes: 3 << 20,
            longest: None,
        }
    }

    #[test]
    fn a_bar_says_how_far_an_action_is_and_goes_with_it() {
        let (terminal, mut drawn) = (Recorder::default(), Drawn::default());
        let target = || ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        for _ in 1..LOOKS_MIN {
            drawn.show(&progress(), target);
            assert_eq!(terminal.text(), "", "a short action is not drawn");
        }
        drawn.show(&progress(), target);
        let text = terminal.text();
        for words in [
            "`map` (declared at main.rs:3:4) [",
            "5/9 tasks, 2 stages",
            "12,345 records, 3.00 MiB read",
        ] {
            assert!(text.contains(words), "{text}");
        }
        drawn.clear();
        assert!(terminal.text().trim_end().ends_with("<clear>"), "{}", terminal.text());
        let cleared = terminal.text();
        drawn.show(&progress(), target);
        assert_eq!(terminal.text(), cleared, "the next one must last as long");
    }

    #[test]
    fn without_a_terminal_an_action_that_lasts_has_lines_that_become_rarer() {
        let (mut lines, begun) = (Lines::default(), Instant::now());
        let written: Vec<(u64, String)> = (0..=1000)
            .filter_map(|second| Some((second, lines.line(&progress(), begun + Duration::from_secs(second))?)))
            .collect();
        assert_eq!(
            written[0].1,
            "`map` (declared at main.rs:3:4): 5/9 tasks after 10 s, 2 stages, 12,345 records, 3.00 MiB read"
        );
        let times: Vec<u64> = written.iter().map(|(second, _)| *second).collect();
        assert_eq!(times[..11], [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110]);
        assert!(times.len() < 50, "{times:?}");
    }

    #[test]
    fn what_processes_have_done_is_summed() {
        let longest = |seconds| {
            let operator = "`map` (main.rs:3)".to_owned();
            let (partition, process) = (8, 71);
            Some(LongestTask {
                seconds,
                operator,
                partition,
                process,
            })
        };
        let other = JobProgress {
            stages: 3,
            tasks_ended: 2,
            longest: longest(40),
            ..progress()
        };
        let third = JobProgress {
            longest: longest(12),
            tasks: 0,
            tasks_ended: 0,
            records: 0,
            ..progress()
        };
        let sum = JobProgress::sum([progress(), other, third].iter()).unwrap();
        let message = sum.message();
        let long = "; `map` (main.rs:3) has been at partition 8 for 40 s (process 71)";
        assert!(message.ends_with(long), "{message}");
        assert_eq!((sum.stages, sum.tasks, sum.tasks_ended, sum.records), (3, 18, 7, 24690));
        assert_eq!(JobProgress::sum([].iter()), None);
    }

    #[test]
    fn nothing_is_drawn_of_what_is_over() {
        let board = Board::default();
        assert_eq!(board.now(|| 0), None);
        let job = Arc::new(RunningJob::new("x".to_owned(), vec!["x".to_owned()], 3));
        board.begin(7, &job, 100);
        job.task_ended();
        job.put_out(10);
        let now = board.now(|| 150).unwrap();
        assert_eq!(
            (now.action, now.tasks, now.tasks_ended, now.records, now.bytes),
            (7, 3, 1, 10, 50)
        );
        board.end();
        assert_eq!(board.now(|| 150), None);
        let (still_runs, bar) = (|| false, Bar::default());
        (0..2 * LOOKS_MIN).for_each(|_| bar.show_if(&now, &still_runs));
        assert!(bar.0.lock().unpoisoned().bar.is_none());
    }
}
