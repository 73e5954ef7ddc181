//! What shards measure before a step is applied: every process that applies it has the measures of all shards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use distdl_storage::Unpoisoned;

use super::Exchange;
use crate::cluster::link::Body;
use crate::cluster::wire::{Header, Kind, WireError};
use crate::square_sum::{SQUARE_SUM_WORDS, SquareSum};

/// The measures that are here.
pub(super) struct Measures {
    /// Shards that measure.
    shards: usize,
    /// By step and round.
    rounds: Mutex<BTreeMap<(u64, usize), Round>>,
    /// The other ranks that apply steps, to shards of their own or to copies.
    sends_to: Vec<usize>,
}

/// What is known of one round. The sums are exact: the order in which shards come does not show.
#[derive(Default)]
struct Round {
    shards: BTreeSet<usize>,
    sums: Vec<SquareSum>,
}

impl Measures {
    pub(super) fn new(shards: usize, sends_to: Vec<usize>) -> Self {
        Self {
            shards,
            rounds: Mutex::default(),
            sends_to,
        }
    }

    /// Adds a shard's measures of a round. Whether that completes it.
    fn add(&self, step: u64, round: usize, shard: usize, sums: &[SquareSum]) -> bool {
        let mut rounds = self.rounds.lock().unpoisoned();
        let known = rounds.entry((step, round)).or_default();
        if !known.shards.insert(shard) {
            // A second copy.
            return false;
        }
        known.sums.resize(sums.len(), SquareSum::default());
        known
            .sums
            .iter_mut()
            .zip(sums)
            .for_each(|(sum, other)| sum.merge(other));
        known.shards.len() == self.shards
    }

    /// What all shards have measured in a round, once all are here.
    fn totals(&self, step: u64, round: usize) -> Option<Vec<f64>> {
        let rounds = self.rounds.lock().unpoisoned();
        let known = rounds.get(&(step, round))?;
        (known.shards.len() == self.shards).then(|| known.sums.iter().map(SquareSum::value).collect())
    }

    /// Forgets the steps up to this one.
    pub(super) fn forget(&self, step: u64) {
        self.rounds.lock().unpoisoned().retain(|(kept, _), _| *kept > step);
    }
}

impl Exchange {
    /// Gives what a shard of this process has measured to all who apply the step.
    pub(crate) fn give_measures(&self, step: u64, round: usize, shard: usize, sums: &[SquareSum]) {
        let words: Vec<u64> = sums.iter().flat_map(|sum| sum.to_words()).collect();
        let header = Header::new(Kind::Measures, [step, round as u64, shard as u64, 0, 0, 0]);
        for rank in &self.measures.sends_to {
            self.sent(size_of_val(&words[..]));
            self.team.send(*rank, header.clone(), &[bytemuck::cast_slice(&words)]);
        }
        if self.measures.add(step, round, shard, sums) {
            self.wake();
        }
    }

    /// What the shards have measured in a round of a step, once all are here.
    pub(crate) fn totals(&self, step: u64, round: usize) -> Option<Vec<f64>> {
        self.measures.totals(step, round)
    }

    /// What the shards have measured in all rounds of a step, once all are here.
    pub(crate) fn all_totals(&self, step: u64) -> Option<Vec<f64>> {
        let rounds = 0..self.iteration.measures.len();
        let totals: Option<Vec<Vec<f64>>> = rounds.map(|round| self.totals(step, round)).collect();
        Some(totals?.concat())
    }

    /// Measures of another process's shard.
    pub(super) fn take_measures(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> Result<(), WireError> {
        let [step, round, shard, ..] = header.words;
        let (round, shard) = (round as usize, shard as usize);
        let steps = self.parameters.version()..self.iteration.last_step();
        let count = self.iteration.measures.get(round).copied();
        let is_held = || !self.iteration.shard_range(shard, self.parameters.len()).is_empty();
        let Some(count) = count.filter(|_| self.is_owned_by(shard, rank) && is_held() && steps.contains(&step)) else {
            return Ok(());
        };
        let bytes = body.take_bytes()?;
        let (words, rest) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect();
        let (sums, more) = words.as_chunks::<SQUARE_SUM_WORDS>();
        if sums.len() != count || !more.is_empty() || !rest.is_empty() {
            return Err(WireError::NoFrame);
        }
        let sums: Vec<SquareSum> = sums.iter().map(|words| SquareSum::of_words(*words)).collect();
        if self.measures.add(step, round, shard, &sums) {
            self.wake();
        }
        Ok(())
    }
}
