//! Training on a dataset: lanes walk through their samples, the exchange sums their gradients, shards apply them.

mod failed;

// What a training follows.
mod compression;
mod options;
mod shares;
mod order;
mod plan;

// Its samples, and what is done with the sum of their gradients.
mod lane_samples;
mod look;
mod update;

// Other devices than the CPU.
mod device;
#[cfg(feature = "gpu")]
mod gpu;
mod devices;

// What computes.
mod evaluation;
mod lane;
mod run;
mod resident;

// What happens between steps.
mod best;
mod change;
mod finite;
mod plateau;
mod saved;

use std::collections::BTreeMap;
use std::sync::Arc;

use distdl_engine::{Dataset, Parameters, Tallies};

use self::change::Digests;
pub use self::change::{BatchId, DataChange};
pub use self::compression::{Compression, TopK};
use self::device::Evaluates;
use self::devices::Devices;
use self::look::look_at;
pub use self::options::{Decay, TrainingOptions};
use self::order::KnownOrders;
use self::plan::TrainingPlan;
pub use self::plateau::Plateau;
use crate::best::BestModels;
use crate::checkpoint::{CheckpointOptions, Checkpoints, Resumed};
use crate::deal::Deal;
use crate::error::{Error, Result};
use crate::metrics::{BatchReport, GpuFigures};
use crate::model_file::parameters_hash;
use crate::network::NeuralNetwork;
use crate::samples::Samples;

/// A finished step.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct StepResult {
    /// 0-based step since the beginning.
    pub step: u64,
    /// Loss and hits on the step's mini-batch, before it was applied.
    pub report: BatchReport,
}

/// A network in training: its parameters, and how far it has come.
#[derive(Debug)]
pub struct Training {
    plan: TrainingPlan,
    data: Dataset<Samples>,
    /// Whether all targets of the data are labels, so that there are hits to count.
    has_labels: bool,
    /// Whether all of the data was found to be finite.
    is_data_finite: bool,
    parameters: Arc<Parameters>,
    checkpoints: Option<Checkpoints>,
    step: u64,
    /// The best models, where checkpoints are to hold them: what was last shown of them, or found in one.
    best: Option<BestModels>,
    /// Digests of the samples of `data`, once they were asked for.
    digests: Option<Digests>,
    devices: Devices,
    /// Whether other processes may have come to another step, as an iteration has failed.
    has_parted: bool,
}

impl NeuralNetwork {
    /// Begins to train on `data`, whose partition `p` belongs to lane `p % lanes`, from initial parameters,
    /// or goes on from a checkpoint. The data is best persisted first; it is computed once here.
    ///
    /// # Errors
    /// If the data is empty or smaller than a batch, has fewer partitions than there are lanes, or cannot be computed;
    /// if the network cannot use a sample: a label that is no class, an index that an embedding has no vector for, a
    /// target value that the loss does not take; if the checkpoint to go on from cannot be read, or is of another
    /// training; if an option makes no sense, or not for what lanes have. If a GPU must compute (`device.gpu` is `on`),
    /// also if a layer has no kernels for GPUs.
    #[track_caller]
    pub fn train(&self, data: &Dataset<Samples>, options: TrainingOptions) -> Result<Training> {
        if options.lanes == 0 || data.partitions() < options.lanes {
            let problem = format!(
                "{} lanes over a dataset of {} partitions; use at least 1 lane, and `repartition` the data into at least \
                 one partition a lane",
                options.lanes,
                data.partitions()
            );
            return Err(Error::Data(problem));
        }
        options.check(self)?;
        let options = TrainingOptions {
            seed: Some(options.seed.unwrap_or(data.context().config().seed)),
            ..options
        };
        let checkpoint = options.checkpoint.clone();
        checkpoint.iter().try_for_each(CheckpointOptions::check)?;
        let look = look_at(self, data, options.lanes, checkpoint.is_some())?;
        let deal = Deal::new(look.lengths, options.batch)?;
        options.check_shares(self, &deal)?;
        let initial = match &options.initial_parameters {
            Some(parameters) => parameters.to_vec(),
            None => self.initialize(options.seed())?,
        };
        let parameters = Parameters::with_state(initial, options.optimizer.state_slots())?;
        let parameters = parameters.with_lag(options.staleness.lag());
        let identity = options.identity(self, &deal, look.digest);
        let devices = Devices::choose(data, self, Evaluates::Again)?;
        let mut training = Training {
            plan: TrainingPlan {
                network: self.clone(),
                deal,
                options,
                state_begin: 0,
                rate_factor: 1.0,
                orders: KnownOrders::default(),
            },
            data: data.clone(),
            has_labels: look.has_labels,
            is_data_finite: false,
            parameters: Arc::new(parameters),
            checkpoints: checkpoint
                .map(|options| Checkpoints::new(options, identity, &devices.words(data.context().config()))),
            step: 0,
            best: None,
            digests: None,
            devices,
            has_parted: false,
        };
        training.check_beginning()?;
        training.resume()?;
        Ok(training)
    }
}

