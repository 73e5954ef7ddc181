//! What a running task may use, and the thread-local trail that tells whose closure is running.

use std::any::Any;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use distdl_storage::remote::Stores;
use distdl_storage::{BlockId, BlockStore, BytesBySource, Spill, SpilledRows, StorageError};
use serde::{Deserialize, Serialize};

use crate::batch::{TaskError, TaskResult};
use crate::cluster::member::Faults;
use crate::id::DatasetId;
use crate::metrics::Metrics;
use crate::notices::Notices;
use crate::outputs::Outputs;
use crate::progress::{Board, JobProgress};

/// What a process offers to the tasks that run in it.
pub(crate) struct Resources {
    /// Blocks of persisted datasets.
    pub store: Arc<BlockStore>,
    /// Worker threads.
    pub workers: usize,
    /// Files and remote objects.
    pub stores: Arc<Stores>,
    /// Records in a batch.
    pub batch_records: usize,
    /// Counters.
    pub metrics: Metrics,
    /// What all processes may read of this one.
    pub notices: Arc<Notices>,
    /// What was sent into shuffles.
    pub outputs: Outputs,
    /// How long another process may be silent before its tasks are computed here as well; none if they never are.
    pub speculate_after: Option<Duration>,
    /// The generation in which second copies of a dataset's blocks were last made again.
    pub copied_in: Mutex<HashMap<DatasetId, u64>>,
    /// What runs, for people.
    pub board: Board,
    /// Faults that are planned for this process, if it belongs to a cluster.
    pub faults: OnceLock<Faults>,
}

impl Resources {
    /// Memory for other things than blocks, in bytes: blocks keep up to half.
    fn working_bytes(&self) -> u64 {
        let memory_bytes_max = self.store.memory_bytes_max();
        memory_bytes_max - self.store.memory_bytes_used().min(memory_bytes_max / 2)
    }

    /// What the parcels of a job may take, in bytes.
    pub(crate) fn parcel_bytes_max(&self) -> u64 {
        self.working_bytes() / 2
    }

    /// What an operator of one task may take, in bytes: as much as those of the other workers' tasks.
    pub(crate) fn share_bytes(&self) -> u64 {
        self.working_bytes() / 2 / self.workers.max(1) as u64
    }

    /// Puts a frame on disk for which memory has no room. What is kept for the loss of another process makes way for
    /// it.
    pub(crate) fn put_away(&self, spill: &Spill, frame: &[u8]) -> Result<SpilledRows, StorageError> {
        let rows = self.retry_after_eviction(|| spill.append(frame))?;
        self.metrics.spilled(frame.len() as u64);
        Ok(rows)
    }

    /// Writes to disk. Where that is short, what is kept for the loss of another process makes way, if no other task
    /// has seen to it meanwhile, and `write` runs again.
    pub(crate) fn retry_after_eviction<R>(
        &self,
        write: impl Fn() -> Result<R, StorageError>,
    ) -> Result<R, StorageError> {
        match write() {
            Err(StorageError::OverBudget { .. } | StorageError::DiskFull { .. }) => {
                self.outputs.end();
                write()
            }
            written => written,
        }
    }

    /// Bytes that were read so far, wherever they lay.
    pub(crate) fn bytes_read(&self) -> u64 {
        let read = BytesBySource::of(&self.stores.figures(), &self.store.statistics(), None);
        read.remote + read.peer + read.cache + read.local + read.disk + read.memory
    }

    /// How far the action is that runs here, if one does.
    pub(crate) fn progress(&self) -> Option<JobProgress> {
        self.board.now(|| self.bytes_read())
    }
}

/// Blocks of other processes.
pub(crate) trait Elsewhere: Send + Sync {
    /// Whether another process is known to have a block.
    fn has(&self, id: BlockId) -> bool;
    /// The block in a frame; `None` if it is not to be had any more.
    ///
    /// # Errors
    /// Who has it cannot read it now, for want of open files or memory.
    fn fetch(&self, id: BlockId) -> Result<Option<Vec<u8>>, StorageError>;
    /// Gives another process a copy of a block, in a frame, and waits until it has it or cannot have it: says which.
    fn copy(&self, id: BlockId, frame: Vec<u8>) -> bool;
    /// Whether this process had a block and no other one, when the round began, and another can have a copy.
    fn lacks_copy(&self, id: BlockId) -> bool;
}

