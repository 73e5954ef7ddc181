//! What a lane's kernels run on.
#![allow(unsafe_code)] // passes on what the faces of kernels vouch for

use std::sync::Arc;

use distdl_engine::config::Precision;
use distdl_engine::device::{Argument, Gpu, GpuBlas, GpuBuffer, GpuDnn, GpuFeed, GpuFound, GpuMatrix, GpuPort};
use distdl_storage::DeviceMemory;

use super::{Grid, Kernels};
use crate::error::Result;

/// What a device has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeviceCounts {
    /// Bytes that were copied to it.
    pub(crate) to_gpu_bytes: u64,
    /// Bytes that were copied from it.
    pub(crate) from_gpu_bytes: u64,
    /// Convolutions that cuDNN has computed.
    pub(crate) cudnn_convolutions: u64,
}

/// A handle on a GPU with its cuBLAS, perhaps its cuDNN, and the kernels that all handles share. What it is asked for happens in that order.
#[derive(Debug)]
pub struct Device {
    gpu: Gpu,
    blas: GpuBlas,
    dnn: Option<GpuDnn>,
    kernels: Arc<Kernels>,
}

impl Device {
    /// On the GPU of this index. Errors if the driver, cuBLAS or cuDNN fail.
    pub fn open(found: &GpuFound, index: usize, precision: Precision, kernels: Arc<Kernels>) -> Result<Self> {
        let gpu = Gpu::open(found, index)?;
        let blas = GpuBlas::new(&gpu, precision)?;
        let dnn = found.uses_cudnn.then(|| GpuDnn::new(&gpu, precision)).transpose()?;
        Ok(Self {
            gpu,
            blas,
            dnn,
            kernels,
        })
    }

    /// The handle: memory, and copies.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Memory for `words` words of four bytes, whose contents mean nothing yet.
    pub fn allocate(&self, words: usize) -> Result<GpuBuffer> {
        Ok(self.gpu.allocate(words.saturating_mul(4))?)
    }

    /// As [`allocate`](Self::allocate), with pinned memory of the host at its side.
    pub fn port(&self, words: usize) -> Result<GpuPort> {
        Ok(GpuPort::new(&self.gpu, words.saturating_mul(4))?)
    }

    /// The same for pieces of up to so many words, one after the other.
    pub fn feed(&self, words: usize) -> Result<GpuFeed> {
        Ok(GpuFeed::new(&self.gpu, words.saturating_mul(4))?)
    }

    /// Starts a kernel. Errors if it cannot be compiled, or the driver fails.
    ///
    /// # Safety
    /// As for [`Gpu::launch`].
    pub unsafe fn run(&self, kernel: &'static str, grid: Grid, arguments: &[Argument<'_>]) -> Result<()> {
        let kernel = self.kernels.get(&self.gpu, kernel)?;
        // SAFETY: the caller vouches for the arguments.
        unsafe { self.gpu.launch(&kernel, grid.blocks, grid.threads, arguments) }?;
        Ok(())
    }

    /// `to` = left x right, or with `adds` that plus what `to` is. Errors if shapes do not fit, or cuBLAS fails.
    pub fn multiply(&self, to: GpuMatrix<'_>, left: GpuMatrix<'_>, right: GpuMatrix<'_>, adds: bool) -> Result<()> {
        Ok(self.blas.multiply(&self.gpu, to, left, right, adds)?)
    }

    /// cuDNN, if it is to compute convolutions.
    pub fn dnn(&self) -> Option<&GpuDnn> {
        self.dnn.as_ref()
    }

    /// What it has done so far.
    pub(crate) fn counts(&self) -> DeviceCounts {
        let (to_gpu_bytes, from_gpu_bytes) = self.gpu.copied_bytes();
        DeviceCounts {
            to_gpu_bytes,
            from_gpu_bytes,
            cudnn_convolutions: self.dnn.as_ref().map_or(0, GpuDnn::computed),
        }
    }
}
