//! One GPU: its kernels, the samples that stay there, and the workspaces that lanes use in turn.

use std::collections::BTreeMap;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use distdl_engine::config::Precision;
use distdl_engine::device::{Compiler, GpuBuffer, GpuFound, Reclaim};
use distdl_storage::{
    DeviceError, DeviceFigures, DeviceKey, DeviceMemory, DevicePin, DeviceTier, StorageError, Unpoisoned,
};

use super::super::device::{BlockRows, LaneId};
use super::super::lane_samples::LaneSamples;
use super::resident_buffers::{ResidentBuffers, ResidentShape};
use super::resident_datasets::{EvaluationKey, ResidentDatasets};
use super::samples::{
    SamplesOnGpu, features_of_block, features_of_lane, taken_bytes, targets_of_block, targets_of_lane,
    weights_of_block, weights_of_lane,
};
use crate::error::{Error, Result};
use crate::kernels::programs::{GpuContext, Kernels};
use crate::loss::Loss;
use crate::network::{GpuWorkspace, NeuralNetwork, WorkspaceShape};

/// One GPU, for all lanes of one training.
pub(super) struct SharedGpu {
    found: GpuFound,
    index: usize,
    precision: Precision,
    kernels: Arc<Kernels>,
    tier: DeviceTier<GpuBuffer>,
    /// Whose samples those are.
    datasets: Mutex<ResidentDatasets>,
    /// What the samples of lanes weigh, in 4 bytes each, until there is another dataset.
    weights: Mutex<BTreeMap<DeviceKey, Arc<[f32]>>>,
    /// Workspaces that no lane has at the moment.
    idle: Mutex<Vec<GpuWorkspace>>,
    /// What a training has there between resident steps.
    resident: Mutex<Option<ResidentBuffers>>,
    is_lost: AtomicBool,
}

impl SharedGpu {
    /// The GPU of this index, with room for so many bytes of samples of all trainings of a context.
    pub(super) fn new(
        found: &GpuFound,
        index: usize,
        precision: Precision,
        compiler: Arc<Compiler>,
        bytes_max: u64,
    ) -> Arc<Self> {
        let gpu = Arc::new(Self {
            found: found.clone(),
            index,
            precision,
            kernels: Arc::new(Kernels::new(compiler)),
            tier: DeviceTier::sharing(format!("{} {index}", found.name), bytes_max, found.budget(index)),
            datasets: Mutex::default(),
            weights: Mutex::default(),
            idle: Mutex::default(),
            resident: Mutex::default(),
            is_lost: AtomicBool::new(false),
        });
        found.register_reclaim(index, Arc::downgrade(&gpu) as Weak<dyn Reclaim>);
        gpu
    }

    /// Whether it has failed.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Says that it has failed; whether it was there until now.
    pub(super) fn lose(&self) -> bool {
        !self.is_lost.swap(true, Ordering::Relaxed)
    }

    /// What became of the samples that stay there.
    pub(super) fn figures(&self) -> DeviceFigures {
        self.tier.figures()
    }

