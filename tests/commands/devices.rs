//! What `distdl device` finds, by libraries of CUDA that are made for the test: a driver that answers so or so.
#![cfg(all(target_os = "linux", feature = "gpu"))]

use std::io::Write;
use std::path::Path;
use std::process::Command;

use distdl::engine::testing::emulated_gpu::make_cuda;
use serde_json::Value;

use crate::workplace::{DISTDL, TEST, TRAIN, Workplace, json_lines, succeeds};

/// A driver that starts, and has one GPU.
const DRIVER: &str = r#"
int cuInit(unsigned flags) { return START; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuDeviceGetCount(int* count) { *count = COUNT; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) { *value = attribute == 75 ? 9 : 0; return 0; }
int cuDeviceTotalMem_v2(unsigned long* bytes, int device) { *bytes = 80ul << 30; return 0; }
int cuDeviceGetName(char* name, int length, int device) { __builtin_strcpy(name, "Emulated GPU"); return 0; }
int cuMemAllocAsync(void) { return 2; }
"#;
/// A compiler and products of matrices, as far as anybody looks at them.
const OTHERS: &str = "int nvrtcVersion(int* major, int* minor) { *major = 13; *minor = 0; return 0; } int nvrtcGetCUBIN(void) { return 1; }
    int cublasCreate_v2(void) { return 1; } int cublasGemmEx(void) { return 1; }
    int cudnnConvolutionForward(void) { return 1; } int cudnnCnnVersionCheck(void) { return 1; }
    int cudnnGetLastErrorString(void) { return 1; }";

/// Makes a library in the folder that the system looks through first.
fn library(place: &Workplace, name: &str, text: &str, options: &[&str]) {
    place.write("library.c", text.as_bytes());
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-o"])
        .arg(place.path(name))
        .arg(place.path("library.c"))
        .args(options);
    let output = compiler.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn device(place: &Workplace, arguments: &[&str]) -> Command {
    let mut command = place.command(Path::new(DISTDL), &[&["device"], arguments].concat());
    command.env("LD_LIBRARY_PATH", place.path(""));
    command
}

#[test]
fn off_says_so_and_asks_nobody() {
    let place = Workplace::new();
    let line = succeeds(device(&place, &["--gpu=off", "--cuda-libraries=/nowhere"]));
    assert_eq!(line, "the CPU computes: `device.gpu` is `off`\n");
    let line = succeeds(device(&place, &["--gpu=off", "--json"]));
    assert_eq!(
        line,
        "{\"gpu\":false,\"why\":\"the CPU computes: `device.gpu` is `off`\"}\n"
    );
}

#[test]
fn a_driver_without_a_gpu_and_one_that_fails_are_told_apart() {
    let place = Workplace::new();
    for (options, words) in [
        (
            ["-DSTART=100", "-DCOUNT=1"],
            "the NVIDIA driver is there, and finds no GPU",
        ),
        (
            ["-DSTART=0", "-DCOUNT=0"],
            "the NVIDIA driver is there, and finds no GPU",
        ),
        (
            ["-DSTART=3", "-DCOUNT=1"],
            "the NVIDIA driver could not start: CUDA_ERROR_NOT_INITIALIZED",
        ),
    ] {
        library(&place, "libcuda.so", DRIVER, &options);
        place.fails(
            device(&place, &["--gpu=on"]),
            1,
            &[words, "nvidia-smi", "error: `device.gpu` is `on`, but "],
        );
        let line = succeeds(device(&place, &[]));
        assert_eq!(line, format!("the CPU computes: {words}\n"));
    }
}

#[test]
fn a_driver_that_lacks_a_function_is_an_error_and_no_panic_ends_the_program() {
    let place = Workplace::new();
    library(&place, "libcuda.so", "int cuInit(unsigned flags) { return 0; }", &[]);
    let line = succeeds(device(&place, &["--gpu=auto"]));
    let words = "CUDA is not what this program needs: the NVIDIA driver has no cuDriverGetVersion";
    assert_eq!(line, format!("the CPU computes: {words}\n"));
}

#[test]
fn each_missing_library_is_named_until_all_are_there() {
    let place = Workplace::new();
    library(&place, "libcuda.so", DRIVER, &["-DSTART=0", "-DCOUNT=2"]);
    std::fs::create_dir(place.path("cuda")).unwrap();
    let folder = format!("--cuda-libraries={}", place.path("cuda").display());
    for (name, file) in [
        ("cuBLASLt", "libcublasLt"),
        ("cuBLAS", "libcublas"),
        ("NVRTC", "libnvrtc"),
        ("cuDNN", "libcudnn"),
        ("cuDNN's library of convolutions", "libcudnn_cnn"),
    ] {
        if name == "cuDNN" {
            let line = succeeds(device(&place, &["--gpu=on", &folder]));
            assert_eq!(
                line,
                "a GPU can compute: Emulated GPU (sm_90, 80 GiB, the first of 2)\n"
            );
        }
        let output = device(&place, &["--gpu=on", "--cudnn", &folder]).output().unwrap();
        // This machine may have some of them.
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            for words in [
                &format!("{name} is missing"),
                &format!("{file}.so.13"),
                "LD_LIBRARY_PATH",
                &format!("{}, ", place.path("cuda").display()),
            ] {
                assert!(error.contains(words), "{words}: {error}");
            }
            let line = succeeds(device(&place, &["--gpu=auto", "--cudnn", &folder]));
            assert!(
                line.starts_with(&format!("the CPU computes: {name} is missing")),
                "{line}"
            );
        }
        // As NVIDIA's have: by that name one that is open is found again.
        let name = format!("-Wl,-soname,{file}.so.13");
        library(&place, &format!("cuda/{file}.so.13"), OTHERS, &[&name]);
    }
    let line = succeeds(device(&place, &["--gpu=on", "--cudnn", &folder]));
    assert!(line.ends_with("the first of 2), with cuDNN\n"), "{line}");
    let nowhere = device(&place, &["--gpu=on", "--cuda-libraries=/nowhere"]);
    place.fails(
        nowhere,
        1,
        &["the folder /nowhere, which `device.cuda_libraries` names"],
    );
}

#[test]
fn a_cudnn_that_is_too_old_is_an_error() {
    let place = Workplace::new();
    library(&place, "libcuda.so", DRIVER, &["-DSTART=0", "-DCOUNT=1"]);
    for file in ["libcublasLt", "libcublas", "libnvrtc"] {
        library(&place, &format!("{file}.so"), OTHERS, &[]);
    }
    library(
        &place,
        "libcudnn.so",
        "int cudnnConvolutionForward(void) { return 1; }",
        &[],
    );
    let words = ["cuDNN has no cudnnCnnVersionCheck", "cuDNN 9"];
    place.fails(device(&place, &["--gpu=on", "--cudnn"]), 1, &words);
}

#[test]
fn a_program_that_needs_a_gpu_ends_at_its_start_without_one() {
    let place = Workplace::new();
    library(&place, "libcuda.so", DRIVER, &["-DSTART=100", "-DCOUNT=0"]);
    let mut command = place.command(Path::new(DISTDL), &["evaluate", "model", "--gpu=on"]);
    command.env("LD_LIBRARY_PATH", place.path(""));
    place.fails(command, 1, &["finds no GPU"]);
}

/// emulated GPUs in the workplace, or `None`, which is said, without a compiler for them.
fn emulated(place: &Workplace) -> Option<[String; 2]> {
    let folder = place.path("cuda");
    std::fs::create_dir(&folder).unwrap();
    if !make_cuda(&folder, 1, 64 << 20).unwrap() {
        let _ = writeln!(
            std::io::stderr(),
            "!! SKIPPED: programs on an emulated GPU: no `g++` here"
        );
        return None;
    }
    let cache = place.path("cache");
    Some([
        format!("--cuda-libraries={}", folder.display()),
        format!("--cache={}", cache.display()),
    ])
}

#[test]
fn a_line_in_the_configuration_takes_training_to_a_gpu_and_the_report_says_what_was_copied() {
    let place = Workplace::new();
    let Some([libraries, cache]) = emulated(&place) else {
        return;
    };
    place.write("distdl.toml", b"[device]\ngpu = \"on\"\n");
    let arguments = [&libraries, &cache, "--epochs=2", "--hidden=8"];
    let lines = json_lines(place.mnist(&arguments));
    let others = json_lines(place.mnist(&[&arguments[..], &["--threads=2"]].concat()));
    let cpu = json_lines(place.mnist(&[&arguments[..], &["--gpu=off"]].concat()));
    let hash = |lines: &[Value]| lines[1]["parameters_hash"].clone();
    assert_eq!(hash(&lines), hash(&others));
    assert_eq!(cpu[1].get("gpus"), None);
    let [loss, loss_of_cpu] = [&lines, &cpu].map(|lines| lines[1]["train_loss"].as_f64().unwrap());
    assert!((loss - loss_of_cpu).abs() < 1e-4, "{loss}, {loss_of_cpu}");
    let bytes = |line: &Value, key: &str| line["gpus"][0][key].as_u64().unwrap();
    // Those of the test set, too.
    let samples = ((TRAIN + TEST) * (784 + 4)) as u64;
    assert_eq!(bytes(&lines[0], "sample_bytes"), samples);
    assert_eq!(bytes(&lines[1], "sample_bytes"), 0);
    assert_eq!(bytes(&lines[1], "sample_bytes_avoided"), samples);
    let (passes, parameters) = (bytes(&lines[1], "passes"), 784 * 8 + 8 + 8 * 10 + 10);
    // Parameters go there once in an epoch, and come back as time passes; in each step only losses and hits.
    assert_eq!(bytes(&lines[1], "to_gpu_bytes"), 4 * (parameters + TRAIN as u64));
    let from_gpu_bytes = bytes(&lines[1], "from_gpu_bytes") - 16 * passes;
    assert_eq!(from_gpu_bytes % (4 * parameters), 0);
    assert!((1..=passes).contains(&(from_gpu_bytes / (4 * parameters))));
    let waited = lines[1]["gpus"][0]["waited"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&waited), "{waited}");
}

