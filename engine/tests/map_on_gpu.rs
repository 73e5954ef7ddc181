//! A map stage on GPUs: the records of the CPU, whatever is lost. They are emulated, or with `DISTDL_TEST_GPU=real`
//! those of the machine, which nobody can lose or count.
#![cfg(all(target_os = "linux", feature = "gpu"))]
#![allow(unsafe_code)] // vouches for kernels, and tells the emulated GPU what to do
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use distdl_engine::config::GpuUse;
use distdl_engine::device::{Argument, Chosen, Compiler, Gpu, GpuKernel};
use distdl_engine::testing::TestCluster;
use distdl_engine::testing::emulated_gpu::make_cuda;
use distdl_engine::{Config, Context, Dataset, DeviceMap};
use libloading::Library;

/// Eight numbers, and their sum with their place.
type Numbers = [u64; 8];
type Summed = [u64; 2];

/// So many that they make several pieces.
const RECORDS: u64 = 70_000;
const PARTITIONS: usize = 5;

const SUM: &str = r#"
struct Numbers { unsigned long long of[8]; };
struct Summed { unsigned long long first, sum; };

extern "C" __global__ void sum(unsigned long long count, const Numbers* inputs, Summed* outputs) {
    unsigned long long threads = (unsigned long long)gridDim.x * blockDim.x;
    for (unsigned long long index = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x; index < count; index += threads) {
        outputs[index].first = inputs[index].of[0];
        outputs[index].sum = 0;
        for (int place = 0; place < 8; place++) {
            outputs[index].sum += inputs[index].of[place];
        }
    }
}
"#;

/// Records in partitions of which one has none, and one has one.
fn records(context: &Context) -> Dataset<Numbers> {
    let numbers = (0..RECORDS).map(|first| std::array::from_fn(|place| first * (place as u64 + 1)));
    let all = context.parallelize(numbers, PARTITIONS - 2);
    all.union(&context.parallelize(Vec::new(), 1))
        .union(&context.parallelize([[7; 8]], 1))
}

fn on_cpu(pieces: &Arc<AtomicUsize>) -> impl Fn(&[Numbers]) -> Vec<Summed> + Send + Sync + use<> {
    let pieces = Arc::clone(pieces);
    move |piece| {
        pieces.fetch_add(1, Ordering::Relaxed);
        piece.iter().map(|numbers| [numbers[0], numbers.iter().sum()]).collect()
    }
}

/// The stage, and how many pieces the CPU has computed.
fn stage(context: &Context, text: &str) -> (Dataset<Summed>, Arc<AtomicUsize>) {
    let pieces = Arc::default();
    // SAFETY: `SUM` is such a program; others do not compile.
    let map = unsafe { DeviceMap::from_source("sum", text, on_cpu(&pieces)) };
    (records(context).map_partitions_on(map), pieces)
}

struct TestGpu {
    folder: tempfile::TempDir,
    /// None of a real one.
    driver: Option<Library>,
}

