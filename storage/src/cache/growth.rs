//! Objects that only grow: what is known of a shorter version, here or at a peer, is used for a longer one, after a
//! comparison that one process of a cluster makes.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::BytesMut;

use super::{Brought, Cache, Fetch, Origin};
use crate::chunk::{CHUNK_BYTES_MAX, Chunk, ChunkList, Segment, Version};
use crate::object::ObjectError;
use crate::unpoisoned::Unpoisoned;

/// Chunks that are compared beside the last.
const DRAWN_COUNT: u64 = 2;

/// Most versions whose comparison is remembered. After that they are compared again.
const JUDGED_MAX: usize = 4096;

/// Most versions that are gone back to look for what is known of a segment.
const STEPS_BACK_MAX: usize = 16;

impl Cache {
    /// A whole segment: what is known of it from a shorter version, and the rest from the store.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn bring(&self, segment: &Segment, fetch: &Fetch<'_>) -> Result<Brought, ObjectError> {
        let range = segment.range();
        let shorter = self.grown_from(&segment.version, fetch)?;
        let Some((start, known)) = shorter.and_then(|shorter| self.known_of(shorter, segment)) else {
            let (bytes, from) = (fetch(range)?, Origin::Store);
            return Ok(Brought { bytes, from });
        };
        let Brought { bytes: known, from } = known;
        if known.len() as u64 == range.end - range.start {
            return Ok(Brought { bytes: known, from });
        }
        if from == Origin::Folder {
            self.counters.cache_bytes.add(known.len() as u64);
        }
        let mut whole = BytesMut::with_capacity((range.end - range.start) as usize);
        if range.start < start {
            whole.extend_from_slice(&fetch(range.start..start)?);
        }
        whole.extend_from_slice(&known);
        let end = start + known.len() as u64;
        if end < range.end {
            whole.extend_from_slice(&fetch(end..range.end)?);
        }
        let (bytes, from) = (whole.freeze(), Origin::Store);
        Ok(Brought { bytes, from })
    }

    /// What is known of a segment from a shorter version or those before that: where it starts in the object, and the
    /// bytes.
    fn known_of(&self, mut shorter: Version, segment: &Segment) -> Option<(u64, Brought)> {
        for _ in 0..STEPS_BACK_MAX {
            let before = shorter.segment(segment.index);
            let part = self.unchanging(&before);
            let here = || Some((self.looked_up(&before, &part)?, Origin::Folder));
            let elsewhere = || Some((self.ask_part(&before, &part)?, Origin::Peer));
            if part.start < part.end
                && let Some((bytes, from)) = here().or_else(elsewhere)
            {
                return Some((part.start, Brought { bytes, from }));
            }
            shorter = self.folder.grown_from(&shorter)?;
        }
        None
    }

    /// The part of a segment that is the same in a longer version: all but the object's first chunk, where a header may
    /// be.
    fn unchanging(&self, segment: &Segment) -> Range<u64> {
        let Range { start, end } = segment.range();
        if segment.index > 0 {
            return start..end;
        }
        let list = self.folder.list(segment);
        let first = list.and_then(|list| list.chunks.first().map(|chunk| chunk.range().end));
        first.unwrap_or(u64::from(CHUNK_BYTES_MAX)).min(end)..end
    }

    /// The shorter version that this one has grown from, if the object is known to do nothing else.
    fn grown_from(&self, version: &Version, fetch: &Fetch<'_>) -> Result<Option<Version>, ObjectError> {
        let prefixes = &self.options.grows_only;
        if !prefixes.iter().any(|prefix| version.url.starts_with(prefix)) {
            return Ok(None);
        }
        if let Some(judged) = self.verdict(version) {
            return Ok(judged);
        }
        let _one_process = self.folder.lock_growth();
        if let Some(judged) = self.verdict(version) {
            return Ok(judged);
        }
        let mut lease = match self.seek_grown(version) {
            Ok(judged) => return Ok(self.judged(version, judged)),
            Err(lease) => lease,
        };
        let lists = self.folder.before(version);
        let Some(known) = lists.first().map(|list| list.segment.version.clone()) else {
            return Ok(None);
        };
        let judged = is_grown(version, &lists, fetch)?.then_some(known);
        if let Some(lease) = &mut lease {
            lease.is_here = true;
        }
        Ok(self.judged(version, judged))
    }

    /// What a comparison of this version has shown, if there was one.
    pub(super) fn verdict(&self, version: &Version) -> Option<Option<Version>> {
        let judged = self.judged.lock().unpoisoned().get(version).cloned();
        judged.or_else(|| self.folder.grown_from(version).map(Some))
    }

    fn judged(&self, version: &Version, shorter: Option<Version>) -> Option<Version> {
        if let Some(shorter) = &shorter {
            tracing::info!(
                url = version.url,
                "has grown; what is known of a shorter version is used"
            );
            self.folder.keep_grown(version, shorter);
        }
        let mut judged = self.judged.lock().unpoisoned();
        if judged.len() >= JUDGED_MAX {
            judged.clear();
        }
        judged.insert(version.clone(), shorter.clone());
        shorter
    }
}

/// Whether an object holds what is known of a shorter version, as far as some chunks show.
fn is_grown(version: &Version, known: &[ChunkList], fetch: &Fetch<'_>) -> Result<bool, ObjectError> {
    let chunks: Vec<Chunk> = known.iter().flat_map(|list| list.chunks.iter().copied()).collect();
    for chunk in drawn(version, &chunks).chain(chunks.last()) {
        if !chunk.is(&fetch(chunk.range())?) {
            return Ok(false);
        }
    }
    Ok(!chunks.is_empty())
}

/// Some chunks between the first and the last, others for each version.
pub(super) fn drawn<'a>(version: &Version, chunks: &'a [Chunk]) -> impl Iterator<Item = &'a Chunk> {
    let between = chunks.get(1..chunks.len().saturating_sub(1)).unwrap_or_default();
    let count = between.len().max(1) as u64;
    let drawn = (0..DRAWN_COUNT).map(|counter| (version.draw(counter) % count) as usize);
    drawn
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|index| between.get(index))
}
