//! Lanes, resident steps and evaluations on the GPUs of their process.
//!
//! A lane's samples are copied to its GPU once, if there is room for them, and rows are taken from there, and changed
//! where that is wanted; else each mini-batch is copied. Where one process has all lanes and one GPU takes them,
//! *resident steps* are taken there: whole steps, and parameters come back when some are done. Else parameters go there
//! and gradients come back in each step. Which GPU a lane is on follows from its index, so that lanes are spread over
//! all of them whichever process hosts them.

mod samples;

// What a GPU has for a training.
mod graphs;
mod measuring;
mod resident_buffers;
mod resident_datasets;
mod shared_gpu;
mod shared_gpus;

// What computes there.
mod lane;
mod evaluation;
mod submission;
mod resident_steps;

use std::sync::Arc;

use distdl_engine::config::GpuUse;
use distdl_engine::device::Chosen;
use distdl_engine::{Context, DatasetId, Resident};
use distdl_storage::DeviceError;

use self::evaluation::GpuEvaluation;
use self::lane::GpuLane;
use self::resident_steps::ResidentSteps;
use self::shared_gpu::{SharedGpu, out_of_memory_as_ok};
use self::shared_gpus::{ChosenGpu, SharedGpus};
use super::TrainingOptions;
use super::device::{Evaluates, EvaluationDevice, LaneDevice, LaneDevices, LaneId, PassSize, ResidentTraining};
use super::lane_samples::LaneSamples;
use crate::augmentation::Augmentation;
use crate::error::{Error, Result};
use crate::metrics::GpuFigures;
use crate::network::{NeuralNetwork, WorkspaceShape};
use crate::samples::SampleShape;

/// Lanes on the GPUs of this process.
pub(super) struct GpuLanes {
    gpus: Arc<SharedGpus>,
    evaluates: Evaluates,
}

impl GpuLanes {
    /// Lanes on the GPUs that the context has found, if it has and the network can be there. Errors if a GPU must
    /// compute and cannot.
    pub(super) fn choose(
        context: &Context,
        network: &NeuralNetwork,
        evaluates: Evaluates,
    ) -> Result<Option<Arc<Self>>> {
        let Chosen::Gpu(found) = context.device() else {
            return Ok(None);
        };
        let (config, is_required) = (context.config(), context.config().gpu == GpuUse::On);
        if let Err(reason) = network.on_gpu() {
            return match is_required {
                true => Err(Error::Gpu(format!(
                    "`device.gpu` is `on`, but {reason}; set it to `auto` or `off`, or take another layer or loss"
                ))),
                false => {
                    tracing::info!("the CPU computes: {reason}");
                    Ok(None)
                }
            };
        }
        let compiler = match context.compiler() {
            Err(error) if !is_required => {
                tracing::warn!("the CPU computes: {error}");
                return Ok(None);
            }
            other => other?,
        };
        let bytes_max = config.gpu_memory_bytes_max.unwrap_or(found.memory_bytes / 2);
        let gpu = |&index: &usize| {
            let compiler = compiler.clone();
            SharedGpu::new(found, index, config.precision, compiler, bytes_max)
        };
        let gpus = found.alike.iter().map(gpu).collect();
        let gpus = SharedGpus::new(found.name.clone(), gpus, is_required);
        Ok(Some(Arc::new(Self {
            gpus: Arc::new(gpus),
            evaluates,
        })))
    }

    /// What was done so far.
    pub(super) fn figures(&self) -> GpuFigures {
        self.gpus.figures()
    }

    /// The training ends: frees what nobody has there at the moment. From now on no samples stay.
    pub(super) fn end(&self) {
        self.gpus.end();
    }
}

