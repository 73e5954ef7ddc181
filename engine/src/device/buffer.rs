//! Pieces of a GPU's memory.
#![allow(unsafe_code)] // waits for a stream

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, result};

/// A piece of a GPU's memory.
#[derive(Debug)]
pub struct GpuBuffer {
    bytes: usize,
    slice: CudaSlice<u8>,
}

/// Some words of four bytes of a [`GpuBuffer`].
#[derive(Debug, Clone, Copy)]
pub struct GpuSlice<'a> {
    buffer: &'a GpuBuffer,
    start: usize,
    length: usize,
}

impl GpuBuffer {
    /// Memory that was handed out for so many bytes.
    pub(super) fn new(bytes: usize, slice: CudaSlice<u8>) -> Self {
        Self { bytes, slice }
    }

    /// The stream of the handle that has allocated it.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        self.slice.stream()
    }

    /// Its length, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its words of four bytes, without what is left over.
    pub fn words(&self) -> GpuSlice<'_> {
        GpuSlice {
            buffer: self,
            start: 0,
            length: self.bytes / WORD,
        }
    }

    /// Waits for whatever was asked of the handle that has allocated it.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        let _ = bind(self.slice.context());
        // SAFETY: the stream lives as long as the buffer.
        unsafe { result::stream::synchronize(self.slice.stream().cu_stream()) }
    }

    /// Where it lies in the GPU's memory.
    pub(super) fn address(&self) -> u64 {
        self.slice.device_ptr(self.slice.stream()).0
    }
}

impl<'a> GpuSlice<'a> {
    /// How many words they are.
    pub fn len(self) -> usize {
        self.length
    }

    /// Whether there is no word.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// Those of an index in `range`.
    ///
    /// # Panics
    /// There are not so many, as for any slice.
    pub fn part(self, range: Range<usize>) -> GpuSlice<'a> {
        let Range { start, end } = range;
        assert!(
            start <= end && end <= self.length,
            "{start}..{end} of {} words",
            self.length
        );
        GpuSlice {
            buffer: self.buffer,
            start: self.start + start,
            length: end - start,
        }
    }

    /// The buffer that they are words of.
    pub(super) fn buffer(self) -> &'a GpuBuffer {
        self.buffer
    }

    /// Where they lie in the GPU's memory.
    pub(super) fn address(self) -> u64 {
        self.buffer.address() + (self.start * WORD) as u64
    }
}

/// Bytes of a word.
pub(super) const WORD: usize = 4;

impl Drop for GpuBuffer {
    /// The driver frees memory for a thread that has a context, and whoever drops it may have none yet.
    fn drop(&mut self) {
        let _ = bind(self.slice.context());
    }
}

/// Lets this thread call the driver; what cudarc has kept of an earlier failure does not hinder that.
pub(super) fn bind(context: &CudaContext) -> Result<(), DriverError> {
    let earlier = context.bind_to_thread();
    match earlier {
        Ok(()) => Ok(()),
        Err(_) => context.bind_to_thread().and(earlier),
    }
}
