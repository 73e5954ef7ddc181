//! Commits: numbered manifests that are created once, never overwritten, and name every blob with its hash.
//!
//! A folder or object prefix holds `blob-<BLAKE3>` objects and `manifest-<number>.json` objects. A commit writes its
//! blobs first and its manifest last, so it is whole or invisible. The blobs of a manifest are believed only if their
//! length and hash are what the manifest says, and a manifest only if it is, to the byte, what its content renders to.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use object_store::ObjectStore;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bloom::Digest;
use crate::error::{Result, StorageError};
use crate::object::ObjectError;
use crate::remote::{FolderEntry, ObjectFolder, Stores};

const FORMAT: u32 = 1;

/// Longest manifest that is read, in bytes.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Most blobs of a commit.
const BLOBS_MAX: usize = 1024;

/// Longest name of a blob, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Digits of a manifest's number.
const NUMBER_DIGITS: usize = 10;

/// The commits in one folder or object prefix. One program at a time is meant to write there; if there are more, each
/// commit is still whole, and of two that want one number one gets it. The other is told: what it has may be old.
#[derive(Debug, Clone)]
pub struct Commits {
    folder: ObjectFolder,
    /// Tells this writer's manifests from others.
    nonce: String,
}

/// A whole commit: every blob is here and has the hash that was written down for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Commit {
    /// Its number. Later commits have larger ones.
    pub number: u64,
    /// What was committed, by name.
    pub blobs: BTreeMap<String, Bytes>,
    /// What is wrong with newer commits, the newest first.
    pub passed_over: Vec<String>,
}

/// Blobs that are written, but that nobody sees yet. Dropped, they stay invisible, and are removed some commits later.
#[derive(Debug)]
#[must_use = "blobs are invisible until `publish`"]
pub struct Unpublished<'a> {
    commits: &'a Commits,
    blobs: BTreeMap<String, Blob>,
    number: u64,
}

/// A manifest with the hash of its text.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<T> {
    manifest: T,
    blake3: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    number: u64,
    nonce: String,
    blobs: BTreeMap<String, Blob>,
}

/// A blob by its length and hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    pub(crate) bytes: u64,
    blake3: String,
}

impl Commits {
    /// The commits at `url`: a folder, which need not exist yet, or the URL of one in any store of these that can be
    /// written to, such as `memory://` or, where that feature is there, `s3://`. The file system of a local folder must
    /// know hard links.
    ///
    /// # Errors
    /// If that is no place to write to.
    pub fn open(stores: &Stores, url: &str) -> Result<Self> {
        Ok(Self::at(stores.folder(url)?))
    }

    /// The commits below `prefix` in any other store.
    ///
    /// # Errors
    /// If `prefix` is no usable name.
    pub fn within(stores: &Stores, store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Self> {
        Ok(Self::at(ObjectFolder::within(stores, store, prefix)?))
    }

    fn at(folder: ObjectFolder) -> Self {
        // Two keys that the system drew.
        let nonce = [RandomState::new(), RandomState::new()].map(|state| format!("{:016x}", state.hash_one(0)));
        Self {
            folder,
            nonce: nonce.concat(),
        }
    }

    /// Where they are.
    pub fn url(&self) -> &str {
        self.folder.url()
    }

    /// Writes blobs that [`Unpublished::publish`] makes a commit, unless another writer makes one first.
    ///
    /// # Errors
    /// If there are too many, one has an unusable name, or the place cannot be read or written.
    pub fn begin(&self, blobs: &BTreeMap<String, Bytes>) -> Result<Unpublished<'_>> {
        self.begin_after(self.numbers()?.last().copied(), blobs)
    }

