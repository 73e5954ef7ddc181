//! Lanes that compute on the GPU of their process.
//!
//! A lane's samples are copied to the GPU once, if the tier has room for them, and rows are taken from there; else each
//! mini-batch is copied. Parameters go there and gradients come back in each step.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use distdl_engine::Context;
use distdl_engine::config::{GpuUse, Precision};
use distdl_engine::device::{Chosen, Compiler, Gpu, GpuBuffer, GpuFound};
use distdl_storage::{DeviceError, DeviceKey, DeviceTier, Lease, StorageError};

use super::lane::{LaneDevice, LaneDevices, LaneId, LaneRows, LaneSamples, Pass};
use crate::batch::RowSource;
use crate::error::{Error, Result};
use crate::kernels::programs::{Device, Kernels};
use crate::kernels::softmax_cross_entropy::check_labels;
use crate::loss::Targets;
use crate::metrics::{BatchReport, GpuFigures};
use crate::network::{GpuSamples, GpuWorkspace, NeuralNetwork};
use crate::samples::{RowFeatures, RowTarget, SampleShape};

/// The GPU of this process, for all lanes of one training.
pub(super) struct GpuLanes {
    found: GpuFound,
    precision: Precision,
    /// Whether nothing else may compute.
    is_required: bool,
    kernels: Arc<Kernels>,
    /// Samples that lie there.
    tier: DeviceTier<GpuBuffer>,
    /// Workspaces that no lane has at the moment.
    idle: Mutex<Vec<GpuWorkspace>>,
    is_lost: AtomicBool,
    counted: Counted,
}

/// What lanes did. Samples that stay on the GPU are counted by their tier.
#[derive(Default)]
struct Counted {
    to_gpu_bytes: AtomicU64,
    from_gpu_bytes: AtomicU64,
    passes: AtomicU64,
    nanoseconds: AtomicU64,
}

impl Counted {
    fn add_copies(&self, (to_gpu, from_gpu): (u64, u64), (to_gpu_now, from_gpu_now): (u64, u64)) {
        self.to_gpu_bytes.fetch_add(to_gpu_now - to_gpu, Ordering::Relaxed);
        self.from_gpu_bytes
            .fetch_add(from_gpu_now - from_gpu, Ordering::Relaxed);
    }
}

impl GpuLanes {
    /// Lanes on the GPU that the context has found, if it has and the network can be there. Errors if a GPU must compute
    /// and cannot.
    pub(super) fn choose(context: &Context, network: &NeuralNetwork) -> Result<Option<Arc<Self>>> {
        let Chosen::Gpu(found) = context.device() else {
            return Ok(None);
        };
        let (config, is_required) = (context.config(), context.config().gpu == GpuUse::On);
        if let Err(reason) = network.on_gpu() {
            return match is_required {
                true => Err(Error::Training(format!(
                    "`device.gpu` is `on`, but {reason}; set it to `auto` or `off`, or take another layer"
                ))),
                false => {
                    tracing::info!("the CPU computes: {reason}");
                    Ok(None)
                }
            };
        }
        let cache = config.cache_folder.as_ref().map(|folder| folder.join("kernels"));
        let compiler = Compiler::open(config.cuda_libraries.as_deref(), cache.as_deref())?;
        Ok(Some(Arc::new(Self {
            found: found.clone(),
            precision: config.precision,
            is_required,
            kernels: Arc::new(Kernels::new(compiler)),
            tier: DeviceTier::new(
                &found.name,
                config.gpu_memory_bytes_max.unwrap_or(found.memory_bytes / 2),
            ),
            idle: Mutex::default(),
            is_lost: AtomicBool::new(false),
            counted: Counted::default(),
        })))
    }

