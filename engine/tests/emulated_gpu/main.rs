//! What the engine asks of a GPU, asked of an emulated one: libraries of CUDA that are made for the test. With
//! `DISTDL_TEST_GPU=real` what can be asked of any is asked of the machine's.
#![cfg(all(target_os = "linux", feature = "gpu"))]
#![allow(unsafe_code)] // starts a kernel that is made here, too
#![allow(clippy::unwrap_used)]

mod convolutions;
mod double_buffer;
mod ports;
mod products;
mod real;
mod versions;

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use distdl_engine::config::{GpuUse, Precision};
use distdl_engine::device::{
    Argument, Chosen, Compiler, Gpu, GpuBlas, GpuDnn, GpuFound, GpuGraph, GpuMatrix, GpuPort, choose,
};
use distdl_engine::testing::emulated_gpu::make_cuda;
use distdl_storage::testing::device_conformance;
use distdl_storage::{DeviceError, DeviceMemory};

/// Writes down what it is given.
const SHOW: &str = r#"
extern "C" __global__ void show(double* to, float* part, float* absent, unsigned kind, unsigned long long count, float number) {
    if (blockIdx.x == gridDim.x - 1 && threadIdx.x == blockDim.x - 1) {
        to[0] = gridDim.x;
        to[1] = blockDim.x;
        to[2] = part[0];
        to[3] = absent ? 1 : 0;
        to[4] = kind;
        to[5] = count;
        to[6] = number;
    }
}
"#;

