//! Data on its way to a GPU, piece after piece: the next one is copied while kernels work on the one before.

use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{CudaEvent, CudaStream, DriverError};
use distdl_storage::{DeviceError, DeviceMemory};

use super::buffer::{GpuBuffer, GpuSlice, bind};
use super::gpu::Gpu;
use super::pinned::Pinned;

/// What goes wrong, for errors.
const COPY: &str = "copy to it";

/// One end, or two in turn, that its host sends pieces to, and whose kernels turn to them. Copies have a stream of their own: only
/// what is asked for behind the turn to a piece waits for its copy, and that waits only for what was asked for before the turn away
/// from the piece that lay there. The host waits where an end's last copy is still under way: no more than two are.
#[derive(Debug)]
pub struct GpuFeed {
    ends: Vec<End>,
    /// The one that kernels read.
    at: usize,
    /// Whether the next one has a piece that nobody has turned to.
    is_ahead: bool,
    copying: Arc<CudaStream>,
}

/// Memory of a GPU with pinned memory of the host at its side.
#[derive(Debug)]
struct End {
    buffer: GpuBuffer,
    host: Pinned,
    /// Its last piece is there.
    copied: CudaEvent,
    /// Nothing that was asked for reads it any more; at first, the buffer is there.
    read: CudaEvent,
}

impl End {
    fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        let (buffer, host) = (gpu.allocate(bytes)?, Pinned::new(gpu, bytes)?);
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

impl GpuFeed {
    /// A feed with one end, for pieces of up to `bytes` bytes.
    ///
    /// # Errors
    /// [`DeviceError::OutOfMemory`] if the GPU has not so much left; [`DeviceError::NoHostMemory`] if the host has not;
    /// [`DeviceError::Failed`] otherwise.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Self, DeviceError> {
        let end = End::new(gpu, bytes)?;
        let copying = gpu.context().new_stream();
        Ok(Self {
            ends: vec![end],
            at: 0,
            is_ahead: false,
            copying: copying.map_err(|error| gpu.failed("make a stream", error))?,
        })
    }

    /// Sees to it that there is a second end: without it the copy of a piece waits for what reads the one before, which must
    /// have been asked for when it is sent. A piece that was not turned to is forgotten.
    ///
    /// # Errors
    /// As [`new`](Self::new); it stays as it is then.
    pub fn double(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        if let [only] = &self.ends[..] {
            gpu.check_own("allocate", &only.buffer)?;
            self.ends.push(End::new(gpu, only.buffer.bytes())?);
            self.is_ahead = false;
        }
        Ok(())
    }

    /// The words of four bytes of the piece that was turned to last, and then what means nothing.
    pub fn words(&self) -> GpuSlice<'_> {
        self.ends[self.at].buffer.words()
    }

    /// Sends a piece. `from` may be changed once this returns. What was sent before, and not turned to, is forgotten.
    ///
    /// # Errors
    /// It does not fit, the feed is another handle's, or the driver fails.
    pub fn send<T: Pod>(&mut self, gpu: &Gpu, from: &[T]) -> Result<(), DeviceError> {
        let from: &[u8] = bytemuck::cast_slice(from);
        let to = &self.ends[self.at].buffer;
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
        if let [only] = &self.ends[..] {
            only.read.record(&gpu.stream)?;
        }
        let next = self.next();
        let End {
            buffer,
            host,
            copied,
            read,
        } = &mut self.ends[next];
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
        self.is_ahead = true;
        Ok(())
    }

    /// Turns to the piece that was sent last: what is asked of `gpu` from now on begins when it is there, and does not read the one
    /// before.
    ///
    /// # Errors
    /// The feed is another handle's, or the driver fails.
    pub fn turn(&mut self, gpu: &Gpu) -> Result<(), DeviceError> {
        let _eager = gpu.check_now(COPY)?;
        gpu.check_own(COPY, &self.ends[self.at].buffer)?;
        if self.is_ahead {
            let turned = gpu.bind().and_then(|()| self.ends[self.at].read.record(&gpu.stream));
            self.at = self.next();
            let turned = turned.and_then(|()| gpu.stream.wait(&self.ends[self.at].copied));
            turned.map_err(|error| gpu.failed(COPY, error))?;
            self.is_ahead = false;
        }
        Ok(())
    }

    /// The end of the next piece.
    fn next(&self) -> usize {
        (self.at + 1) % self.ends.len()
    }
}

impl Drop for GpuFeed {
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
