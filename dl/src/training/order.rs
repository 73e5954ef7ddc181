//! The order of a lane's samples.

use std::ops::Deref;

use crate::batch::shuffle;

/// The order in which a lane walks through its samples in one epoch. Dereferences to their indices.
#[derive(Default)]
pub(super) struct SampleOrder {
    indices: Vec<u32>,
    epoch: Option<u64>,
}

impl SampleOrder {
    /// Brings it to an epoch, of a lane of so many samples; the other arguments are always the same.
    pub(super) fn begin(&mut self, seed: u64, epoch: u64, lane: usize, length: u32) {
        if self.epoch != Some(epoch) {
            self.indices = shuffle(seed, epoch, lane as u64, length);
            self.epoch = Some(epoch);
        }
    }
}

impl Deref for SampleOrder {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.indices
    }
}
