//! Errors of training on their way through the engine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distdl_engine::EngineError;

use crate::error::Error;

/// Keeps the typed error while the engine carries its text.
#[derive(Clone, Default)]
pub(super) struct Failed(Arc<Mutex<Option<Error>>>);

impl Failed {
    pub(super) fn keep(&self, error: Error) -> EngineError {
        let carried = EngineError::invalid(error.to_string(), "see the error of training");
        self.lock().get_or_insert(error);
        carried
    }

    pub(super) fn resolve(&self, carried: EngineError) -> Error {
        self.lock().take().unwrap_or(Error::Engine(carried))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
