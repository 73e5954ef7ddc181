//! The parameters of a job in this process: two versions of one flat vector, and of what optimizers keep beside it.
//!
//! Version `v` is what step `v` reads: what all steps before it have made. While lanes read version `t`, owners write
//! version `t + 1` into the other of two buffers, each its own range, without waiting for one another. So a version
//! that is complete stays as it is until the next but one is begun, and no step is ever half applied.
//!
//! Nothing here blocks. Who breaks the order of an iteration (lanes let go of their version before they hand out their
//! updates; owners write when all updates of a step have come) gets an error.
#![allow(unsafe_code)] // many threads write one vector, each its own range, while others read another one

mod held;
mod values;

use std::cell::UnsafeCell;
use std::ops::{Deref, Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::held::{HeldState, Ranges};
use crate::error::{EngineError, Result};

pub use values::{STATE_SLOTS_MAX, ShardValues, SlotValues, State};

/// The parameters of a job in this process, and `slots` values of optimizer state for each of them. Shared by all
/// threads; see the [module](self).
#[derive(Debug)]
pub struct Parameters {
    buffers: [Buffer; 2],
    length: usize,
    slots: usize,
    /// The newest complete version. It changes under the lock of `book` only.
    newest: AtomicU64,
    book: Mutex<Book>,
}

/// Who uses what. Every guard stands here for as long as it lives.
#[derive(Debug)]
struct Book {
    /// The buffer of the newest complete version; the next one is written into the other.
    newest_buffer: usize,
    /// Whether the version before the newest is still whole, in the other buffer.
    previous: bool,
    /// Guards that read a buffer.
    readers: [usize; 2],
    /// Ranges of the next version: none of them empty, no two of them overlapping.
    taken: Vec<Taken>,
    /// Where the optimizer's state is that of its version.
    held: HeldState,
}

#[derive(Debug)]
struct Taken {
    range: Range<usize>,
    written: bool,
}

/// One version: the parameters, and behind them slot after slot, each as long as the parameters.
struct Buffer(Box<[UnsafeCell<f32>]>);

// SAFETY: the values are reached only through guards, and `Book` sees to it, under a lock, that while a range is
// written through one guard no other guard gives access to it.
unsafe impl Sync for Buffer {}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} values", self.0.len())
    }
}

impl Buffer {
    fn new(values: Vec<f32>) -> Self {
        Self(values.into_iter().map(UnsafeCell::new).collect())
    }

    /// # Safety
    /// For the lifetime asked for, nobody may write to the range.
    unsafe fn read(&self, range: Range<usize>) -> &[f32] {
        let cells = &self.0[range];
        // SAFETY: `UnsafeCell<f32>` lies in memory as `f32`; the range is in bounds; nobody writes to it, says the caller.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// # Safety
    /// For the lifetime asked for, nobody else may read or write the range.
    #[expect(
        clippy::mut_from_ref,
        reason = "that nobody else has the range is the caller's promise"
    )]
    unsafe fn write(&self, range: Range<usize>) -> &mut [f32] {
        let cells = &self.0[range];
        // SAFETY: the cells may be changed behind `&self`; the range is in bounds and the caller's alone.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }
}

impl Parameters {
    /// Takes the values over as version 0, without optimizer state.
    pub fn new(values: Vec<f32>) -> Self {
        let next = Buffer::new(vec![0.0; values.len()]);
        Self::of(values.len(), 0, [Buffer::new(values), next])
    }

    /// Takes the values over as version 0, with `slots` values of optimizer state for each of them, all of them 0.
    ///
    /// # Errors
    /// If there are more than [`STATE_SLOTS_MAX`] slots.
    pub fn with_state(mut values: Vec<f32>, slots: usize) -> Result<Self> {
        if slots > STATE_SLOTS_MAX {
            return Err(EngineError::invalid(
                format!("{slots} values of optimizer state for every parameter"),
                format!("keep at most {STATE_SLOTS_MAX}"),
            ));
        }
        let length = values.len();
        values.resize(length * (1 + slots), 0.0);
        let next = Buffer::new(vec![0.0; values.len()]);
        Ok(Self::of(length, slots, [Buffer::new(values), next]))
    }

