//! What a running task may use, and the thread-local trail that tells whose closure is running.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use distdl_storage::BlockStore;
use distdl_storage::remote::Stores;

use crate::batch::{TaskError, TaskResult};
use crate::id::DatasetId;
use crate::metrics::Metrics;

/// What a process offers to the tasks that run in it.
pub struct Resources {
    /// Blocks of persisted datasets.
    pub store: BlockStore,
    /// Files and remote objects.
    pub objects: Arc<Stores>,
    /// Records in a batch.
    pub batch_records: usize,
    /// Counters.
    pub metrics: Metrics,
}

/// What an operator may ask of the task that runs it.
#[derive(Clone)]
pub struct TaskContext {
    /// Stores, limits and counters of the process.
    pub resources: Arc<Resources>,
    state: Rc<TaskState>,
}

/// The place that added to an accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The operator.
    pub dataset: DatasetId,
    /// The partition of it; the parent's where the writing side of its shuffle ran.
    pub partition: usize,
    /// Whether it was the writing side of the operator's shuffle.
    pub writing: bool,
}

/// Key of one accumulator's share from one place.
pub type UpdateKey = (u64, Place);

/// What closures added to accumulators, by the place that added it.
pub type Updates = BTreeMap<UpdateKey, Box<dyn Any + Send>>;

struct TaskState {
    node: Cell<DatasetId>,
    partition: Cell<usize>,
    writing: Cell<bool>,
    updates: RefCell<Updates>,
    cancelled: Arc<AtomicBool>,
}

thread_local! {
    /// The task that runs on this worker thread, so that `Accumulator::add` in a user's closure can find it.
    static CURRENT: RefCell<Option<Rc<TaskState>>> = const { RefCell::new(None) };
}

/// Whether this thread is inside a task.
pub fn is_inside() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

/// Folds `update` into what the operator that runs on this thread has added to accumulator `id` so far. Returns
/// false outside a task.
pub(crate) fn add_update<T: Any + Send>(
    id: u64,
    update: T,
    merge: impl FnOnce(&mut T, T),
    empty: impl FnOnce() -> T,
) -> bool {
    CURRENT.with_borrow(|current| {
        let Some(state) = current else { return false };
        let mut updates = state.updates.borrow_mut();
        let place = Place {
            dataset: state.node.get(),
            partition: state.partition.get(),
            writing: state.writing.get(),
        };
        let key = (id, place);
        let slot = updates.entry(key).or_insert_with(|| Box::new(empty()));
        if let Some(slot) = slot.downcast_mut::<T>() {
            merge(slot, update);
        }
        true
    })
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
    pub fn new(resources: Arc<Resources>, dataset: DatasetId, partition: usize, cancelled: Arc<AtomicBool>) -> Self {
        let state = TaskState {
            node: Cell::new(dataset),
            partition: Cell::new(partition),
            writing: Cell::new(false),
            updates: RefCell::default(),
            cancelled,
        };
        Self {
            resources,
            state: Rc::new(state),
        }
    }

    pub(crate) fn enter(&self) -> Entered {
        CURRENT.set(Some(Rc::clone(&self.state)));
        Entered
    }

    /// The operator whose code runs, and the partition of it: for errors.
    pub fn position(&self) -> (DatasetId, usize) {
        (self.state.node.get(), self.state.partition.get())
    }

    /// What closures added to accumulators.
    pub fn take_updates(&self) -> Updates {
        self.state.updates.take()
    }

    /// Notes that `position`'s code runs from here on; returns whose ran before.
    pub(crate) fn at(&self, (node, partition): (DatasetId, usize)) -> (DatasetId, usize) {
        (self.state.node.replace(node), self.state.partition.replace(partition))
    }

    /// Until the answer is dropped, what runs is the writing side of `child`'s shuffle.
    pub(crate) fn writing(&self, child: DatasetId) -> Writing {
        let state = Rc::clone(&self.state);
        let parent = state.node.replace(child);
        state.writing.set(true);
        Writing { state, parent }
    }

    /// Fails once another task of the job has failed.
    pub(crate) fn check(&self) -> TaskResult<()> {
        if self.state.cancelled.load(Ordering::Relaxed) {
            Err(TaskError::Cancelled)
        } else {
            Ok(())
        }
    }
}

/// See [`TaskContext::writing`].
pub(crate) struct Writing {
    state: Rc<TaskState>,
    parent: DatasetId,
}

impl Drop for Writing {
    fn drop(&mut self) {
        // A panic leaves the position where it happened, for the error that is made of it.
        if !std::thread::panicking() {
            self.state.node.set(self.parent);
            self.state.writing.set(false);
        }
    }
}
