//! Locks that a panic does not close.

use std::sync::PoisonError;

/// What a lock guards, whether a thread has panicked under it or not: nothing is left half done under a lock of this
/// project where a panic may come from, and other threads must go on to end in order.
pub trait Unpoisoned {
    /// The guard, or what else was asked for.
    type Guard;

    /// Takes it although it may be poisoned.
    fn unpoisoned(self) -> Self::Guard;
}

impl<G> Unpoisoned for Result<G, PoisonError<G>> {
    type Guard = G;

    fn unpoisoned(self) -> G {
        self.unwrap_or_else(PoisonError::into_inner)
    }
}
