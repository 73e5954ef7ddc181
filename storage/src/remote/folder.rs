//! A folder of part files that appears whole or not at all.
//!
//! The local file system renames a folder at once, and so does HDFS. A store of objects cannot: there the parts are
//! written under their final names, beside a marker `.distdl-unfinished` that is written before the first and removed
//! after the last, and listings of this program leave out what lies beside a marker. A writer that was taken for dead,
//! and finds the marker gone or another's, touches nothing any more. Other programs see parts early; for them there is
//! `_SUCCESS`, as Hadoop writes it, which is the last object to come. What the marker holds tells writers apart, and
//! the processes that write one folder together know it. A writer that is killed leaves parts and marker behind: nobody
//! takes them for output, but they keep the name taken until somebody removes them. What it leaves on a local disk is
//! removed by the next one that writes beside it; on a file system of several hosts, a day later.
//!
//! Parts lie right in the folder, or each in a folder of a key, `column=key/part-00000`.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use tempfile::TempDir;

use super::existing::{Before, Existing};
use super::key_folder::split_part;
use super::local;
use super::marked::RemoteFolder;
use super::prefix::Prefix;
use super::renamed::RenamedFolder;
use crate::error::Result;
use crate::object::ObjectError;
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
    /// part that is computed again after a loss may be written again. A name may begin with a folder that
    /// [`key_folder`](super::key_folder()) has named.
    ///
    /// # Errors
    /// A name that is no plain file name, and whatever the file system or the store refuses.
    pub fn write_part(&self, name: &str, bytes: Bytes) -> Result<()> {
        must_be_part(name)?;
        match &self.0 {
            Unfinished::Local { parts, written, .. } => {
                let within = folder_of(parts.path(), name)?;
                local::replace(&parts.path().join(name), &within, &bytes)?;
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
                let written = written.into_inner().unpoisoned();
                must_be_there(parts.path(), &written)?;
                sync(parts.path(), written.iter().map(String::as_str))?;
                let before = existing.rename(parts.path(), &target)?;
                let (parts, _locked) = parts.into_parts();
                Ok(let_go(parts, &before, &parent)?)
            }
            Unfinished::Remote(folder) => Ok(folder.commit()?),
            Unfinished::Renamed(folder) => Ok(folder.commit()?),
        }
    }
}

pub(super) fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino())
}

/// The folder within `parts` that a part is to lie in, made if it is one of a key.
pub(super) fn folder_of(parts: &Path, name: &str) -> Result<PathBuf> {
    let (Some(folder), _) = split_part(name) else {
        return Ok(parts.to_owned());
    };
    let folder = parts.join(folder);
    match fs::create_dir(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(local::failed(&folder, "create the folder", &error).into())
        }
        _ => Ok(folder),
    }
}

/// Whether all that was written is there. Where it is a file system of several hosts, another may have taken parts for
/// left behind.
fn must_be_there(parts: &Path, written: &BTreeSet<String>) -> Result<()> {
    for name in written {
        let part = parts.join(name);
        fs::symlink_metadata(&part).map_err(|error| local::failed(&part, "find what was written", &error))?;
    }
    must_be_apart(parts, written.iter().map(String::as_str))
}

/// Whether the folders of keys are as many as their names.
pub(super) fn must_be_apart<'a>(parts: &Path, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let folders: BTreeSet<&str> = names.filter_map(|name| split_part(name).0).collect();
    let mut there = BTreeSet::new();
    for folder in folders {
        let folder = parts.join(folder);
        let found = fs::metadata(&folder).map_err(|error| local::failed(&folder, "find what was written", &error))?;
        if !there.insert(identity(&found)) {
            return Err(one_folder(&folder).into());
        }
    }
    Ok(())
}

pub(super) fn one_folder(part: &Path) -> ObjectError {
    let remedy = "two names are one on this file system, which may take upper and lower case for the same; write to \
                  another, or make the keys differ in more";
    ObjectError::unsupported(&part.display().to_string(), remedy)
}

/// Makes the names of parts survive a power cut.
pub(super) fn sync<'a>(parts: &Path, names: impl Iterator<Item = &'a str>) -> Result<()> {
    let folders: BTreeSet<&str> = names.filter_map(|name| split_part(name).0).collect();
    for folder in folders {
        local::sync_folder(&parts.join(folder))?;
    }
    Ok(local::sync_folder(parts)?)
}

/// A plain name, perhaps in a folder of a key.
pub(super) fn must_be_part(name: &str) -> Result<()> {
    let (folder, file) = split_part(name);
    folder.into_iter().chain([file]).try_for_each(must_be_plain)
}

pub(super) fn must_be_plain(name: &str) -> Result<()> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
        return Err(ObjectError::invalid_name(name, "a part needs a plain file name that is not hidden").into());
    }
    Ok(())
}

/// Makes the new name in `parent` of what was `folder` survive a power cut, and lets go of the old name, under which is
/// what was there before.
pub(super) fn let_go(folder: TempDir, before: &Before, parent: &Path) -> Result<(), ObjectError> {
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
