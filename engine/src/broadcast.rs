//! Read-only values that closures share.

use std::ops::Deref;
use std::sync::Arc;

/// A value that all tasks of a process read in place. Every process builds it for itself, since every process runs the
/// same driver program; nothing is copied for a task.
#[derive(Debug)]
pub struct Broadcast<T> {
    value: Arc<T>,
}

impl<T> Broadcast<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Arc::new(value) }
    }
}

impl<T> Clone for Broadcast<T> {
    fn clone(&self) -> Self {
        Self {
            value: Arc::clone(&self.value),
        }
    }
}

impl<T> Deref for Broadcast<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}