/// One test, as a process opens a library once.
#[test]
fn an_emulated_gpu_keeps_what_it_is_given_and_runs_what_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    if real::is_wanted() {
        let _ = writeln!(std::io::stderr(), "!! SKIPPED: what only an emulated GPU can be told");
        return;
    }
    if !make_cuda(folder.path(), 2, 1 << 20).unwrap() {
        let _ = writeln!(std::io::stderr(), "!! SKIPPED: an emulated GPU: no `g++` here");
        return;
    }
    let Chosen::Gpu(found) = choose(GpuUse::On, true, Some(folder.path())).unwrap() else {
        panic!("the driver has one")
    };
    assert_eq!(
        (found.name.as_str(), found.capability, found.memory_bytes),
        ("Emulated GPU", (9, 0), 1 << 20)
    );
    assert_eq!((found.count, &found.alike[..]), (2, &[0, 1][..]));
    let compiler = Compiler::open(Some(folder.path()), None).unwrap();
    assert_eq!(compiler.version(), (13, 9));

    memory_is_kept_and_freed_on_any_thread(&found);
    kernels_are_given_their_arguments(&found, &compiler);
    parts_of_buffers_are_copied(&found);
    ports::copies_go_both_ways_in_their_order(&found);
    products::are_those_of_the_cpu(&found);
    products::of_each_are_those_of_the_cpu(&found);
    convolutions::all(&found);
    graphs_do_what_was_captured_with_other_arguments(&found, &compiler);
    a_capture_ends_whatever_fails_meanwhile(&found);
    // Who has found it by himself, as each context does, is not left out.
    let Chosen::Gpu(again) = choose(GpuUse::On, true, Some(folder.path())).unwrap() else {
        panic!("the driver has one")
    };
    nobody_waits_for_a_gpu_while_a_graph_is_captured(&found, &again);
    drop(again);
    failures_are_errors(&found, &compiler);

    // SAFETY: the library is open already, and the functions are declared like that.
    let driver = unsafe { libloading::Library::new(folder.path().join("libcuda.so")) }.unwrap();
    let count = |name: &str| unsafe { driver.get::<unsafe extern "C" fn() -> i64>(name).unwrap()() };
    double_buffer::each_piece_is_there_when_it_is_swapped_in(&found, &compiler);
    double_buffer::pieces_are_sent_without_waiting_for_kernels(&found, &compiler, &|| count("emulated_launches"));
    let left = || ["emulated_handles", "emulated_bytes"].map(count);
    // Both GPUs stay open as long as somebody has found them.
    assert_eq!(
        left(),
        [2, 0],
        "contexts, streams, programs or bytes that nobody gave back"
    );
    ports::one_that_is_dropped_within_a_capture_keeps_what_its_copy_needs(&found);
    let kept = 1;
    assert_eq!(left(), [2 + kept, 0], "the host's side of that port");

    // SAFETY: as above.
    let pin_at_most = unsafe { driver.get::<unsafe extern "C" fn(i64)>("emulated_pin_at_most") }.unwrap();
    let gpu = Gpu::open(&found, 0).unwrap();
    // SAFETY: as above.
    unsafe { pin_at_most(0) };
    let error = GpuPort::new(&gpu, 8).unwrap_err();
    assert!(
        matches!(error, DeviceError::NoHostMemory { needed_bytes: 8, .. }),
        "{error}"
    );
    // SAFETY: as above.
    unsafe { pin_at_most(-1) };
    drop(gpu);

    // SAFETY: as above.
    let be_version = unsafe { driver.get::<unsafe extern "C" fn(i64)>("emulated_be_version") }.unwrap();
    // SAFETY: as above.
    unsafe { be_version(12_040) };
    let error = choose(GpuUse::On, true, Some(folder.path())).unwrap_err().to_string();
    assert!(
        error.contains("of version 13.4, and the driver is made for 12.4; take libraries of CUDA 12"),
        "{error}"
    );
    // SAFETY: as above.
    unsafe { be_version(13_000) };
    versions::libraries_of_a_newer_cuda_are_refused(folder.path());

    // SAFETY: as above.
    let lose_after = unsafe { driver.get::<unsafe extern "C" fn(i32, i64)>("emulated_lose_after") }.unwrap();
    let gpu = Gpu::open(&found, 1).unwrap();
    let buffer = gpu.allocate(8).unwrap();
    // SAFETY: as above.
    unsafe { lose_after(1, 0) };
    let error = gpu.read(buffer.words(), &mut [0_u64]).unwrap_err().to_string();
    assert!(
        error.contains("could not copy from it: CUDA_ERROR_ILLEGAL_ADDRESS"),
        "{error}"
    );
    assert!(gpu.synchronize().is_err() && gpu.allocate(1).is_err());
    assert!(Gpu::open(&found, 0).unwrap().allocate(1).is_ok());

    // One that was lost is opened anew, and closed with the other.
    drop((buffer, gpu));
    // SAFETY: as above.
    unsafe { lose_after(1, -1) };
    assert!(Gpu::open(&found, 1).unwrap().allocate(1).is_ok());
    drop(found);
    assert_eq!(left(), [kept, 0]);
}

fn memory_is_kept_and_freed_on_any_thread(found: &GpuFound) {
    let gpu = Gpu::open(found, 0).unwrap();
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
    let gpu = Gpu::open(found, 0).unwrap();
    let cubin = compiler.compile("show", SHOW, gpu.architecture()).unwrap();
    let show = gpu.kernel(&gpu.load(&cubin).unwrap(), "show").unwrap();
    let (buffer, numbers) = (gpu.allocate(7 * 8).unwrap(), gpu.allocate(3 * 4).unwrap());
    gpu.write(&[-1.0_f64; 7], buffer.words()).unwrap();
    gpu.write(&[1.0_f32, 2.0, 3.0], numbers.words()).unwrap();
    let arguments = [
        Argument::Buffer(&buffer),
        Argument::Words(numbers.words().part(1..2)),
        Argument::Absent,
        Argument::Kind(u32::MAX),
        Argument::Count(1 << 40),
        Argument::Number(0.5),
    ];
    let mut written = [0.0_f64; 7];
    // SAFETY: these are its arguments, and nothing is written for 0 blocks.
    unsafe { gpu.launch(&show, 0, 64, &arguments) }.unwrap();
    gpu.read(buffer.words(), &mut written).unwrap();
    assert_eq!(written, [-1.0; 7]);
    // SAFETY: these are its arguments, and the buffer has the seven numbers that it writes.
    unsafe { gpu.launch(&show, 7, 64, &arguments) }.unwrap();
    gpu.read(buffer.words(), &mut written).unwrap();
    let expected = [7.0, 64.0, 2.0, 0.0, f64::from(u32::MAX), (1_u64 << 40) as f64, 0.5];
    assert_eq!(written, expected);
    assert_eq!(gpu.copied_bytes(), (7 * 8 + 3 * 4, 2 * 7 * 8));
    let many = [Argument::Absent; 21];
    // SAFETY: nothing starts.
    assert!(unsafe { gpu.launch(&show, 1, 1, &many) }.is_err());
}