impl TestGpu {
    /// `None` where there is no compiler for an emulated one.
    fn make() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        if std::env::var_os("DISTDL_TEST_GPU").is_some_and(|which| which == "real") {
            return Some(Self { folder, driver: None });
        }
        if !make_cuda(folder.path(), 2, 64 << 20).unwrap() {
            return None;
        }
        // SAFETY: the library has just been made for this.
        let driver = unsafe { Library::new(folder.path().join("libcuda.so")) }.unwrap();
        Some(Self {
            folder,
            driver: Some(driver),
        })
    }

    fn context(&self, gpu: GpuUse, threads: usize) -> Context {
        let config = Config::default().with_threads(threads).with_gpu(gpu);
        let config = config.with_cache_folder(self.cache());
        Context::new(match self.libraries() {
            Some(libraries) => config.with_cuda_libraries(libraries),
            None => config,
        })
        .unwrap()
    }

    fn libraries(&self) -> Option<PathBuf> {
        match self.driver {
            Some(_) => Some(self.folder.path().to_owned()),
            None => std::env::var_os("DISTDL_CUDA_LIBRARIES").map(PathBuf::from),
        }
    }

    fn cache(&self) -> std::path::PathBuf {
        self.folder.path().join("cache")
    }

    /// Loses each GPU at one of its next launches; never, for a negative number.
    fn lose_after(&self, launches: [i64; 2]) {
        let driver = self.driver.as_ref().unwrap();
        for (index, launches) in (0..).zip(launches) {
            // SAFETY: the function is declared like that.
            unsafe {
                driver
                    .get::<unsafe extern "C" fn(i32, i64)>("emulated_lose_after")
                    .unwrap()(index, launches)
            }
        }
    }

    /// A count of the emulated GPU; `None` of a real one.
    fn count(&self, name: &str) -> Option<i64> {
        let driver = self.driver.as_ref()?;
        // SAFETY: all of these functions are declared like that.
        Some(unsafe { driver.get::<unsafe extern "C" fn() -> i64>(name).unwrap()() })
    }
}

/// One test, as a process opens a library once.
#[test]
fn a_map_stage_on_gpus_gives_the_records_of_the_cpu() {
    let Some(gpu) = TestGpu::make() else {
        let _ = writeln!(
            std::io::stderr(),
            "!! SKIPPED: a map stage on an emulated GPU: no `g++` here"
        );
        return;
    };
    let expected = computed_on_the_cpu(&gpu);
    computed_on_gpus(&gpu, &expected);
    closures_start_kernels(&gpu, &expected);
    if gpu.driver.is_some() {
        lost_gpus_leave_it_to_the_cpu_unless_they_must_compute(&gpu, &expected);
    }
    errors_name_operator_and_reason(&gpu);
    for name in ["emulated_handles", "emulated_bytes"] {
        assert_eq!(gpu.count(name).unwrap_or(0), 0, "{name}");
    }
}

fn computed_on_the_cpu(gpu: &TestGpu) -> Vec<Summed> {
    let (dataset, pieces) = stage(&gpu.context(GpuUse::Off, 2), SUM);
    let expected = dataset.collect().unwrap();
    let oracle = (0..RECORDS).map(|first| [first, first * 36]).chain([[7, 56]]);
    assert_eq!(expected, oracle.collect::<Vec<_>>());
    assert_eq!(pieces.load(Ordering::Relaxed), 3 * 2 + 1);
    assert_eq!(gpu.count("emulated_launches").unwrap_or(0), 0);
    expected
}

fn computed_on_gpus(gpu: &TestGpu, expected: &[Summed]) {
    for threads in [1, 3] {
        let launched = gpu.count("emulated_launches");
        let context = gpu.context(GpuUse::On, threads);
        let (dataset, pieces) = stage(&context, SUM);
        assert_eq!(dataset.collect().unwrap(), expected);
        let allocations = gpu.count("emulated_allocations");
        if threads == 1 {
            assert_eq!(dataset.collect().unwrap(), expected);
            assert_eq!(gpu.count("emulated_allocations"), allocations, "slots are used again");
        }
        assert_eq!(pieces.load(Ordering::Relaxed), 0);
        if let Some((now, before)) = gpu.count("emulated_launches").zip(launched) {
            assert_eq!(now - before, if threads == 1 { 14 } else { 7 });
        }
    }
    let cluster = TestCluster {
        caches: vec![gpu.cache()],
        ..TestCluster::new(2)
    };
    let run = cluster.run(|context| stage(context, SUM).0.collect()).unwrap();
    assert!(run.results.iter().all(|records| records == expected));
}

