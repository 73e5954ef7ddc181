//! RMSprop on a GPU.

use super::RmsProp;
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::update::cuda;
use crate::optimizer::on_gpu::{GpuOptimizer, GpuScale, GpuShard};

impl GpuOptimizer for RmsProp {
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        _update: u64,
        rate: f32,
        scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> Result<()> {
        let rule = self.rule(rate, scale.factor);
        let numbers = [
            rule.rate,
            rule.scale,
            rule.weight_decay,
            rule.kept,
            rule.new,
            rule.epsilon,
            rule.momentum,
        ];
        cuda::rms_prop(
            device,
            numbers,
            (rule.is_centered, rule.has_momentum),
            scale.limit,
            shard,
        )
    }
}
