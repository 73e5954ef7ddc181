//! A folder of part files that appears whole or not at all.
//!
//! The local file system renames a folder at once, and so does HDFS. A store of objects cannot: there the parts are
//! written under their final names, beside a marker `.distdl-unfinished` that is written before the first and removed
//! after the last, and listings of this program leave out what lies beside a marker. A writer that was taken for dead,
//! and finds the marker gone or another's, touches nothing any more. Other programs see parts early; for them there is
//! `_SUCCESS`, as Hadoop writes it, which is the last object to come. A writer that is killed leaves parts and marker
//! behind: nobody takes them for output, but they keep the name taken until somebody removes them. What it leaves on a
//! local disk is removed by the next one that writes beside it; on a file system of several hosts, a day later.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use object_store::PutMode;
use tempfile::TempDir;

use super::existing::{Before, Existing};
use super::local;
use super::pattern::{self, UNFINISHED, draw_name};
use super::prefix::{Prefix, SUCCESS};
use super::renamed::RenamedFolder;
use crate::error::{Result, StorageError};
use crate::object::{ObjectError, remedy};
use crate::owner::{Kind, LEFT_AFTER, OwnFolder};
use crate::unpoisoned::Unpoisoned;

/// What a process writes that is the only one.
const SAVES: Kind = Kind {
    prefix: ".distdl-save-",
    suffix: ".unfinished",
    other_boots_after: LEFT_AFTER,
};

/// Writes the parts of a folder. No listing shows them before [`FolderWriter::commit`]; dropped without it, the parts
/// are removed. In a store of objects other programs may see parts earlier, but no object `_SUCCESS` beside them; and a
/// listing that goes on from before the first part until after the commit may see the later part of the names only.
#[derive(Debug)]
#[must_use = "a folder without `commit` is removed again"]
pub struct FolderWriter(Unfinished);

#[derive(Debug)]
enum Unfinished {
    Local {
        target: PathBuf,
        parent: PathBuf,
        parts: OwnFolder,
        existing: Existing,
        /// All names that were written.
        written: Mutex<BTreeSet<String>>,
    },
    Remote(RemoteFolder),
    Renamed(RenamedFolder),
}

impl FolderWriter {
    pub(super) fn local(path: &str, existing: Existing) -> Result<Self> {
        let target = PathBuf::from(path);
        existing.check(&target)?;
        let parent = local::parent(&target)?;
        existing.try_within(&parent)?;
        let parts = OwnFolder::make(&parent, SAVES, local::temporary(0o777))
            .map_err(|error| local::failed(&parent, "create a folder in it", &error))?;
        Ok(Self(Unfinished::Local {
            target,
            parent,
            parts,
            existing,
            written: Mutex::default(),
        }))
    }

    pub(super) fn remote(folder: Prefix) -> Result<Self> {
        Ok(Self(Unfinished::Remote(RemoteFolder::begin(folder)?)))
    }

    /// In a store that renames a folder at once.
    pub(super) fn renamed(folder: Prefix) -> Result<Self> {
        Ok(Self(Unfinished::Renamed(RenamedFolder::begin(folder)?)))
    }

    /// Writes one part; any number of threads may. A second write of the same name replaces the first, whole, so that a
    /// part that is computed again after a loss may be written again.
    ///
    /// # Errors
    /// A name that is no plain file name, and whatever the file system or the store refuses.
    pub fn write_part(&self, name: &str, bytes: Bytes) -> Result<()> {
        must_be_plain(name)?;
        match &self.0 {
            Unfinished::Local { parts, written, .. } => {
                local::replace(&parts.path().join(name), parts.path(), &bytes)?;
                written.lock().unpoisoned().insert(name.to_owned());
            }
            Unfinished::Remote(folder) => folder.write_part(name, bytes)?,
            Unfinished::Renamed(folder) => folder.write_part(name, bytes)?,
        }
        Ok(())
    }

    /// Gives the folder its final name, and with it all its parts at once.
    ///
    /// # Errors
    /// The name has been taken meanwhile, or the file system or the store refuses; the parts are removed then.
    pub fn commit(self) -> Result<()> {
        match self.0 {
            Unfinished::Local {
                target,
                parent,
                parts,
                existing,
                written,
            } => {
                // Where it is a file system of several hosts, another may have taken them for left behind.
                for name in written.lock().unpoisoned().iter() {
                    let part = parts.path().join(name);
                    let there = fs::symlink_metadata(&part);
                    there.map_err(|error| local::failed(&part, "find what was written", &error))?;
                }
                local::sync_folder(parts.path())?;
                let before = existing.rename(parts.path(), &target)?;
                let (parts, _locked) = parts.into_parts();
                Ok(let_go(parts, &before, &parent)?)
            }
            Unfinished::Remote(folder) => Ok(folder.commit()?),
            Unfinished::Renamed(folder) => Ok(folder.commit()?),
        }
    }
}

