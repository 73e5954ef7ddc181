//! Optimizers of a user's own, in steps that are taken whole.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use distdl_dl::kernels::programs::GpuContext;
use distdl_dl::{GpuOptimizer, GpuScale, GpuShard, Loss, Optimizer, Sgd, TrainingOptions};
use distdl_engine::{Context, ShardValues};

use crate::fixtures::{SAMPLES, STEPS, begin, bytes, options, small, train_for};
use crate::gpu::TestGpu;
use crate::resident_steps::{begin_resident, by_single_steps};

/// A user's optimizer: what [`Sgd`] does with options that follow from the update.
pub(crate) struct Own {
    rule: Box<dyn Fn(u64) -> Sgd + Send + Sync>,
    /// Takes memory of the GPU in each step, which no graph can have.
    allocates: bool,
}

fn own(rule: impl Fn(u64) -> Sgd + Send + Sync + 'static) -> Own {
    Own {
        rule: Box::new(rule),
        allocates: false,
    }
}

impl Debug for Own {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Own")
    }
}

impl Optimizer for Own {
    fn apply(
        &self,
        update: u64,
        rate: f32,
        scale: f32,
        gradient: &[f32],
        shard: &mut ShardValues<'_>,
    ) -> distdl_dl::Result<()> {
        (self.rule)(update).apply(update, rate, scale, gradient, shard)
    }

    fn on_gpu(&self) -> Option<&dyn GpuOptimizer> {
        Some(self)
    }
}

impl GpuOptimizer for Own {
    fn apply_on_gpu(
        &self,
        device: &GpuContext,
        update: u64,
        rate: f32,
        scale: GpuScale<'_>,
        shard: GpuShard<'_>,
    ) -> distdl_dl::Result<()> {
        if self.allocates {
            device.allocate(1)?;
        }
        (self.rule)(update).apply_on_gpu(device, update, rate, scale, shard)
    }
}

/// Panics when it is asked for an update for the first time.
fn panics_at(at: u64) -> Own {
    let has_panicked = AtomicBool::new(false);
    own(move |update| {
        assert!(
            update != at || has_panicked.swap(true, Ordering::Relaxed),
            "no step {update}"
        );
        Sgd::default()
    })
}

/// Has another kernel in every other update.
fn alternates() -> Own {
    own(|update| Sgd {
        weight_decay: 0.1 * (update % 2) as f64,
        ..Sgd::default()
    })
}

/// Has another kernel from an update on.
pub(crate) fn changes_at(at: u64) -> Own {
    own(move |update| Sgd {
        weight_decay: if update < at { 0.0 } else { 0.1 },
        ..Sgd::default()
    })
}

#[test]
fn a_panic_in_a_step_is_an_error_and_training_can_go_on() {
    let Some(gpu) = TestGpu::take() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let sgd = TrainingOptions {
        lanes: 1,
        optimizer: Arc::new(Sgd::default()),
        ..options()
    };
    let expected = by_single_steps(&gpu, &network, &bytes(), sgd.clone());
    // The first step alone, the second as it is captured, and one of the next as a graph is replayed.
    for at in [0, 1, 2, 5] {
        let panics = TrainingOptions {
            optimizer: Arc::new(panics_at(at)),
            ..sgd.clone()
        };
        let context = Context::new(gpu.config()).unwrap();
        let mut training = begin_resident(&gpu, &context, (&network, &bytes()), panics);
        let error = training.iterate(STEPS, |_| ()).unwrap_err().to_string();
        assert!(error.contains(&format!("no step {at}")), "{error}");
        let step = training.step();
        assert!(step <= at);
        let before = training.gpu_figures().unwrap().busy_seconds;
        train_for(STEPS - step, &mut training).unwrap();
        assert!(training.gpu_figures().unwrap().busy_seconds > before);
        assert_eq!(training.parameters(), expected.parameters, "{at}");
        assert_eq!(training.gpu_figures().unwrap().lost, 0);
    }
    gpu.assert_nothing_is_left();
}

#[test]
fn steps_that_are_others_again_and_again_are_not_captured_for_ever() {
    let Some(gpu) = TestGpu::take() else { return };
    let network = small(Loss::SoftmaxCrossEntropy);
    let allocates = Own {
        allocates: true,
        ..changes_at(99)
    };
    let another = "another kernel was asked for";
    for (optimizer, graphs, wanted) in [
        (changes_at(99), 1, ""),
        (changes_at(5), 2, another),
        (alternates(), 3, another),
        (allocates, 0, "could not allocate: that can be no part of a graph"),
    ] {
        let options = TrainingOptions {
            // Steps of one kind.
            batch: SAMPLES,
            lanes: 1,
            optimizer: Arc::new(optimizer),
            ..options()
        };
        let steps = 4 * STEPS;
        let trained = [0, 1 << 20].map(|memory_bytes| {
            let context = Context::new(gpu.config().with_gpu_memory_bytes_max(memory_bytes)).unwrap();
            let mut training = begin(&context, &network, &bytes(), options.clone()).unwrap();
            (
                train_for(steps, &mut training).unwrap(),
                training.gpu_figures().unwrap(),
            )
        });
        let [(single, _), (whole, figures)] = trained;
        assert_eq!(whole, single);
        assert_eq!(figures.graphs, graphs, "{figures:?}");
        assert_eq!(figures.graph_steps + figures.eager_steps, steps, "{figures:?}");
        let reason = figures.graph_fallback.unwrap_or_default();
        assert!(
            reason.contains(wanted) && reason.is_empty() == wanted.is_empty(),
            "{reason}"
        );
    }
    gpu.assert_nothing_is_left();
}
