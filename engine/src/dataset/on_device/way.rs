//! What a map stage asks of a device.
#![cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "there is no device"))]

use std::collections::VecDeque;
use std::sync::Arc;

#[cfg(feature = "gpu")]
use distdl_storage::DeviceError;

#[cfg(feature = "gpu")]
use crate::device::GpuBatch;
use crate::memo::digest_in_words;

/// What computes on a GPU.
#[derive(Clone)]
pub(super) enum OnGpu {
    /// An entry point of a program in CUDA C++.
    Program { entry: Arc<str>, text: Arc<str> },
    /// Whatever starts kernels.
    #[cfg(feature = "gpu")]
    Closure(Arc<Start>),
}

impl OnGpu {
    /// What is known of it, as an operator's parameters.
    pub(super) fn parameters(&self) -> String {
        match self {
            Self::Program { entry, text } => digest_in_words(&(entry, text)),
            #[cfg(feature = "gpu")]
            Self::Closure(_) => String::new(),
        }
    }
}

/// Starts kernels for a piece.
#[cfg(feature = "gpu")]
pub(super) type Start = dyn Fn(&GpuBatch<'_>) -> Result<(), DeviceError> + Send + Sync;

/// A way through a device for the pieces of one partition, which come out as they went in.
pub(super) trait Way<T, U> {
    /// Whether another piece may go in.
    fn has_room(&self) -> bool;

    /// Sends a piece in. If that fails, it is under way all the same.
    fn begin(&mut self, piece: Vec<T>) -> Result<(), Trouble>;

    /// Waits for the piece that has been under way longest; `None` if there is none.
    fn end(&mut self) -> Result<Option<Vec<U>>, Trouble>;

    /// The pieces that are under way, in order.
    fn into_pending(self: Box<Self>) -> VecDeque<Vec<T>>;
}

/// Why a piece does not come out.
pub(super) enum Trouble {
    /// Nothing else would help.
    Fatal(String),
    /// The device is lost; another one may go on, or the CPU.
    Lost(String),
    /// The device has too little memory; the CPU may go on.
    Full(String),
}

/// Records of a piece.
pub(super) fn piece_records<T, U>() -> usize {
    (PIECE_BYTES / size_of::<T>().max(size_of::<U>()).max(1)).max(1)
}

/// Bytes of a piece, of its input or its output, whichever are more.
const PIECE_BYTES: usize = 1 << 20;
