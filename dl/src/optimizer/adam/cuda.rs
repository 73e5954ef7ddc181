//! Adam and AdamW on a GPU.

use distdl_engine::device::GpuSlice;

use super::{Adam, AdamW, Moments};
use crate::error::Result;
use crate::kernels::programs::GpuContext;
use crate::kernels::update::cuda;
use crate::optimizer::on_gpu::{GpuOptimizer, GpuScale, GpuShard};

impl GpuOptimizer for Adam {
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        update: u64,
        rate: f32,
        scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> Result<()> {
        Moments::new(self, update, rate, scale.factor).run(device, scale.limit, shard)
    }
}

impl GpuOptimizer for AdamW {
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        update: u64,
        rate: f32,
        scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> Result<()> {
        self.moments(update, rate, scale.factor).run(device, scale.limit, shard)
    }
}

impl Moments {
    fn run(self, device: &GpuContext, limit: Option<GpuSlice<'_>>, shard: GpuShard<'_>) -> Result<()> {
        let numbers = [
            self.rate,
            self.scale,
            self.weight_decay,
            self.shrink,
            self.new_mean,
            self.kept_square,
            self.new_square,
            self.root,
            self.epsilon,
        ];
        cuda::adam(device, numbers, self.takes_largest, limit, shard)
    }
}
