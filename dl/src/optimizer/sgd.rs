//! Stochastic gradient descent.

#[cfg(feature = "gpu")]
mod cuda;

use std::sync::Arc;

use distdl_engine::ShardValues;

use super::{Optimizer, check_option, check_sizes};
use crate::error::Result;
use crate::kernels::update::{Rule, StateValues, update};

/// Stochastic gradient descent, as `torch.optim.SGD`; without options, after = before - learning_rate * gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sgd {
    /// Factor of what is kept of the gradients before; 0 for none, and then there is no state. Default 0.
    pub momentum: f64,
    /// 1 less the factor of the new gradient in what is kept, but for the first step, whose gradient is kept whole (if
    /// it has samples). Default 0.
    pub dampening: f64,
    /// Factor of the parameter that is added to its gradient. Default 0.
    pub weight_decay: f64,
    /// Nesterov's momentum: the step looks ahead along what is kept. Default false.
    pub nesterov: bool,
}

impl Sgd {
    /// With momentum, and no other option.
    pub fn with_momentum(momentum: f64) -> Self {
        Self {
            momentum,
            ..Self::default()
        }
    }

    /// With Nesterov's momentum, and no other option.
    pub fn with_nesterov(momentum: f64) -> Self {
        Self {
            momentum,
            nesterov: true,
            ..Self::default()
        }
    }
}

impl Optimizer for Sgd {
    fn state_slots(&self) -> usize {
        usize::from(self.momentum != 0.0)
    }

    fn check(&self) -> Result<()> {
        let sizes = [self.momentum, self.dampening, self.weight_decay];
        check_sizes(self, &sizes)?;
        check_option(
            self,
            !self.nesterov || self.momentum > 0.0 && self.dampening == 0.0,
            "Nesterov's momentum takes a momentum above 0 and no dampening",
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
        match self.rule(step, learning_rate, gradient_scale) {
            Kind::Plain(rule) => update(rule, 0, gradient_sum, shard),
            Kind::Momentum(rule) => update(rule, self.state_slots(), gradient_sum, shard),
        }
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

/// What there is to do.
enum Kind {
    Plain(Plain),
    Momentum(Momentum),
}

impl Sgd {
    fn rule(&self, step: u64, rate: f32, scale: f32) -> Kind {
        if self.momentum == 0.0 && self.weight_decay == 0.0 {
            return Kind::Plain(Plain { rate: rate * scale });
        }
        Kind::Momentum(Momentum {
            rate,
            scale,
            weight_decay: self.weight_decay as f32,
            momentum: self.momentum as f32,
            // What is kept begins as the first gradient.
            share: if step == 0 { 1.0 } else { (1.0 - self.dampening) as f32 },
            nesterov: self.nesterov,
            has_momentum: self.momentum != 0.0,
        })
    }
}

#[derive(Clone, Copy)]
struct Plain {
    rate: f32,
}

impl Rule for Plain {
    #[inline(always)]
    fn element(self, gradient_sum: f32, before: f32, state: StateValues) -> (f32, StateValues) {
        (before - self.rate * gradient_sum, state)
    }
}

#[derive(Clone, Copy)]
struct Momentum {
    rate: f32,
    scale: f32,
    weight_decay: f32,
    momentum: f32,
    share: f32,
    nesterov: bool,
    has_momentum: bool,
}

impl Rule for Momentum {
    #[inline(always)]
    fn element(self, gradient_sum: f32, before: f32, [kept, ..]: StateValues) -> (f32, StateValues) {
        let gradient = gradient_sum * self.scale + self.weight_decay * before;
        let kept = self.momentum * kept + self.share * gradient;
        let direction = match (self.has_momentum, self.nesterov) {
            (false, _) => gradient,
            (true, false) => kept,
            (true, true) => gradient + self.momentum * kept,
        };
        (before - self.rate * direction, [kept, 0.0, 0.0, 0.0])
    }
}
