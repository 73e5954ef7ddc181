//! Checkpoints of a training: what they hold, when one is due, and what they must agree with to be gone on from.
//!
//! A checkpoint knows nothing of workers and shards. Reading and writing are actions on one partition: in a cluster one
//! process does it for all, another one if that is lost, and a process that comes later gets the same answer.

mod training_identity;
mod options;
mod sample_hash;
mod found;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use distdl_engine::cluster::chaos::Point;
use distdl_engine::{Context, EngineError, Parameters};
use distdl_storage::Commits;
use serde::{Deserialize, Serialize};

use self::found::{Found, differences_of, find};
pub use self::options::{CheckpointOptions, ParseResumeError, Resume};
pub(crate) use self::sample_hash::hash_samples;
pub(crate) use self::training_identity::TrainingIdentity;
use crate::best::{BestModel, BestModels};
use crate::error::{Error, Result};
use crate::kernels::Level;
use crate::layout::ParameterLayout;
use crate::model_file;
use crate::network::NeuralNetwork;

const FORMAT: u32 = 3;

const TRAINING: &str = "training.json";
const PARAMETERS: &str = "parameters.safetensors";

/// The checkpoint that a training has gone on from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// Number of the commit.
    pub commit: u64,
    /// The first step that is run after it.
    pub step: u64,
    /// What a person should know: newer checkpoints that are damaged, another kind of processor or version of DistDL.
    pub remarks: Vec<String>,
}

/// What `training.json` holds. A field that is not known may say what a training would go on without.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    /// The first step that is not yet applied.
    step: u64,
    /// Whole epochs behind.
    epoch: u64,
    state_slots: usize,
    /// The first step that was applied with the optimizer's state at 0.
    state_begin: u64,
    /// What the schedule's learning rate is multiplied with. An f32; as f64 its bits come back from any text.
    rate_factor: f64,
    /// The best models so far, whose parameters lie in files of their own; none where none were shown.
    best: Option<BestModels>,
    training: TrainingIdentity,
    /// What the kernels are of and ran with, as far as others may round otherwise.
    kernels: String,
}

impl Description {
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let unreadable = |error| format!("{TRAINING} cannot be read: {error}");
        let Versioned { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format != FORMAT {
            return Err(format!("it is of format {format}, this program knows {FORMAT}"));
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}

/// What of the processor shows in bits, what computes besides, and of which version it is: a later one may sum in
/// another order. That is told, and no reason not to go on, as with another processor.
fn kernels(level: Level, device: &str) -> String {
    let fused = match level {
        _ if cfg!(not(target_arch = "x86_64")) => "",
        Level::PORTABLE => " without AVX2 and FMA",
        // With AVX-512 products are rounded alike.
        _ => " with AVX2 and FMA",
    };
    let (processor, version) = (std::env::consts::ARCH, env!("CARGO_PKG_VERSION"));
    format!("{processor}{fused}{device}, DistDL {version}")
}

/// A training as it stands.
pub(crate) struct CheckpointContents {
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    pub(crate) state_begin: u64,
    pub(crate) rate_factor: f32,
    pub(crate) best: Option<BestModels>,
    pub(crate) layout: ParameterLayout,
    pub(crate) parameters: Arc<Parameters>,
}

/// What a training goes on from.
pub(crate) struct LoadedCheckpoint {
    pub(crate) step: u64,
    pub(crate) state_begin: u64,
    pub(crate) rate_factor: f32,
    pub(crate) best: Option<BestModels>,
    pub(crate) parameters: Parameters,
}

/// The checkpoints of a training.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    options: CheckpointOptions,
    identity: TrainingIdentity,
    kernels: String,
    resumed: Option<Resumed>,
    /// The step of the newest one, and its number.
    newest: Option<(u64, u64)>,
    /// The last number that was there when this training looked for one to go on from, or that it has written itself.
    last: Option<u64>,
    /// How many this training has written.
    written: u64,
}

impl Checkpoints {
    /// Of a training on another `device` than the CPU, in words that follow its; empty for the CPU.
    pub(crate) fn new(options: CheckpointOptions, identity: TrainingIdentity, device: &str) -> Self {
        Self {
            options,
            identity,
            kernels: kernels(Level::best(), device),
            resumed: None,
            newest: None,
            last: None,
            written: 0,
        }
    }

    pub(crate) fn resumed(&self) -> Option<&Resumed> {
        self.resumed.as_ref()
    }

