//! What one thread does at a time.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};

use super::{Context, lock};

/// Lets one thread in at a time, and that one again: work that must not be seen half done may consist of more such work.
#[derive(Default)]
pub(crate) struct Exclusive {
    holder: Mutex<Option<ThreadId>>,
    left: Condvar,
}

/// Until it is dropped, no other thread gets in.
pub(crate) struct Entered<'a>(&'a Exclusive);

impl Exclusive {
    /// Waits until no other thread is in. `None` if this one is.
    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        let this = thread::current().id();
        let mut holder = lock(&self.holder);
        if *holder == Some(this) {
            return None;
        }
        while holder.is_some() {
            holder = self.left.wait(holder).unwrap_or_else(PoisonError::into_inner);
        }
        *holder = Some(this);
        Some(Entered(self))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *lock(&self.0.holder) = None;
        self.0.left.notify_one();
    }
}

impl Context {
    /// Until the answer is dropped, no other thread makes a local checkpoint.
    pub(crate) fn enter_local_checkpoint(&self) -> Option<Entered<'_>> {
        self.inner.local_checkpoint.enter()
    }
}
