//! Vectors that are looked up, and the sums of what comes back for each of them. The CPU's are the layer's own.

#[cfg(feature = "gpu")]
pub(crate) mod cuda;
