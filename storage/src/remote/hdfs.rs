//! The distributed file system of Hadoop behind the face of a store of objects.
//!
//! The client is `hdfs-native`, which speaks the protocol itself: no Java is loaded. What is added here: a limit of
//! time for every request; errors of their kind; a version that belongs to the very bytes that are read; and writing
//! under names that no two writers share, renamed when they are whole.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use hdfs_native::file::FileReader;
use hdfs_native::{Client, ClientBuilder, HdfsError, WriteOptions};
use hdfs_native_object_store::HdfsObjectStore;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::options::StoresOptions;
use super::pattern::{draw_name, unfinished};

/// First pause before a name node is tried again, in milliseconds, as for other stores.
const PAUSE_MILLIS: u64 = 100;

/// How often name nodes that do not answer are called again: the pauses grow up to 15 seconds.
const CALLS_MAX: usize = 40;

/// How often a file is written whose blocks come quicker than the name node hears of them, and the longest pause
/// between.
const WRITES_MAX: usize = 8;
const PAUSE_MAX: Duration = Duration::from_secs(2);
const NOT_HEARD_YET: &str = "NotReplicatedYetException";

/// What an address may be.
const CONFIGURED_BY: &str =
    "give a host and its port, or a name service of the files core-site.xml and hdfs-site.xml in HADOOP_CONF_DIR";

#[derive(Debug)]
pub(super) struct Hdfs {
    client: Client,
    store: HdfsObjectStore,
    request_timeout: Duration,
}

impl Hdfs {
    /// Nothing is asked of a server yet. Connections are driven by `runtime`.
    pub(super) fn new(url: &str, options: &StoresOptions, runtime: Handle) -> Result<Self> {
        let silence = options.silence_timeout.as_millis().max(1);
        let client = ClientBuilder::new()
            .with_url(url)
            .with_config([
                (
                    "dfs.client.failover.max.attempts",
                    options.retries.min(CALLS_MAX).to_string(),
                ),
                ("dfs.client.failover.sleep.base.millis", PAUSE_MILLIS.to_string()),
                ("dfs.client.socket-timeout", silence.to_string()),
            ])
            .with_io_runtime(runtime)
            .build()
            .map_err(|error| generic(format!("{error}; {CONFIGURED_BY}")))?;
        Ok(Self {
            store: HdfsObjectStore::new(client.clone()),
            client,
            request_timeout: options.request_timeout,
        })
    }

    async fn within<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.request_timeout;
        match timeout(limit, work).await {
            Ok(done) => done.map_err(refined),
            Err(_) => Err(silent(limit)),
        }
    }

    /// A reader, and what it reads. Names are looked up anew for every request, so what was there is only known to be
    /// what the reader has if it is still there afterwards.
    async fn open(&self, location: &Path) -> Result<(ObjectMeta, FileReader)> {
        loop {
            let before = self.store.head(location).await?;
            let reader = self.client.read(&absolute(location)).await.map_err(typed)?;
            let after = self.store.head(location).await?;
            if before != after {
                continue;
            }
            return match reader.file_length() as u64 == after.size {
                true => Ok((after, reader)),
                false => Err(generic("it is still being written; read it when it is closed")),
            };
        }
    }

    async fn exists(&self, location: &Path) -> Result<bool> {
        match self.client.get_file_info(&absolute(location)).await {
            Ok(_) => Ok(true),
            Err(HdfsError::FileNotFound(_)) => Ok(false),
            Err(error) => Err(typed(error)),
        }
    }

    /// Writes a file beside it, and renames that when it is whole. A name node that has not heard yet that a block is
    /// stored refuses the block after the next; the client gives up then, and all is written again after a pause.
    async fn put(&self, location: &Path, payload: PutPayload, overwrite: bool) -> Result<()> {
        let mut pause = Duration::from_millis(PAUSE_MILLIS);
        for _ in 1..WRITES_MAX {
            match self.put_once(location, payload.clone(), overwrite).await {
                Err(Error::Generic { source, .. }) if source.to_string().contains(NOT_HEARD_YET) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                done => return done,
            }
        }
        self.put_once(location, payload, overwrite).await
    }

    async fn put_once(&self, location: &Path, payload: PutPayload, overwrite: bool) -> Result<()> {
        let part = sibling(location);
        let written = self.within(self.write(&part, location, payload, overwrite)).await;
        if written.is_err() {
            // Its name is hidden: what cannot be removed does no harm.
            let _ = self.within(self.store.delete(&part)).await;
        }
        written
    }

    /// Writes `part`, and renames it when it is whole.
    async fn write(&self, part: &Path, location: &Path, payload: PutPayload, overwrite: bool) -> Result<()> {
        // Before the work; the rename looks again.
        if !overwrite && self.exists(location).await? {
            return Err(typed(HdfsError::AlreadyExists(location.to_string())));
        }
        let (part, path) = (absolute(part), absolute(location));
        let created = self.client.create(&part, WriteOptions::default()).await;
        let mut file = created.map_err(typed)?;
        for bytes in payload {
            file.write_bytes(bytes).await.map_err(typed)?;
        }
        file.close().await.map_err(typed)?;
        self.client.rename(&part, &path, overwrite).await.map_err(typed)
    }
}

