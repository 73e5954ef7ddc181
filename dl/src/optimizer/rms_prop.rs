//! RMSProp: steps are divided by a running mean of the gradient's squares.

#[cfg(feature = "gpu")]
mod cuda;

use std::sync::Arc;

use distdl_engine::ShardValues;

use super::{Optimizer, check_option, check_sizes, is_share};
use crate::error::Result;
use crate::kernels::update::{Rule, StateValues, update};

/// Hinton, "Neural networks for machine learning", lecture 6, 2012, as `torch.optim.RMSprop`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RmsProp {
    /// Share of the running mean that is kept. Default 0.99.
    pub alpha: f64,
    /// Added to the root, so that nothing is divided by 0. Default 1e-8.
    pub eps: f64,
    /// Factor of the parameter that is added to its gradient. Default 0.
    pub weight_decay: f64,
    /// Factor of what is kept of the steps before; 0 for none. Default 0.
    pub momentum: f64,
    /// Whether the variance of the gradient is taken instead of its mean square. Default false.
    pub centered: bool,
}

impl Default for RmsProp {
    fn default() -> Self {
        Self {
            alpha: 0.99,
            eps: 1e-8,
            weight_decay: 0.0,
            momentum: 0.0,
            centered: false,
        }
    }
}

impl Optimizer for RmsProp {
    /// Mean square, then mean and step as far as they are wanted.
    fn state_slots(&self) -> usize {
        1 + usize::from(self.centered) + usize::from(self.momentum != 0.0)
    }

    fn learning_rate(&self) -> f32 {
        0.01
    }

    fn check(&self) -> Result<()> {
        let sizes = [self.eps, self.weight_decay, self.momentum];
        check_sizes(self, &sizes)?;
        check_option(self, is_share(self.alpha), "alpha lies in [0, 1)")
    }

    fn apply(
        &self,
        _step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> Result<()> {
        let rule = self.rule(learning_rate, gradient_scale);
        update(rule, self.state_slots(), gradient_sum, shard)
    }

    fn without_decay(&self) -> Option<Arc<dyn Optimizer>> {
        Some(Arc::new(Self {
            weight_decay: 0.0,
            ..*self
        }))
    }

    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn super::GpuOptimizer> {
        Some(self)
    }
}

impl RmsProp {
    fn rule(&self, rate: f32, scale: f32) -> MeanSquares {
        MeanSquares {
            rate,
            scale,
            weight_decay: self.weight_decay as f32,
            kept: self.alpha as f32,
            new: (1.0 - self.alpha) as f32,
            epsilon: self.eps as f32,
            momentum: self.momentum as f32,
            is_centered: self.centered,
            has_momentum: self.momentum != 0.0,
        }
    }
}

#[derive(Clone, Copy)]
struct MeanSquares {
    rate: f32,
    scale: f32,
    weight_decay: f32,
    kept: f32,
    new: f32,
    epsilon: f32,
    momentum: f32,
    is_centered: bool,
    has_momentum: bool,
}

impl Rule for MeanSquares {
    #[inline(always)]
    fn element(self, gradient_sum: f32, before: f32, [square, second, third, _]: StateValues) -> (f32, StateValues) {
        let gradient = gradient_sum * self.scale + self.weight_decay * before;
        let square = self.kept * square + self.new * gradient * gradient;
        let (mean, step) = if self.is_centered {
            (second, third)
        } else {
            (0.0, second)
        };
        let mean = if self.is_centered {
            mean + self.new * (gradient - mean)
        } else {
            0.0
        };
        let variance = square - mean * mean;
        // Rounded, it may fall below 0, which PyTorch takes the root of. What is not a number stays so.
        let variance = if variance < 0.0 { 0.0 } else { variance };
        let direction = gradient / (variance.sqrt() + self.epsilon);
        let step = if self.has_momentum {
            self.momentum * step + direction
        } else {
            direction
        };
        let state = if self.is_centered {
            [square, mean, step, 0.0]
        } else {
            [square, step, 0.0, 0.0]
        };
        (before - self.rate * step, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A gradient that is always the same has none.
    #[test]
    fn a_variance_that_is_rounded_below_zero_is_none() {
        let centered = RmsProp {
            centered: true,
            ..RmsProp::default()
        };
        let (square, mean) = (1.0, 1.000_001);
        let (after, state) = centered.rule(1e-9, 1.0).element(1.0, 2.0, [square, mean, 0.0, 0.0]);
        assert!(state[0] < state[1] * state[1], "nothing was tested: {state:?}");
        assert!((after - 1.9).abs() < 1e-3, "by the rate over epsilon: {after}");
    }
}
