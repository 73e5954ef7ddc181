//! A view as the thread knows it: how its dataflow is built, fed and read.

use std::cell::RefCell;
use std::panic::Location;
use std::rc::Rc;
use std::sync::{Arc, Mutex, Weak};

use distdl_storage::Unpoisoned;
use timely::dataflow::operators::probe::Handle;
use timely::worker::Worker;

use super::meter::Meter;
use super::records::{Feed, LiveRecords, LiveScope, Sessions};
use super::row::{Row, RowCollection};
use super::view_contents::{Change, ViewContents};
use super::{LiveRecord, Time};
use crate::error::LiveError;

/// Builds the dataflow of a view.
pub(crate) trait ViewDataflow: Send + Sync {
    fn install(self: Arc<Self>, worker: &mut Worker, meter: &Rc<Meter>) -> Installed;
}

/// From inputs to the records of a view.
pub(crate) type ViewFunction<T> = Box<dyn for<'r, 's> Fn(&'r LiveScope<'s>) -> LiveRecords<'s, T> + Send + Sync>;

/// In which partition a record is.
pub(crate) type PartitionOf<T> = Box<dyn Fn(&T) -> usize + Send + Sync>;

/// A view's way from inputs to what it keeps.
pub(crate) struct TypedViewDataflow<T: LiveRecord> {
    pub(crate) site: &'static Location<'static>,
    pub(crate) function: ViewFunction<T>,
    pub(crate) partition_of: PartitionOf<T>,
    pub(crate) contents: Mutex<ViewContents<T>>,
}

impl<T: LiveRecord> ViewDataflow for TypedViewDataflow<T> {
    fn install(self: Arc<Self>, worker: &mut Worker, meter: &Rc<Meter>) -> Installed {
        let staged = Rc::new(RefCell::new(Vec::new()));
        let (to, dataflow, guard) = (Rc::clone(&staged), Arc::downgrade(&self), Rc::clone(meter));
        let stage = move |record: &Row, change: i64| {
            let Some(dataflow) = dataflow.upgrade() else { return };
            let record = record.get::<T>();
            let partition = || (dataflow.partition_of)(record);
            if let Some(partition) = guard.guard("view", dataflow.site, Some(record), partition) {
                to.borrow_mut().push((partition, record.clone(), change));
            }
        };
        let output = Output {
            dataflow: Arc::downgrade(&self),
            staged,
        };
        let index = worker.next_dataflow_index();
        let (sessions, probe) = build(worker, meter, &*self, Box::new(stage));
        Installed {
            index,
            sessions,
            time: 0,
            probe,
            output: Box::new(output),
        }
    }
}

/// A view's function without the type of what it makes.
trait Make {
    /// What it makes; `None` if it panicked.
    fn rows<'s>(&self, scope: &LiveScope<'s>) -> Option<RowCollection<'s>>;
}

impl<T: LiveRecord> Make for TypedViewDataflow<T> {
    fn rows<'s>(&self, scope: &LiveScope<'s>) -> Option<RowCollection<'s>> {
        scope
            .meter
            .guard("view", self.site, None, || (self.function)(scope).rows)
    }
}

/// Sees what comes out of a dataflow: a record, and by how much it has changed.
type Stage = Box<dyn Fn(&Row, i64)>;

/// Builds a dataflow on the worker, with its inputs.
fn build(worker: &mut Worker, meter: &Rc<Meter>, function: &dyn Make, stage: Stage) -> (Sessions, Handle<u64>) {
    let (sessions, probe) = (Rc::default(), Handle::new());
    worker.dataflow::<u64, _, _>(|outer| {
        let rows = outer.scoped::<Time, _, _>("Live", |inner| {
            let scope = LiveScope {
                outer,
                inner,
                meter: Rc::clone(meter),
                sessions: Rc::clone(&sessions),
            };
            function.rows(&scope).map(|rows| rows.leave(outer))
        });
        let Some(rows) = rows else { return };
        // Rounds of loops may cancel out only here.
        let rows = rows.consolidate();
        rows.inspect(move |(row, _, change)| stage(row, *change as i64))
            .probe_with(&probe);
    });
    (sessions.take(), probe)
}

/// A dataflow that runs.
pub(crate) struct Installed {
    index: usize,
    sessions: Sessions,
    time: u64,
    probe: Handle<u64>,
    output: Box<dyn Publish>,
}

impl Installed {
    /// Gives the dataflow what its inputs hold, or what of it is being changed.
    pub(crate) fn feed(&mut self, feed: Feed) {
        if feed == Feed::Changes && !self.sessions.iter().any(|session| session.has_changes()) {
            return;
        }
        self.time += 1;
        for session in &mut self.sessions {
            session.feed(feed);
            session.advance_to(self.time);
        }
    }

    /// By which the worker knows it.
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// Whether it has not yet done all it was given.
    pub(crate) fn is_behind(&self) -> bool {
        !self.sessions.is_empty() && self.probe.less_than(&self.time)
    }

    pub(crate) fn output(&self) -> &dyn Publish {
        &*self.output
    }
}

/// What a dataflow made, and the view that it is for.
pub(crate) trait Publish {
    /// Whether anybody still has the view.
    fn is_wanted(&self) -> bool;
    /// Whether the view can take what was made.
    fn check(&self) -> Result<(), LiveError>;
    /// Gives it to the view, after all views could.
    fn publish(&self);
    /// Whether it is what the view has already, after the dataflow was built anew.
    fn confirm(&self) -> Result<(), LiveError>;
}

struct Output<T: LiveRecord> {
    dataflow: Weak<TypedViewDataflow<T>>,
    staged: Rc<RefCell<Vec<Change<T>>>>,
}

impl<T: LiveRecord> Publish for Output<T> {
    fn is_wanted(&self) -> bool {
        self.dataflow.strong_count() > 0
    }

    fn check(&self) -> Result<(), LiveError> {
        let dataflow = self.dataflow.upgrade();
        dataflow.map_or(Ok(()), |dataflow| {
            dataflow.contents.lock().unpoisoned().check(&self.staged.borrow())
        })
    }

    fn publish(&self) {
        let staged = self.staged.take();
        if let Some(dataflow) = self.dataflow.upgrade() {
            dataflow.contents.lock().unpoisoned().apply(staged);
        }
    }

    fn confirm(&self) -> Result<(), LiveError> {
        let staged = self.staged.take();
        let dataflow = self.dataflow.upgrade();
        dataflow.map_or(Ok(()), |dataflow| dataflow.contents.lock().unpoisoned().confirm(staged))
    }
}
