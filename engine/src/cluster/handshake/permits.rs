//! How many handshakes go on at the same time.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use distdl_storage::Unpoisoned;

/// Connections that may shake hands at the same time.
pub(crate) const HANDSHAKES_MAX: usize = 64;

/// Keeps the handshakes at one listener within [`HANDSHAKES_MAX`]. Who accepts takes a permit for each connection before it accepts
/// another one, so that those too many wait in the system's queue and none is lost.
#[derive(Debug, Default)]
pub(crate) struct HandshakePermits {
    counts: Mutex<Counts>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    taken: usize,
    waiting: usize,
}

/// A permit, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<HandshakePermits>);

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
        Permit(Arc::clone(self))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unpoisoned()
    }
}

impl Permit {
    /// Whether another connection waits for one.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.counts().waiting > 0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.counts().taken -= 1;
        self.0.given_back.notify_one();
    }
}
