//! Products of matrices on a GPU, by cuBLAS.
#![allow(unsafe_code)] // calls cuBLAS with matrices whose places and lengths are checked

use std::ffi::{c_int, c_longlong};
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
        // SAFETY: `create_handle` made it, and nothing else destroys it. A lost GPU makes this fail, which changes
        // nothing.
        let _ = unsafe { cublas::destroy_handle(self.handle) };
    }
}

/// A matrix of `f32` on a GPU, row after row.
#[derive(Debug, Clone, Copy)]
pub struct GpuMatrix<'a> {
    values: GpuSlice<'a>,
    rows: usize,
    columns: usize,
    /// Elements from one row, as they lie in memory, to the next.
    stride: usize,
    is_transposed: bool,
}

/// Matrices of one shape on a GPU, one every so many elements.
#[derive(Debug, Clone, Copy)]
pub struct GpuMatrices<'a> {
    first: GpuMatrix<'a>,
    /// What they lie in.
    values: GpuSlice<'a>,
    count: usize,
    step: usize,
}

impl<'a> GpuMatrix<'a> {
    /// The first rows x columns elements of `values`.
    ///
    /// # Panics
    /// There are not so many, as for any slice.
    pub fn new(values: GpuSlice<'a>, rows: usize, columns: usize) -> Self {
        Self::with_stride(values, [rows, columns], columns)
    }

    /// Rows of `values` that begin every `stride` elements, which are at least as many as there are columns.
    ///
    /// # Panics
    /// They do not lie in there, as for any slice.
    pub fn with_stride(values: GpuSlice<'a>, [rows, columns]: [usize; 2], stride: usize) -> Self {
        assert!(columns <= stride, "rows of {columns} elements every {stride}");
        Self {
            values: values.part(0..spread(rows, stride, columns)),
            rows,
            columns,
            stride,
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

    /// All that says what it is.
    fn numbers(self) -> [u64; 5] {
        let sides = [self.rows, self.columns, self.stride].map(|side| side as u64);
        let [rows, columns, stride] = sides;
        [
            self.values.address(),
            rows,
            columns,
            stride,
            u64::from(self.is_transposed),
        ]
    }

    /// Whether it has no gaps and lies row after row.
    fn is_dense(self) -> bool {
        !self.is_transposed && self.stride == self.columns
    }
}

impl<'a> GpuMatrices<'a> {
    /// `count` matrices of rows x columns elements of `values`, one every `step` elements, or all the same if that is 0. Rows begin
    /// every `stride` elements, which are at least as many as there are columns.
    ///
    /// # Panics
    /// They do not lie in there, as for any slice.
    pub fn new(values: GpuSlice<'a>, count: usize, step: usize, sides: [usize; 2], stride: usize) -> Self {
        let [rows, columns] = sides;
        let values = values.part(0..spread(count, step, spread(rows, stride, columns)));
        let (sides, stride) = if count == 0 { ([0; 2], 0) } else { (sides, stride) };
        Self {
            first: GpuMatrix::with_stride(values, sides, stride),
            values,
            count,
            step,
        }
    }

    /// The same elements, with rows for columns in each.
    #[must_use]
    pub fn transpose(self) -> Self {
        Self {
            first: self.first.transpose(),
            ..self
        }
    }
}

/// The elements among which `count` pieces of `length` lie, one every `step`; more than there can be, if `usize` does
/// not count them.
fn spread(count: usize, step: usize, length: usize) -> usize {
    let Some(steps) = count.checked_sub(1) else { return 0 };
    let all = steps.checked_mul(step).and_then(|before| before.checked_add(length));
    all.unwrap_or(usize::MAX)
}

/// The sides of a product, as cuBLAS counts.
struct Sides {
    rows: c_int,
    columns: c_int,
    inner: c_int,
    left_stride: c_int,
    right_stride: c_int,
}

/// What cuBLAS may work with, as it recommends for the newest GPUs, or less where there is little memory. It is fixed,
/// so that the same product is computed in the same way alone and in a graph.
const WORKSPACE_BYTES_MAX: usize = 32 << 20;
const WORKSPACE_SHARE: usize = 256;

/// What errors call it.
const MULTIPLY: &str = "multiply";

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
        // Cards of a kind may have a little more or less of their memory.
        let workspace_bytes = (memory_bytes.next_power_of_two() / WORKSPACE_SHARE).min(WORKSPACE_BYTES_MAX);
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
        let address = blas.workspace.address() as *mut _;
        // SAFETY: the workspace has so many bytes and lives as long as the handle. Behind the stream, which would take
        // it away.
        let set = unsafe { sys::cublasSetWorkspace_v2(blas.handle, address, workspace_bytes) };
        set.result().map_err(start)?;
        Ok(blas)
    }

