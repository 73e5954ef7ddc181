//! Elements that count, and others that are 0.

#[cfg(feature = "gpu")]
pub(crate) mod cuda;
