//! How to train.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use distdl_engine::{Placement, Staleness};

use super::Compression;
use crate::augmentation::Augmentation;
use crate::checkpoint::{CheckpointOptions, TrainingIdentity};
use crate::deal::Deal;
use crate::error::{Error, Result, check_length};
use crate::model_file::parameters_hash;
use crate::network::NeuralNetwork;
use crate::optimizer::{Optimizer, Sgd};
use crate::schedule::Schedule;

/// How to train. Everything here may show in the trained parameters; the number of workers never does, but where
/// [`staleness`](Self::staleness) lets time show.
#[derive(Debug, Clone)]
pub struct TrainingOptions {
    /// Samples in a step, over all lanes.
    pub batch: usize,
    /// Number of data-parallel streams; affects the result. A step takes from each lane in proportion to its samples,
    /// so that all end with the epoch, and of `batch` samples together; only the last step of an epoch may be of fewer.
    ///
    /// At most as many threads have work, over all processes. Threads do not affect the result: choose as many lanes as
    /// the largest machine that you want to train on has cores.
    ///
    /// Samples stay with their lane, and are mixed within it. Where lanes differ, as those of data that lies in order
    /// of its classes do, batch normalisation, limits of a lane's gradient and steps that do not wait for all lanes see
    /// but a part of the data at a time.
    ///
    /// [`shuffle_samples`](crate::PrepareSamples::shuffle_samples) makes lanes alike.
    pub lanes: usize,
    /// The most samples whose gradient a lane computes at a time (gradient accumulation): its share of a step is cut
    /// into micro-batches of so many, whose gradients are summed before they leave the lane. Batch and buffers then
    /// take the memory of a micro-batch. The sum is of the same samples, but its last bits change. The statistics of
    /// batch norm are those of a micro-batch, as in PyTorch. Default: the whole share.
    pub micro_batch: Option<usize>,
    /// How the pictures that lanes learn from are changed by chance; not those of indices, as for an
    /// [`Embedding`](crate::Embedding). Default: not at all.
    pub augmentation: Option<Augmentation>,
    /// Learning rate by step. Default: the same at each step, as suits the optimizer ([`Optimizer::learning_rate`]):
    /// 0.1 for SGD, 0.01 for RMSprop and Adagrad, 0.001 for Adam, AdamW and LAMB.
    pub schedule: Option<Schedule>,
    /// What the learning rate is multiplied with in a layer, by its 0-based index, as parameter groups of `torch.optim`
    /// with rates of their own do: for example less than 1 where parameters of a model file are to move little. All
    /// that the optimizer does with the rate follows, AdamW's decay too. A layer that is not to move at all is
    /// [frozen](NeuralNetwork::with_frozen). Default: 1 in all.
    pub layer_rates: BTreeMap<usize, f32>,
    /// How the mean gradient of a step changes the parameters. Default: plain SGD.
    pub optimizer: Arc<dyn Optimizer>,
    /// What the optimizer's weight decay reaches. Default: all that is learnt.
    pub decay: Decay,
    /// The largest norm of the mean gradient of a lane's share of a step; a larger gradient is scaled down to it, as
    /// `torch.nn.utils.clip_grad_norm_` does. The mean over lanes is then no larger either. Default: no limit.
    pub lane_gradient_norm_max: Option<f32>,
    /// The largest norm of the mean gradient of a step, over all samples and all that is learnt; a larger gradient is
    /// scaled down to it, as `torch.nn.utils.clip_grad_norm_` does. The norm is exact, so neither lanes nor shards show
    /// in it. Costs one more exchange between the owners of shards in every step; the limit of a lane's gradient costs
    /// none. Default: no limit.
    pub gradient_norm_max: Option<f32>,
    /// How old the parameters may be that lanes read: by default they read the newest, and wait for each other.
    ///
    /// With [`Staleness::FixedLag`] each call of [`iterate`](super::Training::iterate) begins without a lag, and so
    /// does training behind each checkpoint and each time when [`Compression::TopK`] sends all.
    ///
    /// With [`Staleness::Asynchronous`] each update of a lane counts as one place of a step, of however many samples it
    /// is, and lanes go through their samples at their own pace:
    ///
    /// - A lane with a ninth of the samples of another, whose updates take less time, may show each of its samples nine
    ///   times as often: give lanes about as many.
    /// - A lane with fewer samples than an epoch has full steps is refused, as its empty updates would fill steps.
    /// - Other lanes may have one empty update in an epoch, so a step may still be without samples: it changes no
    ///   parameter and no state, has no mean loss, and counts as a step.
    /// - Each call of `iterate`, and training behind each checkpoint, begins with all lanes at the same step: those
    ///   that were ahead go through samples again that they had, and those that were behind leave some out.
    pub staleness: Staleness,
    /// What is sent of gradients. Default: all.
    pub compression: Compression,
    /// Seed of initial parameters and orders of samples, and of what layers and augmentation draw. Default: that of the
    /// context (`--seed`).
    pub seed: Option<u64>,
    /// Parameters to begin with, for example of a model file, in place of those that layers draw. A training that goes
    /// on from a checkpoint has that one's. Default: none.
    pub initial_parameters: Option<Arc<[f32]>>,
    /// Where lanes and shards run, for tests that results do not depend on it; in one process.
    pub placement: Option<Placement>,
    /// Where and when to write checkpoints, and whether to go on from one.
    pub checkpoint: Option<CheckpointOptions>,
}

