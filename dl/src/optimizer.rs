//! How a gradient changes parameters.

use std::fmt::Debug;

use crate::error::Result;
use crate::kernels::sgd_update::sgd_update;

/// Applies gradients to one shard, a contiguous range of the parameters, whose optimizer state it owns.
pub trait Optimizer: Debug + Send {
    /// Changes `parameters` by the mean gradient of `step`, which is `gradient_scale` (1 / samples) times `gradient_sum`; both
    /// slices are the whole shard. Errors if lengths differ.
    fn apply(
        &mut self,
        step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        parameters: &mut [f32],
    ) -> Result<()>;
}

/// Plain stochastic gradient descent: parameters -= learning_rate * gradient. It has no state.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sgd;

impl Optimizer for Sgd {
    fn apply(
        &mut self,
        _step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        parameters: &mut [f32],
    ) -> Result<()> {
        sgd_update(learning_rate * gradient_scale, gradient_sum, parameters)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sgd_goes_against_the_gradient() {
        let mut parameters = [1.0, 2.0, -3.0];
        Sgd.apply(0, 1.0, 0.5, &[2.0, 0.0, -4.0], &mut parameters).unwrap();
        assert_eq!(parameters, [0.0, 2.0, -1.0]);
    }

    #[test]
    fn a_gradient_of_another_length_is_refused() {
        let mut parameters = [1.0; 3];
        assert!(Sgd.apply(0, 0.5, 1.0, &[1.0; 2], &mut parameters).is_err());
        assert_eq!(parameters, [1.0; 3]);
    }
}
