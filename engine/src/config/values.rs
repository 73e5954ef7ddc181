//! How values are written, and what is allowed, in the words of an error.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::{GpuUse, Log, Precision, Progress, Result};

/// Most worker threads in a process.
pub(super) const THREADS_MAX: usize = 1024;

/// Most records in a batch.
pub(super) const BATCH_RECORDS_MAX: usize = 1 << 24;

/// Most processes of a cluster, and most spares beside them.
pub(super) const PROCESSES_MAX: usize = 256;

/// Shortest lease: below it a busy machine looks like a dead one.
pub(super) const LEASE_MIN: Duration = Duration::from_millis(50);

/// Longest time in milliseconds: a day.
pub(super) const MILLISECONDS_MAX: u64 = 86_400_000;

/// The same. Clocks do not reach as far as durations do.
pub(crate) const TIME_MAX: Duration = Duration::from_millis(MILLISECONDS_MAX);

pub(super) const COUNT_OF_THREADS: &str = "a whole number from 1 to 1024";
pub(super) const COUNT_OF_RECORDS: &str = "a whole number from 1 to 16777216";
pub(super) const COUNT: &str = "a whole number from 1";
pub(super) const COUNT_OF_PROCESSES: &str = "a whole number from 1 to 256";
pub(super) const COUNT_OF_OTHERS: &str = "a whole number from 0 to 256";
pub(super) const COUNT_OF_RESTARTS: &str = "a whole number from 0 to 4294967295";
pub(super) const COUNT_OF_COPIES: &str = "1 or 2";
pub(super) const LEASE: &str = "a whole number of milliseconds from 50 to 86400000";
pub(super) const MILLISECONDS: &str = "a whole number of milliseconds from 0 to 86400000";
pub(super) const SIZE: &str =
    "a number of bytes, or a number with a unit: `512MB` (powers of 1000), `2GiB` or `2g` (powers of 1024)";
pub(super) const FOLDER: &str = "the path of a folder";
pub(super) const PREFIXES: &str = "beginnings of URLs, separated by commas";
pub(super) const FILE: &str = "the path of a file";
pub(super) const SEED: &str = "a whole number from 0 to 18446744073709551615";
pub(super) const PROGRESS: &str = "`auto` (on a terminal), `on` or `off`";
pub(super) const LOG: &str = "`off`, `error`, `warn`, `info`, `debug` or `trace`";
pub(super) const GPU: &str = "`auto` (if there is one), `on` or `off`";
pub(super) const PRECISION: &str = "`f32`, `tf32` or `bf16`";
pub(super) const SWITCH: &str = "`true` or `false`";
pub(super) const FAULTS: &str = "faults such as `kill=worker:1@step:37`, separated by commas";

/// A reader of a flag that says what is allowed where the value is not.
pub(super) fn flag<T>(
    read: fn(&str) -> Option<T>,
    allowed: &'static str,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync {
    move |text| read(text).ok_or_else(|| format!("give {allowed}"))
}

/// A choice as it is written.
pub(super) fn name_of(choice: impl ValueEnum) -> Option<String> {
    Some(choice.to_possible_value()?.get_name().to_owned())
}

pub(super) fn prefixes(text: &str) -> Option<Vec<String>> {
    let prefixes: Vec<String> = text.split(',').map(|prefix| prefix.trim().to_owned()).collect();
    prefixes.iter().all(|prefix| !prefix.is_empty()).then_some(prefixes)
}

pub(super) fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

pub(super) fn threads(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| (1..=THREADS_MAX).contains(count))
}

pub(super) fn records(text: &str) -> Option<usize> {
    text.parse()
        .ok()
        .filter(|count| (1..=BATCH_RECORDS_MAX).contains(count))
}

pub(super) fn count(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| *count > 0)
}

pub(super) fn path(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|_| !text.trim().is_empty())
}

pub(super) fn progress(text: &str) -> Option<Progress> {
    Progress::from_str(text, true).ok()
}

pub(super) fn log(text: &str) -> Option<Log> {
    Log::from_str(text, true).ok()
}

pub(super) fn gpu(text: &str) -> Option<GpuUse> {
    GpuUse::from_str(text, true).ok()
}

pub(super) fn precision(text: &str) -> Option<Precision> {
    Precision::from_str(text, true).ok()
}

pub(super) fn processes(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| (1..=PROCESSES_MAX).contains(count))
}

/// Parameter workers or spares.
pub(super) fn others(text: &str) -> Option<usize> {
    text.parse().ok().filter(|count| *count <= PROCESSES_MAX)
}

pub(super) fn restarts(text: &str) -> Option<u32> {
    text.parse().ok()
}

pub(super) fn copies(text: &str) -> Option<u32> {
    text.parse().ok().filter(|count| (1..=2).contains(count))
}

pub(super) fn lease(text: &str) -> Option<Duration> {
    milliseconds(text).filter(|lease| *lease >= LEASE_MIN)
}

pub(super) fn milliseconds(text: &str) -> Option<Duration> {
    let milliseconds = text.parse().ok().filter(|count| *count <= MILLISECONDS_MAX)?;
    Some(Duration::from_millis(milliseconds))
}

/// The text of faults; `Chaos::parse` of the cluster reads it.
pub(super) fn faults(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// Bytes from `1000`, `512MB`, `1.5 GiB`, or `2g` as the JVM writes it.
pub(super) fn size(text: &str) -> Option<u64> {
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
