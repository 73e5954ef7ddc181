//! A place for one piece of data on its way through a GPU: there, through a kernel, and back, without the host waiting.
#![allow(unsafe_code)] // copies that go on while the host does something else

use cudarc::driver::result;
use distdl_storage::{DeviceError, DeviceMemory};

use super::gpu::{Gpu, GpuBuffer};
use super::pinned::Pinned;

/// A stream of its own on a GPU, with room for one piece at each end.
#[derive(Debug)]
pub(crate) struct Slot {
    gpu: Gpu,
    inputs: GpuBuffer,
    outputs: GpuBuffer,
    given: Pinned,
    taken: Pinned,
}

/// A piece that lies on a GPU.
#[derive(Debug)]
pub struct GpuPiece<'a> {
    /// What runs kernels on it, in order.
    pub gpu: &'a Gpu,
    /// How many records it has.
    pub records: usize,
    /// They, at the beginning of a buffer that may be longer.
    pub inputs: &'a GpuBuffer,
    /// Where as many records of the output go.
    pub outputs: &'a GpuBuffer,
}

impl Slot {
    /// A slot with room for so many bytes of input and of output.
    pub(crate) fn new(gpu: Gpu, input_bytes: usize, output_bytes: usize) -> Result<Self, DeviceError> {
        let pinned = |bytes| Pinned::new(gpu.context(), bytes).map_err(|error| gpu.failed("pin memory", error));
        Ok(Self {
            inputs: gpu.allocate(input_bytes)?,
            outputs: gpu.allocate(output_bytes)?,
            given: pinned(input_bytes)?,
            taken: pinned(output_bytes)?,
            gpu,
        })
    }

    /// Sends `inputs`, so many records, through `kernel`, which writes `output_bytes` bytes. The piece before must have
    /// [ended](Self::end).
    pub(crate) fn begin(
        &mut self,
        inputs: &[u8],
        records: usize,
        output_bytes: usize,
        kernel: impl FnOnce(&GpuPiece<'_>) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let (given, taken) = (self.given.bytes(), self.taken.bytes());
        if inputs.len() > self.inputs.bytes() || output_bytes > self.outputs.bytes() {
            let reason = format!("{} bytes in, {output_bytes} out are too many", inputs.len());
            return Err(self.gpu.refused("take a piece", reason));
        }
        given[..inputs.len()].copy_from_slice(inputs);
        self.gpu.bind().map_err(|error| self.gpu.failed("copy to it", error))?;
        let stream = self.gpu.stream.cu_stream();
        // SAFETY: both ends have so many bytes, and nobody else uses them until `end`, or `drop`, has waited.
        let copied = unsafe { result::memcpy_htod_async(self.inputs.place(), &given[..inputs.len()], stream) };
        copied.map_err(|error| self.gpu.failed("copy to it", error))?;
        kernel(&GpuPiece {
            gpu: &self.gpu,
            records,
            inputs: &self.inputs,
            outputs: &self.outputs,
        })?;
        // SAFETY: as above.
        let copied = unsafe { result::memcpy_dtoh_async(&mut taken[..output_bytes], self.outputs.place(), stream) };
        copied.map_err(|error| self.gpu.failed("copy from it", error))
    }

    /// Waits for the piece, and gives what it has become: the first bytes are its.
    pub(crate) fn end(&mut self) -> Result<&[u8], DeviceError> {
        self.gpu.synchronize()?;
        Ok(self.taken.bytes())
    }
}

impl Drop for Slot {
    /// Nothing is freed that the GPU still reads or writes.
    fn drop(&mut self) {
        let _ = self.gpu.synchronize();
    }
}
