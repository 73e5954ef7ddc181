//! RMSprop on a GPU.

use super::RmsProp;
use crate::error::Result;
use crate::kernels::programs::Device;
use crate::kernels::update::cuda;
use crate::optimizer::on_gpu::{GpuOptimizer, GpuShard};

impl GpuOptimizer for RmsProp {
    fn apply_on_gpu(&self, device: &Device, _update: u64, rate: f32, scale: f32, shard: GpuShard<'_>) -> Result<()> {
        let rule = self.rule(rate, scale);
        let numbers = [
            rule.rate,
            rule.scale,
            rule.weight_decay,
            rule.kept,
            rule.new,
            rule.epsilon,
            rule.momentum,
        ];
        cuda::rms_prop(device, numbers, (rule.is_centered, rule.has_momentum), shard)
    }
}
