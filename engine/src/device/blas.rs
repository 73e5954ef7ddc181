//! Products of matrices on a GPU, by cuBLAS.
#![allow(unsafe_code)] // calls cuBLAS with matrices whose places and lengths are checked

use std::ffi::c_int;
use std::sync::Arc;

use cudarc::cublas::result::{self as cublas, CublasError};
use cudarc::cublas::sys::{self, cublasComputeType_t as Compute, cublasOperation_t as Operation};
use cudarc::driver::CudaStream;
use distdl_storage::{DeviceError, DeviceMemory};

use super::buffer::{GpuBuffer, GpuSlice, bind};
use super::gpu::Gpu;
use crate::config::Precision;
use crate::exclusive::Exclusive;

/// cuBLAS for the handle of one worker: its products take their turn among whatever else is asked of that handle. Equal
/// shapes give equal bits on one kind of GPU, as all runs on one stream.
#[derive(Debug)]
pub struct GpuBlas {
    handle: sys::cublasHandle_t,
    compute: Compute,
    stream: Arc<CudaStream>,
    capturing: Arc<Exclusive>,
    /// What cuBLAS works with, there as long as it.
    workspace: GpuBuffer,
}

// SAFETY: any thread may use cuBLAS's handle, one at a time, and this value has it for itself.
unsafe impl Send for GpuBlas {}

impl Drop for GpuBlas {
    fn drop(&mut self) {
        let _ = bind(self.stream.context());
        // cuBLAS waits for all of the GPU when it ends, and may when it starts.
        let _turn = self.capturing.enter();
        // SAFETY: `create_handle` made it, and nothing else destroys it. A lost GPU makes this fail, which changes nothing.
        let _ = unsafe { cublas::destroy_handle(self.handle) };
    }
}

/// A matrix of `f32` on a GPU, row after row without gaps.
#[derive(Debug, Clone, Copy)]
pub struct GpuMatrix<'a> {
    values: GpuSlice<'a>,
    rows: usize,
    columns: usize,
    is_transposed: bool,
}

impl<'a> GpuMatrix<'a> {
    /// The first rows x columns elements of `values`.
    ///
    /// # Panics
    /// There are not so many, as for any slice.
    pub fn new(values: GpuSlice<'a>, rows: usize, columns: usize) -> Self {
        Self {
            values: values.part(0..rows * columns),
            rows,
            columns,
            is_transposed: false,
        }
    }

    /// The same elements, with rows for columns.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            is_transposed: !self.is_transposed,
            ..self
        }
    }

    /// What cuBLAS, for which a matrix lies column by column, is told: it sees the transpose.
    fn operation(self) -> Operation {
        match self.is_transposed {
            true => Operation::CUBLAS_OP_T,
            false => Operation::CUBLAS_OP_N,
        }
    }

    /// Elements from one row, as they lie in memory, to the next.
    fn stride(self) -> usize {
        if self.is_transposed { self.rows } else { self.columns }.max(1)
    }
}

/// What cuBLAS may work with, as it recommends for the newest GPUs, or less where there is little memory. It is fixed, so that
/// the same product is computed in the same way alone and in a graph.
const WORKSPACE_BYTES_MAX: usize = 32 << 20;
const WORKSPACE_SHARE: usize = 256;

/// Free bytes of a GPU's memory with fewer than which cuBLAS might not start.
const START_BYTES: u64 = 512 << 20;