    fn idle(&self) -> MutexGuard<'_, Vec<GpuWorkspace>> {
        self.idle.lock().unpoisoned()
    }

    /// A workspace of this shape: one that another lane or task had, or a new one.
    pub(super) fn workspace(&self, network: &NeuralNetwork, shape: WorkspaceShape) -> Result<GpuWorkspace> {
        let mut idle = self.idle();
        if let Some(index) = idle.iter().position(|workspace| workspace.shape() == shape) {
            return Ok(idle.swap_remove(index));
        }
        drop(idle);
        self.making_room(|device| network.workspace_on_gpu(device, shape))
    }

    /// Allocates on a new handle. If there is no room, without what is there for whoever comes next: passes come before
    /// samples, which can be sent, and this training before others.
    fn making_room<T>(&self, allocate: impl Fn(GpuContext) -> Result<T>) -> Result<T> {
        let allocate =
            || GpuContext::open(&self.found, self.index, self.precision, self.kernels.clone()).and_then(&allocate);
        let leave: [&dyn Fn(); 3] = [&|| self.reclaim(), &|| self.found.reclaim(self.index), &|| {
            self.forget_idle()
        }];
        let mut made = allocate();
        for leave in leave {
            let Err(Error::Device(DeviceError::OutOfMemory { .. } | DeviceError::NoHostMemory { .. })) = made else {
                break;
            };
            leave();
            made = allocate();
        }
        made
    }

    /// Takes a workspace back. Whoever trains next finds it, unless the GPU is lost.
    pub(super) fn take_back(&self, mut workspace: GpuWorkspace) {
        // With the copy of rows that nobody has turned to.
        let is_done = workspace.swap_inputs().is_ok() && workspace.device().gpu().synchronize().is_ok();
        if is_done && !self.is_lost() {
            self.idle().push(workspace);
        }
    }

    /// What a training needs for resident steps: what was there before, or all anew.
    pub(super) fn resident_buffers(&self, network: &NeuralNetwork, shape: ResidentShape) -> Result<ResidentBuffers> {
        let before = self.resident().take().filter(|buffers| buffers.is(&shape));
        if let Some(buffers) = before {
            return Ok(buffers);
        }
        self.making_room(|device| ResidentBuffers::new(device, network, shape.clone()))
    }

    /// Takes back what was needed for resident steps. Whoever trains next finds it, unless the GPU is lost.
    pub(super) fn take_buffers_back(&self, buffers: ResidentBuffers) {
        if buffers.workspace.device().gpu().synchronize().is_ok() && !self.is_lost() {
            *self.resident() = Some(buffers);
        }
    }

    fn resident(&self) -> MutexGuard<'_, Option<ResidentBuffers>> {
        self.resident.lock().unpoisoned()
    }

    fn datasets(&self) -> MutexGuard<'_, ResidentDatasets> {
        self.datasets.lock().unpoisoned()
    }

    fn weights(&self) -> MutexGuard<'_, BTreeMap<DeviceKey, Arc<[f32]>>> {
        self.weights.lock().unpoisoned()
    }

    /// What each of a lane's samples weighs, found once; none where all weigh 1.
    fn weights_of(&self, samples: &mut LaneSamples, loss: &Loss, lane: LaneId) -> Result<Arc<[f32]>> {
        if loss.class_weights().is_empty() {
            return Ok(Arc::default());
        }
        let key = lane.key("weights");
        if let Some(known) = self.weights().get(&key) {
            return Ok(Arc::clone(known));
        }
        let found: Arc<[f32]> = weights_of_lane(samples, loss)?.into();
        self.weights().insert(key, Arc::clone(&found));
        Ok(found)
    }

    /// What other trainings leave for samples of this one, in bytes.
    pub(super) fn left_bytes(&self) -> u64 {
        self.tier.left_bytes()
    }

    /// Whether all of these samples fit into that.
    pub(super) fn has_room(&self, samples: &[LaneSamples]) -> bool {
        let bytes = |samples: &LaneSamples| samples.shape().map_or(0, |shape| taken_bytes(shape, samples.len()));
        samples.iter().map(bytes).sum::<u64>() <= self.left_bytes()
    }

    /// Copies all of a lane's samples to the GPU, or finds them there. `None` if there is no room for them.
    pub(super) fn keep(
        &self,
        workspace: &GpuWorkspace,
        network: &NeuralNetwork,
        samples: &mut LaneSamples,
        lane: LaneId,
    ) -> Result<Option<SamplesOnGpu>> {
        if self.datasets().train_on(lane.dataset) {
            self.weights().clear();
        }
        let gpu = workspace.device().gpu();
        let (shape, classes) = (samples.shape(), network.output_length());
        // Before they are gathered in the host's memory.
        if !self.has_room(slice::from_ref(samples)) {
            return Ok(None);
        }
        let keys = ["features", "targets"].map(|part| lane.key(part));
        let mut keep = || -> Result<SamplesOnGpu> {
            Ok(SamplesOnGpu {
                rows: samples.len(),
                scale: shape.and_then(|shape| shape.scale),
                features: pin(&self.tier, gpu, keys[0], || features_of_lane(samples, network))?,
                targets: pin(&self.tier, gpu, keys[1], || targets_of_lane(samples, classes))?,
                weights: self.weights_of(samples, network.loss(), lane)?,
            })
        };
        let kept = match keep() {
            // Lanes may have left what they had, and evaluations.
            Err(Error::Device(DeviceError::OutOfMemory { .. } | DeviceError::OverBudget { .. })) => {
                self.forget_idle();
                out_of_memory_as_ok(keep())?.ok()
            }
            other => out_of_memory_as_ok(other)?.ok(),
        };
        if let Some(samples) = &kept {
            self.datasets()
                .hold(keys.into_iter().zip([&samples.features, &samples.targets]));
        }
        Ok(kept)
    }

    /// Copies a block of samples that is evaluated with some parameters to the GPU, or finds it there. `None` if there
    /// is no room for it beside what is trained on, other blocks of its dataset, and datasets that are evaluated as
    /// often; or a label is no class.
    pub(super) fn keep_block(
        &self,
        workspace: &GpuWorkspace,
        network: &NeuralNetwork,
        rows: &BlockRows<'_>,
        parameters: &Arc<Vec<f32>>,
    ) -> Result<Option<SamplesOnGpu>> {
        let (gpu, samples, shape) = (workspace.device().gpu(), rows.samples, rows.samples.shape());
        let keys = [0, 1].map(|part| rows.block.key(part));
        let bytes = taken_bytes(shape, samples.len());
        // Outputs need no labels; whoever does sends these, and finds that one is no class.
        let Ok(targets) = targets_of_block(samples, network.output_length()) else {
            return Ok(None);
        };
        let evaluation = EvaluationKey {
            block: rows.block,
            parameters,
        };
        if !self.datasets().evict_for(&self.tier, evaluation, &keys, bytes) {
            return Ok(None);
        }
        let keep = || -> Result<SamplesOnGpu> {
            Ok(SamplesOnGpu {
                rows: samples.len(),
                scale: shape.scale,
                features: pin(&self.tier, gpu, keys[0], || features_of_block(samples, network))?,
                targets: pin(&self.tier, gpu, keys[1], || Ok(targets))?,
                weights: weights_of_block(samples, network.loss()),
            })
        };
        out_of_memory_as_ok(keep()).map(Result::ok)
    }

    /// Frees what nobody has at the moment.
    pub(super) fn forget_idle(&self) {
        self.reclaim();
        self.forget_samples();
    }

    /// Frees the samples that nobody has at the moment.
    pub(super) fn forget_samples(&self) {
        self.datasets().let_go();
        self.tier.retain(|_| false);
    }
}

