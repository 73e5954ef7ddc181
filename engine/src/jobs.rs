//! Running an action: what is prepared for it, who runs it, and what it brings.

mod cuts;

use std::any::Any;

use distdl_storage::Record;

use crate::batch::{AnyStream, TaskResult};
use crate::collective::{self, Results};
use crate::context::{ActionGuard, Context};
use crate::dataflow::{job, run};
use crate::error::{EngineError, Result};
use crate::id::DatasetId;
use crate::lineage::Lineage;
use crate::task::TaskContext;

impl Context {
    /// Runs `reduce` over `partitions` of a dataset; one result each, in the order of `partitions`.
    pub(crate) fn run_job<R: Record>(
        &self,
        target: DatasetId,
        partitions: &[usize],
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.run_reduce(target, partitions, &erased(reduce))
    }

    /// As [`run_job`](Self::run_job), for a function of the program's that may do something to the world and has
    /// captured these parameters.
    pub(crate) fn run_effects<R: Record>(
        &self,
        target: DatasetId,
        partitions: &[usize],
        parameters: String,
        reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        self.run_reduce(target, partitions, &erased(reduce).with_effects(parameters))
    }

    fn run_reduce<R: Record>(&self, target: DatasetId, partitions: &[usize], reduce: &job::Reduce) -> Result<Vec<R>> {
        let mut results = self.prepared(target, &|lineage| self.compute::<R>(lineage, partitions, reduce))?;
        let results = partitions.iter().filter_map(|partition| results.remove(partition));
        Ok(results
            .filter_map(|value| value.downcast::<R>().ok())
            .map(|value| *value)
            .collect())
    }

    fn compute<R: Record>(&self, lineage: &Lineage, partitions: &[usize], reduce: &job::Reduce) -> Result<Results> {
        let action = self.begin_action(lineage.node(lineage.target()))?;
        if let Some(member) = self.member() {
            return collective::compute::<R>(self, member, &action.running, lineage, partitions, reduce);
        }
        self.compute_here(&action, lineage, partitions, reduce)
    }

    /// Runs `reduce` over `partitions` of a dataset in this process, which is the only one. The results stay here, so
    /// they may be anything.
    pub(crate) fn run_here(&self, target: DatasetId, partitions: &[usize], reduce: &job::Reduce) -> Result<Results> {
        self.prepared(target, &|lineage| {
            let action = self.begin_action(lineage.node(lineage.target()))?;
            self.compute_here(&action, lineage, partitions, reduce)
        })
    }

    /// Calls `compute` with the lineage of `target`, as little of it prepared as will do.
    fn prepared(&self, target: DatasetId, compute: &dyn Fn(&Lineage) -> Result<Results>) -> Result<Results> {
        let lineage = self.cut_lineage(target)?;
        self.prepare_front(&lineage)?;
        match compute(&lineage) {
            // Something that could have been remembered is not.
            Err(EngineError::Unprepared { .. }) => {
                let lineage = self.lineage(target);
                self.prepare_all(&lineage)?;
                compute(&lineage)
            }
            results => results,
        }
    }

    fn compute_here(
        &self,
        action: &ActionGuard<'_>,
        lineage: &Lineage,
        partitions: &[usize],
        reduce: &job::Reduce,
    ) -> Result<Results> {
        let outcome = run::run(
            self.workers(),
            self.resources(),
            &action.running,
            lineage,
            partitions,
            reduce,
        )?;
        self.accumulators().merge(outcome.updates)?;
        Ok(outcome.results)
    }
}

/// A function without the type of its result.
fn erased<R: Record>(
    reduce: impl Fn(&TaskContext, usize, AnyStream) -> TaskResult<R> + Send + Sync + 'static,
) -> job::Reduce {
    job::Reduce::new(move |context, partition, stream| {
        let value = reduce(context, partition, stream)?;
        Ok(Box::new(value) as Box<dyn Any + Send>)
    })
}
