//! What an iteration is made of: lanes that compute updates, shards of the parameters, and where they run.

use std::ops::Range;
use std::panic::Location;

use distdl_storage::PARTITIONS_MAX;
use serde::{Deserialize, Serialize};

use crate::error::{EngineError, Result};
use crate::parameters::{Parameters, ShardBefore, ShardValues};
use crate::square_sum::SquareSum;
use crate::staleness::Staleness;
use crate::updates::UpdateFormat;

/// Numbers that lanes report with their updates and that are summed along the same tree: the meaning is the caller's
/// (loss, samples, hits). Counts are exact up to 2^53.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tallies(pub [f64; 4]);

impl Tallies {
    /// The sum of two.
    #[must_use]
    pub fn plus(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(sum, other)| *sum += other);
        self
    }
}

/// What is known of a step once all its updates have come.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepReport {
    /// 0-based step since the beginning of training.
    pub step: u64,
    /// The sum of all lanes' tallies.
    pub tallies: Tallies,
}

/// A fixed logical stream of work. A lane's update at a step may depend on (lane, step, parameters) and its data alone;
/// where the iteration says so, on its earlier steps as well.
/// Any worker of its process may compute a step of it, one at a time.
pub trait Lane: Send {
    /// Writes this lane's update of `step` over all of `update`, which is as long as `parameters`.
    ///
    /// # Errors
    /// Ends the iteration before the step is applied.
    fn step(&mut self, step: u64, parameters: &[f32], update: &mut [f32]) -> Result<Tallies>;

    /// As [`step`](Self::step), by a lane that computes its update from the end: each call of `has_end` with `start`
    /// and `update[start..]` says that these values are final, so that they can be sent to other processes while the
    /// lane goes on. `start` decreases from call to call.
    ///
    /// # Errors
    /// As `step`.
    fn step_from_end(
        &mut self,
        step: u64,
        parameters: &[f32],
        update: &mut [f32],
        _has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Tallies> {
        self.step(step, parameters, update)
    }
}

impl<F: FnMut(u64, &[f32], &mut [f32]) -> Result<Tallies> + Send> Lane for F {
    fn step(&mut self, step: u64, parameters: &[f32], update: &mut [f32]) -> Result<Tallies> {
        self(step, parameters, update)
    }
}

/// Applies the summed updates to one shard of the parameters. Must treat every element by itself, but for what was
/// measured over all shards, so that the cut into shards does not matter (an update that reads several elements
/// together wants [`Iteration::with_shards`] of 1), and keep what it remembers in the optimizer's state beside the
/// parameters and nowhere else, so that a step can be taken again.
pub trait ShardUpdate {
    /// Adds what is to be known of all shards before any is changed, for example a norm: once in each of the
    /// [rounds](Iteration::with_measures) of a step, to as many sums as the round has. What all shards have added
    /// stands in the `totals` of later rounds and of [`apply`](Self::apply). Unless told otherwise it adds nothing.
    ///
    /// # Errors
    /// Ends the iteration, as an error of `apply` does.
    fn measure(
        &mut self,
        _round: usize,
        _report: &StepReport,
        _sum: &[f32],
        _shard: &ShardBefore<'_>,
        _measures: &mut [SquareSum],
    ) -> Result<()> {
        Ok(())
    }

    /// Makes `shard.after` of `shard.before` and `sum`, the sum of all lanes' updates over this shard's range; likewise
    /// the optimizer's state. Must write all of `after`, which holds whatever was there.
    ///
    /// # Errors
    /// Ends the iteration. Then the step is applied to no shard: the parameters stay those that it has read.
    fn apply(&mut self, report: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>) -> Result<()>;
}

impl<F: FnMut(&StepReport, &[f32], &mut ShardValues<'_>) -> Result<()>> ShardUpdate for F {
    fn apply(&mut self, report: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>) -> Result<()> {
        self(report, sum, shard)
    }
}

/// [`Iteration::piece_min`] unless told: 64 KiB.
const PIECE_MIN: usize = 1 << 14;

/// The most sums in all rounds of a step.
pub(crate) const MEASURES_MAX: usize = 1 << 16;

/// The shape of an iteration. Only `lanes`, `first_step`, `steps`, `staleness`, `updates` and `measures` may show in
/// its result.
#[derive(Debug, Clone)]
pub struct Iteration {
    /// Number of lanes.
    pub lanes: usize,
    /// First step to run.
    pub first_step: u64,
    /// How many steps to run.
    pub steps: u64,
    /// Into how many shards the parameters are cut. One that gets no parameter is not made.
    pub shards: usize,
    /// Number of values that the shards' updates keep for every parameter.
    pub state_slots: usize,
    /// How old the parameters may be that lanes read.
    pub staleness: Staleness,
    /// In what form updates are summed and sent.
    pub updates: UpdateFormat,
    /// How many sums the shards measure in each round of a step.
    pub measures: Vec<usize>,
    /// The fewest values of an update that are sent before the rest of it is there.
    pub piece_min: usize,
    /// Whether lanes remember something from step to step.
    pub lanes_remember: bool,
    /// What lanes and the shards' updates have captured, in words; empty unless told.
    pub settings: String,
    /// Where the driver program asked for it.
    pub site: &'static Location<'static>,
    pub(crate) assigned: Option<Placement>,
}

impl Iteration {
    /// `steps` steps over `lanes` lanes, from step 0, with as many shards as there are lanes.
    #[track_caller]
    pub fn new(lanes: usize, steps: u64) -> Self {
        Self {
            lanes,
            first_step: 0,
            steps,
            shards: lanes,
            state_slots: 0,
            staleness: Staleness::Synchronous,
            updates: UpdateFormat::Full,
            measures: Vec::new(),
            piece_min: PIECE_MIN,
            lanes_remember: false,
            settings: String::new(),
            site: Location::caller(),
            assigned: None,
        }
    }