/// Parts under their final names, and a marker that hides them.
#[derive(Debug)]
struct RemoteFolder {
    folder: Prefix,
    /// What the marker holds.
    nonce: Bytes,
    /// All names that may have been written.
    written: Mutex<BTreeSet<String>>,
    finished: bool,
}

impl RemoteFolder {
    fn begin(folder: Prefix) -> Result<Self, ObjectError> {
        folder.must_be_absent()?;
        // A store that writes, fails to say so and is asked again says that there is one.
        let nonce = Bytes::from(draw_name());
        match folder
            .client
            .put(folder.part(UNFINISHED)?, nonce.clone(), PutMode::Create)
        {
            Err(ObjectError::AlreadyExists { .. }) => {
                if !holds(&folder, UNFINISHED, &nonce)? {
                    return Err(ObjectError::Unfinished { url: folder.url() });
                }
            }
            put => put?,
        }
        // Dropped from here on, it removes the marker and what it has written.
        let begun = Self {
            folder,
            nonce,
            written: Mutex::default(),
            finished: false,
        };
        // Another may have written a whole folder while the marker was on its way.
        if !begun.folder.names(|name| name != UNFINISHED)?.is_empty() {
            let url = begun.folder.url();
            return Err(ObjectError::AlreadyExists { url });
        }
        Ok(begun)
    }

    fn write_part(&self, name: &str, bytes: Bytes) -> Result<(), ObjectError> {
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
        holds(&self.folder, UNFINISHED, &self.nonce)
    }

    fn commit(mut self) -> Result<(), ObjectError> {
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

/// Whether an object is there and holds this.
fn holds(folder: &Prefix, name: &str, bytes: &Bytes) -> Result<bool, ObjectError> {
    let at = folder.part(name)?;
    match folder.client.head(at.clone()) {
        Err(ObjectError::NotFound { .. }) => Ok(false),
        Ok(there) if there.bytes != bytes.len() as u64 => Ok(false),
        Ok(there) => Ok(folder.client.get(at, there, None)? == *bytes),
        Err(error) => Err(error),
    }
}

/// A folder of parts that several processes write, any of which may die, and that appears whole or not at all.
///
/// Its copies in all processes have one name for what is unfinished. One process makes the place for it, all write
/// parts, each under a name that nobody else has; one process publishes those that count; one removes what is left.
/// Each step may be taken again, by the same process or another.
#[derive(Debug, Clone)]
pub struct SharedFolder {
    target: PathBuf,
    unfinished: PathBuf,
    /// What is being removed.
    removed: PathBuf,
    existing: Existing,
}

impl SharedFolder {
    /// Draws a name for what is unfinished that no other folder has.
    pub fn draw_name() -> String {
        draw_name()
    }

    pub(super) fn new(path: &str, name: &str, existing: Existing) -> Result<Self> {
        must_be_plain(name)?;
        let target = PathBuf::from(path);
        let unfinished = target.with_file_name(pattern::unfinished(name));
        let removed = target.with_file_name(pattern::unfinished(&format!("{name}.removed")));
        Ok(Self {
            target,
            unfinished,
            removed,
            existing,
        })
    }

    /// Makes the place for parts, beside the folder itself, and tries whether they can be published from it.
    ///
    /// # Errors
    /// The folder exists already and is not to be replaced, or cannot be, or the file system refuses or has no hard
    /// links.
    pub fn begin(&self) -> Result<()> {
        self.existing.check(&self.target)?;
        local::parent(&self.target)?;
        match std::fs::create_dir(&self.unfinished) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(self.failed("begin a folder", &error));
            }
            _ => {}
        }
        let tried = self
            .try_link()
            .and_then(|()| self.existing.try_within(&self.unfinished));
        if tried.is_err() {
            // Only if it is empty: an earlier try of this may have parts in it.
            let _ = std::fs::remove_dir(&self.unfinished);
        }
        tried
    }

