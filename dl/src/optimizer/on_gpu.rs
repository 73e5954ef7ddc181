//! What optimizers do on a GPU.

use crate::error::Result;
use crate::kernels::programs::GpuContext;

pub use crate::kernels::update::cuda::{GpuScale, GpuShard};

/// An optimizer on a GPU: as [`Optimizer`](super::Optimizer), with the same bits, where the parameters lie. It asks the
/// GPU for kernels, copies within it and products, so that a step can be a graph; nothing waits for the GPU.
pub trait GpuOptimizer {
    /// Changes parameters and state where they are as [`Optimizer::apply`](super::Optimizer::apply) would make new
    /// ones. The scale may be known on the GPU alone. An optimizer with [measures](super::Optimizer::measures) is given
    /// one whole tensor each time, and [makes](GpuShard::measure) all of them. Errors if lengths differ, or the GPU
    /// fails.
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        update: u64,
        learning_rate: f32,
        gradient_scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> Result<()>;
}
