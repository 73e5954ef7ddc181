//! Stores behind `object_store`, driven by one background thread so that no caller ever runs an asynchronous runtime.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::oneshot;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::runtime::{Builder, Handle};
use tokio::sync::Semaphore;

use super::local;
use super::pages::Pages;
use crate::figures::Counters;
use crate::object::{Object, ObjectError, all_shown};
use crate::unpoisoned::Unpoisoned;

type Result<T> = std::result::Result<T, ObjectError>;

/// How much of a remote store's words an error carries, in characters.
const MESSAGE_LENGTH_MAX: usize = 500;

/// How to mend that a folder of a store holds a name that the library below cannot take.
const UNUSABLE: &str = "an object there whose name has an empty part, `.` or `..` between its `/` cannot be read, nor \
                        listed with others: rename it, or name a folder that does not hold it";

/// Threads of the background for what blocks: names of hosts, local files, and reading ahead.
const BLOCKING_THREADS_MAX: usize = 64;

/// How often an answer that was cut is asked for anew where no tag lets the store go on in its middle.
const CUTS_MAX: usize = 3;

/// What servers tell times in, and how often one is asked again about an object that changes all the time.
const TICK: Duration = Duration::from_secs(1);
const SETTLING_MAX: usize = 2;

/// Goes with an answer about an object that is known by its date alone, and may have been changed in the second of that
/// answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct JustChanged;

/// One object in one store, and the name its user gave it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: ObjectPath,
}

/// A server or bucket.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) store: Arc<dyn ObjectStore>,
    /// The same where it lists folders by pages. These requests are counted as listings only.
    pub(super) pages: Option<Pages>,
    /// A listing holds one request while others ask for what it does not tell of an object: one is left to those.
    listings: Arc<Semaphore>,
}

impl Server {
    /// One that takes so many requests at a time, at least 2.
    pub(super) fn new(store: Arc<dyn ObjectStore>, pages: Option<Pages>, requests: usize) -> Self {
        Self {
            store,
            pages,
            listings: Arc::new(Semaphore::new(requests - 1)),
        }
    }
}

/// The background thread.
#[derive(Debug, Default)]
pub(super) struct Client {
    pub(super) counters: Arc<Counters>,
    background: Mutex<Option<Background>>,
    retries: usize,
}

impl Client {
    pub(super) fn new(retries: usize) -> Self {
        Self {
            retries,
            ..Self::default()
        }
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

    /// The same of an address, which may answer only those who read, see [`told`]. What was changed a moment ago is
    /// asked about again a second later: another change in the same one would leave it the same date, and who comes
    /// later would take what is kept of the old contents for the new.
    pub(super) fn head_or_get(&self, target: Target) -> Result<Object> {
        let ask = || self.run(told(target.clone()))?;
        let (mut found, mut just_changed) = ask()?;
        for _ in 0..SETTLING_MAX {
            if !just_changed {
                break;
            }
            std::thread::sleep(TICK);
            // Who reads it learns what has become of it.
            let Ok((now, changed_again)) = ask() else { break };
            // Its second is over, whatever the server says of its clock.
            just_changed = changed_again && now.version != found.version;
            found = now;
        }
        Ok(found)
    }

    /// The bytes `range`, or all, of an object that must be as it was listed.
    pub(super) fn get(&self, target: Target, listed: Object, range: Option<Range<u64>>) -> Result<Bytes> {
        get(&self.runner()?, &self.counters, target, listed, range)
    }

    /// Writes an object, whole or not at all.
    pub(super) fn put(&self, target: Target, bytes: Bytes, mode: PutMode) -> Result<()> {
        self.run(async move {
            let put = target
                .store
                .put_opts(&target.path, bytes.into(), PutOptions::from(mode))
                .await;
            put.map(drop).map_err(|error| failed(&target.url, "write it", &error))
        })?
    }

    /// Renames a folder with all that is in it, where the store can, if nothing has the new name.
    pub(super) fn rename(&self, from: Target, to: Target) -> Result<()> {
        self.run(async move {
            let renamed = from.store.rename_if_not_exists(&from.path, &to.path).await;
            renamed.map_err(|error| failed(&to.url, "rename a folder to it", &error))
        })?
    }

    /// Removes an object, if it is there.
    pub(super) fn remove(&self, target: Target) -> Result<()> {
        let removed = self.run(async move {
            let removed = target.store.delete(&target.path).await;
            removed.map_err(|error| failed(&target.url, "remove it", &error))
        })?;
        match removed {
            Err(ObjectError::NotFound { .. }) => Ok(()),
            removed => removed,
        }
    }

    /// Waits for `work`, which runs on the background thread.
    pub(super) fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        self.runner()?.run(work)
    }

