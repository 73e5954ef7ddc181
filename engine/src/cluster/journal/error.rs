//! What can go wrong with the log.

use std::io;
use std::path::{Path, PathBuf};

use distdl_storage::object::remedy;

/// What can go wrong with the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The operating system refused.
    #[error("cannot {what} {}: {source}; {}", path.display(), remedy(.source))]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A log that nobody will read again has no place.
    #[error(
        "cannot create the journal in {}: {source}; name a folder that takes files: `spill_folder`, or TMPDIR",
        path.display()
    )]
    NoPlace {
        /// In which folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another name node has the folder.
    #[error("{} is in use by another name node; end that one first, or name another folder", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// There is nothing to go on with.
    #[error(
        "the program of the journal in {} has ended; remove that folder, or name another one, to run it again",
        path.display()
    )]
    Over {
        /// The folder.
        path: PathBuf,
    },
    /// The log is not what was written.
    #[error(
        "{} is damaged at byte {offset}: {what}; bring the file back from a copy, or remove it to start the program over",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where the damaged frame starts.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
    /// An entry is too large for a frame.
    #[error(
        "an answer of {bytes} bytes is more than a journal's frame can hold; take less, or write the dataset to a store"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The file would take more than it may.
    #[error(
        "{} has {bytes} of at most {bytes_max} bytes, and {more} more were to be written of what actions came to: raise `disk` (`disk_bytes_max`), or bring less into the driver program and save datasets where they are",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// What it takes.
        bytes: u64,
        /// What it may take.
        bytes_max: u64,
        /// What the entry takes.
        more: u64,
    },
    /// Nothing has been answered under this number.
    #[error("action {action} has no answer in {}", path.display())]
    NoAnswer {
        /// The number.
        action: u64,
        /// The file.
        path: PathBuf,
    },
}

pub(super) fn failed(what: &'static str, path: &Path, source: io::Error) -> JournalError {
    JournalError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

pub(super) fn no_place(path: &Path, source: io::Error) -> JournalError {
    use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    match source.kind() {
        NotADirectory | NotFound | PermissionDenied | ReadOnlyFilesystem => JournalError::NoPlace {
            path: path.to_owned(),
            source,
        },
        _ => failed("create a file in", path, source),
    }
}
