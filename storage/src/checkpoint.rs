//! Checkpoints of datasets: a blob for each partition, and one manifest, created once, that names them in their order.
//!
//! A folder or object prefix holds `blob-<BLAKE3>` objects and a `checkpoint-<key>.json` for each computation. The
//! manifest is written last, so a checkpoint is whole or invisible. Its key stands for the computation: whoever comes
//! with the same key finds what was computed before. A blob is believed only if length and hash are those of the
//! manifest. Beside the first blob there is an empty `checkpoint-<key>.begun`, until the manifest is there: commits in
//! the same folder leave blobs that they do not know to checkpoints if there are any. One that has begun counts for a
//! day after the last blob.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bloom::Digest;
use crate::error::{Result, StorageError};
use crate::manifest::{BEGUN, Blob, COMPUTATION, WRITTEN, seal, unseal};
use crate::object::ObjectError;
use crate::remote::{FolderEntry, ObjectFolder, Stores};

const FORMAT: u32 = 1;

/// Longest manifest that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 20;

/// Most blobs of a checkpoint, one for each partition: as many as a manifest has room for.
const BLOBS_MAX: usize = 1 << 18;

/// The checkpoint of one computation in a folder or object prefix.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    folder: ObjectFolder,
    /// The object name of the manifest.
    name: String,
}

/// What was written of a checkpoint before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundCheckpoint {
    /// The blob of each partition, as the manifest names it. None if there is no whole manifest.
    pub blobs: Vec<Blob>,
    /// Partitions whose blobs are not there in their full length, ascending.
    pub missing: Vec<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    key: String,
    partitions: Vec<Blob>,
}

impl Checkpoint {
    /// The checkpoint at `url`, a folder or object prefix that need not exist yet, of the computation of `key`.
    ///
    /// # Errors
    /// If that is no place to write to.
    pub fn open(stores: &Stores, url: &str, key: &Digest) -> Result<Self> {
        Ok(Self {
            folder: stores.folder(url)?,
            name: format!("{COMPUTATION}{}.json", blake3::Hash::from_bytes(*key).to_hex()),
        })
    }