    fn of(length: usize, slots: usize, buffers: [Buffer; 2]) -> Self {
        Self {
            buffers,
            length,
            slots,
            newest: AtomicU64::new(0),
            book: Mutex::new(Book {
                newest_buffer: 0,
                previous: false,
                readers: [0; 2],
                taken: Vec::new(),
                held: HeldState {
                    newest: Ranges::all(length),
                    ..HeldState::default()
                },
            }),
        }
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Number of values of optimizer state for every parameter.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// The newest complete version. What was written before it became complete is seen by who sees this number.
    pub fn version(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The complete versions that are here: the newest, and before it the one before, until the next is begun.
    pub fn versions(&self) -> RangeInclusive<u64> {
        let book = self.book();
        let newest = self.version();
        newest - u64::from(book.previous)..=newest
    }

    /// A complete version, to be read in place. Whoever reads a version must be done before the next but one is begun.
    ///
    /// # Errors
    /// If that version is not complete, or not here any more.
    pub fn read(&self, version: u64) -> Result<ReadGuard<'_>> {
        let mut book = self.book();
        let buffer = self.buffer_of(&book, version)?;
        Ok(self.reading(&mut book, version, buffer))
    }

    /// The newest complete version, to be read in place. Not for use during an iteration except by its lanes: an owner
    /// that finds a version still being read when it begins the next but one ends the iteration with an error.
    pub fn latest(&self) -> ReadGuard<'_> {
        let mut book = self.book();
        let (version, buffer) = (self.version(), book.newest_buffer);
        self.reading(&mut book, version, buffer)
    }