impl fmt::Display for Hdfs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(formatter)
    }
}

#[async_trait]
impl ObjectStore for Hdfs {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let overwrite = match options.mode {
            PutMode::Create => false,
            PutMode::Overwrite => true,
            // The answer is that it cannot be done.
            PutMode::Update(_) => return self.store.put_opts(location, payload, options).await,
        };
        self.put(location, payload, overwrite).await?;
        Ok(PutResult {
            e_tag: None,
            version: None,
            extensions: Default::default(),
        })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.within(self.store.put_multipart_opts(location, options)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if options.head {
            return self.within(self.store.get_opts(location, options)).await;
        }
        let deadline = Instant::now() + self.request_timeout;
        let (meta, reader) = self.within(self.open(location)).await?;
        options.check_preconditions(&meta)?;
        let range = match options.range {
            Some(range) => range.as_range(meta.size).map_err(generic)?,
            None => 0..meta.size,
        };
        let Range { start, end } = range;
        let bytes = reader.read_range_stream(start as usize, (end - start) as usize);
        let bytes = limited(bytes.map(|bytes| bytes.map_err(typed)).boxed(), move || deadline);
        Ok(GetResult {
            payload: GetResultPayload::Stream(bytes),
            meta,
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let limit = self.request_timeout;
        limited(self.store.delete_stream(locations), move || Instant::now() + limit)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let limit = self.request_timeout;
        limited(self.store.list(prefix), move || Instant::now() + limit)
    }

    /// Unlike other stores, this one knows folders that are not there, and says so.
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let listed = self.within(self.store.list_with_delimiter(prefix)).await?;
        let is_empty = listed.objects.is_empty() && listed.common_prefixes.is_empty();
        match prefix.filter(|_| is_empty) {
            Some(prefix) if !self.within(self.exists(prefix)).await? => {
                Err(typed(HdfsError::FileNotFound(prefix.to_string())))
            }
            _ => Ok(listed),
        }
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.within(self.store.copy_opts(from, to, options)).await
    }

    /// At once, for a folder with all that is in it too.
    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.within(self.store.rename_opts(from, to, options)).await
    }
}

/// A name for what is being written, beside what it will be.
fn sibling(location: &Path) -> Path {
    let mut parts: Vec<_> = location.parts().collect();
    parts.pop();
    Path::from_iter(parts).join(unfinished(&draw_name()))
}

fn absolute(path: &Path) -> String {
    format!("/{path}")
}

/// The same items, each of which must come before its deadline.
fn limited<T: Send + 'static>(
    items: BoxStream<'static, Result<T>>,
    deadline: impl Fn() -> Instant + Send + 'static,
) -> BoxStream<'static, Result<T>> {
    let next = move |items: Option<BoxStream<'static, Result<T>>>| {
        let (started, deadline) = (Instant::now(), deadline());
        async move {
            let mut items = items?;
            match timeout_at(deadline, items.next()).await {
                Ok(Some(item)) => Some((item.map_err(refined), Some(items))),
                Ok(None) => None,
                Err(_) => Some((Err(silent(started.elapsed())), None)),
            }
        }
    };
    stream::unfold(Some(items), next).fuse().boxed()
}

fn silent(waited: Duration) -> Error {
    generic(format!("no answer within {waited:.1?}"))
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic {
        store: "HDFS",
        source: source.into(),
    }
}

fn typed(error: HdfsError) -> Error {
    refined(generic(error))
}

/// The error of the kind that the name node means by the Java class that it names.
fn refined(error: Error) -> Error {
    let Error::Generic { source, .. } = error else {
        return error;
    };
    let source = match source.downcast::<HdfsError>() {
        Ok(source) => source,
        Err(source) => return generic(source),
    };
    let (path, text) = (String::new(), source.to_string());
    match class(&source) {
        "FileNotFoundException" => Error::NotFound { path, source },
        "FileAlreadyExistsException" => Error::AlreadyExists { path, source },
        // Said of a name below that of a file.
        "AccessControlException" if text.contains("is not a directory") => Error::NotFound { path, source },
        "AccessControlException" | "AuthorizationException" => Error::PermissionDenied { path, source },
        // Behind the first line there may be the name node's stack.
        _ => generic(text.lines().next().unwrap_or_default()),
    }
}

/// The Java class, without its package, of what the client knows and of what it passes on.
fn class(error: &HdfsError) -> &str {
    match error {
        HdfsError::FileNotFound(_) => "FileNotFoundException",
        HdfsError::AlreadyExists(_) => "FileAlreadyExistsException",
        HdfsError::RPCError(class, _) => class.rsplit(['.', '$']).next().unwrap_or_default(),
        _ => "",
    }
}
