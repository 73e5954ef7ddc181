//! Kernels as C++ on the CPU, which needs `g++` and no GPU.
#![allow(unsafe_code)] // calls what was compiled from the programs, by a signature that is checked there

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fmt::Write;
use std::process::Command;

use distdl_dl::kernels::programs::{Grid, PROGRAMS};
use libloading::Library;

use super::runner::{Argument, Runner};

pub(crate) struct Emulated(Library);

type Run = unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_int, *mut *mut c_void) -> c_int;

impl Emulated {
    /// All programs, compiled. An error says why they cannot be.
    pub(crate) fn build() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("programs.cpp"), folder.path().join("programs.so"));
        std::fs::write(&source, text()).unwrap();
        // As on a GPU, multiplications and additions are not fused.
        let flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-o"];
        let compiler = Command::new("g++").args(flags).arg(&library).arg(&source).output();
        let output = compiler.map_err(|error| format!("no `g++` here: {error}"))?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // SAFETY: the library has no initialisers but those of C++ itself.
        Ok(Self(unsafe { Library::new(library) }.unwrap()))
    }
}

/// The emulator, each program in a namespace of its own, and the kernels under names for Rust.
fn text() -> String {
    let mut text = include_str!("../../../engine/src/testing/emulated_gpu/emulator.hpp").to_owned();
    for program in PROGRAMS {
        let name = program.name;
        writeln!(text, "namespace program_{name} {{\n{}\n}}", program.text).unwrap();
        for kernel in program.kernels {
            writeln!(text, "KERNEL(program_{name}, {kernel})").unwrap();
        }
    }
    text
}

impl Runner for Emulated {
    fn name(&self) -> &str {
        "emulated"
    }

    /// Runs it twice, with the threads of a block in either order, which must not show.
    fn run(&self, kernel: &str, grid: Grid, arguments: &mut [Argument<'_>]) {
        let mut backwards: Vec<Vec<u8>> = arguments.iter().map(copy).collect();
        let places = backwards.iter_mut().map(|bytes| bytes.as_mut_ptr().cast());
        self.run_once(kernel, grid, true, arguments, &places.collect::<Vec<_>>());
        let places = arguments.iter_mut().map(place).collect::<Vec<_>>();
        self.run_once(kernel, grid, false, arguments, &places);
        for (argument, backwards) in arguments.iter().zip(backwards) {
            assert!(copy(argument) == backwards, "{kernel}: its threads race");
        }
    }
}

fn copy(argument: &Argument<'_>) -> Vec<u8> {
    match argument {
        Argument::Read(bytes) => bytes.to_vec(),
        Argument::Change(bytes) => bytes.to_vec(),
        _ => Vec::new(),
    }
}

fn place(argument: &mut Argument<'_>) -> *mut c_void {
    match argument {
        Argument::Read(bytes) => bytes.as_ptr().cast_mut().cast(),
        Argument::Change(bytes) => bytes.as_mut_ptr().cast(),
        _ => std::ptr::null_mut(),
    }
}

impl Emulated {
    /// `places` are the memory of the arguments that have any.
    fn run_once(
        &self,
        kernel: &str,
        grid: Grid,
        is_backwards: bool,
        arguments: &[Argument<'_>],
        places: &[*mut c_void],
    ) {
        let (mut letters, mut values) = (String::new(), Vec::new());
        let (mut places, nothing) = (places.to_vec(), std::ptr::null_mut::<c_void>());
        let mut words = [0_u64; 20];
        for ((argument, place), word) in arguments.iter().zip(&mut places).zip(&mut words) {
            let (letter, value): (char, *mut c_void) = match argument {
                Argument::Read(_) | Argument::Change(_) => ('p', std::ptr::from_mut(place).cast()),
                Argument::Absent => {
                    *place = nothing;
                    ('p', std::ptr::from_mut(place).cast())
                }
                Argument::Kind(kind) => ('k', store(word, &kind.to_ne_bytes())),
                Argument::Count(count) => ('c', store(word, &count.to_ne_bytes())),
                Argument::Number(number) => ('n', store(word, &number.to_ne_bytes())),
                Argument::Wide(number) => ('w', store(word, &number.to_ne_bytes())),
            };
            letters.push(letter);
            values.push(value);
        }
        assert_eq!(values.len(), arguments.len(), "{kernel}: too many arguments");
        let letters = CString::new(letters).unwrap();
        // SAFETY: every function of this name has this type.
        let run = unsafe { self.0.get::<Run>(format!("run_{kernel}")) }.unwrap();
        let values = values.as_mut_ptr();
        // SAFETY: the kinds of the arguments are checked there, and each points to a value of its kind. Buffers are as
        // long as the kernel takes them to be, or the case is wrong.
        let outcome = unsafe { run(letters.as_ptr(), grid.blocks, grid.threads, is_backwards.into(), values) };
        assert_eq!(outcome, 0, "{kernel}: 1 is wrong arguments, 2 that threads do not meet");
    }
}

/// Puts a value at the beginning of `word`, and gives its place.
fn store(word: &mut u64, bytes: &[u8]) -> *mut c_void {
    let words = std::slice::from_mut(word);
    bytemuck::cast_slice_mut::<u64, u8>(words)[..bytes.len()].copy_from_slice(bytes);
    words.as_mut_ptr().cast()
}