    /// The step of the newest one.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.newest.map(|(step, _)| step)
    }

    /// The next step from `step` on before which one is due, not counting `step` itself.
    pub(crate) fn next_after(&self, step: u64) -> u64 {
        let every = self.options.every_steps;
        let past = step.checked_rem(every);
        past.and_then(|past| step.checked_add(every - past)).unwrap_or(u64::MAX)
    }

    /// Whether one is due before `step`.
    pub(crate) fn is_due(&self, step: u64, at_end: bool) -> bool {
        let by_number = step > 0 && step.checked_rem(self.options.every_steps) == Some(0);
        self.newest() != Some(step) && (by_number || at_end && self.options.at_end)
    }

    /// Writes one, in one process for all.
    pub(crate) fn save(&mut self, context: &Context, mut contents: CheckpointContents) -> Result<()> {
        let (step, count, keep) = (contents.step, self.written, self.options.keep);
        let (commits, faults) = (self.commits(context)?, context.faults().cloned());
        // That of this very step, in whose place this one is.
        let before_this = self
            .newest
            .filter(|(newest, _)| *newest == step)
            .map(|(_, number)| number);
        let before = commits.clone();
        // An action of its own, whose answer stands: a process that was taken for lost in the next one, and wakes when
        // others have written later checkpoints, is refused. Processes may compute with other kernels, and whoever
        // repeats the next action must write the same bytes.
        let (kernels, known, identity) = (self.kernels.clone(), self.last, self.identity.clone());
        let begun = context.range(0..1, 1).run_partitions(move |_, _| {
            let last = before.numbers()?.last().copied();
            // One that is lower tells nothing: some were removed.
            let unknown = last.filter(|_| last > known);
            let differences = unknown.map(|number| differences_of(&before, number, &identity));
            Ok((last, kernels.clone(), differences.transpose()?.unwrap_or_default()))
        })?;
        let (last, kernels, differences) = begun.into_iter().next().unwrap_or_default();
        self.check_writer(last, &differences)?;
        let (best, of_best) = contents.best.take().map(BestModels::into_parts).unzip();
        let description = Description {
            format: FORMAT,
            step,
            epoch: contents.epoch,
            state_slots: contents.parameters.slots(),
            state_begin: contents.state_begin,
            rate_factor: contents.rate_factor.into(),
            best,
            training: self.identity.clone(),
            kernels,
        };
        let numbers = context.range(0..1, 1).run_partitions(move |_, _| {
            let blobs = contents.blobs(&description, of_best.as_deref().unwrap_or_default())?;
            let unpublished = commits.begin_after(last, &blobs)?;
            if let Some(faults) = &faults {
                faults.reach(Point::Checkpoint(count));
            }
            let number = unpublished.publish()?;
            if let Err(error) = commits.keep_without(keep, before_this) {
                // It is written, and that is what counts.
                tracing::warn!(url = commits.url(), "could not remove older checkpoints: {error}");
            }
            Ok(number)
        })?;
        self.newest = numbers.into_iter().next().map(|number| (step, number));
        self.last = self.newest.map(|(_, number)| number);
        self.written += 1;
        Ok(())
    }

    /// What to go on from, if that is wanted and there; the same in every process.
    pub(crate) fn load(
        &mut self,
        context: &Context,
        layout: &ParameterLayout,
        slots: usize,
    ) -> Result<Option<LoadedCheckpoint>> {
        let (commits, resume, identity) = (self.commits(context)?, self.options.resume, self.identity.clone());
        let found = context
            .range(0..1, 1)
            .run_partitions(move |_, _| Ok(find(&commits, resume, &identity)?))?;
        let mut found = found.into_iter().next().unwrap_or_default();
        self.last = found.last;
        let Some((number, blobs)) = found.commit.take() else {
            return self.without(&found).map(|()| None);
        };
        let blobs: BTreeMap<String, Bytes> = blobs.into_iter().collect();
        let unusable = |problem| {
            let problem = format!("commit {number} does not suit: {problem}");
            self.options
                .error(problem, "write this training's checkpoints to another folder")
        };
        let description = blob(&blobs, TRAINING).and_then(Description::parse).map_err(unusable)?;
        self.check(number, &description)?;
        let parameters = parameters(&blobs, layout, slots, description.state_slots).map_err(unusable)?;
        let of_best = |rank| tensors(&blobs, &best_name(rank), layout);
        let best = description.best.clone().map(|best| best.with_parameters(of_best));
        let best = best.transpose().map_err(unusable)?;
        let resumed = self.note(number, &description, found.passed_over);
        self.newest = Some((description.step, number));
        self.resumed = Some(resumed);
        Ok(Some(LoadedCheckpoint {
            step: description.step,
            state_begin: description.state_begin,
            rate_factor: description.rate_factor as f32,
            best,
            parameters,
        }))
    }

