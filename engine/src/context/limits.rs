//! Actions that are ended from outside, by a handle or because their time has passed.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::Context;
use crate::cancel::{CancelHandle, Cancellation, Unlimited};
use crate::error::{EngineError, Result};
use crate::exclusive::Entered;
use crate::lineage::Node;

/// A limit of time, until it is dropped.
struct Limited<'a> {
    cancellation: &'a Cancellation,
    number: u64,
}

impl Drop for Limited<'_> {
    fn drop(&mut self) {
        self.cancellation.forget(self.number);
    }
}

impl Context {
    /// A handle by which any thread ends the action that runs.
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle::new(&self.inner.cancellation)
    }

    /// Runs a piece of the driver program whose actions have `limit` of time together: the one that runs when it has
    /// passed ends with [`EngineError::Cancelled`], and so do one that waits for its turn and those that come after it.
    /// Actions of other threads are not meant. In several processes all must run it; what ends an action in one of them
    /// ends it everywhere.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use distdl_engine::{Config, Context, EngineError};
    ///
    /// # fn main() -> distdl_engine::Result<()> {
    /// let context = Context::new(Config::default())?;
    /// let endless = context.range(0..u64::MAX, 1);
    /// let counted = context.with_timeout(Duration::from_millis(10), || endless.count());
    /// assert!(matches!(counted, Err(EngineError::Cancelled { .. })));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of `program`; if no thread can be started.
    pub fn with_timeout<R, E: From<EngineError>>(
        &self,
        limit: Duration,
        program: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<R, E> {
        let cancellation = &self.inner.cancellation;
        let number = cancellation.limit();
        let (over, waits) = channel::<()>();
        let watched = cancellation.clone();
        let waited_for = [&self.inner.local_checkpoint, &self.inner.action].map(Arc::clone);
        let watch = std::thread::Builder::new()
            .name("distdl-limit".to_owned())
            .spawn(move || {
                if waits.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    watched.pass(number, limit);
                    waited_for.iter().for_each(|turn| turn.ask_again());
                }
            });
        // A panic of the program must not leave the limit behind.
        let limited = Limited { cancellation, number };
        watch.map_err(|error| EngineError::NoThread {
            reason: error.to_string(),
        })?;
        let outcome = program();
        drop((over, limited));
        outcome
    }

    /// Until the answer is dropped, limits end no action of this thread.
    pub(crate) fn without_limits(&self) -> Unlimited<'_> {
        self.inner.cancellation.without_limits()
    }

    /// Until the answer is dropped, no other thread makes a local checkpoint.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] if a limit of this thread passes before.
    pub(crate) fn enter_local_checkpoint(&self, target: &Node) -> Result<Option<Entered<'_>>> {
        self.inner.local_checkpoint.enter_unless(|| self.passed_alone(target))
    }
}
