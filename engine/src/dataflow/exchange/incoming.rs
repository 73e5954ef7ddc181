//! What comes from other processes, and where it is put.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use distdl_storage::Unpoisoned;

use super::{Exchange, packed};
use crate::cluster::link::Body;
use crate::cluster::member::Receive;
use crate::cluster::shared_memory::View;
use crate::cluster::wire::{Header, Kind, WireError};
use crate::iteration::{StepReport, Tallies};

type Taken = std::result::Result<(), WireError>;

/// What has come from other processes.
#[derive(Default)]
pub(super) struct Arrived {
    /// For each step, by the first lane of the node.
    pub(super) updates: BTreeMap<u64, BTreeMap<usize, Arc<Partial>>>,
    /// Buffers that have served.
    pub(super) spare: Vec<Vec<f32>>,
    /// For each step, the sums over shards of which this process keeps a copy, with their reports.
    pub(super) sums: BTreeMap<u64, BTreeMap<usize, (Tallies, Vec<f32>)>>,
    /// The version that was to be given to this process, once it is here.
    pub(super) given: Option<u64>,
    /// States that have been given to this process: (version, shard, slot).
    pub(super) states: BTreeSet<(u64, usize, usize)>,
    /// The newest version of ranks that attend.
    pub(super) attended: HashMap<usize, u64>,
    /// Whether this process has all that the first step reads.
    pub(super) ready: bool,
}

/// The sum over some lanes, for the shards of this process.
pub(crate) struct Partial {
    /// Which lanes.
    pub lanes: Range<usize>,
    /// Their tallies, summed.
    pub tallies: Tallies,
    values: Values,
}

enum Values {
    /// Over the ranges of this process's shards, one after the other.
    Packed(Vec<f32>),
    /// A vector over all parameters, which begins here in the memory of the process that wrote it.
    InPlace(Arc<View>, usize),
}

impl Partial {
    /// The values of a shard of this process: `range` of the parameters, which begins at `offset` among its shards.
    pub(crate) fn of(&self, range: &Range<usize>, offset: usize) -> &[f32] {
        match &self.values {
            Values::Packed(values) => &values[offset..offset + range.len()],
            // That the whole vector lies in the view was checked when it came.
            Values::InPlace(view, start) => view.read(start + range.start..start + range.end).unwrap_or_default(),
        }
    }
}

fn is_part_of_a_step(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Update | Kind::Piece | Kind::Shard | Kind::Sum | Kind::Ring | Kind::Sequence | Kind::Measures
    )
}

impl Receive for Exchange {
    fn receive(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> Taken {
        let sealed = self.sealed.read().unpoisoned();
        if *sealed {
            return Ok(());
        }
        match header.kind {
            kind if is_part_of_a_step(kind) && !self.is_ready() => Ok(()),
            Kind::Update => self.take_update(rank, header, Some(body)),
            Kind::Shard => {
                self.wait_for_version(header.words[0]);
                self.take_shard(rank, header, Some(body))
            }
            Kind::Ring => {
                self.take_letters();
                Ok(())
            }
            Kind::State => self.take_state(header, body),
            Kind::Share => {
                self.take_share(rank, header);
                Ok(())
            }
            Kind::Shared => {
                self.take_shared(rank);
                Ok(())
            }
            Kind::Sum => self.take_copy(rank, header, body),
            Kind::Attend => {
                self.take_attendance(rank, header.words[0]);
                Ok(())
            }
            Kind::Sequence => {
                self.receive_slot(rank, header);
                Ok(())
            }
            Kind::Measures => self.take_measures(rank, header, body),
            Kind::Piece => self.take_piece(rank, header, body),
            Kind::Report => self.take_reports(body),
            _ => Ok(()),
        }
    }

    fn cancel(&self) {
        self.stop();
    }
}

impl Exchange {
    /// The updates of a step from other processes, once all are here, if `local` are here of this one. The caller gives
    /// them back.
    pub(crate) fn remote(&self, step: u64, local: usize) -> Option<Vec<Arc<Partial>>> {
        let is_asynchronous = self.iteration.staleness.is_asynchronous();
        if self.expected.is_empty() && self.attending.is_empty() && !is_asynchronous {
            return Some(Vec::new());
        }
        let arrived = self.arrived.lock().unpoisoned();
        let has_come = |rank: &usize| arrived.attended.get(rank).is_some_and(|version| *version >= step);
        if !self
            .attending
            .iter()
            .all(|rank| *rank == self.team.rank || has_come(rank))
        {
            return None;
        }
        if is_asynchronous {
            // Whoever they are from.
            let updates = arrived.updates.get(&step);
            let complete = local + updates.map_or(0, BTreeMap::len) == self.iteration.lanes;
            return complete.then(|| updates.into_iter().flat_map(BTreeMap::values).cloned().collect());
        }
        if self.expected.is_empty() {
            return Some(Vec::new());
        }
        let updates = arrived.updates.get(&step)?;
        (updates.len() == self.expected.len()).then(|| updates.values().cloned().collect())
    }