    /// An error if there should have been a checkpoint.
    fn without(&self, found: &Found) -> Result<()> {
        match self.options.resume {
            Resume::Required => Err(self.options.error(
                "there are none, and one was required".to_owned(),
                "check the folder, or use `Resume::Auto` to begin without one",
            )),
            Resume::Step(step) => Err(self.options.error(
                format!("there is none of step {step}, only of {:?}", found.steps),
                "name one of these steps, or use `Resume::Auto`",
            )),
            Resume::Auto | Resume::Never => Ok(()),
        }
    }

    /// An error if the last checkpoint there is another training's, and has come since this one last looked: each would
    /// remove those of the other.
    fn check_writer(&self, last: Option<u64>, differences: &[String]) -> Result<()> {
        let Some(last) = last.filter(|_| !differences.is_empty()) else {
            return Ok(());
        };
        let problem = format!(
            "another training writes there, too: commit {last}, which has come since this one last looked, is of it ({})",
            differences.join("; ")
        );
        let remedy = match self.written {
            0 => {
                "give each training a folder of its own; `network.save` of `training.parameters()` keeps what this one has learnt"
            }
            _ => "give each training a folder of its own; `Resume::Step` goes on from what this one has written here",
        };
        Err(self.options.error(problem, remedy))
    }

    /// An error if a checkpoint is not one of this training.
    fn check(&self, number: u64, description: &Description) -> Result<()> {
        let differences = self.identity.differences(&description.training);
        if differences.is_empty() {
            return Ok(());
        }
        let problem = format!("commit {number} is of another training ({})", differences.join("; "));
        Err(self.options.error(
            problem,
            "make the program as it was, use another folder, or begin anew with `Resume::Never`; `network.load_checkpoint` \
             gives its parameters to another training of this network",
        ))
    }

    fn note(&self, commit: u64, description: &Description, passed_over: Vec<String>) -> Resumed {
        let mut remarks = passed_over;
        if description.kernels != self.kernels {
            remarks.push(format!(
                "the checkpoint was computed with {}, this process computes with {}: results may differ in their last bits",
                description.kernels, self.kernels
            ));
        }
        for remark in &remarks {
            tracing::warn!(commit, url = self.options.url, "{remark}");
        }
        Resumed {
            commit,
            step: description.step,
            remarks,
        }
    }

    fn commits(&self, context: &Context) -> Result<Commits> {
        Commits::open(context.stores(), &self.options.url).map_err(|error| Error::Engine(error.into()))
    }
}