/// What an operator may ask of the task that runs it.
#[derive(Clone)]
pub(crate) struct TaskContext {
    /// Stores, limits and counters of the process.
    pub resources: Arc<Resources>,
    /// Where blocks are that this process does not have.
    pub elsewhere: Option<Arc<dyn Elsewhere>>,
    state: Rc<TaskState>,
}

/// Whose closures run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Role {
    /// The operator's own.
    Operator,
    /// The operator's, on the writing side of its shuffle.
    Writer,
    /// Those of an action on the operator's dataset.
    Action,
}

/// Which closures run: the origin of an update of an accumulator, or what an error names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct UpdateOrigin {
    /// The operator.
    pub dataset: DatasetId,
    /// The partition of it; the parent's where the writing side of its shuffle runs.
    pub partition: usize,
    /// Whose closures.
    pub role: Role,
}

/// An origin within a task. One origin may come up twice, where two operations of the task's program compute the same
/// partition for two readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UpdatePosition {
    pub(crate) origin: UpdateOrigin,
    /// 0-based operation of the task's program; beyond the last one for what is no operation.
    pub(crate) operation: usize,
}

/// Key of an accumulator's update from one origin.
pub(crate) type UpdateKey = (u64, UpdateOrigin);

/// What closures added to accumulators, by its origin.
pub(crate) type Updates = BTreeMap<UpdateKey, Box<dyn Any + Send>>;

struct TaskState {
    /// Whose task it is.
    resources: Weak<Resources>,
    position: Cell<UpdatePosition>,
    /// What closures added of which it is not known yet whether it will stand.
    pending: RefCell<BTreeMap<(u64, UpdatePosition), Box<dyn Any + Send>>>,
    settled: RefCell<Updates>,
    /// The operations whose partition was computed to its end.
    ended: RefCell<BTreeSet<UpdatePosition>>,
    cancelled: Arc<AtomicBool>,
    /// Set when another attempt at the same partition has ended.
    overtaken: OnceCell<Arc<AtomicBool>>,
}

thread_local! {
    /// The task that runs on this worker thread, so that `Accumulator::add` in a user's closure can find it.
    static CURRENT: RefCell<Option<Rc<TaskState>>> = const { RefCell::new(None) };
}

thread_local! {
    /// Whether this thread runs closures for a driver program that waits for it, also without being in a task.
    static SERVES: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread runs closures of the driver program, which waits for it.
pub(crate) fn serve() {
    SERVES.set(true);
}

/// Whether this thread is inside a task, or serves a driver program that waits for it: then an action would wait for
/// ever.
pub(crate) fn is_inside() -> bool {
    SERVES.get() || CURRENT.with_borrow(Option::is_some)
}

/// Whether this thread is inside a task of the process and context that offer `resources`; none if it is in no task.
pub(crate) fn is_inside_of(resources: &Weak<Resources>) -> Option<bool> {
    CURRENT.with_borrow(|current| Some(current.as_ref()?.resources.ptr_eq(resources)))
}

/// Folds `update` into what the operator that runs on this thread has added to accumulator `id` so far. Nothing happens
/// outside a task.
pub(crate) fn add_update<T: Any + Send>(id: u64, update: T, merge: impl FnOnce(&mut T, T), empty: impl FnOnce() -> T) {
    CURRENT.with_borrow(|current| {
        let Some(state) = current else { return };
        let mut pending = state.pending.borrow_mut();
        let key = (id, state.position.get());
        let slot = pending.entry(key).or_insert_with(|| Box::new(empty()));
        if let Some(slot) = slot.downcast_mut::<T>() {
            merge(slot, update);
        }
    });
}

/// Marks this thread as being inside a task until dropped.
pub(crate) struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(None);
    }
}

