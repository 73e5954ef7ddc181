//! Adam's direction, as long as each tensor allows.

#[cfg(feature = "gpu")]
mod cuda;

use std::sync::Arc;

use distdl_engine::{ShardBefore, ShardValues, SquareSum};

use super::{Adam, Optimizer, check_sizes};
use crate::error::Result;
use crate::kernels::update::{self, Rule, StateValues};
use crate::scalar::power;

/// You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", ICLR 2020, algorithm 2, with
/// both corrections of bias: every tensor moves by the learning rate times its own norm, in the direction of Adam and
/// of decay; by the learning rate times that direction where either is 0. Norms are over all values of a tensor:
/// weights of what a [partly connected](crate::Dense::with_connections) layer leaves out are 0 in them, unless other
/// parameters were given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lamb {
    /// As [`Adam::betas`]. Default (0.9, 0.999).
    pub betas: (f64, f64),
    /// As [`Adam::eps`]. Default 1e-6.
    pub eps: f64,
    /// Factor of the parameter that is added to its direction. Default 0.01.
    pub weight_decay: f64,
}

impl Default for Lamb {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-6,
            weight_decay: 0.01,
        }
    }
}

impl Optimizer for Lamb {
    /// Means of gradient and square.
    fn state_slots(&self) -> usize {
        2
    }

    fn learning_rate(&self) -> f32 {
        0.001
    }

    fn check(&self) -> Result<()> {
        check_sizes(self, &[self.weight_decay])?;
        let Self { betas, eps, .. } = *self;
        let adam = Adam {
            betas,
            eps,
            ..Adam::default()
        };
        adam.check()
    }

    /// Of the parameters, and of the direction.
    fn measures(&self) -> usize {
        2
    }

    fn measure(
        &self,
        update: u64,
        gradient_scale: f32,
        gradient_sum: &[f32],
        part: &ShardBefore<'_>,
        measures: &mut [SquareSum],
    ) -> Result<()> {
        let direction = Direction::new(self, update, gradient_scale);
        if let [parameters, directions] = measures {
            parameters.add(part.values);
            update::values_after(direction, gradient_sum, part, |values| directions.add(values))?;
        }
        Ok(())
    }

    fn apply(
        &self,
        update: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        part: &mut ShardValues<'_>,
    ) -> Result<()> {
        let ratio = match part.totals {
            [parameters, direction] if *parameters > 0.0 && *direction > 0.0 => (parameters / direction).sqrt(),
            _ => 1.0,
        };
        let rule = Move {
            direction: Direction::new(self, update, gradient_scale),
            rate: (f64::from(learning_rate) * ratio) as f32,
        };
        update::update(rule, self.state_slots(), gradient_sum, part)
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

/// The direction in place of the parameter.
#[derive(Clone, Copy)]
struct Direction {
    scale: f32,
    weight_decay: f32,
    new_mean: f32,
    kept_square: f32,
    new_square: f32,
    /// Correction of the mean, which begins at 0.
    mean: f32,
    /// Root of the correction of the mean square.
    root: f32,
    epsilon: f32,
}

impl Direction {
    fn new(options: &Lamb, step: u64, scale: f32) -> Self {
        let (mean, square) = options.betas;
        let updates = step.saturating_add(1);
        Self {
            scale,
            weight_decay: options.weight_decay as f32,
            new_mean: (1.0 - mean) as f32,
            kept_square: square as f32,
            new_square: (1.0 - square) as f32,
            mean: (1.0 - power(mean, updates)) as f32,
            root: (1.0 - power(square, updates)).sqrt() as f32,
            epsilon: options.eps as f32,
        }
    }
}

impl Rule for Direction {
    #[inline(always)]
    fn element(self, gradient_sum: f32, before: f32, [mean, square, ..]: StateValues) -> (f32, StateValues) {
        let gradient = gradient_sum * self.scale;
        let mean = mean + self.new_mean * (gradient - mean);
        let square = self.kept_square * square + self.new_square * gradient * gradient;
        let adam = (mean / self.mean) / (square.sqrt() / self.root + self.epsilon);
        (adam + self.weight_decay * before, [mean, square, 0.0, 0.0])
    }
}

#[derive(Clone, Copy)]
struct Move {
    direction: Direction,
    /// Learning rate times norm of the parameters over norm of the direction.
    rate: f32,
}

impl Rule for Move {
    #[inline(always)]
    fn element(self, gradient_sum: f32, before: f32, slots: StateValues) -> (f32, StateValues) {
        let (direction, slots) = self.direction.element(gradient_sum, before, slots);
        (before - self.rate * direction, slots)
    }
}
