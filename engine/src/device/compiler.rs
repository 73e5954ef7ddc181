//! Compiles kernels with NVRTC, and keeps what was compiled.
//!
//! They are compiled for the GPU that runs them (a cubin for its `sm_XY`), not to PTX, which a driver older than the
//! compiler refuses.
#![allow(unsafe_code)] // calls NVRTC with programs that it has made

use std::collections::HashMap;
use std::ffi::{CString, c_int};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cudarc::nvrtc::result as nvrtc;
use cudarc::nvrtc::result::NvrtcError;
use cudarc::nvrtc::sys;
use distdl_storage::Unpoisoned;

use super::error::{CompileError, NoGpu};
use super::libraries::{NVRTC, check_folder};

/// What NVRTC is told beside the architecture. Multiplications and additions are not fused, and divisions and roots are
/// rounded as IEEE 754 says, so that a kernel without sums has the bits of its counterpart on the CPU. What bounds
/// these kernels is memory, so that this costs next to nothing.
const FLAGS: [&str; 5] = [
    "--std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
];

/// Most programs that a compiler remembers.
const COMPILED_MAX: usize = 1024;

/// A compiled program for one kind of GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cubin(Arc<[u8]>);

impl Cubin {
    /// Its bytes, an ELF file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// NVRTC, with what it has compiled, and perhaps a folder with what it has compiled before. Needs no GPU.
#[derive(Debug)]
pub struct Compiler {
    version: (i32, i32),
    cache: Option<PathBuf>,
    compiled: Mutex<HashMap<blake3::Hash, Cubin>>,
}

impl Compiler {
    /// The compiler in the `cuda_libraries` folder, or else where the system looks. Cubins are kept in `cache`, which
    /// is made if need be.
    ///
    /// # Errors
    /// There is none, or it does not say its version.
    pub fn open(cuda_libraries: Option<&Path>, cache: Option<&Path>) -> Result<Self, CompileError> {
        check_folder(cuda_libraries)?;
        NVRTC.open(cuda_libraries)?;
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: both places can be written.
        let asked = unsafe { sys::nvrtcVersion(&mut major, &mut minor) }.result();
        asked.map_err(|error| NoGpu::Unfit(format!("NVRTC does not say its version: {error}")))?;
        Ok(Self {
            version: (major, minor),
            cache: cache.map(Path::to_owned),
            compiled: Mutex::default(),
        })
    }

    /// Its major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles the program `text`, called `name` in errors, for GPUs of an `architecture` such as `sm_90`; or takes
    /// what was compiled from the same text with the same flags by the same version. What the cache fails at costs time
    /// only.
    ///
    /// # Errors
    /// The compiler refuses it; the error has its words.
    pub fn compile(&self, name: &str, text: &str, architecture: &str) -> Result<Cubin, CompileError> {
        let key = self.key(text, architecture);
        // One at a time: whoever wants a program that another thread compiles gets that.
        let mut compiled = self.compiled.lock().unpoisoned();
        if let Some(cubin) = compiled.get(&key) {
            return Ok(cubin.clone());
        }
        let cubin = self.compile_or_read(name, text, architecture, key)?;
        if compiled.len() == COMPILED_MAX {
            compiled.clear();
        }
        compiled.insert(key, cubin.clone());
        Ok(cubin)
    }

    fn compile_or_read(
        &self,
        name: &str,
        text: &str,
        architecture: &str,
        key: blake3::Hash,
    ) -> Result<Cubin, CompileError> {
        let Some(cache) = &self.cache else {
            return compile(name, text, architecture);
        };
        let path = cache.join(format!("{key}.cubin"));
        if let Some(kept) = read(&path) {
            return Ok(kept);
        }
        let cubin = compile(name, text, architecture)?;
        if let Err(error) = write(&path, &cubin) {
            tracing::debug!(kernel = name, "its cubin is not kept: {error}");
        }
        Ok(cubin)
    }

    fn key(&self, text: &str, architecture: &str) -> blake3::Hash {
        let (major, minor) = self.version;
        let mut hasher = blake3::Hasher::new();
        for part in [&format!("{major}.{minor}"), architecture, &FLAGS.join(" "), text] {
            hasher
                .update(&(part.len() as u64).to_le_bytes())
                .update(part.as_bytes());
        }
        hasher.finalize()
    }
}

/// A kept cubin, if its bytes are those that were written.
fn read(path: &Path) -> Option<Cubin> {
    let mut bytes = std::fs::read(path).ok()?;
    let hash: [u8; 32] = *bytes.first_chunk()?;
    bytes.drain(..hash.len());
    (blake3::hash(&bytes) == hash).then(|| Cubin(bytes.into()))
}

/// Keeps a cubin behind its hash: whole, or not at all.
fn write(path: &Path, cubin: &Cubin) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let file = tempfile::NamedTempFile::new_in(folder)?;
    let bytes = [blake3::hash(&cubin.0).as_bytes(), &cubin.0[..]].concat();
    std::fs::write(file.path(), bytes)?;
    file.persist(path)?;
    Ok(())
}

/// A program of NVRTC, destroyed with this value.
struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: `create_program` made it, and nothing else destroys it. It fails only for what is no program.
        let _ = unsafe { nvrtc::destroy_program(self.0) };
    }
}

impl Program {
    fn cubin(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut bytes = 0;
        // SAFETY: the program lives, and the place can be written.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &mut bytes) }.result()?;
        let mut cubin = vec![0_u8; bytes];
        // SAFETY: the program lives, and there is room for as many bytes as it has said.
        unsafe { sys::nvrtcGetCUBIN(self.0, cubin.as_mut_ptr().cast()) }.result()?;
        Ok(cubin)
    }

    /// What the compiler said, and `otherwise` if it said nothing.
    fn log(&self, otherwise: NvrtcError) -> String {
        // SAFETY: the program lives.
        let log = unsafe { nvrtc::get_program_log(self.0) }.unwrap_or_default();
        let bytes: Vec<u8> = log.into_iter().map(|byte| byte.to_ne_bytes()[0]).collect();
        let text = String::from_utf8_lossy(&bytes);
        match text.trim_matches('\0').trim() {
            "" => otherwise.to_string(),
            text => text.to_owned(),
        }
    }
}

fn compile(name: &str, text: &str, architecture: &str) -> Result<Cubin, CompileError> {
    let refused = |log: String| refused(name, architecture, log);
    let (source, file) = (CString::new(text), CString::new(format!("{name}.cu")));
    let (source, file) = source
        .ok()
        .zip(file.ok())
        .ok_or_else(|| refused("it has a zero byte".into()))?;
    let program = nvrtc::create_program(&source, Some(&file)).map_err(|error| refused(error.to_string()))?;
    let program = Program(program);
    let mut options: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    options.push(format!("--gpu-architecture={architecture}"));
    // SAFETY: the program lives, and so do the source and the name that it may refer to.
    unsafe { nvrtc::compile_program(program.0, &options) }.map_err(|error| refused(program.log(error)))?;
    program
        .cubin()
        .map(|cubin| Cubin(cubin.into()))
        .map_err(|error| refused(error.to_string()))
}

fn refused(name: &str, architecture: &str, log: String) -> CompileError {
    CompileError::Refused {
        name: name.into(),
        architecture: architecture.into(),
        log,
    }
}