    /// Begins at another step.
    #[must_use]
    pub fn from_step(mut self, first_step: u64) -> Self {
        self.first_step = first_step;
        self
    }

    /// Cuts the parameters into another number of shards.
    #[must_use]
    pub fn with_shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Says how many values of optimizer state there must be for every parameter; 0 unless told.
    #[must_use]
    pub fn with_state_slots(mut self, state_slots: usize) -> Self {
        self.state_slots = state_slots;
        self
    }

    /// Lets lanes read older parameters; they read the newest unless told. For a lag there must be
    /// [parameters with that lag](Parameters::with_lag).
    #[must_use]
    pub fn with_staleness(mut self, staleness: Staleness) -> Self {
        self.staleness = staleness;
        self
    }

    /// Has updates summed and sent in another form.
    #[must_use]
    pub fn with_updates(mut self, updates: UpdateFormat) -> Self {
        self.updates = updates;
        self
    }

    /// Has the shards [measure](ShardUpdate::measure) something before a step is applied, in as many rounds as there
    /// are numbers, each with as many sums as the number says; no rounds unless told. In each round every owner of
    /// shards waits for the measures of the others.
    #[must_use]
    pub fn with_measures(mut self, measures: impl Into<Vec<usize>>) -> Self {
        self.measures = measures.into();
        self
    }

    /// Has ends of updates that [lanes have early](Lane::step_from_end) sent once they have so many values, at least 1,
    /// where they go over links and not through memory that processes share. Unless told, 16,384 values.
    #[must_use]
    pub fn with_piece_min(mut self, piece_min: usize) -> Self {
        self.piece_min = piece_min.max(1);
        self
    }

    /// Lets lanes remember something from one step of the iteration to the next. After a loss the iteration then starts
    /// over from its first step, with lanes that are made anew: nobody else has what they remembered. So make it short.
    #[must_use]
    pub fn with_lanes_that_remember(mut self) -> Self {
        self.lanes_remember = true;
        self
    }

    /// Says what lanes and the shards' updates have captured by which they come to other values than others from the
    /// same lines of the program, such as a learning rate. Processes of a cluster where these words differ find each
    /// other out; of what is not said here they see nothing.
    #[must_use]
    pub fn with_settings(mut self, settings: impl Into<String>) -> Self {
        self.settings = settings.into();
        self
    }

    /// Says where lanes and shards run, instead of spreading them evenly. Not for a program of several processes.
    #[must_use]
    pub fn with_placement(mut self, placement: Placement) -> Self {
        self.assigned = Some(placement);
        self
    }

    /// One past the last step.
    pub fn last_step(&self) -> u64 {
        self.first_step + self.steps
    }

    /// The oldest version that is needed to go on from a version, that one included.
    pub(crate) fn oldest_given(&self, version: u64) -> u64 {
        match self.staleness {
            Staleness::FixedLag(_) => self.staleness.oldest(version, self.first_step),
            _ => version,
        }
    }

    /// The parameters of a shard: contiguous, of nearly equal length.
    pub fn shard_range(&self, shard: usize, parameters: usize) -> Range<usize> {
        shard * parameters / self.shards..(shard + 1) * parameters / self.shards
    }

    /// Shards that get parameters. The last one does, if there are any parameters.
    pub(crate) fn shards_held(&self, parameters: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.shards).filter(move |shard| !self.shard_range(*shard, parameters).is_empty())
    }

