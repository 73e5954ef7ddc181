//! Iterations over a dataset: the typed face of the feedback loop, and what its lanes are made from.

mod resident;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use distdl_storage::{BlockStore, Pin, Record, Records, StorageError, Unpoisoned};

use crate::batch::{Failure, PartitionIter};
use crate::collective::{self, Loop, Results};
use crate::context::Context;
use crate::dataflow::exchange::{MakeLane, Makers, Setting};
use crate::dataflow::iterate;
use crate::dataflow::job::Reduce;
use crate::dataflow::observer::Observer;
use crate::dataset::Dataset;
use crate::error::{EngineError, Result};
use crate::iteration::{Iteration, Lane, ShardUpdate, StepReport};
use crate::parameters::Parameters;
use crate::task::Resources;

pub use resident::Resident;

/// What a lane is made from.
#[derive(Debug, Clone)]
pub struct LaneData<P> {
    /// The lane's 0-based index.
    pub lane: usize,
    /// What was loaded of its partitions, in order: of partitions `lane`, `lane + lanes`, `lane + 2 lanes` and so on.
    pub partitions: Vec<P>,
}

/// A partition of the lanes' data, as the worker meets it that loads it for a lane.
#[derive(Debug)]
pub struct LanePartition<T> {
    /// Its 0-based index.
    pub partition: usize,
    /// Its records.
    pub records: LaneRecords<T>,
    /// The store of this process. What is kept of the records is best counted there, as a reservation or a spill.
    pub store: Arc<BlockStore>,
    /// Writes to such a spill.
    pub writer: SpillWriter,
}

/// Writes to the disk of this process, which makes room where it is full.
#[derive(Clone)]
pub struct SpillWriter(Arc<Resources>);

impl std::fmt::Debug for SpillWriter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SpillWriter")
    }
}

impl SpillWriter {
    /// Runs `write`. Where it finds the disk full, or its limit reached, what is kept there for the loss of another
    /// process makes way, and it runs once more.
    ///
    /// # Errors
    /// Those of `write`, the second time if it ran twice.
    pub fn write<R>(
        &self,
        write: impl Fn() -> std::result::Result<R, StorageError>,
    ) -> std::result::Result<R, StorageError> {
        self.0.retry_after_eviction(write)
    }
}

/// The records of a partition.
#[derive(Debug)]
pub enum LaneRecords<T> {
    /// They are kept in memory, and stay there while the pin lives.
    Pinned(Records<T>, Pin),
    /// They come by, from disk or as they are computed.
    Passing(PartitionIter<T>),
}

impl<T: Record> Dataset<T> {
    /// Runs `iteration` with the dataset's partitions dealt to the lanes: partition `p` belongs to lane `p % lanes`.
    ///
    /// `make_lane` makes a lane from its data, on the worker that hosts it; `make_shard` makes the update of a shard,
    /// on the worker that owns it; `observe` sees each step's tallies, in order, on the calling thread; it cannot run
    /// actions of this context. Returns when all steps are applied to `parameters`.
    ///
    /// The newest version of `parameters` is what the first step reads, and takes its number. While the iteration runs,
    /// they belong to its lanes and shards: others can look at them before and after.
    ///
    /// All records are held in memory. [`iterate_over`](Self::iterate_over) lets lanes choose what they keep.
    ///
    /// # Errors
    /// If there are fewer partitions than lanes; if there are no parameters, or not with the state that the iteration
    /// wants; the first error of a lane or shard. Then the newest version of `parameters` is what the step that failed
    /// has read: a step is applied to all shards or to none, and `observe` has seen the steps that were applied and no
    /// other, unless it has panicked: that ends the iteration as well. Otherwise as any action.
    ///
    /// **Several processes** may have come to different steps then, and one that is started in the place of a lost one
    /// to none: an iteration that goes on with these parameters may be refused.
    pub fn iterate(
        &self,
        iteration: Iteration,
        parameters: &Arc<Parameters>,
        make_lane: impl Fn(LaneData<Records<T>>) -> Result<Box<dyn Lane>> + Send + Sync + 'static,
        make_shard: impl Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync + 'static,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<()> {
        self.run_iteration(
            iteration,
            parameters,
            self.record_reader(),
            make_lane,
            make_shard,
            observe,
        )
    }

