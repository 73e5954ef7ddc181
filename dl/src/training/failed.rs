//! Errors of training on their way through the engine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use distdl_engine::EngineError;

use crate::error::Error;

/// Carries errors in the engine's. One that cannot travel is kept here, for the process where it arose.
#[derive(Clone, Default)]
pub(super) struct Failed(Arc<Mutex<Option<Error>>>);

impl Failed {
    pub(super) fn keep(&self, error: Error) -> EngineError {
        let text = error.to_string();
        match postcard::to_stdvec(&error) {
            Ok(details) => EngineError::Program { text, details },
            Err(_) => {
                self.lock().get_or_insert(error);
                EngineError::invalid(text, "see the error of training")
            }
        }
    }

    /// What an action ended with.
    pub(super) fn resolve(&self, carried: EngineError) -> Error {
        if let EngineError::Program { details, .. } = &carried
            && let Ok(error) = postcard::from_bytes(details)
        {
            return error;
        }
        self.lock().take().unwrap_or(Error::Engine(carried))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Error>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
