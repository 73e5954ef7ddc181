//! What networks, layers and losses compute, what they refuse, and that who computes it does not show.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../common/mod.rs"]
mod common;
mod embedding;
mod frozen;
mod gradients;
mod identity;
mod layers;
mod losses;
mod network;
mod own_losses;
mod reference;
mod residual;
mod statistics;

use common::{bits, context, failed};
