//! An input that watches the objects which a pattern names.

use std::collections::BTreeSet;

use distdl_storage::StorageError;
use distdl_storage::object::{Object, ObjectError};

use super::{Live, LiveInput};
use crate::dataflow::live::{LiveRecords, LiveScope};
use crate::error::{EngineError, Result};

/// The objects that a pattern names, as they were when it was last asked. Changed contents of an object are a
/// retraction of its old length and version, and an insert of the new.
///
/// A closure of a view must not read the object: when it is retracted, the closure is asked again what it made of it,
/// reads what is there by then, and takes that away. So a view holds the objects, each in a partition of its name, and
/// an operator on its snapshot reads them; memoized, it reads only those partitions again in which an object changed:
///
/// ```
/// use distdl_engine::incremental::LiveOptions;
/// use distdl_engine::{Config, Context};
/// use distdl_storage::object::Object;
///
/// # fn main() -> distdl_engine::Result<()> {
/// # let (folder, cache) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
/// # let (cache, pattern) = (cache.path(), format!("{}/*.txt", folder.path().display()));
/// # let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
/// let context = Context::new(Config::default().with_cache_folder(cache))?;
/// let live = context.live(LiveOptions::default());
/// let objects = live.objects(&pattern);
/// let read = objects.clone();
/// let view = live.view_by("files", 8, |object: &Object| object.url.clone(), move |scope| read.read(scope))?;
/// let lines = || {
///     objects.refresh()?;
///     live.commit()?;
///     let read = |object: Object| std::fs::read_to_string(object.url).expect("a text");
///     let lines = view.snapshot()?.map(read).map(|text| text.lines().count() as u64);
///     lines.memoize("lines", 1)
/// };
/// write("a.txt", "one\n");
/// write("b.txt", "one\ntwo\n");
/// assert_eq!(lines()?.reduce(|left, right| left + right)?, Some(3));
/// write("a.txt", "one\ntwo\nthree\n");
/// let changed = lines()?;
/// assert_eq!(changed.reduce(|left, right| left + right)?, Some(5));
/// assert_eq!(changed.partitions_computed(), 1);
/// # Ok(())
/// # }
/// ```
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
