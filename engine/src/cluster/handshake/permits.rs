//! How many handshakes go on at the same time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use distdl_storage::Unpoisoned;

/// Connections that may shake hands at the same time.
pub(crate) const HANDSHAKES_MAX: usize = 64;

/// Keeps the handshakes at one listener within [`HANDSHAKES_MAX`]. Who accepts takes a permit for each connection
/// before it accepts another one, so that those too many wait in the system's queue. One that says nothing gives way to
/// the one that waits.
#[derive(Debug, Default)]
pub(crate) struct HandshakePermits {
    counts: Mutex<Counts>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    taken: usize,
    waiting: usize,
    /// Permits that are about to be given back for those that wait.
    yielded: usize,
}

/// A permit, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    of: Arc<HandshakePermits>,
    is_yielded: AtomicBool,
}

impl HandshakePermits {
    /// Waits for a permit.
    pub(crate) fn take(self: &Arc<Self>) -> Permit {
        let mut counts = self.counts();
        counts.waiting += 1;
        let all = |counts: &mut Counts| counts.taken >= HANDSHAKES_MAX;
        let free = self.given_back.wait_while(counts, all);
        let mut counts = free.unpoisoned();
        counts.waiting -= 1;
        counts.taken += 1;
        Permit {
            of: Arc::clone(self),
            is_yielded: AtomicBool::new(false),
        }
    }

    /// Whether a connection waits for one.
    #[cfg(test)]
    pub(super) fn is_waited_for(&self) -> bool {
        self.counts().waiting > 0
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unpoisoned()
    }
}

impl Permit {
    /// Whether this one is to be given back for a connection that waits: one permit for each of those, whoever asks
    /// first.
    pub(super) fn must_yield(&self) -> bool {
        let mut counts = self.of.counts();
        let is_wanted = counts.waiting > counts.yielded;
        if is_wanted {
            counts.yielded += 1;
            self.is_yielded.store(true, Ordering::Relaxed);
        }
        is_wanted
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.of.counts();
        counts.taken -= 1;
        counts.yielded -= usize::from(*self.is_yielded.get_mut());
        drop(counts);
        self.of.given_back.notify_one();
    }
}