    /// The same for `work` that asks a server about objects as it lists them.
    pub(super) fn run_listing<T: Send + 'static>(
        &self,
        server: &Server,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T> {
        let listings = Arc::clone(&server.listings);
        self.run(async move {
            let _turn = listings.acquire().await;
            work.await
        })
    }

    /// Starts `work`, which may block, beside the background thread, and does not wait for it.
    pub(super) fn begin(&self, work: impl FnOnce(&Runner, &Arc<Counters>) + Send + 'static) -> Result<()> {
        let (runner, counters) = (self.runner()?, Arc::clone(&self.counters));
        runner.handle.clone().spawn_blocking(move || work(&runner, &counters));
        Ok(())
    }

    /// The background's runtime, for what connects by itself.
    #[cfg(feature = "hdfs")]
    pub(super) fn handle(&self) -> Result<Handle> {
        Ok(self.runner()?.handle)
    }

    fn runner(&self) -> Result<Runner> {
        let mut background = self.background.lock().unpoisoned();
        if background.is_none() {
            *background = Some(Background::start()?);
        }
        background
            .as_ref()
            .map(|started| Runner {
                handle: started.handle.clone(),
                retries: self.retries,
            })
            .ok_or_else(|| background_failed("it did not start"))
    }
}

/// The way to the background thread, without keeping it alive.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    handle: Handle,
    retries: usize,
}

impl Runner {
    fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            // The caller waits below until it has the answer, so nobody is left to miss it.
            let _ = answer.send(work.await);
        });
        answered
            .recv()
            .map_err(|_| background_failed("it ended before it answered"))
    }
}

/// What a server tells of an address, and whether that was [just changed](JustChanged). It may answer only those who
/// read: one that is signed for that, or of a server that does not know the length of what it sends before it sends it.
/// The first byte tells of the whole then.
async fn told(target: Target) -> Result<(Object, bool)> {
    let ask = |options| target.store.get_opts(&target.path, options);
    let head = GetOptions {
        head: true,
        ..GetOptions::default()
    };
    let first = GetOptions {
        range: Some(GetRange::Bounded(0..1)),
        ..GetOptions::default()
    };
    let mut found = ask(head).await;
    if found.as_ref().is_err_and(may_be_read) {
        let read = match ask(first).await {
            // All of it is sent, or there is no first byte.
            Err(error) if sends_no_part(&error) => ask(GetOptions::default()).await,
            read => read,
        };
        found = read.or(found);
    }
    let found = found.map_err(|error| failed(&target.url, "read it", &error))?;
    let just_changed = found.extensions.get::<JustChanged>().is_some();
    Ok((object(&target.url, &found.meta), just_changed))
}

