//! Reading ahead of those who go through an object in order, so that they do not wait.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::client::{self, Client, Target};
use crate::cache::Cache;
use crate::chunk::{SEGMENT_BYTES, Segment, Version};
use crate::object::{Object, ObjectError};
use crate::unpoisoned::Unpoisoned;

/// Most readers whose place is remembered. Past that they start anew, which costs each a wait.
const READERS_MAX: usize = 1024;

/// Most segments that are being read ahead at a time, whatever the limit in bytes: each takes a thread.
const SEGMENTS_MAX: u64 = 16;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Where each reader goes on, and the index of the first segment that has not been asked for on its behalf.
    readers: Mutex<BTreeMap<(Version, u64), u64>>,
    /// Segments under way.
    under_way: Arc<AtomicU64>,
}

impl Ahead {
    /// Notes that `range` is about to be read, and if it goes on where a range before it has ended, begins to bring
    /// what comes behind it.
    pub(super) fn go_on(
        &self,
        client: &Client,
        cache: &Arc<Cache>,
        version: &Version,
        target: &Target,
        object: &Object,
        range: &Range<u64>,
    ) -> Result<(), ObjectError> {
        let options = cache.options();
        // A cache too small for what is ahead would lose it before it is read.
        let segments_kept = options.bytes_max / 4 / SEGMENT_BYTES;
        let segments_asked = options.read_ahead_bytes_max.div_ceil(SEGMENT_BYTES);
        let count_max = segments_asked.min(segments_kept).min(SEGMENTS_MAX);
        if count_max == 0 || !cache.keeps() {
            return Ok(());
        }
        for segment in self.wanted(version, range, count_max) {
            if self.under_way.fetch_add(1, Ordering::Relaxed) >= count_max {
                self.under_way.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let (cache, target, object) = (Arc::clone(cache), target.clone(), object.clone());
            let landed = Landed(Arc::clone(&self.under_way));
            client.begin(move |runner, counters| {
                let _landed = landed;
                let fetch = |range| client::get(runner, counters, target.clone(), object.clone(), Some(range));
                cache.ensure(&segment, &fetch);
            })?;
        }
        Ok(())
    }

    /// The segments to bring behind a range.
    fn wanted(&self, version: &Version, range: &Range<u64>, count_max: u64) -> Vec<Segment> {
        let indices = Version::indices(range);
        let mut readers = self.readers.lock().unpoisoned();
        if readers.len() >= READERS_MAX {
            readers.clear();
        }
        let asked = readers.remove(&(version.clone(), range.start));
        // A range of several segments is itself read in order.
        let in_order = asked.is_some() || indices.end - indices.start > 1;
        let from = asked
            .unwrap_or(0)
            .max(if in_order { indices.start + 1 } else { indices.end });
        let end = Version::indices(&(0..version.bytes))
            .end
            .min(indices.end.saturating_add(count_max));
        let wanted = if in_order { from..end } else { 0..0 };
        readers.insert((version.clone(), range.end), from.max(wanted.end));
        wanted
            .take(count_max as usize)
            .map(|index| version.segment(index))
            .collect()
    }
}

/// Counts a segment as no longer under way, however its reading ends.
struct Landed(Arc<AtomicU64>);

impl Drop for Landed {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
