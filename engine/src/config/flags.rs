//! The flags of every program.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::{self, Layer};
use super::values::{
    COUNT, COUNT_OF_COPIES, COUNT_OF_OTHERS, COUNT_OF_PROCESSES, COUNT_OF_RESTARTS, COUNT_OF_THREADS, FAULTS, FOLDER,
    LEASE, MILLISECONDS, SEED, SIZE, copies, count, faults, flag, lease, milliseconds, name_of, number, others, path,
    processes, restarts, size, threads,
};
use super::{CONFIG_FILE, Config, GpuUse, Precision, Progress, Result};

/// The flags that every DistDL program takes. A program with flags of its own adds them with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "DistDL")]
pub struct Flags {
    /// Read this configuration file [default: distdl.toml, if it is in the current folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run this many worker threads [default: one for each core; processes of one host share the cores]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(threads, COUNT_OF_THREADS))]
    pub threads: Option<usize>,
    /// Keep at most this much of the data in memory, such as 512MB or 2GiB [default: half of the memory, which
    /// processes of one host share]
    #[arg(long, global = true, value_name = "SIZE", value_parser = flag(size, SIZE))]
    pub memory: Option<u64>,
    /// Keep remote objects, remembered results and compiled kernels in this folder, for the next run [default: none]
    #[arg(long, global = true, value_name = "FOLDER", value_parser = flag(path, FOLDER))]
    pub cache: Option<PathBuf>,
    /// Cut lineage that is longer than this many steps, by keeping its blocks on disk [default: never]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(count, COUNT))]
    pub cut_lineage_every: Option<usize>,
    /// Key of the random numbers of a training; the same seed gives the same result [default: 0]
    #[arg(long, global = true, value_name = "NUMBER", value_parser = flag(number, SEED))]
    pub seed: Option<u64>,
    /// When to draw bars of progress [default: auto]
    #[arg(long, global = true, value_name = "WHEN")]
    pub progress: Option<Progress>,
    /// Print JSON, an object a line, instead of text for people
    #[arg(
        long,
        global = true,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    pub json: Option<bool>,
    /// Run this many processes as one, which this process starts. To `distdl name`: how many the cluster has; to
    /// `distdl worker`: how many share this host [default: 1]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(processes, COUNT_OF_PROCESSES))]
    pub processes: Option<usize>,
    /// Keep this many of the processes for parameters only [default: 0]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(others, COUNT_OF_OTHERS))]
    pub parameter_workers: Option<usize>,
    /// Start this many processes more, which take the places of those that are lost [default: 0]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(others, COUNT_OF_OTHERS))]
    pub spares: Option<usize>,
    /// Write what happens to the processes into this file, a JSON object a line
    #[arg(long, global = true, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// Make faults happen, such as kill=worker:1@step:37; may be given again, or separated by commas
    #[arg(long, global = true, value_name = "FAULT", value_parser = flag(faults, FAULTS))]
    pub chaos: Vec<String>,
    /// Take a process for lost when nothing is heard of it for so long [default: 2000]
    #[arg(long, global = true, value_name = "MILLISECONDS", value_parser = flag(lease, LEASE))]
    pub lease: Option<Duration>,
    /// Start lost processes again at most so often [default: 16]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(restarts, COUNT_OF_RESTARTS))]
    pub restarts: Option<u32>,
    /// Wait so long for a replacement before going on without a lost process [default: 0]
    #[arg(long, global = true, value_name = "MILLISECONDS", value_parser = flag(milliseconds, MILLISECONDS))]
    pub grace: Option<Duration>,
    /// Keep each shard of the parameters on so many processes [default: 2]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(copies, COUNT_OF_COPIES))]
    pub parameter_copies: Option<u32>,
    /// Compute tasks of a process that is silent for so long, and for longer than tasks take, elsewhere too [default:
    /// never]
    #[arg(long, global = true, value_name = "MILLISECONDS", value_parser = flag(milliseconds, MILLISECONDS))]
    pub speculate_after: Option<Duration>,
    /// Whether a GPU computes [default: auto, if there is one]
    #[arg(long, global = true, value_name = "WHEN")]
    pub gpu: Option<GpuUse>,
    /// Leave a GPU's convolutions to cuDNN, without which no GPU computes then
    #[arg(
        long,
        global = true,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true
    )]
    pub cudnn: Option<bool>,
    /// Look for the libraries of CUDA in this folder first
    #[arg(long, global = true, value_name = "FOLDER", value_parser = flag(path, FOLDER))]
    pub cuda_libraries: Option<PathBuf>,
    /// Use a GPU in the first so many processes only [default: all]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(others, COUNT_OF_OTHERS))]
    pub gpu_processes: Option<usize>,
    /// Keep at most this much of the samples in a GPU's memory, such as 4GiB [default: half of that memory]
    #[arg(long, global = true, value_name = "SIZE", value_parser = flag(size, SIZE))]
    pub gpu_memory: Option<u64>,
    /// How a GPU multiplies matrices [default: f32]
    #[arg(long, global = true, value_name = "TYPE")]
    pub precision: Option<Precision>,
}

