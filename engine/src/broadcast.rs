//! Read-only values that closures share.

use std::ops::Deref;
use std::sync::Arc;

/// A value that all tasks of a process read in place. Every process builds it for itself, since every process runs the
/// same driver program; nothing is copied for a task.
///
/// ```
/// # use distdl_engine::{Config, Context};
/// # let context = Context::new(Config::default())?;
/// let names = context.broadcast(std::collections::HashMap::from([(1, "one"), (2, "two")]));
/// let shared = names.clone();
/// let lengths = context.range(0..3, 2).map(move |number| shared.get(&number).map_or(0, |name| name.len()));
/// assert_eq!(lengths.collect()?, [0, 3, 3]);
/// # Ok::<(), distdl_engine::EngineError>(())
/// ```
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
