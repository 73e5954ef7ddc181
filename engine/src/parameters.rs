//! The parameters of a job in this process: versions of one flat vector, and of what optimizers keep beside it.
//!
//! Version `v` is what step `v` reads: what all steps before it have made. While lanes read version `t`, owners write
//! version `t + 1` into a buffer of its own, each its own range, without waiting for one another. So a version that is
//! complete stays as it is until its buffer is needed, and no step is ever half applied. There are two buffers, and one
//! more for every version that lanes may lag behind; of the optimizer's state there are two versions always.
//!
//! Nothing here blocks. Who breaks the order of an iteration (lanes let go of their version before they hand out their
//! updates; owners write when all updates of a step have come) gets an error.

mod book;
mod buffer;
mod guards;
mod held;
mod values;

use std::ops::{Range, RangeInclusive};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use distdl_storage::Unpoisoned;

use self::book::Book;
use self::buffer::Buffer;
use self::held::{HeldState, Ranges};
use crate::error::{EngineError, Result};
use crate::staleness::LAG_MAX;

pub use guards::{RangeGuard, ReadGuard};
pub use values::{STATE_SLOTS_MAX, ShardBefore, ShardValues, SlotValues, State};

/// The parameters of a job in this process, and `slots` values of optimizer state for each of them. Shared by all
/// threads; see the [module](self).
#[derive(Debug)]
pub struct Parameters {
    buffers: Vec<Buffer>,
    states: [Buffer; 2],
    length: usize,
    slots: usize,
    /// The newest complete version. It changes under the lock of `book` only.
    newest: AtomicU64,
    book: Mutex<Book>,
}

impl Parameters {
    /// Takes the values over as version 0, without optimizer state.
    pub fn new(values: Vec<f32>) -> Self {
        Self::of(values, 0)
    }

    /// Takes the values over as version 0, with `slots` values of optimizer state for each of them, all of them 0.
    ///
    /// # Errors
    /// If there are more than [`STATE_SLOTS_MAX`] slots.
    pub fn with_state(values: Vec<f32>, slots: usize) -> Result<Self> {
        if slots > STATE_SLOTS_MAX {
            return Err(EngineError::invalid(
                format!("{slots} values of optimizer state for every parameter"),
                format!("keep at most {STATE_SLOTS_MAX}"),
            ));
        }
        Ok(Self::of(values, slots))
    }

    fn of(values: Vec<f32>, slots: usize) -> Self {
        let length = values.len();
        let state = || Buffer::new(vec![0.0; length * slots]);
        let held = HeldState {
            newest: Ranges::all(length),
            ..HeldState::default()
        };
        Self {
            buffers: vec![Buffer::new(values), Buffer::new(vec![0.0; length])],
            states: [state(), state()],
            length,
            slots,
            newest: AtomicU64::new(0),
            book: Mutex::new(Book::new(2, held)),
        }
    }

    /// Has room for lanes that read versions up to `lag` behind the newest: for
    /// [`Staleness::lag`](crate::Staleness::lag), at most [`LAG_MAX`]. Takes four bytes a parameter for each of them.
    #[must_use]
    pub fn with_lag(mut self, lag: usize) -> Self {
        let lag = lag.min(LAG_MAX as usize);
        if lag == self.lag() {
            return self;
        }
        let (length, held) = (self.length, std::mem::take(&mut self.book().held));
        let newest = self.book().newest;
        self.buffers.swap(0, newest);
        self.buffers.truncate(1);
        self.buffers.resize_with(2 + lag, || Buffer::new(vec![0.0; length]));
        let newest_state = self.book().newest_state;
        self.states.swap(0, newest_state);
        self.book = Mutex::new(Book::new(2 + lag, held));
        self
    }

    /// How many versions behind the newest may be read while the next one is written.
    pub fn lag(&self) -> usize {
        self.buffers.len() - 2
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

    /// The complete versions that are here: the newest and, until the next is begun, one more than the
    /// [lag](Self::lag) before it; then as many as that.
    pub(crate) fn versions(&self) -> RangeInclusive<u64> {
        let book = self.book();
        let newest = self.version();
        // There is always one, and never more of them than versions from 0 on.
        newest - (book.complete as u64 - 1)..=newest
    }

    /// A complete version, to be read in place, with its state if that is here. Whoever reads a version must be done
    /// before its buffer is needed.
    ///
    /// # Errors
    /// If that version is not complete, or not here any more.
    pub fn read(&self, version: u64) -> Result<ReadGuard<'_>> {
        let mut book = self.book();
        let (back, buffer) = self.buffer_of(&book, version)?;
        let state = book.state_buffer(back);
        Ok(self.reading(&mut book, version, buffer, state))
    }

