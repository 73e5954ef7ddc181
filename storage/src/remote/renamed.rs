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
}

/// The same for several processes, all of which know the name of the hidden folder.
#[derive(Debug, Clone)]
pub(super) struct SharedRenamed {
    target: Prefix,
    parts: Prefix,
    /// What the mark of success holds: by that a process knows that another has published.
    nonce: Bytes,
}

impl SharedRenamed {
    pub(super) fn new(target: Prefix, name: &str) -> Self {
        Self {
            parts: target.sibling(&unfinished(name)),
            target,
            nonce: Bytes::copy_from_slice(name.as_bytes()),
        }
    }

    pub(super) fn begin(&self) -> Result<()> {
        match is_there(&self.target)? {
            true => Err(ObjectError::AlreadyExists { url: self.target.url() }),
            false => Ok(()),
        }
    }

    pub(super) fn write_part(&self, name: &str, bytes: Bytes) -> Result<()> {
        // One that wakes when all is over must not begin another hidden folder.
        self.begin()?;
        let part = self.parts.part(name)?;
        self.parts.client.put(part, bytes, PutMode::Overwrite)
    }

    pub(super) fn publish(&self, parts: &BTreeSet<String>) -> Result<()> {
        if self.is_published()? {
            // By a process that has died before it said so.
            return Ok(());
        }
        self.begin()?;
        remove_but(&self.parts, parts)?;
        let mark = self.parts.part(SUCCESS)?;
        self.parts.client.put(mark, self.nonce.clone(), PutMode::Overwrite)?;
        let renamed = self.target.client.rename(self.parts.target()?, self.target.target()?);
        match renamed {
            Err(_) if self.is_published()? => Ok(()),
            renamed => renamed,
        }
    }

    fn is_published(&self) -> Result<bool> {
        self.target.holds(SUCCESS, &self.nonce)
    }

    pub(super) fn remove_unfinished(&self) -> Result<()> {
        match is_there(&self.parts)? {
            true => remove(&self.parts),
            false => Ok(()),
        }
    }
}

/// Removes a hidden folder with its parts.
fn remove(parts: &Prefix) -> Result<()> {
    remove_but(parts, &BTreeSet::new())?;
    parts.client.remove(parts.target()?)
}

/// Removes all parts but these, and after them the folders that nothing else lies in.
fn remove_but(parts: &Prefix, these: &BTreeSet<String>) -> Result<()> {
    let kept: BTreeSet<&str> = these.iter().filter_map(|name| split_part(name).0).collect();
    let mut folders = BTreeSet::new();
    loop {
        let these = these.clone();
        // As many as are listed at once.
        let others = parts.names(move |name| !these.contains(name))?;
        if others.is_empty() {
            break;
        }
        for name in others {
            parts.client.remove(parts.part(&name)?)?;
            folders.extend(split_part(&name).0.map(str::to_owned));
        }
    }
    for folder in folders.iter().filter(|folder| !kept.contains(folder.as_str())) {
        parts.client.remove(parts.part(folder)?)?;
    }
    Ok(())
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
        if let Err(error) = remove(&self.parts) {
            tracing::warn!(folder = self.parts.url(), "cannot remove an unfinished folder: {error}");
        }
    }
}
