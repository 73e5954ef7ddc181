//! A folder of objects that several processes write: a marker, whose words all of them know, hides it until all parts are
//! there.
//!
//! A process may be taken for dead, and wake within any step when others have taken it, and later ones too. So each
//! looks at the marker before whatever it changes, and only what is called like a part is removed. What is left are the
//! moments between such a look and the change: a request that was on its way for so long that another save has begun
//! there may change that one's part, or end its marker.

use std::collections::BTreeSet;

use bytes::Bytes;
use object_store::PutMode;

use super::key_folder::{is_key_folder, split_part};
use super::marked::{mark, must_be_alone};
use super::pattern::UNFINISHED;
use super::prefix::{Prefix, SUCCESS};
use crate::object::ObjectError;

type Result<T> = std::result::Result<T, ObjectError>;

/// See [`SharedFolder`](super::SharedFolder).
#[derive(Debug, Clone)]
pub(super) struct SharedObjects {
    folder: Prefix,
    /// What the marker holds, and behind it the mark of success: by that a process knows that another has published.
    nonce: Bytes,
}

impl SharedObjects {
    pub(super) fn new(folder: Prefix, name: &str) -> Self {
        let nonce = Bytes::copy_from_slice(name.as_bytes());
        Self { folder, nonce }
    }

    /// Leaves the marker where it fails, unless none of its writers can publish any more: others may be writing by then,
    /// if this process was late.
    pub(super) fn begin(&self) -> Result<()> {
        let begun = if self.is_ours()? {
            self.must_be_no_others()
        } else {
            self.folder.must_be_absent()?;
            mark(&self.folder, &self.nonce)?;
            if self.is_published()? {
                // The marker came late.
                return self.unmark();
            }
            must_be_alone(&self.folder)
        };
        // Nobody else would take it away from what a later save has finished.
        if begun.is_err()
            && matches!(self.has_others(), Ok(true))
            && let Err(error) = self.unmark()
        {
            tracing::warn!(
                folder = self.folder.url(),
                "a marker stays beside a whole folder: {error}"
            );
        }
        begun
    }

    pub(super) fn write_part(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.must_be_ours()?;
        let part = self.folder.part(name)?;
        self.folder.client.put(part, bytes, PutMode::Overwrite)
    }

    pub(super) fn publish(&self, parts: &BTreeSet<String>) -> Result<()> {
        if self.is_published()? {
            // By a process that has died before it said so.
            return self.unmark();
        }
        self.must_be_ours()?;
        self.must_be_no_others()?;
        let wanted = parts.clone();
        let there = self.folder.names(move |name| wanted.contains(name))?;
        // No more are listed at once than the limit.
        if there.len() < parts.len().min(self.folder.objects_max) {
            let missing = parts
                .iter()
                .find(|part| !there.contains(part))
                .map_or("", String::as_str);
            let url = self.folder.part(missing)?.url;
            return Err(ObjectError::NotFound { url });
        }
        let ours = parts.clone();
        let strange = move |name: &str| name != UNFINISHED && !ours.contains(name) && !is_of_a_try(name);
        if !self.folder.names(strange)?.is_empty() {
            return Err(ObjectError::AlreadyExists { url: self.folder.url() });
        }
        // What those have written who made something else of a partition does not count.
        self.remove_tries(parts)?;
        self.must_be_ours()?;
        let mark = self.folder.part(SUCCESS)?;
        match self.folder.client.put(mark, self.nonce.clone(), PutMode::Overwrite) {
            // It may have been written without an answer.
            Err(error) if !matches!(self.is_published(), Ok(true)) => Err(error),
            _ => self.unmark(),
        }
    }

    /// What is published stays.
    pub(super) fn remove_unfinished(&self) -> Result<()> {
        if self.is_ours()? {
            match self.has_success()? {
                false => self.remove_tries(&BTreeSet::new())?,
                true if self.is_published()? => {}
                true => tracing::warn!(
                    folder = self.folder.url(),
                    "another has written a folder here meanwhile; parts of both may lie in it"
                ),
            }
        }
        self.unmark()
    }

    /// Where beginning has failed: whatever is there is others'.
    pub(super) fn abandon(&self) -> Result<()> {
        self.unmark()
    }

    fn is_ours(&self) -> Result<bool> {
        self.folder.holds(UNFINISHED, &self.nonce)
    }

    fn must_be_ours(&self) -> Result<()> {
        match self.is_ours()? {
            true => Ok(()),
            false => Err(ObjectError::Superseded { url: self.folder.url() }),
        }
    }

    fn is_published(&self) -> Result<bool> {
        self.folder.holds(SUCCESS, &self.nonce)
    }

    fn has_success(&self) -> Result<bool> {
        match self.folder.client.head(self.folder.part(SUCCESS)?) {
            Err(ObjectError::NotFound { .. }) => Ok(false),
            found => found.map(|_| true),
        }
    }

    /// Whether another has written a whole folder while the marker was on its way.
    fn has_others(&self) -> Result<bool> {
        Ok(self.has_success()? && !self.is_published()?)
    }

    fn must_be_no_others(&self) -> Result<()> {
        match self.has_others()? {
            true => Err(ObjectError::AlreadyExists { url: self.folder.url() }),
            false => Ok(()),
        }
    }

    /// Removes what writers of this folder may have made, but for these parts.
    fn remove_tries(&self, parts: &BTreeSet<String>) -> Result<()> {
        let mut before = Vec::new();
        loop {
            let parts = parts.clone();
            // As many as are listed at once.
            let tries = self
                .folder
                .names(move |name| is_of_a_try(name) && !parts.contains(name))?;
            // Some servers list a folder itself under a name that nothing can be removed by.
            if tries.is_empty() || tries == before {
                return Ok(());
            }
            for name in &tries {
                self.must_be_ours()?;
                self.folder.client.remove(self.folder.part(name)?)?;
            }
            before = tries;
        }
    }

    /// Removes the marker if it is there.
    fn unmark(&self) -> Result<()> {
        if !self.is_ours()? {
            return Ok(());
        }
        match self.folder.client.remove(self.folder.part(UNFINISHED)?) {
            // It may have been removed without an answer.
            Err(error) if !matches!(self.is_ours(), Ok(false)) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a part may be called so.
fn is_of_a_try(name: &str) -> bool {
    let (folder, file) = split_part(name);
    file.starts_with("part-") && !file.contains('/') && folder.is_none_or(is_key_folder)
}
