//! An input that watches the objects which a pattern names.

use std::collections::BTreeSet;

use distdl_storage::StorageError;
use distdl_storage::object::{Object, ObjectError};

use super::{Live, LiveInput};
use crate::dataflow::live::{LiveRecords, LiveScope};
use crate::error::{EngineError, Result};

/// The objects that a pattern names, as they were when it was last asked. Changed contents of an object are a
/// retraction of its old length and version, and an insert of the new.
#[derive(Clone, Debug)]
pub struct LiveObjects {
    live: Live,
    pattern: String,
    input: LiveInput<Object>,
}

/// What a refresh found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refreshed {
    /// Objects that are new or have another length or version.
    pub inserted: usize,
    /// Objects that are gone or had another length or version.
    pub retracted: usize,
}

impl Live {
    /// An input of the objects that `pattern` names. It is empty until it is refreshed and committed.
    pub fn objects(&self, pattern: &str) -> LiveObjects {
        LiveObjects {
            live: self.clone(),
            pattern: pattern.to_owned(),
            input: self.input(pattern),
        }
    }
}

impl LiveObjects {
    /// Lists the objects, and inserts and retracts what differs from the last commit. The listing is an action: one
    /// process makes it, and all take it, also one that replaces a dead one later. That nothing is found is no error.
    ///
    /// # Errors
    /// If the objects cannot be listed, or there are too many.
    #[track_caller]
    pub fn refresh(&self) -> Result<Refreshed> {
        let listed: BTreeSet<Object> = self.list()?.into_iter().collect();
        let held: BTreeSet<Object> = self.input.contents().into_iter().map(|(object, _)| object).collect();
        self.input.forget_changes();
        let (gone, new) = (held.difference(&listed), listed.difference(&held));
        let refreshed = Refreshed {
            inserted: new.clone().count(),
            retracted: gone.clone().count(),
        };
        let retracted = gone.cloned().try_for_each(|object| self.input.retract(object));
        let changed = retracted.and_then(|()| new.cloned().try_for_each(|object| self.input.insert(object)));
        if changed.is_err() {
            // The next commit is not to hold half a listing.
            self.input.forget_changes();
        }
        changed.map(|()| refreshed)
    }

    #[track_caller]
    fn list(&self) -> Result<Vec<Object>> {
        let context = self.live.context();
        let (stores, pattern) = (context.stores().clone(), self.pattern.clone());
        let listing = context
            .range(0..1, 1)
            .run_partitions(move |_, _| match stores.list(&pattern) {
                Err(StorageError::Object(ObjectError::NothingFound { .. })) => Ok(Vec::new()),
                listing => Ok(listing?),
            })?;
        let none = || EngineError::invalid("a listing gave no answer", "report it: this should not happen");
        listing.into_iter().next().ok_or_else(none)
    }

    /// The committed objects, in order of their names.
    pub fn contents(&self) -> Vec<Object> {
        self.input.contents().into_iter().map(|(object, _)| object).collect()
    }

    /// The objects in the closure of a view.
    pub fn read<'s>(&self, scope: &LiveScope<'s>) -> LiveRecords<'s, Object> {
        self.input.read(scope)
    }
}
