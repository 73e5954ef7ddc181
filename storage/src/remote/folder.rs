//! A folder of part files that appears whole or not at all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tempfile::TempDir;

use super::client::Client;
use super::local;
use crate::error::Result;
use crate::object::ObjectError;

/// Writes the parts of a folder beside its final name. Nobody sees them before [`FolderWriter::commit`]; dropped without
/// it, the parts are removed.
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
    Memory {
        client: Arc<Client>,
        target: String,
        parts: Mutex<BTreeMap<String, Bytes>>,
    },
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

    pub(super) fn memory(client: Arc<Client>, target: &str) -> Result<Self> {
        memory_must_be_absent(&client, target)?;
        Ok(Self(Unfinished::Memory {
            client,
            target: target.to_owned(),
            parts: Mutex::default(),
        }))
    }

    /// Writes one part; any number of threads may. A second write of the same name replaces the first, whole, so that a
    /// part that is computed again after a loss may be written again.
    ///
    /// # Errors
    /// A name that is no plain file name, and whatever the file system refuses.
    pub fn write_part(&self, name: &str, bytes: Bytes) -> Result<()> {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            return Err(ObjectError::invalid_name(name, "a part needs a plain file name that is not hidden").into());
        }
        match &self.0 {
            Unfinished::Local { parts, .. } => local::replace(&parts.path().join(name), parts.path(), &bytes)?,
            Unfinished::Memory { parts, .. } => {
                parts
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name.to_owned(), bytes);
            }
        }
        Ok(())
    }

    /// Gives the folder its final name, and with it all its parts at once.
    ///
    /// # Errors
    /// The name has been taken meanwhile, or the file system refuses; the parts are removed then.
    pub fn commit(self) -> Result<()> {
        match self.0 {
            Unfinished::Local { target, parent, parts } => commit_local(&target, &parent, parts),
            Unfinished::Memory { client, target, parts } => {
                memory_must_be_absent(&client, &target)?;
                let parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
                let objects = parts
                    .into_iter()
                    .map(|(name, bytes)| Ok((client.memory_target(&format!("{target}/{name}"))?, bytes)))
                    .collect::<Result<Vec<_>, ObjectError>>()?;
                Ok(client.put_memory(objects)?)
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

fn memory_must_be_absent(client: &Client, target: &str) -> Result<()> {
    let taken = !client.list_memory(target)?.is_empty() || client.head(client.memory_target(target)?).is_ok();
    match taken {
        true => Err(ObjectError::AlreadyExists {
            url: format!("memory://{target}"),
        }
        .into()),
        false => Ok(()),
    }
}
