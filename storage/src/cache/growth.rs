//! Objects that only grow: what is known of a shorter version goes over to a longer one, after a comparison.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Cache, Fetch};
use crate::bloom::Digest;
use crate::chunk::{Chunk, ChunkList, SEGMENT_BYTES, Version, cut};
use crate::object::ObjectError;

/// Chunks that are compared beside the first and the last.
const DRAWN_COUNT: u64 = 2;

/// Most versions whose comparison is remembered. After that they are compared again.
const JUDGED_MAX: usize = 4096;

/// Bytes by the chunk that they are.
type Fetched = BTreeMap<Digest, Bytes>;

impl Cache {
    /// Makes what is known of the longest shorter version known of this one, if its object only grows, once a version.
    ///
    /// # Errors
    /// The store fails.
    pub(super) fn adopt_shorter(&self, version: &Version, fetch: &Fetch<'_>) -> Result<(), ObjectError> {
        let grows = self
            .options
            .grows_only
            .iter()
            .any(|prefix| version.url.starts_with(prefix));
        if !grows || self.is_judged(version) {
            return Ok(());
        }
        let _one_process = self.folder.lock_growth();
        self.folder.catch_up();
        let lists = self.folder.before(version);
        let done = |list: &ChunkList| self.folder.list(&version.segment(list.segment.index)).is_some();
        // Another thread or process may have done it.
        if !self.is_judged(version) && !lists.is_empty() && !lists.iter().any(done) {
            self.compare_and_adopt(version, lists, fetch)?;
        }
        self.judge(version);
        Ok(())
    }

    fn is_judged(&self, version: &Version) -> bool {
        super::lock_of(&self.judged).contains(version)
    }

    fn judge(&self, version: &Version) {
        let mut judged = super::lock_of(&self.judged);
        if judged.len() >= JUDGED_MAX {
            judged.clear();
        }
        judged.insert(version.clone());
    }

    fn compare_and_adopt(
        &self,
        version: &Version,
        mut lists: Vec<ChunkList>,
        fetch: &Fetch<'_>,
    ) -> Result<(), ObjectError> {
        let chunks: Vec<Chunk> = lists.iter().flat_map(|list| list.chunks.iter().copied()).collect();
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else {
            return Ok(());
        };
        for chunk in drawn(version, &chunks) {
            if !chunk.is(&fetch(chunk.range())?) {
                return Ok(());
            }
        }
        let mut fetched = Fetched::new();
        // The last segment has grown: its last chunk is compared, and cut anew with what has come behind it.
        let end = version.segment(last.offset / SEGMENT_BYTES).range().end;
        let tail = fetch(last.offset..end)?;
        if tail.len() < last.length as usize || !last.is(&tail[..last.length as usize]) {
            return Ok(());
        }
        if first.offset == 0 && first != last {
            let bytes = fetch(first.range())?;
            let now = Chunk {
                digest: *blake3::hash(&bytes).as_bytes(),
                ..*first
            };
            lists[0].chunks[0] = now;
            fetched.insert(now.digest, bytes);
        }
        if let Some(list) = lists.last_mut() {
            list.chunks.pop();
            for chunk in cut(&tail, last.offset) {
                let start = (chunk.offset - last.offset) as usize;
                fetched.insert(chunk.digest, tail.slice(start..start + chunk.length as usize));
                list.chunks.push(chunk);
            }
        }
        tracing::info!(
            url = version.url,
            "has grown; what is known of its shorter version is used again"
        );
        for list in lists {
            let segment = version.segment(list.segment.index);
            self.keep(&ChunkList { segment, ..list }, |chunk| {
                fetched.get(&chunk.digest).map(|bytes| &bytes[..])
            });
        }
        Ok(())
    }
}

/// Some chunks between the first and the last, others for each version.
pub(super) fn drawn<'a>(version: &Version, chunks: &'a [Chunk]) -> impl Iterator<Item = &'a Chunk> {
    let between = chunks.get(1..chunks.len() - 1).unwrap_or_default();
    let count = between.len().max(1) as u64;
    let drawn = (0..DRAWN_COUNT).map(|counter| (version.draw(counter) % count) as usize);
    drawn
        .collect::<BTreeSet<_>>()
        .into_iter()
        .filter_map(|index| between.get(index))
}