/// Adds to what is there.
const ADD: &str = r#"
extern "C" __global__ void add(float* to, float number) { to[0] += number; }
extern "C" __global__ void multiply(float* to, float number) { to[0] *= number; }
"#;

fn graphs_do_what_was_captured_with_other_arguments(found: &GpuFound, compiler: &Compiler) {
    type Done = Result<(), DeviceError>;
    let gpu = Gpu::open(found, 0).unwrap();
    let (blas, other_blas) = (
        GpuBlas::new(&gpu, Precision::F32).unwrap(),
        GpuBlas::new(&gpu, Precision::Tf32).unwrap(),
    );
    let module = gpu
        .load(&compiler.compile("add", ADD, gpu.architecture()).unwrap())
        .unwrap();
    let [add, multiply] = ["add", "multiply"].map(|name| gpu.kernel(&module, name).unwrap());
    let buffer = gpu.allocate(4 * 4).unwrap();
    let words = buffer.words();
    let [first, second, third] = [0, 1, 2].map(|word| words.part(word..word + 1));
    let kernel = |kernel, number: f32| {
        // SAFETY: these are its arguments, and the word that it changes.
        unsafe { gpu.launch(kernel, 1, 1, &[Argument::Words(first), Argument::Number(number)]) }
    };
    let product = |blas: &GpuBlas| {
        let [left, right, to] = [first, second, third].map(|word| GpuMatrix::new(word, 1, 1));
        blas.multiply(&gpu, to, left, right, false)
    };
    let ask = |number| -> Done {
        kernel(&add, number)?;
        gpu.copy(first, second)?;
        product(&blas)
    };
    let values = || {
        let mut values = [0.0_f32; 4];
        gpu.read(words, &mut values).unwrap();
        values[..3].to_vec()
    };
    // SAFETY: all that these name is there until the end.
    let replay = |graph: &mut GpuGraph, ask: &dyn Fn() -> Done| unsafe { gpu.replay(graph, ask) };

    // So that all kernels are loaded.
    ask(1.0).and_then(|()| kernel(&multiply, 1.0)).unwrap();
    gpu.write(&[1.0_f32, 0.0, 0.0, 0.0], words).unwrap();
    let mut graph = gpu.capture(|| ask(1.0)).unwrap();
    assert_eq!(values(), [1.0, 0.0, 0.0], "nothing of that is done yet");
    replay(&mut graph, &|| ask(1.0)).unwrap();
    assert_eq!(values(), [2.0, 2.0, 4.0]);
    replay(&mut graph, &|| ask(5.0)).unwrap();
    replay(&mut graph, &|| ask(5.0)).unwrap();
    assert_eq!(values(), [12.0, 12.0, 144.0]);

    let others: [(&str, &dyn Fn() -> Done); 9] = [
        ("another kernel", &|| kernel(&multiply, 2.0)),
        ("another copy, product or convolution", &|| gpu.copy(first, second)),
        ("another copy, product or convolution", &|| {
            kernel(&add, 1.0).and_then(|()| gpu.copy(second, third))
        }),
        ("another copy, product or convolution", &|| {
            kernel(&add, 1.0)?;
            gpu.copy(first, second)?;
            product(&other_blas)
        }),
        ("less was asked for", &|| kernel(&add, 1.0)),
        ("another thing", &|| ask(1.0).and_then(|()| kernel(&add, 1.0))),
        ("no part of a graph", &|| gpu.allocate(1).map(drop)),
        ("no part of a graph", &|| gpu.read(words, &mut [0.0_f32; 4])),
        ("no part of a graph", &|| gpu.synchronize()),
    ];
    for (wanted, other) in others {
        let before = values();
        let mut graph = gpu.capture(|| ask(1.0)).unwrap();
        let error = replay(&mut graph, other).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        let error = replay(&mut graph, &|| ask(1.0)).unwrap_err().to_string();
        assert!(error.contains("it has failed before"), "{error}");
        assert_eq!(values(), before, "{wanted}");
        // What is asked for now is done.
        kernel(&add, 1.0).unwrap();
        assert_eq!(values()[0], before[0] + 1.0);
    }
    for other in [&|| gpu.allocate(1).map(drop), &|| Ok(())] as [&dyn Fn() -> Done; 2] {
        assert!(gpu.capture(other).is_err());
    }
    // What was not captured because it failed is missing in the graph, whoever is told.
    let swallowed = gpu.capture(|| -> Done {
        let _ = gpu.copy(first, words);
        kernel(&add, 1.0)?;
        let _ = gpu.read(words, &mut [0.0_f32; 4]);
        Ok(())
    });
    assert!(
        swallowed.is_ok(),
        "what is refused before it is asked for is no part of it"
    );
    let panicked = catch_unwind(AssertUnwindSafe(|| gpu.capture(|| -> Done { panic!("stop") })));
    assert!(panicked.is_err());
    let before = values();
    kernel(&add, 1.0).unwrap();
    assert_eq!(values()[0], before[0] + 1.0);
    // SAFETY: as above.
    let elsewhere = unsafe { Gpu::open(found, 0).unwrap().replay(&mut graph, || ask(1.0)) };
    assert!(elsewhere.unwrap_err().to_string().contains("by another handle"));
}

