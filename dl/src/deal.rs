//! How samples are dealt to lanes and steps.

use std::ops::Range;

use crate::error::{Error, Result};

/// How an epoch's samples are dealt to lanes and steps: a pure function of the data's shape, the batch and the lanes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deal {
    /// Samples of each lane.
    pub(crate) lengths: Vec<u32>,
    /// Samples that each lane takes in a step.
    pub(crate) shares: Vec<usize>,
    pub(crate) steps_per_epoch: u64,
    /// The step and the epoch that begin with this deal: not 0 where the data has changed on the way.
    begin: (u64, u64),
}

impl Deal {
    pub(crate) fn new(lengths: Vec<u32>, batch: usize) -> Result<Self> {
        let (lanes, samples) = (
            lengths.len(),
            lengths.iter().map(|length| *length as usize).sum::<usize>(),
        );
        if samples == 0 {
            return Err(Error::Training(
                "the dataset has no samples; check its source and filters".to_owned(),
            ));
        }
        if batch > samples {
            return Err(Error::Training(format!(
                "a batch of {batch} is larger than the {samples} samples of the dataset; lower `batch`, or add data"
            )));
        }
        if batch < lanes {
            return Err(Error::Training(format!(
                "a batch of {batch} cannot be dealt to {lanes} lanes; raise `batch` or lower `lanes`"
            )));
        }
        let shares: Vec<usize> = (0..lanes)
            .map(|lane| (lane + 1) * batch / lanes - lane * batch / lanes)
            .collect();
        let steps = lengths
            .iter()
            .zip(&shares)
            .map(|(length, share)| (*length as usize).div_ceil(*share));
        let steps_per_epoch = steps.max().unwrap_or(0) as u64;
        Ok(Self {
            lengths,
            shares,
            steps_per_epoch,
            begin: (0, 0),
        })
    }

    /// This deal from a step on, which begins an epoch.
    pub(crate) fn beginning_at(self, step: u64, epoch: u64) -> Self {
        Self {
            begin: (step, epoch),
            ..self
        }
    }

    /// The epoch of a step, and its place there.
    pub(crate) fn place(&self, step: u64) -> (u64, u64) {
        let ((first_step, first_epoch), steps) = (self.begin, step.saturating_sub(self.begin.0));
        debug_assert!(step >= first_step, "a step before the data was there");
        (first_epoch + steps / self.steps_per_epoch, steps % self.steps_per_epoch)
    }

    /// Places in the lane's order that a step of an epoch takes; empty where the lane has run out before others.
    pub(crate) fn range(&self, lane: usize, step_of_epoch: u64) -> Range<usize> {
        let (length, share) = (self.lengths[lane] as usize, self.shares[lane]);
        let start = length.min(step_of_epoch as usize * share);
        start..length.min(start + share)
    }
}
