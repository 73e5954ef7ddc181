//! LAMB on a GPU.

use super::{Direction, Lamb};
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::update::cuda;
use crate::optimizer::on_gpu::{GpuOptimizer, GpuScale, GpuShard};

impl GpuOptimizer for Lamb {
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        update: u64,
        rate: f32,
        scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> Result<()> {
        let direction = Direction::new(self, update, scale.factor);
        let numbers = [
            direction.scale,
            direction.weight_decay,
            direction.new_mean,
            direction.kept_square,
            direction.new_square,
            direction.mean,
            direction.root,
            direction.epsilon,
        ];
        cuda::lamb_direction(device, numbers, scale.limit, shard)?;
        let parameters = shard.measure(device, 0, shard.parameters())?;
        let directions = shard.measure(device, 1, shard.gradient_sum())?;
        cuda::lamb(device, rate, [parameters, directions], shard)
    }
}
