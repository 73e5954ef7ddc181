//! The arithmetic: one folder a kernel, with a checked face in `mod`, the loops in `cpu`, and in most a program for
//! GPUs in `cuda.cu`.
//!
//! Every kernel sums in an order that is fixed by shapes alone. Elementwise loops are compiled once for each set of CPU
//! instructions and chosen at run time; they use additions and multiplications that Rust never fuses, so all sets give
//! the same bits.

#[macro_use]
mod dispatch;
pub mod programs;

pub mod activation;
pub mod augment;
pub mod dropout;
pub(crate) mod embedding;
pub mod gather;
pub mod gelu;
pub mod mask;
pub mod matmul;
pub mod softmax_cross_entropy;
pub(crate) mod square_sum;
pub mod sums;
pub mod update;
pub mod windows;

pub mod batch_norm;
pub mod element_loss;
pub mod lane_limit;
pub mod layer_norm;

pub use dispatch::Level;
