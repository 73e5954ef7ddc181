//! NVRTC takes every program, where it is there: it needs no GPU.

use distdl_dl::kernels::programs::PROGRAMS;
use distdl_engine::device::{CompileError, Compiler};

use super::{cuda_libraries, skipped};

/// The oldest and a recent kind of GPU.
const ARCHITECTURES: [&str; 2] = ["sm_75", "sm_90"];

fn compiler(what: &str, cache: Option<&std::path::Path>) -> Option<Compiler> {
    let folder = cuda_libraries();
    let compiler = Compiler::open(folder.as_deref(), cache);
    if let (Some(folder), Err(error)) = (&folder, &compiler) {
        panic!("DISTDL_CUDA_LIBRARIES is {}, and {error}", folder.display());
    }
    let reason = |error: &CompileError| skipped(what, &format!("{error}; name its folder in DISTDL_CUDA_LIBRARIES"));
    compiler.inspect_err(reason).ok()
}

#[test]
fn every_program_compiles_for_old_and_new_gpus() {
    let Some(compiler) = compiler("that programs compile for GPUs", None) else {
        return;
    };
    for architecture in ARCHITECTURES {
        for program in PROGRAMS {
            let cubin = compiler.compile(program.name, program.text, architecture).unwrap();
            assert!(cubin.as_bytes().starts_with(b"\x7fELF"), "{}", program.name);
            for kernel in program.kernels {
                let name = kernel.as_bytes();
                let is_there = cubin.as_bytes().windows(name.len()).any(|bytes| bytes == name);
                assert!(is_there, "{kernel} for {architecture}");
            }
        }
    }
}

#[test]
fn what_does_not_compile_is_said_in_the_words_of_the_compiler() {
    let Some(compiler) = compiler("what the compiler of kernels refuses", None) else {
        return;
    };
    let error = compiler
        .compile("wrong", "__global__ void f() { g(); }", "sm_90")
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("wrong.cu(1)") && text.contains("\"g\" is undefined"),
        "{text}"
    );
    let error = compiler.compile("old", PROGRAMS[0].text, "sm_10").unwrap_err();
    assert!(error.to_string().contains("sm_10"), "{error}");
    assert!(compiler.compile("zero", "\0", "sm_90").is_err());
}

#[test]
fn what_was_compiled_is_kept_and_damage_is_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("kernels");
    let Some(compiler) = compiler("the cache of compiled kernels", Some(&cache)) else {
        return;
    };
    let text = "extern \"C\" __global__ void f(float* x) { *x = 1; }";
    let first = compiler.compile("f", text, "sm_75").unwrap();
    // A compiler remembers, too: another one must look into the folder.
    let again = || Compiler::open(cuda_libraries().as_deref(), Some(&cache)).unwrap();
    let files = || {
        let files = std::fs::read_dir(&cache).unwrap().map(|file| file.unwrap().path());
        files.collect::<Vec<_>>()
    };
    let [path] = &files()[..] else { panic!("{:?}", files()) };
    // What is taken from the cache is not compiled: other bytes with their hash are believed.
    let other = [blake3::hash(b"other").as_bytes(), &b"other"[..]].concat();
    std::fs::write(path, &other).unwrap();
    assert_eq!(again().compile("f", text, "sm_75").unwrap().as_bytes(), b"other");
    assert_eq!(compiler.compile("f", text, "sm_75").unwrap(), first);
    std::fs::write(path, &other[..other.len() - 1]).unwrap();
    assert_eq!(again().compile("f", text, "sm_75").unwrap(), first);
    assert_eq!(again().compile("f", text, "sm_75").unwrap(), first);
    compiler.compile("f", text, "sm_90").unwrap();
    assert_eq!(files().len(), 2);
}
