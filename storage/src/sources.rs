//! Where the bytes that a process has read were found.

use serde::Serialize;

use crate::device::DeviceFigures;
use crate::figures::StoreFigures;
use crate::store::StoreStatistics;

/// Bytes that were wanted, by where they lay.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BytesBySource {
    /// Fetched from remote stores.
    pub remote: u64,
    /// Given by other processes of the cluster.
    pub peer: u64,
    /// Read from the cache folder.
    pub cache: u64,
    /// Read from local files that are input.
    pub local: u64,
    /// Read from blocks on disk.
    pub disk: u64,
    /// Found in blocks in memory, and not copied.
    pub memory: u64,
    /// Found in the memory of the device, and not copied there. `None` where there is no device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
}

impl BytesBySource {
    /// What a process has read: its files and objects, its blocks, and its device, if it has one.
    pub fn of(reading: &StoreFigures, blocks: &StoreStatistics, device: Option<&DeviceFigures>) -> Self {
        Self {
            remote: reading.remote_bytes,
            peer: reading.peer_bytes,
            cache: reading.cache_bytes,
            local: reading.local_bytes,
            disk: blocks.disk_bytes_read,
            memory: blocks.memory_bytes_read,
            device: device.map(|device| device.avoided_bytes),
        }
    }
}
