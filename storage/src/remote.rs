//! Files and objects that are input or output, not blocks: plain paths, `file://`, `http(s)://`, `s3://`,
//! `gs://`, `az://`, `hdfs://` and `memory://`.
//!
//! Every call blocks its caller until the answer is there. Plain files go straight to the operating system. Everything
//! else goes through `object_store` on one background thread, which starts with the first use and ends with the last
//! copy of the [`Stores`]. What is read of remote objects goes through the cache, if there is one.
//!
//! The keys to buckets come from environment variables: those that begin with `AWS_` for `s3://` (`AWS_ACCESS_KEY_ID`,
//! `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`; `AWS_ENDPOINT` and `AWS_ALLOW_HTTP` for other servers), with `GOOGLE_` for
//! `gs://` (`GOOGLE_SERVICE_ACCOUNT`) and with `AZURE_` for `az://` (`AZURE_STORAGE_ACCOUNT_NAME`,
//! `AZURE_STORAGE_ACCOUNT_KEY`), as `object_store` lists them.
//!
//! `hdfs://host:port/folder/file` names a name node, `hdfs://service/folder/file` a name service and
//! `hdfs:///folder/file` the usual one of the files `core-site.xml` and `hdfs-site.xml` in `HADOOP_CONF_DIR`, else in
//! `HADOOP_HOME/etc/hadoop`. The user is that of the program, or `HADOOP_USER_NAME`, or a Kerberos principal where
//! those files ask for one. How often and how long a server is asked is taken from the [`StoresOptions`], not from
//! there. A file there is known by its length and the millisecond of its last change.

mod options;

mod pattern;

mod key_folder;

mod alternatives;

mod local;

mod pages;

mod client;

mod listing;

#[cfg(feature = "hdfs")]
mod hdfs;

#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az"))]
mod connection;

#[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az", feature = "hdfs"))]
mod servers;

mod prefix;

mod renamed;

mod marked;

mod existing;

mod folder;

mod shared_files;

mod shared_objects;

mod shared;

mod ahead;

mod object_folder;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
pub use object_store::ObjectStore;
use object_store::memory::InMemory;

use self::ahead::Ahead;
use self::alternatives::alternatives;
use self::client::{Client, Server, Target};
pub use self::existing::Existing;
pub use self::folder::FolderWriter;
pub use self::key_folder::{check_column, key_folder, key_of_name};
pub(crate) use self::object_folder::{FolderEntry, ObjectFolder};
pub use self::options::{CacheOptions, StoresOptions};
use self::pattern::has_wildcard;
use self::prefix::Prefix;
pub use self::prefix::SUCCESS;
pub use self::shared::SharedFolder;
use crate::bloom::Bloom;
use crate::cache::Cache;
use crate::chunk::Version;
use crate::error::Result;
use crate::figures::StoreFigures;
use crate::object::Location;
pub use crate::object::{Object, ObjectError};
use crate::peers::Peers;

/// Access to files and objects. Copies are cheap and share everything, the objects of `memory://` included; another
/// value has a memory of its own.
#[derive(Debug, Clone)]
pub struct Stores(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: StoresOptions,
    memory: Server,
    cache: OnceLock<Option<Arc<Cache>>>,
    ahead: Ahead,
    #[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az", feature = "hdfs"))]
    servers: servers::Servers,
    // Last: its thread ends before this value is gone.
    client: Arc<Client>,
}

impl Default for Stores {
    fn default() -> Self {
        Self::with_options(StoresOptions::default())
    }
}

impl Stores {
    /// Access with the default limits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Access with other limits. A cache folder that cannot be used costs a warning at the first read that wants it,
    /// and everything is fetched; [`Stores::check_cache`] says so before.
    pub fn with_options(options: StoresOptions) -> Self {
        Self::over(Arc::new(InMemory::new()), options)
    }

    /// Access where the objects of `memory://` are those of a store that the caller has opened.
    pub fn over(memory: Arc<dyn ObjectStore>, options: StoresOptions) -> Self {
        let options = options.limited();
        let memory = Server::new(memory, None, options.requests());
        let client = Arc::new(Client::new(options.retries));
        Self(Arc::new(Shared {
            options,
            memory,
            cache: OnceLock::new(),
            ahead: Ahead::default(),
            #[cfg(any(feature = "http", feature = "s3", feature = "gs", feature = "az", feature = "hdfs"))]
            servers: servers::Servers::default(),
            client,
        }))
    }

