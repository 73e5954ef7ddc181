//! What the engine asks of a GPU, asked of one on paper: libraries of CUDA that are made for the test.
#![cfg(all(target_os = "linux", feature = "gpu"))]
#![allow(unsafe_code)] // starts a kernel that is made here, too
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use distdl_engine::config::GpuUse;
use distdl_engine::device::{Argument, Chosen, Compiler, Gpu, GpuFound, choose};
use distdl_storage::testing::device_conformance;
use distdl_storage::{DeviceError, DeviceMemory};

/// Makes all libraries of CUDA, of which each knows all functions, in a folder.
fn make_cuda(folder: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/paper_gpu/cuda.c");
    for name in ["cuda", "cublasLt", "cublas", "nvrtc"] {
        let file = format!("lib{name}.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-w", &format!("-Wl,-soname,{file}"), "-o"]);
        let output = compiler.arg(folder.join(file)).arg(&source).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// One test, as a process opens a library once.
#[test]
fn a_gpu_on_paper_keeps_what_it_is_given_and_runs_what_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    make_cuda(folder.path());
    let Chosen::Gpu(found) = choose(GpuUse::On, Some(folder.path())).unwrap() else {
        panic!("the driver has one")
    };
    assert_eq!(
        (found.name.as_str(), found.capability, found.memory_bytes),
        ("Paper GPU", (9, 0), 1 << 20)
    );
    let compiler = Compiler::open(Some(folder.path()), None).unwrap();
    assert_eq!(compiler.version(), (13, 9));

    memory_is_kept_and_freed_on_any_thread(&found);
    kernels_are_given_their_arguments(&found, &compiler);
    failures_are_errors(&found, &compiler);

    // SAFETY: the library is open already, and the function takes nothing.
    let left = unsafe {
        let driver = libloading::Library::new(folder.path().join("libcuda.so")).unwrap();
        driver.get::<unsafe extern "C" fn() -> i32>("paper_left").unwrap()()
    };
    assert_eq!(left, 0, "contexts, streams or bytes that nobody gave back");
}

fn memory_is_kept_and_freed_on_any_thread(found: &GpuFound) {
    let gpu = Gpu::open(found).unwrap();
    device_conformance(&gpu, found.memory_bytes);
    let mut buffer = gpu.allocate(3).unwrap();
    gpu.copy_in(&[1, 2, 3], &mut buffer).unwrap();
    std::thread::scope(|scope| {
        scope
            .spawn(|| assert_eq!(gpu.copy_out(&buffer).unwrap(), [1, 2, 3]))
            .join()
            .unwrap();
    });
    std::thread::spawn(move || drop(buffer)).join().unwrap();
    let whole = gpu.allocate(1 << 20).unwrap();
    let error = gpu.allocate(1).unwrap_err();
    let DeviceError::OutOfMemory {
        needed_bytes,
        free_bytes,
        ..
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((needed_bytes, free_bytes), (1, Some(0)));
    drop(whole);
}

fn kernels_are_given_their_arguments(found: &GpuFound, compiler: &Compiler) {
    let gpu = Gpu::open(found).unwrap();
    let cubin = compiler.compile("paper", "\x7fELF", gpu.architecture()).unwrap();
    let show = gpu.kernel(&gpu.load(&cubin).unwrap(), "show").unwrap();
    let mut buffer = gpu.allocate(6 * 8).unwrap();
    gpu.copy_in(&[0xff; 6 * 8], &mut buffer).unwrap();
    let arguments = [
        Argument::Buffer(&buffer),
        Argument::Absent,
        Argument::Kind(u32::MAX),
        Argument::Count(1 << 40),
        Argument::Number(0.5),
    ];
    // SAFETY: these are its arguments, and nothing is written for 0 blocks.
    unsafe { gpu.launch(&show, 0, 64, &arguments) }.unwrap();
    assert_eq!(gpu.copy_out(&buffer).unwrap(), [0xff; 6 * 8]);
    // SAFETY: these are its arguments, and the buffer has the six numbers that it writes.
    unsafe { gpu.launch(&show, 7, 64, &arguments) }.unwrap();
    let written = gpu.copy_out(&buffer).unwrap();
    let numbers = written.as_chunks().0.iter().map(|bytes| f64::from_ne_bytes(*bytes));
    let expected = [7.0, 64.0, 0.0, f64::from(u32::MAX), (1_u64 << 40) as f64, 0.5];
    assert_eq!(numbers.collect::<Vec<_>>(), expected);
}

fn failures_are_errors(found: &GpuFound, compiler: &Compiler) {
    let gpu = Gpu::open(found).unwrap();
    let text = compiler.compile("paper", "wrong", "sm_90").unwrap_err().to_string();
    assert_eq!(text, "kernel paper, for sm_90: it says");
    let no_program = compiler.compile("paper", "no program", "sm_90").unwrap();
    let error = gpu.load(&no_program).unwrap_err().to_string();
    assert!(
        error.starts_with("Paper GPU: could not load a program: CUDA_ERROR_INVALID_IMAGE"),
        "{error}"
    );
    let module = gpu
        .load(&compiler.compile("paper", "\x7fELF", "sm_90").unwrap())
        .unwrap();
    let error = gpu.kernel(&module, "other").unwrap_err().to_string();
    assert!(error.contains("find a kernel: CUDA_ERROR_NOT_FOUND"), "{error}");
    assert!(gpu.kernel(&module, "zero\0byte").is_err());
}
