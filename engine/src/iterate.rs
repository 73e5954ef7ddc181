//! Iterations over a dataset: the typed face of the feedback loop.

use std::sync::Arc;

use distdl_storage::{Record, Records};

use crate::context::Context;
use crate::dataflow::iterate::{self, MakeLane, MakeShard};
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::iteration::{Iteration, Lane, Parameters, ShardUpdate, StepReport};

/// What a lane is made from.
#[derive(Debug, Clone)]
pub struct LaneData<T> {
    /// The lane's 0-based index.
    pub lane: usize,
    /// The records of its partitions, in order: of partitions `lane`, `lane + lanes`, `lane + 2 lanes` and so on.
    pub partitions: Vec<Records<T>>,
}

impl<T: Record> Dataset<T> {
    /// Runs `iteration` with the dataset's partitions dealt to the lanes: partition `p` belongs to lane `p % lanes`.
    ///
    /// `make_lane` makes a lane from its data, on the worker that hosts it; `make_shard` makes the update of a shard, on
    /// the worker that owns it; `observe` sees each step's tallies, in order, on the calling thread. Returns when all
    /// steps are applied to `parameters`.
    ///
    /// # Errors
    /// If there are fewer partitions than lanes; the first error of a lane or shard, with `parameters` as they were
    /// after the last step that was applied; otherwise as any action.
    pub fn iterate(
        &self,
        iteration: Iteration,
        parameters: &Arc<Parameters>,
        make_lane: impl Fn(LaneData<T>) -> Result<Box<dyn Lane>> + Send + Sync + 'static,
        make_shard: impl Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync + 'static,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<()> {
        if self.partitions() < iteration.lanes {
            return Err(EngineError::invalid(
                format!(
                    "{} lanes over a dataset of {} partitions",
                    iteration.lanes,
                    self.partitions()
                ),
                "use fewer lanes, or `repartition` the dataset into at least one partition a lane",
            ));
        }
        let partitions = self.partition_records()?;
        let lanes = iteration.lanes;
        let make_lane = move |lane: usize| {
            let partitions = partitions.iter().skip(lane).step_by(lanes).cloned().collect();
            make_lane(LaneData { lane, partitions })
        };
        self.context().iterate(
            iteration,
            parameters,
            Arc::new(make_lane),
            Arc::new(make_shard),
            observe,
        )
    }
}

impl Context {
    /// Runs an iteration whose lanes bring their own data.
    ///
    /// # Errors
    /// As [`Dataset::iterate`].
    pub fn iterate(
        &self,
        iteration: Iteration,
        parameters: &Arc<Parameters>,
        make_lane: MakeLane,
        make_shard: MakeShard,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<()> {
        let _turn = self.begin_action()?;
        iterate::run(
            self.workers(),
            iteration,
            Arc::clone(parameters),
            make_lane,
            make_shard,
            observe,
        )
    }
}
