//! Remote objects kept in a folder on disk, so that the second time is free.
//!
//! Below everything that reads: text, records and compressed files profit without knowing of it. What is read is
//! checked against its hash; a cache that is damaged, deleted, full or forbidden while it is used costs fetches, and
//! never a wrong byte. A folder that cannot be written to is an error when it is opened: readers tell each other in it
//! what they use. Users may share one as far as their masks let each other write there.

mod options;

mod lock;

mod journal;

mod survey;

mod folder;

mod growth;

mod asking;

mod blocks;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::{Bytes, BytesMut};

use self::asking::Sought;
pub(crate) use self::blocks::Blocks;
use self::folder::Folder;
pub use self::options::CacheOptions;
use crate::bloom::Bloom;
use crate::chunk::{ChunkList, Segment, Version, cut};
use crate::error::Result;
use crate::figures::Counters;
use crate::flight::Flights;
use crate::object::ObjectError;
use crate::peers::Peers;

/// A segment, and where it was.
#[derive(Debug, Clone)]
struct Brought {
    bytes: Bytes,
    from: Origin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Folder,
    Peer,
    Store,
}

/// Where bytes of an object come from if neither this process nor a peer has them.
pub(crate) type Fetch<'a> = dyn Fn(Range<u64>) -> Result<Bytes, ObjectError> + 'a;

#[derive(Debug)]
pub(crate) struct Cache {
    options: CacheOptions,
    folder: Folder,
    counters: Arc<Counters>,
    flights: Flights<Segment, Result<Brought, ObjectError>>,
    /// Versions that were compared with a shorter one, and that one if they have grown from it.
    judged: Mutex<BTreeMap<Version, Option<Version>>>,
    peers: OnceLock<Arc<dyn Peers>>,
    /// Whether the last segment could be kept.
    keeps: AtomicBool,
}

impl Cache {
    /// # Errors
    /// The folder cannot be made or written to.
    pub(crate) fn open(options: &CacheOptions, counters: &Arc<Counters>) -> Result<Self> {
        Ok(Self {
            options: options.clone(),
            folder: Folder::open(options, counters)?,
            counters: Arc::clone(counters),
            flights: Flights::default(),
            judged: Mutex::default(),
            peers: OnceLock::new(),
            keeps: AtomicBool::new(true),
        })
    }

    pub(crate) fn options(&self) -> &CacheOptions {
        &self.options
    }

    /// From now on peers are asked before stores are.
    pub(crate) fn join(&self, peers: Arc<dyn Peers>) {
        // Whoever comes second is of the same cluster.
        let _ = self.peers.set(peers);
    }

    /// What peers may ask this process for, and a number that is another one whenever it changes.
    pub(crate) fn holdings(&self) -> (u64, Bloom) {
        self.folder.holdings()
    }

    /// Whether all segments that hold a range may be here.
    pub(crate) fn may_hold(&self, version: &Version, range: &Range<u64>) -> bool {
        let mut segments = Version::indices(range).map(|index| version.segment(index));
        segments.all(|segment| self.folder.may_have(&segment.key()))
    }

