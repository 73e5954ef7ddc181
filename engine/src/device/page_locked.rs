//! Memory of the host that a GPU reads and writes by itself.
#![allow(unsafe_code)] // memory that the driver hands out and takes back

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};
use distdl_storage::{DeviceError, DeviceMemory};

use super::buffer::{GpuBuffer, bind};
use super::gpu::Gpu;

/// Some bytes of the host's memory that stay in place, so that copies to and from a GPU need not wait for the host.
#[derive(Debug)]
pub(super) struct PageLocked {
    address: *mut c_void,
    bytes: usize,
    /// Whether it is never given back.
    is_kept: bool,
    context: Arc<CudaContext>,
}

// SAFETY: the memory belongs to this value, and any thread may use it.
unsafe impl Send for PageLocked {}

impl PageLocked {
    /// Memory of `bytes` bytes, all 0.
    pub(super) fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        gpu.bind().map_err(|error| gpu.failed("pin memory", error))?;
        let bytes = bytes.max(1);
        // SAFETY: it is given back once, by `drop`.
        let address = unsafe { result::malloc_host(bytes, 0) }.map_err(|error| match error {
            DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY) => DeviceError::NoHostMemory {
                device: gpu.name().into(),
                needed_bytes: bytes as u64,
            },
            other => gpu.failed("pin memory", other),
        })?;
        // SAFETY: so many bytes were handed out, and nobody has read them yet.
        unsafe { address.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self {
            address,
            bytes,
            is_kept: false,
            context: gpu.context().clone(),
        })
    }

    /// Never gives the memory back: the GPU may still use it, and nobody can wait for that.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }

    /// The bytes. Nothing may be under way to or from them.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes were handed out, written once, and are borrowed from this value.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.bytes) }
    }

    /// Begins to copy its first `bytes` bytes to the beginning of `to`. Nobody may touch them until `stream` has done
    /// it.
    ///
    /// # Panics
    /// One of both has not so many.
    pub(super) fn send(&mut self, bytes: usize, to: &GpuBuffer, stream: &CudaStream) -> Result<(), DriverError> {
        assert!(bytes <= to.bytes(), "{bytes} of {} bytes", to.bytes());
        let from = &self.bytes()[..bytes];
        // SAFETY: both sides have so many bytes; the caller leaves these alone meanwhile.
        unsafe { result::memcpy_htod_async(to.address(), from, stream.cu_stream()) }
    }
}

impl Drop for PageLocked {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let _ = bind(&self.context);
        // SAFETY: `new` has got it from the driver, and this happens once. A lost GPU makes it fail, which changes
        // nothing.
        let _ = unsafe { result::free_host(self.address) };
    }
}
