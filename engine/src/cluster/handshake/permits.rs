//! How many handshakes go on at the same time.

use std::sync::{Arc, Condvar, Mutex};

use distdl_storage::Unpoisoned;

/// Connections that may shake hands at the same time.
pub(crate) const HANDSHAKES_MAX: usize = 64;

/// Keeps the handshakes at one listener within [`HANDSHAKES_MAX`]. Who accepts takes a permit before each connection, so that
/// those too many wait in the system's queue and none is lost.
#[derive(Debug, Default)]
pub(crate) struct HandshakePermits {
    taken: Mutex<usize>,
    given_back: Condvar,
}

/// A permit, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<HandshakePermits>);

impl HandshakePermits {
    /// Waits for a permit.
    pub(crate) fn take(self: &Arc<Self>) -> Permit {
        let taken = self.taken.lock().unpoisoned();
        let all = |taken: &mut usize| *taken >= HANDSHAKES_MAX;
        let free = self.given_back.wait_while(taken, all);
        *free.unpoisoned() += 1;
        Permit(Arc::clone(self))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.0.taken.lock().unpoisoned() -= 1;
        self.0.given_back.notify_one();
    }
}