/// What weight decay reaches.
///
/// ```
/// use std::sync::Arc;
///
/// use distdl_dl::{AdamW, Decay, TrainingOptions};
///
/// let options = TrainingOptions {
///     optimizer: Arc::new(AdamW { weight_decay: 0.1, ..AdamW::default() }),
///     decay: Decay::Weights,
///     ..TrainingOptions::default()
/// };
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decay {
    /// All that is learnt.
    #[default]
    All,
    /// Weights alone, which inputs are multiplied with: those of `Dense`, `Masked`, `Conv2d` and `Embedding`, and what
    /// layers of one's own [call so](crate::Layer::is_weight); no bias, and no scale and shift of a normalisation. As
    /// with two parameter groups of `torch.optim`, of which one has a `weight_decay` of 0. LAMB's norms are of all that
    /// is learnt nevertheless. An optimizer of one's own says what it is [without decay](Optimizer::without_decay).
    Weights,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            batch: 128,
            lanes: 2,
            micro_batch: None,
            augmentation: None,
            schedule: None,
            layer_rates: BTreeMap::new(),
            optimizer: Arc::new(Sgd::default()),
            decay: Decay::All,
            lane_gradient_norm_max: None,
            gradient_norm_max: None,
            staleness: Staleness::Synchronous,
            compression: Compression::None,
            seed: None,
            initial_parameters: None,
            placement: None,
            checkpoint: None,
        }
    }
}

