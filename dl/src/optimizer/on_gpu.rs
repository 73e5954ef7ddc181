//! What optimizers do on a GPU.

use std::fmt::Debug;

use crate::error::Result;
use crate::kernels::programs::Device;

pub use crate::kernels::update::cuda::GpuShard;

/// An optimizer on a GPU: as [`Optimizer`](super::Optimizer), with the same bits, where the parameters lie. Nothing waits for
/// the GPU.
pub trait GpuOptimizer: Debug {
    /// Changes parameters and state as [`Optimizer::apply`](super::Optimizer::apply) would. Errors if lengths differ, or the
    /// GPU fails.
    fn apply_on_gpu(
        &self,
        device: &Device,
        update: u64,
        learning_rate: f32,
        gradient_scale: f32,
        shard: GpuShard<'_>,
    ) -> Result<()>;
}