    /// What was written before, if it is of `partitions` partitions. A manifest that is damaged counts as none, with a
    /// warning: it is written anew. Of the blobs only names and lengths are looked at.
    ///
    /// # Errors
    /// If there are too many partitions; if the place cannot be read.
    pub fn find(&self, partitions: usize) -> Result<Option<FoundCheckpoint>> {
        // Before anything is computed for it.
        self.check_count(partitions)?;
        let manifest = match self.manifest() {
            Ok(Some(manifest)) if manifest.partitions.len() == partitions => manifest,
            Ok(_) => return Ok(None),
            Err(error @ StorageError::DamagedCheckpoint { .. }) => {
                tracing::warn!("computing it again: {error}");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let listed = self.folder.list()?;
        let lengths: BTreeMap<&str, u64> = listed
            .iter()
            .map(|found| (found.name.as_str(), FolderEntry::bytes(found)))
            .collect();
        let is_missing = |blob: &Blob| lengths.get(blob.object().as_str()) != Some(&blob.bytes);
        let numbered = manifest.partitions.iter().enumerate();
        let missing = numbered
            .filter(|(_, blob)| is_missing(blob))
            .map(|(partition, _)| partition);
        Ok(Some(FoundCheckpoint {
            missing: missing.collect(),
            blobs: manifest.partitions,
        }))
    }

    /// Says that blobs of this checkpoint are going to be written: from now on commits in this folder let them be.
    ///
    /// # Errors
    /// If the place cannot be written.
    pub fn begin(&self) -> Result<()> {
        Ok(self.folder.replace(&self.begun(), Bytes::new())?)
    }

    fn begun(&self) -> String {
        format!("{}{BEGUN}", self.name.trim_end_matches(".json"))
    }

    /// Writes the blob of a partition, after [`Checkpoint::begin`], which nobody reads before [`Checkpoint::publish`].
    ///
    /// # Errors
    /// If the place cannot be written.
    pub fn write(&self, bytes: impl Into<Bytes>) -> Result<Blob> {
        let bytes = bytes.into();
        let blob = Blob::of(&bytes);
        // Written even if it is there: what is there may be damaged.
        self.folder.replace(&blob.object(), bytes)?;
        Ok(blob)
    }

    /// Makes the blobs of all partitions, in order, the checkpoint. Doing it twice is doing it once.
    ///
    /// # Errors
    /// If there are too many partitions; if the place cannot be written; if there is a whole checkpoint of the same
    /// computation with other bytes.
    pub fn publish(&self, blobs: &[Blob]) -> Result<()> {
        self.check_count(blobs.len())?;
        let manifest = Manifest {
            format: FORMAT,
            key: self.name.clone(),
            partitions: blobs.to_vec(),
        };
        let text = Bytes::from(seal(&manifest));
        match self.folder.create(&self.name, text.clone()) {
            // By another process or an earlier run, or by this one: a store may write, fail to say so, and be asked
            // again.
            Err(ObjectError::AlreadyExists { .. }) => match self.manifest() {
                Ok(Some(there)) if there == manifest => {}
                Ok(Some(_)) => return Err(self.differs()),
                Ok(None) | Err(StorageError::DamagedCheckpoint { .. }) => self.folder.replace(&self.name, text)?,
                Err(error) => return Err(error),
            },
            created => created?,
        }
        // The manifest says it from now on.
        if let Err(error) = self.folder.remove(&self.begun()) {
            tracing::warn!(%error, "what says that a checkpoint is being written stays");
        }
        if let Err(error) = self.folder.remove_unfinished(&self.name, &WRITTEN) {
            tracing::warn!(%error, "what an earlier writer has left unfinished stays");
        }
        Ok(())
    }

    /// An error if a manifest has no room for so many partitions.
    fn check_count(&self, partitions: usize) -> Result<()> {
        if partitions <= BLOBS_MAX {
            return Ok(());
        }
        let reason =
            format!("a checkpoint has at most {BLOBS_MAX} partitions, and this one {partitions}: `coalesce` first");
        Err(ObjectError::invalid_name(self.folder.url(), reason).into())
    }

    /// The bytes of a partition.
    ///
    /// # Errors
    /// [`StorageError::DamagedCheckpoint`] if they are not what was written; otherwise if they cannot be read.
    pub fn read(&self, partition: usize, blob: &Blob) -> Result<Bytes> {
        let object = blob.object();
        let damaged = |reason: &str| StorageError::DamagedCheckpoint {
            what: format!(
                "partition {partition} of a checkpoint ({})",
                self.folder.url_of(&object)
            ),
            reason: reason.to_owned(),
            remedy: "restore that file from a copy, or remove it and run the program again, which computes it anew"
                .into(),
        };
        match self.folder.read(&object, blob.bytes) {
            Ok(bytes) if Blob::of(&bytes) == *blob => Ok(bytes),
            Ok(_) => Err(damaged("its length or hash is not the one written down")),
            Err(ObjectError::NotFound { .. }) => Err(damaged("it is missing")),
            Err(ObjectError::TooLarge { bytes, .. }) if bytes > blob.bytes => {
                Err(damaged("it is longer than what was written down"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// `None` if there is none.
    fn manifest(&self) -> Result<Option<Manifest>> {
        let parsed = match self.folder.read(&self.name, MANIFEST_BYTES_MAX) {
            Err(ObjectError::NotFound { .. }) => return Ok(None),
            Err(ObjectError::TooLarge { .. }) => Err("it is longer than a manifest can be".to_owned()),
            Err(error) => return Err(error.into()),
            Ok(bytes) => unseal::<Manifest>(&bytes),
        };
        let believed = parsed.and_then(|manifest| match manifest {
            Manifest { format, .. } if format != FORMAT => Err(format!("format {format} is not {FORMAT}")),
            Manifest { key, .. } if key != self.name => Err(format!("it was written as {key}")),
            manifest if manifest.partitions.iter().all(Blob::is_well_formed) => Ok(manifest),
            _ => Err("a blob's hash is none".to_owned()),
        });
        believed.map(Some).map_err(|reason| self.damaged(reason))
    }

    fn damaged(&self, reason: String) -> StorageError {
        StorageError::DamagedCheckpoint {
            what: format!("the manifest {}", self.folder.url_of(&self.name)),
            reason,
            remedy: "remove it and run the program again".to_owned(),
        }
    }

    fn differs(&self) -> StorageError {
        let reason =
            "the same computation has other bytes now: its result is not the same each time, or a source has changed";
        StorageError::DamagedCheckpoint {
            what: format!("the manifest {}", self.folder.url_of(&self.name)),
            reason: reason.to_owned(),
            remedy: "remove it to have the new result, or give another URL".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
