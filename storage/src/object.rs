//! A file or remote object that DistDL reads or writes but does not own, and what may go wrong with it.

mod location;

mod shown;

use std::fmt;
use std::io;
use std::ops::Range;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

#[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
pub(crate) use self::location::Cloud;
pub(crate) use self::location::Location;
pub use self::location::place;
pub(crate) use self::shown::all_shown;
pub use self::shown::shown;

/// A file or remote object as it was when it was listed.
///
/// Reading it later checks its length and its version against what is recorded here, so that a recomputed partition
/// never mixes two versions of its input.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Object {
    /// A plain path for a local file, else the URL.
    pub url: String,
    /// Length, in bytes.
    pub bytes: u64,
    /// The store's mark of this version: the entity tag of a remote object, else the time of its last change. `None`
    /// where the store names neither; only the length is checked then.
    pub version: Option<String>,
}

/// How to mend that the operating system has failed with `error`, which is none that a type says more of.
pub fn remedy(error: &io::Error) -> &'static str {
    if let Some(remedy) = remedy_of_limit(error) {
        return remedy;
    }
    match (Errno::from_io_error(error), error.kind()) {
        (
            Some(_),
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::InvalidFilename,
        ) => "look whether the path is right, or choose another one",
        (Some(_), io::ErrorKind::PermissionDenied) => {
            "give the user that runs this program that right, or choose another place"
        }
        (Some(_), _) => "look at the disk, its free space and its mount",
        // What others have wrapped has no number any more.
        (None, _) => "look at the disk, its free space and its mount, and at the limit of open files (`ulimit -n`)",
    }
}

/// How to mend that something did not fit into a limit of this process or of the system; `None` if that is not why the
/// operating system has failed.
pub fn remedy_of_limit(error: &io::Error) -> Option<&'static str> {
    match (Errno::from_io_error(error), error.kind()) {
        (Some(Errno::MFILE), _) => Some("raise the limit of open files (`ulimit -n`)"),
        (Some(Errno::NFILE), _) => Some("raise the system's limit of open files (`fs.file-max`)"),
        (Some(Errno::FBIG), _) => Some("raise the limit of the length of files (`ulimit -f`)"),
        // What starts no thread and no process; files are always ready.
        (Some(Errno::AGAIN), _) => {
            Some("raise the limits of processes and threads (`ulimit -u`, `pids.max` of a container)")
        }
        (_, io::ErrorKind::OutOfMemory) => Some("leave the system more memory, or lower `memory`"),
        _ => None,
    }
}

impl fmt::Display for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&shown(&self.url))
    }
}

impl Object {
    /// `range`, or all of the object, if that lies within it.
    pub(crate) fn checked_range(&self, range: Option<Range<u64>>) -> Result<Range<u64>, ObjectError> {
        let range = range.unwrap_or(0..self.bytes);
        if range.start > range.end || range.end > self.bytes {
            let Range { start, end } = range;
            return Err(ObjectError::OutOfRange {
                url: self.url.clone(),
                start,
                end,
                bytes: self.bytes,
            });
        }
        Ok(range)
    }

    /// An error if the object that is there now is not this one. A store that names no version is believed.
    pub(crate) fn check_same(&self, found: &Self) -> Result<(), ObjectError> {
        let same = self.version.is_none() || found.version.is_none() || self.version == found.version;
        if same && self.bytes == found.bytes {
            return Ok(());
        }
        let (listed, found) = (self.describe(), found.describe());
        Err(ObjectError::Changed {
            url: self.url.clone(),
            listed,
            found,
        })
    }

    fn describe(&self) -> String {
        format!(
            "{} bytes, version {}",
            self.bytes,
            self.version.as_deref().unwrap_or("unknown")
        )
    }
}

