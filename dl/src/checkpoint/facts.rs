//! What a training's result follows from, and how two trainings differ.

use distdl_engine::Staleness;
use serde::{Deserialize, Serialize};

use crate::augmentation::Augmentation;
use crate::deal::FIXED_SHARES;

/// What a training's result follows from, apart from its steps. Two trainings with equal facts are the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    /// Layer by layer, then the loss.
    pub(crate) network: Vec<String>,
    pub(crate) optimizer: String,
    pub(crate) schedule: String,
    /// How old the parameters may be that lanes read.
    #[serde(default = "synchronous")]
    pub(crate) staleness: String,
    /// What is sent of gradients.
    #[serde(default = "uncompressed")]
    pub(crate) compression: String,
    pub(crate) batch: usize,
    /// The most samples of a piece of a lane's share; none where it is whole.
    #[serde(default)]
    pub(crate) micro_batch: Option<usize>,
    /// How pictures are changed by chance.
    #[serde(default = "not_augmented")]
    pub(crate) augmentation: String,
    pub(crate) lanes: usize,
    pub(crate) seed: u64,
    /// BLAKE3 of the parameters that it began with, where they were given.
    #[serde(default)]
    pub(crate) initial: Option<String>,
    /// Samples of each lane.
    pub(crate) lane_samples: Vec<u32>,
    /// How they are dealt to steps.
    #[serde(default = "fixed_shares")]
    pub(crate) deal: String,
    /// BLAKE3 of the hashes of all partitions.
    pub(crate) data: String,
}

/// What checkpoints were that do not say how parameters were read.
pub(super) fn synchronous() -> String {
    format!("{:?}", Staleness::Synchronous)
}

/// What they were that do not say what was sent.
pub(super) fn uncompressed() -> String {
    "None".to_owned()
}

/// What they were that do not say how pictures were changed.
pub(super) fn not_augmented() -> String {
    format!("{:?}", None::<Augmentation>)
}

/// What they were that do not say how samples were dealt.
pub(super) fn fixed_shares() -> String {
    FIXED_SHARES.to_owned()
}

impl Facts {
    /// How a checkpoint's facts differ from these, in words.
    pub(super) fn differences(&self, checkpoint: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, there: String, here: String| {
            if there != here {
                differences.push(format!("{what}: {there} there, {here} here"));
            }
        };
        let layers = self.network.len().max(checkpoint.network.len());
        let layer = |facts: &Self, index: usize| facts.network.get(index).cloned().unwrap_or("nothing".to_owned());
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
        let micro_batch = |facts: &Self| format!("{:?}", facts.micro_batch);
        compare("micro_batch", micro_batch(checkpoint), micro_batch(self));
        compare(
            "augmentation",
            checkpoint.augmentation.clone(),
            self.augmentation.clone(),
        );
        compare("lanes", checkpoint.lanes.to_string(), self.lanes.to_string());
        compare("seed", checkpoint.seed.to_string(), self.seed.to_string());
        let initial = |facts: &Self| facts.initial.as_deref().map_or("drawn by the seed".to_owned(), short);
        compare("hash of the initial parameters", initial(checkpoint), initial(self));
        let samples = |facts: &Self| format!("{:?}", facts.lane_samples);
        compare("samples of each lane", samples(checkpoint), samples(self));
        compare(
            "how samples are dealt to steps",
            checkpoint.deal.clone(),
            self.deal.clone(),
        );
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
