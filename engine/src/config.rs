//! What a program may set, and where: defaults, `distdl.toml`, variables, flags, code. The later wins.

mod error;
mod flags;
mod layers;
mod machine;
mod setters;
mod values;
mod check;
mod written;

use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};

pub use self::error::{ConfigError, Result};
pub use self::flags::Flags;
use self::layers::{Layer, Layers};
pub(crate) use self::values::TIME_MAX;
use self::values::*;

/// The file that is read if it is in the current folder and no other is named.
pub const CONFIG_FILE: &str = "distdl.toml";

/// How a program runs. Nothing here but `seed`, and what computes (`gpu`, `cudnn`, `cuda_libraries`, `gpu_processes`,
/// `precision`), may change a result; but where a program lets lanes read parameters of some age as time will have it
/// ([`Staleness`](crate::staleness::Staleness) `Bounded` and `Asynchronous`), time shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Worker threads of this process. Default: one for each core that the process may use; with several processes the
    /// cores are shared among them.
    pub threads: usize,
    /// Most memory for blocks, and for what shuffles, sorts, aggregations and joins hold, in bytes. Default: half of
    /// the machine's memory, or of the container's limit; with several processes that half is shared among them.
    pub memory_bytes_max: u64,
    /// Most disk for blocks, and for what those put there for want of memory, in bytes; and for the journal of a name
    /// node, which holds what all actions came to and may take 64 MiB in any case. Default: 64 GiB.
    pub disk_bytes_max: u64,
    /// Once an action has run for so long, what a process sends into its shuffles is kept on disk as well until the
    /// action ends, in up to half of `disk_bytes_max`, so that the loss of another process does not start over what is
    /// done here. Default: 10 s. A process that runs alone keeps nothing, since its shuffles end with it.
    pub keep_shuffles_after: Duration,
    /// Folder for blocks on disk and for what shuffles, sorts, aggregations and joins put there. Default: a temporary
    /// folder of the system, removed at the end.
    pub spill_folder: Option<PathBuf>,
    /// Folder in which remote objects and the results of `memoize` are kept from run to run. Processes may share it.
    /// Default: none, nothing is kept.
    pub cache_folder: Option<PathBuf>,
    /// Most bytes of remote objects in `cache_folder`. Default: 64 GiB.
    pub cache_bytes_max: u64,
    /// Beginnings of URLs whose objects change by growing at their end alone, but for a header: of those that have
    /// grown the cache fetches the rest. A change in the middle may go unnoticed. Default: none.
    pub cache_grows_only: Vec<String>,
    /// Most bytes of remote objects that are being fetched into the cache ahead of those who read them in order,
    /// rounded up to segments of 4 MiB; at most 64 MiB, and a quarter of the cache. Default: 16 MiB; 0 for none.
    pub read_ahead_bytes_max: u64,
    /// Longest object that is read whole, as those of [`Context::objects`](crate::Context::objects) and checkpoints
    /// are, in bytes. Default: 4 GiB.
    pub read_bytes_max: u64,
    /// Most objects that one listing may name. Default: 1,000,000.
    pub list_objects_max: usize,
    /// Longest line of a text or JSON file, in bytes. Default: 64 MiB.
    pub line_bytes_max: u64,
    /// Most requests to one server or bucket at a time; others wait, and 1 counts as 2. Default: 64.
    pub requests_max: usize,
    /// How long one request to a server may take with all its retries. Default: 10 minutes.
    pub request_timeout: Duration,
    /// Most bytes of remembered results in `cache_folder`, beside those of remote objects. Default: 64 GiB.
    pub memo_bytes_max: u64,
    /// A dataset that an action needs and that is derived in more steps, narrow or by shuffle, is computed step by
    /// step: where it has so many, blocks are kept on disk and the lineage before them is dropped, as
    /// [`local_checkpoint`](crate::Dataset::local_checkpoint) does. At least 1. Default: none, lineage is kept however
    /// long.
    pub cut_lineage_every: Option<usize>,
    /// Key of the random numbers of trainings that are given no seed of their own. Default: 0.
    pub seed: u64,
    /// Whether bars of progress are drawn on the standard error stream. Default: if that is a terminal.
    pub progress: Progress,
    /// What `distdl::run` writes to the standard error stream of what happens, unless the program has a subscriber of
    /// `tracing` of its own. Default: warnings.
    pub log: Log,
    /// Whether a program's report is JSON, an object a line, instead of text for people. Default: no.
    pub json: bool,
    /// Records that an operator handles at a time, and so how many are computed where an action may take fewer.
    /// Default: 1024.
    pub batch_records: usize,
    /// Processes that run the program as one, from 1 to 256, those for parameters included. Default: 1. In a process
    /// that belongs to a cluster ([`Config::join`]) it counts only those beside which it shares the machine.
    pub processes: usize,
    /// Processes that own parameters and compute nothing, fewer than `processes`. Default: 0, all do both.
    pub parameter_workers: usize,
    /// Processes beside those, each of which takes the place of one that is lost. Default: 0.
    pub spares: usize,
    /// File for what happens to the processes, a JSON object a line. Default: none.
    pub events: Option<PathBuf>,
    /// Faults to make happen, separated by commas; `cluster::chaos::Chaos` reads them. Default: none.
    pub chaos: Option<String>,
    /// A process counts as lost when nothing is heard of it for so long, at least 50 ms. Default: 2 s.
    pub lease: Duration,
    /// How often lost processes are started again, all together. Default: 16.
    pub restarts: u32,
    /// How long a replacement is waited for before the others go on without a lost process. Default: 0, not at all.
    pub grace: Duration,
    /// Processes that keep each shard of the parameters, 1 or 2. Default: 2.
    pub parameter_copies: u32,
    /// Of a process in which no task has ended for so long, and for longer than one and a half times the median task,
    /// the others compute the tasks as well, once they have none left; whichever ends first counts. So one slow machine
    /// does not hold up an action. Only tasks that read no shuffle are copied, and no functions given to
    /// `run_partitions` or `for_each_partition`; other closures may then run in two processes at a time. A process
    /// counts as slow only if all its threads are. All processes of a cluster must have it set. Default: none, nothing
    /// is computed twice.
    pub speculate_after: Option<Duration>,
    /// Whether processes of one host exchange parameters through memory that they share, as far as the system lets
    /// them, and not through sockets alone. Default: yes.
    pub shared_memory: bool,
    /// Admit processes whose floating-point results may differ (other CPU or libm). Recomputed data may then differ,
    /// and records be lost whose keys are floats or predictions. All processes of a cluster must have it set alike.
    /// Default: no.
    pub unlike_machines: bool,
    /// File with the secret that processes of different hosts show each other. Default: none.
    pub token_file: Option<PathBuf>,
    /// Whether a GPU computes. Default: if there is one.
    pub gpu: GpuUse,
    /// Whether a GPU's convolutions are cuDNN's, without which no GPU computes then. It changes the rounding, and knows
    /// nothing between `F32` and `Tf32`. Default: no; they are products of matrices.
    pub cudnn: bool,
    /// Folder with the libraries of CUDA, looked through before the places where the system looks. Default: none.
    pub cuda_libraries: Option<PathBuf>,
    /// How many processes use a GPU, those of the first places of the cluster; one that was started by hand without a
    /// slot counts as the first. Default: all.
    pub gpu_processes: Option<usize>,
    /// Most bytes of samples that stay in a GPU's memory; others come by in each step. Default: half of that memory.
    pub gpu_memory_bytes_max: Option<u64>,
    /// How a GPU multiplies matrices. Default: as exactly as the CPU.
    pub precision: Precision,
    /// The cluster to which this process belongs, if another process started it for one. Only the variable
    /// `DISTDL_JOIN` sets it; `cluster::Join` reads it.
    pub join: Option<Secret>,
}

