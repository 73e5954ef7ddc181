//! Who uses what of the parameters: which versions are here, where they lie, and every guard for as long as it lives.

use std::ops::Range;

use super::held::HeldState;
use super::out_of_order;
use crate::error::{EngineError, Result};

/// See the [module](self). The buffers of versions form a ring: the next version is written behind the newest.
#[derive(Debug)]
pub(super) struct Book {
    /// The buffer of the newest complete version.
    pub(super) newest: usize,
    /// How many complete versions are here, the newest included.
    pub(super) complete: usize,
    /// The buffer of the newest version's state; the next one's is written into the other.
    pub(super) newest_state: usize,
    /// Whether the state of the version before the newest is still whole.
    pub(super) previous_state: bool,
    /// Guards that read a buffer of parameters.
    readers: Vec<usize>,
    /// Guards that read a buffer of state.
    state_readers: [usize; 2],
    /// Ranges of the next version: none of them empty, no two of them overlapping.
    taken: Vec<Taken>,
    /// Where the optimizer's state is that of its version.
    pub(super) held: HeldState,
}

#[derive(Debug)]
struct Taken {
    range: Range<usize>,
    written: bool,
}

impl Book {
    /// One version in the first of `buffers` buffers.
    pub(super) fn new(buffers: usize, held: HeldState) -> Self {
        Self {
            newest: 0,
            complete: 1,
            newest_state: 0,
            previous_state: false,
            readers: vec![0; buffers],
            state_readers: [0; 2],
            taken: Vec::new(),
            held,
        }
    }

    /// The buffer of the version `back` before the newest, if that is here.
    pub(super) fn buffer(&self, back: u64) -> Option<usize> {
        let back = usize::try_from(back).ok().filter(|back| *back < self.complete)?;
        let buffers = self.readers.len();
        Some((self.newest + buffers - back) % buffers)
    }

    /// The buffer of the state of the version `back` before the newest, if that is here.
    pub(super) fn state_buffer(&self, back: u64) -> Option<usize> {
        match back {
            0 => Some(self.newest_state),
            1 => self.previous_state.then_some(1 - self.newest_state),
            _ => None,
        }
    }

    /// The buffer that the next version is written into.
    pub(super) fn next(&self) -> usize {
        (self.newest + 1) % self.readers.len()
    }

    pub(super) fn read(&mut self, buffer: usize, state: Option<usize>) {
        self.readers[buffer] += 1;
        state.into_iter().for_each(|state| self.state_readers[state] += 1);
    }

    pub(super) fn release(&mut self, buffer: usize, state: Option<usize>) {
        self.readers[buffer] -= 1;
        state.into_iter().for_each(|state| self.state_readers[state] -= 1);
    }

    /// Whether somebody reads the newest version's state.
    pub(super) fn state_is_read(&self) -> bool {
        self.state_readers[self.newest_state] > 0
    }

    /// Puts a claim of a range of the next version down, which reads the newest one. Gives up what that is written
    /// over.
    pub(super) fn claim(&mut self, version: u64, range: &Range<usize>, length: usize) -> Result<()> {
        if range.is_empty() || range.end > length {
            return Err(EngineError::invalid(
                format!("a claim of the range {range:?} of {length} parameters"),
                "claim a range that is not empty, within the parameters",
            ));
        }
        if self.readers[self.next()] > 0 || self.state_readers[1 - self.newest_state] > 0 {
            return Err(out_of_order(format!(
                "version {version} of the parameters was to be written over one that is still read"
            )));
        }
        let overlaps = |taken: &&Taken| taken.range.start < range.end && range.start < taken.range.end;
        if let Some(taken) = self.taken.iter().find(overlaps) {
            let state = if taken.written { "finished" } else { "claimed" };
            return Err(out_of_order(format!(
                "the range {range:?} of version {version} was to be written when {:?} was {state}",
                taken.range
            )));
        }
        self.complete = self.complete.min(self.readers.len() - 1);
        self.previous_state = false;
        self.held.previous.clear();
        self.read(self.newest, Some(self.newest_state));
        self.taken.push(Taken {
            range: range.clone(),
            written: false,
        });
        Ok(())
    }

    /// Whether something of a range of the next version is claimed or finished.
    pub(super) fn is_taken(&self, range: &Range<usize>) -> bool {
        let overlaps = |taken: &Taken| taken.range.start < range.end && range.start < taken.range.end;
        self.taken.iter().any(overlaps)
    }

    /// A claim is dropped: its range is to be claimed again.
    pub(super) fn release_unwritten(&mut self, range: &Range<usize>) {
        self.taken.retain(|taken| taken.range != *range);
        self.release(self.newest, Some(self.newest_state));
    }

    /// A claimed range is written. Whether by that the version is complete; then it is the newest, and where it
    /// `follows` the one before it, that one stays.
    pub(super) fn finish(&mut self, range: &Range<usize>, length: usize, follows: bool) -> bool {
        self.release(self.newest, Some(self.newest_state));
        let claimed = self.taken.iter_mut().find(|taken| taken.range == *range);
        claimed.into_iter().for_each(|claimed| claimed.written = true);
        let written = |taken: &Taken| if taken.written { taken.range.len() } else { 0 };
        if self.taken.iter().map(written).sum::<usize>() != length {
            return false;
        }
        self.taken.clear();
        self.newest = self.next();
        self.complete = if follows { self.complete + 1 } else { 1 };
        self.newest_state = 1 - self.newest_state;
        self.previous_state = follows;
        self.held.advance(follows);
        true
    }

    /// Makes the version `back` before the newest, which is here, the newest again.
    pub(super) fn go_back(&mut self, back: u64) {
        let Some(buffer) = self.buffer(back).filter(|_| back > 0) else {
            return;
        };
        self.complete -= back as usize;
        self.newest = buffer;
        if back == 1 && self.previous_state {
            self.held.go_back();
            self.newest_state = 1 - self.newest_state;
        } else {
            self.held = HeldState::default();
        }
        self.previous_state = false;
    }

    /// Gives up all versions but the newest.
    pub(super) fn keep_newest(&mut self) {
        self.complete = 1;
        self.previous_state = false;
        self.held.previous.clear();
    }

    /// Forgets what was written of the next version.
    pub(super) fn forget_next(&mut self) -> Result<()> {
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
}