    /// Opens the cache folder, if one is asked for and it is not open yet.
    ///
    /// # Errors
    /// It cannot be made or written to.
    pub fn check_cache(&self) -> Result<()> {
        let Some(options) = self.0.options.cache.as_ref().filter(|_| self.0.cache.get().is_none()) else {
            return Ok(());
        };
        let opened = Cache::open(options, &self.0.client.counters)?;
        let _ = self.0.cache.set(Some(Arc::new(opened)));
        Ok(())
    }

    /// What reading has cost since this value was made.
    pub fn figures(&self) -> StoreFigures {
        self.0.client.counters.figures()
    }

    /// From now on what the cache lacks is looked for among other processes before a store is asked. Without a cache
    /// nothing changes: what a process could not keep it would ask the others for again and again.
    pub fn join(&self, peers: Arc<dyn Peers>) {
        if let Some(cache) = self.cache() {
            cache.join(peers);
        }
    }

    /// The filter of what other processes may ask this one for, by the keys of [`Peers`], and a number that is another
    /// one whenever it changes; `None` without a cache.
    pub fn holdings(&self) -> Option<(u64, Bloom)> {
        self.cache().map(|cache| cache.holdings())
    }

    /// Answers a question that a [`Peers`] value of another process has carried here; `None` if the answer is not here.
    /// No bytes whatever make it panic.
    pub fn answer(&self, question: &[u8]) -> Option<Bytes> {
        self.cache()?.answer(question)
    }

    /// Whether there is a cache.
    pub fn keeps(&self) -> bool {
        self.cache().is_some()
    }

    /// Whether the cache may hold the bytes `range` of an object: `false` is for sure.
    pub fn may_hold(&self, object: &Object, range: &Range<u64>) -> bool {
        let version = Version::of(object);
        version.is_some_and(|version| self.cache().is_some_and(|cache| cache.may_hold(&version, range)))
    }

    /// The limits in force.
    pub fn options(&self) -> &StoresOptions {
        &self.0.options
    }