    /// What was done so far.
    pub(super) fn figures(&self) -> GpuFigures {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (samples, counted) = (self.tier.figures(), &self.counted);
        GpuFigures {
            name: self.found.name.clone(),
            is_lost: self.is_lost.load(Ordering::Relaxed),
            passes: count(&counted.passes),
            pass_seconds: count(&counted.nanoseconds) as f64 / 1e9,
            to_gpu_bytes: count(&counted.to_gpu_bytes),
            from_gpu_bytes: count(&counted.from_gpu_bytes),
            sample_bytes: samples.copied_bytes,
            sample_bytes_avoided: samples.avoided_bytes,
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<GpuWorkspace>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workspace(&self, network: &NeuralNetwork, rows_max: usize, shape: SampleShape) -> Result<GpuWorkspace> {
        let mut idle = self.idle();
        if let Some(place) = idle.iter().position(|workspace| workspace.rows_max() == rows_max) {
            return Ok(idle.swap_remove(place));
        }
        drop(idle);
        let device = Device::open(&self.found, self.precision, self.kernels.clone())?;
        network.workspace_on_gpu(device, rows_max, shape.target_length)
    }
}

impl LaneDevices for GpuLanes {
    fn lane(
        self: Arc<Self>,
        network: &NeuralNetwork,
        rows_max: usize,
        samples: &mut LaneSamples,
        stays: Option<LaneId>,
    ) -> Result<Option<Box<dyn LaneDevice>>> {
        let Some(shape) = samples.shape().filter(|_| !self.is_lost.load(Ordering::Relaxed)) else {
            return Ok(None);
        };
        let workspace = self.workspace(network, rows_max, shape);
        let Some(workspace) = self.or_on_the_cpu(workspace)? else {
            return Ok(None);
        };
        let kept = stays
            .filter(|_| samples.are_alike())
            .map_or(Ok(None), |lane| self.keep(&workspace, network, samples, lane));
        let Some(samples) = self.or_on_the_cpu(kept)? else {
            return Ok(None);
        };
        Ok(Some(Box::new(GpuLane {
            network: network.clone(),
            of: self,
            workspace: Some(workspace),
            samples,
            piece: Vec::new(),
        })))
    }
}

impl GpuLanes {
    /// Where the GPU need not compute, its failures are told, and the CPU computes from then on.
    fn or_on_the_cpu<T>(&self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Err(error @ (Error::Device(_) | Error::Compile(_))) if !self.is_required => {
                if !self.is_lost.swap(true, Ordering::Relaxed) {
                    tracing::warn!("the CPU computes from here on: {error}");
                }
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    /// Copies all of a lane's samples to the GPU, or finds them there. `None` if there is no room for them.
    fn keep(
        &self,
        workspace: &GpuWorkspace,
        network: &NeuralNetwork,
        samples: &mut LaneSamples,
        lane: LaneId,
    ) -> Result<Option<SamplesOnGpu>> {
        let gpu = workspace.device().gpu();
        let (shape, classes) = (samples.shape(), network.output_length());
        let features = lease(&self.tier, gpu, lane.key("features"), || features(samples));
        let Some(features) = room(features)? else {
            return Ok(None);
        };
        let targets = lease(&self.tier, gpu, lane.key("targets"), || targets(samples, classes));
        Ok(room(targets)?.map(|targets| SamplesOnGpu {
            rows: samples.len(),
            scale: shape.and_then(|shape| shape.scale),
            features,
            targets,
        }))
    }
}

impl LaneId {
    /// What a part of its samples is known by.
    fn key(self, part: &str) -> DeviceKey {
        let mut hasher = blake3::Hasher::new_derive_key("distdl 2026 samples of a lane on a device");
        for number in [self.dataset.0, self.lanes as u64, self.lane as u64] {
            hasher.update(&number.to_le_bytes());
        }
        DeviceKey::Content(*hasher.update(part.as_bytes()).finalize().as_bytes())
    }
}

/// The buffer of `key`, or what `bytes` gives, copied to the GPU.
fn lease(
    tier: &DeviceTier<GpuBuffer>,
    gpu: &Gpu,
    key: DeviceKey,
    bytes: impl FnOnce() -> Result<Vec<u8>>,
) -> Result<Lease<GpuBuffer>> {
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
    let lease = tier.lease(gpu, key, source);
    failure.map_or(lease.map_err(Error::Device), Err)
}

/// `None` where the only trouble is that there is too little room.
fn room(lease: Result<Lease<GpuBuffer>>) -> Result<Option<Lease<GpuBuffer>>> {
    match lease {
        Err(Error::Device(DeviceError::OverBudget { .. } | DeviceError::OutOfMemory { .. })) => Ok(None),
        other => other.map(Some),
    }
}

/// All features of a lane as they are kept, row after row.
fn features(samples: &mut LaneSamples) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for index in 0..samples.len() {
        match samples.row(index as u32)?.features {
            RowFeatures::U8(row, _) => bytes.extend_from_slice(row),
            RowFeatures::F32(row) => bytes.extend_from_slice(bytemuck::cast_slice(row)),
        }
    }
    Ok(bytes)
}

/// All targets of a lane, row after row. Errors if a label is no class.
fn targets(samples: &mut LaneSamples, classes: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for index in 0..samples.len() {
        match samples.row(index as u32)?.target {
            RowTarget::Label(label) => {
                check_labels(&[label], classes)?;
                bytes.extend_from_slice(&label.to_ne_bytes());
            }
            RowTarget::Values(values) => bytes.extend_from_slice(bytemuck::cast_slice(values)),
        }
    }
    Ok(bytes)
}

/// A lane on a GPU.
struct GpuLane {
    network: NeuralNetwork,
    of: Arc<GpuLanes>,
    /// There until this is dropped.
    workspace: Option<GpuWorkspace>,
    samples: Option<SamplesOnGpu>,
    /// The gradient of a piece before it is added to a sum; empty until one is.
    piece: Vec<f32>,
}

/// A lane's samples on a GPU.
struct SamplesOnGpu {
    rows: usize,
    scale: Option<f32>,
    features: Lease<GpuBuffer>,
    targets: Lease<GpuBuffer>,
}

impl Drop for GpuLane {
    /// Whoever trains next finds the workspace, unless the GPU is lost. Nothing that it works on is freed before it is done.
    fn drop(&mut self) {
        let is_done = |workspace: &GpuWorkspace| workspace.device().gpu().synchronize().is_ok();
        let workspace = self.workspace.take().filter(is_done);
        self.of.idle().extend(workspace);
    }
}

impl LaneDevice for GpuLane {
    fn has_samples(&self) -> bool {
        self.samples.is_some()
    }

    fn gradient(&mut self, pass: Pass<'_>) -> Result<Option<BatchReport>> {
        let begun = Instant::now();
        let report = self.compute(pass);
        let passed = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.of.counted.nanoseconds.fetch_add(passed, Ordering::Relaxed);
        self.of.counted.passes.fetch_add(1, Ordering::Relaxed);
        self.of.or_on_the_cpu(report)
    }
}

impl GpuLane {
    fn compute(&mut self, pass: Pass<'_>) -> Result<BatchReport> {
        let Some(workspace) = &self.workspace else {
            return Err(Error::Training("a lane that has ended was asked for a step".into()));
        };
        let before = workspace.device().gpu().copied_bytes();
        let is_first = pass.draw.first_row == 0;
        if is_first {
            workspace.set_parameters(pass.parameters)?;
        }
        let rows = match (pass.rows, &self.samples) {
            (LaneRows::Places(places), Some(samples)) => {
                workspace.take_rows(samples.as_ref(), places)?;
                places.len()
            }
            (LaneRows::Places(_), None) => return Err(Error::Training("a lane's samples are not on the GPU".into())),
            (LaneRows::Batch(batch), _) => {
                if let Targets::Labels(labels) = batch.targets() {
                    check_labels(labels, self.network.output_length())?;
                }
                workspace.set_rows(batch.features(), batch.targets(), batch.rows())?;
                batch.rows()
            }
        };
        let report = match is_first {
            true => self
                .network
                .gradient_on_gpu(pass.draw, rows, workspace, pass.gradient)?,
            false => {
                self.piece.resize(pass.gradient.len(), 0.0);
                let report = self
                    .network
                    .gradient_on_gpu(pass.draw, rows, workspace, &mut self.piece)?;
                for (sum, value) in pass.gradient.iter_mut().zip(&self.piece) {
                    *sum += *value;
                }
                report
            }
        };
        self.of
            .counted
            .add_copies(before, workspace.device().gpu().copied_bytes());
        Ok(report)
    }
}

impl SamplesOnGpu {
    fn as_ref(&self) -> GpuSamples<'_> {
        GpuSamples {
            rows: self.rows,
            features: &self.features,
            scale: self.scale,
            targets: &self.targets,
        }
    }
}
