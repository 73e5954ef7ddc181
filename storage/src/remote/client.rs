//! Stores behind `object_store`, driven by one background thread so that no caller ever runs an asynchronous runtime.

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread::JoinHandle;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::channel::oneshot;
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio::runtime::{Builder, Handle};

use crate::object::{Object, ObjectError};

type Result<T> = std::result::Result<T, ObjectError>;

/// How much of a remote store's words an error carries, in characters.
const MESSAGE_LENGTH_MAX: usize = 500;

/// One object in one store, and the name its user gave it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: ObjectPath,
}

/// The background thread and this value's own memory store.
#[derive(Debug, Default)]
pub(super) struct Client {
    memory: Arc<InMemory>,
    /// Held for writing while a folder of objects becomes visible in `memory`, so that no listing sees half of it.
    commits: RwLock<()>,
    background: Mutex<Option<Background>>,
}

impl Client {
    pub(super) fn memory_target(&self, name: &str) -> Result<Target> {
        let url = format!("memory://{name}");
        let path = ObjectPath::parse(name).map_err(|error| ObjectError::invalid_name(&url, error))?;
        Ok(Target {
            url,
            store: Arc::clone(&self.memory) as Arc<dyn ObjectStore>,
            path,
        })
    }

    pub(super) fn head(&self, target: Target) -> Result<Object> {
        self.run(async move {
            let options = GetOptions {
                head: true,
                ..GetOptions::default()
            };
            let found = target.store.get_opts(&target.path, options).await;
            found
                .map(|found| object(&target.url, &found.meta))
                .map_err(|error| failed(&target.url, "read it", &error))
        })?
    }

    pub(super) fn get(&self, target: Target, listed: Object, range: Option<Range<u64>>) -> Result<Bytes> {
        let wanted = listed.checked_range(range.clone())?;
        if range.is_some() && wanted.is_empty() {
            return Ok(Bytes::new());
        }
        let length = wanted.end - wanted.start;
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        self.run(async move {
            let fail = |error| failed(&target.url, "read it", &error);
            let found = target.store.get_opts(&target.path, options).await.map_err(fail)?;
            listed.check_same(&object(&target.url, &found.meta))?;
            let bytes = found.bytes().await.map_err(fail)?;
            match bytes.len() as u64 == length {
                true => Ok(bytes),
                false => Err(ObjectError::Remote {
                    url: target.url,
                    message: format!("it sent {} bytes where {length} were due", bytes.len()),
                }),
            }
        })?
    }

    /// Every object of the memory store below `prefix`, with its name.
    pub(super) fn list_memory(&self, prefix: &str) -> Result<Vec<(String, Object)>> {
        let target = self.memory_target(prefix)?;
        let _whole = self.commits.read().unwrap_or_else(PoisonError::into_inner);
        self.run(async move {
            let found: Vec<ObjectMeta> = target.store.list(Some(&target.path)).try_collect().await?;
            Ok(found
                .iter()
                .map(|meta| {
                    let name = meta.location.to_string();
                    let listed = object(&format!("memory://{name}"), meta);
                    (name, listed)
                })
                .collect())
        })?
        .map_err(|error: object_store::Error| failed(&format!("memory://{prefix}"), "list it", &error))
    }

    /// Puts all of `objects` into the memory store; no listing sees some of them without the others.
    pub(super) fn put_memory(&self, objects: Vec<(Target, Bytes)>) -> Result<()> {
        let _whole = self.commits.write().unwrap_or_else(PoisonError::into_inner);
        self.run(async move {
            for (target, bytes) in objects {
                let put = target.store.put(&target.path, bytes.into()).await;
                put.map_err(|error| failed(&target.url, "write it", &error))?;
            }
            Ok(())
        })?
    }

    /// Waits for `work`, which runs on the background thread.
    pub(super) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.handle()?.spawn(async move {
            // The caller waits below until it has the answer, so nobody is left to miss it.
            let _ = answer.send(work.await);
        });
        answered
            .recv()
            .map_err(|_| background_failed("it ended before it answered"))
    }

    fn handle(&self) -> Result<Handle> {
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        if background.is_none() {
            *background = Some(Background::start()?);
        }
        background
            .as_ref()
            .map(|started| started.handle.clone())
            .ok_or_else(|| background_failed("it did not start"))
    }
}

/// A thread that drives a runtime until the value is dropped.
#[derive(Debug)]
struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(background_failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("distdl-remote".into())
            .spawn(move || {
                // Ends with the sender, in either way.
                let _ = runtime.block_on(stopped);
            })
            .map_err(background_failed)?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was already reported by whoever waited for it.
            let _ = thread.join();
        }
    }
}

fn background_failed(error: impl std::fmt::Display) -> ObjectError {
    ObjectError::Remote {
        url: "the thread for remote objects".into(),
        message: error.to_string(),
    }
}

fn object(url: &str, meta: &ObjectMeta) -> Object {
    let dated = Some(meta.last_modified).filter(|time| time.timestamp() != 0);
    let version = meta.e_tag.clone().or_else(|| dated.map(|time| time.to_rfc3339()));
    Object {
        url: url.to_owned(),
        bytes: meta.size,
        version,
    }
}

pub(super) fn failed(url: &str, action: &'static str, error: &object_store::Error) -> ObjectError {
    use object_store::Error;
    let url = url.to_owned();
    match error {
        Error::NotFound { .. } => ObjectError::NotFound { url },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ObjectError::NoPermission { url, action },
        Error::AlreadyExists { .. } => ObjectError::AlreadyExists { url },
        // Said of a whole answer to a request for a part.
        Error::NotSupported { .. } => ObjectError::RangesNotServed { url },
        _ => ObjectError::Remote {
            url,
            message: error.to_string().chars().take(MESSAGE_LENGTH_MAX).collect(),
        },
    }
}