/// No graph gives back what it was not given: that fails, and is said by what is asked for next.
fn a_capture_ends_whatever_fails_meanwhile(found: &GpuFound) {
    let gpu = Gpu::open(found, 0).unwrap();
    let buffer = gpu.allocate(8).unwrap();
    let [first, second] = [0, 1].map(|word| buffer.words().part(word..word + 1));
    for panics in [false, true] {
        let spare = gpu.allocate(4).unwrap();
        let captured = catch_unwind(AssertUnwindSafe(|| {
            gpu.capture(|| -> Result<(), DeviceError> {
                gpu.copy(first, second)?;
                drop(spare);
                if panics {
                    panic!("stop");
                }
                Ok(())
            })
        }));
        assert_eq!(captured.is_err(), panics);
        if let Ok(captured) = captured {
            let error = captured.unwrap_err().to_string();
            assert!(error.contains("CUDA_ERROR_INVALID_VALUE"), "{error}");
        }
        // What is asked for now is done.
        let (number, mut read) = (u32::from(panics) + 1, [0_u32; 2]);
        gpu.write(&[number], first).unwrap();
        gpu.copy(first, second).unwrap();
        gpu.read(buffer.words(), &mut read).unwrap();
        assert_eq!(read, [number; 2]);
    }
}

/// The driver forbids it, and whoever wants room does wait for all of the GPU; so do cuBLAS and cuDNN when they start
/// and end.
fn nobody_waits_for_a_gpu_while_a_graph_is_captured(found: &GpuFound, again: &GpuFound) {
    let gpu = Gpu::open(found, 0).unwrap();
    let other = Gpu::open(again, 0).unwrap();
    let buffer = gpu.allocate(8).unwrap();
    let (first, second) = (buffer.words().part(0..1), buffer.words().part(1..2));
    let too_large = 2 * found.memory_bytes as usize;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                other.free_bytes().unwrap();
                let error = other.allocate(too_large).unwrap_err();
                assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
                // Some in a row: what ends waits for its turn, and what starts next would find nobody who captures.
                let start = |_| {
                    let blas = GpuBlas::new(&other, Precision::F32).unwrap();
                    (
                        blas,
                        found.uses_cudnn.then(|| GpuDnn::new(&other, Precision::F32).unwrap()),
                    )
                };
                drop((0..16).map(start).collect::<Vec<_>>());
            }
        });
        let graphs: Vec<_> = (0..500)
            .map(|_| {
                gpu.capture(|| {
                    std::thread::yield_now();
                    gpu.copy(first, second)
                })
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        waiting.join().unwrap();
        for graph in graphs {
            graph.unwrap();
        }
    });
    if real::is_wanted() {
        return;
    }
    // Nor does the thread that captures wait for itself.
    let graph = gpu.capture(|| {
        let error = other.allocate(too_large).unwrap_err();
        assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
        assert!(other.free_bytes().is_err());
        gpu.copy(first, second)
    });
    graph.unwrap();
    other.free_bytes().unwrap();
}