    /// The bytes of a range: from here, else through `fetch`, a segment at a time.
    ///
    /// # Errors
    /// `fetch` fails.
    pub(crate) fn read(&self, version: &Version, range: &Range<u64>, fetch: &Fetch<'_>) -> Result<Bytes, ObjectError> {
        let mut whole = BytesMut::new();
        for index in Version::indices(range) {
            let segment = version.segment(index);
            let within = segment.range();
            let part = range.start.max(within.start)..range.end.min(within.end);
            let bytes = self.part(&segment, &part, fetch)?;
            if part == *range {
                return Ok(bytes);
            }
            whole.reserve((range.end - part.start) as usize);
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    fn part(&self, segment: &Segment, part: &Range<u64>, fetch: &Fetch<'_>) -> Result<Bytes, ObjectError> {
        if let Some(bytes) = self.held(segment, part) {
            self.counters.fetches_avoided.add(1);
            return Ok(bytes);
        }
        let (brought, by_another) = self.flights.once(segment, || self.load(segment, fetch));
        let Brought { bytes, from } = brought?;
        let is_avoided = by_another || from != Origin::Store;
        self.counters.fetches_avoided.add(u64::from(is_avoided));
        if from == Origin::Folder {
            self.counters.cache_bytes.add(part.end - part.start);
        }
        let start = segment.range().start;
        Ok(bytes.slice((part.start - start) as usize..(part.end - start) as usize))
    }

    /// The part of a segment if it is here.
    pub(crate) fn held(&self, segment: &Segment, part: &Range<u64>) -> Option<Bytes> {
        let held = self.looked_up(segment, part)?;
        self.counters.cache_bytes.add(held.len() as u64);
        Some(held)
    }

    /// The same, where its bytes are counted by what is read of them.
    fn looked_up(&self, segment: &Segment, part: &Range<u64>) -> Option<Bytes> {
        if !self.folder.may_have(&segment.key()) {
            self.counters.bloom_absent.add(1);
            return None;
        }
        let held = self.folder.held(segment, part);
        self.counters.bloom_false_positives.add(u64::from(held.is_none()));
        held
    }

    /// Brings a segment here if it seems not to be, for a reader who will want it.
    pub(crate) fn ensure(&self, segment: &Segment, fetch: &Fetch<'_>) {
        if self.folder.may_have(&segment.key()) && self.folder.list(segment).is_some() {
            return;
        }
        // The reader meets the same error when it comes.
        let _ = self.flights.once(segment, || self.load(segment, fetch));
    }

    /// Whether what is fetched ahead would be here when its reader comes.
    pub(crate) fn keeps(&self) -> bool {
        self.keeps.load(Ordering::Relaxed)
    }

    /// A whole segment, fetched by one process. Whoever reads counts what that has saved.
    fn load(&self, segment: &Segment, fetch: &Fetch<'_>) -> Result<Brought, ObjectError> {
        let _one_process = self.folder.lock_fetch(segment);
        // Another thread or process may have brought it since it was looked for.
        self.folder.catch_up();
        let here = || {
            let may = self.folder.may_have(&segment.key());
            may.then(|| self.folder.held(segment, &segment.range())).flatten()
        };
        if let Some(bytes) = here() {
            let from = Origin::Folder;
            return Ok(Brought { bytes, from });
        }
        let (brought, mut lease) = match self.seek_segment(segment) {
            Sought::Found(bytes) => {
                let from = Origin::Peer;
                (Brought { bytes, from }, None)
            }
            Sought::Nowhere(lease) => (self.bring(segment, fetch)?, lease),
        };
        let is_here = self.keep_segment(segment, &brought.bytes);
        if let Some(lease) = &mut lease {
            lease.is_here = is_here;
        }
        Ok(brought)
    }

    /// Keeps a whole object, of a store that sends no parts.
    pub(crate) fn keep_whole(&self, version: &Version, bytes: &Bytes) {
        for index in Version::indices(&(0..version.bytes)) {
            let segment = version.segment(index);
            let Range { start, end } = segment.range();
            self.keep_segment(&segment, &bytes.slice(start as usize..end as usize));
        }
    }

    /// Whether it could be kept; a cache that cannot write is one that fetches.
    fn keep_segment(&self, segment: &Segment, bytes: &Bytes) -> bool {
        let list = ChunkList {
            segment: segment.clone(),
            chunks: cut(bytes, segment.range().start),
        };
        let kept = self.folder.keep(&list, bytes);
        let did = self.keeps.swap(kept.is_ok(), Ordering::Relaxed);
        let Err(error) = kept else { return true };
        self.counters.segments_not_kept.add(1);
        if did {
            tracing::warn!(%segment, "cannot be kept in the cache and will be fetched again: {error}");
        }
        false
    }
}

#[cfg(test)]
mod tests;
