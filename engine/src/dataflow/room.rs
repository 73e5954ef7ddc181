//! Memory for the parcels of one job, and a place on disk for those that find no room.
//!
//! Whoever makes a parcel, or takes one from another process, asks for room before it goes on: a source that is faster
//! than those who read it so is slowed down to the speed of the disk, and one in another process by its full link.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use distdl_storage::{Reservation, Spill};

use crate::batch::{AnyBatch, RecordType};
use crate::error::Result;
use crate::outputs::Stored;
use crate::task::Resources;

/// Room is taken from the store, and given back, in so many steps.
const STEPS: u64 = 64;

/// What the parcels of a job have in memory and on disk.
pub(crate) struct Room {
    resources: Arc<Resources>,
    taken: Mutex<Taken>,
    /// Lives as long as a parcel lies in it.
    spill: Mutex<Weak<Spill>>,
}

struct Taken {
    reservation: Reservation,
    bytes: u64,
}

/// Memory that a parcel takes; given back when dropped.
pub(crate) struct Charge {
    room: Arc<Room>,
    bytes: u64,
}

impl Room {
    /// Room for a job of this process.
    pub(crate) fn new(resources: &Arc<Resources>) -> Self {
        let taken = Taken {
            reservation: resources.store.reservation(),
            bytes: 0,
        };
        Self {
            resources: Arc::clone(resources),
            taken: Mutex::new(taken),
            spill: Mutex::default(),
        }
    }

    /// Takes room for a parcel; `None` if there is none.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Option<Arc<Charge>> {
        let bytes_max = self.resources.parcel_bytes_max();
        let mut taken = lock(&self.taken);
        let wanted = taken.bytes.checked_add(bytes).filter(|wanted| *wanted <= bytes_max)?;
        let missing = wanted.saturating_sub(taken.reservation.bytes());
        let step = missing.max(bytes_max / STEPS);
        if missing > 0 && !taken.reservation.grow(step) && !taken.reservation.grow(missing) {
            return None;
        }
        taken.bytes = wanted;
        drop(taken);
        let room = Arc::clone(self);
        Some(Arc::new(Charge { room, bytes }))
    }

    /// Puts a batch on disk.
    ///
    /// # Errors
    /// The disk is full, or its limit leaves no room.
    pub(crate) fn put_batch(&self, kind: RecordType, batch: AnyBatch) -> Result<Stored> {
        self.put_frame(&kind.encode(batch)?)
    }

    /// Puts a frame on disk.
    ///
    /// # Errors
    /// As [`Room::put_batch`].
    pub(crate) fn put_frame(&self, frame: &[u8]) -> Result<Stored> {
        let spill = self.spill()?;
        let rows = self.resources.put_away(&spill, frame)?;
        Ok(Stored::new(spill, rows))
    }

    fn spill(&self) -> Result<Arc<Spill>> {
        let mut spill = lock(&self.spill);
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
        let mut taken = lock(&self.room.taken);
        taken.bytes -= self.bytes;
        let idle = taken.reservation.bytes().saturating_sub(taken.bytes);
        // The last bytes are kept, so that not every parcel goes to the store.
        if taken.bytes == 0 || idle > 2 * self.room.resources.parcel_bytes_max() / STEPS {
            taken.reservation.shrink(idle);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
