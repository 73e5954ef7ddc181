//! Data on its way to a GPU, piece after piece: the next one is copied while kernels work on the one before.

use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{CudaEvent, CudaStream, DriverError};
use distdl_storage::{DeviceError, DeviceMemory};

use super::buffer::{GpuBuffer, GpuSlice, bind};
use super::gpu::Gpu;
use super::page_locked::PageLocked;

/// What goes wrong, for errors.
const COPY: &str = "copy to it";

/// A double buffer: the host copies to one half on a separate stream while kernels read the other; `swap` orders the
/// two by events. The host waits where the last copy to a half is still under way: no more than two are. With one half
/// alone a copy waits for what reads the piece before.
#[derive(Debug)]
pub struct DoubleBuffer {
    halves: Vec<Half>,
    /// The one that kernels read.
    at: usize,
    /// Whether the next one has a piece that was not swapped in.
    has_unswapped: bool,
    copying: Arc<CudaStream>,
}

/// Memory of a GPU with pinned memory of the host at its side.
#[derive(Debug)]
struct Half {
    buffer: GpuBuffer,
    host: PageLocked,
    /// Its last piece is there.
    copied: CudaEvent,
    /// Nothing that was asked for reads it any more; at first, the buffer is there.
    read: CudaEvent,
}

impl Half {
    fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        let (buffer, host) = (gpu.allocate(bytes)?, PageLocked::new(gpu, bytes)?);
        let events = || -> Result<_, DriverError> {
            gpu.bind()?;
            let events = [gpu.context().new_event(None)?, gpu.context().new_event(None)?];
            events[1].record(&gpu.stream)?;
            Ok(events)
        };
        let [copied, read] = events().map_err(|error| gpu.failed("make an event", error))?;
        Ok(Self {
            buffer,
            host,
            copied,
            read,
        })
    }
}

impl DoubleBuffer {
    /// With one half, for pieces of up to `bytes` bytes.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the GPU has not so much left; [`DeviceError::NoHostMemory`] if the host has not;
    /// [`DeviceError::Failed`] otherwise.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        let half = Half::new(gpu, bytes)?;
        let copying = gpu.context().new_stream();
        Ok(Self {
            halves: vec![half],
            at: 0,
            has_unswapped: false,
            copying: copying.map_err(|error| gpu.failed("make a stream", error))?,
        })
    }

    /// Sees to it that there is a second half: without it the copy of a piece waits for what reads the one before,
    /// which must have been asked for when it is sent. A piece that was not swapped in is forgotten.
    ///
    /// # Errors
    /// As [`new`](Self::new); it stays as it is then.
    pub fn add_second(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        if let [only] = &self.halves[..] {
            gpu.check_own("allocate", &only.buffer)?;
            self.halves.push(Half::new(gpu, only.buffer.bytes())?);
            self.has_unswapped = false;
        }
        Ok(())
    }

    /// The words of four bytes of the piece that was swapped in last, and then what means nothing.
    pub fn words(&self) -> GpuSlice<'_> {
        self.halves[self.at].buffer.words()
    }

    /// Sends a piece. `from` may be changed once this returns. What was sent before, and not swapped in, is forgotten.
    ///
    /// # Errors
    /// It does not fit, it is another handle's, or the driver fails.
    pub fn send<T: Pod>(&mut self, gpu: &Gpu, from: &[T]) -> Result<(), DeviceError> {
        let from: &[u8] = bytemuck::cast_slice(from);
        let to = &self.halves[self.at].buffer;
        let _eager = gpu.check_now(COPY)?;
        gpu.check_own(COPY, to)?;
        if from.len() > to.bytes() {
            let reason = format!("{} bytes do not fit into {}", from.len(), to.bytes());
            return Err(gpu.refused(COPY, reason));
        }
        self.begin(gpu, from).map_err(|error| gpu.failed(COPY, error))?;
        gpu.count_to_gpu(from.len());
        Ok(())
    }

    fn begin(&mut self, gpu: &Gpu, from: &[u8]) -> Result<(), DriverError> {
        gpu.bind()?;
        if let [only] = &self.halves[..] {
            only.read.record(&gpu.stream)?;
        }
        let next = self.next();
        let Half {
            buffer,
            host,
            copied,
            read,
        } = &mut self.halves[next];
        copied.synchronize()?;
        host.bytes()[..from.len()].copy_from_slice(from);
        self.copying.wait(read)?;
        let sent = match from.is_empty() {
            true => Ok(()),
            false => host.send(from.len(), buffer, &self.copying),
        };
        // Without a mark at its end, which would tell later, the copy is waited for now.
        let noted = sent.and_then(|()| copied.record(&self.copying));
        if let Err(error) = noted {
            let _ = wait(&self.copying);
            return Err(error);
        }
        self.has_unswapped = true;
        Ok(())
    }

    /// Swaps in the piece that was sent last: what is asked of `gpu` from now on begins when it is there, and does not
    /// read the one before.
    ///
    /// # Errors
    /// It is another handle's, or the driver fails.
    pub fn swap(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        let _eager = gpu.check_now(COPY)?;
        gpu.check_own(COPY, &self.halves[self.at].buffer)?;
        if self.has_unswapped {
            let swapped = gpu.bind().and_then(|()| self.halves[self.at].read.record(&gpu.stream));
            self.at = self.next();
            let swapped = swapped.and_then(|()| gpu.stream.wait(&self.halves[self.at].copied));
            swapped.map_err(|error| gpu.failed(COPY, error))?;
            self.has_unswapped = false;
        }
        Ok(())
    }

    /// The half of the next piece.
    fn next(&self) -> usize {
        (self.at + 1) % self.halves.len()
    }
}

impl Drop for DoubleBuffer {
    /// Nothing is freed that a copy still reads or writes. What fails here has failed before, and is said there.
    fn drop(&mut self) {
        let _ = wait(&self.copying);
    }
}

/// Waits for a stream, whatever has failed before.
fn wait(stream: &CudaStream) -> Result<(), DriverError> {
    let _ = bind(stream.context());
    stream.synchronize()
}