impl Training {
    /// The network.
    pub fn network(&self) -> &NeuralNetwork {
        &self.plan.network
    }

    /// The next step.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Whole epochs behind.
    pub fn epoch(&self) -> u64 {
        self.plan.deal.epoch_and_step(self.step).0
    }

    /// Whether an epoch has ended and the next has not begun.
    fn is_at_end_of_epoch(&self) -> bool {
        self.step > 0 && self.plan.deal.epoch_and_step(self.step).1 == 0
    }

    /// Steps in an epoch: those of `batch` samples, and a last one of fewer if they do not come out even.
    pub fn steps_per_epoch(&self) -> u64 {
        self.plan.deal.steps_per_epoch
    }

    /// The checkpoint that this training has gone on from, if it has.
    pub fn resumed(&self) -> Option<&Resumed> {
        self.checkpoints.as_ref()?.resumed()
    }

    /// What the lanes of this process have done on a GPU; `None` if the CPU computes.
    pub fn gpu_figures(&self) -> Option<GpuFigures> {
        self.devices.figures()
    }

    /// The [`gpu_figures`](Self::gpu_figures) of each process of the cluster that computes on GPUs, as it was at the
    /// end of the last action: by its place, counted from 0, and its life, another number once the process has died and
    /// was started again.
    pub fn gpu_figures_of_all(&self) -> BTreeMap<(usize, u64), GpuFigures> {
        self.devices.figures_of_all()
    }

    /// A copy of the parameters. In a program of several processes they may differ between these once
    /// [`iterate`](Self::iterate) has failed.
    pub fn parameters(&self) -> Vec<f32> {
        self.parameters.latest().to_vec()
    }

    /// Sets the parameters. The optimizer's state is 0 again, and a checkpoint of this very step is written anew: what
    /// was trained up to here is in it no more. To keep a model that was better before, [save](NeuralNetwork::save) it
    /// to a file. What a training begins with is better given as
    /// [`initial_parameters`](TrainingOptions::initial_parameters), which one that goes on from a checkpoint leaves
    /// alone.
    ///
    /// # Errors
    /// If there are not as many as the network has, or one of them is not finite: then the training has those it had.
    /// If the checkpoint cannot be written.
    pub fn set_parameters(&mut self, parameters: Vec<f32>) -> Result<()> {
        self.check_unity()?;
        crate::error::check_length("the parameters", self.plan.network.parameter_count(), parameters.len())?;
        self.check_given(&parameters)?;
        let parameters = Parameters::with_state(parameters, self.plan.options.optimizer.state_slots())?;
        self.parameters = Arc::new(parameters.with_lag(self.plan.options.staleness.lag()));
        self.plan.state_begin = self.step;
        self.write_checkpoint_anew()
    }

    /// BLAKE3 of the parameters, in hexadecimal: equal bits give equal hashes.
    pub fn parameters_hash(&self) -> String {
        parameters_hash(&self.parameters.latest())
    }

    /// Errors if processes may have different parameters.
    pub(super) fn check_unity(&self) -> Result<()> {
        match self.has_parted {
            false => Ok(()),
            true => Err(Error::State(
                "an iteration of this training has failed, so its processes may have come to different steps; make the training \
                 anew, from a checkpoint if there is one"
                    .to_owned(),
            )),
        }
    }
}

fn to_tallies(report: BatchReport) -> Tallies {
    Tallies([
        report.loss_sum,
        report.correct.unwrap_or_default() as f64,
        report.samples as f64,
        report.weight,
    ])
}

/// What lanes have reported. Where targets are values the hits that it counts are none.
fn from_tallies(Tallies([loss_sum, correct, samples, weight]): Tallies) -> BatchReport {
    BatchReport {
        loss_sum,
        correct: (samples > 0.0).then_some(correct as u64),
        samples: samples as u64,
        weight,
    }
}
