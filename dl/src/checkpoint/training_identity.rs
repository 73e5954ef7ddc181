//! What a training's result follows from, and how two trainings differ.

use serde::{Deserialize, Serialize};

/// What a training's result follows from, apart from its steps. Two trainings with equal identities are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainingIdentity {
    /// Layer by layer, then the loss.
    pub(crate) network: Vec<String>,
    pub(crate) optimizer: String,
    pub(crate) schedule: String,
    /// How old the parameters may be that lanes read.
    pub(crate) staleness: String,
    /// What is sent of gradients.
    pub(crate) compression: String,
    pub(crate) batch: usize,
    /// The most samples of a micro-batch of a lane's share; none where it is whole.
    pub(crate) micro_batch: Option<usize>,
    /// How pictures are changed by chance.
    pub(crate) augmentation: String,
    pub(crate) lanes: usize,
    pub(crate) seed: u64,
    /// BLAKE3 of the parameters that it began with, where they were given.
    pub(crate) initial: Option<String>,
    /// Samples of each lane.
    pub(crate) lane_samples: Vec<u32>,
    /// BLAKE3 of the hashes of all partitions.
    pub(crate) data: String,
}

impl TrainingIdentity {
    /// How a checkpoint's identity differs from this one, in words.
    pub(super) fn differences(&self, checkpoint: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, there: String, here: String| {
            if there != here {
                differences.push(format!("{what}: {there} there, {here} here"));
            }
        };
        let layers = self.network.len().max(checkpoint.network.len());
        let layer =
            |identity: &Self, index: usize| identity.network.get(index).cloned().unwrap_or("nothing".to_owned());
        for index in 0..layers {
            compare(
                &format!("part {index} of the network"),
                layer(checkpoint, index),
                layer(self, index),
            );
        }
        compare("optimizer", checkpoint.optimizer.clone(), self.optimizer.clone());
        compare("schedule", checkpoint.schedule.clone(), self.schedule.clone());
        compare("staleness", checkpoint.staleness.clone(), self.staleness.clone());
        compare("compression", checkpoint.compression.clone(), self.compression.clone());
        compare("batch", checkpoint.batch.to_string(), self.batch.to_string());
        let micro_batch = |identity: &Self| format!("{:?}", identity.micro_batch);
        compare("micro_batch", micro_batch(checkpoint), micro_batch(self));
        compare(
            "augmentation",
            checkpoint.augmentation.clone(),
            self.augmentation.clone(),
        );
        compare("lanes", checkpoint.lanes.to_string(), self.lanes.to_string());
        compare("seed", checkpoint.seed.to_string(), self.seed.to_string());
        let initial = |identity: &Self| {
            identity
                .initial
                .as_deref()
                .map_or("drawn by the seed".to_owned(), short)
        };
        compare("hash of the initial parameters", initial(checkpoint), initial(self));
        let samples = |identity: &Self| format!("{:?}", identity.lane_samples);
        compare("samples of each lane", samples(checkpoint), samples(self));
        compare(
            "hash of the data or of its partitions",
            short(&checkpoint.data),
            short(&self.data),
        );
        differences
    }
}

/// Enough of a hash to tell it from others.
fn short(hash: &str) -> String {
    hash.chars().take(12).collect()
}
