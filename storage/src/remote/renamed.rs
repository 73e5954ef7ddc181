//! A folder of part files in a store that renames a folder at once.
//!
//! The parts are written into a hidden folder beside it, which is renamed when all are there. So a writer that is
//! killed leaves nothing but a hidden folder, and the name free.

use std::collections::BTreeSet;

use bytes::Bytes;
use object_store::PutMode;

use super::key_folder::split_part;
use super::pattern::{draw_name, unfinished};
use super::prefix::{Prefix, SUCCESS};
use crate::object::ObjectError;

type Result<T> = std::result::Result<T, ObjectError>;

/// Parts in a hidden folder.
#[derive(Debug)]
pub(super) struct RenamedFolder {
    target: Prefix,
    parts: Prefix,
    finished: bool,
}

impl RenamedFolder {
    pub(super) fn begin(target: Prefix) -> Result<Self> {
        if is_there(&target)? {
            return Err(ObjectError::AlreadyExists { url: target.url() });
        }
        Ok(Self {
            parts: target.sibling(&unfinished(&draw_name())),
            target,
            finished: false,
        })
    }

    pub(super) fn write_part(&self, name: &str, bytes: Bytes) -> Result<()> {
        let part = self.parts.part(name)?;
        self.parts.client.put(part, bytes, PutMode::Overwrite)
    }

    pub(super) fn commit(mut self) -> Result<()> {
        self.write_part(SUCCESS, Bytes::new())?;
        let (from, to) = (self.parts.target()?, self.target.target()?);
        self.target.client.rename(from, to)?;
        self.finished = true;
        Ok(())
    }

    /// Removes the parts, and after them the folders that they lie in.
    fn remove(&self) -> Result<()> {
        let names = self.parts.names(|_| true)?;
        let folders: BTreeSet<&str> = names.iter().filter_map(|name| split_part(name).0).collect();
        for name in names.iter().map(String::as_str).chain(folders) {
            self.parts.client.remove(self.parts.part(name)?)?;
        }
        self.parts.client.remove(self.parts.target()?)
    }
}

/// Whether there is an object or a folder of that name, an empty one too.
fn is_there(target: &Prefix) -> Result<bool> {
    match target.client.head(target.target()?) {
        Err(ObjectError::NotFound { .. }) => {}
        found => return found.map(|_| true),
    }
    match target.client.run(target.listing(target.target()?).direct(|_| false))? {
        Err(ObjectError::NotFound { .. }) => Ok(false),
        found => found.map(|_| true),
    }
}

impl Drop for RenamedFolder {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Err(error) = self.remove() {
            tracing::warn!(folder = self.parts.url(), "cannot remove an unfinished folder: {error}");
        }
    }
}
