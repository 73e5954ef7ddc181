//! Files and objects that are input or output, not blocks: plain paths, `file://`, `http(s)://` and `memory://`.
//!
//! Every call blocks its caller until the answer is there. Plain files go straight to the operating system. Everything
//! else goes through `object_store` on one background thread, which starts with the first use and ends with the last
//! copy of the [`Stores`].

mod options;

mod pattern;

mod local;

mod client;

#[cfg(feature = "http")]
mod http;

mod folder;

mod place;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use self::client::{Client, Target};
pub use self::folder::{FolderWriter, SharedFolder};
pub use self::options::StoresOptions;
use self::pattern::{MATCHING, has_wildcard, hidden};
pub(crate) use self::place::{Found, Place};
use crate::error::Result;
use crate::object::Location;
pub use crate::object::{Object, ObjectError};

/// Access to files and objects. Copies are cheap and share everything, the objects of `memory://` included; another
/// value has a memory of its own.
#[derive(Debug, Clone, Default)]
pub struct Stores(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    options: StoresOptions,
    client: Arc<Client>,
    #[cfg(feature = "http")]
    servers: http::Servers,
}

impl Stores {
    /// Access with the default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Access with other limits.
    pub fn with_options(options: StoresOptions) -> Self {
        Self(Arc::new(Shared {
            options,
            ..Shared::default()
        }))
    }

    /// The limits in force.
    pub fn options(&self) -> &StoresOptions {
        &self.0.options
    }

    /// The objects that `pattern` names, sorted by name and each once.
    ///
    /// A pattern is a path or URL. It may name one file; a folder, which stands for its files but not those of folders
    /// in it; or hold the wildcards `*`, `?`, `[..]` and `**` (any depth), where a folder that matches stands for its
    /// files too. What exists under the very name comes before wildcards. As in Spark, names that begin with `.` or `_` are left out unless the pattern names them. Servers of
    /// http cannot be listed: an address names one object.
    ///
    /// # Errors
    /// Nothing is found, more than the limit is found, or a folder on the way cannot be read.
    pub fn list(&self, pattern: &str) -> Result<Vec<Object>> {
        let mut objects = match Location::parse(pattern)? {
            Location::Local(path) => local::list(&path)?,
            Location::Memory(name) => self.list_memory(&name)?,
            Location::Http { path, .. } if path.as_ref().contains('*') => {
                return Err(ObjectError::unsupported(pattern, "a server cannot be listed; name each object").into());
            }
            Location::Http { .. } => vec![self.0.client.head(self.target(pattern)?)?],
        };
        objects.sort_unstable();
        objects.dedup();
        let objects_max = self.0.options.list_objects_max;
        if objects.is_empty() {
            let remedy = match has_wildcard(pattern) {
                true => {
                    "check the pattern: `*` and `?` stop at `/`, `**` does not, names with a leading . or _ are hidden"
                }
                false => "the folder holds no file that is not hidden; use `/**/*` for files of folders in it",
            };
            return Err(ObjectError::NothingFound {
                pattern: pattern.to_owned(),
                remedy,
            }
            .into());
        }
        if objects.len() > objects_max {
            return Err(ObjectError::TooManyObjects {
                pattern: pattern.to_owned(),
                objects_max,
            }
            .into());
        }
        Ok(objects)
    }

    /// A whole object.
    ///
    /// # Errors
    /// It is gone, longer than [`StoresOptions::read_bytes_max`], or not the one that was listed.
    pub fn read(&self, object: &Object) -> Result<Bytes> {
        let bytes_max = self.0.options.read_bytes_max;
        if object.bytes > bytes_max {
            return Err(ObjectError::TooLarge {
                url: object.url.clone(),
                bytes: object.bytes,
                bytes_max,
            }
            .into());
        }
        Ok(self.get(object, None)?)
    }

    /// The bytes `range` of an object.
    ///
    /// # Errors
    /// It is gone, not the one that was listed, `range` is not within it, or its server sends whole objects only.
    pub fn read_range(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        Ok(self.get(object, Some(range))?)
    }

    /// Writes an object whole or not at all, and replaces what was there. A local file is on the disk when this
    /// returns; the folders that lead to it are made.
    ///
    /// # Errors
    /// The place cannot be written. Servers of http are read only.
    pub fn write(&self, url: &str, bytes: Bytes) -> Result<()> {
        match Location::parse(url)? {
            Location::Local(path) => local::write(Path::new(&path), &bytes)?,
            Location::Memory(name) => self
                .0
                .client
                .put_memory(vec![(self.0.client.memory_target(&name)?, bytes)])?,
            Location::Http { .. } => return Err(read_only(url).into()),
        }
        Ok(())
    }