    /// As [`read`](Self::read), without the state: what lanes do, who may lag behind.
    ///
    /// # Errors
    /// If that version is not complete, or not here any more.
    pub(crate) fn read_values(&self, version: u64) -> Result<ReadGuard<'_>> {
        let mut book = self.book();
        let (_, buffer) = self.buffer_of(&book, version)?;
        Ok(self.reading(&mut book, version, buffer, None))
    }

    /// The newest complete version without its state, for lanes.
    pub(crate) fn latest_values(&self) -> ReadGuard<'_> {
        let mut book = self.book();
        let (version, buffer) = (self.version(), book.newest);
        self.reading(&mut book, version, buffer, None)
    }

    /// The newest complete version, to be read in place. Not for use during an iteration: an owner that finds a version
    /// or its state still being read when it needs the buffer ends the iteration with an error.
    pub fn latest(&self) -> ReadGuard<'_> {
        let mut book = self.book();
        let (version, buffer, state) = (self.version(), book.newest, book.newest_state);
        self.reading(&mut book, version, buffer, Some(state))
    }

    /// Exclusive access to `range` of the version after the newest, and to the same range of the version before it for
    /// reading. The version is complete once all ranges are [finished](RangeGuard::finish).
    ///
    /// Never waits. The first claim of a version gives up the one whose buffer it is written into, and the state before
    /// the newest.
    ///
    /// # Errors
    /// If `version` is not the one after the newest complete one; if the range is empty, goes beyond the parameters, or
    /// overlaps one that is claimed or finished; if somebody still reads the version whose buffer is to be written.
    pub fn claim(&self, version: u64, range: Range<usize>) -> Result<RangeGuard<'_>> {
        let mut book = self.book();
        if version.checked_sub(1) != Some(self.version()) {
            return Err(self.not_next(version));
        }
        self.claiming(&mut book, version, range, true)
    }

    /// Exclusive access to all parameters and all their state, to be written from elsewhere: once
    /// [finished](RangeGuard::finish), they are `version` and the only one. Until then the newest version stays as it
    /// is, and if the guard is dropped instead it stays the newest. What was written of the version after it is
    /// forgotten.
    ///
    /// # Errors
    /// If ranges are claimed, if somebody reads what would be written over, or if there are no parameters.
    pub(crate) fn install(&self, version: u64) -> Result<RangeGuard<'_>> {
        self.installing(version, false)
    }

    /// As [`install`](Self::install), of the version after the newest, where the versions before it stay.
    ///
    /// # Errors
    /// As [`install`](Self::install), and if `version` is not the one after the newest.
    pub(crate) fn install_next(&self, version: u64) -> Result<RangeGuard<'_>> {
        self.installing(version, true)
    }

    fn installing(&self, version: u64, follows: bool) -> Result<RangeGuard<'_>> {
        let mut book = self.book();
        let is_next = version.checked_sub(1) == Some(self.version());
        if follows && !is_next {
            return Err(self.not_next(version));
        }
        let written = std::mem::take(&mut book.held.next);
        book.forget_next()?;
        if is_next {
            // State that was written of this very version stays: what is installed are the parameters.
            book.held.next = written;
        }
        self.claiming(&mut book, version, 0..self.length, follows)
    }

    /// Replaces the state in `slot` of the parameters from `start` on, in the newest version: for an owner that takes a
    /// shard over. What was written of the version after it is forgotten.
    ///
    /// # Errors
    /// If `version` is not the newest complete one, if there is no such slot or range, or if somebody reads that
    /// version or has claimed a range of the next.
    pub fn install_state(&self, version: u64, slot: usize, start: usize, state: &[f32]) -> Result<()> {
        let mut book = self.book();
        let newest = self.version();
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
        if book.state_is_read() {
            return Err(out_of_order(format!(
                "the state of version {version} was to be replaced while it was read"
            )));
        }
        book.forget_next()?;
        self.write_state(&book, slot, start..end, state);
        if slot + 1 == self.slots {
            book.held.newest.add(start..end);
        }
        Ok(())
    }

    /// The versions for which this process has the state of a range: what an owner of it could go on from.
    pub(crate) fn state_versions(&self, range: &Range<usize>) -> Vec<u64> {
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
    pub(crate) fn rewind(&self, version: u64) -> Result<()> {
        let mut book = self.book();
        let (back, _) = self.buffer_of(&book, version)?;
        book.forget_next()?;
        book.go_back(back);
        self.newest.store(version, Ordering::Release);
        Ok(())
    }

    /// Begins a job at `version`: the newest values are that version from now on. What was begun after them is
    /// forgotten.
    ///
    /// # Errors
    /// If ranges are claimed.
    pub(crate) fn begin(&self, version: u64) -> Result<()> {
        let mut book = self.book();
        book.forget_next()?;
        if version != self.version() {
            book.keep_newest();
            self.newest.store(version, Ordering::Release);
        }
        Ok(())
    }

    /// Whether something of a range of the version after the newest is written, or being written.
    pub(crate) fn is_claimed(&self, range: &Range<usize>) -> bool {
        self.book().is_taken(range)
    }

    /// How far before the newest a complete version is, and its buffer.
    fn buffer_of(&self, book: &Book, version: u64) -> Result<(u64, usize)> {
        let newest = self.version();
        let back = newest.checked_sub(version);
        let found = back.and_then(|back| Some((back, book.buffer(back)?)));
        found.ok_or_else(|| {
            let oldest = newest - (book.complete as u64 - 1);
            out_of_order(format!(
                "version {version} of the parameters was asked for when {oldest} to {newest} were here"
            ))
        })
    }

    fn reading(&self, book: &mut Book, version: u64, buffer: usize, state: Option<usize>) -> ReadGuard<'_> {
        book.read(buffer, state);
        ReadGuard::new(self, version, buffer, state)
    }

    fn claiming(&self, book: &mut Book, version: u64, range: Range<usize>, follows: bool) -> Result<RangeGuard<'_>> {
        book.claim(version, &range, self.length)?;
        let values = (book.newest, book.next());
        Ok(RangeGuard::new(
            self,
            version,
            range,
            values,
            book.newest_state,
            follows,
        ))
    }

    fn not_next(&self, version: u64) -> EngineError {
        out_of_order(format!(
            "version {version} of the parameters was to be written when version {} was the newest",
            self.version()
        ))
    }

    /// Where a range of a slot lies in a buffer of state.
    fn slot(&self, slot: usize, range: Range<usize>) -> Range<usize> {
        slot * self.length + range.start..slot * self.length + range.end
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unpoisoned()
    }
}

fn out_of_order(what: String) -> EngineError {
    EngineError::invalid(
        what,
        "during an iteration leave the parameters to its lanes and shards; otherwise drop guards when they have served",
    )
}

#[cfg(test)]
mod tests;
