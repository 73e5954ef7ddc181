//! Who captures a graph on a GPU. Meanwhile its driver lets nobody wait for all of that GPU, and nothing comes of the capture
//! if somebody tries.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// Turns at one GPU: of who captures there, and of who waits for all of it.
#[derive(Debug, Default)]
pub(super) struct Capturing {
    turn_of: Mutex<Option<ThreadId>>,
    ended: Condvar,
}

/// A turn, until it is dropped.
pub(super) struct Turn<'a>(&'a Capturing);

impl Capturing {
    /// Waits for this thread's turn. `None` if it has one already, which it would wait for without end.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        let own = thread::current().id();
        let mut turn_of = self.lock();
        while let Some(other) = *turn_of {
            if other == own {
                return None;
            }
            turn_of = self.ended.wait(turn_of).unwrap_or_else(PoisonError::into_inner);
        }
        *turn_of = Some(own);
        Some(Turn(self))
    }

    fn lock(&self) -> MutexGuard<'_, Option<ThreadId>> {
        self.turn_of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
        self.0.ended.notify_one();
    }
}
