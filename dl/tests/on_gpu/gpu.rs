//! The GPUs of these tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use distdl_engine::Config;
use distdl_engine::config::GpuUse;
use distdl_engine::device::{Chosen, Gpu, GpuBuffer, GpuFound, choose};
use distdl_engine::testing::emulated_gpu::make_cuda;
use distdl_storage::DeviceMemory;
use libloading::Library;

/// The memory of an emulated GPU.
pub(crate) const MEMORY_BYTES: usize = 128 << 20;

/// GPUs for one test at a time: two emulated ones, or with `DISTDL_TEST_GPU=real` those of the machine.
pub(crate) struct TestGpu {
    folder: &'static Path,
    is_real: bool,
    _turn: MutexGuard<'static, ()>,
}

impl TestGpu {
    /// Waits for its turn. `None`, and says so, where what the test needs is not to be had: emulated GPUs, to be lost
    /// and counted.
    pub(crate) fn take_emulated() -> Option<Self> {
        let gpu = Self::take()?;
        if gpu.is_real {
            skipped("what only an emulated GPU can be told");
            return None;
        }
        Some(gpu)
    }

    /// Waits for its turn. `None`, and says so, where no emulated GPU can be made.
    pub(crate) fn take() -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
        static OPEN: OnceLock<Option<GpuFound>> = OnceLock::new();
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let is_real = std::env::var_os("DISTDL_TEST_GPU").is_some_and(|which| which == "real");
        let gpu = Self {
            folder: FOLDER.get_or_init(|| make(is_real)).as_deref()?,
            is_real,
            _turn: turn,
        };
        if is_real {
            OPEN.get_or_init(keep_open);
        } else {
            gpu.lose_after([-1, -1]);
            gpu.pin_at_most(-1);
        }
        Some(gpu)
    }

    /// A configuration that demands it.
    pub(crate) fn config(&self) -> Config {
        let config = Config::default().with_threads(1).with_gpu(GpuUse::On);
        let config = config.with_cache_folder(self.cache());
        let own = (!self.is_real).then(|| self.folder.to_owned());
        match own.or_else(libraries_of_machine) {
            Some(libraries) => config.with_cuda_libraries(libraries),
            None => config,
        }
    }

    /// Where compiled kernels are kept.
    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// Whether they are those of the machine.
    pub(crate) fn is_real(&self) -> bool {
        self.is_real
    }

    /// Loses each of them behind so many launches of kernels; never, for a negative number.
    pub(crate) fn lose_after(&self, launches: [i64; 2]) {
        for (index, launches) in (0..).zip(launches) {
            // SAFETY: the function is declared like that.
            unsafe {
                self.driver()
                    .get::<unsafe extern "C" fn(i32, i64)>("emulated_lose_after")
                    .unwrap()(index, launches)
            }
        }
    }

    /// Takes all of one's memory but so many bytes, until what this gives is dropped. Emulated only, and nothing may be
    /// in use there.
    pub(crate) fn take_memory_but(&self, index: usize, bytes: usize) -> GpuBuffer {
        let Ok(Chosen::Gpu(found)) = choose(GpuUse::On, false, Some(self.folder)) else {
            panic!("there are emulated GPUs");
        };
        let gpu = Gpu::open(&found, index).unwrap();
        gpu.allocate(MEMORY_BYTES - bytes).unwrap()
    }

    /// Lets the host pin so many more pieces of its memory; any number, for a negative one.
    pub(crate) fn pin_at_most(&self, pieces: i64) {
        // SAFETY: the function is declared like that.
        unsafe {
            self.driver()
                .get::<unsafe extern "C" fn(i64)>("emulated_pin_at_most")
                .unwrap()(pieces)
        }
    }

    /// How many pieces of memory were asked of it since the beginning.
    pub(crate) fn allocations(&self) -> i64 {
        self.count("emulated_allocations")
    }

    /// How many kernels of ours have run since the beginning, by themselves or in a graph. Emulated only.
    pub(crate) fn launches(&self) -> i64 {
        self.count("emulated_launches")
    }

    /// How many graphs were launched since the beginning.
    pub(crate) fn graph_launches(&self) -> i64 {
        if self.is_real {
            return 0;
        }
        self.count("emulated_graph_launches")
    }

    /// How many bytes were copied to it since the beginning.
    pub(crate) fn sent_bytes(&self) -> i64 {
        self.count("emulated_sent_bytes")
    }

    /// Bytes that are in use there.
    pub(crate) fn bytes(&self) -> i64 {
        self.count("emulated_bytes")
    }

    /// Asserts that what was asked of it was given back, if it counts that.
    pub(crate) fn assert_nothing_is_left(&self) {
        if self.is_real {
            return;
        }
        assert_eq!(
            ["emulated_handles", "emulated_bytes"].map(|name| self.count(name)),
            [0, 0]
        );
    }

    fn count(&self, name: &str) -> i64 {
        // SAFETY: all of these functions are declared like that.
        unsafe { self.driver().get::<unsafe extern "C" fn() -> i64>(name).unwrap()() }
    }

    fn driver(&self) -> Library {
        // SAFETY: the library is open already, or opened as it will be.
        unsafe { Library::new(self.folder.join("libcuda.so")) }.unwrap()
    }
}

fn libraries_of_machine() -> Option<PathBuf> {
    std::env::var_os("DISTDL_CUDA_LIBRARIES").map(PathBuf::from)
}

/// The machine's GPUs, open until the process ends: opening one takes a while, and each test has contexts of its own.
/// What fails here fails in the tests, too, which say why.
fn keep_open() -> Option<GpuFound> {
    let Ok(Chosen::Gpu(found)) = choose(GpuUse::On, false, libraries_of_machine().as_deref()) else {
        return None;
    };
    for index in &found.alike {
        let _ = Gpu::open(&found, *index);
    }
    Some(found)
}

pub(crate) fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "!! SKIPPED: {what}");
}

/// The folder of kernels that were compiled, and of the libraries of emulated GPUs, made anew. It stays in the build's
/// folder until the next run: all tests of the process need it, and none of them is the last.
fn make(is_real: bool) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated_gpu");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    if !is_real && !make_cuda(&folder, 2, MEMORY_BYTES as u64).unwrap() {
        skipped("training on an emulated GPU: no `g++` here");
        return None;
    }
    Some(folder)
}
