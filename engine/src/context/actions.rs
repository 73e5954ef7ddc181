//! Running an action: its turn, what is prepared for it, and what it brings.

use std::any::Any;
use std::sync::MutexGuard;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Context, lock};
use crate::batch::{AnyStream, TaskResult};
use crate::cancel::RunningAction;
use crate::collective::{self, Results};
use crate::dataflow::{job, run};
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::lineage::{Lineage, Node};
use crate::progress::Board;
use crate::task::{self, TaskContext};

impl Context {
    /// Takes the turn of an action on a dataset.
    pub(crate) fn begin_action(&self, target: &Node) -> Result<Turn<'_>> {
        if task::is_inside() {
            return Err(EngineError::NestedAction);
        }
        let turn = lock(&self.inner.action);
        Ok(Turn {
            board: &self.inner.resources.board,
            running: self.inner.cancellation.begin(action_on(target)),
            _turn: turn,
        })
    }

    /// Runs `reduce` over `partitions` of a dataset; one result each, in the order of `partitions`.
    pub(crate) fn run_job<R: Answered>(
        &self,
        target: DatasetId,
        partitions: &[usize],
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.run_reduce(target, partitions, &erased(reduce))
    }

    /// As [`run_job`](Self::run_job), for a function of the program's that may do something to the world.
    pub(crate) fn run_effects<R: Answered>(
        &self,
        target: DatasetId,
        partitions: &[usize],
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.run_reduce(target, partitions, &erased(reduce).with_effects())
    }

    fn run_reduce<R: Answered>(&self, target: DatasetId, partitions: &[usize], reduce: &job::Reduce) -> Result<Vec<R>> {
        let mut results = self.prepared(target, &|lineage| self.compute::<R>(lineage, partitions, reduce))?;
        let results = partitions.iter().filter_map(|partition| results.remove(partition));
        Ok(results
            .filter_map(|value| value.downcast::<R>().ok())
            .map(|value| *value)
            .collect())
    }

    fn compute<R: Answered>(&self, lineage: &Lineage, partitions: &[usize], reduce: &job::Reduce) -> Result<Results> {
        let turn = self.begin_action(lineage.node(lineage.target()))?;
        if let Some(member) = self.member() {
            return collective::compute::<R>(self, member, &turn.running, lineage, partitions, reduce);
        }
        self.compute_here(&turn, lineage, partitions, reduce)
    }

    /// Runs `reduce` over `partitions` of a dataset in this process, which is the only one. The results stay here, so they
    /// may be anything.
    pub(crate) fn run_here(&self, target: DatasetId, partitions: &[usize], reduce: &job::Reduce) -> Result<Results> {
        self.prepared(target, &|lineage| {
            let turn = self.begin_action(lineage.node(lineage.target()))?;
            self.compute_here(&turn, lineage, partitions, reduce)
        })
    }

    /// Calls `compute` with the lineage of `target`, as little of it prepared as will do.
    fn prepared(&self, target: DatasetId, compute: &dyn Fn(&Lineage) -> Result<Results>) -> Result<Results> {
        if task::is_inside() {
            return Err(EngineError::NestedAction);
        }
        self.cut_lineage(target)?;
        match compute(&self.prepare_front(target)?) {
            // Something that could have been remembered is not.
            Err(EngineError::Unprepared { .. }) => compute(&self.prepare_all(target)?),
            results => results,
        }
    }

    fn compute_here(
        &self,
        turn: &Turn<'_>,
        lineage: &Lineage,
        partitions: &[usize],
        reduce: &job::Reduce,
    ) -> Result<Results> {
        let (workers, resources) = (&self.inner.workers, &self.inner.resources);
        let outcome = run::run(workers, resources, &turn.running, lineage, partitions, reduce)?;
        self.inner.accumulators.merge(outcome.updates);
        Ok(outcome.results)
    }
}

/// A function without the type of its result.
fn erased<R: Answered>(
    reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
) -> job::Reduce {
    job::Reduce::new(move |context, partition, stream| {
        let value = reduce(context, partition, stream)?;
        Ok(Box::new(value) as Box<dyn Any + Send>)
    })
}

/// The turn of an action, until it is dropped.
pub(crate) struct Turn<'a> {
    board: &'a Board,
    /// By which it may be cancelled.
    pub(crate) running: RunningAction<'a>,
    _turn: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.board.end();
    }
}

/// What errors call an action.
pub(crate) fn action_on(target: &Node) -> String {
    format!("an action on `{}` (declared at {})", target.title(), target.site)
}

/// What an action brings back of a partition: something that can travel between processes.
pub trait Answered: Serialize + DeserializeOwned + Send + 'static {}

impl<T: Serialize + DeserializeOwned + Send + 'static> Answered for T {}
