//! What networks, layers and losses compute, what they refuse, and that who computes it does not show.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod embedding;
mod frozen;
mod gradients;
mod layers;
mod losses;
mod network;
mod own_losses;
mod reference;
mod residual;

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