    /// `to` = left x right, or with `adds` that plus what `to` is. `to` is no transpose, has no gaps, and is no part of
    /// the others.
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
        let sides = self.sides(gpu, [to, left, right])?;
        if to.values.is_empty() {
            return Ok(());
        }
        let (one, before): (f32, f32) = (1.0, if adds { 1.0 } else { 0.0 });
        // SAFETY: the handle lives; each matrix has as many elements as its shape says. As cuBLAS sees transposes, it
        // makes that of the product from those of the factors in the other order.
        let multiply = || unsafe {
            cublas::gemm_ex(
                self.handle,
                right.operation(),
                left.operation(),
                sides.columns,
                sides.rows,
                sides.inner,
                (&raw const one).cast(),
                right.values.address() as *const _,
                sys::cudaDataType::CUDA_R_32F,
                sides.right_stride,
                left.values.address() as *const _,
                sys::cudaDataType::CUDA_R_32F,
                sides.left_stride,
                (&raw const before).cast(),
                to.values.address() as *mut _,
                sys::cudaDataType::CUDA_R_32F,
                sides.columns,
                self.compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT,
            )
        };
        let [to, left, right] = [to, left, right].map(GpuMatrix::numbers);
        let numbers = [
            to,
            left,
            right,
            [self.workspace.address(), self.compute as u64, u64::from(adds), 0, 0],
        ];
        ask(gpu, numbers.as_flattened(), multiply)
    }

    /// The same for each of as many matrices, which replaces what is there. Those of `to` do not overlap.
    ///
    /// # Errors
    /// As [`multiply`](Self::multiply).
    pub fn multiply_each(
        &self,
        gpu: &Gpu,
        to: GpuMatrices<'_>,
        left: GpuMatrices<'_>,
        right: GpuMatrices<'_>,
    ) -> Result<(), DeviceError> {
        let all = [to, left, right];
        let sides = self.sides(gpu, all.map(|matrices| matrices.first))?;
        let counts = all.map(|matrices| matrices.count);
        let (Ok(count), true) = (c_int::try_from(to.count), counts == [to.count; 3]) else {
            return Err(gpu.refused(MULTIPLY, format!("{counts:?} matrices do not fit")));
        };
        if to.step < to.first.values.len() && to.count > 1 {
            return Err(gpu.refused(MULTIPLY, "products overlap".into()));
        }
        let steps = all.map(|matrices| c_longlong::try_from(matrices.step));
        let [Ok(to_step), Ok(left_step), Ok(right_step)] = steps else {
            return Err(gpu.refused(MULTIPLY, "matrices are more than 2^63 elements apart".into()));
        };
        if to.values.is_empty() {
            return Ok(());
        }
        let (one, before): (f32, f32) = (1.0, 0.0);
        // SAFETY: as above; all matrices lie in what `values` has.
        let multiply = || unsafe {
            cublas::gemm_strided_batched_ex(
                self.handle,
                right.first.operation(),
                left.first.operation(),
                sides.columns,
                sides.rows,
                sides.inner,
                (&raw const one).cast(),
                right.values.address() as *const _,
                sys::cudaDataType::CUDA_R_32F,
                sides.right_stride,
                right_step,
                left.values.address() as *const _,
                sys::cudaDataType::CUDA_R_32F,
                sides.left_stride,
                left_step,
                (&raw const before).cast(),
                to.values.address() as *mut _,
                sys::cudaDataType::CUDA_R_32F,
                sides.columns,
                to_step,
                count,
                self.compute,
                sys::cublasGemmAlgo_t::CUBLAS_GEMM_DFALT,
            )
        };
        let steps = all.map(|matrices| matrices.step as u64);
        let [to, left, right] = all.map(|matrices| matrices.first.numbers());
        let others = [
            self.workspace.address(),
            self.compute as u64,
            steps[0],
            steps[1],
            steps[2],
        ];
        // Of another length than those of a single product.
        let numbers = [to, left, right, others, [counts[0] as u64, 0, 0, 0, 0]];
        ask(gpu, numbers.as_flattened(), multiply)
    }

    /// The sides of a product, if its matrices are of this handle and fit: that, then its factors.
    fn sides(&self, gpu: &Gpu, [to, left, right]: [GpuMatrix<'_>; 3]) -> Result<Sides, DeviceError> {
        let fits = left.columns == right.rows && (to.rows, to.columns) == (left.rows, right.columns);
        if !Arc::ptr_eq(&self.stream, &gpu.stream) {
            return Err(gpu.refused(MULTIPLY, "cuBLAS was started for another handle".into()));
        }
        for matrix in [to, left, right] {
            gpu.check_own(MULTIPLY, matrix.values.buffer())?;
        }
        let strides = [left, right].map(|matrix| matrix.stride.max(1));
        let lengths = [to.rows, to.columns, left.columns, strides[0], strides[1]].map(c_int::try_from);
        let [Ok(rows), Ok(columns), Ok(inner), Ok(left_stride), Ok(right_stride)] = lengths else {
            return Err(gpu.refused(MULTIPLY, "a matrix has more than 2^31 rows or columns".into()));
        };
        if !fits || !to.is_dense() {
            let shapes = [left, right, to].map(|matrix| format!("{} x {}", matrix.rows, matrix.columns));
            return Err(gpu.refused(MULTIPLY, format!("{shapes:?} do not fit")));
        }
        gpu.bind().map_err(|error| gpu.failed(MULTIPLY, error))?;
        Ok(Sides {
            rows,
            columns,
            inner,
            left_stride,
            right_stride,
        })
    }
}

/// Asks cuBLAS for what these numbers say all of.
fn ask(gpu: &Gpu, numbers: &[u64], multiply: impl FnOnce() -> Result<(), CublasError>) -> Result<(), DeviceError> {
    let run = || multiply().map_err(|error| gpu.refused(MULTIPLY, format!("{:?}", error.0)));
    gpu.in_mode(|mode| mode.other(numbers, run))
}
