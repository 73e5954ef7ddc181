//! Lanes that compute on the GPUs of their process.
//!
//! A lane's samples are copied to its GPU once, if there is room for them, and rows are taken from there; else each
//! mini-batch is copied. Parameters go there and gradients come back in each step. Which GPU a lane is on follows from its
//! index, so that lanes are spread over all of them whichever process hosts them.

mod card;
mod lane;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use distdl_engine::Context;
use distdl_engine::config::GpuUse;
use distdl_engine::device::Chosen;

use self::card::{Card, room};
use self::lane::GpuLane;
use super::device::{LaneDevice, LaneDevices, LaneId};
use super::lane_samples::LaneSamples;
use crate::error::{Error, Result};
use crate::metrics::GpuFigures;
use crate::network::NeuralNetwork;

/// The GPUs of this process, for all lanes of one training. They are all of one kind.
pub(super) struct GpuLanes {
    name: String,
    cards: Vec<Arc<Card>>,
    /// Whether nothing else may compute.
    is_required: bool,
    counted: Counted,
}

/// What lanes did. Samples that stay on the GPU are counted by their tier.
#[derive(Default)]
struct Counted {
    to_gpu_bytes: AtomicU64,
    from_gpu_bytes: AtomicU64,
    passes: AtomicU64,
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
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) {
        let mut busy = self.busy();
        busy.under_way += 1;
        busy.since.get_or_insert_with(Instant::now);
    }

    fn end(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
        let mut busy = self.busy();
        busy.under_way -= 1;
        if busy.under_way == 0 {
            let passed = busy.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            busy.total += passed;
        }
    }

    fn add_copies(&self, (to_gpu, from_gpu): (u64, u64), (to_gpu_now, from_gpu_now): (u64, u64)) {
        self.to_gpu_bytes.fetch_add(to_gpu_now - to_gpu, Ordering::Relaxed);
        self.from_gpu_bytes
            .fetch_add(from_gpu_now - from_gpu, Ordering::Relaxed);
    }
}

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
        Ok(Some(Arc::new(Self {
            name: found.name.clone(),
            cards: found.alike.iter().map(card).collect(),
            is_required,
            counted: Counted::default(),
        })))
    }

    /// What was done so far.
    pub(super) fn figures(&self) -> GpuFigures {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let samples = self.cards.iter().map(|card| card.figures());
        let (sample_bytes, avoided) = samples.fold((0, 0), |(copied, avoided), figures| {
            (copied + figures.copied_bytes, avoided + figures.avoided_bytes)
        });
        let counted = &self.counted;
        GpuFigures {
            name: self.name.clone(),
            count: self.cards.len(),
            lost: self.cards.iter().filter(|card| card.is_lost()).count(),
            passes: count(&counted.passes),
            busy_seconds: counted.busy().total.as_secs_f64(),
            to_gpu_bytes: count(&counted.to_gpu_bytes),
            from_gpu_bytes: count(&counted.from_gpu_bytes),
            sample_bytes,
            sample_bytes_avoided: avoided,
        }
    }

    /// `None` if it failed because the GPU did, which is lost then: another computes. An error if there is no other, and
    /// the CPU may not.
    fn unless_lost<T>(&self, card: &Card, result: Result<T>) -> Result<Option<T>> {
        let error = match result {
            Err(error @ (Error::Device(_) | Error::Compile(_))) => error,
            other => return other.map(Some),
        };
        let is_new = card.lose();
        let (is_left, is_required) = (self.cards.iter().any(|card| !card.is_lost()), self.is_required);
        match is_left {
            false if is_required => Err(error),
            _ if !is_new => Ok(None),
            true => {
                tracing::warn!("the other GPUs compute from here on: {error}");
                Ok(None)
            }
            false => {
                tracing::warn!("the CPU computes from here on: {error}");
                Ok(None)
            }
        }
    }
}

impl LaneDevices for GpuLanes {
    fn lane(
        self: Arc<Self>,
        network: &NeuralNetwork,
        rows_max: usize,
        samples: &mut LaneSamples,
        lane: LaneId,
        stays: bool,
    ) -> Result<Option<Box<dyn LaneDevice>>> {
        let Some(shape) = samples.shape() else {
            return Ok(None);
        };
        let stays = stays && samples.are_alike();
        let first = lane.lane % self.cards.len().max(1);
        let mut is_full = false;
        let cards = self.cards[first..].iter().chain(&self.cards[..first]);
        for card in cards.filter(|card| !card.is_lost()) {
            let workspace = room(card.workspace(network, rows_max, shape));
            let workspace = match self.unless_lost(card, workspace)? {
                Some(Some(workspace)) => workspace,
                Some(None) => {
                    is_full = true;
                    continue;
                }
                None => continue,
            };
            let kept = match stays {
                true => card.keep(&workspace, network, samples, lane),
                false => Ok(None),
            };
            let Some(samples) = self.unless_lost(card, kept)? else {
                continue;
            };
            return Ok(Some(Box::new(GpuLane {
                network: network.clone(),
                card: card.clone(),
                of: self,
                workspace: Some(workspace),
                samples,
                step: None,
                piece: Vec::new(),
            })));
        }
        let reason = match is_full {
            true => format!(
                "{} has too little memory for another lane; use fewer lanes or a smaller batch, `micro_batch`, or a lower `device.gpu_memory`",
                self.name
            ),
            false => format!("every {} of this process is lost", self.name),
        };
        if self.is_required {
            return Err(Error::Training(reason));
        }
        tracing::warn!(lane = lane.lane, "the CPU computes: {reason}");
        Ok(None)
    }
}
