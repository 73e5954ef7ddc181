//! Lanes that compute on the GPUs of their process.
//!
//! A lane's samples are copied to its GPU once, if there is room for them and they are not changed before they are computed,
//! and rows are taken from there; else each mini-batch is copied. Where one process has all lanes and one GPU takes them,
//! whole steps are taken there, and parameters come back when some are done. Else parameters go there and gradients come back
//! in each step.
//! Which GPU a lane is on follows from its index, so that lanes are spread over all of them whichever process hosts them.

mod card;
mod cards;
mod lane;
mod residence;
mod steps;

use std::sync::Arc;

use distdl_engine::config::GpuUse;
use distdl_engine::device::Chosen;
use distdl_engine::{Context, Resident};

use self::card::{Card, room};
use self::cards::Cards;
use self::lane::GpuLane;
use self::steps::GpuSteps;
use super::TrainingOptions;
use super::device::{LaneDevice, LaneDevices, LaneId, Whole};
use super::lane_samples::LaneSamples;
use crate::error::{Error, Result};
use crate::metrics::GpuFigures;
use crate::network::NeuralNetwork;

/// Lanes on the GPUs of this process.
pub(super) struct GpuLanes(Arc<Cards>);

impl GpuLanes {
    /// Lanes on the GPUs that the context has found, if it has and the network can be there. Errors if a GPU must compute
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
            Arc::new(Card::new(found, index, config.precision, compiler, bytes_max))
        };
        let cards = found.alike.iter().map(card).collect();
        let cards = Cards::new(found.name.clone(), cards, is_required);
        Ok(Some(Arc::new(Self(Arc::new(cards)))))
    }

    /// What was done so far.
    pub(super) fn figures(&self) -> GpuFigures {
        self.0.figures()
    }
}

impl LaneDevices for GpuLanes {
    fn lane(
        &self,
        network: &NeuralNetwork,
        rows_max: usize,
        samples: &mut LaneSamples,
        lane: LaneId,
        stays: bool,
    ) -> Result<Option<Box<dyn LaneDevice>>> {
        let Some(shape) = samples.shape() else {
            return Ok(None);
        };
        let (cards, stays, mut is_full) = (&self.0, stays && samples.are_alike(), false);
        for card in cards.of_lane(lane.lane) {
            let workspace = room(card.workspace(network, rows_max, shape));
            let Some(workspace) = cards.unless_lost(card, workspace)? else {
                continue;
            };
            let Some(workspace) = workspace else {
                is_full = true;
                continue;
            };
            let kept = match stays {
                true => card.keep(&workspace, network, samples, lane),
                false => Ok(None),
            };
            let Some(samples) = cards.unless_lost(card, kept)? else {
                continue;
            };
            let (network, cards) = (network.clone(), Arc::clone(cards));
            return Ok(Some(Box::new(GpuLane::new(network, cards, card, workspace, samples))));
        }
        self.none_is_left(lane, is_full)
    }

    fn take_all(&self, options: &TrainingOptions) -> bool {
        options.optimizer.on_gpu().is_some() && self.0.of_all(options.lanes).is_some()
    }

    fn whole(&self, whole: Whole<'_>) -> Result<Option<Box<dyn Resident>>> {
        let Some(card) = self.0.of_all(whole.options.lanes) else {
            return Ok(None);
        };
        let steps = GpuSteps::new(&self.0, card, whole);
        let steps = self.0.unless_lost(card, room(steps))?;
        Ok(steps
            .flatten()
            .flatten()
            .map(|steps| Box::new(steps) as Box<dyn Resident>))
    }
}

impl GpuLanes {
    fn none_is_left(&self, lane: LaneId, is_full: bool) -> Result<Option<Box<dyn LaneDevice>>> {
        let name = self.0.name();
        let reason = match is_full {
            true => format!(
                "{name} has too little memory for another lane; use fewer lanes or a smaller batch, `micro_batch`, or a lower \
                 `device.gpu_memory`"
            ),
            false => format!("every {name} of this process is lost"),
        };
        if self.0.is_required() {
            return Err(Error::Training(reason));
        }
        tracing::warn!(lane = lane.lane, "the CPU computes: {reason}");
        Ok(None)
    }
}
