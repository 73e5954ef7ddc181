//! What is done to the rows of a lane's next steps, drawn while something else computes the ones before.

use std::collections::BTreeMap;

use super::Augmentation;
use crate::kernels::augment::TRANSFORM_LENGTH;
use crate::layer::Draw;

/// What is done to rows of one lane of one training, as a kernel for GPUs takes it.
#[derive(Debug)]
pub(crate) struct Drawn {
    augmentation: Augmentation,
    /// Of steps that nobody has asked for yet.
    ahead: BTreeMap<u64, Vec<[u64; TRANSFORM_LENGTH]>>,
}

impl Drawn {
    /// Nothing is drawn yet.
    pub(crate) fn new(augmentation: Augmentation) -> Self {
        Self {
            augmentation,
            ahead: BTreeMap::new(),
        }
    }

    /// What is done to so many rows of a step: what was drawn for it, or drawn now.
    pub(crate) fn take(&mut self, draw: Draw, rows: usize) -> Vec<[u64; TRANSFORM_LENGTH]> {
        let ahead = self.ahead.remove(&draw.step).filter(|ahead| ahead.len() == rows);
        ahead.unwrap_or_else(|| self.augmentation.transforms(draw, rows).collect())
    }

    /// Draws for the rows of these steps, and forgets what was drawn for others.
    pub(crate) fn draw_ahead(&mut self, steps: impl Iterator<Item = (Draw, usize)>) {
        let drawn = steps.map(|(draw, rows)| (draw.step, self.take(draw, rows))).collect();
        self.ahead = drawn;
    }

    /// For how many steps something is drawn.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.ahead.len()
    }
}