    /// Exclusive access to `range` of the version after the newest, and to the same range of the version before it for
    /// reading. The version is complete once all ranges are [finished](RangeGuard::finish).
    ///
    /// Never waits. The first claim of a version gives up the one before the newest.
    ///
    /// # Errors
    /// If `version` is not the one after the newest complete one; if the range is empty, goes beyond the parameters, or
    /// overlaps one that is claimed or finished; if somebody still reads the version whose buffer is to be written.
    pub fn claim(&self, version: u64, range: Range<usize>) -> Result<RangeGuard<'_>> {
        let mut book = self.book();
        if version.checked_sub(1) != Some(self.version()) {
            return Err(out_of_order(format!(
                "version {version} of the parameters was to be written when version {} was the newest",
                self.version()
            )));
        }
        self.claiming(&mut book, version, range)
    }

    /// Exclusive access to all parameters and all their state, to be written from elsewhere: once
    /// [finished](RangeGuard::finish), they are `version` and the only one. Until then the newest version stays as it
    /// is, and if the guard is dropped instead it stays the newest. What was written of the version after it is
    /// forgotten.
    ///
    /// # Errors
    /// If ranges are claimed, if somebody reads the version before the newest, or if there are no parameters.
    pub fn install(&self, version: u64) -> Result<RangeGuard<'_>> {
        let mut book = self.book();
        let written = std::mem::take(&mut book.held.next);
        book.forget_next()?;
        if version == self.version() + 1 {
            // State that was written of this very version stays: what is installed are the parameters.
            book.held.next = written;
        }
        let mut whole = self.claiming(&mut book, version, 0..self.length)?;
        whole.follows = false;
        Ok(whole)
    }

    /// Replaces the state in `slot` of the parameters from `start` on, in the newest version: for an owner that takes a
    /// shard over. What was written of the version after it is forgotten.
    ///
    /// # Errors
    /// If `version` is not the newest complete one, if there is no such slot or range, or if somebody reads that version
    /// or has claimed a range of the next.
    pub fn install_state(&self, version: u64, slot: usize, start: usize, state: &[f32]) -> Result<()> {
        let mut book = self.book();
        let (newest, buffer) = (self.version(), book.newest_buffer);
        let end = start.checked_add(state.len()).filter(|end| *end <= self.length);
        let Some(end) = end.filter(|_| slot < self.slots && version == newest) else {
            return Err(EngineError::invalid(
                format!(
                    "state of version {version}, slot {slot}, {} values from {start} on for version {newest} of {} \
                     parameters with {} slots",
                    state.len(),
                    self.length,
                    self.slots
                ),
                "install state of the newest version, within slots and parameters",
            ));
        };
        if book.readers[buffer] > 0 {
            return Err(out_of_order(format!(
                "the state of version {version} was to be replaced while it was read"
            )));
        }
        book.forget_next()?;
        // SAFETY: nobody has a guard for this buffer (a claim reads it), and nobody gets one before the lock is released.
        let into = unsafe { self.buffers[buffer].write(self.part(1 + slot, start..end)) };
        into.copy_from_slice(state);
        if slot + 1 == self.slots {
            book.held.newest.add(start..end);
        }
        Ok(())
    }

    /// The versions for which this process has the state of a range: what an owner of it could go on from.
    pub fn state_versions(&self, range: &Range<usize>) -> Vec<u64> {
        let book = self.book();
        let newest = self.version();
        let held = [
            (newest.checked_sub(1), &book.held.previous),
            (Some(newest), &book.held.newest),
            (newest.checked_add(1), &book.held.next),
        ];
        let versions = held.into_iter().filter(|(_, ranges)| ranges.contain(range));
        versions.filter_map(|(version, _)| version).collect()
    }

    /// Makes one of [`versions`](Self::versions) the newest again. What was made or begun after it is forgotten.
    ///
    /// # Errors
    /// If that version is not here, or if ranges are claimed.
    pub fn rewind(&self, version: u64) -> Result<()> {
        let mut book = self.book();
        let buffer = self.buffer_of(&book, version)?;
        book.forget_next()?;
        if version != self.version() {
            book.newest_buffer = buffer;
            book.previous = false;
            book.held.go_back();
            self.newest.store(version, Ordering::Release);
        }
        Ok(())
    }

    /// Begins a job at `version`: the newest values are that version from now on. What was begun after them is
    /// forgotten.
    ///
    /// # Errors
    /// If ranges are claimed.
    pub fn begin(&self, version: u64) -> Result<()> {
        let mut book = self.book();
        book.forget_next()?;
        if version != self.version() {
            book.previous = false;
            book.held.previous.clear();
            self.newest.store(version, Ordering::Release);
        }
        Ok(())
    }

    /// The buffer of a complete version.
    fn buffer_of(&self, book: &Book, version: u64) -> Result<usize> {
        let newest = self.version();
        if version == newest {
            return Ok(book.newest_buffer);
        }
        if book.previous && Some(version) == newest.checked_sub(1) {
            return Ok(1 - book.newest_buffer);
        }
        let before = if book.previous { " and the one before" } else { "" };
        Err(out_of_order(format!(
            "version {version} of the parameters was asked for when {newest}{before} was here"
        )))
    }

    fn reading(&self, book: &mut Book, version: u64, buffer: usize) -> ReadGuard<'_> {
        book.readers[buffer] += 1;
        ReadGuard {
            parameters: self,
            version,
            buffer,
        }
    }

    fn claiming(&self, book: &mut Book, version: u64, range: Range<usize>) -> Result<RangeGuard<'_>> {
        let next = 1 - book.newest_buffer;
        if range.is_empty() || range.end > self.length {
            return Err(EngineError::invalid(
                format!("a claim of the range {range:?} of {} parameters", self.length),
                "claim a range that is not empty, within the parameters",
            ));
        }
        if book.readers[next] > 0 {
            return Err(out_of_order(format!(
                "version {version} of the parameters was to be written over one that is still read"
            )));
        }
        let overlaps = |taken: &&Taken| taken.range.start < range.end && range.start < taken.range.end;
        if let Some(taken) = book.taken.iter().find(overlaps) {
            let state = if taken.written { "finished" } else { "claimed" };
            return Err(out_of_order(format!(
                "the range {range:?} of version {version} was to be written when {:?} was {state}",
                taken.range
            )));
        }
        book.previous = false;
        book.held.previous.clear();
        book.readers[book.newest_buffer] += 1;
        book.taken.push(Taken {
            range: range.clone(),
            written: false,
        });
        Ok(RangeGuard {
            parameters: self,
            version,
            range,
            newest_buffer: book.newest_buffer,
            follows: true,
        })
    }

    /// Where a range lies in a buffer: part 0 is the parameters, part `1 + slot` is their state.
    fn part(&self, part: usize, range: Range<usize>) -> Range<usize> {
        part * self.length + range.start..part * self.length + range.end
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of_order(what: String) -> EngineError {
    EngineError::invalid(
        what,
        "during an iteration leave the parameters to its lanes and shards; otherwise drop guards when they have served",
    )
}

impl Book {
    /// Forgets what was written of the next version.
    fn forget_next(&mut self) -> Result<()> {
        if let Some(claimed) = self.taken.iter().find(|taken| !taken.written) {
            return Err(out_of_order(format!(
                "the version of the parameters was to be changed while the range {:?} was claimed",
                claimed.range
            )));
        }
        self.taken.clear();
        self.held.next.clear();
        Ok(())
    }

    /// Where a claimed range stands.
    fn claimed(&self, range: &Range<usize>) -> Option<usize> {
        self.taken.iter().position(|taken| taken.range == *range)
    }
}

/// One complete version, for as long as this lives. Dereferences to the parameters.
#[derive(Debug)]
pub struct ReadGuard<'a> {
    parameters: &'a Parameters,
    version: u64,
    buffer: usize,
}