    /// The same for a commit that comes right after the number `last`, where the caller knows it from an earlier look.
    /// A process that was taken for dead may wake and write what is long outdated: it is refused then.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_after(&self, last: Option<u64>, blobs: &BTreeMap<String, Bytes>) -> Result<Unpublished<'_>> {
        let number = last.map_or(0, |last| last.saturating_add(1));
        let usable = |name: &String| (1..=NAME_BYTES_MAX).contains(&name.len());
        if blobs.len() > BLOBS_MAX || !blobs.keys().all(usable) {
            let reason = format!("a commit has at most {BLOBS_MAX} blobs with names of 1 to {NAME_BYTES_MAX} bytes");
            return Err(ObjectError::invalid_name(self.url(), reason).into());
        }
        let mut written = BTreeMap::new();
        for (name, bytes) in blobs {
            let blob = Blob::of(bytes);
            // Written even if it is there: what is there may be damaged.
            self.folder.replace(&blob.object(), bytes.clone())?;
            written.insert(name.clone(), blob);
        }
        Ok(Unpublished {
            commits: self,
            blobs: written,
            number,
        })
    }

    /// The numbers that are taken, by whole commits or not, in ascending order.
    ///
    /// # Errors
    /// If the place cannot be read. One that does not exist has none.
    pub fn numbers(&self) -> Result<Vec<u64>> {
        self.numbers_in(&self.folder.list()?)
    }

    fn numbers_in(&self, listed: &[FolderEntry]) -> Result<Vec<u64>> {
        let mut numbers: Vec<u64> = listed.iter().filter_map(|found| number_of(&found.name)).collect();
        numbers.sort_unstable();
        // A listing may be older than what can be read by name.
        let mut next = numbers.last().map_or(0, |last| last + 1);
        while self.folder.has(&manifest_name(next))? {
            numbers.push(next);
            next += 1;
        }
        Ok(numbers)
    }

    /// The newest whole commit; `None` if there are no commits at all. Newer ones that are damaged are passed over with
    /// a warning.
    ///
    /// # Errors
    /// If there are commits, but none is whole; if the place cannot be read.
    pub fn latest(&self) -> Result<Option<Commit>> {
        let mut passed_over = Vec::new();
        for number in self.numbers()?.into_iter().rev() {
            match self.read(number) {
                Ok(commit) => return Ok(Some(Commit { passed_over, ..commit })),
                Err(error) if is_damage(&error) => {
                    tracing::warn!(
                        number,
                        url = self.url(),
                        "passed over a commit that is not whole: {error}"
                    );
                    passed_over.push(error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        match passed_over.len() {
            0 => Ok(None),
            count => Err(StorageError::NoWholeCommit {
                url: self.url().to_owned(),
                count,
                reasons: passed_over.join("; "),
            }),
        }
    }

    /// The commit of a number.
    ///
    /// # Errors
    /// [`StorageError::NoSuchCommit`] if there is none; [`StorageError::Damaged`] if it is not whole; otherwise if it
    /// cannot be read.
    pub fn read(&self, number: u64) -> Result<Commit> {
        let manifest = self.manifest(number)?;
        let blobs = manifest.blobs.iter();
        let blobs = blobs.map(|(name, blob)| Ok((name.clone(), self.blob(number, name, blob)?)));
        Ok(Commit {
            number,
            blobs: blobs.collect::<Result<_>>()?,
            passed_over: Vec::new(),
        })
    }

    /// Removes all but the newest `count` whole commits, of which equal ones count once, and blobs that no commit names
    /// any more. A commit counts as whole if its blobs are there in full length. Blobs of a commit that is being
    /// written stay, unless `count` newer ones have come since they were written.
    ///
    /// # Errors
    /// If something cannot be read or removed. What is kept is whole all the same.
    pub fn keep(&self, count: usize) -> Result<()> {
        self.keep_without(count, None)
    }

    /// The same, also without the commit of a number that a newer one has taken the place of, if a newer one is whole.
    ///
    /// # Errors
    /// As [`keep`](Self::keep).
    pub fn keep_without(&self, count: usize, replaced: Option<u64>) -> Result<()> {
        let listed = self.folder.list()?;
        let lengths: BTreeMap<&str, u64> = listed.iter().map(|found| (&*found.name, found.bytes())).collect();
        let is_here = |blob: &Blob| lengths.get(&*blob.object()) == Some(&blob.bytes);
        let (mut kept, mut not_whole, mut removed) = (Vec::new(), Vec::new(), Vec::new());
        for number in self.numbers_in(&listed)?.into_iter().rev() {
            let manifest = match self.manifest(number) {
                Ok(manifest) => Some(manifest),
                Err(error) if is_damage(&error) => None,
                Err(error) => return Err(error),
            };
            let again = |manifest: &Manifest| kept.iter().any(|kept: &Manifest| kept.blobs == manifest.blobs);
            match manifest {
                manifest if replaced == Some(number) && !kept.is_empty() => removed.push((number, manifest)),
                manifest if kept.len() >= count.max(1) => removed.push((number, manifest)),
                Some(manifest) if again(&manifest) => removed.push((number, Some(manifest))),
                Some(manifest) if manifest.blobs.values().all(is_here) => kept.push(manifest),
                manifest => not_whole.extend(manifest),
            }
        }
        let Some(oldest) = kept.last().map(|manifest| manifest_name(manifest.number)) else {
            return Ok(());
        };
        for (number, _) in removed.iter().rev() {
            self.folder.remove(&manifest_name(*number))?;
        }
        let objects = |manifests: &[Manifest]| manifests.iter().flat_map(Manifest::objects).collect::<BTreeSet<_>>();
        let removed: Vec<Manifest> = removed.into_iter().filter_map(|(_, manifest)| manifest).collect();
        let live = objects(&kept).into_iter().chain(objects(&not_whole)).collect();
        self.remove_blobs(&live, &objects(&removed), &oldest)?;
        Ok(self.folder.remove_unfinished(&oldest, &WRITTEN)?)
    }

    /// Removes blobs that are not in `live` and are in `dead`, or were written before the object `oldest`. Those may be
    /// of a checkpointed computation instead, if there is one in this folder, or one that has begun. That has been
    /// given up if nothing that may be its was written for a day.
    fn remove_blobs(&self, live: &BTreeSet<String>, dead: &BTreeSet<String>, oldest: &str) -> Result<()> {
        let listed = self.folder.list()?;
        let oldest = listed.iter().find(|found| found.name == oldest);
        let has_begun = |found: &FolderEntry| found.name.starts_with(COMPUTATION) && found.name.ends_with(BEGUN);
        let is_whole = |found: &FolderEntry| found.name.starts_with(COMPUTATION) && !has_begun(found);
        let is_spare = |found: &FolderEntry| is_blob(&found.name) && !live.contains(&found.name);
        let is_new = |found: &FolderEntry| !oldest.is_some_and(|oldest| found.is_left_behind(oldest));
        let is_written = |found: &FolderEntry| (has_begun(found) || is_spare(found)) && is_new(found);
        let is_shared = listed.iter().any(is_whole) || listed.iter().any(has_begun) && listed.iter().any(is_written);
        let left = |found: &FolderEntry| !is_shared && oldest.is_some_and(|oldest| found.by_age(oldest).is_lt());
        for found in listed.iter().filter(|found| is_spare(found)) {
            if dead.contains(&found.name) || left(found) {
                self.folder.remove(&found.name)?;
            }
        }
        Ok(())
    }

    fn manifest(&self, number: u64) -> Result<Manifest> {
        let name = manifest_name(number);
        let bytes = match self.folder.read(&name, MANIFEST_BYTES_MAX) {
            Err(ObjectError::NotFound { .. }) => {
                let url = self.url().to_owned();
                return Err(StorageError::NoSuchCommit { url, number });
            }
            Err(ObjectError::TooLarge { .. }) => Err("it is longer than a manifest can be".to_owned()),
            Err(error) => return Err(error.into()),
            Ok(bytes) => Manifest::parse(&bytes),
        };
        let manifest = bytes.and_then(|manifest| match manifest.number == number {
            true => Ok(manifest),
            false => Err(format!("it says that its number is {}", manifest.number)),
        });
        manifest.map_err(|reason| StorageError::damaged(self.folder.url_of(&name), reason))
    }

    fn blob(&self, number: u64, name: &str, blob: &Blob) -> Result<Bytes> {
        let object = blob.object();
        let what = || format!("commit {number} ({name} in {})", self.folder.url_of(&object));
        match self.folder.read(&object, blob.bytes) {
            Ok(bytes) if Blob::of(&bytes) == *blob => Ok(bytes),
            Ok(_) => Err(StorageError::damaged(
                what(),
                "its length or hash is not the one written down",
            )),
            Err(ObjectError::NotFound { .. }) => Err(StorageError::damaged(what(), "it is missing")),
            Err(ObjectError::TooLarge { bytes, .. }) if bytes > blob.bytes => {
                Err(StorageError::damaged(what(), "it is longer than what was written down"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest commit, if it is of exactly these blobs. An older one is not what the newest should be.
    fn number_of(&self, numbers: &[u64], blobs: &BTreeMap<String, Blob>) -> Result<Option<u64>> {
        for number in numbers.iter().rev() {
            match self.manifest(*number) {
                Ok(manifest) => return Ok((manifest.blobs == *blobs).then_some(*number)),
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl Unpublished<'_> {
    /// Makes the blobs a commit, and returns its number. If the newest whole commit is of exactly these blobs, perhaps
    /// by an earlier try, its number is returned and none is added.
    ///
    /// # Errors
    /// [`StorageError::CommitRace`] if another writer has committed since this was begun; if the place cannot be read
    /// or written. Nothing is committed then, unless the store fails after it has written: trying again finds that
    /// commit.
    pub fn publish(self) -> Result<u64> {
        let (commits, number) = (self.commits, self.number);
        let numbers = commits.numbers()?;
        if let Some(number) = commits.number_of(&numbers, &self.blobs)? {
            return Ok(number);
        }
        let race = || StorageError::CommitRace {
            url: commits.url().to_owned(),
            number,
        };
        if numbers.last().is_some_and(|last| *last >= number) {
            return Err(race());
        }
        let name = manifest_name(number);
        if name.len() != manifest_name(0).len() {
            let reason = format!("a commit's number has at most {NUMBER_DIGITS} digits");
            return Err(ObjectError::invalid_name(&name, reason).into());
        }
        let manifest = Manifest {
            format: FORMAT,
            number,
            nonce: commits.nonce.clone(),
            blobs: self.blobs,
        };
        match commits.folder.create(&name, seal(&manifest).into()) {
            Ok(()) => Ok(number),
            // By another writer, or by this one: a store may write, fail to say so, and be asked again.
            Err(ObjectError::AlreadyExists { .. }) => match commits.manifest(number) {
                Ok(there) if there.blobs == manifest.blobs => Ok(number),
                Err(error) if !is_damage(&error) => Err(error),
                _ => Err(race()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

const BLOB: &str = "blob-";

/// Whether it is the name of a blob, which holds the hash of what is in it. Other files are others'.
fn is_blob(name: &str) -> bool {
    let hash = name.strip_prefix(BLOB);
    hash.is_some_and(|hash| blake3::Hash::from_hex(hash).is_ok())
}

/// How the names of commits begin.
const COMMIT: &str = "manifest-";

/// How the names of what describes a checkpointed computation begin.
pub(crate) const COMPUTATION: &str = "checkpoint-";

/// How the name ends of what says that one is being written.
pub(crate) const BEGUN: &str = ".begun";

/// How the names of all that commits and checkpoints write begin.
pub(crate) const WRITTEN: [&str; 3] = [BLOB, COMMIT, COMPUTATION];

fn manifest_name(number: u64) -> String {
    format!("{COMMIT}{number:0width$}.json", width = NUMBER_DIGITS)
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(COMMIT)?.strip_suffix(".json")?;
    let plain = digits.len() == NUMBER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

impl Blob {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        }
    }

    /// A digest of the bytes, by what is written down of them.
    pub fn digest(&self) -> Digest {
        *blake3::hash(self.object().as_bytes()).as_bytes()
    }

    pub(crate) fn object(&self) -> String {
        format!("{BLOB}{}", self.blake3)
    }

    pub(crate) fn is_well_formed(&self) -> bool {
        let hash = blake3::Hash::from_hex(&self.blake3);
        hash.is_ok_and(|hash| hash.to_hex().as_str() == self.blake3)
    }
}

impl Manifest {
    fn objects(&self) -> impl Iterator<Item = String> {
        self.blobs.values().map(Blob::object)
    }

    fn parse(bytes: &[u8]) -> std::result::Result<Self, String> {
        let manifest: Self = unseal(bytes)?;
        if manifest.format != FORMAT {
            return Err(format!("format {} is not {FORMAT}", manifest.format));
        }
        match manifest.blobs.values().all(Blob::is_well_formed) {
            true => Ok(manifest),
            false => Err("a blob's hash is none".to_owned()),
        }
    }
}

/// The text of a manifest, which has its hash in it.
pub(crate) fn seal(manifest: &impl Serialize) -> Vec<u8> {
    let mut bytes = json(&Sealed {
        blake3: blake3::hash(&json(manifest)).to_hex().to_string(),
        manifest,
    });
    bytes.push(b'\n');
    bytes
}

/// The manifest in a text, if it is to the byte what its content renders to.
pub(crate) fn unseal<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let sealed: Sealed<T> = serde_json::from_slice(bytes).map_err(|error| format!("no manifest: {error}"))?;
    match seal(&sealed.manifest) == bytes {
        true => Ok(sealed.manifest),
        false => Err("the checksum is wrong".to_owned()),
    }
}

/// Numbers and texts in structs and maps with text keys have a JSON text.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

impl StorageError {
    fn damaged(what: String, reason: impl ToString) -> Self {
        Self::Damaged {
            what,
            reason: reason.to_string(),
        }
    }
}

fn is_damage(error: &StorageError) -> bool {
    matches!(error, StorageError::Damaged { .. } | StorageError::NoSuchCommit { .. })
}

#[cfg(test)]
mod tests;
