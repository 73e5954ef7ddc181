//! Limits of reading, and where to keep what was read.

use std::time::Duration;

use tokio::sync::Semaphore;

pub use crate::cache::CacheOptions;

/// No wait is longer: clocks do not reach as far as durations do.
pub(super) const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Limits for reading objects, and the cache for remote ones. Times of more than a day are taken for a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoresOptions {
    /// Longest object that `Stores::read` takes, in bytes. Default 4 GiB.
    pub read_bytes_max: u64,
    /// Most objects that one listing may name. Default 1,000,000.
    pub list_objects_max: usize,
    /// How often a failed request to a server is tried again, with growing pauses, as long as `request_timeout` lets
    /// it. Default 1000, so that the time decides.
    pub retries: usize,
    /// The first of those pauses, at least a millisecond; the others are up to 40 times as long. Default 500 ms.
    pub retry_pause: Duration,
    /// How long a server may be silent, connecting or sending, before the request counts as failed; while it is being
    /// sent bytes, a second longer for each 16 KiB. One that has never answered is not called any longer than that.
    /// Default 30 s.
    pub silence_timeout: Duration,
    /// How long one request may take with all its retries. Default 10 minutes.
    pub request_timeout: Duration,
    /// Most requests to one server or bucket at a time; others wait. At least 2 are made, which a listing
    /// may need. Default 64.
    pub requests_max: usize,
    /// The cache for objects of `http(s)://`, `s3://`, `gs://`, `az://` and `hdfs://`. Default none.
    pub cache: Option<CacheOptions>,
}

impl StoresOptions {
    /// The same, with no time longer than what clocks can be asked to wait for.
    pub(super) fn limited(mut self) -> Self {
        let Self {
            retry_pause,
            silence_timeout,
            request_timeout,
            cache,
            ..
        } = &mut self;
        let wait_max = cache.as_mut().map(|cache| &mut cache.wait_max);
        for time in [retry_pause, silence_timeout, request_timeout]
            .into_iter()
            .chain(wait_max)
        {
            *time = (*time).min(TIME_MAX);
        }
        self
    }

    /// The requests to one server at a time that are really made.
    pub(super) fn requests(&self) -> usize {
        self.requests_max.clamp(2, Semaphore::MAX_PERMITS)
    }
}

impl Default for StoresOptions {
    fn default() -> Self {
        Self {
            read_bytes_max: 4 << 30,
            list_objects_max: 1_000_000,
            retries: 1000,
            retry_pause: Duration::from_millis(500),
            silence_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(600),
            requests_max: 64,
            cache: None,
        }
    }
}
