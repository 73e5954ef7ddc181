//! What of the host's data lies in a device's memory: copied once, found again, and gone when others need the room.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{DeviceError, DeviceMemory};
use crate::block::BlockId;
use crate::bloom::{Bloom, Digest};
use crate::error::Result;
use crate::flight::Flights;

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
pub struct Lease<B>(Arc<Held<B>>);

struct Held<B> {
    buffer: B,
    bytes: u64,
}

impl<B> Lease<B> {
    /// Length of what was copied, in bytes.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }
}

impl<B> Clone for Lease<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B> Deref for Lease<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.0.buffer
    }
}

impl<B> fmt::Debug for Lease<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Lease({} bytes)", self.bytes())
    }
}

/// What a device tier did since it was made, and what it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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
    /// What the buffers take, in bytes.
    pub bytes_used: u64,
}

/// Keeps buffers in the memory of one device, up to a limit in bytes. Threads share it by reference if the device's
/// buffers may be shared by threads.
///
/// Buffers are evicted least recently used first, and never while somebody has a [`Lease`] of them.
pub struct DeviceTier<B> {
    name: String,
    bytes_max: u64,
    state: Mutex<State<B>>,
    flights: Flights<DeviceKey, Result<Lease<B>, DeviceError>>,
}

struct State<B> {
    entries: BTreeMap<DeviceKey, Entry<B>>,
    /// Keys by the time of their last use, on a clock of their own.
    recency: BTreeMap<u64, DeviceKey>,
    clock: u64,
    bloom: Bloom,
    bloom_keys: usize,
    /// Keys that have gone since the filter was built.
    stale_keys: usize,
    /// Room promised to copies under way.
    bytes_reserved: u64,
    figures: DeviceFigures,
}

struct Entry<B> {
    held: Lease<B>,
    used: u64,
}

/// Room for a copy under way, given back if it fails.
struct Room<'a, B> {
    tier: &'a DeviceTier<B>,
    bytes: u64,
}

impl<B> Drop for Room<'_, B> {
    fn drop(&mut self) {
        self.tier.state().bytes_reserved -= self.bytes;
    }
}

impl<B> DeviceTier<B> {
    /// An empty tier for up to `bytes_max` bytes on the device that errors call `name`.
    pub fn new(name: impl Into<String>, bytes_max: u64) -> Self {
        Self {
            name: name.into(),
            bytes_max,
            state: Mutex::new(State {
                entries: BTreeMap::new(),
                recency: BTreeMap::new(),
                clock: 0,
                bloom: Bloom::new(FILTER_KEYS_MIN, RATE_MAX),
                bloom_keys: FILTER_KEYS_MIN,
                stale_keys: 0,
                bytes_reserved: 0,
                figures: DeviceFigures::default(),
            }),
            flights: Flights::default(),
        }
    }

    /// The buffer of `key`. If it is not on the device, `source` is asked for the bytes, which are copied there: once,
    /// however many threads want them. `source` must not ask this tier for the same key.
    ///
    /// # Errors
    /// [`DeviceError::OverBudget`] if there is no room beside what is in use, [`DeviceError::OutOfMemory`] if the device
    /// refuses although all that may go has gone, or the error of `source` or of the device. Nothing is kept under
    /// `key` then, and the next call tries again.
    pub fn lease<S: AsRef<[u8]>>(
        &self,
        memory: &impl DeviceMemory<Buffer = B>,
        key: DeviceKey,
        source: impl FnOnce() -> Result<S>,
    ) -> Result<Lease<B>, DeviceError> {
        if let Some(lease) = self.state().look(&key) {
            return Ok(lease);
        }
        let (lease, by_another) = self.flights.once(&key, || self.bring(memory, key, source));
        if let Some(lease) = lease.as_ref().ok().filter(|_| by_another) {
            self.state().count_hit(lease.bytes());
        }
        lease
    }

    /// Whether there is a buffer of `key`.
    pub fn contains(&self, key: &DeviceKey) -> bool {
        let state = self.state();
        state.bloom.may_contain(&key.digest()) && state.entries.contains_key(key)
    }

    /// Frees the buffers whose keys are not to be kept. Those in use stay until they are evicted or this is called again.
    pub fn retain(&self, mut keep: impl FnMut(&DeviceKey) -> bool) {
        let mut state = self.state();
        let keys: Vec<DeviceKey> = state.recency.values().copied().collect();
        for key in keys.iter().filter(|key| !keep(key)) {
            if state.entries.get(key).is_some_and(Entry::may_go) {
                state.remove(key);
            }
        }
        state.mend_filter();
    }

    /// The filter of what is on the device, by [`DeviceKey::digest`], for whoever places work where its data is.
    pub fn bloom(&self) -> Bloom {
        self.state().bloom.clone()
    }

    /// What the tier did so far, and what it holds.
    pub fn figures(&self) -> DeviceFigures {
        self.state().figures
    }