    /// Begins a folder of part files that appears whole, at [`FolderWriter::commit`]. The folders that lead to it are
    /// made.
    ///
    /// # Errors
    /// There is something of that name already, or the place cannot be written.
    pub fn create_folder(&self, url: &str) -> Result<FolderWriter> {
        match Location::parse(url)? {
            Location::Local(path) => FolderWriter::local(&path),
            Location::Memory(name) => FolderWriter::memory(Arc::clone(&self.0.client), &name),
            Location::Http { .. } => Err(read_only(url).into()),
        }
    }

    /// A folder of part files that several processes write and that appears whole, at [`SharedFolder::publish`]. `name`
    /// is the same in all of them, see [`SharedFolder::draw_name`]. Nothing is touched yet.
    ///
    /// # Errors
    /// If `url` is no local folder.
    pub fn shared_folder(&self, url: &str, name: &str) -> Result<SharedFolder> {
        match Location::parse(url)? {
            Location::Local(path) => SharedFolder::new(&path, name),
            Location::Memory(_) => {
                let reason = "each process has a memory of its own; write to a folder that all processes see";
                Err(ObjectError::unsupported(url, reason).into())
            }
            Location::Http { .. } => Err(read_only(url).into()),
        }
    }

    /// A folder or prefix for objects that are created once.
    pub(crate) fn place(&self, url: &str) -> Result<Place> {
        Ok(match Location::parse(url)? {
            Location::Local(path) => Place::local(self, url, &path)?,
            Location::Memory(name) => {
                let target = self.0.client.memory_target(&name)?;
                Place::of(self, target)
            }
            Location::Http { .. } => return Err(read_only(url).into()),
        })
    }

    fn get(&self, object: &Object, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        match Location::parse(&object.url)? {
            Location::Local(path) => local::read(object, &path, range),
            _ => self.0.client.get(self.target(&object.url)?, object.clone(), range),
        }
    }

    fn target(&self, url: &str) -> Result<Target, ObjectError> {
        match Location::parse(url)? {
            Location::Memory(name) => self.0.client.memory_target(&name),
            #[cfg(feature = "http")]
            Location::Http { server, path } => {
                let store = self.0.servers.open(server.as_str(), &self.0.options)?;
                Ok(Target {
                    url: url.to_owned(),
                    store,
                    path,
                })
            }
            #[cfg(not(feature = "http"))]
            Location::Http { .. } => Err(ObjectError::unsupported(
                url,
                "http(s) is not built in; build with `--features http`, or copy it to a local file",
            )),
            Location::Local(_) => Err(ObjectError::unsupported(url, "a local file has no remote store")),
        }
    }

    fn list_memory(&self, name: &str) -> Result<Vec<Object>, ObjectError> {
        if let Ok(object) = self.0.client.head(self.0.client.memory_target(name)?) {
            return Ok(vec![object]);
        }
        if !has_wildcard(name) {
            let below = self.0.client.list_memory(name)?;
            let direct = |found: &str| !found[name.len()..].trim_start_matches('/').contains('/');
            return match below.is_empty() {
                true => Err(ObjectError::NotFound {
                    url: format!("memory://{name}"),
                }),
                false => Ok(keep(below, |found| direct(found) && !hidden(found, name))),
            };
        }
        let pattern = glob::Pattern::new(name).map_err(|error| ObjectError::invalid_name(name, error))?;
        let fixed = &name[..name.find(['*', '?', '[']).unwrap_or(name.len())];
        let folder = fixed.rsplit_once('/').map_or("", |(folder, _)| folder);
        let below = self.0.client.list_memory(folder)?;
        let matches = |found: &str| pattern.matches_with(found, MATCHING);
        let folder_matches = |found: &str| found.rsplit_once('/').is_some_and(|(folder, _)| matches(folder));
        Ok(keep(below, |found| {
            (matches(found) || folder_matches(found)) && !hidden(found, name)
        }))
    }
}

fn keep(objects: Vec<(String, Object)>, wanted: impl Fn(&str) -> bool) -> Vec<Object> {
    objects
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .map(|(_, object)| object)
        .collect()
}

fn read_only(url: &str) -> ObjectError {
    ObjectError::unsupported(url, "http(s) is read only; write to a local path")
}

#[cfg(test)]
mod tests;
