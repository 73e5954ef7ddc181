//! Inputs: records and retractions from the driver program.

use std::sync::{Arc, Mutex};

use distdl_storage::Unpoisoned;

use crate::dataflow::live::contents::{Contents, Pending};
use crate::dataflow::live::{LiveRecord, LiveRecords, LiveScope};
use crate::error::{EngineError, Result};
use crate::task;

/// A multiset of records that the driver program changes. Cheap to clone; nothing counts before
/// [`Live::commit`](super::Live::commit).
pub struct LiveInput<T: LiveRecord> {
    contents: Arc<Mutex<Contents<T>>>,
}

impl<T: LiveRecord> Clone for LiveInput<T> {
    fn clone(&self) -> Self {
        Self {
            contents: Arc::clone(&self.contents),
        }
    }
}

impl<T: LiveRecord> std::fmt::Debug for LiveInput<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "LiveInput({:?})", self.contents.lock().unpoisoned().name())
    }
}

impl<T: LiveRecord> LiveInput<T> {
    pub(super) fn new(contents: Arc<Mutex<Contents<T>>>) -> Self {
        Self { contents }
    }

    /// Adds a record, once more if it is there already.
    ///
    /// # Errors
    /// [`LiveError::Full`](crate::error::LiveError::Full) if there are too many;
    /// [`NestedAction`](EngineError::NestedAction) inside a task or a closure of a view, which one process may run and
    /// another not, or twice.
    pub fn insert(&self, record: T) -> Result<()> {
        refuse_inside()?;
        Ok(self.contents.lock().unpoisoned().insert(record)?)
    }

    /// Takes a record away, once.
    ///
    /// # Errors
    /// [`LiveError::Absent`](crate::error::LiveError::Absent) if it is not there, with what waits for a commit taken
    /// into account; nothing changes then. [`NestedAction`](EngineError::NestedAction) as [`insert`](Self::insert).
    pub fn retract(&self, record: T) -> Result<()> {
        refuse_inside()?;
        Ok(self.contents.lock().unpoisoned().retract(record)?)
    }

    /// The committed records in order, each with how often it is there. It waits for no commit that runs, so it may give
    /// what was there before. Processes of a cluster do not compare them, unlike snapshots of views: each gives what its
    /// own driver program has inserted.
    pub fn contents(&self) -> Vec<(T, u64)> {
        let contents = self.contents.lock().unpoisoned();
        contents.held().map(|(record, count)| (record.clone(), count)).collect()
    }

    /// Forgets what waits for a commit.
    pub(super) fn forget_changes(&self) {
        self.contents.discard();
    }

    /// The records in the closure of a view.
    pub fn read<'s>(&self, scope: &LiveScope<'s>) -> LiveRecords<'s, T> {
        scope.read(&self.contents)
    }
}

/// Changes come from the driver program alone, so that they are the same in every process.
fn refuse_inside() -> Result<()> {
    match task::is_inside() {
        true => Err(EngineError::NestedAction),
        false => Ok(()),
    }
}
