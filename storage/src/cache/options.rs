//! What a cache of remote objects may use.

use std::path::PathBuf;
use std::time::Duration;

/// A cache of remote objects in a folder, which processes may share, and which stays when they end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder, for nothing else. It is made if it is not there.
    pub folder: PathBuf,
    /// Most bytes of files in it, each rounded up to 4 KiB; what was used least recently goes first. Default 64 GiB.
    /// The journal, at most 64 MiB, and one segment of 4 MiB for each process that is writing come on top.
    pub bytes_max: u64,
    /// Beginnings of URLs whose objects change by growing at their end alone, but for a header in the first chunk (64
    /// to 512 KiB). Of such an object that has grown, the cache keeps what it has: it compares the first chunk, the
    /// last one that it knows and two others, and fetches the rest. Default none: a changed object is fetched anew.
    ///
    /// This is a promise by whoever sets it: a change in the middle may go unnoticed.
    pub grows_only: Vec<String>,
    /// Most bytes that are being read ahead of readers that go through objects in order, all together; rounded up to
    /// whole segments of 4 MiB. It is never more than 64 MiB, nor more than a quarter of
    /// [`bytes_max`](Self::bytes_max), so a cache of less than 16 MiB has nothing read ahead. Default 16 MiB; 0 for
    /// none.
    pub read_ahead_bytes_max: u64,
    /// How long to wait for another process that is fetching the same bytes, or writing, before going on without it.
    /// One that writes for longer is waited for no more until it has ended that: what is fetched meanwhile is not kept.
    /// Default 30 s.
    pub wait_max: Duration,
    /// Whether objects of `memory://` go through the cache too, as tests want it. Default no.
    pub includes_memory: bool,
}

impl CacheOptions {
    /// A cache in `folder` with the default limits.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            bytes_max: 64 << 30,
            grows_only: Vec::new(),
            read_ahead_bytes_max: 16 << 20,
            wait_max: Duration::from_secs(30),
            includes_memory: false,
        }
    }
}