    /// An error if this iteration cannot run over these parameters.
    pub(crate) fn check(&self, parameters: &Parameters) -> Result<()> {
        if parameters.is_empty() {
            return Err(EngineError::invalid(
                "an iteration over no parameters",
                "give at least one",
            ));
        }
        if self.first_step.checked_add(self.steps).is_none() {
            return Err(EngineError::invalid(
                format!("{} steps from step {} on", self.steps, self.first_step),
                format!("steps are counted to {}: take fewer", u64::MAX),
            ));
        }
        self.staleness.check()?;
        if self.lanes_remember && !self.staleness.is_determinate() {
            return Err(EngineError::invalid(
                format!("lanes that remember something, with {} staleness", self.staleness),
                "let them read at a fixed lag or synchronously: after a loss their steps are done again and must be the same",
            ));
        }
        let measures = self
            .measures
            .iter()
            .fold(0, |sum: usize, count| sum.saturating_add(*count));
        if measures > MEASURES_MAX {
            return Err(EngineError::invalid(
                format!("an iteration with {measures} measures in every step"),
                format!("measure at most {MEASURES_MAX} sums"),
            ));
        }
        if self.staleness.lag() > parameters.lag() {
            let (wanted, found) = (self.staleness.lag(), parameters.lag());
            return Err(EngineError::invalid(
                format!("parameters with a lag of {found} for lanes that lag behind by {wanted} steps"),
                format!("make them with `Parameters::with_lag({wanted})`"),
            ));
        }
        if self.state_slots != parameters.slots() {
            let (wanted, found) = (self.state_slots, parameters.slots());
            return Err(EngineError::invalid(
                format!("parameters with {found} values of optimizer state each for updates that keep {wanted}"),
                "make them by `Parameters::with_state` with as many as `Iteration::with_state_slots` says",
            ));
        }
        Ok(())
    }

    /// An error if this iteration cannot run over processes that come and go.
    pub(crate) fn check_cluster(&self) -> Result<()> {
        match self.assigned {
            None => self.placement(1).map(drop),
            Some(_) => Err(EngineError::invalid(
                "a placement in an iteration of several processes",
                "leave it out: the name node places lanes and shards, and moves them as processes come and go",
            )),
        }
    }

    pub(crate) fn placement(&self, workers: usize) -> Result<Placement> {
        if self.lanes == 0 || self.shards == 0 {
            return Err(EngineError::invalid(
                format!("an iteration with {} lanes and {} shards", self.lanes, self.shards),
                "give at least one of each",
            ));
        }
        if self.lanes.max(self.shards) > PARTITIONS_MAX {
            return Err(EngineError::invalid(
                format!("an iteration with {} lanes and {} shards", self.lanes, self.shards),
                format!("give at most {PARTITIONS_MAX} of each"),
            ));
        }
        match &self.assigned {
            None => Ok(Placement::even(self.lanes, self.shards, workers)),
            Some(placement) => placement.checked(self.lanes, self.shards, workers),
        }
    }
}

/// Which worker hosts each lane and owns each shard. Results never depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Worker of each lane.
    pub lanes: Vec<usize>,
    /// Worker of each shard.
    pub shards: Vec<usize>,
}

impl Placement {
    /// Neighbouring lanes together, as many on each worker as on the others give or take one; shards likewise.
    pub fn even(lanes: usize, shards: usize, workers: usize) -> Self {
        let spread = |count: usize| (0..count).map(|index| index * workers.min(count) / count).collect();
        Self {
            lanes: spread(lanes),
            shards: spread(shards),
        }
    }

    fn checked(&self, lanes: usize, shards: usize, workers: usize) -> Result<Self> {
        let known = |worker: &usize| *worker < workers;
        if self.lanes.len() != lanes || self.shards.len() != shards {
            let (given, owned) = (self.lanes.len(), self.shards.len());
            return Err(EngineError::invalid(
                format!("a placement of {given} lanes and {owned} shards for {lanes} lanes and {shards} shards"),
                "name one worker for each",
            ));
        }
        if !self.lanes.iter().chain(&self.shards).all(known) {
            return Err(EngineError::invalid(
                format!("a placement on workers beyond the {workers} there are"),
                "name workers from 0 on",
            ));
        }
        Ok(self.clone())
    }

    pub(crate) fn lanes_of(&self, worker: usize) -> impl Iterator<Item = usize> + '_ {
        self.lanes
            .iter()
            .enumerate()
            .filter(move |(_, host)| **host == worker)
            .map(|(lane, _)| lane)
    }
}
