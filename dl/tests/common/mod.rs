//! What tests of several crates need.

use distdl_dl::Error;
use distdl_engine::{Config, Context, EngineError};

pub(crate) fn context(threads: usize) -> Context {
    Context::new(Config::default().with_threads(threads)).unwrap()
}

pub(crate) fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Ends a program in a cluster.
pub(crate) fn failed(error: Error) -> EngineError {
    EngineError::invalid(error.to_string(), "see above")
}
