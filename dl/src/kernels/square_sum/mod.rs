//! Exact sums of squares on a GPU, with the bits of the engine's [`SquareSum`](distdl_engine::SquareSum).

#[cfg(feature = "gpu")]
pub(crate) mod cuda;
