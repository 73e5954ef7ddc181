//! A stage of a pipeline for one piece of data on its way through a GPU: there, through a kernel, and back, without the
//! host waiting.

use distdl_storage::DeviceError;

use super::buffer::GpuBuffer;
use super::gpu::Gpu;
use super::port::GpuPort;

/// A stream of its own on a GPU, with room for one piece at each end.
#[derive(Debug)]
pub(crate) struct PipelineStage {
    inputs: GpuPort,
    outputs: GpuPort,
    /// Behind what it works on.
    gpu: Gpu,
}

/// A piece that lies on a GPU.
#[derive(Debug)]
pub struct GpuBatch<'a> {
    /// What runs kernels on it, in order.
    pub gpu: &'a Gpu,
    /// How many records it has.
    pub records: usize,
    /// They, at the beginning of a buffer that may be longer.
    pub inputs: &'a GpuBuffer,
    /// Where as many records of the output go.
    pub outputs: &'a GpuBuffer,
}

impl PipelineStage {
    /// A stage with room for so many bytes of input and of output.
    pub(crate) fn new(gpu: Gpu, input_bytes: usize, output_bytes: usize) -> Result<Self, DeviceError> {
        Ok(Self {
            inputs: GpuPort::new(&gpu, input_bytes)?,
            outputs: GpuPort::new(&gpu, output_bytes)?,
            gpu,
        })
    }

    /// The handle that its kernels run on.
    pub(crate) fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Sends `inputs`, so many records, through `kernel`, which writes `output_bytes` bytes.
    pub(crate) fn begin(
        &mut self,
        inputs: &[u8],
        records: usize,
        output_bytes: usize,
        kernel: impl FnOnce(&GpuBatch<'_>) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.inputs.send(&self.gpu, inputs)?;
        kernel(&GpuBatch {
            gpu: &self.gpu,
            records,
            inputs: self.inputs.buffer(),
            outputs: self.outputs.buffer(),
        })?;
        self.outputs.fetch(&self.gpu, output_bytes)
    }

    /// Waits for the piece, and gives what it has become: the first bytes are its.
    pub(crate) fn end(&mut self) -> Result<&[u8], DeviceError> {
        self.outputs.take(&self.gpu)
    }
}

impl Drop for PipelineStage {
    /// Nothing is freed that the GPU still reads or writes.
    fn drop(&mut self) {
        let _ = self.gpu.synchronize();
    }
}
