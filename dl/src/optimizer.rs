//! How a gradient changes parameters.

use std::fmt::Debug;

use distdl_engine::ShardValues;

use crate::error::Result;
use crate::kernels::sgd_update::sgd_update;

/// Applies gradients to shards, contiguous ranges of the parameters. What it remembers from step to step is kept beside
/// the parameters, in the slots of the shard, so that a step can be taken again.
pub trait Optimizer: Debug + Send + Sync {
    /// Number of values that it keeps for every parameter. They are 0 before the first step.
    fn state_slots(&self) -> usize {
        0
    }

    /// Makes `shard.after` of `shard.before` and the mean gradient of `step`, which is `gradient_scale` (1 / samples)
    /// times `gradient_sum`; likewise each slot of `shard.state`. All slices are the whole shard. Errors if lengths
    /// differ; then what is in `after` is not used.
    fn apply(
        &self,
        step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> Result<()>;
}

/// Plain stochastic gradient descent: after = before - learning_rate * gradient. It has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sgd;

impl Optimizer for Sgd {
    fn apply(
        &self,
        _step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> Result<()> {
        sgd_update(learning_rate * gradient_scale, gradient_sum, shard.before, shard.after)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sgd_goes_against_the_gradient() {
        let mut after = [f32::NAN; 3];
        let mut shard = ShardValues::new(&[1.0, 2.0, -3.0], &mut after);
        Sgd.apply(0, 1.0, 0.5, &[2.0, 0.0, -4.0], &mut shard).unwrap();
        assert_eq!(after, [0.0, 2.0, -1.0]);
    }

    #[test]
    fn a_gradient_or_parameters_of_another_length_are_refused() {
        let mut after = [1.0; 3];
        let mut shard = ShardValues::new(&[1.0; 3], &mut after);
        assert!(Sgd.apply(0, 0.5, 1.0, &[1.0; 2], &mut shard).is_err());
        let mut shard = ShardValues::new(&[1.0; 2], &mut after);
        assert!(Sgd.apply(0, 0.5, 1.0, &[1.0; 3], &mut shard).is_err());
        assert_eq!(after, [1.0; 3]);
    }
}
