//! The memory of a device, and the tier that keeps there what was copied to it.
//!
//! A device is anything with a memory of its own that kernels work in. Who has one implements [`DeviceMemory`]; the
//! [`DeviceTier`] knows nothing of it but that. A handle of a device may belong to one thread: it is given to each call
//! and kept nowhere, so workers that share a device share a tier and have a handle and a stream each.

mod budget;

mod resident;

mod tier;

pub use self::budget::DeviceBudget;
pub use self::resident::{DeviceFigures, DeviceKey, DevicePin};
pub use self::tier::DeviceTier;
use crate::error::StorageError;

/// The memory of a device, through the handle of one worker.
///
/// A buffer is freed when it is dropped, on whichever thread that happens. Every implementation passes
/// [`testing::device_conformance`](crate::testing::device_conformance).
pub trait DeviceMemory {
    /// A piece of the device's memory, that lives as long as this value.
    type Buffer;

    /// What errors call the device.
    fn name(&self) -> &str;

    /// What memory for `bytes` bytes takes of the device, at least as much; more where the device rounds up.
    fn taken_bytes(bytes: usize) -> usize {
        bytes
    }

    /// Memory for `bytes` bytes, whose contents mean nothing yet. `bytes` may be 0.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the device has not so much left; [`DeviceError::Failed`] otherwise.
    fn allocate(&self, bytes: usize) -> Result<Self::Buffer, DeviceError>;

    /// Copies `bytes`, as many as the buffer has, to the device. The caller may change them once this returns. Whoever
    /// uses the buffer through any handle from then on sees them: if the copy is still under way, the buffer has what
    /// its users wait for.
    ///
    /// # Errors
    /// The lengths differ, or the device fails.
    fn copy_in(&self, bytes: &[u8], buffer: &mut Self::Buffer) -> Result<(), DeviceError>;

    /// The bytes of a buffer. For tests and for results, not for a step.
    ///
    /// # Errors
    /// The device fails.
    fn copy_out(&self, buffer: &Self::Buffer) -> Result<Vec<u8>, DeviceError>;
}

/// Why something does not lie in a device's memory. A copy is cheap.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The device itself has too little left.
    #[error(
        "{device} has no {needed_bytes} bytes of memory left{}; let other programs leave it, lower the budget of the \
         device tier or the size of a batch", free_bytes.map_or(String::new(), |free| format!(" ({free} are free)"))
    )]
    OutOfMemory {
        /// The device's name.
        device: String,
        /// What was asked for, in bytes.
        needed_bytes: u64,
        /// What the device says that it has left, in bytes. It may lie in pieces.
        free_bytes: Option<u64>,
    },
    /// The host has too little memory that the device could copy to and from by itself; the device is well.
    #[error(
        "could not pin {needed_bytes} bytes of the host's memory for {device}; let other programs leave the host, raise the limit of \
         the container or control group, lower the size of a batch, or run without the device"
    )]
    NoHostMemory {
        /// The device's name.
        device: String,
        /// What was asked for, in bytes.
        needed_bytes: u64,
    },
    /// The tier's budget leaves no room beside what is in use.
    #[error(
        "{needed_bytes} bytes do not fit into the memory of {device}, limited to {bytes_max} bytes of which \
         {in_use_bytes} are in use; raise the limit, or copy them for one use without keeping them"
    )]
    OverBudget {
        /// The tier's name.
        device: String,
        /// What was to be kept, in bytes.
        needed_bytes: u64,
        /// The tier's limit, in bytes.
        bytes_max: u64,
        /// What must stay because somebody uses it or is copying it, in bytes.
        in_use_bytes: u64,
    },
    /// The device failed otherwise.
    #[error("{device}: could not {what}: {reason}; run without the device, or start the program again")]
    Failed {
        /// The device's name.
        device: String,
        /// What was tried, as a verb.
        what: &'static str,
        /// The device's words.
        reason: String,
    },
    /// The bytes that were to be copied could not be had.
    #[error(transparent)]
    Source(#[from] StorageError),
}

#[cfg(test)]
mod tests;