impl LaneDevices for GpuLanes {
    fn lane(
        &self,
        network: &NeuralNetwork,
        size: PassSize,
        samples: &mut LaneSamples,
        lane: LaneId,
        augmentation: Option<Augmentation>,
    ) -> Result<Option<Box<dyn LaneDevice>>> {
        let Some(shape) = samples.shape() else {
            return Ok(None);
        };
        let stays = samples.are_alike();
        let workspace = WorkspaceShape {
            rows_max: size.rows_max,
            micro_batches_max: size.micro_batches_max,
            target_length: shape.target_length,
            has_gradient: true,
            augments: augmentation.is_some(),
        };
        self.on_a_gpu(lane.lane, |gpu| {
            let workspace = gpu.workspace(network, workspace)?;
            let kept = match stays {
                true => gpu.keep(&workspace, network, samples, lane)?,
                false => None,
            };
            let lane = GpuLane::new(network.clone(), self.chosen(gpu), workspace, kept, augmentation);
            Ok(Box::new(lane) as Box<dyn LaneDevice>)
        })
    }

    fn evaluation(
        &self,
        network: &NeuralNetwork,
        parameters: &Arc<Vec<f32>>,
        rows_max: usize,
        shape: SampleShape,
        task: usize,
    ) -> Result<Option<Box<dyn EvaluationDevice>>> {
        let workspace = WorkspaceShape {
            rows_max,
            micro_batches_max: 1,
            target_length: shape.target_length,
            has_gradient: false,
            augments: false,
        };
        self.on_a_gpu(task, |gpu| {
            let workspace = gpu.workspace(network, workspace)?;
            let evaluation = GpuEvaluation::new(network, self.chosen(gpu), workspace, parameters, self.evaluates)?;
            Ok(Box::new(evaluation) as Box<dyn EvaluationDevice>)
        })
    }

    fn can_be_resident(&self, options: &TrainingOptions, dataset: DatasetId) -> bool {
        let optimizers = options.optimizers();
        optimizers.iter().all(|optimizer| optimizer.on_gpu().is_some())
            && self.gpus.of_all(options.lanes, dataset).is_some()
    }

    fn resident_steps(&self, training: ResidentTraining<'_>) -> Result<Option<Box<dyn Resident>>> {
        let dataset = training.dataset;
        let Some(gpu) = self.gpus.of_all(training.plan.options.lanes, dataset) else {
            return Ok(None);
        };
        let steps = out_of_memory_as_ok(ResidentSteps::new(self.chosen(gpu), training));
        let Some(steps) = self.gpus.unless_lost(gpu, steps)? else {
            return Ok(None);
        };
        let steps = steps.ok().flatten();
        if steps.is_none() {
            self.gpus.find_too_much(dataset, gpu);
        }
        Ok(steps.map(|steps| Box::new(steps) as Box<dyn Resident>))
    }
}

impl GpuLanes {
    fn chosen(&self, gpu: &Arc<SharedGpu>) -> ChosenGpu {
        ChosenGpu {
            gpus: Arc::clone(&self.gpus),
            gpu: Arc::clone(gpu),
        }
    }

    /// What `make` makes on the first GPU for a lane, or for a task, of this index that has room for it. `None` if the
    /// CPU computes.
    fn on_a_gpu<T>(&self, index: usize, mut make: impl FnMut(&Arc<SharedGpu>) -> Result<T>) -> Result<Option<T>> {
        let mut full = None;
        for gpu in self.gpus.of_lane(index) {
            match self.gpus.unless_lost(gpu, out_of_memory_as_ok(make(gpu)))? {
                Some(Ok(made)) => return Ok(Some(made)),
                Some(Err(error)) => full = Some(error),
                None => {}
            }
        }
        let (name, is_full) = (self.gpus.name(), full.is_some());
        let reason = match full {
            Some(error @ DeviceError::NoHostMemory { .. }) => error.to_string(),
            Some(_) => format!(
                "{name} has too little memory for another lane, or task that evaluates; use fewer lanes or threads, a smaller \
                 batch, `micro_batch`, or a lower `device.gpu_memory`"
            ),
            None => format!("every {name} of this process is lost"),
        };
        if self.gpus.is_required() {
            return Err(Error::Gpu(reason));
        }
        // Of one that is lost it has been said.
        match is_full {
            true => tracing::warn!(index, "the CPU computes: {reason}"),
            false => tracing::debug!(index, "the CPU computes: {reason}"),
        }
        Ok(None)
    }
}
