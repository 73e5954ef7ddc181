//! Datasets that are kept up to date as their input changes.
//!
//! Inputs take records and retractions, or watch the objects that a pattern names. Views are derived from inputs by
//! closures over [`LiveRecords`], and hold their records in a fixed number of partitions. After a commit all views are
//! up to date, at a cost that goes with the change and not with what is there; a [`snapshot`](LiveView::snapshot) of
//! one is a [`Dataset`](crate::Dataset).
//!
//! Every process of a cluster keeps all of it, since every process runs the same driver program and so makes the same
//! inserts, retractions and commits. A process that takes a dead one's place builds it again by running the driver
//! program from its start. So the driver program must take what it inserts from what is the same everywhere: its
//! arguments, the results of actions, [`LiveObjects`].
//!
//! ```
//! use distdl_engine::incremental::LiveOptions;
//! use distdl_engine::{Config, Context};
//!
//! # fn main() -> distdl_engine::Result<()> {
//! let context = Context::new(Config::default())?;
//! let live = context.live(LiveOptions::default());
//! let words = live.input::<String>("words");
//! let counts = {
//!     let words = words.clone();
//!     live.view("counts", 4, move |scope| words.read(scope).count())?
//! };
//! words.insert("to".into())?;
//! words.insert("be".into())?;
//! words.insert("to".into())?;
//! live.commit()?;
//! words.retract("be".into())?;
//! live.commit()?;
//! assert_eq!(counts.snapshot()?.collect()?, [("to".to_owned(), 2)]);
//! # Ok(())
//! # }
//! ```

mod input;

mod view;

mod objects;

use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

pub use self::input::LiveInput;
pub use self::objects::{LiveObjects, Refreshed};
pub use self::view::LiveView;
use distdl_storage::Unpoisoned;

use crate::context::Context;
use crate::dataflow::live::contents::{Contents, Pending};
use crate::dataflow::live::meter::{Figures, Limits};
use crate::dataflow::live::thread::LiveThread;
use crate::dataflow::live::view_contents::ViewContents;
use crate::dataflow::live::view_dataflow::{PartitionOf, TypedViewDataflow, ViewDataflow, ViewFunction};
pub use crate::dataflow::live::{LiveRecord, LiveRecords, LiveScope, Totals};
use crate::dataset::check_partitions;
use crate::error::{EngineError, Result};
use crate::partitioner::{HashPartitioner, Partitioner};
use crate::task;

/// Limits of live records. All are counts: records should be small. Beside what its text or vectors take, a record
/// of a few numbers costs about 50 bytes in an input, and up to 150 in a view and in each operator that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveOptions {
    /// Different records that an input may hold once what waits is committed. Until then it may have as many again that
    /// are to go.
    pub input_records_max: usize,
    /// Updates that the operators of all views may hold together.
    pub operator_records_max: u64,
    /// Records that a view may hold, each counted as often as it is there.
    pub view_records_max: u64,
    /// Rounds that a loop may take to settle.
    pub rounds_max: u64,
}

impl Default for LiveOptions {
    /// 10 million records, 100 million updates, 100 million records, 10,000 rounds.
    fn default() -> Self {
        Self {
            input_records_max: 10_000_000,
            operator_records_max: 100_000_000,
            view_records_max: 100_000_000,
            rounds_max: 10_000,
        }
    }
}

/// What was done to keep live records up to date.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LiveFigures {
    /// Records that operators took in, with the values that closures of `reduce` were shown. It goes with what changed.
    pub records: u64,
    /// Updates that operators hold now.
    pub held: u64,
    /// Records of partitions that snapshots wrote, because something in the partition had changed.
    pub written: u64,
}

