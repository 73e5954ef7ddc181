//! What a training reads and comes to: batches, data in all places, what is exchanged, and files of models.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod batches;
mod beyond_memory;
mod change;
#[path = "../common/mod.rs"]
mod common;
mod exchange;
mod mnist;
mod model_urls;
mod not_finite;
mod predictions;
mod preparation;

use common::{bits, context, failed};