    /// [`iterate`](Self::iterate) over what `load` makes of the partitions, on the process that hosts their lane. A
    /// partition is loaded again where its lane moves to another process.
    ///
    /// # Errors
    /// As [`iterate`](Self::iterate), and the first error of `load`.
    pub fn iterate_over<P: Clone + Send + Sync + 'static>(
        &self,
        iteration: Iteration,
        parameters: &Arc<Parameters>,
        load: impl Fn(LanePartition<T>) -> Result<P> + Send + Sync + 'static,
        make_lane: impl Fn(LaneData<P>) -> Result<Box<dyn Lane>> + Send + Sync + 'static,
        make_shard: impl Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync + 'static,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<()> {
        self.run_iteration(iteration, parameters, self.loader(load), make_lane, make_shard, observe)
    }

    /// What calls `load` with a partition, pinned if its block is in memory.
    fn loader<P: Send + 'static>(
        &self,
        load: impl Fn(LanePartition<T>) -> Result<P> + Send + Sync + 'static,
    ) -> Reduce {
        let (dataset, codec) = (self.id(), self.node().record_type.codec);
        Reduce::new(move |context, partition, mut stream| {
            let (store, failure) = (&context.resources.store, Failure::default());
            let records = match store.pin(dataset.block(partition), codec).ok().flatten() {
                Some((block, pin)) => {
                    stream.try_for_each(|batch| batch.map(drop))?;
                    LaneRecords::Pinned(block.records::<T>()?, pin)
                }
                None => LaneRecords::Passing(PartitionIter::new(stream, Failure::clone(&failure))),
            };
            let loaded = load(LanePartition {
                partition,
                records,
                store: Arc::clone(store),
                writer: SpillWriter(Arc::clone(&context.resources)),
            });
            match failure.take() {
                Some(error) => Err(error),
                None => Ok(Box::new(loaded?) as Box<_>),
            }
        })
    }

    /// Runs an iteration over what `read` makes of the partitions, which is of type `P`.
    fn run_iteration<P: Clone + Send + Sync + 'static>(
        &self,
        iteration: Iteration,
        parameters: &Arc<Parameters>,
        read: Reduce,
        make_lane: impl Fn(LaneData<P>) -> Result<Box<dyn Lane>> + Send + Sync + 'static,
        make_shard: impl Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync + 'static,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<()> {
        check_lanes(self.partitions(), &iteration)?;
        let context = self.context();
        let loaded = Loaded::default();
        let makers = Makers {
            lane: loaded.lane_maker(iteration.lanes, make_lane),
            shard: Arc::new(make_shard),
        };
        let mut observer = Observer::new(&iteration, observe);
        let Some(member) = context.member() else {
            let all: Vec<usize> = (0..self.partitions()).collect();
            let begun = Instant::now();
            loaded.take(context.run_here(self.id(), &all, &read)?);
            context.metrics().loaded_since(begun);
            let action = context.begin_action(self.node())?;
            let setting = Setting {
                slowed: slowed_here(context)?,
                ..Setting::default()
            };
            let engine = (context.workers(), context.metrics());
            let parameters = Arc::clone(parameters);
            return iterate::run(
                engine,
                &action.running,
                iteration,
                parameters,
                makers,
                setting,
                &mut observer,
            );
        };
        // Partitions are read again where their lane moves.
        context.keep_for_several_reads(self.id())?;
        let lineage = context.cut_lineage(self.id())?;
        context.prepare_all(&lineage)?;
        let action = context.begin_action(self.node())?;
        let looped = Loop {
            iteration,
            parameters: Arc::clone(parameters),
            makers,
            read,
            partitions: self.partitions(),
            load: &mut |results| loaded.take(results),
            keep_only: &mut |stays| loaded.keep_only(stays),
            observer: &mut observer,
        };
        collective::iterate(context, member, &action.running, &lineage, looped)
    }
}

