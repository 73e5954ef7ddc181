//! A file or remote object that DistDL reads or writes but does not own, and what may go wrong with it.

use std::fmt;
use std::ops::Range;

use object_store::path::Path as ObjectPath;
use serde::{Deserialize, Serialize};
use url::Url;

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

impl fmt::Display for Object {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.url)
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

/// Why a file or remote object could not be listed, read, written or understood. Each says how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The named object is not there.
    #[error("{url}: there is no such file or object; check its name and, if it is relative, the current folder")]
    NotFound {
        /// The path or URL.
        url: String,
    },
    /// A pattern or a folder that holds nothing to read.
    #[error("{pattern}: no file or object matches; {remedy}")]
    NothingFound {
        /// The pattern as given.
        pattern: String,
        /// How to mend it.
        remedy: &'static str,
    },
    /// A listing longer than the limit.
    #[error(
        "{pattern}: more than {objects_max} files or objects match; name fewer, or raise `StoresOptions::list_objects_max`"
    )]
    TooManyObjects {
        /// The pattern as given.
        pattern: String,
        /// The limit.
        objects_max: usize,
    },
    /// A folder or a device where a file is expected.
    #[error("{url}: is {found}, but a file is expected; name a file, or `{url}/*` for the files of a folder")]
    NotAFile {
        /// The path.
        url: String,
        /// What is there.
        found: &'static str,
    },
    /// The system or the server refuses.
    #[error(
        "{url}: no permission to {action}; give the user that runs this program that right, or choose another place"
    )]
    NoPermission {
        /// The path or URL.
        url: String,
        /// What was tried.
        action: &'static str,
    },
    /// The target of a write that must not replace anything is there.
    #[error("{url}: exists already, and is not overwritten; remove it, or write to another place")]
    AlreadyExists {
        /// The path or URL.
        url: String,
    },
    /// An object longer than the limit for whole reads.
    #[error(
        "{url}: holds {bytes} bytes, above the limit of {bytes_max} for a whole read; read it in ranges, or raise `StoresOptions::read_bytes_max`"
    )]
    TooLarge {
        /// The path or URL.
        url: String,
        /// Its length, in bytes.
        bytes: u64,
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// A range beyond the object's end, or one that ends before it starts.
    #[error("{url}: bytes {start}..{end} are asked for, but it holds {bytes}; list it again if it has changed")]
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
        "{url}: changed while it was being used (listed with {listed}, now {found}); run the job again on inputs that stay as they are"
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
    #[error("{url}: its server does not serve parts of an object; copy it to a local file or to a server that does")]
    RangesNotServed {
        /// The URL.
        url: String,
    },
    /// Something this build or this kind of store cannot do.
    #[error("{url}: {remedy}")]
    Unsupported {
        /// The path or URL.
        url: String,
        /// What cannot be done, and what to do instead.
        remedy: String,
    },
    /// A path, pattern, URL or part name that makes no sense.
    #[error("`{url}` is not a usable name: {reason}")]
    InvalidName {
        /// The name as given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The operating system failed otherwise.
    #[error("{url}: could not {action}: {message}; look at the disk, its free space and its mount")]
    Io {
        /// The path.
        url: String,
        /// What was tried.
        action: &'static str,
        /// The system's words.
        message: String,
    },
    /// A remote store failed otherwise, after all retries.
    #[error("{url}: the remote store failed: {message}; check the address and the connection, then run again")]
    Remote {
        /// The URL.
        url: String,
        /// The store's words.
        message: String,
    },
    /// A compressed file that is cut off or damaged, or not compressed at all.
    #[error(
        "{url}: cannot be decompressed: {message}; a file with this ending must be whole and in {format} format, fetch it again"
    )]
    NotDecompressed {
        /// The path or URL.
        url: String,
        /// What the name promises: `gzip` or `zstd`.
        format: &'static str,
        /// The decoder's words.
        message: String,
    },
    /// Decompressed bytes beyond the limit.
    #[error("{url}: decompresses to more than the limit of {bytes_max} bytes; raise the limit if that is meant")]
    InflatesTooLarge {
        /// The path or URL.
        url: String,
        /// The limit, in bytes.
        bytes_max: u64,
    },
    /// A line beyond the limit.
    #[error(
        "{url}: the line that starts at byte {offset} is longer than {bytes_max} bytes; is this a text file? raise `TextOptions::line_bytes_max` if it is"
    )]
    LineTooLong {
        /// The path or URL.
        url: String,
        /// Where the line starts, in (decompressed) bytes.
        offset: u64,
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// Bytes that are no text.
    #[error(
        "{url}: byte {offset} is not UTF-8; convert the file, or read it as binary records (if it is compressed, its name must end in .gz or .zst)"
    )]
    NotUtf8 {
        /// The path or URL.
        url: String,
        /// Where the text breaks, in (decompressed) bytes.
        offset: u64,
    },
    /// Bytes that are not what their format or the record type says.
    #[error("{url}, {place}: {problem}; {remedy}")]
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
        "{url}: {bytes} bytes are a header of {header_bytes} and records of {record_bytes} with {remainder} bytes left over; check the record length, or fetch the file again"
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

