//! What a lane's kernels run on.
#![allow(unsafe_code)] // passes on what the faces of kernels vouch for

use std::sync::Arc;

use distdl_engine::config::Precision;
use distdl_engine::device::{
    Argument, DoubleBuffer, Gpu, GpuBlas, GpuBuffer, GpuDnn, GpuFound, GpuMatrices, GpuMatrix, GpuPort,
};
use distdl_storage::DeviceMemory;

use super::{Grid, Kernels};
use crate::error::{Error, Result};

/// What a device has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GpuCounts {
    /// Bytes that were copied to it.
    pub(crate) to_gpu_bytes: u64,
    /// Bytes that were copied from it.
    pub(crate) from_gpu_bytes: u64,
    /// Convolutions that cuDNN has computed.
    pub(crate) cudnn_convolutions: u64,
}

/// A number for kernels that count in 32 bits. Errors from 2^31 on.
pub(crate) fn in_words(count: usize) -> Result<Argument<'static>> {
    let fits = i32::try_from(count).map_err(|_| {
        Error::Gpu(format!(
            "a convolution or pooling of {count} elements at once is too large for a GPU; use a smaller batch or `micro_batch`"
        ))
    });
    Ok(Argument::Kind(fits?.unsigned_abs()))
}

/// A handle on a GPU with its cuBLAS, perhaps its cuDNN, and the kernels that all handles share. What it is asked for
/// happens in that order.
#[derive(Debug)]
pub struct GpuContext {
    gpu: Gpu,
    blas: GpuBlas,
    dnn: Option<GpuDnn>,
    kernels: Arc<Kernels>,
    memory_bytes: u64,
}

impl GpuContext {
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
            memory_bytes: found.memory_bytes,
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

    /// As [`allocate`](Self::allocate), with page-locked memory of the host at its side.
    pub fn port(&self, words: usize) -> Result<GpuPort> {
        Ok(GpuPort::new(&self.gpu, words.saturating_mul(4))?)
    }

    /// As [`port`](Self::port), for batches of up to so many words, one after the other.
    pub fn double_buffer(&self, words: usize) -> Result<DoubleBuffer> {
        Ok(DoubleBuffer::new(&self.gpu, words.saturating_mul(4))?)
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

    /// `to` = left x right for each of as many matrices. Errors as `multiply`.
    pub fn multiply_each(&self, to: GpuMatrices<'_>, left: GpuMatrices<'_>, right: GpuMatrices<'_>) -> Result<()> {
        Ok(self.blas.multiply_each(&self.gpu, to, left, right)?)
    }

    /// What memory GPUs of this kind have, free or not: the next power of two, as cards may have a little more or less.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.next_power_of_two()
    }

    /// cuDNN, if it is to compute convolutions.
    pub fn dnn(&self) -> Option<&GpuDnn> {
        self.dnn.as_ref()
    }

    /// What it has done so far.
    pub(crate) fn counts(&self) -> GpuCounts {
        let (to_gpu_bytes, from_gpu_bytes) = self.gpu.copied_bytes();
        GpuCounts {
            to_gpu_bytes,
            from_gpu_bytes,
            cudnn_convolutions: self.dnn.as_ref().map_or(0, GpuDnn::computed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_32_bits_do_not_count_is_refused() {
        assert!(matches!(in_words((1 << 31) - 1), Ok(Argument::Kind(count)) if count == (1 << 31) - 1));
        let error = in_words(1 << 31).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("2147483648 elements")));
    }
}
