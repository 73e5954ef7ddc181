//! A folder of part files that appears whole or not at all.
//!
//! The local file system renames a folder at once. A store of objects cannot: there the parts are written under their
//! final names, beside a marker `.distdl-unfinished` that is written before the first and removed after the last, and
//! listings of this program leave out what lies beside a marker. Other programs see parts early; for them there is
//! `_SUCCESS`, as Hadoop writes it, which is the last object to come. A writer that is killed leaves parts and marker
//! behind: nobody takes them for output, but they keep the name taken until somebody removes them.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use object_store::PutMode;
use tempfile::TempDir;

use super::local;
use super::prefix::{Prefix, UNFINISHED};
use crate::error::Result;
use crate::object::ObjectError;

/// Says to other programs that a folder of objects is whole.
const SUCCESS: &str = "_SUCCESS";

/// Writes the parts of a folder. No listing shows them before [`FolderWriter::commit`]; dropped without it, the parts are
/// removed. In a store of objects other programs may see parts earlier, but no object `_SUCCESS` beside them; and a
/// listing that goes on from before the first part until after the commit may see the later part of the names only.
#[derive(Debug)]
#[must_use = "a folder without `commit` is removed again"]
pub struct FolderWriter(Unfinished);

#[derive(Debug)]
enum Unfinished {
    Local {
        target: PathBuf,
        parent: PathBuf,
        parts: TempDir,
    },
    Remote(RemoteFolder),
}

impl FolderWriter {
    pub(super) fn local(path: &str) -> Result<Self> {
        let target = PathBuf::from(path);
        must_be_absent(&target)?;
        let parent = local::parent(&target)?;
        let parts = local::temporary(0o777)
            .tempdir_in(&parent)
            .map_err(|error| local::failed(&parent, "create a folder in it", &error))?;
        Ok(Self(Unfinished::Local { target, parent, parts }))
    }

    pub(super) fn remote(folder: Prefix) -> Result<Self> {
        Ok(Self(Unfinished::Remote(RemoteFolder::begin(folder)?)))
    }

    /// Writes one part; any number of threads may. A second write of the same name replaces the first, whole, so that a
    /// part that is computed again after a loss may be written again.
    ///
    /// # Errors
    /// A name that is no plain file name, and whatever the file system or the store refuses.
    pub fn write_part(&self, name: &str, bytes: Bytes) -> Result<()> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            return Err(ObjectError::invalid_name(name, "a part needs a plain file name that is not hidden").into());
        }
        match &self.0 {
            Unfinished::Local { parts, .. } => local::replace(&parts.path().join(name), parts.path(), &bytes)?,
            Unfinished::Remote(folder) => folder.write_part(name, bytes)?,
        }
        Ok(())
    }

    /// Gives the folder its final name, and with it all its parts at once.
    ///
    /// # Errors
    /// The name has been taken meanwhile, or the file system or the store refuses; the parts are removed then.
    pub fn commit(self) -> Result<()> {
        match self.0 {
            Unfinished::Local { target, parent, parts } => commit_local(&target, &parent, parts),
            Unfinished::Remote(folder) => Ok(folder.commit()?),
        }
    }
}

/// Parts under their final names, and a marker that hides them.
#[derive(Debug)]
struct RemoteFolder {
    folder: Prefix,
    /// All names that may have been written.
    written: Mutex<BTreeSet<String>>,
    finished: bool,
}

impl RemoteFolder {
    fn begin(folder: Prefix) -> Result<Self, ObjectError> {
        folder.must_be_absent()?;
        // Two keys that the system drew: a store that writes, fails to say so and is asked again says that there is one.
        let nonce = [RandomState::new(), RandomState::new()].map(|state| format!("{:016x}", state.hash_one(0)));
        let (marker, nonce) = (folder.part(UNFINISHED)?, Bytes::from(nonce.concat()));
        match folder.client.put(marker.clone(), nonce.clone(), PutMode::Create) {
            Err(ObjectError::AlreadyExists { .. }) => {
                let there = folder.client.head(marker.clone())?;
                if there.bytes != nonce.len() as u64 || folder.client.get(marker, there, None)? != nonce {
                    return Err(ObjectError::AlreadyExists { url: folder.url() });
                }
            }
            put => put?,
        }
        Ok(Self {
            folder,
            written: Mutex::default(),
            finished: false,
        })
    }

    fn write_part(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(name.to_owned());
        drop(written);
        self.folder
            .client
            .put(self.folder.part(name)?, bytes, PutMode::Overwrite)
    }

    fn commit(mut self) -> Result<(), ObjectError> {
        let written = self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
        let ours = |name: &String| name == UNFINISHED || written.contains(name);
        if !self.folder.names()?.iter().all(ours) {
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
        let written = self.written.get_mut().unwrap_or_else(PoisonError::into_inner);
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

fn commit_local(target: &Path, parent: &Path, parts: TempDir) -> Result<()> {
    must_be_absent(target)?;
    local::sync_folder(parts.path())?;
    std::fs::rename(parts.path(), target).map_err(|error| local::failed(target, "rename a folder to it", &error))?;
    // Its name has moved: there is nothing left for the guard to remove.
    let _ = parts.keep();
    Ok(local::sync_folder(parent)?)
}

fn must_be_absent(target: &Path) -> Result<()> {
    match target.symlink_metadata() {
        Ok(_) => Err(ObjectError::AlreadyExists {
            url: target.display().to_string(),
        }
        .into()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(local::failed(target, "look at it", &error).into()),
    }
}