    /// The limit, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    fn bring<S: AsRef<[u8]>>(
        &self,
        memory: &impl DeviceMemory<Buffer = B>,
        key: DeviceKey,
        source: impl FnOnce() -> Result<S>,
    ) -> Result<Lease<B>, DeviceError> {
        // Another thread may have brought it since, and a filter that is wrong must cost no copy.
        if let Some(lease) = self.state().resident(&key) {
            return Ok(lease);
        }
        let bytes = source()?;
        let bytes = bytes.as_ref();
        let room = self.reserve(bytes.len() as u64)?;
        let mut buffer = self.allocate(memory, bytes.len())?;
        memory.copy_in(bytes, &mut buffer)?;
        Ok(room.fill(key, buffer))
    }

    fn reserve(&self, bytes: u64) -> Result<Room<'_, B>, DeviceError> {
        let mut state = self.state();
        let fits = |state: &State<B>| {
            let taken = state.figures.bytes_used.saturating_add(state.bytes_reserved);
            taken.saturating_add(bytes) <= self.bytes_max
        };
        if !fits(&state) {
            let in_use_bytes = state.bytes_in_use();
            if in_use_bytes.saturating_add(bytes) > self.bytes_max {
                return Err(DeviceError::OverBudget {
                    device: self.name.clone(),
                    needed_bytes: bytes,
                    bytes_max: self.bytes_max,
                    in_use_bytes,
                });
            }
            while !fits(&state) && state.evict() {}
            state.mend_filter();
        }
        state.bytes_reserved += bytes;
        Ok(Room { tier: self, bytes })
    }

    /// Allocates, and frees what may go while the device refuses: others may have taken of its memory.
    fn allocate(&self, memory: &impl DeviceMemory<Buffer = B>, bytes: usize) -> Result<B, DeviceError> {
        loop {
            let allocated = memory.allocate(bytes);
            let Err(DeviceError::OutOfMemory { .. }) = allocated else {
                return allocated;
            };
            let mut state = self.state();
            state.figures.refusals += 1;
            let evicted = state.evict();
            state.mend_filter();
            if !evicted {
                return allocated;
            }
        }
    }

    /// A poisoned lock is taken all the same: no change of the state is left half done where a panic may come from.
    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn set_bloom(&self, bloom: Bloom) {
        self.state().bloom = bloom;
    }
}

impl<B> Room<'_, B> {
    fn fill(mut self, key: DeviceKey, buffer: B) -> Lease<B> {
        // At once, or others would find less room than there is.
        let bytes = std::mem::take(&mut self.bytes);
        let lease = Lease(Arc::new(Held { buffer, bytes }));
        let mut state = self.tier.state();
        state.bytes_reserved -= bytes;
        state.enter(key, &lease);
        drop(state);
        lease
    }
}

impl<B> Entry<B> {
    /// Whether nobody else has it. Only whoever has the state locked can take a first lease, so this stays true.
    fn may_go(&self) -> bool {
        Arc::strong_count(&self.held.0) == 1
    }
}

impl<B> State<B> {
    /// The buffer of `key`, if the filter allows for it and it is there.
    fn look(&mut self, key: &DeviceKey) -> Option<Lease<B>> {
        if !self.bloom.may_contain(&key.digest()) {
            self.figures.bloom_absent += 1;
            return None;
        }
        let lease = self.resident(key);
        self.figures.bloom_false_positives += u64::from(lease.is_none());
        lease
    }

    /// The buffer of `key`, which now is the most recently used.
    fn resident(&mut self, key: &DeviceKey) -> Option<Lease<B>> {
        let entry = self.entries.get_mut(key)?;
        self.clock += 1;
        self.recency.remove(&entry.used);
        entry.used = self.clock;
        self.recency.insert(entry.used, *key);
        let lease = entry.held.clone();
        self.count_hit(lease.bytes());
        Some(lease)
    }

    fn count_hit(&mut self, bytes: u64) {
        self.figures.hits += 1;
        self.figures.avoided_bytes += bytes;
    }

    fn enter(&mut self, key: DeviceKey, lease: &Lease<B>) {
        self.clock += 1;
        self.recency.insert(self.clock, key);
        let (held, used) = (lease.clone(), self.clock);
        self.entries.insert(key, Entry { held, used });
        self.bloom.insert(&key.digest());
        self.figures.bytes_used += lease.bytes();
        self.figures.copies += 1;
        self.figures.copied_bytes += lease.bytes();
        self.mend_filter();
    }

    /// Frees the least recently used buffer that nobody uses. Returns whether there was one.
    ///
    /// Its memory is free when this returns: under the lock, so that what is counted is never less than what is there.
    fn evict(&mut self) -> bool {
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
            self.figures.bytes_used -= entry.held.bytes();
            self.stale_keys += 1;
        }
    }

    fn bytes_in_use(&self) -> u64 {
        let in_use = self.entries.values().filter(|entry| !entry.may_go());
        self.bytes_reserved + in_use.map(|entry| entry.held.bytes()).sum::<u64>()
    }

    /// Builds the filter anew once an eighth of its keys have gone or it has grown too much, so that each key pays for
    /// few others.
    fn mend_filter(&mut self) {
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

impl<B> fmt::Debug for DeviceTier<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes_max) = (&self.name, self.bytes_max);
        write!(formatter, "DeviceTier({name}, {bytes_max} bytes, {:?})", self.figures())
    }
}
