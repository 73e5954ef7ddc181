//! Lanes, whole steps and evaluations on the GPUs of their process.
//!
//! A lane's samples are copied to its GPU once, if there is room for them, and rows are taken from there, and changed where
//! that is wanted; else each mini-batch is copied. Where one process has all lanes and one GPU takes them,
//! whole steps are taken there, and parameters come back when some are done. Else parameters go there and gradients come back
//! in each step.
//! Which GPU a lane is on follows from its index, so that lanes are spread over all of them whichever process hosts them.

mod asking;
mod card;
mod cards;
mod evaluation;
mod graphs;
mod kept;
mod lane;
mod measuring;
mod residence;
mod steps;

use std::sync::Arc;

use distdl_engine::config::GpuUse;
use distdl_engine::device::Chosen;
use distdl_engine::{Context, DatasetId, Resident};
use distdl_storage::DeviceError;

use self::card::{Card, room};
use self::cards::Cards;
use self::evaluation::GpuEvaluation;
use self::lane::GpuLane;
use self::steps::GpuSteps;
use super::TrainingOptions;
use super::device::{Evaluates, EvaluationDevice, LaneDevice, LaneDevices, LaneId, Whole};
use super::lane_samples::LaneSamples;
use crate::augmentation::Augmentation;
use crate::error::{Error, Result};
use crate::metrics::GpuFigures;
use crate::network::{NeuralNetwork, WorkspaceShape};
use crate::samples::SampleShape;

/// Lanes on the GPUs of this process.
pub(super) struct GpuLanes {
    cards: Arc<Cards>,
    evaluates: Evaluates,
}

impl GpuLanes {
    /// Lanes on the GPUs that the context has found, if it has and the network can be there. Errors if a GPU must compute
    /// and cannot.
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
        let card = |&index: &usize| {
            let compiler = compiler.clone();
            Card::new(found, index, config.precision, compiler, bytes_max)
        };
        let cards = found.alike.iter().map(card).collect();
        let cards = Cards::new(found.name.clone(), cards, is_required);
        Ok(Some(Arc::new(Self {
            cards: Arc::new(cards),
            evaluates,
        })))
    }

    /// What was done so far.
    pub(super) fn figures(&self) -> GpuFigures {
        self.cards.figures()
    }

    /// The training ends: frees what nobody has there at the moment. From now on no samples stay.
    pub(super) fn end(&self) {
        self.cards.end();
    }
}

impl LaneDevices for GpuLanes {
    fn lane(
        &self,
        network: &NeuralNetwork,
        (rows_max, pieces_max): (usize, usize),
        samples: &mut LaneSamples,
        lane: LaneId,
        augmentation: Option<Augmentation>,
    ) -> Result<Option<Box<dyn LaneDevice>>> {
        let Some(shape) = samples.shape() else {
            return Ok(None);
        };
        let stays = samples.are_alike();
        let workspace = WorkspaceShape {
            rows_max,
            pieces_max,
            target_length: shape.target_length,
            has_gradient: true,
            augments: augmentation.is_some(),
        };
        self.on_a_card(lane.lane, |card| {
            let workspace = card.workspace(network, workspace)?;
            let kept = match stays {
                true => card.keep(&workspace, network, samples, lane)?,
                false => None,
            };
            let (network, cards) = (network.clone(), Arc::clone(&self.cards));
            Ok(Box::new(GpuLane::new(network, (cards, card), workspace, (kept, augmentation))) as Box<dyn LaneDevice>)
        })
    }

    fn evaluation(
        &self,
        network: &NeuralNetwork,
        parameters: &Arc<Vec<f32>>,
        (rows_max, shape): (usize, SampleShape),
        task: usize,
    ) -> Result<Option<Box<dyn EvaluationDevice>>> {
        let workspace = WorkspaceShape {
            rows_max,
            pieces_max: 1,
            target_length: shape.target_length,
            has_gradient: false,
            augments: false,
        };
        self.on_a_card(task, |card| {
            let workspace = card.workspace(network, workspace)?;
            let evaluation = GpuEvaluation::new(network, (&self.cards, card), workspace, (parameters, self.evaluates))?;
            Ok(Box::new(evaluation) as Box<dyn EvaluationDevice>)
        })
    }

    fn take_all(&self, options: &TrainingOptions, dataset: DatasetId) -> bool {
        let optimizers = options.optimizers();
        optimizers.iter().all(|optimizer| optimizer.on_gpu().is_some())
            && self.cards.of_all(options.lanes, dataset).is_some()
    }

    fn whole(&self, whole: Whole<'_>) -> Result<Option<Box<dyn Resident>>> {
        let dataset = whole.dataset;
        let Some(card) = self.cards.of_all(whole.options.lanes, dataset) else {
            return Ok(None);
        };
        let steps = room(GpuSteps::new(&self.cards, card, whole));
        let Some(steps) = self.cards.unless_lost(card, steps)? else {
            return Ok(None);
        };
        let steps = steps.ok().flatten();
        if steps.is_none() {
            self.cards.find_too_much(dataset, card);
        }
        Ok(steps.map(|steps| Box::new(steps) as Box<dyn Resident>))
    }
}

impl GpuLanes {
    /// What `make` makes on the first GPU for a lane, or for a task, of this index that has room for it. `None` if the CPU
    /// computes.
    fn on_a_card<T>(&self, index: usize, mut make: impl FnMut(&Arc<Card>) -> Result<T>) -> Result<Option<T>> {
        let mut full = None;
        for card in self.cards.of_lane(index) {
            match self.cards.unless_lost(card, room(make(card)))? {
                Some(Ok(made)) => return Ok(Some(made)),
                Some(Err(error)) => full = Some(error),
                None => {}
            }
        }
        let (name, is_full) = (self.cards.name(), full.is_some());
        let reason = match full {
            Some(error @ DeviceError::NoHostMemory { .. }) => error.to_string(),
            Some(_) => format!(
                "{name} has too little memory for another lane, or task that evaluates; use fewer lanes or threads, a smaller \
                 batch, `micro_batch`, or a lower `device.gpu_memory`"
            ),
            None => format!("every {name} of this process is lost"),
        };
        if self.cards.is_required() {
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
