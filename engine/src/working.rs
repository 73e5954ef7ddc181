//! Memory that operators work in, counted against the limit of the process, and what they do not get: room.
//!
//! The limit is for blocks, parcels and operators together. What a shuffle has brought may take half of it, and each
//! worker's task as much of the other half as the other workers' tasks. Who gets no more room puts records on disk.

use std::mem::{needs_drop, size_of, size_of_val};

use distdl_storage::{Record, Reservation, size_of_value};

use crate::batch::{TaskError, TaskResult};
use crate::error::EngineError;
use crate::task::TaskContext;

/// Room is asked for in so many steps, so that tasks seldom meet at the one count.
const STEPS: u64 = 64;

/// This part of its share is anybody's, whatever others have taken meanwhile: with less, work would take for ever.
const GRANTED_PART: u64 = 8;

/// A key may always take so much, whatever the limit: less is no key that could not be handled.
const KEY_BYTES_MIN: u64 = 1 << 20;

/// About what some records take in memory, in bytes: themselves and, where they own memory, what they have in it.
pub(crate) fn bytes_of<T: Record>(records: &[T]) -> u64 {
    if needs_drop::<T>() {
        records.iter().map(bytes_of_one).sum()
    } else {
        size_of_val(records) as u64
    }
}

/// About what a record takes in memory, in bytes.
pub(crate) fn bytes_of_one<T: Record>(record: &T) -> u64 {
    if needs_drop::<T>() {
        size_of_value(record)
    } else {
        size_of::<T>() as u64
    }
}

/// About what a record has in memory beside itself, in bytes.
pub(crate) fn owned_bytes<T: Record>(record: &T) -> u64 {
    bytes_of_one(record) - size_of::<T>() as u64
}

/// What one operator of one task works in.
pub(crate) struct Working {
    reservation: Reservation,
    used_bytes: u64,
    share_bytes: u64,
    /// What it may take, reserved or not.
    granted_bytes: u64,
    memory_bytes_max: u64,
}

impl Working {
    pub(crate) fn of(context: &TaskContext) -> Self {
        let resources = &context.resources;
        let share_bytes = resources.share_bytes();
        Self {
            reservation: resources.store.reservation(),
            used_bytes: 0,
            share_bytes,
            granted_bytes: share_bytes / GRANTED_PART,
            memory_bytes_max: resources.store.memory_bytes_max(),
        }
    }

    /// What it has room for now, in bytes.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.granted_bytes.max(self.reservation.bytes())
    }

    /// Notes `bytes` more. Returns false if that is more than there is room for: it is noted all the same, since the
    /// records are there already, and the caller must put records on disk.
    #[must_use = "without room records must go to disk"]
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        self.used_bytes += bytes;
        self.used_bytes <= self.granted_bytes || self.used_bytes <= self.share_bytes && self.reserve(self.used_bytes)
    }

    /// Notes what is left. The room stays reserved for what comes.
    pub(crate) fn set(&mut self, bytes: u64) {
        self.used_bytes = bytes;
    }

    fn reserve(&mut self, bytes: u64) -> bool {
        let missing = bytes.saturating_sub(self.reservation.bytes());
        let step = missing.max(self.share_bytes / STEPS);
        missing == 0 || self.reservation.grow(step) || self.reservation.grow(missing)
    }

    /// Room for all that one key has, which cannot be put on disk in parts: it may take more than its share.
    ///
    /// # Errors
    /// If there is not so much memory.
    pub(crate) fn hold_key(&mut self, partition: usize) -> TaskResult<()> {
        // It will grow: it is measured each time that it has taken what it was granted, and so not often.
        let (much, little) = (
            self.used_bytes + self.used_bytes / 2,
            self.used_bytes + self.used_bytes / 16,
        );
        let granted = [much, little]
            .into_iter()
            .find(|bytes| *bytes <= KEY_BYTES_MIN || self.reserve(*bytes));
        let Some(granted) = granted else {
            return Err(TaskError::Failed(EngineError::KeyTooLarge {
                operator: String::new(),
                site: String::new(),
                partition,
                key_bytes: self.used_bytes,
                memory_bytes_max: self.memory_bytes_max,
            }));
        };
        self.granted_bytes = self.granted_bytes.max(granted);
        Ok(())
    }
}
