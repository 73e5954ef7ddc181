//! Memory for the parcels of one job, and a place on disk for those that find no room.
//!
//! Whoever makes a parcel, or takes one from another process, reserves memory before it goes on: a source that is
//! faster than those who read it so is slowed down to the speed of the disk, and one in another process by its full
//! link.

use std::sync::{Arc, Mutex, Weak};

use distdl_storage::{Reservation, Spill, Unpoisoned};

use crate::dataflow::parcel::Parcel;
use crate::error::Result;
use crate::outputs::Stored;
use crate::task::Resources;

/// Memory is reserved in the store, and given back, in so many steps.
const STEPS: u64 = 64;

/// What a parcel takes beside its records: itself, where it waits in a vector that grows by doubling, and its charge.
const PARCEL_BYTES: u64 = (size_of::<Parcel>() * 3 / 2 + 48) as u64;

/// What a batch in memory takes beside its records: its box, and what the allocator adds to a vector of few records.
const BATCH_BYTES: u64 = 80;

/// What the parcels of a job have in memory and on disk.
pub(crate) struct ParcelMemory {
    resources: Arc<Resources>,
    reserved: Mutex<Reserved>,
    /// Lives as long as a parcel lies in it.
    spill: Mutex<Weak<Spill>>,
}

struct Reserved {
    reservation: Reservation,
    bytes: u64,
}

/// Memory that a parcel takes; given back when dropped.
pub(crate) struct Charge {
    memory: Arc<ParcelMemory>,
    bytes: u64,
}

impl ParcelMemory {
    /// For a job of this process.
    pub(crate) fn new(resources: &Arc<Resources>) -> Self {
        let reserved = Reserved {
            reservation: resources.store.reservation(),
            bytes: 0,
        };
        Self {
            resources: Arc::clone(resources),
            reserved: Mutex::new(reserved),
            spill: Mutex::default(),
        }
    }

    /// Reserves memory for `parcels` that share records of `bytes` bytes; `None` if there is none.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64, parcels: usize) -> Option<Arc<Charge>> {
        let bytes = bytes.checked_add(BATCH_BYTES + parcels as u64 * PARCEL_BYTES)?;
        let bytes_max = self.resources.parcel_bytes_max();
        let mut reserved = self.reserved.lock().unpoisoned();
        let wanted = reserved
            .bytes
            .checked_add(bytes)
            .filter(|wanted| *wanted <= bytes_max)?;
        if !reserved.grow_to(wanted, bytes_max) {
            return None;
        }
        reserved.bytes = wanted;
        drop(reserved);
        Some(self.charge(bytes))
    }

    /// Counts `parcels` whose records are on disk: they are in memory all the same, whether or not there is any left,
    /// and leave less of it to others.
    pub(crate) fn count(self: &Arc<Self>, parcels: usize) -> Arc<Charge> {
        let bytes = parcels as u64 * PARCEL_BYTES;
        let bytes_max = self.resources.parcel_bytes_max();
        let mut reserved = self.reserved.lock().unpoisoned();
        reserved.bytes += bytes;
        // Operators are left their part.
        let wanted = reserved.bytes.min(bytes_max);
        reserved.grow_to(wanted, bytes_max);
        drop(reserved);
        self.charge(bytes)
    }

    fn charge(self: &Arc<Self>, bytes: u64) -> Arc<Charge> {
        let memory = Arc::clone(self);
        Arc::new(Charge { memory, bytes })
    }

    /// Puts a frame on disk.
    ///
    /// # Errors
    /// The disk is full, or its limit leaves no room.
    pub(crate) fn put_frame(&self, frame: &[u8]) -> Result<Stored> {
        let spill = self.spill()?;
        let rows = self.resources.put_away(&spill, frame)?;
        Ok(Stored::new(spill, rows))
    }

    fn spill(&self) -> Result<Arc<Spill>> {
        let mut spill = self.spill.lock().unpoisoned();
        if let Some(spill) = spill.upgrade() {
            return Ok(spill);
        }
        let made = Arc::new(self.resources.store.spill()?);
        *spill = Arc::downgrade(&made);
        Ok(made)
    }
}

impl Reserved {
    /// Reserves what is missing to `wanted` bytes, or a step of what is allowed; whether there is memory for it.
    fn grow_to(&mut self, wanted: u64, bytes_max: u64) -> bool {
        let missing = wanted.saturating_sub(self.reservation.bytes());
        let step = missing.max(bytes_max / STEPS);
        missing == 0 || self.reservation.grow(step) || self.reservation.grow(missing)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let mut reserved = self.memory.reserved.lock().unpoisoned();
        reserved.bytes -= self.bytes;
        let idle = reserved.reservation.bytes().saturating_sub(reserved.bytes);
        // The last bytes are kept, so that not every parcel goes to the store.
        if reserved.bytes == 0 || idle > 2 * self.memory.resources.parcel_bytes_max() / STEPS {
            reserved.reservation.shrink(idle);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use crate::context::Context;

    fn memory(memory_bytes_max: u64) -> Arc<ParcelMemory> {
        let config = Config::default()
            .with_threads(1)
            .with_memory_bytes_max(memory_bytes_max);
        let context = Context::new(config).unwrap();
        Arc::new(ParcelMemory::new(context.resources()))
    }

    fn counted(memory: &ParcelMemory) -> (u64, u64) {
        let reserved = memory.reserved.lock().unpoisoned();
        (reserved.bytes, reserved.reservation.bytes())
    }

    #[test]
    fn parcels_of_a_few_bytes_keep_to_what_parcels_may_take() {
        let memory = memory(1 << 20);
        let bytes_max = memory.resources.parcel_bytes_max();
        let charges: Vec<_> = std::iter::from_fn(|| memory.reserve(8, 1)).collect();
        let least = 8 + size_of::<Parcel>() as u64 + size_of::<Charge>() as u64;
        assert!(charges.len() as u64 * least <= bytes_max, "{} parcels", charges.len());
        assert!(
            charges.len() as u64 * 4 * least >= bytes_max,
            "{} parcels",
            charges.len()
        );
        drop(charges);
        assert_eq!(counted(&memory), (0, 0));
    }

    #[test]
    fn parcels_on_disk_take_from_those_in_memory_and_give_back_what_they_took() {
        let memory = memory(1 << 20);
        let bytes_max = memory.resources.parcel_bytes_max();
        let on_disk: Vec<_> = (0..=bytes_max / PARCEL_BYTES).map(|_| memory.count(1)).collect();
        let (bytes, reserved) = counted(&memory);
        assert!(
            bytes > bytes_max && reserved <= bytes_max + bytes_max / STEPS,
            "{bytes}, {reserved}"
        );
        assert!(memory.reserve(0, 1).is_none());
        // Without any memory they are counted all the same.
        let more = memory.count(3);
        assert_eq!(counted(&memory).0, bytes + 3 * PARCEL_BYTES);
        drop(on_disk);
        assert_eq!(counted(&memory).0, 3 * PARCEL_BYTES);
        assert!(memory.reserve(0, 1).is_some());
        drop(more);
        assert_eq!(counted(&memory), (0, 0));
    }

    #[test]
    fn parcels_that_share_their_records_take_these_once() {
        let memory = memory(1 << 20);
        let charge = memory.reserve(1000, 3).unwrap();
        assert_eq!(counted(&memory).0, 1000 + BATCH_BYTES + 3 * PARCEL_BYTES);
        drop(charge);
        assert_eq!(counted(&memory).0, 0);
    }
}