/// An error if a lane would have no partition.
fn check_lanes(partitions: usize, iteration: &Iteration) -> Result<()> {
    if partitions >= iteration.lanes {
        return Ok(());
    }
    Err(EngineError::invalid(
        format!("{} lanes over a dataset of {partitions} partitions", iteration.lanes),
        "use fewer lanes, or `repartition` the dataset into at least one partition a lane",
    ))
}

/// The workers that are slowed on purpose where there is one process. (In a cluster threads come and go.)
fn slowed_here(context: &Context) -> Result<Vec<(usize, u32)>> {
    let (slowed, threads) = (context.slowed()?, context.workers().count());
    match slowed.iter().find(|(thread, _)| *thread >= threads) {
        Some((thread, _)) => Err(EngineError::invalid(
            format!("thread {thread} to be slowed (`chaos`) of {threads} threads, which are counted from 0"),
            "name one that there is, or raise `threads`",
        )),
        None => Ok(slowed),
    }
}

/// What was loaded of the partitions whose lanes are hosted here.
#[derive(Clone)]
struct Loaded<P>(Arc<Mutex<BTreeMap<usize, P>>>);

impl<P> Default for Loaded<P> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<P: Clone + Send + Sync + 'static> Loaded<P> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, P>> {
        self.0.lock().unpoisoned()
    }

    /// Takes in what was loaded; says which partitions are here.
    fn take(&self, results: Results) -> Vec<u64> {
        let mut loaded = self.lock();
        let results = results.into_iter();
        loaded.extend(results.filter_map(|(partition, value)| Some((partition, *value.downcast().ok()?))));
        loaded.keys().map(|partition| *partition as u64).collect()
    }

    /// Forgets all other partitions than these.
    fn keep_only(&self, stays: &dyn Fn(usize) -> bool) {
        let mut loaded = self.lock();
        let all = std::mem::take(&mut *loaded).into_iter();
        let (stay, gone): (_, BTreeMap<usize, P>) = all.partition(|(partition, _)| stays(*partition));
        *loaded = stay;
        drop(loaded);
        // Without the lock: the program's own code may run at its end.
        drop(gone);
    }

    /// What there is of one of so many lanes.
    fn of_lane(&self, lanes: usize, lane: usize) -> LaneData<P> {
        let own = |(partition, _): &(&usize, &P)| *partition % lanes == lane;
        let partitions = self.lock().iter().filter(own).map(|(_, part)| part.clone()).collect();
        LaneData { lane, partitions }
    }

    fn lane_maker(
        &self,
        lanes: usize,
        make_lane: impl Fn(LaneData<P>) -> Result<Box<dyn Lane>> + Send + Sync + 'static,
    ) -> MakeLane {
        let loaded = self.clone();
        Arc::new(move |lane| make_lane(loaded.of_lane(lanes, lane)))
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
        make_lane: impl Fn(usize) -> Result<Box<dyn Lane>> + Send + Sync + 'static,
        make_shard: impl Fn(usize) -> Result<Box<dyn ShardUpdate>> + Send + Sync + 'static,
        observe: &mut dyn FnMut(&StepReport),
    ) -> Result<()> {
        // Lanes without data still need a dataset to be dealt over: one number each. That there are none, the iteration
        // refuses.
        let lanes = self.range(0..iteration.lanes as u64, iteration.lanes.max(1));
        lanes.iterate(
            iteration,
            parameters,
            move |data| make_lane(data.lane),
            make_shard,
            observe,
        )
    }
}

#[cfg(test)]
mod tests;
