//! What a lane's kernels run on.
#![allow(unsafe_code)] // passes on what the faces of kernels vouch for

use std::sync::Arc;

use distdl_engine::config::Precision;
use distdl_engine::device::{
    Argument, Convolution, ConvolutionOperands, ConvolutionPart, Gpu, GpuBlas, GpuBuffer, GpuDnn, GpuFound, GpuMatrix,
    GpuPort, GpuSlice,
};
use distdl_storage::DeviceMemory;

use super::{Grid, Kernels};
use crate::error::{Error, Result};

/// What was asked of a device.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
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

    /// Words that cuDNN needs to compute a convolution; `None` if it cannot, or is not to. Errors if it fails.
    pub fn convolution_words(&self, convolution: Convolution, part: ConvolutionPart) -> Result<Option<usize>> {
        let Some(dnn) = &self.dnn else { return Ok(None) };
        let bytes = dnn.workspace_bytes(&self.gpu, convolution, part)?;
        Ok(bytes.map(|bytes| bytes.div_ceil(4)))
    }

    /// Whether cuDNN computes convolutions, if it can.
    pub fn has_cudnn(&self) -> bool {
        self.dnn.is_some()
    }

    /// What was asked of it so far.
    pub(crate) fn asked(&self) -> Asked {
        let (to_gpu_bytes, from_gpu_bytes) = self.gpu.copied_bytes();
        Asked {
            to_gpu_bytes,
            from_gpu_bytes,
            cudnn_convolutions: self.dnn.as_ref().map_or(0, GpuDnn::computed),
        }
    }

    /// As [`GpuDnn::convolve`], where [`convolution_words`](Self::convolution_words) says that cuDNN can.
    pub fn convolve(
        &self,
        convolution: Convolution,
        part: ConvolutionPart,
        operands: ConvolutionOperands<'_>,
        workspace: GpuSlice<'_>,
    ) -> Result<bool> {
        match &self.dnn {
            Some(dnn) => Ok(dnn.convolve(&self.gpu, convolution, part, operands, workspace)?),
            None => Err(Error::Training("cuDNN is not to compute convolutions".into())),
        }
    }
}
