//! What of the host's data lies in a device's memory: copied once, found again, and gone when others need the room.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::resident::{DeviceFigures, DeviceKey, Lease, State};
use super::{DeviceError, DeviceMemory};
use crate::bloom::Bloom;
use crate::error::Result;
use crate::flight::Flights;

/// Keeps buffers in the memory of one device, up to a limit in bytes. Threads share it by reference if the device's
/// buffers may be shared by threads.
///
/// Buffers are evicted least recently used first, and never while somebody has a [`Lease`] of them. The limit is one of what they
/// take there ([`DeviceMemory::taken_bytes`]).
pub struct DeviceTier<B> {
    name: String,
    bytes_max: u64,
    state: Mutex<State<B>>,
    flights: Flights<DeviceKey, Result<Lease<B>, DeviceError>>,
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
            state: Mutex::default(),
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
        self.state().contains(key)
    }

    /// Frees the buffers whose keys are not to be kept. Those in use stay until they are evicted or this is called again.
    pub fn retain(&self, keep: impl FnMut(&DeviceKey) -> bool) {
        self.state().retain(keep);
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

    fn bring<S: AsRef<[u8]>, M: DeviceMemory<Buffer = B>>(
        &self,
        memory: &M,
        key: DeviceKey,
        source: impl FnOnce() -> Result<S>,
    ) -> Result<Lease<B>, DeviceError> {
        // Another thread may have brought it since, and a filter that is wrong must cost no copy.
        if let Some(lease) = self.state().resident(&key) {
            return Ok(lease);
        }
        let bytes = source()?;
        let bytes = bytes.as_ref();
        let room = self.reserve(M::taken_bytes(bytes.len()) as u64)?;
        let mut buffer = self.allocate(memory, bytes.len())?;
        memory.copy_in(bytes, &mut buffer)?;
        Ok(room.fill(key, buffer, bytes.len() as u64))
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
    /// With a buffer of `bytes` bytes.
    fn fill(mut self, key: DeviceKey, buffer: B, bytes: u64) -> Lease<B> {
        // At once, or others would find less room than there is.
        let taken_bytes = std::mem::take(&mut self.bytes);
        let lease = Lease::new(buffer, bytes, taken_bytes);
        let mut state = self.tier.state();
        state.bytes_reserved -= taken_bytes;
        state.enter(key, &lease);
        drop(state);
        lease
    }
}

impl<B> fmt::Debug for DeviceTier<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes_max) = (&self.name, self.bytes_max);
        write!(formatter, "DeviceTier({name}, {bytes_max} bytes, {:?})", self.figures())
    }
}
