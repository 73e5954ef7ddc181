//! The order of updates where it depends on time: one rank gives every update that is ready the next place in a step.

use std::collections::HashMap;
use std::sync::Mutex;

use distdl_storage::Unpoisoned;

use super::Exchange;
use crate::cluster::wire::{Header, Kind};
use crate::iteration::Iteration;

/// A place in a step: which step, and which of as many places as there are lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UpdateSlot {
    /// The step.
    pub step: u64,
    /// From 0 on.
    pub place: usize,
}

/// Who comes next.
pub(super) struct Sequencer {
    lanes: u64,
    /// Places given, counted through from step 0 on; of the rank that gives them.
    given: Mutex<u64>,
    /// Places that were given to lanes of this process.
    told: Mutex<HashMap<usize, UpdateSlot>>,
}

impl Sequencer {
    pub(super) fn new(iteration: &Iteration) -> Self {
        Self {
            lanes: iteration.lanes as u64,
            given: Mutex::new(iteration.first_step * iteration.lanes as u64),
            told: Mutex::default(),
        }
    }

    /// The next place is the first one of this step.
    pub(super) fn begin(&self, step: u64) {
        *self.given.lock().unpoisoned() = step * self.lanes;
    }

    fn next(&self) -> UpdateSlot {
        let mut given = self.given.lock().unpoisoned();
        let slot = UpdateSlot {
            step: *given / self.lanes,
            place: (*given % self.lanes) as usize,
        };
        *given += 1;
        slot
    }
}

impl Exchange {
    /// Asks for a place for the update of a lane. It is here at once if this process gives them; otherwise operators
    /// are woken when it has come.
    pub(crate) fn request_slot(&self, lane: usize) {
        let giver = self.giver();
        if giver == self.team.rank {
            self.sequencer
                .told
                .lock()
                .unpoisoned()
                .insert(lane, self.sequencer.next());
        } else {
            self.tell(giver, Header::new(Kind::Sequence, [lane as u64, 0, 0, 0, 0, 0]));
        }
    }

    /// The rank that gives places: one for which every version waits in any case.
    fn giver(&self) -> usize {
        let last = self.placement.shards.last();
        last.map_or(0, |worker| self.team.rank_of(*worker))
    }

    /// The place that was asked for, once it is here.
    pub(crate) fn take_slot(&self, lane: usize) -> Option<UpdateSlot> {
        self.sequencer.told.lock().unpoisoned().remove(&lane)
    }

    /// A lane of another process asks, or the rank that gives places answers.
    pub(super) fn receive_slot(&self, rank: usize, header: &Header) {
        let [lane, step, place, ..] = header.words;
        if self.giver() == self.team.rank {
            let UpdateSlot { step, place } = self.sequencer.next();
            self.tell_soon(rank, Header::new(Kind::Sequence, [lane, step, place as u64, 0, 0, 0]));
        } else {
            let slot = UpdateSlot {
                step,
                place: place as usize,
            };
            self.sequencer.told.lock().unpoisoned().insert(lane as usize, slot);
            self.wake();
        }
    }
}
