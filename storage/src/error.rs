//! What may go wrong when data is kept or read back.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use crate::object::{ObjectError, remedy};

/// Result of this crate.
pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// Why data could not be kept or read back. A copy is cheap.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {what} {path}: {source}; {}", remedy(.source))]
    Io {
        /// What was tried, as a verb: "create", "write".
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// The file system is full, or its quota is used up.
    #[error(
        "the disk is full: {needed_bytes} bytes needed in {path}; free space there, or choose another folder (`spill_folder`; of the cache `cache`)"
    )]
    DiskFull {
        /// The folder on the full disk.
        path: PathBuf,
        /// Length of what was to be written, in bytes.
        needed_bytes: u64,
    },
    /// The folder for blocks cannot be made.
    #[error("cannot make a folder in {path}: {source}; name one that takes files: `spill_folder`, or TMPDIR")]
    NoFolder {
        /// In which folder.
        path: PathBuf,
        /// The operating system's answer.
        source: Arc<io::Error>,
    },
    /// The folder is on a file system that takes no files.
    #[error("cannot {what} {path}: its file system is read only; choose another folder")]
    ReadOnly {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
    },
    /// The folder is not ours to use.
    #[error("no permission to {what} {path}; give write permission or choose another folder")]
    PermissionDenied {
        /// What was tried, as a verb.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
    },
    /// The tier's limit leaves no room.
    #[error(
        "{needed_bytes} bytes do not fit into the {tier} tier, limited to {bytes_max} bytes; raise {}",
        setting_of(.tier)
    )]
    OverBudget {
        /// Name of the tier.
        tier: String,
        /// What the block takes, in bytes.
        needed_bytes: u64,
        /// The tier's limit, in bytes.
        bytes_max: u64,
    },
    /// A tier without files was asked for one.
    #[error("the {tier} tier keeps no files, so nothing can be spilled there; give the store a tier on disk")]
    NoFiles {
        /// Name of the tier.
        tier: String,
    },
    /// Stored bytes are not what was written. The block must be computed again.
    #[error("{what} is corrupt: {reason}; it must be computed again")]
    Corrupt {
        /// The block or frame.
        what: String,
        /// Which check it failed.
        reason: String,
    },
    /// A record could not be turned into bytes.
    #[error("cannot encode records of {type_name}: {reason}; check the type's `Serialize`")]
    Encode {
        /// The record type.
        type_name: &'static str,
        /// The serialiser's reason.
        reason: String,
    },
    /// Intact bytes could not be turned into records.
    #[error(
        "cannot decode records of {type_name} in {what}: {reason}; `Deserialize` must mirror `Serialize`, without attributes that need to know what comes next, as `untagged` and `flatten` do"
    )]
    Decode {
        /// The block or frame.
        what: String,
        /// The record type.
        type_name: &'static str,
        /// The deserialiser's reason.
        reason: String,
    },
    /// A block holds records of another type than asked for.
    #[error("records of {expected} asked for, but the block holds {found}")]
    WrongType {
        /// The type asked for.
        expected: &'static str,
        /// What the block holds.
        found: String,
    },
    /// What was written to last is not what was written.
    #[error("{what} is damaged: {reason}; an older commit serves instead, or a copy of this one")]
    Damaged {
        /// The manifest or blob.
        what: String,
        /// Which check it failed.
        reason: String,
    },
    /// A checkpoint of a dataset is not what was written.
    #[error("{what} is damaged: {reason}; {remedy}")]
    DamagedCheckpoint {
        /// The manifest, or the partition and its file.
        what: String,
        /// Which check it failed.
        reason: String,
        /// How to mend it.
        remedy: String,
    },
    /// There are commits, but every one of them is damaged.
    #[error(
        "{url}: none of its {count} commits is whole ({reasons}); restore one from a copy, or choose another place"
    )]
    NoWholeCommit {
        /// Where the commits are.
        url: String,
        /// How many there are.
        count: usize,
        /// What is wrong with them, the newest first.
        reasons: String,
    },
    /// There is no commit of that number.
    #[error("{url}: there is no commit {number}; the oldest ones are removed as new ones come")]
    NoSuchCommit {
        /// Where the commits are.
        url: String,
        /// The number asked for.
        number: u64,
    },
    /// Another writer was faster.
    #[error(
        "{url}: another writer has committed {number} or a later number since this commit was begun; let one program at a time write there"
    )]
    CommitRace {
        /// Where the commits are.
        url: String,
        /// The number that it was to have.
        number: u64,
    },
    /// Any of these, in another process.
    #[error("{message}")]
    Elsewhere {
        /// The error's text there.
        message: String,
    },
    /// A file or remote object that is input or output failed.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// What sets the limit of a tier of that name.
fn setting_of(tier: &str) -> &'static str {
    match tier {
        "memory" => "`memory`",
        "disk" => "`disk`",
        "cache" => "`cache_size`",
        "folder of computed blocks" => "`memo_size`",
        _ => "the limit",
    }
}

impl StorageError {
    /// The variant that an error of the operating system calls for, where `needed_bytes` were to be written.
    pub(crate) fn io(what: &'static str, path: &Path, needed_bytes: u64, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path, needed_bytes },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { what, path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { what, path },
            _ => Self::Io {
                what,
                path,
                source: Arc::new(source),
            },
        }
    }

    /// The variant for a folder for blocks that cannot be made.
    pub(crate) fn no_folder(path: &Path, source: io::Error) -> Self {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
        match source.kind() {
            NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => Self::NoFolder {
                path: path.to_path_buf(),
                source: Arc::new(source),
            },
            _ => Self::io("make a folder in", path, 0, source),
        }
    }

    /// Whether the system had no room for one more open file or mapping, which says nothing of what is in the file:
    /// trying again may well succeed.
    pub fn is_want_of_resources(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        let error = Errno::from_io_error(source);
        source.kind() == io::ErrorKind::OutOfMemory
            || error.is_some_and(|error| [Errno::MFILE, Errno::NFILE, Errno::NOMEM].contains(&error))
    }

    pub(crate) fn corrupt(what: impl ToString, reason: impl ToString) -> Self {
        Self::Corrupt {
            what: what.to_string(),
            reason: reason.to_string(),
        }
    }

    /// The same error, about the block or file `named` instead of nameless bytes.
    pub(crate) fn about(mut self, named: impl ToString) -> Self {
        if let Self::Corrupt { what, .. } | Self::Decode { what, .. } = &mut self {
            *what = named.to_string();
        }
        self
    }
}