/// The bytes `range`, or all, of an object that must be as it was listed.
pub(super) fn get(
    runner: &Runner,
    counters: &Arc<Counters>,
    target: Target,
    listed: Object,
    range: Option<Range<u64>>,
) -> Result<Bytes> {
    let wanted = listed.checked_range(range.clone())?;
    if range.is_some() && wanted.is_empty() {
        return Ok(Bytes::new());
    }
    let length = wanted.end - wanted.start;
    let options = GetOptions {
        range: range.map(GetRange::Bounded),
        ..GetOptions::default()
    };
    counters.fetches.add(1);
    let mut cuts_left = runner.retries.min(CUTS_MAX);
    let bytes = runner.run(async move {
        let fail = |error| failed(&target.url, "read it", &error);
        let bytes = loop {
            let found = target.store.get_opts(&target.path, options.clone()).await;
            let found = found.map_err(fail)?;
            listed.check_same(&object_like(&listed, &target.url, &found.meta))?;
            let went_on = found.meta.e_tag.is_some();
            match found.bytes().await {
                Err(_) if !went_on && cuts_left > 0 => cuts_left -= 1,
                bytes => break bytes.map_err(fail)?,
            }
        };
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(ObjectError::Remote {
                url: target.url,
                message: format!("it sent {} bytes where {length} were due", bytes.len()),
            }),
        }
    })??;
    counters.remote_bytes.add(bytes.len() as u64);
    Ok(bytes)
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
            .max_blocking_threads(BLOCKING_THREADS_MAX)
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

pub(super) fn object(url: &str, meta: &ObjectMeta) -> Object {
    Object {
        url: url.to_owned(),
        bytes: meta.size,
        version: meta.e_tag.as_deref().map(unquoted).or_else(|| date(meta)),
    }
}

/// An entity tag without its quotes, which Azure leaves out in listings only. A weak one, `W/".."`, stays as it is.
fn unquoted(tag: &str) -> String {
    let inner = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    inner.unwrap_or(tag).to_owned()
}

/// The same for an object that was listed by its date, where another answer of its store named it by a tag too.
fn object_like(listed: &Object, url: &str, meta: &ObjectMeta) -> Object {
    let by_date = date(meta).filter(|date| listed.version.as_ref() == Some(date));
    let found = object(url, meta);
    Object {
        version: by_date.or(found.version),
        ..found
    }
}

fn date(meta: &ObjectMeta) -> Option<String> {
    let dated = Some(meta.last_modified).filter(|time| time.timestamp() != 0);
    dated.map(|time| time.to_rfc3339())
}

/// Whether a server that does not tell of an object may still send it: it was there to refuse, or told no length.
fn may_be_read(error: &object_store::Error) -> bool {
    use object_store::Error;
    match error {
        // Also said of the answer that the question is not allowed.
        Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => true,
        // The library has words for these only.
        other => ["status code: 4", "Content-Length"]
            .iter()
            .any(|words| other.to_string().contains(words)),
    }
}

fn sends_no_part(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotSupported { .. }) || error.to_string().contains("status code: 416")
}

/// The error for people: the operating system's where it lies below the store's.
pub(super) fn failed(url: &str, action: &'static str, error: &object_store::Error) -> ObjectError {
    use object_store::Error;
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>().filter(|_| is_local(url)) {
            return local::failed(Path::new(url), action, error);
        }
        cause = inner.source();
    }
    let url = url.to_owned();
    match error {
        Error::NotFound { .. } => ObjectError::NotFound { url },
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ObjectError::NoPermission { url, action },
        Error::AlreadyExists { .. } => ObjectError::AlreadyExists { url },
        // Said of a whole answer to a request for a part.
        Error::NotSupported { .. } => ObjectError::RangesNotServed { url },
        // Said of one name in a listing, which brings none of the others then.
        Error::InvalidPath { source } => ObjectError::invalid_name(&url, format_args!("{source}; {UNUSABLE}")),
        _ => ObjectError::Remote {
            url,
            message: all_shown(&error.to_string()).chars().take(MESSAGE_LENGTH_MAX).collect(),
        },
    }
}

/// Whether a name is one of the local file system, so that the system's errors are not those of a connection.
fn is_local(url: &str) -> bool {
    !url.contains("://") || url.starts_with("file://")
}
