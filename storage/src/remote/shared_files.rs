//! A folder on a file system that several processes see, of parts which all of them write.
//!
//! The parts are written into a hidden folder beside it, each under a name of its own. Those that count are linked into
//! another, under their names in the folder, and that is renamed.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::existing::Existing;
use super::folder::{folder_of, identity, let_go, must_be_apart, must_be_part, must_be_plain, one_folder, sync};
use super::{local, pattern};
use crate::error::{Result, StorageError};
use crate::object::{ObjectError, remedy};

/// See [`SharedFolder`](super::SharedFolder).
#[derive(Debug, Clone)]
pub(super) struct SharedFiles {
    target: PathBuf,
    unfinished: PathBuf,
    /// What is being removed.
    removed: PathBuf,
    existing: Existing,
}

impl SharedFiles {
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

    /// Also tries whether parts can be published from the place that it makes.
    pub(super) fn begin(&self) -> Result<()> {
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
            ErrorKind::AlreadyExists => one_folder(to).into(),
            _ => self.failed("link a part, which takes a file system with hard links", &error),
        })
    }

    /// Durably, under a name of this try.
    pub(super) fn write_part(&self, bytes: &[u8]) -> Result<String> {
        let builder = local::temporary(0o666);
        let fail = |error| self.failed("write a part", &error);
        let mut file = builder.tempfile_in(&self.unfinished).map_err(fail)?;
        file.write_all(bytes).map_err(fail)?;
        file.as_file().sync_all().map_err(fail)?;
        let (_, path) = file.keep().map_err(|error| fail(error.error))?;
        let name = path.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    pub(super) fn publish(&self, parts: &[(String, String)]) -> Result<()> {
        let parent = local::parent(&self.target)?;
        if self.is_published(parts) {
            // Whoever did so may have died before this.
            return Ok(local::sync_folder(&parent)?);
        }
        self.existing.check(&self.target)?;
        let fail = |error| self.failed("publish a folder", &error);
        let whole = local::temporary(0o777).tempdir_in(&self.unfinished).map_err(fail)?;
        for (name, written) in parts {
            must_be_part(name)?;
            folder_of(whole.path(), name)?;
            self.link(&self.unfinished.join(written), &whole.path().join(name))?;
        }
        must_be_apart(whole.path(), parts.iter().map(|(name, _)| name.as_str()))?;
        sync(whole.path(), parts.iter().map(|(name, _)| name.as_str()))?;
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

    /// First it is taken out of the way, whole: a process that wakes as it publishes must not find half of it.
    pub(super) fn remove_unfinished(&self) -> Result<()> {
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
    let identity = |path: &Path| path.symlink_metadata().ok().map(|there| identity(&there));
    identity(one).is_some_and(|one| identity(other) == Some(one))
}
