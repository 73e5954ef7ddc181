//! The GPUs of a process, and what lanes did on them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use distdl_engine::DatasetId;
use distdl_storage::Unpoisoned;

use super::graphs::StepCounts;
use super::shared_gpu::SharedGpu;
use crate::error::{Error, Result};
use crate::kernels::programs::GpuCounts;
use crate::metrics::GpuFigures;

/// The GPUs of this process, for all lanes of one training. They are all of one kind.
pub(super) struct SharedGpus {
    name: String,
    gpus: Vec<Arc<SharedGpu>>,
    /// Whether nothing else may compute.
    is_required: bool,
    counted: Counted,
    have_ended: AtomicBool,
    /// The dataset of which it was found that not all can stay on one GPU, and how many bytes other trainings left
    /// there.
    too_much: Mutex<Option<(DatasetId, u64)>>,
}

/// One of these GPUs, on which a lane, a task or resident steps are.
#[derive(Clone)]
pub(super) struct ChosenGpu {
    pub(super) gpus: Arc<SharedGpus>,
    pub(super) gpu: Arc<SharedGpu>,
}

impl ChosenGpu {
    /// As [`SharedGpus::unless_lost`].
    pub(super) fn unless_lost<T>(&self, result: Result<T>) -> Result<Option<T>> {
        self.gpus.unless_lost(&self.gpu, result)
    }
}

/// What lanes did. Samples that stay on the GPU are counted by their tier.
#[derive(Default)]
pub(super) struct Counted {
    to_gpu_bytes: AtomicU64,
    from_gpu_bytes: AtomicU64,
    cudnn_convolutions: AtomicU64,
    passes: AtomicU64,
    graphs: AtomicU64,
    graph_steps: AtomicU64,
    eager_steps: AtomicU64,
    graph_fallback: Mutex<Option<String>>,
    busy: Mutex<Busy>,
}

/// How long at least one pass was under way.
#[derive(Default)]
struct Busy {
    under_way: usize,
    since: Option<Instant>,
    total: Duration,
}

impl Counted {
    fn busy(&self) -> MutexGuard<'_, Busy> {
        self.busy.lock().unpoisoned()
    }

    /// Counts how resident steps were asked for that have come to something.
    pub(super) fn count_steps(&self, counts: StepCounts) {
        for (counter, number) in [
            (&self.graphs, counts.graphs),
            (&self.graph_steps, counts.graph_steps),
            (&self.eager_steps, counts.eager_steps),
        ] {
            counter.fetch_add(number, Ordering::Relaxed);
        }
        if counts.fallback.is_some() {
            *self.graph_fallback() = counts.fallback;
        }
    }

    fn graph_fallback(&self) -> MutexGuard<'_, Option<String>> {
        self.graph_fallback.lock().unpoisoned()
    }

    /// A pass begins, or several in a row; they are under way until what this gives is dropped.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        let mut busy = self.busy();
        busy.under_way += 1;
        busy.since.get_or_insert_with(Instant::now);
        UnderWay(self)
    }
}

/// Passes that are under way.
pub(super) struct UnderWay<'a>(&'a Counted);

impl UnderWay<'_> {
    /// So many have come to something, with what the device has done before them and up to now.
    pub(super) fn count(&self, passes: u64, [before, now]: [GpuCounts; 2]) {
        let (counted, convolutions) = (self.0, now.cudnn_convolutions - before.cudnn_convolutions);
        for (counter, number) in [
            (&counted.passes, passes),
            (&counted.to_gpu_bytes, now.to_gpu_bytes - before.to_gpu_bytes),
            (&counted.from_gpu_bytes, now.from_gpu_bytes - before.from_gpu_bytes),
            (&counted.cudnn_convolutions, convolutions),
        ] {
            counter.fetch_add(number, Ordering::Relaxed);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut busy = self.0.busy();
        busy.under_way -= 1;
        if busy.under_way == 0 {
            let passed = busy.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            busy.total += passed;
        }
    }
}

impl SharedGpus {
    /// Some GPUs of this name.
    pub(super) fn new(name: String, gpus: Vec<Arc<SharedGpu>>, is_required: bool) -> Self {
        Self {
            name,
            gpus,
            is_required,
            counted: Counted::default(),
            have_ended: AtomicBool::new(false),
            too_much: Mutex::default(),
        }
    }