impl TrainingOptions {
    /// What the result of a training follows from, apart from its steps.
    pub(super) fn identity(&self, network: &NeuralNetwork, deal: &Deal, data: String) -> TrainingIdentity {
        // Where a checkpoint makes steps begin without a lag, or all that was kept back be sent.
        let every_steps = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.every_steps);
        let anew = |is_so: bool| match is_so && every_steps > 0 {
            true => format!(", anew every {every_steps} steps"),
            false => String::new(),
        };
        TrainingIdentity {
            network: network.words(),
            optimizer: self.optimizer_words(network),
            schedule: format!("{:?}", self.chosen_schedule()),
            staleness: format!("{:?}", self.staleness) + &anew(self.staleness.lag() > 0),
            compression: format!("{:?}", self.compression) + &anew(self.compression.top_k().is_some()),
            batch: self.batch,
            micro_batch: self.micro_batch,
            augmentation: format!("{:?}", self.augmentation),
            lanes: self.lanes,
            seed: self.seed(),
            initial: self.initial_parameters.as_deref().map(parameters_hash),
            lane_samples: deal.lengths.clone(),
            data,
        }
    }

    /// What the optimizer does, in words that stand in checkpoints.
    fn optimizer_words(&self, network: &NeuralNetwork) -> String {
        let mut words = format!("{:?}", self.optimizer);
        if self.decay == Decay::Weights {
            let tensors = network.parameter_layout().entries().iter().zip(network.are_weights());
            let weights = tensors.filter(|(_, is_weight)| *is_weight);
            let names: Vec<&str> = weights.map(|(entry, _)| &*entry.name).collect();
            words.push_str(&format!(", whose decay is that of {}", names.join(" ")));
        }
        // Those of 1 change nothing.
        for (layer, factor) in self.layer_rates.iter().filter(|(_, factor)| **factor != 1.0) {
            words.push_str(&format!(", {factor} times the rate in layer {layer}"));
        }
        let limits = [
            (self.lane_gradient_norm_max, "norm of a lane's gradient"),
            (self.gradient_norm_max, "norm of the gradient"),
        ];
        for (norm_max, what) in limits {
            words.extend(norm_max.map(|norm_max| format!(", {what} at most {norm_max}")));
        }
        words
    }

    /// What treats tensors that decay is to reach, and what the others.
    pub(super) fn optimizers(&self) -> [Arc<dyn Optimizer>; 2] {
        let decays = Arc::clone(&self.optimizer);
        let others = match self.decay {
            Decay::All => None,
            Decay::Weights => self.optimizer.without_decay(),
        };
        [decays.clone(), others.unwrap_or(decays)]
    }

    /// The schedule that is given, or the optimizer's rate.
    fn chosen_schedule(&self) -> Schedule {
        let given = self.schedule.clone();
        given.unwrap_or_else(|| Schedule::Constant(self.optimizer.learning_rate()))
    }

    /// The learning rate of a step, but for the factor that the driver program sets.
    pub(super) fn learning_rate(&self, step: u64) -> f32 {
        match &self.schedule {
            Some(schedule) => schedule.learning_rate(step),
            None => self.optimizer.learning_rate(),
        }
    }

    /// The seed; of a training it is there.
    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or_default()
    }

    /// Errors if something makes no sense, or not for this network.
    pub(super) fn check(&self, network: &NeuralNetwork) -> Result<()> {
        if network.parameter_count() == 0 {
            let problem = "the network has no parameters, so there is nothing to train; give it a layer that has some, such as \
                           `Dense`, or use it as it is by `error` and `predict`";
            return Err(Error::Options(problem.to_owned()));
        }
        if let Some(parameters) = &self.initial_parameters {
            check_length("the initial parameters", network.parameter_count(), parameters.len())?;
        }
        self.staleness.check()?;
        self.compression.check()?;
        self.chosen_schedule().check()?;
        if self.compression.top_k().is_some() && !self.staleness.is_determinate() {
            let problem = "`Compression::TopK` where results depend on time: after a loss its steps are done again, and would not \
                           be the same; use it with `Staleness::Synchronous` or `FixedLag`, or another compression";
            return Err(Error::Options(problem.to_owned()));
        }
        if self.compression.top_k().is_some() && self.gradient_norm_max.is_some() {
            let problem = "`Compression::TopK` with `gradient_norm_max`: what was kept back is sent together, and the limit would \
                           throw most of it away; use `lane_gradient_norm_max`, which comes before compression";
            return Err(Error::Options(problem.to_owned()));
        }
        if self.compression.top_k().is_some() && network.loss().is_weighted() {
            let problem = "`Compression::TopK` with weights of classes or samples: what was kept back would count by the weight of the step \
                           that it is sent in; use another compression";
            return Err(Error::Options(problem.to_owned()));
        }
        if self.micro_batch == Some(0) {
            let problem = "micro_batch is 0; give at least 1 sample, or none to compute a lane's share at once";
            return Err(Error::Options(problem.to_owned()));
        }
        if let Some(augmentation) = &self.augmentation {
            augmentation.check(network.input_shape())?;
            if let Some((index, kind)) = network.takes_indices() {
                return Err(Error::Options(format!(
                    "augmentation changes what layer {index} ({kind}) takes for indices: those of other things, or of none, would \
                     come of them; train without augmentation"
                )));
            }
        }
        for (norm_max, option) in [
            (self.lane_gradient_norm_max, "lane_gradient_norm_max"),
            (self.gradient_norm_max, "gradient_norm_max"),
        ] {
            if let Some(norm_max) = norm_max.filter(|norm_max| !(norm_max.is_finite() && *norm_max > 0.0)) {
                return Err(Error::Options(format!(
                    "{option} is {norm_max}; give a number above 0, or none for no limit"
                )));
            }
        }
        self.optimizer.check()?;
        self.check_layer_rates(network)?;
        self.check_decay()
    }

    /// Errors if a rate is of no layer that has parameters, or no factor.
    fn check_layer_rates(&self, network: &NeuralNetwork) -> Result<()> {
        let layers = network.layers_of_tensors();
        for (layer, factor) in &self.layer_rates {
            if !(factor.is_finite() && *factor > 0.0) {
                return Err(Error::Options(format!(
                    "layer_rates multiplies the rate of layer {layer} with {factor}; give a number above 0, or leave the layer as it is \
                     with `with_frozen`"
                )));
            }
            if !layers.contains(layer) {
                let known: BTreeSet<usize> = layers.iter().copied().collect();
                return Err(Error::Options(format!(
                    "layer_rates names layer {layer}, which has no parameters or is not there; those that have some are {known:?}"
                )));
            }
        }
        Ok(())
    }

    /// Errors if tensors are to be left out of decay, and the optimizer does not say what it is without.
    fn check_decay(&self) -> Result<()> {
        if self.decay == Decay::All {
            return Ok(());
        }
        let Some(others) = self.optimizer.without_decay() else {
            return Err(Error::Options(format!(
                "decay is that of weights, and optimizer {:?} does not say what it is without decay; implement \
                 `Optimizer::without_decay`, or take `Decay::All`",
                self.optimizer
            )));
        };
        let kept = |optimizer: &dyn Optimizer| (optimizer.state_slots(), optimizer.measures());
        if kept(&*others) != kept(&*self.optimizer) {
            return Err(Error::Options(format!(
                "optimizer {:?} has {:?} slots and measures, and without decay, as {others:?}, {:?}; `Optimizer::without_decay` is to \
                 keep as many",
                self.optimizer,
                kept(&*self.optimizer),
                kept(&*others)
            )));
        }
        others.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::{Adagrad, Adam, AdamW, Lamb, RmsProp};

    #[test]
    fn a_rate_that_is_not_named_suits_the_optimizer() {
        let optimizers: [(Arc<dyn Optimizer>, f32); 7] = [
            (Arc::new(Sgd::default()), 0.1),
            (Arc::new(Sgd::with_momentum(0.9)), 0.1),
            (Arc::new(Adagrad::default()), 0.01),
            (Arc::new(RmsProp::default()), 0.01),
            (Arc::new(Adam::default()), 0.001),
            (Arc::new(AdamW::default()), 0.001),
            (Arc::new(Lamb::default()), 0.001),
        ];
        for (optimizer, rate) in optimizers {
            let options = TrainingOptions {
                optimizer,
                ..TrainingOptions::default()
            };
            assert_eq!(
                (options.learning_rate(7), options.chosen_schedule()),
                (rate, Schedule::Constant(rate))
            );
            let named = TrainingOptions {
                schedule: Some(Schedule::Exponential {
                    initial: 0.5,
                    factor: 0.5,
                }),
                ..options
            };
            assert_eq!(
                (named.learning_rate(2), named.chosen_schedule().learning_rate(2)),
                (0.125, 0.125)
            );
        }
    }
}
