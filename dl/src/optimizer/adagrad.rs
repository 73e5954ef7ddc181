//! Adagrad: steps shrink with the squares of all gradients so far.

#[cfg(feature = "gpu")]
mod cuda;

use std::sync::Arc;

use distdl_engine::ShardValues;

use super::{Optimizer, check_sizes};
use crate::error::Result;
use crate::kernels::update::{Rule, StateValues, update};

/// Duchi et al., "Adaptive subgradient methods for online learning and stochastic optimization", 2011, as
/// `torch.optim.Adagrad`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adagrad {
    /// The learning rate is divided by 1 + this * the number of updates before. Default 0.
    pub lr_decay: f64,
    /// Factor of the parameter that is added to its gradient. Default 0.
    pub weight_decay: f64,
    /// Where the sums of squares begin. Default 0.
    pub initial_accumulator_value: f64,
    /// Added to the root, so that nothing is divided by 0. Default 1e-10.
    pub eps: f64,
}

impl Default for Adagrad {
    fn default() -> Self {
        Self {
            lr_decay: 0.0,
            weight_decay: 0.0,
            initial_accumulator_value: 0.0,
            eps: 1e-10,
        }
    }
}

impl Optimizer for Adagrad {
    fn state_slots(&self) -> usize {
        1
    }

    fn learning_rate(&self) -> f32 {
        0.01
    }

    fn check(&self) -> Result<()> {
        let sizes = [
            self.lr_decay,
            self.weight_decay,
            self.initial_accumulator_value,
            self.eps,
        ];
        check_sizes(self, &sizes)
    }

    fn apply(
        &self,
        step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> Result<()> {
        let rule = self.rule(step, learning_rate, gradient_scale);
        update(rule, 1, gradient_sum, shard)
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

impl Adagrad {
    fn rule(&self, step: u64, rate: f32, scale: f32) -> Squares {
        Squares {
            rate: (f64::from(rate) / (1.0 + step as f64 * self.lr_decay)) as f32,
            scale,
            weight_decay: self.weight_decay as f32,
            begin: self.initial_accumulator_value as f32,
            epsilon: self.eps as f32,
        }
    }
}

#[derive(Clone, Copy)]
struct Squares {
    rate: f32,
    scale: f32,
    weight_decay: f32,
    begin: f32,
    epsilon: f32,
}

impl Rule for Squares {
    #[inline(always)]
    fn element(self, gradient_sum: f32, before: f32, [squares, ..]: StateValues) -> (f32, StateValues) {
        let gradient = gradient_sum * self.scale + self.weight_decay * before;
        // Nothing was added yet: perhaps because earlier steps had no samples.
        let squares = if squares == 0.0 { self.begin } else { squares } + gradient * gradient;
        let after = before - self.rate * (gradient / (squares.sqrt() + self.epsilon));
        (after, [squares, 0.0, 0.0, 0.0])
    }
}