/// Text that does not appear in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` out of logs.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}

/// When bars of progress are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Progress {
    /// If the standard error stream is a terminal.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What is written of what happens; each has those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Log {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What was mended, or costs something.
    #[default]
    Warn,
    /// What happens now and then.
    Info,
    /// More.
    Debug,
    /// All.
    Trace,
}

/// Whether a GPU computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum GpuUse {
    /// If there is one, with its driver and libraries.
    #[default]
    Auto,
    /// Yes; it is an error if there is none.
    On,
    /// No; nothing looks for one.
    Off,
}

/// How a GPU multiplies matrices. All else it computes in `f32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[non_exhaustive]
pub enum Precision {
    /// Factors and sums of 24 bits.
    #[default]
    F32,
    /// Factors rounded to 11 bits, sums of 24.
    Tf32,
    /// Factors rounded to 8 bits, sums of 24.
    Bf16,
}

/// A program without flags of its own.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    flags: Flags,
}

/// Each setting's default, whatever stands in files, variables and flags; [`Config::from_args`] reads those.
impl Default for Config {
    fn default() -> Self {
        Self {
            threads: threads_of(1),
            memory_bytes_max: machine::memory_bytes() / 2,
            disk_bytes_max: 64 << 30,
            keep_shuffles_after: Duration::from_secs(10),
            spill_folder: None,
            cache_folder: None,
            cache_bytes_max: 64 << 30,
            cache_grows_only: Vec::new(),
            read_ahead_bytes_max: 16 << 20,
            read_bytes_max: 4 << 30,
            list_objects_max: 1_000_000,
            line_bytes_max: 64 << 20,
            requests_max: 64,
            request_timeout: Duration::from_secs(600),
            memo_bytes_max: 64 << 30,
            cut_lineage_every: None,
            seed: 0,
            progress: Progress::Auto,
            log: Log::Warn,
            json: false,
            batch_records: 1024,
            processes: 1,
            parameter_workers: 0,
            spares: 0,
            events: None,
            chaos: None,
            lease: Duration::from_secs(2),
            restarts: 16,
            grace: Duration::ZERO,
            parameter_copies: 2,
            speculate_after: None,
            shared_memory: true,
            unlike_machines: false,
            token_file: None,
            gpu: GpuUse::Auto,
            cudnn: false,
            cuda_libraries: None,
            gpu_processes: None,
            gpu_memory_bytes_max: None,
            precision: Precision::F32,
            join: None,
        }
    }
}

