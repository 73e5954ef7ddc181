//! A folder of part files in a store that cannot rename a folder: a marker hides it until all parts are there.

use std::collections::BTreeSet;
use std::sync::Mutex;

use bytes::Bytes;
use object_store::PutMode;

use super::pattern::{UNFINISHED, draw_name};
use super::prefix::{Prefix, SUCCESS};
use crate::object::ObjectError;
use crate::unpoisoned::Unpoisoned;

/// Parts under their final names, and a marker that hides them.
#[derive(Debug)]
pub(super) struct RemoteFolder {
    folder: Prefix,
    /// What the marker holds.
    nonce: Bytes,
    /// All names that may have been written.
    written: Mutex<BTreeSet<String>>,
    finished: bool,
}

impl RemoteFolder {
    pub(super) fn begin(folder: Prefix) -> Result<Self, ObjectError> {
        folder.must_be_absent()?;
        let nonce = Bytes::from(draw_name());
        mark(&folder, &nonce)?;
        // Dropped from here on, it removes the marker and what it has written.
        let begun = Self {
            folder,
            nonce,
            written: Mutex::default(),
            finished: false,
        };
        must_be_alone(&begun.folder)?;
        Ok(begun)
    }

    pub(super) fn write_part(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        // Looked at for each part: `PutMode::Create` would be as safe, but is not tried again when a connection breaks.
        if !self.is_ours()? {
            return Err(self.superseded());
        }
        self.written.lock().unpoisoned().insert(name.to_owned());
        self.folder
            .client
            .put(self.folder.part(name)?, bytes, PutMode::Overwrite)
    }

    fn superseded(&self) -> ObjectError {
        ObjectError::Superseded { url: self.folder.url() }
    }

    /// Whether the marker is there and is this writer's.
    fn is_ours(&self) -> Result<bool, ObjectError> {
        self.folder.holds(UNFINISHED, &self.nonce)
    }

    pub(super) fn commit(mut self) -> Result<(), ObjectError> {
        if !self.is_ours()? {
            return Err(self.superseded());
        }
        let written = self.written.get_mut().unpoisoned();
        let ours = written.clone();
        let of_others = move |name: &str| name != UNFINISHED && !ours.contains(name);
        if !self.folder.names(of_others)?.is_empty() {
            return Err(ObjectError::AlreadyExists { url: self.folder.url() });
        }
        if written.insert(SUCCESS.to_owned()) {
            self.folder
                .client
                .put(self.folder.part(SUCCESS)?, Bytes::new(), PutMode::Overwrite)?;
        }
        let marker = self.folder.part(UNFINISHED)?;
        if let Err(error) = self.folder.client.remove(marker.clone()) {
            // It may have been removed without an answer. Only if it is surely there may the parts go.
            match self.folder.client.head(marker) {
                Err(ObjectError::NotFound { .. }) => {}
                Ok(_) => return Err(error),
                Err(_) => {
                    self.finished = true;
                    return Err(error);
                }
            }
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for RemoteFolder {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let is_ours = self.is_ours();
        let written = self.written.get_mut().unpoisoned();
        // What is there may be what a later save has finished.
        if !matches!(is_ours, Ok(true)) {
            return tracing::warn!(
                folder = self.folder.url(),
                "an unfinished folder is left as it is: {is_ours:?}"
            );
        }
        // The marker goes last, and stays if a part does.
        for name in written.iter().map(String::as_str).chain([UNFINISHED]) {
            let removed = self.folder.part(name).and_then(|part| self.folder.client.remove(part));
            if let Err(error) = removed {
                tracing::warn!(
                    folder = self.folder.url(),
                    "cannot remove an unfinished folder: {error}"
                );
                return;
            }
        }
    }
}

/// Writes the marker.
pub(super) fn mark(folder: &Prefix, nonce: &Bytes) -> Result<(), ObjectError> {
    let marker = folder.part(UNFINISHED)?;
    match folder.client.put(marker, nonce.clone(), PutMode::Create) {
        // A store that writes, fails to say so and is asked again says that there is one.
        Err(ObjectError::AlreadyExists { .. }) if folder.holds(UNFINISHED, nonce)? => Ok(()),
        Err(ObjectError::AlreadyExists { .. }) => Err(ObjectError::Unfinished { url: folder.url() }),
        put => put,
    }
}

/// An error if another has written a whole folder while the marker was on its way.
pub(super) fn must_be_alone(folder: &Prefix) -> Result<(), ObjectError> {
    match folder.names(|name| name != UNFINISHED)?.is_empty() {
        true => Ok(()),
        false => Err(ObjectError::AlreadyExists { url: folder.url() }),
    }
}