fn parts_of_buffers_are_copied(found: &GpuFound) {
    let gpu = Gpu::open(found, 0).unwrap();
    let buffer = gpu.allocate(4 * 4 + 3).unwrap();
    let words = buffer.words();
    assert_eq!((words.len(), words.is_empty()), (4, false));
    gpu.write(&[1_u32, 2, 3, 4], words).unwrap();
    gpu.write(&[9_u32], words.part(1..4).part(1..2)).unwrap();
    let mut read = [0_u32; 3];
    gpu.read(words.part(1..4), &mut read).unwrap();
    assert_eq!(read, [2, 9, 4]);
    assert!(gpu.copy(words.part(0..1), words.part(2..4)).is_err());
    gpu.copy(words.part(0..2), words.part(2..4)).unwrap();
    gpu.read(words.part(1..4), &mut read).unwrap();
    assert_eq!(read, [2, 1, 2]);
    assert!(gpu.write(&[1_u32, 2], words).is_err() && gpu.read(words, &mut read).is_err());
    // What another handle writes would not wait for this one.
    let other = Gpu::open(found, 0).unwrap();
    let error = other.write(&[1_u32; 4], words).unwrap_err().to_string();
    assert!(error.contains("allocated by another handle"), "{error}");
    assert!(other.copy(words.part(0..2), words.part(2..4)).is_err());
    let of_other = other.allocate(8).unwrap();
    let error = other.copy(words.part(0..2), of_other.words()).unwrap_err().to_string();
    assert!(error.contains("allocated by another handle"), "{error}");
    other.read(words.part(1..4), &mut read).unwrap();
    assert_eq!(read, [2, 1, 2]);
    if let Some(index) = found.alike.get(1) {
        let another = Gpu::open(found, *index).unwrap();
        let error = another.read(words.part(1..4), &mut read).unwrap_err();
        assert!(error.to_string().contains("another GPU"), "{error}");
    }
    gpu.write::<u32>(&[], words.part(0..0)).unwrap();
}

fn failures_are_errors(found: &GpuFound, compiler: &Compiler) {
    let gpu = Gpu::open(found, 0).unwrap();
    let text = compiler.compile("paper", "wrong", "sm_90").unwrap_err().to_string();
    assert!(
        text.starts_with("kernel paper, for sm_90: ") && text.contains("wrong"),
        "{text}"
    );
    let module = gpu.load(&compiler.compile("show", SHOW, "sm_90").unwrap()).unwrap();
    let error = gpu.kernel(&module, "other").unwrap_err().to_string();
    assert!(error.contains("find a kernel: CUDA_ERROR_NOT_FOUND"), "{error}");
    assert!(gpu.kernel(&module, "zero\0byte").is_err());
}