    /// The objects that `pattern` names, sorted by name and each once.
    ///
    /// A pattern is a path or URL. It may
    /// - name one file, or a folder, which stands for its files but not those of folders in it;
    /// - hold the wildcards `*`, `?`, `[..]` and `**` (any depth), where a folder that matches stands for its files,
    ///   too;
    /// - hold alternatives `{a,b}`, for all that any of them names.
    ///
    /// What exists under the very name comes before those. As in Spark, names that begin with `.` or `_` are left out
    /// unless the pattern names them. Servers of http cannot be listed: an address names one object.
    ///
    /// # Errors
    /// Nothing is found, more than the limit is found, or a folder on the way cannot be read.
    pub fn list(&self, pattern: &str) -> Result<Vec<Object>> {
        let mut objects = self.list_any(pattern)?;
        objects.sort_unstable();
        objects.dedup();
        let objects_max = self.0.options.list_objects_max;
        if objects.is_empty() {
            let remedy = match has_wildcard(pattern) || pattern.contains('{') {
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

    /// What any of the patterns names that `pattern` stands for.
    fn list_any(&self, pattern: &str) -> Result<Vec<Object>, ObjectError> {
        let is_address = matches!(Location::parse(pattern)?, Location::Http { .. });
        if is_address || !pattern.contains('{') {
            return self.list_one(pattern);
        }
        if !has_wildcard(pattern)
            && let Ok(objects) = self.list_one(pattern)
        {
            return Ok(objects);
        }
        let (mut objects, objects_max) = (BTreeSet::new(), self.0.options.list_objects_max);
        for alternative in alternatives(pattern)? {
            match self.list_one(&alternative) {
                Ok(found) => objects.extend(found),
                Err(error) if names_nothing(&alternative, &error) => {}
                Err(error) => return Err(error),
            }
            if objects.len() > objects_max {
                break;
            }
        }
        Ok(objects.into_iter().collect())
    }

    /// The same where braces are letters of names.
    fn list_one(&self, pattern: &str) -> Result<Vec<Object>, ObjectError> {
        Ok(match Location::parse(pattern)? {
            Location::Local(path) => local::list(&path)?,
            Location::Memory(_) | Location::Bucket { .. } | Location::Hdfs { .. } => self.prefix(pattern)?.list()?,
            Location::Http { path, .. } if path.as_ref().contains('*') => {
                return Err(ObjectError::unsupported(
                    pattern,
                    "a server cannot be listed; name each object",
                ));
            }
            Location::Http { .. } => vec![self.0.client.head_or_get(self.target(pattern)?)?],
        })
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
            Location::Memory(_) | Location::Bucket { .. } | Location::Hdfs { .. } => self.prefix(url)?.write(bytes)?,
            Location::Http { .. } => return Err(read_only(url).into()),
        }
        Ok(())
    }

    /// Begins a folder of part files that appears whole, at [`FolderWriter::commit`], which says what that means in a
    /// store of objects. The folders that lead to it are made.
    ///
    /// # Errors
    /// There is something of that name already, or the place cannot be written.
    pub fn create_folder(&self, url: &str) -> Result<FolderWriter> {
        self.write_folder(url, Existing::Refuse)
    }

    /// The same where something of that name may be there, for which see [`Existing`].
    ///
    /// # Errors
    /// As [`Stores::create_folder`]; or what is there is to be replaced, and cannot be.
    pub fn write_folder(&self, url: &str, existing: Existing) -> Result<FolderWriter> {
        match Location::parse(url)? {
            Location::Local(path) => FolderWriter::local(&path, existing),
            Location::Http { .. } => Err(read_only(url).into()),
            _ if existing == Existing::Replace => Err(not_replaced(url).into()),
            Location::Memory(_) | Location::Bucket { .. } => FolderWriter::remote(self.prefix(url)?),
            Location::Hdfs { .. } => FolderWriter::renamed(self.prefix(url)?),
        }
    }

    /// A folder of part files that several processes write and that appears whole, at [`SharedFolder::publish`]. `name`
    /// is the same in all of them, see [`SharedFolder::draw_name`]. Nothing is touched yet.
    ///
    /// # Errors
    /// If `url` is neither a local folder nor in a bucket; or what is there is to be replaced, and cannot be.
    pub fn shared_folder(&self, url: &str, name: &str, existing: Existing) -> Result<SharedFolder> {
        match Location::parse(url)? {
            Location::Local(path) => SharedFolder::of_files(&path, name, existing),
            Location::Http { .. } => Err(read_only(url).into()),
            Location::Memory(_) | Location::Hdfs { .. } => {
                let reason = "several processes do not save there together; write to a folder that all processes see, or \
                              to a bucket, or run one process";
                Err(ObjectError::unsupported(url, reason).into())
            }
            _ if existing == Existing::Replace => Err(not_replaced(url).into()),
            Location::Bucket { .. } => SharedFolder::of_objects(self.prefix(url)?, name),
        }
    }

    /// A folder or prefix for objects that are created once.
    pub(crate) fn folder(&self, url: &str) -> Result<ObjectFolder> {
        Ok(match Location::parse(url)? {
            Location::Local(path) => ObjectFolder::local(self, url, &path)?,
            Location::Memory(_) | Location::Bucket { .. } | Location::Hdfs { .. } => {
                ObjectFolder::of(self, self.prefix(url)?.target()?)
            }
            Location::Http { .. } => return Err(read_only(url).into()),
        })
    }

    fn get(&self, object: &Object, range: Option<Range<u64>>) -> Result<Bytes, ObjectError> {
        let location = Location::parse(&object.url)?;
        if let Location::Local(path) = location {
            let bytes = local::read(object, &path, range)?;
            self.0.client.counters.local_bytes.add(bytes.len() as u64);
            return Ok(bytes);
        }
        let target = self.target(&object.url)?;
        let in_memory = matches!(location, Location::Memory(_));
        let options = self.0.options.cache.as_ref();
        let wants_cache = options.is_some_and(|options| options.includes_memory || !in_memory);
        let version = Version::of(object).filter(|_| wants_cache);
        match version.and_then(|version| Some((self.cache()?, version))) {
            Some((cache, version)) => self.get_through(cache, &version, target, object, range),
            None => self.0.client.get(target, object.clone(), range),
        }
    }

    /// The same through the cache.
    fn get_through(
        &self,
        cache: &Arc<Cache>,
        version: &Version,
        target: Target,
        object: &Object,
        range: Option<Range<u64>>,
    ) -> Result<Bytes, ObjectError> {
        let client = &self.0.client;
        let wanted = object.checked_range(range.clone())?;
        self.0.ahead.go_on(client, cache, version, &target, object, &wanted)?;
        let fetch = |range| client.get(target.clone(), object.clone(), Some(range));
        match cache.read(version, &wanted, &fetch) {
            Err(ObjectError::RangesNotServed { .. }) if range.is_none() => {
                let whole = client.get(target, object.clone(), None)?;
                cache.keep_whole(version, &whole);
                Ok(whole)
            }
            read => read,
        }
    }

    fn cache(&self) -> Option<&Arc<Cache>> {
        let options = self.0.options.cache.as_ref()?;
        let open = || match Cache::open(options, &self.0.client.counters) {
            Ok(cache) => Some(Arc::new(cache)),
            Err(error) => {
                tracing::warn!("everything remote is fetched anew, since there is no cache: {error}");
                None
            }
        };
        self.0.cache.get_or_init(open).as_ref()
    }

    fn target(&self, url: &str) -> Result<Target, ObjectError> {
        match Location::parse(url)? {
            Location::Memory(_) | Location::Bucket { .. } | Location::Hdfs { .. } => self.prefix(url)?.target(),
            #[cfg(feature = "http")]
            Location::Http { server, path } => {
                let store = self.0.servers.http(server.as_str(), &self.0.options)?.store;
                let url = url.to_owned();
                Ok(Target { url, store, path })
            }
            #[cfg(not(feature = "http"))]
            Location::Http { .. } => Err(not_built_in(url, "http")),
            Location::Local(_) => Err(ObjectError::unsupported(url, "a local file has no remote store")),
        }
    }

    fn prefix(&self, url: &str) -> Result<Prefix, ObjectError> {
        let (root, name, server) = match Location::parse(url)? {
            Location::Memory(name) => ("memory://".to_owned(), name, self.0.memory.clone()),
            #[cfg(any(feature = "s3", feature = "gs", feature = "az"))]
            Location::Bucket { cloud, bucket, name } => {
                let server = self.0.servers.bucket(cloud, &bucket, &self.0.options)?;
                (format!("{}://{bucket}/", cloud.scheme()), name, server)
            }
            #[cfg(not(any(feature = "s3", feature = "gs", feature = "az")))]
            Location::Bucket { cloud, .. } => return Err(not_built_in(url, cloud.scheme())),
            #[cfg(feature = "hdfs")]
            Location::Hdfs { name_node, name } => {
                let runtime = self.0.client.handle()?;
                let server = self.0.servers.hdfs(&name_node, &self.0.options, runtime)?;
                (format!("hdfs://{name_node}/"), name, server)
            }
            #[cfg(not(feature = "hdfs"))]
            Location::Hdfs { .. } => return Err(not_built_in(url, "hdfs")),
            _ => return Err(ObjectError::unsupported(url, "it names no bucket")),
        };
        Ok(Prefix {
            client: Arc::clone(&self.0.client),
            server,
            root,
            name,
            names_folder: url.ends_with('/'),
            objects_max: self.0.options.list_objects_max,
        })
    }
}

/// Whether a listing failed because there is nothing of the pattern's name. A file on the disk that vanishes while it
/// is listed is another matter: what was listed beside it must not be left out for its sake.
fn names_nothing(pattern: &str, error: &ObjectError) -> bool {
    match (error, Location::parse(pattern)) {
        (ObjectError::NotFound { url }, Ok(Location::Local(path))) => *url == local::spelled(&path),
        (ObjectError::NotFound { .. } | ObjectError::Unfinished { .. }, _) => true,
        _ => false,
    }
}

#[cfg(not(all(feature = "http", feature = "s3", feature = "gs", feature = "az", feature = "hdfs")))]
fn not_built_in(url: &str, feature: &str) -> ObjectError {
    let remedy = format!("{feature}:// is not built in; build with `--features {feature}`, or copy it to a local file");
    ObjectError::unsupported(url, &remedy)
}

fn read_only(url: &str) -> ObjectError {
    ObjectError::unsupported(url, "http(s) is read only; write to a local path")
}

fn not_replaced(url: &str) -> ObjectError {
    let remedy = "no store but a local folder can replace many objects at once; write to another name, or remove what is \
                  there before";
    ObjectError::unsupported(url, remedy)
}

#[cfg(test)]
mod tests;