impl Flags {
    /// The configuration from all layers: `distdl.toml` or `--config`, variables `DISTDL_*`, and these flags.
    ///
    /// # Errors
    /// A file that cannot be read, a key that does not exist, a value that its key does not take.
    pub fn config(&self) -> Result<Config> {
        Config::from_layers(Some(Path::new(CONFIG_FILE)), layers::environment()?, self)
    }

    /// These flags as variables of the environment, for a program that is started. A file that `--config` names is
    /// read here, and its settings count if neither a variable nor a flag has them.
    ///
    /// # Errors
    /// A file that cannot be read, a key that does not exist.
    pub fn variables(&self) -> Result<Vec<(String, String)>> {
        let mut variables = match Layer::file(None, self.config.as_deref())? {
            Some(file) => file.known()?.variables_of(),
            None => Vec::new(),
        };
        variables.retain(|(name, _)| std::env::var_os(name).is_none());
        let flags = self.layer().variables_of();
        variables.retain(|(name, _)| !flags.iter().any(|(flag, _)| flag == name));
        variables.extend(flags);
        Ok(variables)
    }

    pub(super) fn layer(&self) -> Layer {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let milliseconds = |time: Option<Duration>| time.map(|time| time.as_millis().to_string());
        Layer::flags([
            ("threads", self.threads.map(|threads| threads.to_string())),
            ("memory", self.memory.map(|bytes| bytes.to_string())),
            ("cache", path(&self.cache)),
            (
                "cut_lineage_every",
                self.cut_lineage_every.map(|steps| steps.to_string()),
            ),
            ("seed", self.seed.map(|seed| seed.to_string())),
            ("progress", self.progress.and_then(name_of)),
            ("json", self.json.map(|json| json.to_string())),
            ("processes", self.processes.map(|count| count.to_string())),
            (
                "parameter_workers",
                self.parameter_workers.map(|count| count.to_string()),
            ),
            ("spares", self.spares.map(|count| count.to_string())),
            ("events", path(&self.events)),
            ("chaos", Some(self.chaos.join(",")).filter(|faults| !faults.is_empty())),
            ("lease", milliseconds(self.lease)),
            ("restarts", self.restarts.map(|count| count.to_string())),
            ("grace", milliseconds(self.grace)),
            ("parameter_copies", self.parameter_copies.map(|count| count.to_string())),
            ("speculate_after", milliseconds(self.speculate_after)),
            ("device.gpu", self.gpu.and_then(name_of)),
            ("device.cudnn", self.cudnn.map(|cudnn| cudnn.to_string())),
            ("device.cuda_libraries", path(&self.cuda_libraries)),
            (
                "device.gpu_processes",
                self.gpu_processes.map(|count| count.to_string()),
            ),
            ("device.gpu_memory", self.gpu_memory.map(|bytes| bytes.to_string())),
            ("device.precision", self.precision.and_then(name_of)),
        ])
    }
}