fn closures_start_kernels(gpu: &TestGpu, expected: &[Summed]) {
    let context = gpu.context(GpuUse::On, 2);
    let Chosen::Gpu(found) = context.device() else {
        panic!("there is one")
    };
    let compiler = Compiler::open(gpu.libraries().as_deref(), Some(&gpu.cache())).unwrap();
    let kernels = found.alike.iter().map(|index| {
        let gpu = Gpu::open(found, *index).unwrap();
        let module = gpu.load(&compiler.compile("sum", SUM, gpu.architecture()).unwrap());
        (gpu.index(), gpu.kernel(&module.unwrap(), "sum").unwrap())
    });
    let kernels: HashMap<usize, GpuKernel> = kernels.collect();
    let map = DeviceMap::new(
        move |piece| {
            let count = Argument::Count(piece.records as u64);
            let arguments = [count, Argument::Buffer(piece.inputs), Argument::Buffer(piece.outputs)];
            // SAFETY: these are its arguments, and a piece fits.
            unsafe { piece.gpu.launch(&kernels[&piece.gpu.index()], 1, 64, &arguments) }
        },
        |_: &[Numbers]| -> Vec<Summed> { Vec::new() },
    );
    assert_eq!(records(&context).map_partitions_on(map).collect().unwrap(), expected);
}

fn lost_gpus_leave_it_to_the_cpu_unless_they_must_compute(gpu: &TestGpu, expected: &[Summed]) {
    for launches in [0, 1, 2, 3] {
        gpu.lose_after([-1; 2]);
        let context = gpu.context(GpuUse::Auto, 1);
        let (dataset, pieces) = stage(&context, SUM);
        context.device();
        gpu.lose_after([launches; 2]);
        assert_eq!(dataset.collect().unwrap(), expected);
        assert!(pieces.load(Ordering::Relaxed) > 0);
        // It stays with the CPU.
        assert_eq!(dataset.collect().unwrap(), expected);
    }
    gpu.lose_after([-1; 2]);
    // One that is left takes over.
    for launches in [[0, -1], [-1, 0], [2, -1], [-1, 1]] {
        let (dataset, pieces) = stage(&gpu.context(GpuUse::On, 2), SUM);
        gpu.lose_after(launches);
        assert_eq!(dataset.collect().unwrap(), expected);
        assert_eq!(pieces.load(Ordering::Relaxed), 0);
        gpu.lose_after([-1; 2]);
    }
    let context = gpu.context(GpuUse::On, 1);
    let (dataset, pieces) = stage(&context, SUM);
    gpu.lose_after([2; 2]);
    let error = dataset.collect().unwrap_err().to_string();
    let words = [
        "map_partitions_on",
        "map_on_gpu.rs",
        "Emulated GPU: could not",
        "ILLEGAL_ADDRESS",
    ];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    assert_eq!(pieces.load(Ordering::Relaxed), 0);
    gpu.lose_after([-1; 2]);
    // Nor does the CPU compute it when it is asked again.
    let error = dataset.collect().unwrap_err().to_string();
    assert!(error.contains("every Emulated GPU of this process is lost"), "{error}");
    assert_eq!(pieces.load(Ordering::Relaxed), 0);
    assert_eq!(stage(&context, SUM).0.collect().unwrap(), expected);
}

fn errors_name_operator_and_reason(gpu: &TestGpu) {
    let context = gpu.context(GpuUse::On, 1);
    let error = stage(&context, "no program").0.collect().unwrap_err().to_string();
    let words = ["map_partitions_on", "map_on_gpu.rs", "kernel sum, for sm_"];
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
    let other = SUM.replace("void sum(", "void other(");
    let error = stage(&context, &other).0.collect().unwrap_err().to_string();
    assert!(error.contains("could not find a kernel"), "{error}");

    // SAFETY: nothing starts, as the CPU computes.
    let map = unsafe { DeviceMap::from_source("sum", SUM, |_: &[Numbers]| -> Vec<Summed> { vec![[0; 2]] }) };
    let context = gpu.context(GpuUse::Off, 1);
    let error = records(&context).map_partitions_on(map).collect().unwrap_err();
    assert!(error.to_string().contains("records became 1"), "{error}");
}
