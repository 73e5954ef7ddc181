//! A GPU on paper: libraries with the names of CUDA's that compute on the CPU, so that a program which uses a GPU can be
//! tested where there is none. They are made with `g++`; kernels are compiled with it, too, and run thread by thread, some
//! thousand times slower than a GPU would. What they cannot show is whether a real GPU does the same.
//!
//! A process opens a library once: whoever wants another GPU on paper needs another process.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::process::Command;

const EMULATOR: &str = include_str!("paper/emulator.hpp");

/// Their names, and their sources.
const LIBRARIES: [(&str, &str); 4] = [
    ("cuda", include_str!("paper/driver.cpp")),
    ("nvrtc", include_str!("paper/nvrtc.cpp")),
    ("cublas", include_str!("paper/cublas.cpp")),
    ("cublasLt", ""),
];

/// Makes the libraries of some GPUs, each with a memory of `memory_bytes` bytes, in `folder`, for `device.cuda_libraries`.
/// Their compiler needs the folder, too, as long as a program may compile kernels.
///
/// With the variable `PAPER_GPU_LAUNCHES` each GPU is lost behind so many launches.
///
/// # Errors
/// The folder cannot be written to, or there is no `g++`.
pub fn make_cuda(folder: &Path, gpus: usize, memory_bytes: u64) -> Result<()> {
    let emulator = folder.join("emulator.hpp");
    std::fs::write(&emulator, EMULATOR)?;
    for (name, text) in LIBRARIES {
        let (file, source) = (format!("lib{name}.so"), folder.join(format!("{name}.cpp")));
        std::fs::write(&source, text)?;
        let mut compiler = Command::new("g++");
        compiler.args(["-std=c++17", "-O1", "-fPIC", "-shared", &format!("-Wl,-soname,{file}")]);
        compiler.arg(format!("-DGPUS={gpus}"));
        compiler.arg(format!("-DMEMORY_BYTES={memory_bytes}l"));
        compiler.arg(format!("-DEMULATOR=\"{}\"", emulator.display()));
        let output = compiler
            .arg("-o")
            .arg(folder.join(file))
            .arg(source)
            .arg("-ldl")
            .output()?;
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::new(ErrorKind::InvalidData, words));
        }
    }
    Ok(())
}
