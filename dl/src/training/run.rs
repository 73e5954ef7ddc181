//! Steps of a training are run: as an iteration of the engine, from one checkpoint to the next.

use std::panic::Location;
use std::sync::Arc;

use distdl_engine::{Iteration, Lane, LaneData, LanePartition, ShardUpdate, StepReport};

use super::compression::Residual;
use super::failed::Failed;
use super::lane::{Gradients, TrainingLane};
use super::lane_samples::{LanePart, Loader};
use super::plan::TrainingPlan;
use super::update::{Update, learnt, measures, shards};
use super::{StepResult, Training, from_tallies};
use crate::error::{Error, Result};
use crate::metrics::BatchReport;
use crate::samples::Samples;

impl Training {
    /// Runs to the end of the current epoch; `observe` sees each step. Returns the sum of the steps' reports.
    ///
    /// ```
    /// # use distdl_dl::{Features, NeuralNetwork, SampleTargets, Samples, TrainingOptions};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let points: Vec<f32> = (0..200).map(|point| point as f32 / 100.0 - 1.0).collect();
    /// # let labels = points.iter().map(|point| u32::from(*point > 0.0)).collect();
    /// # let samples = Samples::new(1, Features::F32(points), SampleTargets::Labels(labels))?;
    /// # let data = context.parallelize(samples.split(2)?, 2).cache();
    /// # let network = NeuralNetwork::dense(1, &[8], 2)?;
    /// let options = TrainingOptions { batch: 32, ..TrainingOptions::default() };
    /// let (mut training, mut steps) = (network.train(&data, options)?, 0);
    /// let before = training.error(&data)?.mean_loss();
    /// training.run_epoch(|_step| steps += 1)?;
    /// assert_eq!(steps, 7, "6 of 32 samples and one of the 8 that are left");
    /// assert_eq!((training.epoch(), training.step()), (1, 7));
    /// assert!(training.error(&data)?.mean_loss() < before);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`iterate`](Self::iterate).
    #[track_caller]
    pub fn run_epoch(&mut self, observe: impl FnMut(&StepResult)) -> Result<BatchReport> {
        let steps = self.plan.deal.steps_per_epoch - self.plan.deal.epoch_and_step(self.step).1;
        self.iterate(steps, observe)
    }

    /// Runs `steps` steps; `observe` sees each, and cannot run actions: evaluate between two calls. Returns the sum of
    /// the steps' reports. Between two checkpoints the steps are one dataflow; or they are taken whole on a GPU, and
    /// `observe` sees some of them together, up to some seconds after they were taken.
    ///
    /// Each call makes lanes anew, and looks over all parameters at its end: where a step is short, ask for many at a
    /// time, as [`run_epoch`](Self::run_epoch) does.
    ///
    /// A panic of `observe` ends the call with [`DriverPanic`](distdl_engine::EngineError::DriverPanic). The steps that
    /// were applied by then stay, also those that `observe` has not seen; with
    /// [`Compression::TopK`](super::Compression::TopK) they are taken back as with any error. Of several processes the
    /// training is over, see below.
    ///
    /// # Errors
    /// [`Error::NotFinite`] names the step whose loss is NaN or infinite; that step and later ones are not applied. It
    /// also names the first number of the data that is NaN or infinite, if one is, for which all of the data is passed
    /// over once more, though not again once none was found. That sample need not be one of the step's. When all steps
    /// are applied it names a tensor if a value of it, or of the optimizer's state for it, is NaN or infinite, and the
    /// last step: then no checkpoint is written. If a checkpoint cannot be written, the steps before it are applied,
    /// and those behind it are still to be run. With [`Compression::TopK`](super::Compression::TopK) an error takes the
    /// steps back that were applied since all was last sent: they are run and seen again. [`Error::Memory`] names the
    /// lane that has no room for its share of a step. If a GPU must compute, also if the last one of a process is lost
    /// or has too little memory. Otherwise as any action.
    ///
    /// **Several processes** may have come to different steps then, and one that is started in the place of a lost one
    /// to none: the training is over, and is made anew, from a checkpoint if there is one.
    #[track_caller]
    pub fn iterate(&mut self, steps: u64, mut observe: impl FnMut(&StepResult)) -> Result<BatchReport> {
        let site = Location::caller();
        let end = self.step.checked_add(steps).ok_or_else(|| {
            Error::State(format!(
                "{steps} steps behind step {} are more than can be counted; take fewer at a time",
                self.step
            ))
        })?;
        let mut total = BatchReport::default();
        loop {
            let checkpoints = self.checkpoints.as_ref();
            let stop = checkpoints.map_or(end, |checkpoints| checkpoints.next_after(self.step).min(end));
            let flush = self
                .plan
                .options
                .compression
                .top_k()
                .map(|top_k| top_k.flush_after(self.step));
            let stop = flush.map_or(stop, |flush| flush.min(stop));
            self.run_to(stop, site, &mut |step| {
                total.merge(&step.report);
                observe(step);
            })?;
            self.save(stop == end && steps > 0)?;
            if stop == end {
                return Ok(total);
            }
        }
    }

