//! Why no GPU computes, and why a kernel does not compile.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Why no GPU can compute.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NoGpu {
    /// The program cannot use any.
    #[error("this program was built without the feature `gpu`")]
    NotBuilt,
    /// The folder for the libraries is of no use.
    #[error("the folder {}, which `device.cuda_libraries` names, cannot be read: {message}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's words.
        message: String,
    },
    /// A library is missing.
    #[error("{library} is missing: no {} in {places}", names.join(", "))]
    Library {
        /// Which, in words.
        library: String,
        /// The names that were tried.
        names: Vec<String>,
        /// Where they were looked for.
        places: String,
    },
    /// The driver is there, and no GPU.
    #[error("the NVIDIA driver is there, and finds no GPU")]
    NoDevice,
    /// The driver does not start.
    #[error("the NVIDIA driver could not {what}: {reason}")]
    Driver {
        /// What was asked, as a verb.
        what: String,
        /// The driver's words.
        reason: String,
    },
    /// Something that CUDA should have is missing.
    #[error("CUDA is not what this program needs: {0}")]
    Unfit(String),
}

impl NoGpu {
    /// What gives it a GPU.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NotBuilt => "build it with the feature",
            Self::Folder { .. } => "name a folder that exists and can be read",
            Self::Library { library, .. } if library.starts_with("cuDNN") => {
                "install cuDNN 9, name its folder in LD_LIBRARY_PATH or `device.cuda_libraries`, or set `device.cudnn` to `false`"
            }
            Self::Library { .. } => "install it, or name its folder in `device.cuda_libraries`",
            Self::NoDevice => "look at what `nvidia-smi` lists, and at CUDA_VISIBLE_DEVICES",
            Self::Driver { .. } => "look at what `nvidia-smi` says",
            Self::Unfit(_) => {
                "install a driver and libraries of CUDA 12 or 13, and cuDNN 9 if `device.cudnn` asks for it"
            }
        }
    }
}

/// A kernel that does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The compiler is missing.
    #[error(transparent)]
    NoCompiler(#[from] NoGpu),
    /// The compiler refuses.
    #[error("kernel {name}, for {architecture}: {log}")]
    Refused {
        /// The kernel.
        name: String,
        /// What it was to run on.
        architecture: String,
        /// The compiler's words.
        log: String,
    },
}
