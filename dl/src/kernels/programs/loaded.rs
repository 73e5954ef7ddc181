//! All programs on a GPU.

use std::collections::HashMap;

use distdl_engine::device::{Compiler, Gpu, GpuKernel};

use super::PROGRAMS;
use crate::error::Result;

/// The kernels of all programs, on a GPU.
#[derive(Debug)]
pub struct Kernels(HashMap<&'static str, GpuKernel>);

impl Kernels {
    /// Compiles what is not compiled yet, and loads it. Errors if the compiler refuses a program, or the driver fails.
    pub fn load(gpu: &Gpu, compiler: &Compiler) -> Result<Self> {
        let mut kernels = HashMap::new();
        for program in PROGRAMS {
            let module = gpu.load(&compiler.compile(program.name, program.text, gpu.architecture())?)?;
            for &name in program.kernels {
                kernels.insert(name, gpu.kernel(&module, name)?);
            }
        }
        Ok(Self(kernels))
    }

    /// A kernel by its name, if there is one.
    pub fn get(&self, name: &str) -> Option<&GpuKernel> {
        self.0.get(name)
    }
}
