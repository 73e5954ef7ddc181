//! The limit of the norm of a lane's gradient on a GPU, with the bits of the CPU's.

#[cfg(feature = "gpu")]
pub(crate) mod cuda;
