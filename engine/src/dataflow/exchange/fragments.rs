//! Updates that are sent while they are still being computed: a backward pass has its last layers first, so ends of an
//! update are on their way when the rest is not there yet.
//!
//! Who reads an update in place needs no pieces of it. For others the last of a node's lanes sums and sends as far as
//! it has come; what is left goes with the [update](Kind::Update) itself, which says how much of it that is.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use distdl_storage::Unpoisoned;

use super::{Exchange, Owner, packed};
use crate::cluster::link::Body;
use crate::cluster::wire::{Header, Kind, WireError};
use crate::dataflow::vector::Vector;
use crate::error::EngineError;
use crate::tree::{self, PartialSum};

/// What is known of pieces.
#[derive(Default)]
pub(super) struct UpdateFragments {
    /// What is sent of this process's updates, by step and first lane of the node.
    sending: Mutex<BTreeMap<(u64, usize), Sending>>,
    /// What has come of others' updates, likewise.
    arriving: Mutex<BTreeMap<(u64, usize), Arriving>>,
}

/// A node of this process's lanes.
struct Sending {
    /// What its lanes have computed, as long as one of them is still computing.
    computed: BTreeMap<usize, Arc<Vector>>,
    /// How many lanes have.
    lanes: usize,
    /// From here on it is sent.
    front: usize,
    /// Whom it is sent to: those who did not read in place when the first piece was sent.
    to: Vec<usize>,
}

/// A buffer of which all from `front` on is here, over the ranges of this process's shards.
struct Arriving {
    values: Vec<f32>,
    front: usize,
}

/// How many values of ascending ranges lie before a parameter.
fn before(ranges: &[Range<usize>], parameter: usize) -> usize {
    let lengths = ranges
        .iter()
        .map(|range| parameter.clamp(range.start, range.end) - range.start);
    lengths.sum()
}

impl UpdateFragments {
    /// Forgets the steps up to this one.
    pub(super) fn forget(&self, step: u64) {
        self.sending.lock().unpoisoned().retain(|(kept, _), _| *kept > step);
        self.arriving.lock().unpoisoned().retain(|(kept, _), _| *kept > step);
    }
}

impl Exchange {
    /// Whether updates are sent in pieces, as far as they go over links.
    fn sends_pieces(&self) -> bool {
        !self.iteration.staleness.is_asynchronous() && self.owners.iter().any(|owner| !self.shares_with(owner.rank))
    }

    fn node_of(&self, lane: usize) -> Option<&Range<usize>> {
        self.nodes.iter().find(|node| node.contains(&lane))
    }

    /// A lane has computed the end of its update, from `start` on: sends what of it completes a piece.
    pub(crate) fn send_end(&self, step: u64, lane: usize, start: usize, end: &[f32]) {
        let Some(node) = self.node_of(lane).filter(|_| self.sends_pieces()) else {
            return;
        };
        let Some((front, others)) = self.waits_for(step, node) else {
            return;
        };
        let length = front.saturating_sub(start);
        if length < self.iteration.piece_min.max(1) {
            return;
        }
        let Some(own) = end.get(..length) else {
            return self.fail(EngineError::invalid(
                format!(
                    "lane {lane} has shown {} values of its update from {start} on, and has {length}",
                    end.len()
                ),
                "show all of the update from the place that is named",
            ));
        };
        let own = self.iteration.updates.rounded(own);
        let mut leaves: Vec<PartialSum<'_>> = others
            .iter()
            .map(|(lane, update)| PartialSum::of_lane(*lane, &update[start..front]))
            .collect();
        leaves.push(PartialSum::of_lane(lane, &own));
        leaves.sort_unstable_by_key(|part| part.lanes.start);
        let mut sum = Vec::new();
        if node.len() > 1 {
            sum.resize(own.len(), 0.0);
            tree::sum(&leaves, node.clone(), self.iteration.updates, &mut sum);
        }
        let values = if node.len() > 1 { &sum[..] } else { &own };
        for owner in self.move_front(step, node, start) {
            self.send_piece(owner, (step, node.start), start..front, values);
        }
    }

    /// What the other lanes of a node have computed, and from where on the sum is sent, if only one of them still
    /// computes.
    fn waits_for(&self, step: u64, node: &Range<usize>) -> Option<(usize, BTreeMap<usize, Arc<Vector>>)> {
        match self.fragments.sending.lock().unpoisoned().get(&(step, node.start)) {
            Some(known) if known.lanes + 1 == node.len() => Some((known.front, known.computed.clone())),
            None if node.len() == 1 => Some((self.parameters.len(), BTreeMap::new())),
            _ => None,
        }
    }