    /// What errors call each of them.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether nothing else may compute.
    pub(super) fn is_required(&self) -> bool {
        self.is_required
    }

    /// The training ends: frees what nobody has there at the moment. From now on no samples stay.
    pub(super) fn end(&self) {
        self.have_ended.store(true, Ordering::SeqCst);
        self.gpus.iter().for_each(|gpu| gpu.forget_idle());
    }

    /// Whether the training is gone. Predictions of it may go on.
    pub(super) fn have_ended(&self) -> bool {
        self.have_ended.load(Ordering::SeqCst)
    }

    /// Where lanes count their passes.
    pub(super) fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Those that are not lost, in the order in which a lane, or a task, takes them: that of its index first.
    pub(super) fn of_lane(&self, lane: usize) -> impl Iterator<Item = &Arc<SharedGpu>> {
        let first = lane % self.gpus.len().max(1);
        let gpus = self.gpus[first..].iter().chain(&self.gpus[..first]);
        gpus.filter(|gpu| !gpu.is_lost())
    }

    /// The one that all of so many lanes of a dataset take; `None` if each takes another, all are lost, or it was found
    /// that not all samples can stay there, and other trainings have left no more since.
    pub(super) fn of_all(&self, lanes: usize, dataset: DatasetId) -> Option<&Arc<SharedGpu>> {
        let mut left = self.of_lane(0);
        let gpu = left.next().filter(|_| lanes == 1 || left.next().is_none())?;
        let too_much = self.too_much().filter(|(too_much, _)| *too_much == dataset);
        too_much
            .is_none_or(|(_, left_bytes)| gpu.left_bytes() > left_bytes)
            .then_some(gpu)
    }

    /// Says that not all samples of this dataset can stay on this GPU.
    pub(super) fn find_too_much(&self, dataset: DatasetId, gpu: &SharedGpu) {
        *self.too_much() = Some((dataset, gpu.left_bytes()));
    }

    fn too_much(&self) -> MutexGuard<'_, Option<(DatasetId, u64)>> {
        self.too_much.lock().unpoisoned()
    }

    /// `None` if it failed because the GPU did, which is lost then: another computes. An error if there is no other,
    /// and the CPU may not.
    pub(super) fn unless_lost<T>(&self, gpu: &SharedGpu, result: Result<T>) -> Result<Option<T>> {
        let error = match result {
            Err(error @ (Error::Device(_) | Error::Compile(_))) => error,
            other => return other.map(Some),
        };
        let is_new = gpu.lose();
        let is_left = self.gpus.iter().any(|gpu| !gpu.is_lost());
        if !is_left && self.is_required {
            return Err(error);
        }
        if is_new {
            let who = if is_left {
                "the other GPUs compute"
            } else {
                "the CPU computes"
            };
            tracing::warn!("{who} from here on: {error}");
        }
        Ok(None)
    }

    /// What was done so far.
    pub(super) fn figures(&self) -> GpuFigures {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let samples = self.gpus.iter().map(|gpu| gpu.figures());
        let (sample_bytes, avoided) = samples.fold((0, 0), |(copied, avoided), figures| {
            (copied + figures.copied_bytes, avoided + figures.avoided_bytes)
        });
        let counted = &self.counted;
        GpuFigures {
            name: self.name.clone(),
            count: self.gpus.len(),
            lost: self.gpus.iter().filter(|gpu| gpu.is_lost()).count(),
            passes: count(&counted.passes),
            busy_seconds: counted.busy().total.as_secs_f64(),
            to_gpu_bytes: count(&counted.to_gpu_bytes),
            from_gpu_bytes: count(&counted.from_gpu_bytes),
            cudnn_convolutions: count(&counted.cudnn_convolutions),
            graphs: count(&counted.graphs),
            graph_steps: count(&counted.graph_steps),
            eager_steps: count(&counted.eager_steps),
            graph_fallback: counted.graph_fallback().clone(),
            sample_bytes,
            sample_bytes_avoided: avoided,
        }
    }
}