/// Inputs, and views that are derived from them. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    context: Context,
    options: LiveOptions,
    figures: Arc<Figures>,
    written: AtomicU64,
    inputs: Mutex<Vec<Weak<dyn Pending>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` before the first view, and after a failure.
    thread: Option<LiveThread>,
    dataflows: Vec<Weak<dyn ViewDataflow>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let options = &self.inner.options;
        formatter
            .debug_struct("Live")
            .field("options", options)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Records that are kept up to date. They end with the last handle on them; nothing of inputs and views outlives
    /// the program, so the next run inserts again.
    pub fn live(&self, options: LiveOptions) -> Live {
        let inner = Inner {
            context: self.clone(),
            options,
            figures: Arc::default(),
            written: AtomicU64::new(0),
            inputs: Mutex::default(),
            state: Mutex::default(),
        };
        Live { inner: Arc::new(inner) }
    }
}

impl Live {
    /// An input for records and retractions from the driver program. The name is for errors.
    pub fn input<T: LiveRecord>(&self, name: &str) -> LiveInput<T> {
        let (figures, records_max) = (&self.inner.figures, self.inner.options.input_records_max);
        let contents = Arc::new(Mutex::new(Contents::new(name, figures, records_max)));
        let pending: Arc<dyn Pending> = contents.clone();
        self.inner.inputs.lock().unpoisoned().push(Arc::downgrade(&pending));
        LiveInput::new(contents)
    }

    /// What `recipe` derives from inputs, in `partitions` partitions: a record is in that of its hash. It begins with
    /// what was committed to them. The name is for errors.
    ///
    /// # Errors
    /// If `partitions` is 0, a closure panics, or a limit is reached; behind a failure also if another view is not what
    /// it was ([`LiveError::Unsteady`](crate::LiveError::Unsteady)).
    #[track_caller]
    pub fn view<T: LiveRecord>(
        &self,
        name: &str,
        partitions: usize,
        recipe: impl for<'r, 's> Fn(&'r LiveScope<'s>) -> LiveRecords<'s, T> + Send + Sync + 'static,
    ) -> Result<LiveView<T>> {
        let partitioner = HashPartitioner::new(partitions);
        let partition_of = Box::new(move |record: &T| partitioner.partition(record));
        self.add_view(name, partitions, Box::new(recipe), partition_of, Location::caller())
    }

    /// As [`view`](Self::view), with a record in the partition of the hash of its `key`.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    #[track_caller]
    pub fn view_by<T: LiveRecord, K: LiveRecord>(
        &self,
        name: &str,
        partitions: usize,
        key: impl Fn(&T) -> K + Send + Sync + 'static,
        recipe: impl for<'r, 's> Fn(&'r LiveScope<'s>) -> LiveRecords<'s, T> + Send + Sync + 'static,
    ) -> Result<LiveView<T>> {
        let partitioner = HashPartitioner::new(partitions);
        let partition_of = Box::new(move |record: &T| partitioner.partition(&key(record)));
        self.add_view(name, partitions, Box::new(recipe), partition_of, Location::caller())
    }

    fn add_view<T: LiveRecord>(
        &self,
        name: &str,
        partitions: usize,
        function: ViewFunction<T>,
        partition_of: PartitionOf<T>,
        site: &'static Location<'static>,
    ) -> Result<LiveView<T>> {
        check_partitions("view", site, partitions)?;
        let contents = Mutex::new(ViewContents::new(name, partitions, self.inner.options.view_records_max));
        let dataflow = Arc::new(TypedViewDataflow {
            site,
            function,
            partition_of,
            contents,
        });
        let mut state = self.begin()?;
        self.with_thread(&mut state, |thread| thread.install(dataflow.clone(), true))?;
        let weak: Weak<dyn ViewDataflow> = Arc::downgrade(&(dataflow.clone() as Arc<dyn ViewDataflow>));
        state.dataflows.push(weak);
        Ok(LiveView::new(self.clone(), dataflow))
    }

    /// Makes what was inserted and retracted part of the inputs, and brings all views up to date: all of it, or
    /// nothing. Returns the number of different records that changed. What views held that were dropped is freed first.
    ///
    /// The inputs are gone through one after another: of what other threads change in the meantime, some may be in this
    /// commit and the rest in the next, also where the former was made later and in another input. Who needs changes of
    /// several inputs to come together makes no commit meanwhile.
    ///
    /// # Errors
    /// If a closure panics, a loop does not settle, or a limit is reached. Then nothing is committed and the changes
    /// wait on: mend them by further changes, or [`discard`](Self::discard) them. The commit after a failure builds all
    /// views anew, which costs as much as they hold. If a view that is built anew is not what it was, because a closure
    /// gives another answer than before, that commit fails too, until the closure gives its first answer again or the
    /// view is dropped ([`LiveError::Unsteady`](crate::error::LiveError::Unsteady)).
    pub fn commit(&self) -> Result<usize> {
        let mut state = self.begin()?;
        let inputs = self.inputs();
        let changed = inputs.iter().map(|input| input.seal()).sum();
        let committed = match changed {
            0 if state.thread.is_none() => Ok(()),
            // Also of nothing: it frees what dropped views held.
            _ => self.with_thread(&mut state, LiveThread::commit),
        };
        match committed {
            Ok(()) => inputs.iter().for_each(|input| input.settle()),
            Err(_) => inputs.iter().for_each(|input| input.unseal()),
        }
        committed.map(|()| changed)
    }

    /// Forgets what was inserted and retracted since the last commit.
    ///
    /// # Errors
    /// Inside a task or a closure of a view.
    pub fn discard(&self) -> Result<()> {
        let _state = self.begin()?;
        self.inputs().iter().for_each(|input| input.discard());
        Ok(())
    }

    /// What was done until now.
    pub fn figures(&self) -> LiveFigures {
        let held = self.inner.figures.held.load(Ordering::Relaxed);
        LiveFigures {
            records: self.inner.figures.records.load(Ordering::Relaxed),
            held: u64::try_from(held).unwrap_or(0),
            written: self.inner.written.load(Ordering::Relaxed),
        }
    }

    /// The engine that these records belong to.
    pub fn context(&self) -> &Context {
        &self.inner.context
    }

    /// The inputs that somebody holds.
    fn inputs(&self) -> Vec<Arc<dyn Pending>> {
        let mut inputs = self.inner.inputs.lock().unpoisoned();
        inputs.retain(|input| input.strong_count() > 0);
        inputs.iter().filter_map(Weak::upgrade).collect()
    }

    /// The state, outside of tasks and of closures of views only: who waited here would hold up what a commit waits
    /// for.
    fn begin(&self) -> Result<MutexGuard<'_, State>> {
        match task::is_inside() {
            true => Err(EngineError::NestedAction),
            false => Ok(self.inner.state.lock().unpoisoned()),
        }
    }

    /// Has the thread do something. If there is none, one is started and builds all views first, which have already
    /// what comes of that. One that failed is gone.
    fn with_thread(
        &self,
        state: &mut State,
        work: impl FnOnce(&LiveThread) -> std::result::Result<(), crate::error::LiveError>,
    ) -> Result<()> {
        state.dataflows.retain(|dataflow| dataflow.strong_count() > 0);
        let thread = match state.thread.take() {
            Some(thread) => thread,
            None => {
                let thread = LiveThread::start(self.limits(), &self.inner.figures)?;
                let dataflows = state.dataflows.iter().filter_map(Weak::upgrade);
                dataflows
                    .into_iter()
                    .try_for_each(|dataflow| thread.install(dataflow, false))?;
                thread
            }
        };
        work(&thread)?;
        state.thread = Some(thread);
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits {
            records_max: self.inner.options.operator_records_max,
            rounds_max: self.inner.options.rounds_max,
        }
    }
}
