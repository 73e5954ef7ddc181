//! An object store that fails on demand.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::fault::Pause;
use crate::unpoisoned::Unpoisoned;

/// What is to happen at a write: a put, or the removal of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WriteFault {
    /// It fails, and nothing is changed.
    FailBefore,
    /// It is done, but says that it failed.
    FailAfter,
    /// It is done, but was tried before without an answer: the second try finds what the first has left.
    Twice,
    /// The disk is full.
    Full,
    /// It is forbidden.
    Forbidden,
    /// The process dies before it: nothing works from now on.
    DieBefore,
    /// The process dies after it.
    DieAfter,
}

/// What is to happen at a read of an object's bytes.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReadFault {
    /// The server says that it is busy (503).
    Busy,
    /// The object is gone.
    Missing,
    /// The connection breaks after so many bytes.
    BreakAfter(usize),
    /// The answer ends after so many bytes, as if it were whole.
    Short(usize),
    /// This bit of the answer is changed, counted from 0 and modulo the answer's length.
    FlipBit(usize),
    /// The server takes requests for whole objects only.
    WholeOnly,
    /// It waits.
    Pause(Pause),
}

/// The script of a [`FaultStore`]. Copies share it.
#[derive(Debug, Clone, Default)]
pub struct StoreFaults(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
struct Script {
    writes_count: u64,
    faults: BTreeMap<u64, WriteFault>,
    write_pauses: BTreeMap<u64, Pause>,
    reads_count: u64,
    read_bytes: u64,
    read_faults: BTreeMap<u64, ReadFault>,
    always_on_read: Option<fn() -> ReadFault>,
    always: Option<WriteFault>,
    dead: bool,
    hidden_from_listings: usize,
}

impl StoreFaults {
    /// A script without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `fault` happen at a write: the next one for `after` 0, the one after that for 1, and so on.
    pub fn on_write(&self, after: u64, fault: WriteFault) {
        let mut script = self.script();
        let at = script.writes_count + after;
        script.faults.insert(at, fault);
    }

    /// Lets a write wait before it is done, counted like faults.
    pub fn pause_write(&self, after: u64, pause: Pause) {
        let mut script = self.script();
        let at = script.writes_count + after;
        script.write_pauses.insert(at, pause);
    }

    /// Lets `fault` happen at every write from now on, or none.
    pub fn on_every_write(&self, fault: Option<WriteFault>) {
        self.script().always = fault;
    }

    /// Lets `fault` happen at a read, counted like writes.
    pub fn on_read(&self, after: u64, fault: ReadFault) {
        let mut script = self.script();
        let at = script.reads_count + after;
        script.read_faults.insert(at, fault);
    }

    /// Lets such a fault happen at every read from now on, or none.
    pub fn on_every_read(&self, fault: Option<fn() -> ReadFault>) {
        self.script().always_on_read = fault;
    }

    /// Number of reads of bytes so far.
    pub fn reads_count(&self) -> u64 {
        self.script().reads_count
    }

    /// Bytes that reads were to bring so far.
    pub fn read_bytes(&self) -> u64 {
        self.script().read_bytes
    }

    fn next_read(&self) -> Option<ReadFault> {
        let mut script = self.script();
        let at = script.reads_count;
        script.reads_count += 1;
        let fault = script.read_faults.remove(&at);
        fault.or_else(|| script.always_on_read.map(|fault| fault()))
    }

    /// From now on listings lack the last `count` objects.
    pub fn hide_from_listings(&self, count: usize) {
        self.script().hidden_from_listings = count;
    }

    /// Number of writes so far.
    pub fn writes_count(&self) -> u64 {
        self.script().writes_count
    }

    async fn next(&self) -> Option<WriteFault> {
        let (fault, pause) = {
            let mut script = self.script();
            let at = script.writes_count;
            script.writes_count += 1;
            let fault = script.faults.remove(&at).or(script.always);
            script.dead |= matches!(fault, Some(WriteFault::DieBefore | WriteFault::DieAfter));
            (fault, script.write_pauses.remove(&at))
        };
        if let Some(pause) = pause {
            wait(pause).await;
        }
        fault
    }

    fn check_alive(&self) -> Result<()> {
        match self.script().dead {
            true => Err(failure(io::ErrorKind::BrokenPipe)),
            false => Ok(()),
        }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unpoisoned()
    }
}

/// A store with the faults of a script.
#[derive(Debug, Clone)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    faults: StoreFaults,
}

impl FaultStore {
    /// A store of objects in memory.
    pub fn in_memory(faults: StoreFaults) -> Self {
        Self::new(Arc::new(object_store::memory::InMemory::new()), faults)
    }

