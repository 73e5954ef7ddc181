//! What of the host's data lies in a device's memory: copied once, found again, and gone when others need the room.

use std::fmt;
use std::sync::{Mutex, MutexGuard};

use super::budget::{DeviceBudget, Share};
use super::resident::{DeviceFigures, DeviceKey, DevicePin, State};
use super::{DeviceError, DeviceMemory};
use crate::bloom::Bloom;
use crate::error::Result;
use crate::flight::Flights;
use crate::unpoisoned::Unpoisoned;

/// Keeps buffers in the memory of one device, up to a limit in bytes. Threads share it by reference if the device's
/// buffers may be shared by threads.
///
/// Buffers are evicted least recently used first, and never while somebody has a [`DevicePin`] of them. The limit is
/// one of what they take there ([`DeviceMemory::taken_bytes`]).
pub struct DeviceTier<B> {
    name: String,
    bytes_max: u64,
    budget: DeviceBudget,
    state: Mutex<State<B>>,
    flights: Flights<DeviceKey, Result<DevicePin<B>, DeviceError>>,
}

impl<B> DeviceTier<B> {
    /// An empty tier for up to `bytes_max` bytes on the device that errors call `name`.
    pub fn new(name: impl Into<String>, bytes_max: u64) -> Self {
        Self::sharing(name, bytes_max, DeviceBudget::default())
    }

    /// The same, where the limit is one of all that is taken of `budget`. What others keep there it cannot push out.
    pub fn sharing(name: impl Into<String>, bytes_max: u64, budget: DeviceBudget) -> Self {
        Self {
            name: name.into(),
            bytes_max,
            budget,
            state: Mutex::default(),
            flights: Flights::default(),
        }
    }

    /// The buffer of `key`. If it is not on the device, `source` is asked for the bytes, which are copied there: once,
    /// however many threads want them. `source` must not ask this tier for the same key.
    ///
    /// # Errors
    /// [`DeviceError::OverBudget`] if there is no room beside what is in use, [`DeviceError::OutOfMemory`] if the
    /// device refuses although all that may go has gone, or the error of `source` or of the device. Nothing is kept
    /// under `key` then, and the next call tries again.
    pub fn pin<S: AsRef<[u8]>>(
        &self,
        memory: &impl DeviceMemory<Buffer = B>,
        key: DeviceKey,
        source: impl FnOnce() -> Result<S>,
    ) -> Result<DevicePin<B>, DeviceError> {
        if let Some(pin) = self.state().look(&key) {
            return Ok(pin);
        }
        let (pin, by_another) = self.flights.once(&key, || self.bring(memory, key, source));
        if let Some(pin) = pin.as_ref().ok().filter(|_| by_another) {
            self.state().count_hit(pin.bytes());
        }
        pin
    }

    /// Whether there is a buffer of `key`.
    pub fn contains(&self, key: &DeviceKey) -> bool {
        self.state().contains(key)
    }

    /// Frees the buffers whose keys are not to be kept. Those in use stay until they are evicted or this is called
    /// again.
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

    /// Whether so many bytes have room beside all that is there.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.budget.taken_bytes().saturating_add(bytes) <= self.bytes_max
    }

    /// What of the limit other tiers leave to this one, in bytes.
    pub fn left_bytes(&self) -> u64 {
        let of_others = self.budget.taken_bytes().saturating_sub(self.figures().bytes_used);
        self.bytes_max.saturating_sub(of_others)
    }

    fn bring<S: AsRef<[u8]>, M: DeviceMemory<Buffer = B>>(
        &self,
        memory: &M,
        key: DeviceKey,
        source: impl FnOnce() -> Result<S>,
    ) -> Result<DevicePin<B>, DeviceError> {
        // Another thread may have brought it since, and a filter that is wrong must cost no copy.
        if let Some(pin) = self.state().resident(&key) {
            return Ok(pin);
        }
        let bytes = source()?;
        let bytes = bytes.as_ref();
        let share = self.reserve(M::taken_bytes(bytes.len()) as u64)?;
        let mut buffer = self.allocate(memory, bytes.len())?;
        memory.copy_in(bytes, &mut buffer)?;
        let pin = DevicePin::new(buffer, bytes.len() as u64, share);
        self.state().enter(key, &pin);
        Ok(pin)
    }

    fn reserve(&self, bytes: u64) -> Result<Share, DeviceError> {
        let take = || self.budget.take(bytes, self.bytes_max);
        if let Some(share) = take() {
            return Ok(share);
        }
        let mut state = self.state();
        let in_use_bytes = self.budget.taken_bytes().saturating_sub(state.bytes_that_may_go());
        let mut share = None;
        if in_use_bytes.saturating_add(bytes) <= self.bytes_max {
            share = take();
            while share.is_none() && state.evict() {
                share = take();
            }
            state.mend_filter();
        }
        share.ok_or_else(|| DeviceError::OverBudget {
            device: self.name.clone(),
            needed_bytes: bytes,
            bytes_max: self.bytes_max,
            in_use_bytes,
        })
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
        self.state.lock().unpoisoned()
    }

    #[cfg(test)]
    pub(super) fn set_bloom(&self, bloom: Bloom) {
        self.state().bloom = bloom;
    }
}

impl<B> fmt::Debug for DeviceTier<B> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, bytes_max) = (&self.name, self.bytes_max);
        write!(formatter, "DeviceTier({name}, {bytes_max} bytes, {:?})", self.figures())
    }
}
