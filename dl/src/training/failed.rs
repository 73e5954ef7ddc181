//! Errors of training on their way through the engine.

use std::sync::{Arc, Mutex, MutexGuard};

use distdl_engine::EngineError;
use distdl_storage::Unpoisoned;

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
        self.0.lock().unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_back_as_what_they_are() {
        let words = || "words".to_owned();
        let errors = [
            Error::Length {
                what: "what".into(),
                expected: 1,
                got: 2,
            },
            Error::Shape {
                layer: 1,
                kind: "kind".into(),
                expected: words(),
                got: words(),
            },
            Error::Rows { rows: 1, rows_max: 2 },
            Error::Label {
                row: 1,
                label: 2,
                classes: 3,
            },
            Error::Index {
                row: 1,
                feature: 2,
                value: 3.5,
                num_embeddings: 4,
            },
            Error::Loss {
                loss: "loss".into(),
                problem: "problem".into(),
            },
            Error::NotFinite {
                step: 1,
                what: "what".into(),
                value: f64::INFINITY,
                input: Some(words()),
            },
            Error::Samples(words()),
            Error::SampleIndex { index: 1, length: 2 },
            Error::DatasetFile {
                path: "a".into(),
                at: words(),
                problem: words(),
                remedy: "remedy".into(),
            },
            Error::ModelFile {
                path: "a".into(),
                problem: words(),
                remedy: "remedy".into(),
            },
            Error::Checkpoint {
                url: words(),
                problem: words(),
                remedy: "remedy".into(),
            },
            Error::Options(words()),
            Error::Data(words()),
            Error::State(words()),
            Error::Memory(words()),
            Error::Gpu(words()),
            Error::Internal(words()),
        ];
        for error in errors {
            let text = format!("{error:?}");
            // In another process, which has seen nothing of it.
            let resolved = Failed::default().resolve(Failed::default().keep(error));
            assert_eq!(format!("{resolved:?}"), text);
        }
        let failed = Failed::default();
        let carried = failed.keep(Error::Engine(EngineError::invalid("what", "remedy")));
        assert!(matches!(failed.resolve(carried), Error::Engine(_)));
    }
}
