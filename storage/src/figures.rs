//! What reading has cost, and what was spared.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// What the reads of a [`Stores`](crate::remote::Stores) value have cost since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StoreFigures {
    /// Bytes of objects that came from their own stores.
    pub remote_bytes: u64,
    /// Bytes of objects that came from other processes of the cluster.
    pub peer_bytes: u64,
    /// Bytes of objects that came from the cache folder, for this process or for others.
    pub cache_bytes: u64,
    /// Bytes of local files, which need no cache.
    pub local_bytes: u64,
    /// Requests for bytes of objects that their stores were sent.
    pub fetches: u64,
    /// Reads that the cache folder or another process answered, or a fetch that was under way already.
    pub fetches_avoided: u64,
    /// Times that the Bloom filter said "absent", which spared a look-up on disk.
    pub bloom_absent: u64,
    /// Times that it said "maybe", and nothing usable was found on disk.
    pub bloom_false_positives: u64,
    /// Chunks that left the cache folder to make room.
    pub chunks_evicted: u64,
    /// Chunks, and lists of chunks, on disk that were not what had been written.
    pub chunks_damaged: u64,
    /// Segments that could not be kept: no room, no permission, a full disk.
    pub segments_not_kept: u64,
}

impl StoreFigures {
    /// The figures of both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            remote_bytes: self.remote_bytes.saturating_add(other.remote_bytes),
            peer_bytes: self.peer_bytes.saturating_add(other.peer_bytes),
            cache_bytes: self.cache_bytes.saturating_add(other.cache_bytes),
            local_bytes: self.local_bytes.saturating_add(other.local_bytes),
            fetches: self.fetches.saturating_add(other.fetches),
            fetches_avoided: self.fetches_avoided.saturating_add(other.fetches_avoided),
            bloom_absent: self.bloom_absent.saturating_add(other.bloom_absent),
            bloom_false_positives: self.bloom_false_positives.saturating_add(other.bloom_false_positives),
            chunks_evicted: self.chunks_evicted.saturating_add(other.chunks_evicted),
            chunks_damaged: self.chunks_damaged.saturating_add(other.chunks_damaged),
            segments_not_kept: self.segments_not_kept.saturating_add(other.segments_not_kept),
        }
    }
}

/// The same, while it is being counted.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) remote_bytes: Counter,
    pub(crate) peer_bytes: Counter,
    pub(crate) cache_bytes: Counter,
    pub(crate) local_bytes: Counter,
    pub(crate) fetches: Counter,
    pub(crate) fetches_avoided: Counter,
    pub(crate) bloom_absent: Counter,
    pub(crate) bloom_false_positives: Counter,
    pub(crate) chunks_evicted: Counter,
    pub(crate) chunks_damaged: Counter,
    pub(crate) segments_not_kept: Counter,
    pub(crate) written_bytes: Counter,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    pub(crate) fn figures(&self) -> StoreFigures {
        StoreFigures {
            remote_bytes: self.remote_bytes.get(),
            peer_bytes: self.peer_bytes.get(),
            cache_bytes: self.cache_bytes.get(),
            local_bytes: self.local_bytes.get(),
            fetches: self.fetches.get(),
            fetches_avoided: self.fetches_avoided.get(),
            bloom_absent: self.bloom_absent.get(),
            bloom_false_positives: self.bloom_false_positives.get(),
            chunks_evicted: self.chunks_evicted.get(),
            chunks_damaged: self.chunks_damaged.get(),
            segments_not_kept: self.segments_not_kept.get(),
        }
    }
}
