//! What a training reads and comes to: batches, data in all places, what is exchanged, and files of models.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batches;
mod beyond_memory;
mod change;
mod exchange;
mod mnist;
mod model_urls;
mod predictions;
mod preparation;

use distdl_dl::Error;
use distdl_engine::{Config, Context, EngineError};

fn context(threads: usize) -> Context {
    Context::new(Config::default().with_threads(threads)).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Ends a program in a cluster.
fn failed(error: Error) -> EngineError {
    EngineError::invalid(error.to_string(), "see above")
}
