//! Adagrad on a GPU.

use super::Adagrad;
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::update::cuda;
use crate::optimizer::on_gpu::{GpuOptimizer, GpuScale, GpuShard};

impl GpuOptimizer for Adagrad {
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        update: u64,
        rate: f32,
        scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> Result<()> {
        let rule = self.rule(update, rate, scale.factor);
        let numbers = [rule.rate, rule.scale, rule.weight_decay, rule.begin, rule.epsilon];
        cuda::adagrad(device, numbers, scale.limit, shard)
    }
}
