//! Ending an action from outside of it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::ThreadId;
use std::time::Duration;

use distdl_storage::Unpoisoned;

use crate::error::EngineError;

/// Ends the action that its context runs. Cheap to clone, and for any thread, also one that waits for signals.
///
/// ```
/// use distdl_engine::{Config, Context, EngineError};
///
/// # fn main() -> distdl_engine::Result<()> {
/// let context = Context::new(Config::default())?;
/// let handle = context.cancel_handle();
/// // Another thread would do this after a while, or at a signal; here a record does.
/// let endless = context.range(0..u64::MAX, 1).map(move |number| {
///     handle.cancel();
///     number
/// });
/// assert!(matches!(endless.count(), Err(EngineError::Cancelled { .. })));
/// assert_eq!(context.range(0..10, 2).count()?, 10, "the context is as usable as before");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct CancelHandle(Cancellation);

impl std::fmt::Debug for CancelHandle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("CancelHandle")
    }
}

impl CancelHandle {
    pub(crate) fn new(cancellation: &Cancellation) -> Self {
        Self(cancellation.clone())
    }

    /// Ends the action that runs now with [`EngineError::Cancelled`]; of several processes in all of them. Tasks stop
    /// after their batch: a closure that never returns is not interrupted. Returns whether there was an action; one
    /// that comes later is not ended. One that has all its results when this is called may still end well.
    pub fn cancel(&self) -> bool {
        self.0.cancel("by a handle of its context", |_| true)
    }
}

/// How an action is told that it is to end with an error.
pub(crate) type Stop = Arc<dyn Fn(EngineError) + Send + Sync>;

/// The action of a context that runs, and the limits of time that its driver program has set.
#[derive(Clone, Default)]
pub(crate) struct Cancellation(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    running: Option<Running>,
    limits: Vec<Limit>,
    limit_next: u64,
    /// Threads whose limits do not count now.
    unlimited: Vec<ThreadId>,
}

struct Running {
    /// What the error calls it.
    action: String,
    thread: ThreadId,
    cancelled: Option<EngineError>,
    stop: Option<Stop>,
}

/// Ends the actions of one thread once it has passed.
struct Limit {
    number: u64,
    thread: ThreadId,
    passed: Option<String>,
}

/// Until it is dropped, limits end no action of the thread that has made it.
pub(crate) struct Unlimited<'a>(&'a Cancellation);

/// An action that runs until this is dropped.
pub(crate) struct RunningAction<'a>(&'a Cancellation);

impl State {
    /// The error of an action of a thread, if a limit of it has passed.
    fn passed(&self, thread: ThreadId, action: &str) -> Option<EngineError> {
        if self.unlimited.contains(&thread) {
            return None;
        }
        let limits = self.limits.iter().filter(|limit| limit.thread == thread);
        let reason = limits.filter_map(|limit| limit.passed.clone()).next()?;
        Some(EngineError::Cancelled {
            action: action.to_owned(),
            reason,
        })
    }
}

impl Cancellation {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unpoisoned()
    }

    /// Whether this thread runs an action: then another one would wait for ever.
    pub(crate) fn runs_here(&self) -> bool {
        let state = self.lock();
        state
            .running
            .as_ref()
            .is_some_and(|running| running.thread == std::thread::current().id())
    }

    /// An action begins on this thread. One at a time.
    pub(crate) fn begin(&self, action: String) -> RunningAction<'_> {
        let mut state = self.lock();
        let thread = std::thread::current().id();
        let cancelled = state.passed(thread, &action);
        state.running = Some(Running {
            action,
            thread,
            cancelled,
            stop: None,
        });
        RunningAction(self)
    }

    /// The error of an action that this thread would begin now, if a limit of it has passed.
    pub(crate) fn passed_here(&self, action: &str) -> Option<EngineError> {
        self.lock().passed(std::thread::current().id(), action)
    }

    /// Ends the action that runs, if it is one that is `meant`, given its thread.
    fn cancel(&self, reason: &str, meant: impl Fn(ThreadId) -> bool) -> bool {
        Self::cancel_in(self.lock(), reason, meant)
    }

    fn cancel_in(mut state: MutexGuard<'_, State>, reason: &str, meant: impl Fn(ThreadId) -> bool) -> bool {
        let Some(running) = state.running.as_mut().filter(|running| meant(running.thread)) else {
            return false;
        };
        let error = running.cancelled.get_or_insert_with(|| EngineError::Cancelled {
            action: running.action.clone(),
            reason: reason.to_owned(),
        });
        let (error, stop) = (error.clone(), running.stop.clone());
        // What stops it may take a while.
        drop(state);
        if let Some(stop) = stop {
            stop(error);
        }
        true
    }

    /// A limit for the actions of this thread; returns its number.
    pub(crate) fn limit(&self) -> u64 {
        let mut state = self.lock();
        state.limit_next += 1;
        let (number, thread) = (state.limit_next, std::thread::current().id());
        let passed = None;
        state.limits.push(Limit { number, thread, passed });
        number
    }

    /// The time of a limit has passed.
    pub(crate) fn pass(&self, number: u64, time: Duration) {
        let reason = format!("its limit of {time:?} has passed");
        let mut state = self.lock();
        let Some(limit) = state.limits.iter_mut().find(|limit| limit.number == number) else {
            return;
        };
        limit.passed = Some(reason.clone());
        let limited = limit.thread;
        if state.unlimited.contains(&limited) {
            return;
        }
        // Under one lock: an action that begins once the limit is over is not meant.
        Self::cancel_in(state, &reason, |thread| thread == limited);
    }

    /// Has the limits of this thread end no action for a while: what clears up is needed most when they have passed.
    pub(crate) fn without_limits(&self) -> Unlimited<'_> {
        self.lock().unlimited.push(std::thread::current().id());
        Unlimited(self)
    }

    /// A limit is over.
    pub(crate) fn forget(&self, number: u64) {
        self.lock().limits.retain(|limit| limit.number != number);
    }
}

