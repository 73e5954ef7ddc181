//! Which device computes: the CPU, or a GPU that is found when the program runs.
//!
//! Only this module knows CUDA. With the feature `gpu`, which is on by default, its libraries are opened when they are
//! asked for: one program, built where there is no CUDA, uses a GPU where there is one. Nothing here panics, whatever
//! of CUDA is missing.

mod error;

#[cfg(feature = "gpu")]
mod capture;
#[cfg(feature = "gpu")]
mod compiler;
#[cfg(feature = "gpu")]
mod gpu;

#[cfg(feature = "gpu")]
mod blas;
#[cfg(feature = "gpu")]
mod buffer;
#[cfg(feature = "gpu")]
mod dnn;
#[cfg(feature = "gpu")]
mod double_buffer;
#[cfg(feature = "gpu")]
mod graph;
#[cfg(feature = "gpu")]
mod libraries;
#[cfg(feature = "gpu")]
mod opened;
#[cfg(feature = "gpu")]
mod page_locked;
#[cfg(feature = "gpu")]
mod pipeline_stage;
#[cfg(feature = "gpu")]
mod port;
#[cfg(feature = "gpu")]
mod probe;

use std::fmt::{Display, Formatter};
use std::path::Path;
#[cfg(feature = "gpu")]
use std::sync::Weak;

#[cfg(feature = "gpu")]
pub use self::blas::{GpuBlas, GpuMatrices, GpuMatrix};
#[cfg(feature = "gpu")]
pub use self::buffer::{GpuBuffer, GpuSlice};
#[cfg(feature = "gpu")]
pub use self::compiler::{Compiler, Cubin};
#[cfg(feature = "gpu")]
pub use self::dnn::{ALIGNMENT_WORDS, Convolution, ConvolutionOperands, ConvolutionPart, GpuDnn};
#[cfg(feature = "gpu")]
pub use self::double_buffer::DoubleBuffer;
pub use self::error::{CompileError, NoGpu};
#[cfg(feature = "gpu")]
pub use self::gpu::{Argument, Gpu, GpuKernel, GpuModule};
#[cfg(feature = "gpu")]
pub use self::graph::GpuGraph;
#[cfg(feature = "gpu")]
use self::opened::Opened;
#[cfg(feature = "gpu")]
pub use self::opened::Reclaim;
#[cfg(feature = "gpu")]
pub use self::pipeline_stage::GpuBatch;
#[cfg(feature = "gpu")]
pub(crate) use self::pipeline_stage::PipelineStage;
#[cfg(feature = "gpu")]
pub use self::port::GpuPort;
#[cfg(feature = "gpu")]
use distdl_storage::DeviceBudget;

use crate::config::GpuUse;

/// A GPU that was found, as its driver describes it. What was opened of it stays open as long as this, or a clone of
/// it, is there: opening it takes some tenths of a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFound {
    /// Its name.
    pub name: String,
    /// What it can compute: major and minor version.
    pub capability: (i32, i32),
    /// Its memory, in bytes.
    pub memory_bytes: u64,
    /// GPUs of the machine, of which this is the first.
    pub count: usize,
    /// Indices of those that have the same name and can compute the same, this one first: they give the same bits.
    pub alike: Vec<usize>,
    /// Whether convolutions are cuDNN's, which was found, too.
    pub uses_cudnn: bool,
    /// Those that were opened.
    #[cfg(feature = "gpu")]
    opened: Opened,
}

#[cfg(feature = "gpu")]
impl GpuFound {
    /// What is taken of the memory of the GPU of this index for data that stays there: by all that were given this, or
    /// a copy of it, as one context gives it to all.
    pub fn budget(&self, index: usize) -> DeviceBudget {
        self.opened.budget(index)
    }

    /// Says who may have memory of the GPU of this index to spare, as long as it is there, for all that were given
    /// this, or a copy of it.
    pub fn register_reclaim(&self, index: usize, who: Weak<dyn Reclaim>) {
        self.opened.register_reclaim(index, who);
    }

    /// Has all of them free what they can spare of the GPU of this index.
    pub fn reclaim(&self, index: usize) {
        self.opened.reclaim(index);
    }
}

/// What computes, and why. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// A GPU.
    Gpu(GpuFound),
    /// The CPU, since a GPU is not to be used.
    Off,
    /// The CPU, since only so many processes of the cluster are to use a GPU, and this is none of them.
    Others(usize),
    /// The CPU, for want of a GPU.
    Without(NoGpu),
}

impl Display for Chosen {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        let found = match self {
            Self::Gpu(found) => found,
            Self::Off => return write!(formatter, "the CPU computes: `device.gpu` is `off`"),
            Self::Others(0) => return write!(formatter, "the CPU computes: no process is to use a GPU"),
            Self::Others(1) => return write!(formatter, "the CPU computes: only the first process is to use a GPU"),
            Self::Others(count) => {
                return write!(
                    formatter,
                    "the CPU computes: only the first {count} processes are to use a GPU"
                );
            }
            Self::Without(reason) => return write!(formatter, "the CPU computes: {reason}"),
        };
        let (major, minor) = found.capability;
        let (name, count, gibibytes) = (&found.name, found.count, found.memory_bytes >> 30);
        let cudnn = if found.uses_cudnn { ", with cuDNN" } else { "" };
        write!(
            formatter,
            "a GPU can compute: {name} (sm_{major}{minor}, {gibibytes} GiB, the first of {count}){cudnn}"
        )
    }
}

/// Looks for a GPU as the configuration says: its driver and libraries, of which cuDNN is one if it is wanted, in the
/// folder first, if there is one, then where the system looks. `off` touches nothing. Takes some milliseconds where
/// there is no CUDA, half a second where there is.
///
/// # Errors
/// [`NoGpu`] says what is missing if a GPU must compute, and where it was looked for.
pub fn choose(gpu: GpuUse, cudnn: bool, cuda_libraries: Option<&Path>) -> Result<Chosen, NoGpu> {
    if gpu == GpuUse::Off {
        return Ok(Chosen::Off);
    }
    match (find(cudnn, cuda_libraries), gpu) {
        (Ok(found), _) => Ok(Chosen::Gpu(found)),
        (Err(reason), GpuUse::On) => Err(reason),
        (Err(reason), _) => Ok(Chosen::Without(reason)),
    }
}

#[cfg(feature = "gpu")]
fn find(cudnn: bool, cuda_libraries: Option<&Path>) -> Result<GpuFound, NoGpu> {
    probe::find(cudnn, cuda_libraries)
}

#[cfg(not(feature = "gpu"))]
fn find(_: bool, _: Option<&Path>) -> Result<GpuFound, NoGpu> {
    Err(NoGpu::NotBuilt)
}

#[cfg(test)]
mod tests;
