//! Adam, and Adam with decoupled weight decay.

#[cfg(feature = "gpu")]
mod cuda;

use std::sync::Arc;

use distdl_engine::ShardValues;

use super::{Optimizer, check_option, check_sizes, is_share};
use crate::error::Result;
use crate::kernels::update::{Rule, StateValues, update};
use crate::scalar::power;

/// Kingma and Ba, "Adam: a method for stochastic optimization", 2015, as `torch.optim.Adam`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adam {
    /// Shares of the running means of gradient and square that are kept. Default (0.9, 0.999).
    pub betas: (f64, f64),
    /// Added to the root, so that nothing is divided by 0. Default 1e-8.
    pub eps: f64,
    /// Factor of the parameter that is added to its gradient. Default 0.
    pub weight_decay: f64,
    /// Whether the largest mean square so far is taken (Reddi et al., 2018). Default false.
    pub amsgrad: bool,
}

impl Default for Adam {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.0,
            amsgrad: false,
        }
    }
}

/// Loshchilov and Hutter, "Decoupled weight decay regularization", 2019, as `torch.optim.AdamW`: decay shrinks the
/// parameter itself and does not reach the running means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// As [`Adam::betas`].
    pub betas: (f64, f64),
    /// As [`Adam::eps`].
    pub eps: f64,
    /// A step multiplies the parameter with 1 - learning rate * this. Default 0.01.
    pub weight_decay: f64,
    /// As [`Adam::amsgrad`].
    pub amsgrad: bool,
}

impl Default for AdamW {
    fn default() -> Self {
        let Adam {
            betas, eps, amsgrad, ..
        } = Adam::default();
        Self {
            betas,
            eps,
            weight_decay: 0.01,
            amsgrad,
        }
    }
}

impl Optimizer for Adam {
    /// Means of gradient and square, and the largest of the latter if it is wanted.
    fn state_slots(&self) -> usize {
        2 + usize::from(self.amsgrad)
    }

    fn learning_rate(&self) -> f32 {
        0.001
    }

    fn check(&self) -> Result<()> {
        let sizes = [self.eps, self.weight_decay];
        check_sizes(self, &sizes)?;
        check_option(
            self,
            is_share(self.betas.0) && is_share(self.betas.1),
            "betas lie in [0, 1)",
        )
    }

    fn apply(
        &self,
        step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> Result<()> {
        let rule = Moments::new(self, step, learning_rate, gradient_scale);
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

impl AdamW {
    /// What it is but for decay.
    fn adam(&self) -> Adam {
        Adam {
            betas: self.betas,
            eps: self.eps,
            weight_decay: 0.0,
            amsgrad: self.amsgrad,
        }
    }

    fn moments(&self, step: u64, learning_rate: f32, scale: f32) -> Moments {
        Moments {
            shrink: (1.0 - f64::from(learning_rate) * self.weight_decay) as f32,
            ..Moments::new(&self.adam(), step, learning_rate, scale)
        }
    }
}

impl Optimizer for AdamW {
    fn state_slots(&self) -> usize {
        self.adam().state_slots()
    }

    fn learning_rate(&self) -> f32 {
        0.001
    }

    fn check(&self) -> Result<()> {
        check_sizes(self, &[self.weight_decay])?;
        self.adam().check()
    }

    fn apply(
        &self,
        step: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> Result<()> {
        let rule = self.moments(step, learning_rate, gradient_scale);
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

#[derive(Clone, Copy)]
struct Moments {
    /// Learning rate over the correction of the mean, which begins at 0.
    rate: f32,
    scale: f32,
    weight_decay: f32,
    shrink: f32,
    new_mean: f32,
    kept_square: f32,
    new_square: f32,
    /// Root of the correction of the mean square.
    root: f32,
    epsilon: f32,
    takes_largest: bool,
}

impl Moments {
    fn new(options: &Adam, step: u64, learning_rate: f32, scale: f32) -> Self {
        let (mean, square) = options.betas;
        let updates = step.saturating_add(1);
        Self {
            rate: (f64::from(learning_rate) / (1.0 - power(mean, updates))) as f32,
            scale,
            weight_decay: options.weight_decay as f32,
            shrink: 1.0,
            new_mean: (1.0 - mean) as f32,
            kept_square: square as f32,
            new_square: (1.0 - square) as f32,
            root: (1.0 - power(square, updates)).sqrt() as f32,
            epsilon: options.eps as f32,
            takes_largest: options.amsgrad,
        }
    }
}

impl Rule for Moments {
    #[inline(always)]
    fn element(self, gradient_sum: f32, before: f32, [mean, square, largest, _]: StateValues) -> (f32, StateValues) {
        let gradient = gradient_sum * self.scale + self.weight_decay * before;
        let mean = mean + self.new_mean * (gradient - mean);
        let square = self.kept_square * square + self.new_square * gradient * gradient;
        let largest = if self.takes_largest && largest > square {
            largest
        } else {
            square
        };
        let after = before * self.shrink - self.rate * (mean / (largest.sqrt() / self.root + self.epsilon));
        (after, [mean, square, largest, 0.0])
    }
}