impl GpuBlas {
    /// cuBLAS for a handle. Factors are rounded as `precision` says; sums are of `f32`.
    ///
    /// # Errors
    /// cuBLAS does not start.
    pub fn new(gpu: &Gpu, precision: Precision) -> Result<Self, DeviceError> {
        let start = |error: CublasError| match error.0 {
            sys::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => gpu.out_of_memory(0),
            // It tells want of memory by this, too.
            sys::cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED
                if gpu.free_bytes().is_ok_and(|bytes| bytes < START_BYTES) =>
            {
                gpu.out_of_memory(START_BYTES as usize)
            }
            status => gpu.refused("start cuBLAS", format!("{status:?}")),
        };
        gpu.bind().map_err(|error| gpu.failed("start cuBLAS", error))?;
        let memory = gpu.context().mem_get_info();
        let (_, memory_bytes) = memory.map_err(|error| gpu.failed("start cuBLAS", error))?;
        let workspace_bytes = (memory_bytes / WORKSPACE_SHARE).min(WORKSPACE_BYTES_MAX);
        let workspace = gpu.allocate(workspace_bytes)?;
        // See `drop`.
        let turn = gpu.capturing.enter();
        let handle = cublas::create_handle();
        drop(turn);
        let blas = Self {
            handle: handle.map_err(start)?,
            compute: match precision {
                Precision::F32 => Compute::CUBLAS_COMPUTE_32F,
                Precision::Tf32 => Compute::CUBLAS_COMPUTE_32F_FAST_TF32,
                Precision::Bf16 => Compute::CUBLAS_COMPUTE_32F_FAST_16BF,
            },
            stream: gpu.stream.clone(),
            capturing: Arc::clone(&gpu.capturing),
            workspace,
        };
        // SAFETY: handle and stream live as long as this value.
        unsafe { cublas::set_stream(blas.handle, gpu.stream.cu_stream().cast()) }.map_err(start)?;
        let place = blas.workspace.place() as *mut _;
        // SAFETY: the workspace has so many bytes and lives as long as the handle. Behind the stream, which would take it away.
        let set = unsafe { sys::cublasSetWorkspace_v2(blas.handle, place, workspace_bytes) };
        set.result().map_err(start)?;
        Ok(blas)
    }

    /// `to` = left x right, or with `adds` that plus what `to` is. `to` is no transpose, and no part of the others.
    ///
    /// # Errors
    /// The shapes do not fit, or cuBLAS fails.
    pub fn multiply(
        &self,
        gpu: &Gpu,
        to: GpuMatrix<'_>,
        left: GpuMatrix<'_>,
        right: GpuMatrix<'_>,
        adds: bool,
    ) -> Result<(), DeviceError> {
        let fits = left.columns == right.rows && (to.rows, to.columns) == (left.rows, right.columns);
        if !Arc::ptr_eq(&self.stream, &gpu.stream) {
            return Err(gpu.refused("multiply", "cuBLAS was started for another handle".into()));
        }
        for matrix in [to, left, right] {
            gpu.check_own("multiply", matrix.values.buffer())?;
        }
        let lengths = [to.rows, to.columns, left.columns, left.stride(), right.stride()].map(c_int::try_from);
        let [Ok(rows), Ok(columns), Ok(inner), Ok(left_stride), Ok(right_stride)] = lengths else {
            return Err(gpu.refused("multiply", "a matrix has more than 2^31 rows or columns".into()));
        };
        if !fits || to.is_transposed {
            let shapes = [left, right, to].map(|matrix| format!("{} x {}", matrix.rows, matrix.columns));
            return Err(gpu.refused("multiply", format!("{shapes:?} do not fit")));
        }
        if rows == 0 || columns == 0 {
            return Ok(());
        }
        let (one, before): (f32, f32) = (1.0, if adds { 1.0 } else { 0.0 });
        gpu.bind().map_err(|error| gpu.failed("multiply", error))?;
        let numbers = [
            to.values.place(),
            left.values.place(),
            right.values.place(),
            left.rows as u64,
            left.columns as u64,
            right.columns as u64,
            self.workspace.place(),
            self.compute as u64,
            u64::from(left.is_transposed) | u64::from(right.is_transposed) << 1 | u64::from(adds) << 2,
        ];
        // SAFETY: the handle lives; each matrix has as many elements as its shape says. As cuBLAS sees transposes, it makes
        // that of the product from those of the factors in the other order.
        let multiply = || unsafe {
            cublas::gemm_ex(
                self.handle,
                right.operation(),
                left.operation(),
                columns,
                rows,
                inner,
                (&raw const one).cast(),
                right.values.place() as *const _,
                sys::cudaDataType::CUDA_R_32F,
                right_stride,
                left.values.place() as *const _,
                sys::cudaDataType::CUDA_R_32F,
                left_stride,
                (&raw const before).cast(),
                to.values.place() as *mut _,
                sys::cudaDataType::CUDA_R_32F,
                columns.max(1),
                self.compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT,
            )
        };
        let run = || multiply().map_err(|error| gpu.refused("multiply", format!("{:?}", error.0)));
        gpu.in_mode(|mode| mode.other(&numbers, run))
    }
}
