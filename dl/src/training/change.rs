//! Training that goes on with changed data, and which batches the change has changed.

use distdl_engine::Dataset;

use super::Training;
use super::look::look_at;
use super::order::KnownOrders;
use crate::batch::shuffle;
use crate::checkpoint::hash_samples;
use crate::deal::Deal;
use crate::error::{Error, Result};
use crate::samples::Samples;

/// What a lane takes in one step of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// The lane.
    pub lane: usize,
    /// 0-based step of the epoch.
    pub step_of_epoch: u64,
}

/// What a change of the data has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataChange {
    /// The epoch that begins with the changed data.
    pub epoch: u64,
    /// Batches of this epoch that are not empty.
    pub batches: usize,
    /// Those that hold other samples, or the same in another order, than they would have held without the change; also
    /// those that there would not have been. A lane whose number of samples has changed walks through them in another
    /// order, so nearly all its batches change; those of other lanes keep their order and are cut elsewhere.
    pub changed: Vec<BatchId>,
}

/// Of each sample, by partition.
pub(super) type Digests = Vec<Vec<[u8; 16]>>;

impl Training {
    /// Goes on with other data: a later snapshot of what training began with. Parameters and steps stay as they are; a
    /// new epoch begins, with the new number of samples. Costs a pass over the data, and 16 bytes a sample in every
    /// process.
    ///
    /// # Errors
    /// As [`train`](crate::NeuralNetwork::train), and for a training with checkpoints, which are of one set of data.
    /// Then training has the data it had.
    #[track_caller]
    pub fn change_data(&mut self, data: &Dataset<Samples>) -> Result<DataChange> {
        self.check_unity()?;
        if self.checkpoints.is_some() {
            return Err(Error::State(
                "a training with checkpoints cannot go on with changed data, which they do not know; train without \
                 checkpoints, or begin a training with the new data and these `initial_parameters`"
                    .to_owned(),
            ));
        }
        if data.partitions() < self.plan.options.lanes {
            return Err(Error::Data(format!(
                "{} lanes over changed data of {} partitions; take a snapshot with at least one partition a lane",
                self.plan.options.lanes,
                data.partitions()
            )));
        }
        let look = look_at(&self.plan.network, data, self.plan.options.lanes, false)?;
        let epoch = match self.plan.deal.epoch_and_step(self.step) {
            (epoch, 0) => epoch,
            (epoch, _) => epoch + 1,
        };
        let deal = Deal::new(look.lengths, self.plan.options.batch)?.beginning_at(self.step, epoch);
        self.plan.options.check_shares(&self.plan.network, &deal)?;
        let old = match self.digests.take() {
            Some(digests) => digests,
            None => digests(&self.data)?,
        };
        let new = digests(data)?;
        let (before, after) = (
            self.batches(&self.plan.deal, &old, epoch),
            self.batches(&deal, &new, epoch),
        );
        let is_changed = |batch: &&(BatchId, Vec<[u8; 16]>)| before.binary_search(batch).is_err();
        let change = DataChange {
            epoch,
            batches: after.len(),
            changed: after.iter().filter(is_changed).map(|(id, _)| *id).collect(),
        };
        (self.data, self.plan.deal, self.digests) = (data.clone(), deal, Some(new));
        (self.has_labels, self.is_data_finite) = (look.has_labels, false);
        self.plan.orders = KnownOrders::default();
        Ok(change)
    }

    /// The batches of an epoch that are not empty, in order.
    fn batches(&self, deal: &Deal, digests: &Digests, epoch: u64) -> Vec<(BatchId, Vec<[u8; 16]>)> {
        let mut batches = Vec::new();
        for lane in 0..self.plan.options.lanes {
            let partitions = digests.iter().skip(lane).step_by(self.plan.options.lanes);
            let samples: Vec<[u8; 16]> = partitions.flatten().copied().collect();
            let order = shuffle(self.plan.options.seed(), epoch, lane as u64, samples.len() as u32);
            for step_of_epoch in 0..deal.steps_per_epoch {
                let range = deal.range(lane, step_of_epoch);
                if !range.is_empty() {
                    let taken = order[range].iter().map(|index| samples[*index as usize]).collect();
                    batches.push((BatchId { lane, step_of_epoch }, taken));
                }
            }
        }
        batches
    }
}

fn digests(data: &Dataset<Samples>) -> Result<Digests> {
    let digests = data.run_partitions(|_, blocks| {
        let mut digests = Vec::new();
        for samples in blocks {
            for index in 0..samples.len() {
                let wrong = |error: Error| distdl_engine::EngineError::invalid(error.to_string(), "check the samples");
                let mut hasher = blake3::Hasher::new();
                hash_samples(&mut hasher, &samples.slice(index..index + 1).map_err(wrong)?);
                let mut digest = [0; 16];
                hasher.finalize_xof().fill(&mut digest);
                digests.push(digest);
            }
        }
        Ok(digests)
    })?;
    Ok(digests)
}
