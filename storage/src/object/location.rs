//! Names as users write them: which store each belongs to.

use std::path::{Path, PathBuf};

use object_store::path::Path as ObjectPath;
use url::Url;

use super::ObjectError;

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

/// One text for all names of the same place, as far as that can be told without asking servers: for comparisons only.
pub fn place(url: &str) -> String {
    match Location::parse(url) {
        Ok(Location::Local(path)) => local_place(Path::new(&path)),
        Ok(location) => format!("{location:?}"),
        Err(_) => url.to_owned(),
    }
}

/// Without links, `.` and `..`, where what comes before them exists.
fn local_place(path: &Path) -> String {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut ancestors = whole.ancestors();
    let known = ancestors.find_map(|ancestor| Some((ancestor, ancestor.canonicalize().ok()?)));
    let place = match known {
        Some((ancestor, real)) => real.join(whole.strip_prefix(ancestor).unwrap_or(&whole)),
        None => whole,
    };
    // Through its components, of which a trailing `/` is none.
    format!("{:?}", place.components().collect::<PathBuf>())
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// The path of a `file://` URL, percent-decoded. `?` and `#` belong to the pattern, not to the URL, and `\\` to the
/// name.
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
    let path = path.replace('?', "%3F").replace('#', "%23").replace('\\', "%5C");
    let escaped = format!("file://{path}");
    let parsed = Url::parse(&escaped).map_err(|error| ObjectError::invalid_name(url, error))?;
    let path = parsed
        .to_file_path()
        .map_err(|()| ObjectError::invalid_name(url, "it names no local path"))?;
    path.into_os_string()
        .into_string()
        .map_err(|_| ObjectError::invalid_name(url, "its path is not UTF-8"))
}

/// Names in buckets are taken as they stand: nothing in them is percent-decoded, and one `/` more makes another name.
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
    let folder = name.strip_suffix('/');
    let name = folder.unwrap_or(name);
    if name.starts_with('/') || name.ends_with('/') || folder == Some("") {
        let reason = "a name with an empty part cannot be read or written; write one `/` where there are two, or rename \
                      the object";
        return Err(ObjectError::invalid_name(url, reason));
    }
    Ok(Location::Bucket {
        cloud,
        bucket: bucket.to_owned(),
        name: name.to_owned(),
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
            Location::parse(r"file:///a\b.txt").unwrap(),
            Location::Local(r"/a\b.txt".into())
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
            ("s3://b//x", "an empty part"),
            ("s3://b/x//", "an empty part"),
            ("gs://b//", "an empty part"),
            ("hdfs://user@host/x", "name node"),
            ("http://", "not a usable name"),
        ] {
            let message = Location::parse(url).unwrap_err().to_string();
            assert!(message.contains(words), "{url}: {message}");
        }
    }

    #[test]
    fn names_of_one_place_are_one() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().to_str().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        let of = |end: &str| place(&format!("{base}/{end}"));
        let one = of("real/x");
        for other in ["./real//x", "real/x/", "real/./x/.", "link/x", "link/../real/x"] {
            assert_eq!(of(other), one, "{other}");
        }
        assert_eq!(place(&format!("file://{base}/real/x")), one);
        std::fs::create_dir(folder.path().join("real/x")).unwrap();
        assert_eq!(of("link/x"), one, "nor by being made");
        assert_ne!(of("real/y"), one);
        assert_eq!(place("s3://bucket/a/"), place("s3://bucket/a"));
        assert_ne!(place("s3://bucket/a"), place("s3://bucket/b"));
        assert_eq!(place("odd://a"), "odd://a");
    }
}