    /// Takes the updates of a step back: its version is complete, so all workers of this process have used them.
    pub(crate) fn release(&self, step: u64) {
        self.measures.forget(step);
        self.fragments.forget(step);
        if self.expected.is_empty() && !self.iteration.staleness.is_asynchronous() {
            return;
        }
        let mut arrived = self.arrived.lock().unpoisoned();
        let Some(updates) = arrived.updates.remove(&step) else {
            return;
        };
        let partials = updates.into_values().filter_map(Arc::into_inner);
        arrived
            .spare
            .extend(partials.filter_map(|partial| match partial.values {
                Values::Packed(values) => Some(values),
                Values::InPlace(..) => None,
            }));
    }

    /// The sum over a shard's updates of a step, from its owner.
    pub(crate) fn take_sum(&self, step: u64, shard: usize) -> Option<(Tallies, Vec<f32>)> {
        let mut arrived = self.arrived.lock().unpoisoned();
        let sum = arrived.sums.get_mut(&step)?.remove(&shard)?;
        arrived.sums.retain(|kept, _| *kept >= step);
        Some(sum)
    }

    /// Takes a buffer back.
    pub(crate) fn give_back(&self, buffer: Vec<f32>) {
        self.arrived.lock().unpoisoned().spare.push(buffer);
    }

    fn take_attendance(&self, rank: usize, version: u64) {
        let mut arrived = self.arrived.lock().unpoisoned();
        let newest = arrived.attended.entry(rank).or_default();
        *newest = version.max(*newest);
        drop(arrived);
        self.wake();
    }

    /// Waits until this process has what the first step reads: it may be at a version before or behind that, and would
    /// take a part of a step that others have begun already for one that is over. False if the iteration ended before.
    fn is_ready(&self) -> bool {
        self.wait(|arrived| arrived.ready)
    }

    /// An update for this process's shards.
    fn take_update(&self, rank: usize, header: &Header, body: Option<&mut Body<'_>>) -> Taken {
        let [step, start, length, ..] = header.words;
        let (start, length) = (start as usize, length as usize);
        let is_asynchronous = self.iteration.staleness.is_asynchronous();
        let is_known = match self.expected.get(&start) {
            _ if is_asynchronous => length == 1 && start < self.iteration.lanes,
            known => known.is_some_and(|(node, from)| node.len() == length && *from == rank),
        };
        let steps = self.parameters.version()..self.iteration.last_step();
        if !is_known || !steps.contains(&step) || self.has_update(step, start) {
            // A lane's second copy; or no part of this iteration.
            return Ok(());
        }
        let values = match header.words[3] {
            packed::IN_PLACE => {
                let at = header.words[4] as usize;
                let view = self.view(rank, at..at.saturating_add(self.parameters.len()));
                Values::InPlace(view.ok_or(WireError::NoFrame)?, at)
            }
            number => {
                let (mut values, front) = self.arrived_of(step, start, self.own_length());
                if header.words[4] != front as u64 {
                    return Err(WireError::NoFrame);
                }
                packed::read(number, body.ok_or(WireError::NoFrame)?, &mut values[..front])?;
                Values::Packed(values)
            }
        };
        let partial = Partial {
            lanes: start..start + length,
            tallies: Tallies(header.tallies),
            values,
        };
        let mut arrived = self.arrived.lock().unpoisoned();
        let updates = arrived.updates.entry(step).or_default();
        updates.insert(start, Arc::new(partial));
        let complete = is_asynchronous || updates.len() == self.expected.len();
        drop(arrived);
        if complete {
            self.wake();
        }
        Ok(())
    }

    /// Whether an update of another process is here.
    pub(super) fn has_update(&self, step: u64, start: usize) -> bool {
        let arrived = self.arrived.lock().unpoisoned();
        arrived
            .updates
            .get(&step)
            .is_some_and(|updates| updates.contains_key(&start))
    }

