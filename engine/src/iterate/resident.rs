//! Iterations that stay where they compute: no parameter and no update is moved in each of their steps.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use distdl_storage::{Record, Unpoisoned};

use super::{LaneData, LanePartition, Loaded, check_lanes, slowed_here};
use crate::dataflow::observer::Observer;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result, panic_text};
use crate::iteration::{Iteration, StepReport, Tallies};
use crate::metrics::WorkerTimes;
use crate::parameters::{Parameters, ShardValues};
use crate::staleness::Staleness;

/// Takes resident steps, with the work of all lanes and all shards, for a device that keeps parameters and optimizer's
/// state from step to step.
pub trait Resident {
    /// Takes the first of `steps`, and as many of those behind it as it sees fit: computes the new values of all
    /// parameters (`after` in `all`) from the old ones (`before`). Returns the tallies of each step taken; none if it
    /// cannot go on, and then `after` is not used.
    ///
    /// # Errors
    /// Ends the iteration; no step of this call is applied.
    fn take(&mut self, steps: Range<u64>, all: &mut ShardValues<'_>) -> Result<Vec<Tallies>>;
}

/// Tallies of steps, and how long they took.
type Taken = (Vec<Tallies>, Duration);

impl<T: Record> Dataset<T> {
    /// Takes steps of `iteration` from the first on by what `make` makes of all lanes' data, and returns how many it
    /// has taken: all, or fewer if it cannot go on, and none if `make` makes nothing. Those that are left are for
    /// [`iterate_over`](Self::iterate_over); they begin with the newest version of `parameters`.
    ///
    /// It is for the one process that has all lanes and shards, without workers that are slowed on purpose, and for
    /// lanes that read the newest parameters: otherwise no step is taken, and `make` is not called. The steps must come
    /// to what lanes and shards would make of them.
    ///
    /// What is in the parameters changes when a [call](Resident::take) has ended, and `observe` sees its steps then.
    ///
    /// # Errors
    /// As [`iterate_over`](Self::iterate_over), with `make` and [`Resident::take`] in the place of lanes and shards.
    pub fn iterate_resident<P: Clone + Send + Sync + 'static>(
        &self,
        iteration: &Iteration,
        parameters: &Parameters,
        load: impl Fn(LanePartition<T>) -> Result<P> + Send + Sync + 'static,
        make: impl FnOnce(Vec<LaneData<P>>) -> Result<Option<Box<dyn Resident>>>,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<u64> {
        let context = self.context();
        let is_alone = context.member().is_none() && iteration.staleness == Staleness::Synchronous;
        if !is_alone || !slowed_here(context)?.is_empty() {
            return Ok(0);
        }
        check_lanes(self.partitions(), iteration)?;
        // Only to refuse what lanes and shards would refuse.
        iteration.placement(context.workers().count())?;
        iteration.check(parameters)?;
        let loaded = Loaded::default();
        let all: Vec<usize> = (0..self.partitions()).collect();
        let begun = Instant::now();
        loaded.take(context.run_here(self.id(), &all, &self.loader(load))?);
        context.metrics().loaded_since(begun);
        let action = context.begin_action(self.node())?;
        let stopped = Arc::new(Mutex::new(None));
        let stop = Arc::clone(&stopped);
        action.running.stops_by(Arc::new(move |error| {
            stop.lock().unpoisoned().get_or_insert(error);
        }));
        let lanes = (0..iteration.lanes).map(|lane| loaded.of_lane(iteration.lanes, lane));
        let lanes = lanes.collect();
        // What is not needed any more is not kept.
        drop(loaded);
        let Some(mut resident) = guarded(iteration, || make(lanes))? else {
            return Ok(0);
        };
        parameters.begin(iteration.first_step)?;
        let mut observer = Observer::new(iteration, observe);
        let mut step = iteration.first_step;
        while step < iteration.last_step() {
            if let Some(error) = stopped.lock().unpoisoned().take() {
                return Err(error);
            }
            let (tallies, computing) = guarded(iteration, || {
                take(resident.as_mut(), step..iteration.last_step(), parameters)
            })?;
            if tallies.is_empty() {
                break;
            }
            context.metrics().iterated(vec![WorkerTimes {
                lane_steps: (tallies.len() * iteration.lanes) as u64,
                computing,
                ..WorkerTimes::default()
            }]);
            for (step, tallies) in (step..).zip(&tallies) {
                observer.show(&StepReport {
                    step,
                    tallies: *tallies,
                })?;
            }
            step += tallies.len() as u64;
        }
        Ok(step - iteration.first_step)
    }
}

/// What `work` gives; its panic is an error, as that of a lane is.
fn guarded<R>(iteration: &Iteration, work: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        Err(EngineError::Panic {
            operator: "iterate (resident steps)".into(),
            site: iteration.site.to_string(),
            partition: 0,
            message: panic_text(panic.as_ref()),
        })
    })
}

/// Has some of `steps` taken, and makes what they come to the newest version.
fn take(resident: &mut dyn Resident, steps: Range<u64>, parameters: &Parameters) -> Result<Taken> {
    let begun = Instant::now();
    let mut claimed = parameters.claim(steps.start + 1, 0..parameters.len())?;
    let tallies = resident.take(steps.clone(), &mut claimed.values())?;
    let taken = tallies.len() as u64;
    if taken > steps.end - steps.start {
        return Err(EngineError::invalid(
            format!("{taken} steps of {} that were to be taken", steps.end - steps.start),
            "have `Resident::take` take no step behind the last",
        ));
    }
    if taken > 0 {
        claimed.finish_with_state();
        parameters.begin(steps.start + taken)?;
    }
    Ok((tallies, begun.elapsed()))
}
