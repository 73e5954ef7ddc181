//! A configuration as the text of a file.

use std::path::PathBuf;

use clap::ValueEnum;

use super::Config;
use super::values::name_of;

impl Config {
    /// The configuration as a file that gives it again; only [`Config::join`] is none of a file's.
    pub fn to_toml(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| quoted(&path.to_string_lossy()));
        let lines = [
            ("threads", Some(self.threads.to_string())),
            ("memory", Some(self.memory_bytes_max.to_string())),
            ("disk", Some(self.disk_bytes_max.to_string())),
            (
                "keep_shuffles_after",
                Some(self.keep_shuffles_after.as_millis().to_string()),
            ),
            ("spill_folder", path(&self.spill_folder)),
            ("cache", path(&self.cache_folder)),
            ("cache_size", Some(self.cache_bytes_max.to_string())),
            (
                "cache_grows_only",
                Some(quoted(&self.cache_grows_only.join(","))).filter(|_| !self.cache_grows_only.is_empty()),
            ),
            ("read_ahead", Some(self.read_ahead_bytes_max.to_string())),
            ("read_size", Some(self.read_bytes_max.to_string())),
            ("list_count", Some(self.list_objects_max.to_string())),
            ("line_size", Some(self.line_bytes_max.to_string())),
            ("requests", Some(self.requests_max.to_string())),
            ("request_timeout", Some(self.request_timeout.as_millis().to_string())),
            ("memo_size", Some(self.memo_bytes_max.to_string())),
            (
                "cut_lineage_every",
                self.cut_lineage_every.map(|steps| steps.to_string()),
            ),
            ("seed", Some(quoted(&self.seed.to_string()))),
            ("progress", chosen(self.progress)),
            ("log", chosen(self.log)),
            ("json", Some(self.json.to_string())),
            ("batch_records", Some(self.batch_records.to_string())),
            ("processes", Some(self.processes.to_string())),
            ("parameter_workers", Some(self.parameter_workers.to_string())),
            ("spares", Some(self.spares.to_string())),
            ("events", path(&self.events)),
            ("chaos", self.chaos.as_deref().map(quoted)),
            ("lease", Some(self.lease.as_millis().to_string())),
            ("restarts", Some(self.restarts.to_string())),
            ("grace", Some(self.grace.as_millis().to_string())),
            ("parameter_copies", Some(self.parameter_copies.to_string())),
            (
                "speculate_after",
                self.speculate_after.map(|time| time.as_millis().to_string()),
            ),
            ("shared_memory", Some(self.shared_memory.to_string())),
            ("unlike_machines", Some(self.unlike_machines.to_string())),
            ("token_file", path(&self.token_file)),
            ("device.gpu", chosen(self.gpu)),
            ("device.cudnn", Some(self.cudnn.to_string())),
            ("device.cuda_libraries", path(&self.cuda_libraries)),
            (
                "device.gpu_processes",
                self.gpu_processes.map(|count| count.to_string()),
            ),
            (
                "device.gpu_memory",
                self.gpu_memory_bytes_max.map(|bytes| bytes.to_string()),
            ),
            ("device.precision", chosen(self.precision)),
        ];
        lines
            .into_iter()
            .filter_map(|(key, value)| Some(format!("{key} = {}\n", readable(value?))))
            .collect()
    }
}

/// A value as it is, but a number as text that is beyond TOML's.
fn readable(value: String) -> String {
    match value.parse::<u64>() {
        Ok(number) if i64::try_from(number).is_err() => quoted(&value),
        _ => value,
    }
}

/// Text as a file writes it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A choice as a file writes it.
fn chosen(choice: impl ValueEnum) -> Option<String> {
    name_of(choice).as_deref().map(quoted)
}