impl Config {
    /// The configuration of a program without flags of its own. `--help` and flags that make no sense are answered on
    /// the terminal and end the process, as is usual for programs.
    ///
    /// # Errors
    /// As [`Flags::config`].
    pub fn from_args() -> Result<Self> {
        Program::parse().flags.config()
    }

    /// The configuration from layers that are all given. `file` is read if it exists, and not at all if the flags name
    /// another, which must exist. Of `variables` those that begin with `DISTDL_` count.
    ///
    /// # Errors
    /// A file that cannot be read, a key that does not exist, a value that its key does not take.
    pub fn from_layers(
        file: Option<&Path>,
        variables: impl IntoIterator<Item = (String, String)>,
        flags: &Flags,
    ) -> Result<Self> {
        let mut layers = Layers::default();
        if let Some(layer) = Layer::file(file, flags.config.as_deref())? {
            layers.add(layer)?;
        }
        layers.add(Layer::variables(variables))?;
        layers.add(flags.layer())?;
        let config = Self::settings(&layers)?;
        config.check()?;
        Ok(config)
    }

    fn settings(layers: &Layers) -> Result<Self> {
        let processes = layers.get("processes", COUNT_OF_PROCESSES, processes)?.unwrap_or(1);
        let default = Self::default().with_processes(processes);
        Ok(Self {
            threads: layers
                .get("threads", COUNT_OF_THREADS, threads)?
                .unwrap_or_else(|| threads_of(processes)),
            memory_bytes_max: layers
                .get("memory", SIZE, size)?
                .unwrap_or(default.memory_bytes_max / processes as u64),
            disk_bytes_max: layers.get("disk", SIZE, size)?.unwrap_or(default.disk_bytes_max),
            keep_shuffles_after: layers
                .get("keep_shuffles_after", MILLISECONDS, milliseconds)?
                .unwrap_or(default.keep_shuffles_after),
            spill_folder: layers.get("spill_folder", FOLDER, path)?.or(default.spill_folder),
            cache_folder: layers.get("cache", FOLDER, path)?.or(default.cache_folder),
            cache_bytes_max: layers.get("cache_size", SIZE, size)?.unwrap_or(default.cache_bytes_max),
            cache_grows_only: layers.get("cache_grows_only", PREFIXES, prefixes)?.unwrap_or_default(),
            read_ahead_bytes_max: layers
                .get("read_ahead", SIZE, size)?
                .unwrap_or(default.read_ahead_bytes_max),
            read_bytes_max: layers.get("read_size", SIZE, size)?.unwrap_or(default.read_bytes_max),
            list_objects_max: layers
                .get("list_count", COUNT, count)?
                .unwrap_or(default.list_objects_max),
            line_bytes_max: layers.get("line_size", SIZE, size)?.unwrap_or(default.line_bytes_max),
            requests_max: layers.get("requests", COUNT, count)?.unwrap_or(default.requests_max),
            request_timeout: layers
                .get("request_timeout", MILLISECONDS, milliseconds)?
                .unwrap_or(default.request_timeout),
            memo_bytes_max: layers.get("memo_size", SIZE, size)?.unwrap_or(default.memo_bytes_max),
            cut_lineage_every: layers.get("cut_lineage_every", COUNT, count)?,
            seed: layers.get("seed", SEED, number)?.unwrap_or(default.seed),
            progress: layers.get("progress", PROGRESS, progress)?.unwrap_or(default.progress),
            log: layers.get("log", LOG, log)?.unwrap_or(default.log),
            json: layers
                .get("json", SWITCH, |text| text.parse().ok())?
                .unwrap_or(default.json),
            batch_records: layers
                .get("batch_records", COUNT_OF_RECORDS, records)?
                .unwrap_or(default.batch_records),
            processes,
            parameter_workers: layers.get("parameter_workers", COUNT_OF_OTHERS, others)?.unwrap_or(0),
            spares: layers.get("spares", COUNT_OF_OTHERS, others)?.unwrap_or(0),
            events: layers.get("events", FILE, path)?,
            chaos: layers.get("chaos", FAULTS, faults)?,
            lease: layers.get("lease", LEASE, lease)?.unwrap_or(default.lease),
            restarts: layers
                .get("restarts", COUNT_OF_RESTARTS, restarts)?
                .unwrap_or(default.restarts),
            grace: layers
                .get("grace", MILLISECONDS, milliseconds)?
                .unwrap_or(default.grace),
            parameter_copies: layers
                .get("parameter_copies", COUNT_OF_COPIES, copies)?
                .unwrap_or(default.parameter_copies),
            speculate_after: layers.get("speculate_after", MILLISECONDS, milliseconds)?,
            shared_memory: layers
                .get("shared_memory", SWITCH, |text| text.parse().ok())?
                .unwrap_or(default.shared_memory),
            unlike_machines: layers
                .get("unlike_machines", SWITCH, |text| text.parse().ok())?
                .unwrap_or(default.unlike_machines),
            token_file: layers.get("token_file", FILE, path)?,
            gpu: layers.get("device.gpu", GPU, gpu)?.unwrap_or(default.gpu),
            cudnn: layers
                .get("device.cudnn", SWITCH, |text| text.parse().ok())?
                .unwrap_or(default.cudnn),
            cuda_libraries: layers.get("device.cuda_libraries", FOLDER, path)?,
            gpu_processes: layers.get("device.gpu_processes", COUNT_OF_OTHERS, others)?,
            gpu_memory_bytes_max: layers.get("device.gpu_memory", SIZE, size)?,
            precision: layers
                .get("device.precision", PRECISION, precision)?
                .unwrap_or(default.precision),
            join: layers.get("join", "what a parent process sets", |text| Some(Secret::new(text)))?,
        })
    }

    /// Whether bars of progress are to be drawn now.
    pub fn shows_progress(&self) -> bool {
        match self.progress {
            Progress::Auto => std::io::stderr().is_terminal(),
            Progress::On => true,
            Progress::Off => false,
        }
    }

    /// Whether this process draws how far actions are: the one that people started, for all processes of a cluster.
    pub(crate) fn shows_jobs(&self) -> bool {
        self.shows_progress() && !self.json && self.join.is_none()
    }
}

/// The cores of the machine, shared by `processes`.
fn threads_of(processes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / processes).clamp(1, THREADS_MAX)
}

#[cfg(test)]
mod tests;