    /// Notes that a node's sum is sent from `start` on. To whom stays as it was for the first piece: an owner that
    /// begins to read in place meanwhile may still be sent the rest.
    fn move_front(&self, step: u64, node: &Range<usize>, start: usize) -> impl Iterator<Item = &Owner> + use<'_> {
        let mut sending = self.fragments.sending.lock().unpoisoned();
        let known = sending.entry((step, node.start)).or_insert_with(|| self.unsent());
        if known.to.is_empty() {
            let owners = self.owners.iter().map(|owner| owner.rank);
            known.to = owners.filter(|rank| !self.shares_with(*rank)).collect();
        }
        known.front = start;
        let to = known.to.clone();
        self.owners.iter().filter(move |owner| to.contains(&owner.rank))
    }

    fn unsent(&self) -> Sending {
        Sending {
            computed: BTreeMap::new(),
            lanes: 0,
            front: self.parameters.len(),
            to: Vec::new(),
        }
    }

    /// Sends an owner its part of the values of a range of an update.
    fn send_piece(&self, owner: &Owner, (step, lane): (u64, usize), range: Range<usize>, values: &[f32]) {
        let (from, to) = (before(&owner.ranges, range.start), before(&owner.ranges, range.end));
        if from == to {
            return;
        }
        let shared = owner.ranges.iter().map(|owned| {
            let start = owned.start.clamp(range.start, range.end) - range.start;
            start..owned.end.clamp(range.start, range.end) - range.start
        });
        let parts: Vec<&[f32]> = shared.map(|shared| &values[shared]).collect();
        let words = [step, lane as u64, packed::FULL, from as u64, to as u64, 0];
        let bytes = self.send_values(owner.rank, Header::new(Kind::Piece, words), 2, &parts);
        self.early_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A lane has computed its update.
    pub(crate) fn computed(&self, step: u64, lane: usize, update: &Arc<Vector>) {
        let Some(node) = self.node_of(lane).filter(|node| node.len() > 1) else {
            return;
        };
        let mut sending = self.fragments.sending.lock().unpoisoned();
        // What has begun is counted to its end, also if all owners have begun to read in place.
        if !sending.contains_key(&(step, node.start)) && !self.sends_pieces() {
            return;
        }
        let known = sending.entry((step, node.start)).or_insert_with(|| self.unsent());
        known.computed.insert(lane, Arc::clone(update));
        known.lanes += 1;
        if known.lanes == node.len() {
            // Lanes are to have their vectors back as soon as owners are done with them.
            known.computed.clear();
        }
    }

    /// The parameter from which on a node's sum is sent already to an owner.
    pub(crate) fn sent_from(&self, step: u64, node: &Range<usize>, owner: &Owner) -> usize {
        let sending = self.fragments.sending.lock().unpoisoned();
        let known = sending.get(&(step, node.start));
        let known = known.filter(|known| known.to.contains(&owner.rank));
        known.map_or(self.parameters.len(), |known| known.front)
    }

    /// A buffer for an update, with the values that have come already, and how many before those are still to come.
    pub(super) fn arrived_of(&self, step: u64, lane: usize, length: usize) -> (Vec<f32>, usize) {
        match self.fragments.arriving.lock().unpoisoned().remove(&(step, lane)) {
            Some(Arriving { values, front }) => (values, front),
            None => (self.buffer(length), length),
        }
    }

    /// A piece of an update for this process's shards. On a link they come in order, the last values first.
    pub(super) fn take_piece(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> Result<(), WireError> {
        let [step, lane, number, from, to, _] = header.words;
        let (lane, from, to) = (lane as usize, from as usize, to as usize);
        let is_known = self.expected.get(&lane).is_some_and(|(_, sender)| *sender == rank);
        let steps = self.parameters.version()..self.iteration.last_step();
        if !is_known || !steps.contains(&step) {
            return Ok(());
        }
        if self.has_update(step, lane) {
            return Ok(());
        }
        let (mut values, front) = self.arrived_of(step, lane, self.own_length());
        if to != front || from > to {
            return Err(WireError::NoFrame);
        }
        packed::read(number, body, &mut values[from..to])?;
        self.fragments
            .arriving
            .lock()
            .unpoisoned()
            .insert((step, lane), Arriving { values, front: from });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::before;

    #[test]
    fn values_before_a_parameter_are_counted_in_ranges_alone() {
        let ranges = [3..5, 8..12];
        let counts: Vec<usize> = (0..14).map(|parameter| before(&ranges, parameter)).collect();
        assert_eq!(counts, [0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 6]);
    }
}
