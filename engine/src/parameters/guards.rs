//! Access to versions: to complete ones for reading, to ranges of the next one for writing.
#![allow(unsafe_code)] // guards hand out what the book has put down for them

use std::ops::{Deref, Range};
use std::sync::atomic::Ordering;

use super::Parameters;
use super::book::Book;
use super::values::{ShardBefore, ShardValues, SlotValues, State};

impl Parameters {
    /// Writes state of the newest version, which nobody reads.
    pub(super) fn write_state(&self, book: &Book, slot: usize, range: Range<usize>, values: &[f32]) {
        // SAFETY: nobody has a guard for this buffer (a claim reads it), and nobody gets one while the book is
        // borrowed.
        let into = unsafe { self.states[book.newest_state].write(self.slot(slot, range)) };
        into.copy_from_slice(values);
    }
}

/// One complete version, for as long as this lives. Dereferences to the parameters.
#[derive(Debug)]
pub struct ReadGuard<'a> {
    parameters: &'a Parameters,
    version: u64,
    buffer: usize,
    state: Option<usize>,
}

impl<'a> ReadGuard<'a> {
    /// Of what the book says that this guard reads.
    pub(super) fn new(parameters: &'a Parameters, version: u64, buffer: usize, state: Option<usize>) -> Self {
        Self {
            parameters,
            version,
            buffer,
            state,
        }
    }

    /// Which version it is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// A range of it, as an update that measures sees it.
    pub(crate) fn shard<'b>(&'b self, range: &Range<usize>, totals: &'b [f64]) -> ShardBefore<'b> {
        let slots = (0..self.parameters.slots).filter_map(|slot| self.state(slot));
        ShardBefore {
            values: &self[range.clone()],
            state: slots.map(|state| &state[range.clone()]).collect(),
            totals,
        }
    }

    /// The state in `slot` of all parameters; `None` beyond the slots there are, and where it is not here any more.
    /// Where several processes share a job, only the parts of this process's shards are kept up to date.
    pub fn state(&self, slot: usize) -> Option<&[f32]> {
        let state = self.state.filter(|_| slot < self.parameters.slots)?;
        let range = self.parameters.slot(slot, 0..self.parameters.length);
        // SAFETY: this guard counts as a reader of the buffer, which is not written while it has readers.
        Some(unsafe { self.parameters.states[state].read(range) })
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: this guard counts as a reader of the buffer, which no range of is claimed while it has readers.
        unsafe { self.parameters.buffers[self.buffer].read(0..self.parameters.length) }
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.parameters.book().release(self.buffer, self.state);
    }
}

/// A claimed range of the next version. Dropped without [`finish`](Self::finish) it leaves the range unwritten, to be
/// claimed again.
#[derive(Debug)]
#[must_use = "a range that is not finished is not written"]
pub struct RangeGuard<'a> {
    parameters: &'a Parameters,
    version: u64,
    range: Range<usize>,
    /// The buffers of the version that is read and of the one that is written.
    values: (usize, usize),
    /// The buffer of the state that is read; the other one is written.
    state: usize,
    /// Whether the version that is read is the one before.
    follows: bool,
}

impl<'a> RangeGuard<'a> {
    /// Of what the book says that this guard reads and writes.
    pub(super) fn new(
        parameters: &'a Parameters,
        version: u64,
        range: Range<usize>,
        values: (usize, usize),
        state: usize,
        follows: bool,
    ) -> Self {
        Self {
            parameters,
            version,
            range,
            values,
            state,
            follows,
        }
    }

    /// The version that is being written.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Which of the parameters these are.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The values before and after, all of the latter to be written: they are whatever was there.
    pub fn values(&mut self) -> ShardValues<'_> {
        let parameters = self.parameters;
        let (old, new) = (self.values.0, self.values.1);
        let states = (&parameters.states[self.state], &parameters.states[1 - self.state]);
        let range = |slot| parameters.slot(slot, self.range.clone());
        let slot = |slot| SlotValues {
            // SAFETY: this guard counts as a reader of the old buffer, so that nothing is written there.
            before: unsafe { states.0.read(range(slot)) },
            // SAFETY: the range of the new version is claimed for this guard, which is borrowed mutably, and nobody
            // reads the new buffer. Every slot is asked for once.
            after: unsafe { states.1.write(range(slot)) },
        };
        ShardValues {
            // SAFETY: this guard counts as a reader of the old buffer, so that nothing is written there.
            before: unsafe { parameters.buffers[old].read(self.range.clone()) },
            // SAFETY: the range of the new buffer is claimed for this guard, which is borrowed mutably, and nobody
            // reads the buffer. It is asked for once.
            after: unsafe { parameters.buffers[new].write(self.range.clone()) },
            state: State::of(parameters.slots, slot),
            totals: &[],
        }
    }

    /// All that is to be written of the parameters, for example straight from a socket.
    pub fn after(&mut self) -> &mut [f32] {
        self.values().after
    }

    /// Says that all of the range is written. Returns whether the version is complete by that; then, and not before,
    /// it is the newest for everyone.
    pub fn finish(self) -> bool {
        self.end(false)
    }

    /// As [`finish`](Self::finish), where the state was written as well.
    pub fn finish_with_state(self) -> bool {
        self.end(true)
    }

    fn end(self, with_state: bool) -> bool {
        let parameters = self.parameters;
        let mut book = parameters.book();
        if with_state && parameters.slots > 0 {
            book.held.next.add(self.range.clone());
        }
        let complete = book.finish(&self.range, parameters.length, self.follows);
        if complete {
            parameters.newest.store(self.version, Ordering::Release);
        }
        drop(book);
        std::mem::forget(self);
        complete
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        self.parameters.book().release_unwritten(&self.range);
    }
}