    /// Links a file as publishing does, and leaves nothing of it. Without links all work would be in vain.
    fn try_link(&self) -> Result<()> {
        let fail = |error| self.failed("begin a folder", &error);
        let folder = local::temporary(0o777).tempdir_in(&self.unfinished).map_err(fail)?;
        let file = local::temporary(0o666).tempfile_in(folder.path()).map_err(fail)?;
        self.link(file.path(), &folder.path().join("link"))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::hard_link(from, to).map_err(|error| match error.kind() {
            ErrorKind::NotFound => self.failed("find a part; all processes must see this folder", &error),
            _ => self.failed("link a part, which takes a file system with hard links", &error),
        })
    }

    /// Writes a part durably, and returns the name that this try has given it.
    ///
    /// # Errors
    /// Whatever the file system refuses.
    pub fn write_part(&self, bytes: &[u8]) -> Result<String> {
        let builder = local::temporary(0o666);
        let fail = |error| self.failed("write a part", &error);
        let mut file = builder.tempfile_in(&self.unfinished).map_err(fail)?;
        file.write_all(bytes).map_err(fail)?;
        file.as_file().sync_all().map_err(fail)?;
        let (_, path) = file.keep().map_err(|error| fail(error.error))?;
        let name = path.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    /// Gives parts their names in the folder and the folder its own, so that all of it appears at once. `parts` are
    /// (name in the folder, what [`SharedFolder::write_part`] returned). Parts that are not among them stay out.
    ///
    /// # Errors
    /// The name has been taken meanwhile, by another than an earlier try of this; a part is not to be seen from here;
    /// or the file system refuses.
    pub fn publish(&self, parts: &[(String, String)]) -> Result<()> {
        let parent = local::parent(&self.target)?;
        if self.is_published(parts) {
            // Whoever did so may have died before this.
            return Ok(local::sync_folder(&parent)?);
        }
        self.existing.check(&self.target)?;
        let fail = |error| self.failed("publish a folder", &error);
        let whole = local::temporary(0o777).tempdir_in(&self.unfinished).map_err(fail)?;
        for (name, written) in parts {
            must_be_plain(name)?;
            self.link(&self.unfinished.join(written), &whole.path().join(name))?;
        }
        local::sync_folder(whole.path())?;
        match self.existing.rename(whole.path(), &self.target) {
            Ok(before) => Ok(let_go(whole, &before, &parent)?),
            Err(_) if self.is_published(parts) => Ok(local::sync_folder(&parent)?),
            Err(error) => Err(error),
        }
    }

    /// Whether an earlier try has published these very files.
    fn is_published(&self, parts: &[(String, String)]) -> bool {
        !parts.is_empty()
            && parts
                .iter()
                .all(|(name, written)| same_file(&self.target.join(name), &self.unfinished.join(written)))
    }

    /// Removes all that was written and not published. First it is taken out of the way, whole: a process that wakes as
    /// it publishes must not find half of it.
    ///
    /// # Errors
    /// If the file system refuses.
    pub fn remove_unfinished(&self) -> Result<()> {
        let if_there = |done: std::io::Result<()>| match done {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed("remove unfinished parts", &error)),
            _ => Ok(()),
        };
        // What an earlier try has left.
        if_there(std::fs::remove_dir_all(&self.removed))?;
        if_there(std::fs::rename(&self.unfinished, &self.removed))?;
        if_there(std::fs::remove_dir_all(&self.removed))
    }

    fn failed(&self, action: &'static str, error: &std::io::Error) -> StorageError {
        let url = self.unfinished.display().to_string();
        ObjectError::Io {
            url,
            action,
            message: error.to_string(),
            remedy: remedy(error),
        }
        .into()
    }
}

fn same_file(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| {
        let metadata = path.symlink_metadata().ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    identity(one).is_some_and(|one| identity(other) == Some(one))
}

fn must_be_plain(name: &str) -> Result<()> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(ObjectError::invalid_name(name, "a part needs a plain file name that is not hidden").into());
    }
    Ok(())
}

/// Makes the new name in `parent` of what was `folder` survive a power cut, and lets go of the old name, under which is
/// what was there before.
fn let_go(folder: TempDir, before: &Before, parent: &Path) -> Result<(), ObjectError> {
    // Whatever happens from here on, only what is not needed any more may be removed.
    let path = folder.keep();
    local::sync_folder(parent)?;
    if matches!(before, Before::Swapped)
        && let Err(error) = std::fs::remove_dir_all(&path)
    {
        tracing::warn!(folder = %path.display(), "cannot remove what was replaced: {error}");
    }
    Ok(())
}
