//! Which task a worker takes next, and what comes of an attempt at it.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::time::Instant;

use distdl_storage::object::{Object, shown};

use super::Tasks;
use crate::batch::{Interrupted, TaskError, TaskResult};
use crate::dataflow::job::{Attempt, Event};
use crate::dataflow::speculation::SpareWork;
use crate::error::{EngineError, panic_text};
use crate::id::DatasetId;
use crate::plan::{OPERATIONS_MAX, Operation, Operations};
use crate::task::{TaskContext, UpdateOrigin};

/// Parts of its input that the error of a task names.
const PARTS_TOLD: usize = 3;

impl Tasks {
    /// The next task of this process.
    pub(super) fn claim(&mut self) -> Option<Attempt> {
        loop {
            let partition = if self.stage().reads.is_empty() {
                let next = self.job.claimed[self.index].fetch_add(1, Ordering::Relaxed);
                self.job.own[self.index].get(next).copied()?
            } else {
                self.own.pop_front()?
            };
            match self.attempt_at(partition, false) {
                None => self.job.progress.task_ended(),
                attempt => return attempt,
            }
        }
    }

    /// What there is to do where this process has no task left.
    pub(super) fn speculate(&self) -> SpareWork {
        match &self.job.speculation {
            Some(speculation) if !self.job.incomplete.load(Ordering::SeqCst) => {
                speculation.idle(self.index, Instant::now())
            }
            _ => SpareWork::Leaves,
        }
    }

    /// `None` if another process has computed the partition by now.
    pub(super) fn attempt_at(&self, partition: usize, is_copy: bool) -> Option<Attempt> {
        let speculation = self.job.speculation.as_ref();
        let stop = match speculation.filter(|speculation| speculation.covers(self.index, partition)) {
            Some(speculation) => Some(speculation.begin(self.index, partition)?),
            None => None,
        };
        if is_copy {
            self.job.resources.metrics.task_copied();
            tracing::debug!(
                stage = self.index,
                partition,
                "another process is slow: computing it here as well"
            );
        }
        Some(Attempt {
            partition,
            begun: Instant::now(),
            stop,
            is_copy,
        })
    }

    /// Runs a piece of a task; a panic or an error in it ends the job, a lost block leaves the round incomplete. Not if
    /// there is another attempt that may do better: what fails of a copy is dropped, and so is what an attempt has come
    /// to that was stopped, since its closures saw no more than a part of their input.
    pub(super) fn guarded(&mut self, work: impl FnOnce(&mut Self) -> TaskResult<()>) {
        let begun = Instant::now();
        let worked = catch_unwind(AssertUnwindSafe(|| work(self)));
        self.job.was_busy(begun.elapsed());
        let attempt = self.attempt.as_ref();
        let is_over = attempt.filter(|attempt| attempt.is_copy || attempt.is_stopped());
        match (worked, is_over) {
            (Ok(Err(error)), Some(attempt)) => {
                tracing::debug!(partition = attempt.partition, "an attempt is given up: {error:?}");
                self.job.over(attempt);
            }
            (worked, _) => self.judge(worked),
        }
    }

    /// Runs user code: a panic becomes an error that names the operator.
    pub(super) fn attempt<R>(
        &mut self,
        context: &TaskContext,
        work: impl FnOnce(&mut Self) -> TaskResult<R>,
    ) -> TaskResult<R> {
        let _entered = context.enter();
        let result = match catch_unwind(AssertUnwindSafe(|| work(self))) {
            Ok(result) => result,
            Err(panic) => match panic.downcast::<Interrupted>() {
                Ok(interrupted) => Err(interrupted.0),
                Err(panic) => {
                    let error = self.panicked(context, panic.as_ref());
                    return Err(self.with_input(TaskError::Failed(error)));
                }
            },
        };
        result.map_err(|error| {
            // What was kept as blocks before the loss will not be computed again: it counts now or never.
            self.send(Event::Updates(context.take_updates()));
            self.with_input(error)
        })
    }

    /// The error of the task that runs, with the parts of sources that it was to read.
    fn with_input(&self, error: TaskError) -> TaskError {
        match (error, &self.attempt) {
            (TaskError::Failed(error), Some(attempt)) => TaskError::Failed(match self.input(attempt.partition) {
                Some(input) => error.with_input(&input),
                None => error,
            }),
            (error, _) => error,
        }
    }

    /// What a partition reads of sources, for people.
    fn input(&self, partition: usize) -> Option<String> {
        let (stage, lineage) = (self.stage(), &self.job.lineage);
        let planned = |dataset: DatasetId, partition: usize| {
            let blocks = stage.blocks.get(&dataset);
            blocks.is_some_and(|blocks| blocks.contains(&partition))
        };
        let operations = Operations::new(lineage, (stage.root, partition), &planned, &|_| true);
        let parts = operations.take(OPERATIONS_MAX).filter_map(|operation| match operation {
            Operation::Compute { dataset, partition, .. } => Some(lineage.node(dataset).reads.as_ref()?(partition)),
            _ => None,
        });
        let mut parts = parts.flatten();
        let part = |(object, range): (Object, Range<u64>)| match range == (0..object.bytes) {
            true => shown(&object.url),
            false => format!("{}, bytes {} to {}", shown(&object.url), range.start, range.end),
        };
        let mut told: Vec<String> = parts.by_ref().take(PARTS_TOLD).map(part).collect();
        match parts.count() {
            0 => {}
            more => told.push(format!("{more} more")),
        }
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn panicked(&self, context: &TaskContext, panic: &(dyn Any + Send)) -> EngineError {
        let UpdateOrigin { dataset, partition, .. } = context.origin();
        let node = self.job.lineage.node(dataset);
        EngineError::Panic {
            operator: node.title(),
            site: node.site.to_string(),
            partition,
            message: panic_text(panic),
        }
    }

    fn judge(&self, worked: std::thread::Result<TaskResult<()>>) {
        match worked {
            Ok(Ok(()) | Err(TaskError::Cancelled)) => {}
            Ok(Err(TaskError::Failed(error))) => self.job.fail(error),
            Ok(Err(TaskError::Lost(_))) => self.job.lose(),
            // Panics of user code were turned into errors where their operator is known: this one is ours.
            Err(panic) => self.job.fail(EngineError::WorkersStopped {
                reason: panic_text(panic.as_ref()),
            }),
        }
    }
}
