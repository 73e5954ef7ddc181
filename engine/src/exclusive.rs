//! What one thread does at a time, and may begin again while it does it.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::thread::{self, ThreadId};

use distdl_storage::Unpoisoned;

/// Lets one thread in at a time, and that one again: what must not be seen half done may consist of more of the same.
#[derive(Debug, Default)]
pub(crate) struct Exclusive {
    holder: Mutex<Option<ThreadId>>,
    left: Condvar,
}

/// Until it is dropped, no other thread gets in.
pub(crate) struct Entered<'a>(&'a Exclusive);

impl Exclusive {
    /// Waits until no other thread is in. `None` if this one is, which would wait for itself without end.
    #[cfg(feature = "gpu")]
    pub(crate) fn enter(&self) -> Option<Entered<'_>> {
        let never = || None::<std::convert::Infallible>;
        self.enter_unless(never).unwrap_or_else(|never| match never {})
    }

    /// The same, until there is a reason not to: it is asked for before each wait, and where [`Self::ask_again`] is
    /// called.
    pub(crate) fn enter_unless<E>(&self, reason: impl Fn() -> Option<E>) -> Result<Option<Entered<'_>>, E> {
        let this = thread::current().id();
        let mut holder = self.lock();
        while let Some(other) = *holder {
            if other == this {
                return Ok(None);
            }
            if let Some(reason) = reason() {
                return Err(reason);
            }
            holder = self.left.wait(holder).unpoisoned();
        }
        *holder = Some(this);
        Ok(Some(Entered(self)))
    }

    /// Has all that wait ask whether there is a reason not to.
    pub(crate) fn ask_again(&self) {
        let _holder = self.lock();
        self.left.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.holder.lock().unpoisoned()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.left.notify_one();
    }
}
