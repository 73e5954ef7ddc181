//! Memory of a GPU with pinned memory of the host at its side: copies go on while the host does something else.
#![allow(unsafe_code)] // copies that have not ended when the call does

use bytemuck::Pod;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaEvent, DriverError, result};
use distdl_storage::{DeviceError, DeviceMemory};

use super::buffer::{GpuBuffer, GpuSlice};
use super::gpu::{Eager, Gpu};
use super::page_locked::PageLocked;

/// What goes wrong, for errors.
const WAIT: &str = "do what it was asked";

/// A buffer of one handle, through which its host sends or fetches. A fetch is waited for when it is taken.
#[derive(Debug)]
pub struct GpuPort {
    buffer: GpuBuffer,
    /// The host's side.
    host: PageLocked,
    /// Whether a copy may be under way to or from the host's side.
    is_under_way: bool,
    /// That copy has ended: what was asked of the handle besides is not waited for.
    copied: CudaEvent,
}

impl GpuPort {
    /// A port for up to `bytes` bytes. As many of the host's memory are pinned now: a step that has begun finds them.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the GPU has not so much left; [`DeviceError::NoHostMemory`] if the host has not;
    /// [`DeviceError::Failed`] otherwise.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        let (buffer, host) = (gpu.allocate(bytes)?, PageLocked::new(gpu, bytes)?);
        let copied = gpu.bind().and_then(|()| gpu.context().new_event(None));
        Ok(Self {
            buffer,
            host,
            is_under_way: false,
            copied: copied.map_err(|error| gpu.failed("make an event", error))?,
        })
    }

    /// The GPU's side.
    pub fn buffer(&self) -> &GpuBuffer {
        &self.buffer
    }

    /// Its words of four bytes.
    pub fn words(&self) -> GpuSlice<'_> {
        self.buffer.words()
    }

    /// Sends `from` to the beginning of the buffer, behind whatever was asked of `gpu` before. It may be changed once
    /// this returns.
    ///
    /// # Errors
    /// It does not fit, the port is another handle's, or the driver fails.
    pub fn send<T: Pod>(&mut self, gpu: &Gpu, from: &[T]) -> Result<(), DeviceError> {
        let from: &[u8] = bytemuck::cast_slice(from);
        if from.is_empty() {
            return Ok(());
        }
        let address = self.buffer.address();
        let (_eager, host) = self.begin(gpu, "copy to it", from.len())?;
        host.copy_from_slice(from);
        // SAFETY: both sides have so many bytes. Nobody touches the host's before `settle` or `drop` have waited.
        let begun = unsafe { result::memcpy_htod_async(address, host, gpu.stream.cu_stream()) };
        self.note(gpu, begun).map_err(|error| gpu.failed("copy to it", error))?;
        gpu.count_to_gpu(from.len());
        Ok(())
    }

    /// Begins to fetch the first `bytes` bytes, once whatever was asked of `gpu` before is done.
    ///
    /// # Errors
    /// There are not so many, the port is another handle's, or the driver fails.
    pub fn fetch(&mut self, gpu: &Gpu, bytes: usize) -> Result<(), DeviceError> {
        let address = self.buffer.address();
        let (_eager, host) = self.begin(gpu, "copy from it", bytes)?;
        // SAFETY: both sides have so many bytes. Nobody touches the host's before `settle` or `drop` have waited.
        let begun = unsafe { result::memcpy_dtoh_async(host, address, gpu.stream.cu_stream()) };
        self.note(gpu, begun)
            .map_err(|error| gpu.failed("copy from it", error))?;
        gpu.count_from_gpu(bytes);
        Ok(())
    }

    /// Waits for what was fetched, and gives the host's side; what was not fetched means nothing.
    ///
    /// # Errors
    /// The driver fails: now, or at what was asked before.
    pub fn take(&mut self, gpu: &Gpu) -> Result<&[u8], DeviceError> {
        self.settle(gpu)?;
        Ok(self.host.bytes())
    }

    /// The first `bytes` bytes of the host's side, for a copy that is under way once this returns, and what it is begun
    /// under.
    fn begin<'host, 'gpu>(
        &'host mut self,
        gpu: &'gpu Gpu,
        what: &'static str,
        bytes: usize,
    ) -> Result<(Eager<'gpu>, &'host mut [u8]), DeviceError> {
        self.settle(gpu)?;
        let eager = gpu.check_now(what)?;
        gpu.check_own(what, &self.buffer)?;
        if bytes > self.buffer.bytes() {
            return Err(gpu.refused(what, format!("{bytes} bytes do not fit into {}", self.buffer.bytes())));
        }
        gpu.bind().map_err(|error| gpu.failed(what, error))?;
        self.is_under_way = true;
        Ok((eager, &mut self.host.bytes()[..bytes]))
    }

    /// Marks the end of a copy that was begun. If that cannot be, waits for it now, since no mark would tell later.
    fn note(&self, gpu: &Gpu, begun: Result<(), DriverError>) -> Result<(), DriverError> {
        let noted = begun.and_then(|()| self.copied.record(&gpu.stream));
        if noted.is_err() {
            let _ = gpu.wait();
        }
        noted
    }

    /// Waits for a copy that may be under way.
    fn settle(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        if self.is_under_way {
            let _eager = gpu.check_now(WAIT)?;
            gpu.check_own(WAIT, &self.buffer)?;
            let waited = gpu.bind().and_then(|()| self.copied.synchronize());
            waited.map_err(|error: DriverError| gpu.failed(WAIT, error))?;
            self.is_under_way = false;
        }
        Ok(())
    }
}

impl Drop for GpuPort {
    /// Nothing is freed that a copy still reads or writes. While a graph is captured nobody can wait for that, and the
    /// host's side is kept. What else fails has failed before, on a GPU that does nothing more.
    fn drop(&mut self) {
        if self.is_under_way
            && let Err(DriverError(
                CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED | CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
            )) = self.buffer.wait()
        {
            self.host.keep();
        }
    }
}