/// Which store a name belongs to, and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A path of the local file system, perhaps a pattern.
    Local(String),
    /// A name in a `Stores` value's own memory, perhaps a pattern.
    Memory(String),
    /// A name in a bucket or container, perhaps a pattern.
    Bucket { cloud: Cloud, bucket: String, name: String },
    /// A path of the distributed file system of Hadoop, perhaps a pattern.
    Hdfs {
        /// Host and port, a name service that the configuration describes, or nothing for the usual one.
        name_node: String,
        name: String,
    },
    /// An address: the server with the query, and the path on it.
    Http {
        #[cfg_attr(
            not(feature = "http"),
            allow(dead_code, reason = "only the http client connects to it")
        )]
        server: Url,
        path: ObjectPath,
    },
}

/// Who keeps buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cloud {
    S3,
    Gs,
    Az,
}

impl Cloud {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gs => "gs",
            Self::Az => "az",
        }
    }
}

impl Location {
    pub(crate) fn parse(url: &str) -> Result<Self, ObjectError> {
        if url.is_empty() {
            return Err(ObjectError::invalid_name(url, "it is empty"));
        }
        match url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) {
            None => Ok(Self::Local(url.to_owned())),
            Some(("file", rest)) => Ok(Self::Local(file_path(url, rest)?)),
            Some(("memory", rest)) => Ok(Self::Memory(rest.trim_matches('/').to_owned())),
            Some(("http" | "https", _)) => http_location(url),
            Some(("s3", rest)) => bucket_location(url, Cloud::S3, rest),
            Some(("gs", rest)) => bucket_location(url, Cloud::Gs, rest),
            Some(("az", rest)) => bucket_location(url, Cloud::Az, rest),
            Some(("hdfs", rest)) => hdfs_location(url, rest),
            Some((scheme, _)) => Err(ObjectError::unsupported(
                url,
                &format!(
                    "`{scheme}://` is not known; use a plain path, file://, http(s)://, s3://, gs://, az://, hdfs:// or memory://"
                ),
            )),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// The path of a `file://` URL, percent-decoded. `?` and `#` belong to the pattern, not to the URL.
fn file_path(url: &str, rest: &str) -> Result<String, ObjectError> {
    let path = rest
        .strip_prefix("localhost")
        .filter(|path| path.starts_with('/'))
        .unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(ObjectError::invalid_name(
            url,
            "a file URL needs a full path: file:///folder/file",
        ));
    }
    let escaped = format!("file://{}", path.replace('?', "%3F").replace('#', "%23"));
    let parsed = Url::parse(&escaped).map_err(|error| ObjectError::invalid_name(url, error))?;
    let path = parsed
        .to_file_path()
        .map_err(|()| ObjectError::invalid_name(url, "it names no local path"))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| ObjectError::invalid_name(url, "its path is not UTF-8"))
}

/// Names in buckets are taken as they stand: nothing in them is percent-decoded.
fn bucket_location(url: &str, cloud: Cloud, rest: &str) -> Result<Location, ObjectError> {
    let (bucket, name) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    if bucket.is_empty() || !bucket.chars().all(is_plain) {
        let reason = format!(
            "it needs the name of a bucket: {}://bucket/folder/object",
            cloud.scheme()
        );
        return Err(ObjectError::invalid_name(url, reason));
    }
    Ok(Location::Bucket {
        cloud,
        bucket: bucket.to_owned(),
        name: name.trim_matches('/').to_owned(),
    })
}

