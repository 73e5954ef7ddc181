//! Ending an action from outside of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

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
    /// after their batch: a closure that never returns is not interrupted. Returns whether there was an action; one that
    /// comes later is not ended.
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

/// An action that runs until this is dropped.
pub(crate) struct RunningAction<'a>(&'a Cancellation);

impl State {
    /// The error of an action of a thread, if a limit of it has passed.
    fn passed(&self, thread: ThreadId, action: &str) -> Option<EngineError> {
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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Under one lock: an action that begins once the limit is over is not meant.
        Self::cancel_in(state, &reason, |thread| thread == limited);
    }

    /// A limit is over.
    pub(crate) fn forget(&self, number: u64) {
        self.lock().limits.retain(|limit| limit.number != number);
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

    use super::*;
    use crate::config::Config;
    use crate::context::Context;

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
}
