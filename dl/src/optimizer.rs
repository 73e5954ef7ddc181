//! How a gradient changes parameters.

mod adagrad;
mod adam;
mod lamb;
#[cfg(feature = "gpu")]
mod on_gpu;
mod rms_prop;
mod sgd;

use std::fmt::Debug;
use std::sync::Arc;

use distdl_engine::{ShardBefore, ShardValues, SquareSum};

use crate::error::{Error, Result};

pub use adagrad::Adagrad;
pub use adam::{Adam, AdamW};
pub use lamb::Lamb;
#[cfg(feature = "gpu")]
pub use on_gpu::{GpuOptimizer, GpuScale, GpuShard};
pub use rms_prop::RmsProp;
pub use sgd::Sgd;

/// Applies gradients to shards, contiguous ranges of the parameters. What it remembers from step to step is kept beside
/// the parameters, in the slots of the shard, so that a step can be taken again.
///
/// The formulas, options and defaults of ours are those of `torch.optim`; the learning rate comes from the
/// [schedule](crate::Schedule). Every parameter is treated by itself, but for [norms](Self::measures) that are exact,
/// so the cut into shards does not show.
///
/// Its `Debug` words stand in checkpoints, training goes on only from those with the same words, and processes that
/// train together compare them: equal words are to mean equal results. So they name every option that changes what it
/// does, and are the same from run to run and in all processes: no addresses, no order of a `HashMap`.
///
/// ```
/// use distdl_dl::{Optimizer, Result};
/// use distdl_engine::ShardValues;
///
/// /// Chen et al., "Symbolic discovery of optimization algorithms", 2023, without weight decay.
/// #[derive(Debug)]
/// struct Lion {
///     betas: [f32; 2],
/// }
///
/// impl Optimizer for Lion {
///     fn state_slots(&self) -> usize {
///         1
///     }
///
///     fn learning_rate(&self) -> f32 {
///         1e-4
///     }
///
///     fn apply(
///         &self,
///         _update: u64,
///         learning_rate: f32,
///         gradient_scale: f32,
///         gradient_sum: &[f32],
///         shard: &mut ShardValues<'_>,
///     ) -> Result<()> {
///         let (mean, [beta, kept]) = (&mut shard.state[0], self.betas);
///         for (index, sum) in gradient_sum.iter().enumerate() {
///             let (gradient, before) = (gradient_scale * sum, mean.before[index]);
///             let towards = beta * before + (1.0 - beta) * gradient;
///             let sign = if towards == 0.0 { 0.0 } else { towards.signum() };
///             shard.after[index] = shard.before[index] - learning_rate * sign;
///             mean.after[index] = kept * before + (1.0 - kept) * gradient;
///         }
///         Ok(())
///     }
/// }
/// # use distdl_dl::{Features, NeuralNetwork, SampleTargets, Samples, TrainingOptions};
/// # let context = distdl_engine::Context::new(distdl_engine::Config::default())?;
/// # let points: Vec<f32> = (0..200).map(|point| point as f32 / 100.0 - 1.0).collect();
/// # let labels = points.iter().map(|point| u32::from(*point > 0.0)).collect();
/// # let samples = Samples::new(1, Features::F32(points), SampleTargets::Labels(labels))?;
/// # let data = context.parallelize(samples.split(2)?, 2).cache();
/// # let network = NeuralNetwork::dense(1, &[8], 2)?;
///
/// let optimizer = std::sync::Arc::new(Lion { betas: [0.9, 0.99] });
/// let mut training = network.train(&data, TrainingOptions { optimizer, ..TrainingOptions::default() })?;
/// # let before = training.error(&data)?.mean_loss();
/// training.run_epoch(|_| ())?;
/// # assert!(training.error(&data)?.mean_loss() < before);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Optimizer: Debug + Send + Sync {
    /// Number of values that it keeps for every parameter, at most
    /// [`STATE_SLOTS_MAX`](distdl_engine::parameters::STATE_SLOTS_MAX). They are 0 before the first step.
    fn state_slots(&self) -> usize {
        0
    }

    /// Default learning rate where [`TrainingOptions::schedule`](crate::TrainingOptions::schedule) gives none; as
    /// `torch.optim`, except SGD (0.1).
    fn learning_rate(&self) -> f32 {
        0.1
    }

    /// Errors if its options make no sense; asked before training begins.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// Number of sums of squares that it wants of every tensor before a step. If there are any, it is given parts of
    /// one tensor each, and what the sums of that tensor came to stands in `shard.totals`.
    fn measures(&self) -> usize {
        0
    }

    /// Adds to the sums of a tensor, as many as [`measures`](Self::measures) says, what a part of it contributes. The
    /// other arguments are those of [`apply`](Self::apply), before the step. Errors if lengths differ.
    fn measure(
        &self,
        _update: u64,
        _gradient_scale: f32,
        _gradient_sum: &[f32],
        _part: &ShardBefore<'_>,
        _measures: &mut [SquareSum],
    ) -> Result<()> {
        Ok(())
    }

    /// Makes `shard.after` of `shard.before` and the mean gradient, which is `gradient_scale` (1 / samples) times
    /// `gradient_sum`; likewise each slot of `shard.state`. All slices are as long as the part that is given, and all
    /// of each `after` is to be written: with debug assertions it is NaN before, else whatever was there. Errors if
    /// lengths differ; then what is in `after` is not used.
    ///
    /// `update` counts all steps since the state was 0, from 0, including those of [weight](crate::BatchReport::weight)
    /// 0, for which this is not called; bias correction, such as Adam's, is then slightly too weak.
    fn apply(
        &self,
        update: u64,
        learning_rate: f32,
        gradient_scale: f32,
        gradient_sum: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> Result<()>;

    /// A copy without weight decay, for parameters excluded by
    /// [`TrainingOptions::decay`](crate::TrainingOptions::decay), with as many slots and measures, and kernels for GPUs
    /// if this has them; `None` if unsupported, and then excluding any is an error.
    fn without_decay(&self) -> Option<Arc<dyn Optimizer>> {
        None
    }

    /// Its updates on a GPU, if there are kernels for them. Where one process has all lanes, parameters stay on the GPU
    /// then.
    #[cfg(feature = "gpu")]
    fn on_gpu(&self) -> Option<&dyn GpuOptimizer> {
        None
    }
}

/// An error unless `is_right`.
fn check_option(optimizer: &dyn Debug, is_right: bool, wanted: &str) -> Result<()> {
    if is_right {
        Ok(())
    } else {
        Err(Error::Options(format!("optimizer {optimizer:?}: {wanted}")))
    }
}

/// An error unless all of `options` are finite and not negative.
fn check_sizes(optimizer: &dyn Debug, options: &[f64]) -> Result<()> {
    let are_sizes = options.iter().all(|option| option.is_finite() && *option >= 0.0);
    check_option(optimizer, are_sizes, "no option may be negative or infinite")
}

/// Whether a factor of an average lies in [0, 1).
fn is_share(value: f64) -> bool {
    (0.0..1.0).contains(&value)
}

#[cfg(test)]
mod tests;
