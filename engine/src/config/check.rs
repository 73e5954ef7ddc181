//! What no configuration may say, wherever it was written: in a file, or in code by its fields.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::values::*;
use super::{Config, ConfigError, Result};

impl Config {
    /// Whether each setting is one that there is, and those for many processes go together. What starts workers or
    /// processes asks first.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the field that is out of its range, and the range; [`ConfigError::Together`] those
    /// that do not go together, and how to mend it.
    pub fn check(&self) -> Result<()> {
        self.check_counts()?;
        self.check_times()?;
        if self.cache_grows_only.iter().any(|prefix| prefix.trim().is_empty()) {
            return Err(value("cache_grows_only", "", PREFIXES));
        }
        match self.join {
            Some(_) => Ok(()), // What the parent has checked for the whole cluster.
            None => self.check_together(),
        }
    }

    fn check_counts(&self) -> Result<()> {
        let line_bytes_max = usize::try_from(self.line_bytes_max).unwrap_or(usize::MAX);
        let others = || 0..=PROCESSES_MAX;
        let counts = [
            ("threads", self.threads, 1..=THREADS_MAX, COUNT_OF_THREADS),
            ("line_bytes_max", line_bytes_max, 1..=usize::MAX, COUNT),
            ("list_objects_max", self.list_objects_max, 1..=usize::MAX, COUNT),
            ("requests_max", self.requests_max, 1..=usize::MAX, COUNT),
            (
                "cut_lineage_every",
                self.cut_lineage_every.unwrap_or(1),
                1..=usize::MAX,
                COUNT,
            ),
            (
                "batch_records",
                self.batch_records,
                1..=BATCH_RECORDS_MAX,
                COUNT_OF_RECORDS,
            ),
            ("processes", self.processes, 1..=PROCESSES_MAX, COUNT_OF_PROCESSES),
            ("parameter_workers", self.parameter_workers, others(), COUNT_OF_OTHERS),
            ("spares", self.spares, others(), COUNT_OF_OTHERS),
            (
                "parameter_copies",
                self.parameter_copies as usize,
                1..=2,
                COUNT_OF_COPIES,
            ),
            (
                "gpu_processes",
                self.gpu_processes.unwrap_or(0),
                others(),
                COUNT_OF_OTHERS,
            ),
        ];
        for (field, count, range, allowed) in counts {
            within(field, count, range, count, allowed)?;
        }
        Ok(())
    }

    fn check_times(&self) -> Result<()> {
        let any = || Duration::ZERO..=TIME_MAX;
        let times = [
            ("keep_shuffles_after", self.keep_shuffles_after, any(), MILLISECONDS),
            ("request_timeout", self.request_timeout, any(), MILLISECONDS),
            ("lease", self.lease, LEASE_MIN..=TIME_MAX, LEASE),
            ("grace", self.grace, any(), MILLISECONDS),
            (
                "speculate_after",
                self.speculate_after.unwrap_or_default(),
                any(),
                MILLISECONDS,
            ),
        ];
        for (field, time, range, allowed) in times {
            within(field, time, range, format!("{time:?}"), allowed)?;
        }
        Ok(())
    }

    fn check_together(&self) -> Result<()> {
        let (processes, workers) = (self.processes, self.parameter_workers);
        if workers > 0 && workers >= processes {
            let what = format!("{workers} parameter workers of {processes} processes leave none that computes");
            return Err(ConfigError::together(
                what,
                "raise `processes` or lower `parameter_workers`",
            ));
        }
        if processes == 1 && self.spares > 0 {
            let what = "a single process has no use for spares";
            return Err(ConfigError::together(what, "raise `processes` or leave out `spares`"));
        }
        // A thread can be slowed without a cluster.
        let needs_cluster = |fault: &str| !fault.trim().starts_with("slow=");
        if processes == 1
            && self
                .chaos
                .iter()
                .flat_map(|faults| faults.split(','))
                .any(needs_cluster)
        {
            let what = "the faults of `chaos` happen to the processes of a cluster, and there is only one process";
            return Err(ConfigError::together(what, "raise `processes` or leave out `chaos`"));
        }
        Ok(())
    }
}

/// An error if the value of a field is out of its range.
fn within<T: PartialOrd>(
    field: &str,
    number: T,
    range: RangeInclusive<T>,
    shown: impl Display,
    allowed: &'static str,
) -> Result<()> {
    match range.contains(&number) {
        true => Ok(()),
        false => Err(value(field, shown, allowed)),
    }
}

fn value(field: &str, value: impl Display, allowed: &'static str) -> ConfigError {
    ConfigError::Value {
        origin: format!("`{field}` of the configuration"),
        value: value.to_string(),
        allowed: allowed.into(),
    }
}