    /// So many values of an update, in a buffer that has served.
    fn take_values(&self, number: u64, length: usize, body: &mut Body<'_>) -> std::result::Result<Vec<f32>, WireError> {
        let mut values = self.buffer(length);
        packed::read(number, body, &mut values)?;
        Ok(values)
    }

    /// A buffer of so many values, one that has served if there is one.
    pub(super) fn buffer(&self, length: usize) -> Vec<f32> {
        let mut buffer = self.arrived.lock().unpoisoned().spare.pop().unwrap_or_default();
        buffer.resize(length, 0.0);
        buffer
    }

    /// How many values an update has for this process's shards.
    pub(super) fn own_length(&self) -> usize {
        self.own.values().map(ExactSizeIterator::len).sum()
    }

    pub(super) fn is_owned_by(&self, shard: usize, rank: usize) -> bool {
        let owner = self.placement.shards.get(shard);
        owner.is_some_and(|worker| self.team.rank_of(*worker) == rank)
    }

    /// New values of another process's shard.
    fn take_shard(&self, rank: usize, header: &Header, body: Option<&mut Body<'_>>) -> Taken {
        let [version, shard, ..] = header.words;
        let shard = shard as usize;
        if !self.is_owned_by(shard, rank) || self.ended() {
            return Ok(());
        }
        let range = self.iteration.shard_range(shard, self.parameters.len());
        let mut claimed = match self.claim(version, range.clone()) {
            Ok(claimed) => claimed,
            Err(error) => {
                let is_second_copy = version <= self.parameters.version() || self.parameters.is_claimed(&range);
                if !is_second_copy && !self.ended() {
                    // Nobody sends it again.
                    self.fail(error);
                }
                return Ok(());
            }
        };
        match header.words[2] {
            0 => body.ok_or(WireError::NoFrame)?.take_floats(claimed.after())?,
            _ => {
                let at = header.words[3] as usize;
                let range = at..at.saturating_add(claimed.after().len());
                let view = self.view(rank, range.clone()).ok_or(WireError::NoFrame)?;
                claimed.after().copy_from_slice(view.read(range).unwrap_or_default());
            }
        }
        if self.reports(shard) {
            self.report(StepReport {
                step: version - 1,
                tallies: Tallies(header.tallies),
            });
        }
        if claimed.finish() {
            self.release(version - 1);
            self.wake();
        }
        Ok(())
    }

    /// Whether a version can be written here: a process without lanes may be behind. True as well if it is too late.
    fn has_reached(&self, version: u64) -> bool {
        self.parameters.version() + 1 >= version || self.ended()
    }

    fn wait_for_version(&self, version: u64) {
        let mut arrived = self.arrived.lock().unpoisoned();
        while !self.has_reached(version) {
            arrived = self.changed.wait(arrived).unpoisoned();
        }
    }

    /// Takes what a frame without payload says that came through shared memory. False if it is too early for it: a
    /// worker that looks for letters must not wait for what others of them bring.
    pub(super) fn take_letter(&self, rank: usize, header: &Header) -> std::result::Result<bool, WireError> {
        match header.kind {
            Kind::Update => self.take_update(rank, header, None)?,
            Kind::Shard if !self.has_reached(header.words[0]) => return Ok(false),
            Kind::Shard => self.take_shard(rank, header, None)?,
            Kind::Attend => self.take_attendance(rank, header.words[0]),
            Kind::Sequence => self.receive_slot(rank, header),
            _ => {}
        }
        Ok(true)
    }

    /// The sum over a shard of which this process keeps a copy.
    fn take_copy(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> Taken {
        let [step, shard, ..] = header.words;
        let shard = shard as usize;
        let steps = self.parameters.version()..self.iteration.last_step();
        if !self.is_owned_by(shard, rank)
            || self.copies.get(shard) != Some(&Some(self.team.rank))
            || !steps.contains(&step)
        {
            return Ok(());
        }
        let range = self.iteration.shard_range(shard, self.parameters.len());
        let values = self.take_values(header.words[2], range.len(), body)?;
        let sum = (Tallies(header.tallies), values);
        self.arrived
            .lock()
            .unpoisoned()
            .sums
            .entry(step)
            .or_default()
            .entry(shard)
            .or_insert(sum);
        self.wake();
        Ok(())
    }
}
