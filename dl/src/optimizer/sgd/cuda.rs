//! Stochastic gradient descent on a GPU.

use super::{Kind, Sgd};
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::update::cuda;
use crate::optimizer::on_gpu::{GpuOptimizer, GpuScale, GpuShard};

impl GpuOptimizer for Sgd {
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        update: u64,
        rate: f32,
        scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> Result<()> {
        match self.rule(update, rate, scale.factor) {
            Kind::Plain(_) => cuda::plain(device, rate, scale, shard),
            Kind::Momentum(rule) => {
                let numbers = [rule.rate, rule.scale, rule.weight_decay, rule.momentum, rule.share];
                cuda::momentum(device, numbers, rule.nesterov, rule.has_momentum, scale.limit, shard)
            }
        }
    }
}
