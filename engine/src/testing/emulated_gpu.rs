//! An emulated GPU: libraries with the names of CUDA's that compute on the CPU, so that a program which uses a GPU can
//! be tested where there is none. They are made with `g++`; kernels are compiled with it, too, and run thread by
//! thread, some thousand times slower than a GPU would. What they cannot show is whether a real GPU does the same. For
//! Linux on 64 bits.
//!
//! A process opens a library once: whoever wants another emulated GPU needs another process.

use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::process::Command;

/// What the others include.
const HEADERS: [(&str, &str); 2] = [
    ("emulator.hpp", include_str!("emulated_gpu/emulator.hpp")),
    ("streams.hpp", include_str!("emulated_gpu/streams.hpp")),
];

/// Their names, and their sources.
const LIBRARIES: [(&str, &str); 7] = [
    ("cuda", include_str!("emulated_gpu/driver.cpp")),
    ("nvrtc", include_str!("emulated_gpu/nvrtc.cpp")),
    ("nvrtc-builtins", ""),
    ("cublas", include_str!("emulated_gpu/cublas.cpp")),
    ("cublasLt", ""),
    ("cudnn", include_str!("emulated_gpu/cudnn.cpp")),
    ("cudnn_cnn", ""),
];

/// Makes the libraries of some GPUs, each with a memory of `memory_bytes` bytes, in `folder`, for
/// `device.cuda_libraries`. They need the folder as long as a program may compile or load kernels, and leave nothing
/// elsewhere.
///
/// With the variable `EMULATED_GPU_LAUNCHES` each GPU is lost at that one of its launches, counted from 1.
///
/// Gives `false`, and makes nothing that could be used, where there is no `g++`.
///
/// # Errors
/// The folder cannot be written to, or a library does not compile.
pub fn make_cuda(folder: &Path, gpus: usize, memory_bytes: u64) -> Result<bool> {
    let folder = &folder.canonicalize()?;
    for (name, text) in HEADERS {
        std::fs::write(folder.join(name), text)?;
    }
    for (name, text) in LIBRARIES {
        let (file, source) = (format!("lib{name}.so"), folder.join(format!("{name}.cpp")));
        std::fs::write(&source, text)?;
        let mut compiler = Command::new("g++");
        compiler.args(["-std=c++17", "-O1", "-fPIC", "-shared", &format!("-Wl,-soname,{file}")]);
        compiler.arg(format!("-DGPUS={gpus}"));
        compiler.arg(format!("-DMEMORY_BYTES={memory_bytes}l"));
        compiler.arg(format!("-DFOLDER=\"{}\"", folder.display()));
        compiler.arg("-o").arg(folder.join(file)).arg(source).arg("-ldl");
        let output = match compiler.output() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        if !output.status.success() {
            let words = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::new(ErrorKind::InvalidData, words));
        }
    }
    Ok(true)
}