#[test]
fn processes_whose_gpus_are_lost_go_on_with_what_is_left_if_they_may() {
    let place = Workplace::new();
    let Some([libraries, cache]) = emulated(&place) else {
        return;
    };
    let arguments = [&libraries, &cache, "--epochs=2", "--hidden=8", "--processes=2"];
    let mut lost = place.mnist(&[&arguments[..], &["--gpu=auto"]].concat());
    // That they are lost is told besides.
    lost.env("EMULATED_GPU_LAUNCHES", "5").env("DISTDL_LOG", "error");
    let lines = json_lines(lost);
    // Each process has one, and has lost it.
    let lost = |process: usize| {
        (
            lines[1]["gpus"][process]["process"].clone(),
            lines[1]["gpus"][process]["lost"].clone(),
        )
    };
    assert_eq!(
        [lost(0), lost(1)],
        [(0.into(), 1.into()), (1.into(), 1.into())],
        "{lines:?}"
    );

    let mut required = place.mnist(&[&arguments[..], &["--gpu=on"]].concat());
    required.env("EMULATED_GPU_LAUNCHES", "5");
    let output = required.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("Emulated GPU: could not"), "{error}");
}

#[test]
fn processes_with_and_without_a_gpu_train_together() {
    let place = Workplace::new();
    let Some([libraries, cache]) = emulated(&place) else {
        return;
    };
    let arguments = [&libraries, &cache, "--epochs=2", "--hidden=8", "--gpu=on", "--lanes=3"];
    let alone = json_lines(place.mnist(&arguments));
    let mixed = json_lines(place.mnist(&[&arguments[..], &["--processes=3", "--gpu-processes=1"]].concat()));
    // Whichever process is the first to say so.
    let passes = |line: &Value| -> Vec<(u64, u64)> {
        let of = |gpu: &Value| [&gpu["process"], &gpu["passes"]].map(|count| count.as_u64().unwrap());
        let gpus = line["gpus"].as_array().unwrap().iter();
        gpus.map(of).map(|[process, passes]| (process, passes)).collect()
    };
    let [(0, all)] = passes(&alone[1])[..] else {
        panic!("{alone:?}")
    };
    let every = json_lines(place.mnist(&[&arguments[..], &["--processes=3"]].concat()));
    let every = passes(&every[1]);
    let processes = |all: &[(u64, u64)]| all.iter().map(|(process, _)| *process).collect::<Vec<_>>();
    assert_eq!(processes(&every), [0, 1, 2]);
    // All of them, or more where steps are taken again as lanes move.
    let sum: u64 = every.iter().map(|(_, passes)| passes).sum();
    assert!(sum >= all, "{every:?}");
    assert!(
        processes(&passes(&mixed[1])) == [0] && passes(&mixed[0])[0].1 > 0,
        "{mixed:?}"
    );
    let [loss, loss_alone] = [&mixed, &alone].map(|lines| lines[1]["train_loss"].as_f64().unwrap());
    assert!((loss - loss_alone).abs() < 1e-4, "{loss}, {loss_alone}");
    let none = json_lines(place.mnist(&[&arguments[..], &["--gpu-processes=0"]].concat()));
    assert_eq!(none[1].get("gpus"), None);
    // The first step at least is computed here and there, and differs by rounding from either.
    let hash = |lines: &[Value]| lines[1]["parameters_hash"].clone();
    assert!(hash(&mixed) != hash(&none) && hash(&mixed) != hash(&alone));
}