impl Drop for Unlimited<'_> {
    fn drop(&mut self) {
        let thread = std::thread::current().id();
        let unlimited = &mut self.0.lock().unlimited;
        if let Some(at) = unlimited.iter().position(|other| *other == thread) {
            unlimited.swap_remove(at);
        }
    }
}

impl RunningAction<'_> {
    /// Says how the action is stopped from now on; it is at once if it was cancelled before.
    pub(crate) fn stops_by(&self, stop: Stop) {
        let mut state = self.0.lock();
        let Some(running) = &mut state.running else { return };
        running.stop = Some(Arc::clone(&stop));
        let cancelled = running.cancelled.clone();
        drop(state);
        if let Some(error) = cancelled {
            stop(error);
        }
    }
}

impl Drop for RunningAction<'_> {
    fn drop(&mut self) {
        let over = self.0.lock().running.take();
        drop(over);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use distdl_storage::testing::wait_until;

    use super::*;
    use crate::config::Config;
    use crate::context::Context;
    use crate::testing::TestCluster;

    /// As it is when a limit passes just as the job ends: the thread that stops it holds it a little longer.
    #[test]
    fn a_save_is_whole_although_somebody_still_knows_how_to_stop_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("numbers");
        let context = Context::new(Config::default().with_threads(1)).unwrap();
        let (handle, stops) = (context.cancel_handle(), Arc::new(Mutex::new(Vec::new())));
        let held = Arc::clone(&stops);
        let numbers = context.range(0..4, 1).map(move |number| {
            let stop = handle.0.lock().running.as_ref().unwrap().stop.clone();
            held.lock().unwrap().extend(stop);
            number
        });
        numbers.save_as_text_file(place.to_str().unwrap()).unwrap();
        assert_eq!(stops.lock().unwrap().drain(..).count(), 4);
        let saved = context.text_file(&format!("{}/part-*", place.display()), 1).unwrap();
        assert_eq!(saved.count().unwrap(), 4);
    }

    /// The limits pass when some parts are written and one is not.
    #[test]
    fn a_limit_that_passes_during_a_save_of_several_processes_leaves_no_parts() {
        const LONG: Duration = Duration::from_secs(600);
        let folder = tempfile::tempdir().unwrap();
        let (parent, place) = (folder.path().to_owned(), folder.path().join("numbers"));
        let handles = Arc::new(Mutex::new(Vec::new()));
        let run = TestCluster::new(2).run(move |context| {
            let (parent, handles) = (parent.clone(), Arc::clone(&handles));
            handles.lock().unwrap().push(context.cancel_handle());
            let parts = move || {
                let unfinished = std::fs::read_dir(&parent).ok()?.next()?.ok()?.path();
                Some(std::fs::read_dir(unfinished).ok()?.count())
            };
            let numbers = context.range(0..4, 4).map_partitions(move |rows| {
                let (parts, handles) = (parts.clone(), Arc::clone(&handles));
                rows.flat_map(move |number| {
                    let is_last = number == 3;
                    if is_last {
                        wait_until("a part is written", || parts() >= Some(1));
                        for CancelHandle(all) in &*handles.lock().unwrap() {
                            let limit = all.lock().limits[0].number;
                            all.pass(limit, LONG);
                        }
                    }
                    0..if is_last { u64::MAX } else { 1 }
                })
            });
            context.with_timeout(LONG, || {
                let saved = numbers.filter(|x| *x == 0).save_as_text_file(place.to_str().unwrap());
                let after = context.range(0..4, 2).count();
                Ok((saved, after))
            })
        });
        for (saved, after) in run.unwrap().results {
            assert!(matches!(saved, Err(EngineError::Cancelled { .. })), "{saved:?}");
            assert!(
                matches!(after, Err(EngineError::Cancelled { .. })),
                "the limit counts again: {after:?}"
            );
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }
}
