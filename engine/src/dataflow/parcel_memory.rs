//! Memory for the parcels of one job, and a place on disk for those that find no room.
//!
//! Whoever makes a parcel, or takes one from another process, reserves memory before it goes on: a source that is faster
//! than those who read it so is slowed down to the speed of the disk, and one in another process by its full link.

use std::sync::{Arc, Mutex, Weak};

use distdl_storage::{Reservation, Spill, Unpoisoned};

use crate::error::Result;
use crate::outputs::Stored;
use crate::task::Resources;

/// Memory is reserved in the store, and given back, in so many steps.
const STEPS: u64 = 64;

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

    /// Reserves memory for a parcel; `None` if there is none.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Arc<Charge>> {
        let bytes_max = self.resources.parcel_bytes_max();
        let mut reserved = self.reserved.lock().unpoisoned();
        let wanted = reserved
            .bytes
            .checked_add(bytes)
            .filter(|wanted| *wanted <= bytes_max)?;
        let missing = wanted.saturating_sub(reserved.reservation.bytes());
        let step = missing.max(bytes_max / STEPS);
        if missing > 0 && !reserved.reservation.grow(step) && !reserved.reservation.grow(missing) {
            return None;
        }
        reserved.bytes = wanted;
        drop(reserved);
        let memory = Arc::clone(self);
        Some(Arc::new(Charge { memory, bytes }))
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