/// Names are taken as they stand, as Hadoop's own programs do.
fn hdfs_location(url: &str, rest: &str) -> Result<Location, ObjectError> {
    let (name_node, name) = rest.split_once('/').unwrap_or((rest, ""));
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
    if !name_node.chars().all(is_plain) {
        let reason = "it needs a name node or a name service: hdfs://host:port/folder/file";
        return Err(ObjectError::invalid_name(url, reason));
    }
    Ok(Location::Hdfs {
        name_node: name_node.to_owned(),
        name: name.trim_matches('/').to_owned(),
    })
}

fn http_location(url: &str) -> Result<Location, ObjectError> {
    let mut server = Url::parse(url).map_err(|error| ObjectError::invalid_name(url, error))?;
    let path = ObjectPath::from_url_path(server.path()).map_err(|error| ObjectError::invalid_name(url, error))?;
    server.set_path("/");
    server.set_fragment(None);
    Ok(Location::Http { server, path })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn plain_paths_and_file_urls_name_the_same_file() {
        assert_eq!(
            Location::parse("a/b c.txt").unwrap(),
            Location::Local("a/b c.txt".into())
        );
        assert_eq!(
            Location::parse("file:///a/b%20c.txt").unwrap(),
            Location::Local("/a/b c.txt".into())
        );
        assert_eq!(
            Location::parse("file://localhost/a/?.txt").unwrap(),
            Location::Local("/a/?.txt".into())
        );
        assert_eq!(
            Location::parse("./odd://name").unwrap(),
            Location::Local("./odd://name".into())
        );
    }

    #[test]
    fn http_keeps_the_query_apart_from_the_path() {
        let Location::Http { server, path } = Location::parse("https://u@h:8/a%20b/c?k=v#f").unwrap() else {
            panic!("not http")
        };
        assert_eq!((server.as_str(), path.as_ref()), ("https://u@h:8/?k=v", "a b/c"));
    }

    #[test]
    fn names_in_buckets_are_taken_as_they_stand() {
        let bucket = |cloud, bucket: &str, name: &str| Location::Bucket {
            cloud,
            bucket: bucket.into(),
            name: name.into(),
        };
        let parsed = |url| Location::parse(url).unwrap();
        assert_eq!(parsed("s3://b/a b/%20#?*"), bucket(Cloud::S3, "b", "a b/%20#?*"));
        assert_eq!(parsed("gs://b.c-d/"), bucket(Cloud::Gs, "b.c-d", ""));
        assert_eq!(parsed("az://b"), bucket(Cloud::Az, "b", ""));
    }

    #[test]
    fn a_name_node_comes_before_names_that_are_taken_as_they_stand() {
        let hdfs = |name_node: &str, name: &str| Location::Hdfs {
            name_node: name_node.into(),
            name: name.into(),
        };
        let parsed = |url| Location::parse(url).unwrap();
        assert_eq!(parsed("hdfs://h-1.x:8020/a b/%20#?*"), hdfs("h-1.x:8020", "a b/%20#?*"));
        assert_eq!(parsed("hdfs://[::1]:8020/a/"), hdfs("[::1]:8020", "a"));
        assert_eq!(parsed("hdfs:///a"), hdfs("", "a"));
        assert_eq!(parsed("hdfs://service"), hdfs("service", ""));
    }

    #[test]
    fn unusable_names_are_errors_that_say_why() {
        for (url, words) in [
            ("", "empty"),
            ("file://host/x", "full path"),
            ("file://x", "full path"),
            ("ftp://server/x", "`ftp://` is not known"),
            ("s3:///x", "name of a bucket"),
            ("az://user@container/x", "name of a bucket"),
            ("hdfs://user@host/x", "name node"),
            ("http://", "not a usable name"),
        ] {
            let message = Location::parse(url).unwrap_err().to_string();
            assert!(message.contains(words), "{url}: {message}");
        }
    }
}
