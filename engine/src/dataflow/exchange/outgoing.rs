//! What a process sends to others: updates to the owners of shards, new values of its own shards to everybody.

use std::ops::Range;

use distdl_storage::Unpoisoned;

use super::{Exchange, Owner, packed};
use crate::cluster::wire::{Header, Kind};
use crate::iteration::{StepReport, Tallies};

impl Exchange {
    /// Pushes the sum over a node of this process's lanes to the owner of other shards.
    /// Of what is sent already nothing is in `values`.
    pub(crate) fn push(&self, owner: &Owner, step: u64, lanes: &Range<usize>, tallies: Tallies, values: &[&[f32]]) {
        let length: usize = values.iter().map(|values| values.len()).sum();
        let words = [
            step,
            lanes.start as u64,
            lanes.len() as u64,
            packed::FULL,
            length as u64,
            0,
        ];
        let mut header = Header::new(Kind::Update, words);
        header.tallies = tallies.0;
        self.send_values(owner.rank, header, 3, values);
    }

    /// Sends values as the iteration's updates are sent, and says how in a word of the header. Returns in how many
    /// bytes.
    pub(super) fn send_values(&self, rank: usize, mut header: Header, word: usize, values: &[&[f32]]) -> usize {
        let packed = packed::pack(self.iteration.updates, values);
        let payload: Vec<&[u8]> = match &packed {
            Some((number, bytes)) => {
                header.words[word] = *number;
                vec![bytes]
            }
            None => values.iter().map(|values| bytemuck::cast_slice(values)).collect(),
        };
        let bytes = payload.iter().map(|values| values.len()).sum();
        self.sent(bytes);
        self.team.send(rank, header, &payload);
        bytes
    }

    /// Writes a sum over several lanes of this process, as far as an owner needs it, where that one reads it in place.
    /// Says where the vector begins that it is a part of.
    pub(crate) fn sum_in_place(
        &self,
        owner: &Owner,
        step: u64,
        lanes: &Range<usize>,
        sum: &mut dyn FnMut(&Range<usize>, &mut [f32]),
    ) -> Option<usize> {
        if !self.shares_with(owner.rank) {
            return None;
        }
        let sets = &self.shared_memory.as_ref()?.sums;
        let mut sums = sets[step as usize % sets.len()].lock().unpoisoned();
        let piece = sums.get_mut(&lanes.start)?;
        for range in &owner.ranges {
            sum(range, &mut piece[range.clone()]);
        }
        Some(piece.start())
    }

    /// Tells the owner of other shards where an update of this process lies.
    pub(crate) fn push_in_place(&self, owner: &Owner, step: u64, lanes: &Range<usize>, tallies: Tallies, start: usize) {
        let words = [
            step,
            lanes.start as u64,
            lanes.len() as u64,
            packed::IN_PLACE,
            start as u64,
            0,
        ];
        let mut header = Header::new(Kind::Update, words);
        header.tallies = tallies.0;
        self.sent(size_of::<f32>() * owner.ranges.iter().map(Range::len).sum::<usize>());
        self.tell(owner.rank, header);
    }

    /// Sends the new values of a shard to all other processes; to the one that keeps a copy of its state the sum that
    /// they were made with.
    pub(crate) fn publish(&self, report: &StepReport, shard: usize, sum: &[f32], values: &[f32]) {
        let version = report.step + 1;
        let start = self.put_out(version, shard, values);
        let keeper = self.copies.get(shard).copied().flatten();
        if let Some(rank) = keeper {
            // First: if this process dies now, nobody is further than the one that can stand in for it.
            let mut header = Header::new(Kind::Sum, [report.step, shard as u64, packed::FULL, 0, 0, 0]);
            header.tallies = report.tallies.0;
            self.send_values(rank, header, 2, &[sum]);
        }
        for rank in self.team.others().filter(|rank| Some(*rank) != keeper) {
            let in_place = start.filter(|_| self.shares_with(rank) && self.keeps_up(rank));
            let words = [
                version,
                shard as u64,
                u64::from(in_place.is_some()),
                in_place.unwrap_or(0) as u64,
                0,
                0,
            ];
            let mut header = Header::new(Kind::Shard, words);
            header.tallies = report.tallies.0;
            self.sent(size_of_val(values));
            match in_place {
                Some(_) => self.tell(rank, header),
                None => self.team.send(rank, header, &[bytemuck::cast_slice(values)]),
            }
        }
    }

    /// Writes a shard's new values where others read them in place.
    fn put_out(&self, version: u64, shard: usize, values: &[f32]) -> Option<usize> {
        let shared_memory = self.shared_memory.as_ref()?;
        self.team
            .others()
            .find(|rank| self.shares_with(*rank) && self.keeps_up(*rank))?;
        let mut outbox = shared_memory.outboxes[version as usize % shared_memory.outboxes.len()]
            .lock()
            .unpoisoned();
        let piece = outbox.get_mut(&shard)?;
        piece.copy_from_slice(values);
        Some(piece.start())
    }

    /// Tells the owners of other shards that this process has all of a version.
    pub(crate) fn attend(&self, version: u64) {
        for owner in &self.owners {
            let header = Header::new(Kind::Attend, [version, 0, 0, 0, 0, 0]);
            self.tell(owner.rank, header);
        }
    }
}