    /// Runs the steps before `end`.
    fn run_to(
        &mut self,
        end: u64,
        site: &'static Location<'static>,
        observe: &mut dyn FnMut(&StepResult),
    ) -> Result<()> {
        self.check_unity()?;
        self.plan.orders.forget_unused();
        let mut iteration = Iteration::new(self.plan.options.lanes, end - self.step)
            .from_step(self.step)
            .with_shards(shards(self.plan.options.lanes, self.plan.network.parameter_count()))
            .with_state_slots(self.plan.options.optimizer.state_slots())
            .with_staleness(self.plan.options.staleness)
            .with_updates(
                self.plan
                    .options
                    .compression
                    .format(self.plan.network.has_sparse_gradient()),
            )
            .with_measures(measures(&self.plan.network, &self.plan.options))
            .with_settings(self.settings());
        if self.plan.options.compression.top_k().is_some() {
            iteration = iteration.with_lanes_that_remember();
        }
        iteration.site = site;
        if let Some(placement) = &self.plan.options.placement {
            iteration = iteration
                .with_shards(placement.shards.len())
                .with_placement(placement.clone());
        }
        let (first, beginning) = (self.step, self.beginning()?);
        let failed = Failed::default();
        let (mut applied, has_labels) = (first, self.has_labels);
        let mut observe = |step: &StepReport| {
            applied = step.step + 1;
            let report = from_tallies(step.tallies);
            let correct = report.correct.filter(|_| has_labels);
            observe(&StepResult {
                step: step.step,
                report: BatchReport { correct, ..report },
            });
        };
        let result = self.run_resident(&iteration, &failed, &mut observe).and_then(|taken| {
            iteration.first_step += taken;
            iteration.steps -= taken;
            match iteration.steps {
                0 => Ok(()),
                _ => self.run_lanes(iteration, &failed, &mut observe),
            }
        });
        // What `observe` did not see, since it had panicked, is applied as well.
        self.step = applied.max(self.parameters.version());
        if let (Err(_), Some(beginning)) = (&result, beginning) {
            (self.parameters, self.step) = (Arc::new(beginning), first);
        }
        self.has_parted |= result.is_err() && self.data.context().is_in_cluster();
        result.map_err(|error| self.with_input(failed.resolve(error)))?;
        self.check_parameters()
    }

    /// What lanes and shards do, for the processes of a cluster to compare. On which devices is each one's own matter,
    /// and what the data holds stands in its lineage.
    fn settings(&self) -> String {
        if !self.data.context().is_in_cluster() {
            return String::new();
        }
        let TrainingPlan {
            network, deal, options, ..
        } = &self.plan;
        let identity = options.identity(network, deal, String::new());
        format!("{identity:?}, rate times {}", self.plan.rate_factor)
    }

    /// Takes the steps of an iteration by lanes and shards.
    fn run_lanes(
        &self,
        iteration: Iteration,
        failed: &Failed,
        observe: &mut dyn FnMut(&StepReport),
    ) -> distdl_engine::Result<()> {
        let (end, shards) = (iteration.last_step(), iteration.clone());
        self.data.iterate_over(
            iteration,
            &self.parameters,
            lane_loader(failed.clone()),
            self.lane_maker(end, failed.clone()),
            self.shard_maker(shards, failed.clone()),
            observe,
        )
    }

    fn lane_maker(
        &self,
        end: u64,
        failed: Failed,
    ) -> impl Fn(LaneData<Arc<LanePart>>) -> distdl_engine::Result<Box<dyn Lane>> + Send + Sync + use<> {
        let (plan, learnt) = (self.plan.clone(), learnt(&self.plan.network));
        let (norm_max, top_k) = (
            self.plan.options.lane_gradient_norm_max,
            self.plan.options.compression.top_k(),
        );
        let (devices, dataset) = (self.devices.lanes(), self.data.id());
        move |data| {
            let devices = devices.clone().map(|devices| (devices, dataset));
            let lane = TrainingLane::new(&plan, data, devices);
            Ok(Box::new(Gradients {
                lane: lane.map_err(|error| failed.keep(error))?,
                norm_max,
                residual: top_k.map(|top_k| Residual::new(top_k, end, learnt.clone())),
                learnt: learnt.clone(),
                failed: failed.clone(),
            }))
        }
    }

    fn shard_maker(
        &self,
        iteration: Iteration,
        failed: Failed,
    ) -> impl Fn(usize) -> distdl_engine::Result<Box<dyn ShardUpdate>> + Send + Sync + use<> {
        let plan = Arc::new(self.plan.clone());
        move |shard| {
            let range = iteration.shard_range(shard, plan.network.parameter_count());
            Ok(Box::new(Update::new(Arc::clone(&plan), range, failed.clone())))
        }
    }
}

/// What loads the partitions of the lanes that are hosted here.
pub(super) fn lane_loader(
    failed: Failed,
) -> impl Fn(LanePartition<Samples>) -> distdl_engine::Result<Arc<LanePart>> + Send + Sync {
    let loader = Loader::default();
    move |partition| loader.load(partition).map_err(|error| failed.keep(error))
}
