//! What lies in a device's memory, by key: found, pinned, evicted, and counted.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::budget::Share;
use crate::block::BlockId;
use crate::bloom::{Bloom, Digest};

/// Share of absent keys that the Bloom filter says "maybe" of.
const RATE_MAX: f64 = 0.01;

/// Fewest keys that the filter is made for.
const FILTER_KEYS_MIN: usize = 64;

/// How many times as many keys as it was made for the filter takes before it is built anew.
const FILTER_GROWTH_MAX: usize = 4;

/// What a buffer holds. The same key always stands for the same bytes: what is made of a batch, such as its values in
/// another precision, has a key of its own, for instance the hash of what it is made of and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DeviceKey {
    /// Bytes by their BLAKE3, or by that of what they are made from.
    Content(Digest),
    /// A batch of a block.
    Batch {
        /// The block.
        block: BlockId,
        /// 0-based index of the batch in it.
        batch: u64,
    },
}

impl DeviceKey {
    /// What the Bloom filter knows it by.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Content(digest) => *digest,
            Self::Batch { block, batch } => {
                let mut hasher = blake3::Hasher::new_derive_key("distdl 2026 batch on a device");
                for number in [block.dataset, block.partition, *batch] {
                    hasher.update(&number.to_le_bytes());
                }
                *hasher.finalize().as_bytes()
            }
        }
    }
}

/// A buffer that stays on the device while this value or a copy of it lives. It is to be kept until the device has done
/// the work that uses the buffer, not only until that work is queued.
pub struct DevicePin<B>(Arc<Held<B>>);

struct Held<B> {
    buffer: B,
    bytes: u64,
    /// What it takes of the tier's limit. Behind the buffer, which is freed before.
    share: Share,
}

impl<B> DevicePin<B> {
    pub(super) fn new(buffer: B, bytes: u64, share: Share) -> Self {
        Self(Arc::new(Held { buffer, bytes, share }))
    }

    /// Length of what was copied, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }
}

impl<B> Clone for DevicePin<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Deref for DevicePin<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.0.buffer
    }
}

impl<B> fmt::Debug for DevicePin<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "DevicePin({} bytes)", self.bytes())
    }
}

/// What a device tier did since it was made, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DeviceFigures {
    /// Bytes that were copied to the device.
    pub copied_bytes: u64,
    /// Bytes that were there already when they were wanted.
    pub avoided_bytes: u64,
    /// Buffers that were copied.
    pub copies: u64,
    /// Buffers that were there, or came by another worker's copy under way.
    pub hits: u64,
    /// Times that the Bloom filter said "absent".
    pub bloom_absent: u64,
    /// Times that it said "maybe" and there was no such buffer.
    pub bloom_false_positives: u64,
    /// Buffers that were freed to make room.
    pub evictions: u64,
    /// Allocations that the device refused although the budget allowed for them.
    pub refusals: u64,
    /// What the buffers take there, in bytes.
    pub bytes_used: u64,
}

pub(super) struct State<B> {
    entries: BTreeMap<DeviceKey, Entry<B>>,
    /// Keys by the time of their last use, on a clock of their own.
    recency: BTreeMap<u64, DeviceKey>,
    clock: u64,
    pub(super) bloom: Bloom,
    bloom_keys: usize,
    /// Keys that have gone since the filter was built.
    stale_keys: usize,
    pub(super) figures: DeviceFigures,
}

struct Entry<B> {
    held: DevicePin<B>,
    used: u64,
}

impl<B> Entry<B> {
    /// Whether nobody else has it. Only whoever has the state locked can take a first pin, so this stays true.
    fn may_go(&self) -> bool {
        Arc::strong_count(&self.held.0) == 1
    }
}

impl<B> Default for State<B> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            recency: BTreeMap::new(),
            clock: 0,
            bloom: Bloom::new(FILTER_KEYS_MIN, RATE_MAX),
            bloom_keys: FILTER_KEYS_MIN,
            stale_keys: 0,
            figures: DeviceFigures::default(),
        }
    }
}

impl<B> State<B> {
    pub(super) fn contains(&self, key: &DeviceKey) -> bool {
        self.bloom.may_contain(&key.digest()) && self.entries.contains_key(key)
    }

    /// Frees the buffers that nobody uses and whose keys are not to be kept.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&DeviceKey) -> bool) {
        let keys: Vec<DeviceKey> = self.recency.values().copied().collect();
        for key in keys.iter().filter(|key| !keep(key)) {
            if self.entries.get(key).is_some_and(Entry::may_go) {
                self.remove(key);
            }
        }
        self.mend_filter();
    }

    /// The buffer of `key`, if the filter allows for it and it is there.
    pub(super) fn look(&mut self, key: &DeviceKey) -> Option<DevicePin<B>> {
        if !self.bloom.may_contain(&key.digest()) {
            self.figures.bloom_absent += 1;
            return None;
        }
        let pin = self.resident(key);
        self.figures.bloom_false_positives += u64::from(pin.is_none());
        pin
    }

    /// The buffer of `key`, which now is the most recently used.
    pub(super) fn resident(&mut self, key: &DeviceKey) -> Option<DevicePin<B>> {
        let entry = self.entries.get_mut(key)?;
        self.clock += 1;
        self.recency.remove(&entry.used);
        entry.used = self.clock;
        self.recency.insert(entry.used, *key);
        let pin = entry.held.clone();
        self.count_hit(pin.bytes());
        Some(pin)
    }

    pub(super) fn count_hit(&mut self, bytes: u64) {
        self.figures.hits += 1;
        self.figures.avoided_bytes += bytes;
    }

    pub(super) fn enter(&mut self, key: DeviceKey, pin: &DevicePin<B>) {
        self.clock += 1;
        self.recency.insert(self.clock, key);
        let (held, used) = (pin.clone(), self.clock);
        self.entries.insert(key, Entry { held, used });
        self.bloom.insert(&key.digest());
        self.figures.bytes_used += pin.0.share.bytes();
        self.figures.copies += 1;
        self.figures.copied_bytes += pin.bytes();
        self.mend_filter();
    }

    /// Frees the least recently used buffer that nobody uses. Returns whether there was one.
    ///
    /// Its memory is free when this returns: under the lock, so that what is counted is never less than what is there.
    pub(super) fn evict(&mut self) -> bool {
        let may_go = |key: &&DeviceKey| self.entries.get(key).is_some_and(Entry::may_go);
        let Some(key) = self.recency.values().find(may_go).copied() else {
            return false;
        };
        self.remove(&key);
        self.figures.evictions += 1;
        true
    }

    fn remove(&mut self, key: &DeviceKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.recency.remove(&entry.used);
            self.figures.bytes_used -= entry.held.0.share.bytes();
            self.stale_keys += 1;
        }
    }

    /// What nobody uses, in bytes.
    pub(super) fn bytes_that_may_go(&self) -> u64 {
        let may_go = self.entries.values().filter(|entry| entry.may_go());
        may_go.map(|entry| entry.held.0.share.bytes()).sum()
    }

    /// Builds the filter anew once an eighth of its keys have gone or it has grown too much, so that each key pays for
    /// few others.
    pub(super) fn mend_filter(&mut self) {
        let keys = self.entries.len();
        let is_stale = self.stale_keys > keys / 8;
        if is_stale || keys > self.bloom_keys * FILTER_GROWTH_MAX {
            self.bloom_keys = (2 * keys).max(FILTER_KEYS_MIN);
            self.bloom = Bloom::new(self.bloom_keys, RATE_MAX);
            self.entries.keys().for_each(|key| self.bloom.insert(&key.digest()));
            self.stale_keys = 0;
        }
    }
}