impl NeuralNetwork {
    /// The parameters in the newest whole checkpoint at `url`, of whatever training of a network with these parameters:
    /// with another optimizer, schedule, batch or other data. As
    /// [`initial_parameters`](crate::TrainingOptions::initial_parameters) of a training, with checkpoints in a folder
    /// of its own, they are what it begins with; its optimizer's state begins anew. A training that is to go on as it
    /// was needs none of this: see [`Resume`]. Where the other one writes checkpoints of its own, [save](Self::save)
    /// them in a file: it goes on only with the parameters that it began with, and here newer ones may come.
    ///
    /// One process reads for all.
    ///
    /// ```
    /// # use distdl_dl::{CheckpointOptions, Features, NeuralNetwork, SampleTargets, Samples, TrainingOptions};
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// # let points: Vec<f32> = (0..200).map(|point| point as f32 / 100.0 - 1.0).collect();
    /// # let labels = points.iter().map(|point| u32::from(*point > 0.0)).collect();
    /// # let samples = Samples::new(1, Features::F32(points), SampleTargets::Labels(labels))?;
    /// # let data = context.parallelize(samples.split(2)?, 2).cache();
    /// # let network = NeuralNetwork::dense(1, &[8], 2)?;
    /// let checkpoint = Some(CheckpointOptions::new("memory://first")); // or a folder
    /// let mut training = network.train(&data, TrainingOptions { checkpoint, ..TrainingOptions::default() })?;
    /// training.run_epoch(|_| ())?; // writes one at its end
    /// let parameters = network.load_checkpoint(&context, "memory://first")?;
    /// assert_eq!(parameters, training.parameters());
    /// let options = TrainingOptions { initial_parameters: Some(parameters.into()), ..TrainingOptions::default() };
    /// assert_eq!(network.train(&data, options)?.step(), 0, "another training, which begins with them");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// If there is no checkpoint, none is whole, or it has tensors of other names or shapes; the message lists how they
    /// differ.
    pub fn load_checkpoint(&self, context: &Context, url: &str) -> Result<Vec<f32>> {
        let options = CheckpointOptions::new(url);
        let commits = Commits::open(context.stores(), url).map_err(|error| Error::Engine(error.into()))?;
        let newest = context.range(0..1, 1).run_partitions(move |_, _| {
            let commit = commits.latest()?;
            Ok(commit.map(|mut commit| (commit.number, commit.passed_over, commit.blobs.remove(PARAMETERS))))
        })?;
        let Some((number, passed_over, tensors)) = newest.into_iter().flatten().next() else {
            let problem = "there are none to take parameters from".to_owned();
            return Err(options.error(problem, "check the folder"));
        };
        for remark in passed_over {
            tracing::warn!(commit = number, url, "an older checkpoint is taken: {remark}");
        }
        let tensors = tensors.ok_or_else(|| format!("it has no {PARAMETERS}"));
        let parameters = tensors.and_then(|tensors| {
            let parameters = model_file::deserialize(&tensors, self.parameter_layout());
            parameters.map_err(|difference| difference.problem)
        });
        parameters.map_err(|problem| {
            let problem = format!("commit {number} does not suit: {problem}");
            options.error(problem, "build the network that was trained, or name another folder")
        })
    }
}

impl CheckpointContents {
    /// With the parameters of the best models.
    fn blobs(
        &self,
        description: &Description,
        of_best: &[Arc<BestModel>],
    ) -> distdl_engine::Result<BTreeMap<String, Bytes>> {
        let impossible = |problem: String| EngineError::invalid(problem, "report this as a bug of checkpoints");
        let tensors = |values: &[f32]| model_file::serialize(&self.layout, values).map_err(impossible);
        let text = serde_json::to_vec_pretty(description).map_err(|error| impossible(error.to_string()))?;
        let latest = self.parameters.latest();
        let mut blobs = BTreeMap::from([
            (TRAINING.to_owned(), Bytes::from(text)),
            (PARAMETERS.to_owned(), tensors(&latest)?.into()),
        ]);
        for (slot, state) in (0..self.parameters.slots()).filter_map(|slot| Some((slot, latest.state(slot)?))) {
            blobs.insert(state_name(slot), tensors(state)?.into());
        }
        for (rank, model) in of_best.iter().enumerate() {
            blobs.insert(best_name(rank), tensors(&model.parameters)?.into());
        }
        Ok(blobs)
    }
}

fn state_name(slot: usize) -> String {
    format!("state.{slot}.safetensors")
}

fn best_name(rank: usize) -> String {
    format!("best.{rank}.safetensors")
}

fn blob<'a>(blobs: &'a BTreeMap<String, Bytes>, name: &str) -> Result<&'a [u8], String> {
    let bytes = blobs.get(name).map(|bytes| &bytes[..]);
    bytes.ok_or_else(|| format!("it has no {name}"))
}

fn tensors(blobs: &BTreeMap<String, Bytes>, name: &str, layout: &ParameterLayout) -> Result<Vec<f32>, String> {
    let values = blob(blobs, name).and_then(|bytes| {
        let values = model_file::deserialize(bytes, layout);
        values.map_err(|difference| difference.problem)
    });
    values.map_err(|problem| format!("{name}: {problem}"))
}

fn parameters(
    blobs: &BTreeMap<String, Bytes>,
    layout: &ParameterLayout,
    slots: usize,
    slots_there: usize,
) -> Result<Parameters, String> {
    if slots != slots_there {
        return Err(format!(
            "its optimizer kept {slots_there} values for every parameter, this one keeps {slots}"
        ));
    }
    let words = |error: EngineError| error.to_string();
    let parameters = Parameters::with_state(tensors(blobs, PARAMETERS, layout)?, slots).map_err(words)?;
    for slot in 0..slots {
        let state = tensors(blobs, &state_name(slot), layout)?;
        parameters
            .install_state(parameters.version(), slot, 0, &state)
            .map_err(words)?;
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests;
