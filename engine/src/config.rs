//! What a program may set, and where: defaults, `distdl.toml`, variables, flags, code. The later wins.

mod error;
mod layers;
mod machine;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

pub use self::error::{ConfigError, Result};
use self::layers::{Layer, Layers};

/// The file that is read if it is in the current folder and no other is named.
pub const CONFIG_FILE: &str = "distdl.toml";

/// Most worker threads in a process.
const THREADS_MAX: usize = 1024;

/// Most records in a batch.
const BATCH_RECORDS_MAX: usize = 1 << 24;

const COUNT_OF_THREADS: &str = "a whole number from 1 to 1024";
const COUNT_OF_RECORDS: &str = "a whole number from 1 to 16777216";
const SIZE: &str =
    "a number of bytes, or a number with a unit: `512MB` (powers of 1000), `2GiB` or `2g` (powers of 1024)";
const FOLDER: &str = "the path of a folder";
const SEED: &str = "a whole number from 0 to 18446744073709551615";
const PROGRESS: &str = "`auto` (on a terminal), `on` or `off`";
const SWITCH: &str = "`true` or `false`";

/// How a program runs. Nothing here but `seed` may change a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Worker threads of this process. Default: one for each core that the process may use.
    pub threads: usize,
    /// Most memory for blocks, in bytes. Default: half of the machine's memory, or of the container's limit.
    pub memory_bytes_max: u64,
    /// Most disk for blocks, in bytes. Default: 64 GiB.
    pub disk_bytes_max: u64,
    /// Folder for blocks on disk. Default: a temporary folder of the system, removed at the end.
    pub spill_folder: Option<PathBuf>,
    /// Key of all random numbers. Default: 0.
    pub seed: u64,
    /// Whether bars of progress are drawn on the standard error stream. Default: if that is a terminal.
    pub progress: Progress,
    /// Whether a program's report is JSON, an object a line, instead of text for people. Default: no.
    pub json: bool,
    /// Records that an operator handles at a time. Default: 1024.
    pub batch_records: usize,
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

/// The flags that every DistDL program takes. A program with flags of its own adds them with `#[command(flatten)]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "DistDL")]
pub struct Flags {
    /// Read this configuration file [default: distdl.toml, if it is in the current folder]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run this many worker threads [default: one for each core]
    #[arg(long, global = true, value_name = "COUNT", value_parser = flag(threads, COUNT_OF_THREADS))]
    pub threads: Option<usize>,
    /// Keep at most this much of the data in memory, such as 512MB or 2GiB [default: half of the memory]
    #[arg(long, global = true, value_name = "SIZE", value_parser = flag(size, SIZE))]
    pub memory: Option<u64>,
    /// Key of all random numbers; the same seed gives the same result [default: 0]
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
}

impl Flags {
    /// The configuration from all layers: `distdl.toml` or `--config`, variables `DISTDL_*`, and these flags.
    ///
    /// # Errors
    /// A file that cannot be read, a key that does not exist, a value that its key does not take.
    pub fn config(&self) -> Result<Config> {
        Config::from_layers(Some(Path::new(CONFIG_FILE)), layers::environment()?, self)
    }

    fn layer(&self) -> Layer {
        let progress = self.progress.as_ref().and_then(ValueEnum::to_possible_value);
        Layer::flags([
            ("threads", self.threads.map(|threads| threads.to_string())),
            ("memory", self.memory.map(|bytes| bytes.to_string())),
            ("seed", self.seed.map(|seed| seed.to_string())),
            ("progress", progress.map(|progress| progress.get_name().to_owned())),
            ("json", self.json.map(|json| json.to_string())),
        ])
    }
}

/// A program without flags of its own.
#[derive(Parser)]
struct Program {
    #[command(flatten)]
    flags: Flags,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX)),
            memory_bytes_max: machine::memory_bytes() / 2,
            disk_bytes_max: 64 << 30,
            spill_folder: None,
            seed: 0,
            progress: Progress::Auto,
            json: false,
            batch_records: 1024,
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
        let default = Self::default();
        Ok(Self {
            threads: layers
                .get("threads", COUNT_OF_THREADS, threads)?
                .unwrap_or(default.threads),
            memory_bytes_max: layers.get("memory", SIZE, size)?.unwrap_or(default.memory_bytes_max),
            disk_bytes_max: layers.get("disk", SIZE, size)?.unwrap_or(default.disk_bytes_max),
            spill_folder: layers.get("spill_folder", FOLDER, folder)?.or(default.spill_folder),
            seed: layers.get("seed", SEED, number)?.unwrap_or(default.seed),
            progress: layers.get("progress", PROGRESS, progress)?.unwrap_or(default.progress),
            json: layers
                .get("json", SWITCH, |text| text.parse().ok())?
                .unwrap_or(default.json),
            batch_records: layers
                .get("batch_records", COUNT_OF_RECORDS, records)?
                .unwrap_or(default.batch_records),
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

    /// Sets the number of worker threads; 0 counts as 1.
    pub fn with_threads(self, threads: usize) -> Self {
        Self {
            threads: threads.clamp(1, THREADS_MAX),
            ..self
        }
    }

    /// Sets the most memory for blocks, in bytes.
    pub fn with_memory_bytes_max(self, memory_bytes_max: u64) -> Self {
        Self {
            memory_bytes_max,
            ..self
        }
    }

    /// Sets the most disk for blocks, in bytes.
    pub fn with_disk_bytes_max(self, disk_bytes_max: u64) -> Self {
        Self { disk_bytes_max, ..self }
    }

    /// Sets the folder for blocks on disk.
    pub fn with_spill_folder(self, spill_folder: impl Into<PathBuf>) -> Self {
        Self {
            spill_folder: Some(spill_folder.into()),
            ..self
        }
    }

    /// Sets the key of all random numbers.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets when bars of progress are drawn.
    pub fn with_progress(self, progress: Progress) -> Self {
        Self { progress, ..self }
    }

    /// Sets whether reports are JSON lines.
    pub fn with_json(self, json: bool) -> Self {
        Self { json, ..self }
    }

    /// Sets how many records an operator handles at a time; 0 counts as 1.
    pub fn with_batch_records(self, batch_records: usize) -> Self {
        Self {
            batch_records: batch_records.clamp(1, BATCH_RECORDS_MAX),
            ..self
        }
    }
}

/// A reader of a flag that says what is allowed where the value is not.
fn flag<T>(
    read: fn(&str) -> Option<T>,
    allowed: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| read(text).ok_or_else(|| format!("give {allowed}"))
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

fn threads(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| (1..=THREADS_MAX).contains(count))
}

fn records(text: &str) -> Option<usize> {
    text.parse()
        .ok()
        .filter(|count| (1..=BATCH_RECORDS_MAX).contains(count))
}

fn folder(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|_| !text.trim().is_empty())
}

fn progress(text: &str) -> Option<Progress> {
    Progress::from_str(text, true).ok()
}

/// Bytes from `1000`, `512MB`, `1.5 GiB`, or `2g` as the JVM writes it.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|letter: char| !letter.is_ascii_digit() && letter != '.')
        .unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let unit_bytes: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    };
    if let Ok(amount) = amount.parse::<u64>() {
        return amount.checked_mul(unit_bytes);
    }
    let bytes = amount.parse::<f64>().ok()? * unit_bytes as f64;
    (unit_bytes > 1 && bytes < u64::MAX as f64).then_some(bytes as u64)
}

#[cfg(test)]
mod tests;