    /// `inner` with `faults`.
    pub fn new(inner: Arc<dyn ObjectStore>, faults: StoreFaults) -> Self {
        Self { inner, faults }
    }
}

/// The gate may be opened by what waits for other requests of this thread.
async fn wait(pause: Pause) {
    let _ = tokio::task::spawn_blocking(move || pause.wait()).await;
}

fn failure(kind: io::ErrorKind) -> Error {
    Error::Generic {
        store: "FaultStore",
        source: Box::new(io::Error::new(kind, "a scripted fault")),
    }
}

/// The error of a write that is not to be done.
fn refusal(fault: Option<WriteFault>) -> Result<()> {
    match fault {
        Some(WriteFault::FailBefore | WriteFault::DieBefore) => Err(failure(io::ErrorKind::Other)),
        Some(WriteFault::Full) => Err(failure(io::ErrorKind::StorageFull)),
        Some(WriteFault::Forbidden) => Err(failure(io::ErrorKind::PermissionDenied)),
        _ => Ok(()),
    }
}

/// The error of a write that was done.
fn doubt(fault: Option<WriteFault>) -> Result<()> {
    match fault {
        Some(WriteFault::FailAfter | WriteFault::DieAfter) => Err(failure(io::ErrorKind::Other)),
        _ => Ok(()),
    }
}

fn busy() -> Error {
    Error::Generic {
        store: "FaultStore",
        source: "503 Service Unavailable, a scripted fault".into(),
    }
}

fn whole_only() -> Error {
    let source = "a scripted fault".into();
    Error::NotSupported { source }
}

/// An answer with its bytes as the fault leaves them.
async fn damaged(found: GetResult, fault: Option<ReadFault>) -> Result<GetResult> {
    let Some(fault) = fault else { return Ok(found) };
    let (meta, range) = (found.meta.clone(), found.range.clone());
    let (attributes, extensions) = (found.attributes.clone(), found.extensions.clone());
    let mut bytes = found.bytes().await?.to_vec();
    let mut end = None;
    match fault {
        ReadFault::Short(length) => bytes.truncate(length),
        ReadFault::BreakAfter(length) => {
            bytes.truncate(length);
            end = Some(Err(failure(io::ErrorKind::ConnectionReset)));
        }
        ReadFault::FlipBit(bit) if !bytes.is_empty() => {
            let bit = bit % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        _ => {}
    }
    let parts = [Ok(Bytes::from(bytes))].into_iter().chain(end);
    Ok(GetResult {
        payload: GetResultPayload::Stream(stream::iter(parts).boxed()),
        meta,
        range,
        attributes,
        extensions,
    })
}

impl fmt::Display for FaultStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "FaultStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.faults.check_alive()?;
        let fault = self.faults.next().await;
        refusal(fault)?;
        if fault == Some(WriteFault::Twice) {
            self.inner.put_opts(location, payload.clone(), options.clone()).await?;
        }
        let result = self.inner.put_opts(location, payload, options).await?;
        doubt(fault).map(|()| result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.faults.check_alive()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.faults.check_alive()?;
        if options.head {
            return self.inner.get_opts(location, options).await;
        }
        let (fault, is_range) = (self.faults.next_read(), options.range.is_some());
        let fault = match fault {
            Some(ReadFault::Busy) => return Err(busy()),
            Some(ReadFault::WholeOnly) if is_range => return Err(whole_only()),
            Some(ReadFault::Missing) => {
                let source = Box::new(failure(io::ErrorKind::NotFound));
                return Err(Error::NotFound {
                    path: location.to_string(),
                    source,
                });
            }
            Some(ReadFault::Pause(pause)) => {
                wait(pause).await;
                None
            }
            fault => fault,
        };
        let found = self.inner.get_opts(location, options).await?;
        self.faults.script().read_bytes += found.range.end - found.range.start;
        damaged(found, fault).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.faults.check_alive()?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Path| {
            let store = store.clone();
            async move {
                store.faults.check_alive()?;
                let fault = store.faults.next().await;
                refusal(fault)?;
                let one = stream::iter([Ok(location.clone())]).boxed();
                store.inner.delete_stream(one).try_collect::<Vec<_>>().await?;
                doubt(fault).map(|()| location)
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.faults.check_alive() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults.check_alive()?;
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects.sort_by(|left, right| left.location.cmp(&right.location));
        let hidden = self.faults.script().hidden_from_listings;
        listed.objects.truncate(listed.objects.len().saturating_sub(hidden));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.check_alive()?;
        let fault = self.faults.next().await;
        refusal(fault)?;
        self.inner.copy_opts(from, to, options).await?;
        doubt(fault)
    }
}