/// Why a file or remote object could not be listed, read, written or understood. Each says how to mend it, and none
/// shows a user or a query of an address, see [`shown`]; their fields hold all of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The named object is not there.
    #[error(
        "{shown}: there is no such file or object; check its name and, if it is relative, the current folder",
        shown = shown(.url)
    )]
    NotFound {
        /// The path or URL.
        url: String,
    },
    /// A pattern or a folder that holds nothing to read.
    #[error("{shown}: no file or object matches; {remedy}", shown = shown(.pattern))]
    NothingFound {
        /// The pattern as given.
        pattern: String,
        /// How to mend it.
        remedy: &'static str,
    },
    /// A listing longer than the limit.
    #[error(
        "{shown}: more than {objects_max} files or objects match; name fewer, or raise `StoresOptions::list_objects_max` (`list_count` in a configuration)",
        shown = shown(.pattern)
    )]
    TooManyObjects {
        /// The pattern as given.
        pattern: String,
        /// The limit.
        objects_max: usize,
    },
    /// A folder or a device where a file is expected.
    #[error(
        "{shown}: is {found}, but a file is expected; name a file, or `{shown}/*` for the files of a folder",
        shown = shown(.url)
    )]
    NotAFile {
        /// The path.
        url: String,
        /// What is there.
        found: &'static str,
    },
    /// A link in a folder that leads to nothing.
    #[error(
        "{shown}: is a link to `{target}`, which cannot be followed; mend it or remove it, or read the folder with a pattern that does not match it",
        shown = shown(.url)
    )]
    BrokenLink {
        /// The path of the link.
        url: String,
        /// What it says it leads to.
        target: String,
    },
    /// The system or the server refuses.
    #[error(
        "{shown}: no permission to {action}; give the user that runs this program that right, or choose another place",
        shown = shown(.url)
    )]
    NoPermission {
        /// The path or URL.
        url: String,
        /// What was tried.
        action: &'static str,
    },
    /// The target of a write that must not replace anything is there.
    #[error(
        "{shown}: exists already, and is not overwritten; remove it, or write to another place",
        shown = shown(.url)
    )]
    AlreadyExists {
        /// The path or URL.
        url: String,
    },
    /// A folder in a store of objects whose writer has not finished it.
    #[error(
        "{shown}: holds the parts of a save that goes on or was killed, as the object `.distdl-unfinished` there says; if nobody writes there any more, remove all that is there, or use another name",
        shown = shown(.url)
    )]
    Unfinished {
        /// The URL of the folder.
        url: String,
    },
    /// A save to a store of objects whose marker is gone, or another's.
    #[error(
        "{shown}: this save was taken for one that was killed: the object `.distdl-unfinished` that it wrote there is gone, or is another save's; nothing there was touched any more: look who else writes there, and save again",
        shown = shown(.url)
    )]
    Superseded {
        /// The URL of the folder.
        url: String,
    },
    /// An object longer than the limit for whole reads.
    #[error(
        "{shown}: holds {bytes} bytes, above the limit of {bytes_max} for a whole read; read it in ranges, or raise `StoresOptions::read_bytes_max` (`read_size` in a configuration)",
        shown = shown(.url)
    )]
    TooLarge {
        /// The path or URL.
        url: String,
        /// Its length, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// What is to be read back whole is longer than may be read whole.
    #[error(
        "{shown}: {bytes} bytes are more than the {bytes_max} that could be read back whole; cut the data into more partitions, or raise `StoresOptions::read_bytes_max` (`read_size` in a configuration)",
        shown = shown(.url)
    )]
    TooLargeToKeep {
        /// The path or URL.
        url: String,
        /// Its length, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// A range beyond the object's end, or one that ends before it starts.
    #[error(
        "{shown}: bytes {start}..{end} are asked for, but it holds {bytes}; list it again if it has changed",
        shown = shown(.url)
    )]
    OutOfRange {
        /// The path or URL.
        url: String,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Its length, in bytes.
        bytes: u64,
    },
    /// The object is not the one that was listed.
    #[error(
        "{shown}: changed while it was being used (listed with {listed}, now {found}); run the job again on inputs that stay as they are",
        shown = shown(.url)
    )]
    Changed {
        /// The path or URL.
        url: String,
        /// Length and version when it was listed.
        listed: String,
        /// Length and version now.
        found: String,
    },
    /// The server sends whole objects only.
    #[error(
        "{shown}: its server does not serve parts of an object; copy it to a local file or to a server that does",
        shown = shown(.url)
    )]
    RangesNotServed {
        /// The URL.
        url: String,
    },
    /// Something this build or this kind of store cannot do.
    #[error("{shown}: {remedy}", shown = shown(.url))]
    Unsupported {
        /// The path or URL.
        url: String,
        /// What cannot be done, and what to do instead.
        remedy: String,
    },
    /// A path, pattern, URL or part name that makes no sense.
    #[error("`{shown}` is not a usable name: {reason}", shown = shown(.url))]
    InvalidName {
        /// The name as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system failed otherwise.
    #[error(
        "{shown}: could not {action}: {message}; {remedy}",
        shown = shown(.url)
    )]
    Io {
        /// The path.
        url: String,
        /// What was tried.
        action: &'static str,
        /// The system's words.
        message: String,
        /// How to mend it.
        remedy: &'static str,
    },
    /// A remote store failed otherwise, after all retries.
    #[error(
        "{shown}: the remote store failed: {message}; check the address and the connection, then run again",
        shown = shown(.url)
    )]
    Remote {
        /// The URL.
        url: String,
        /// The store's words.
        message: String,
    },
    /// A compressed file that is cut off or damaged, or not compressed at all.
    #[error(
        "{shown}: cannot be decompressed: {message}; a file with this ending must be whole and in {format} format, fetch it again",
        shown = shown(.url)
    )]
    NotDecompressed {
        /// The path or URL.
        url: String,
        /// What the name promises: `gzip` or `zstd`.
        format: &'static str,
        /// The decoder's words.
        message: String,
    },
    /// A line beyond the limit.
    #[error(
        "{shown}: the line at byte {offset} is longer than {bytes_max} bytes; is this a text file? raise `TextOptions::line_bytes_max` (`line_size` in a configuration) if it is",
        shown = shown(.url)
    )]
    LineTooLong {
        /// The path or URL.
        url: String,
        /// Where the line starts, or where a partition finds itself within it, in (decompressed) bytes.
        offset: u64,
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// Bytes that are no text.
    #[error(
        "{shown}: byte {offset} is not UTF-8; convert the file, or read it as binary records (if it is compressed, its name must end in .gz or .zst)",
        shown = shown(.url)
    )]
    NotUtf8 {
        /// The path or URL.
        url: String,
        /// Where the text breaks, in (decompressed) bytes.
        offset: u64,
    },
    /// Bytes that are not what their format or the record type says.
    #[error("{shown}, {place}: {problem}; {remedy}", shown = shown(.url))]
    Malformed {
        /// The path or URL.
        url: String,
        /// Where: the byte, row or header.
        place: String,
        /// What is wrong.
        problem: String,
        /// How to mend it.
        remedy: String,
    },
    /// An object that does not hold a whole number of fixed-length records.
    #[error(
        "{shown}: {bytes} bytes are a header of {header_bytes} and records of {record_bytes} with {remainder} bytes left over; check the record length, or fetch the file again",
        shown = shown(.url)
    )]
    NotWholeRecords {
        /// The path or URL.
        url: String,
        /// Its (decompressed) length, in bytes.
        bytes: u64,
        /// The header's length, in bytes.
        header_bytes: u64,
        /// A record's length, in bytes.
        record_bytes: u64,
        /// What is left over, in bytes.
        remainder: u64,
    },
}

impl ObjectError {
    pub(crate) fn invalid_name(url: &str, reason: impl fmt::Display) -> Self {
        Self::InvalidName {
            url: url.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn malformed(
        url: &str,
        place: impl fmt::Display,
        problem: impl fmt::Display,
        remedy: impl fmt::Display,
    ) -> Self {
        Self::Malformed {
            url: url.to_owned(),
            place: place.to_string(),
            problem: problem.to_string(),
            remedy: remedy.to_string(),
        }
    }

    pub(crate) fn unsupported(url: &str, remedy: &str) -> Self {
        Self::Unsupported {
            url: url.to_owned(),
            remedy: remedy.to_owned(),
        }
    }
}
