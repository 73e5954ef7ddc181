//! The kernels of all programs on a GPU.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use distdl_engine::device::{Compiler, Gpu, GpuKernel};
use distdl_storage::{DeviceError, Unpoisoned};

use super::PROGRAMS;
use crate::error::Result;

/// The kernels of all programs, for all handles of one GPU. A program is compiled and loaded when the first of its
/// kernels is asked for.
#[derive(Debug)]
pub struct Kernels {
    compiler: Arc<Compiler>,
    loaded: Mutex<HashMap<&'static str, GpuKernel>>,
}

impl Kernels {
    /// None yet.
    pub fn new(compiler: Arc<Compiler>) -> Self {
        Self {
            compiler,
            loaded: Mutex::default(),
        }
    }

    /// A kernel by its name. Errors if there is none, the compiler refuses its program, or the driver fails.
    pub fn get(&self, gpu: &Gpu, name: &str) -> Result<GpuKernel> {
        let mut loaded = self.loaded.lock().unpoisoned();
        if let Some(kernel) = loaded.get(name) {
            return Ok(kernel.clone());
        }
        let program = PROGRAMS.iter().find(|program| program.kernels.contains(&name));
        let program = program.ok_or_else(|| unknown(gpu, name))?;
        let cubin = self.compiler.compile(program.name, program.text, gpu.architecture())?;
        let module = gpu.load(&cubin)?;
        for &kernel in program.kernels {
            loaded.insert(kernel, gpu.kernel(&module, kernel)?);
        }
        loaded.get(name).cloned().ok_or_else(|| unknown(gpu, name))
    }
}

fn unknown(gpu: &Gpu, name: &str) -> crate::Error {
    let device = distdl_storage::DeviceMemory::name(gpu).to_owned();
    let reason = format!("no program has {name}");
    crate::Error::Device(DeviceError::Failed {
        device,
        what: "find a kernel",
        reason,
    })
}