impl TaskContext {
    /// A context for one partition of `dataset`; the task stops early once `cancelled` is set.
    pub(crate) fn new(
        resources: Arc<Resources>,
        dataset: DatasetId,
        partition: usize,
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        let origin = UpdateOrigin {
            dataset,
            partition,
            role: Role::Action,
        };
        let operation = usize::MAX;
        let state = TaskState {
            resources: Arc::downgrade(&resources),
            position: Cell::new(UpdatePosition { origin, operation }),
            pending: RefCell::default(),
            settled: RefCell::default(),
            ended: RefCell::default(),
            cancelled,
            overtaken: OnceCell::new(),
        };
        Self {
            resources,
            elsewhere: None,
            state: Rc::new(state),
        }
    }

    /// With blocks of other processes.
    pub(crate) fn with_elsewhere(self, elsewhere: Option<Arc<dyn Elsewhere>>) -> Self {
        Self { elsewhere, ..self }
    }

    /// Stops early, too, once `overtaken` is set.
    pub(crate) fn until(self, overtaken: Option<Arc<AtomicBool>>) -> Self {
        if let Some(overtaken) = overtaken {
            self.state.overtaken.get_or_init(|| overtaken);
        }
        self
    }

    pub(crate) fn enter(&self) -> Entered {
        CURRENT.set(Some(Rc::clone(&self.state)));
        Entered
    }

    /// Whose code runs: for errors.
    pub(crate) fn origin(&self) -> UpdateOrigin {
        self.state.position.get().origin
    }

    /// What closures added to accumulators, as far as it stands.
    pub(crate) fn take_updates(&self) -> Updates {
        self.state.settled.take()
    }

    /// The partition that is computed at `position` has no more records.
    pub(crate) fn end(&self, position: UpdatePosition) {
        self.state.ended.borrow_mut().insert(position);
    }

    /// Lets stand what closures added where they are `done`, as far as operators came to the end of their partition: an
    /// operator or a closure behind one may want only the first of its records. Of an origin that came up twice the
    /// first one counts.
    pub(crate) fn settle(&self, done: impl Fn(&UpdatePosition) -> bool) {
        let ended = self.state.ended.borrow();
        let stands = |position: &UpdatePosition| {
            done(position) && (position.origin.role != Role::Operator || ended.contains(position))
        };
        let pending = self.state.pending.take().into_iter();
        let (complete, pending): (Vec<_>, Vec<_>) = pending.partition(|((_, position), _)| stands(position));
        self.state.pending.replace(pending.into_iter().collect());
        let mut settled = self.state.settled.borrow_mut();
        for ((id, position), update) in complete {
            settled.entry((id, position.origin)).or_insert(update);
        }
    }

    /// Forgets what closures added that does not stand yet: they will run again.
    pub(crate) fn forget_pending(&self) {
        self.state.pending.take();
        self.state.ended.take();
    }

    pub(crate) fn position(&self) -> UpdatePosition {
        self.state.position.get()
    }

    /// Notes that `position`'s code runs from here on; returns whose ran before.
    pub(crate) fn at(&self, position: UpdatePosition) -> UpdatePosition {
        self.state.position.replace(position)
    }

    /// Until the answer is dropped, what runs is the writing side of `child`'s shuffle.
    pub(crate) fn writing(&self, child: DatasetId) -> Writing {
        let state = Rc::clone(&self.state);
        let outside = state.position.get();
        let origin = UpdateOrigin {
            dataset: child,
            role: Role::Writer,
            ..outside.origin
        };
        state.position.set(UpdatePosition { origin, ..outside });
        Writing { state, outside }
    }

    /// Fails once another task of the job has failed, or another attempt at this one has ended.
    pub(crate) fn check(&self) -> TaskResult<()> {
        let overtaken = self.state.overtaken.get();
        if self.state.cancelled.load(Ordering::Relaxed)
            || overtaken.is_some_and(|overtaken| overtaken.load(Ordering::Relaxed))
        {
            Err(TaskError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// See [`TaskContext::writing`].
pub(crate) struct Writing {
    state: Rc<TaskState>,
    outside: UpdatePosition,
}

impl Drop for Writing {
    fn drop(&mut self) {
        // A panic leaves the position where it happened, for the error that is made of it.
        if !std::thread::panicking() {
            self.state.position.set(self.outside);
        }
    }
}
