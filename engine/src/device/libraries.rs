//! The libraries of CUDA: opened by the names that cudarc tries, in a folder first if one is given.
#![allow(unsafe_code)] // opening a library runs its initialisers; asks for versions

use std::fs::DirEntry;
use std::path::{Path, PathBuf};

use cudarc::get_lib_name_candidates;
use libloading::Library;

use super::error::NoGpu;

/// A library of CUDA: what people call it, its file without prefix and suffix, functions that it must have, and how it
/// says for which CUDA it is made.
#[derive(Clone, Copy)]
pub(super) struct CudaLibrary(&'static str, &'static str, &'static [&'static str], Option<SaysVersion>);

/// How a library says for which CUDA it is made. It needs no GPU for that.
#[derive(Clone, Copy)]
enum SaysVersion {
    /// This function writes major and minor number.
    Pair(&'static str),
    /// This one writes a property of the library, which has the version of its CUDA.
    Property(&'static str),
    /// This one gives the version of its CUDA runtime, as the driver gives its own.
    Runtime(&'static str),
}

/// What every GPU needs. It comes with the driver, never with the other libraries.
pub(super) const DRIVER: CudaLibrary = CudaLibrary("the NVIDIA driver", "cuda", DRIVER_FUNCTIONS, None);
/// What cuBLAS needs, and must be there before it.
const CUBLAS_LT: CudaLibrary = CudaLibrary("cuBLASLt", "cublasLt", &[], None);
/// Products of matrices.
const CUBLAS: CudaLibrary = CudaLibrary(
    "cuBLAS",
    "cublas",
    &["cublasCreate_v2", "cublasGemmEx"],
    Some(SaysVersion::Property("cublasGetProperty")),
);
/// The compiler of kernels.
pub(super) const NVRTC: CudaLibrary = CudaLibrary(
    "NVRTC",
    "nvrtc",
    &["nvrtcVersion", "nvrtcGetCUBIN"],
    Some(SaysVersion::Pair("nvrtcVersion")),
);
/// Convolutions, where cuDNN is wanted. The last two functions came with version 9.
const CUDNN: CudaLibrary = CudaLibrary(
    "cuDNN",
    "cudnn",
    &[
        "cudnnConvolutionForward",
        "cudnnCnnVersionCheck",
        "cudnnGetLastErrorString",
    ],
    Some(SaysVersion::Runtime("cudnnGetCudartVersion")),
);
/// What cuDNN opens when it is first asked for a convolution, and ends the process without.
const CUDNN_CNN: CudaLibrary = CudaLibrary("cuDNN's library of convolutions", "cudnn_cnn", &[], None);
/// What cuDNN needs.
pub(super) const OF_CUDNN: [CudaLibrary; 2] = [CUDNN, CUDNN_CNN];
/// What the search for a GPU calls, and the newest of what computing calls.
const DRIVER_FUNCTIONS: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetName",
    "cuMemAllocAsync",
];
/// What computing needs, in the order in which they are opened.
pub(super) const NEEDED: [CudaLibrary; 3] = [CUBLAS_LT, CUBLAS, NVRTC];

/// Properties of a library.
const MAJOR: i32 = 0;
const MINOR: i32 = 1;

/// Major and minor number of a version that is one number.
fn split(version: i32) -> (i32, i32) {
    (version / 1000, version % 1000 / 10)
}

/// From the folder with cuBLAS to that with cuDNN, as pip installs them.
const BESIDE: &str = "../../cudnn/lib";

impl CudaLibrary {
    /// Opens it and leaves it open until the process ends: whoever opens it by its name later gets this one.
    pub(super) fn open(self, folder: Option<&Path>) -> Result<(), NoGpu> {
        let names = get_lib_name_candidates(self.1);
        let folders = self.folders(folder);
        if self.1 == NVRTC.1 {
            folder.into_iter().for_each(open_builtins);
        }
        let in_folder = folders
            .iter()
            .flat_map(|folder| names.iter().map(|name| folder.join(name)));
        let found = in_folder
            .filter(|path| path.is_file())
            .chain(names.iter().map(Into::into))
            // SAFETY: these are NVIDIA's libraries by name, whose initialisers ask nothing of who opens them.
            .find_map(|path| unsafe { Library::new(path) }.ok());
        let library = found.ok_or_else(|| self.missing(&names, &folders))?;
        self.check_name(&library, &names)?;
        // SAFETY: a name is looked up, and what it stands for not called.
        let lacks = |name: &&&str| unsafe { library.get::<*const ()>(**name) }.is_err();
        let lacking = self.2.iter().find(lacks);
        // What has found its way into the process stays, as cudarc may have it open, too.
        std::mem::forget(library);
        match lacking {
            Some(function) => Err(NoGpu::Unfit(format!("{} has no {function}", self.0))),
            None => Ok(()),
        }
    }

    /// An error if it is made for a CUDA of a newer major version than the driver, whose version is `of_driver`: that
    /// loads no kernel of it. It is open; what it has no function to say, or does not say, is no error.
    pub(super) fn check_version(self, of_driver: i32) -> Result<(), NoGpu> {
        let (driver_major, driver_minor) = split(of_driver);
        match self.version() {
            Some((major, minor)) if major > driver_major => Err(NoGpu::Unfit(format!(
                "{} is made for CUDA of version {major}.{minor}, and the driver is made for {driver_major}.{driver_minor}; take libraries of \
                 CUDA {driver_major}, or a newer driver",
                self.0
            ))),
            _ => Ok(()),
        }
    }

    /// The major and minor version of the CUDA that it is made for.
    fn version(self) -> Option<(i32, i32)> {
        let names = get_lib_name_candidates(self.1);
        // SAFETY: it is open, under the first of its names that is.
        let library = names.iter().find_map(|name| unsafe { Library::new(name) }.ok())?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: the functions are declared like that, and write to places that can be written.
        let status = unsafe {
            match self.3? {
                SaysVersion::Pair(name) => {
                    let ask = library
                        .get::<unsafe extern "C" fn(*mut i32, *mut i32) -> i32>(name)
                        .ok()?;
                    ask(&raw mut major, &raw mut minor)
                }
                SaysVersion::Property(name) => {
                    let ask = library.get::<unsafe extern "C" fn(i32, *mut i32) -> i32>(name).ok()?;
                    ask(MAJOR, &raw mut major).max(ask(MINOR, &raw mut minor))
                }
                SaysVersion::Runtime(name) => {
                    let ask = library.get::<unsafe extern "C" fn() -> usize>(name).ok()?;
                    (major, minor) = split(i32::try_from(ask()).ok()?);
                    0
                }
            }
        };
        (status == 0).then_some((major, minor))
    }

    /// An error if whoever opens it by name, as cudarc does, gets another one: the names of links come before those of
    /// libraries, and a folder's links are not among the system's.
    fn check_name(self, library: &Library, names: &[String]) -> Result<(), NoGpu> {
        // SAFETY: as above.
        let mut by_name = names.iter().map(|name| (name, unsafe { Library::new(name) }));
        let (Some(function), Some((name, Ok(other)))) = (self.2.first(), by_name.find(|(_, opened)| opened.is_ok()))
        else {
            return Ok(());
        };
        // SAFETY: a name is looked up, and what it stands for not called.
        let place = |library: &Library| unsafe { library.get::<*const ()>(*function) }.ok().map(|place| *place);
        match place(library) == place(&other) {
            true => Ok(()),
            false => Err(NoGpu::Unfit(format!(
                "{name} of the system comes before {} of the folder; leave out `device.cuda_libraries`, or name the folder in LD_LIBRARY_PATH",
                self.0
            ))),
        }
    }

    /// Where it is looked for before the system's folders.
    fn folders(self, folder: Option<&Path>) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> = folder.map(Path::to_path_buf).into_iter().collect();
        if self.1.starts_with(CUDNN.1) {
            folders.extend(folder.map(|folder| folder.join(BESIDE)));
        }
        folders
    }

    fn missing(self, names: &[String], folders: &[PathBuf]) -> NoGpu {
        let folders: String = folders.iter().map(|folder| format!("{}, ", folder.display())).collect();
        let path = std::env::var("LD_LIBRARY_PATH").ok().filter(|path| !path.is_empty());
        let path = path.map_or("(unset)".to_owned(), |path| path);
        NoGpu::Library {
            library: self.0.into(),
            names: names.iter().filter(|name| !name.contains("64")).cloned().collect(),
            places: format!("{folders}LD_LIBRARY_PATH {path}, or the system's folders",),
        }
    }
}

/// Opens what NVRTC opens by its bare name when it first compiles: it finds one that is open, but nothing in a folder
/// that only this program knows.
fn open_builtins(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let is_builtins = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with("libnvrtc-builtins.so");
    for entry in entries.filter(is_builtins) {
        // SAFETY: as above. What cannot be opened here NVRTC misses later, and says so.
        std::mem::forget(unsafe { Library::new(entry.path()) });
    }
}

/// An error unless the folder can be read, if there is one.
pub(super) fn check_folder(folder: Option<&Path>) -> Result<(), NoGpu> {
    let Some(path) = folder else { return Ok(()) };
    let failed = |error: std::io::Error| NoGpu::Folder {
        path: path.to_owned(),
        message: error.to_string(),
    };
    std::fs::read_dir(path).map(drop).map_err(failed)
}
