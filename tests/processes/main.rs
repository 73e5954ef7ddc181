//! Clusters of real processes that are killed, stopped and interrupted: what they compute and print is what one
//! undisturbed process computes and prints, and nothing of them is left behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod program;

mod running;

mod cluster;

mod by_hand;
mod endings;
mod hosts;
mod kills;
mod signals;