impl Reclaim for SharedGpu {
    /// Workspaces, which hold nothing that is not sent anew. Samples stay.
    fn reclaim(&self) {
        self.idle().clear();
        *self.resident() = None;
    }
}

/// How often other threads may fail to bring what this one wants before it is told of their failure.
const BRINGS_MAX: usize = 3;

/// The buffer of `key`, or what `bytes` gives, copied to the GPU.
fn pin<M: DeviceMemory, S: AsRef<[u8]>>(
    tier: &DeviceTier<M::Buffer>,
    gpu: &M,
    key: DeviceKey,
    mut bytes: impl FnMut() -> Result<S>,
) -> Result<DevicePin<M::Buffer>> {
    let mut brings = 0;
    loop {
        brings += 1;
        let mut failure = None;
        let source = || {
            bytes().map_err(|error| {
                let carried = StorageError::Io {
                    what: "read",
                    path: "the lane's samples".into(),
                    source: Arc::new(std::io::Error::other(error.to_string())),
                };
                failure = Some(error);
                carried
            })
        };
        let pin = tier.pin(gpu, key, source);
        match (failure, pin) {
            (Some(error), _) => return Err(error),
            // Another thread was bringing the same samples, and has its error. The GPU is well, and these may be.
            (None, Err(DeviceError::Source(_))) if brings < BRINGS_MAX => {}
            (None, Err(error @ DeviceError::Source(_))) => return Err(Error::Data(error.to_string())),
            (None, pin) => return Ok(pin?),
        }
    }
}

/// An error of its own where the only trouble is that there is too little room: that is no failure of the GPU.
pub(super) fn out_of_memory_as_ok<T>(result: Result<T>) -> Result<std::result::Result<T, DeviceError>> {
    match result {
        Err(Error::Device(
            full
            @ (DeviceError::OverBudget { .. } | DeviceError::OutOfMemory { .. } | DeviceError::NoHostMemory { .. }),
        )) => Ok(Err(full)),
        other => other.map(Ok),
    }
}

#[cfg(test)]
mod tests;
