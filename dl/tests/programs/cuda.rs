//! Kernels on the GPU of this machine, if it has one.
#![allow(unsafe_code)] // starts kernels

use std::sync::Arc;

use distdl_dl::kernels::programs::{Grid, Kernels};
use distdl_engine::config::GpuUse;
use distdl_engine::device::{self, Chosen, Compiler, Gpu, GpuBuffer};
use distdl_storage::DeviceMemory;
use distdl_storage::testing::device_conformance;

use super::cuda_libraries;
use super::runner::{Argument, Runner};

pub(crate) struct Cuda {
    gpu: Gpu,
    kernels: Kernels,
}

impl Cuda {
    /// All programs, on the GPU. An error says why there is none.
    pub(crate) fn open() -> Result<Self, String> {
        let gpu = gpu()?.0;
        let compiler = Compiler::open(cuda_libraries().as_deref(), None).unwrap();
        let kernels = Kernels::new(Arc::new(compiler));
        Ok(Self { gpu, kernels })
    }

    fn copied(&self, argument: &Argument<'_>) -> Option<GpuBuffer> {
        let bytes: &[u8] = match argument {
            Argument::Read(bytes) => bytes,
            Argument::Change(bytes) => bytes,
            _ => return None,
        };
        let mut buffer = self.gpu.allocate(bytes.len()).unwrap();
        self.gpu.copy_in(bytes, &mut buffer).unwrap();
        Some(buffer)
    }
}

/// The GPU, and its memory in bytes.
fn gpu() -> Result<(Gpu, u64), String> {
    match device::choose(GpuUse::Auto, false, cuda_libraries().as_deref()) {
        Ok(Chosen::Gpu(found)) => Ok((Gpu::open(&found, 0).unwrap(), found.memory_bytes)),
        other => Err(other.unwrap().to_string()),
    }
}

impl Runner for Cuda {
    fn name(&self) -> &str {
        self.gpu.name()
    }

    fn run(&self, kernel: &str, grid: Grid, arguments: &mut [Argument<'_>]) {
        let buffers: Vec<_> = arguments.iter().map(|argument| self.copied(argument)).collect();
        let given = arguments.iter().zip(&buffers).map(|(argument, buffer)| match argument {
            Argument::Kind(kind) => device::Argument::Kind(*kind),
            Argument::Count(count) => device::Argument::Count(*count),
            Argument::Number(number) => device::Argument::Number(*number),
            Argument::Wide(number) => device::Argument::Wide(*number),
            _ => buffer
                .as_ref()
                .map_or(device::Argument::Absent, device::Argument::Buffer),
        });
        let (given, kernel) = (given.collect::<Vec<_>>(), self.kernels.get(&self.gpu, kernel).unwrap());
        // SAFETY: the emulator checks the same arguments, and what is written to belongs to this call.
        unsafe { self.gpu.launch(&kernel, grid.blocks, grid.threads, &given) }.unwrap();
        for (argument, buffer) in arguments.iter_mut().zip(&buffers) {
            if let (Argument::Change(bytes), Some(buffer)) = (argument, buffer) {
                bytes.copy_from_slice(&self.gpu.copy_out(buffer).unwrap());
            }
        }
    }
}

#[test]
fn a_gpu_conforms() {
    match gpu() {
        Ok((gpu, memory_bytes)) => device_conformance(&gpu, memory_bytes),
        Err(reason) => super::skipped("the memory of a GPU", &reason),
    }
}
