//! Training on a GPU: what it computes is what the CPU computes, up to rounding; with the same bits however lanes are
//! shared out and whatever dies; and where the GPU is lost.
//!
//! The GPUs are emulated, or with `DISTDL_TEST_GPU=real` those of the machine, of which less can be asked.
#![cfg(all(target_os = "linux", feature = "gpu"))]
#![allow(unsafe_code)] // tells and asks the emulated GPU
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fixtures;
mod gpu;

mod convolutions;
mod evaluation;
mod lost;
mod refusals;
mod together;
mod training;
mod users;
mod resident_steps;
