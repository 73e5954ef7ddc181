//! Iterations over a dataset: the typed face of the feedback loop.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use distdl_storage::{Record, Records};

use crate::collective::{self, Loop, Results};
use crate::context::Context;
use crate::dataflow::exchange::{MakeLane, MakeShard, Makers};
use crate::dataflow::iterate;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::iteration::{Iteration, Lane, ShardUpdate, StepReport};
use crate::parameters::Parameters;

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
    /// The newest version of `parameters` is what the first step reads, and takes its number. While the iteration runs,
    /// they belong to its lanes and shards: others can look at them before and after.
    ///
    /// # Errors
    /// If there are fewer partitions than lanes; if there are no parameters, or not with the state that the iteration
    /// wants; the first error of a lane or shard. Then the newest version of `parameters` is what the step that failed
    /// has read: a step is applied to all shards or to none, and `observe` has seen the steps that were applied and no
    /// other. Otherwise as any action.
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
        let lanes = iteration.lanes;
        let context = self.context();
        let Some(member) = context.member() else {
            let partitions = self.partition_records()?;
            let make_lane = move |lane: usize| {
                let partitions = partitions.iter().skip(lane).step_by(lanes).cloned().collect();
                make_lane(LaneData { lane, partitions })
            };
            let makers = Makers {
                lane: Arc::new(make_lane),
                shard: Arc::new(make_shard),
            };
            let turn = context.begin_action(self.node())?;
            return iterate::run(
                context.workers(),
                &turn.running,
                iteration,
                Arc::clone(parameters),
                makers,
                observe,
            );
        };
        let records = Arc::new(Mutex::new(BTreeMap::<usize, Records<T>>::new()));
        let loaded = Arc::clone(&records);
        let make_lane = move |lane: usize| {
            let loaded = loaded.lock().unwrap_or_else(PoisonError::into_inner);
            let own = loaded.iter().filter(|(partition, _)| *partition % lanes == lane);
            let partitions = own.map(|(_, records)| records.clone()).collect();
            make_lane(LaneData { lane, partitions })
        };
        let makers = Makers {
            lane: Arc::new(make_lane),
            shard: Arc::new(make_shard),
        };
        let mut load = |results: Results| {
            let mut records = records.lock().unwrap_or_else(PoisonError::into_inner);
            let results = results.into_iter();
            records.extend(results.filter_map(|(partition, value)| Some((partition, *value.downcast().ok()?))));
            records.keys().map(|partition| *partition as u64).collect()
        };
        context.cut_lineage(self.id())?;
        let lineage = context.prepare_all(self.id())?;
        let turn = context.begin_action(self.node())?;
        let looped = Loop {
            iteration,
            parameters: Arc::clone(parameters),
            makers,
            read: self.record_reader(),
            partitions: self.partitions(),
            load: &mut load,
            observe,
        };
        collective::iterate(context, member, &turn.running, &lineage, looped)
    }
}

impl Context {
    /// Runs an iteration whose lanes bring their own data.
    ///
    /// # Errors
    /// As [`Dataset::iterate`].
    #[track_caller]
    pub fn iterate(
        &self,
        iteration: Iteration,
        parameters: &Arc<Parameters>,
        make_lane: MakeLane,
        make_shard: MakeShard,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<()> {
        // Lanes without data still need a dataset to be dealt over: one number each.
        let lanes = self.range(0..iteration.lanes as u64, iteration.lanes);
        lanes.iterate(
            iteration,
            parameters,
            move |data| make_lane(data.lane),
            move |shard| make_shard(shard),
            observe,
        )
    }
}