impl ReadGuard<'_> {
    /// Which version it is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The state in `slot` of all parameters; `None` beyond the slots there are. Where several processes share a job,
    /// only the parts of this process's shards are kept up to date.
    pub fn state(&self, slot: usize) -> Option<&[f32]> {
        (slot < self.parameters.slots).then(|| self.read(1 + slot))
    }

    fn read(&self, part: usize) -> &[f32] {
        let range = self.parameters.part(part, 0..self.parameters.length);
        // SAFETY: this guard counts as a reader of the buffer, which no range of is claimed while it has readers.
        unsafe { self.parameters.buffers[self.buffer].read(range) }
    }
}

impl Deref for ReadGuard<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.read(0)
    }
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        self.parameters.book().readers[self.buffer] -= 1;
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
    /// The buffer that is read; the other one is written.
    newest_buffer: usize,
    /// Whether the version that is read is the one before.
    follows: bool,
}

impl RangeGuard<'_> {
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
        let (old, new) = (
            &parameters.buffers[self.newest_buffer],
            &parameters.buffers[1 - self.newest_buffer],
        );
        let range = |part| parameters.part(part, self.range.clone());
        // SAFETY: this guard counts as a reader of the old buffer, so that nothing is written there.
        let before = |part| unsafe { old.read(range(part)) };
        // SAFETY: the range of the new buffer is claimed for this guard, which is borrowed mutably, and nobody reads the
        // buffer. Every part is asked for once.
        let after = |part| unsafe { new.write(range(part)) };
        let slot = |slot| SlotValues {
            before: before(1 + slot),
            after: after(1 + slot),
        };
        ShardValues {
            before: before(0),
            after: after(0),
            state: State::of(parameters.slots, slot),
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
        if let Some(claimed) = book.claimed(&self.range) {
            book.taken[claimed].written = true;
        }
        let written = |taken: &Taken| if taken.written { taken.range.len() } else { 0 };
        let complete = book.taken.iter().map(written).sum::<usize>() == parameters.length;
        if complete {
            book.taken.clear();
            book.previous = self.follows;
            book.held.advance(self.follows);
            book.newest_buffer = 1 - self.newest_buffer;
            parameters.newest.store(self.version, Ordering::Release);
        }
        book.readers[self.newest_buffer] -= 1;
        drop(book);
        std::mem::forget(self);
        complete
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut book = self.parameters.book();
        book.readers[self.newest_buffer] -= 1;
        if let Some(claimed) = book.claimed(&self.range) {
            book.taken.swap_remove(claimed);
        }
    }
}

#[cfg(test)]
mod tests;
