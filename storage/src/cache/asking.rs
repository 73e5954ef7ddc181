//! What processes ask each other, and how each answers from its cache.

use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Cache;
use crate::bloom::Digest;
use crate::chunk::{Segment, Version};
use crate::peers::FetchLease;

/// The part `start..end` of a segment, or which version a version has grown from: see [`super::growth`].
#[derive(Debug, Serialize, Deserialize)]
enum Question {
    Part { segment: Segment, start: u64, end: u64 },
    Grown { version: Version },
}

/// What looking for something among the peers has brought.
#[derive(Debug)]
pub(super) enum Sought<'a> {
    Found(Bytes),
    /// Nobody has it. In a cluster this process has the lease to fetch it.
    Nowhere(Option<FetchLease<'a>>),
}

impl Cache {
    /// A whole segment of a peer.
    pub(super) fn seek_segment(&self, segment: &Segment) -> Sought<'_> {
        let range = segment.range();
        let question = part(segment, &range);
        match self.seek(segment.key(), &question) {
            Sought::Found(bytes) => self.given(bytes, &range).map_or(Sought::Nowhere(None), Sought::Found),
            nowhere => nowhere,
        }
    }

    /// Part of a segment from a peer, if one has it.
    pub(super) fn ask_part(&self, segment: &Segment, range: &Range<u64>) -> Option<Bytes> {
        let question = postcard::to_stdvec(&part(segment, range)).ok()?;
        let answer = self.peers.get()?.ask(&segment.key(), &question)?;
        self.given(answer, range)
    }

    /// Which version a peer has found this one to have grown from, `None` if it has found it to have changed; else an
    /// error with this process's lease to find out.
    pub(super) fn seek_grown(&self, version: &Version) -> Result<Option<Version>, Option<FetchLease<'_>>> {
        let question = Question::Grown {
            version: version.clone(),
        };
        match self.seek(version.grown_key(), &question) {
            Sought::Nowhere(lease) => Err(lease),
            Sought::Found(bytes) => {
                let shorter = postcard::from_bytes::<Option<Version>>(&bytes).map_err(|_| None)?;
                Ok(shorter.filter(|shorter| shorter.is_before(version)))
            }
        }
    }

    fn seek(&self, key: Digest, question: &Question) -> Sought<'_> {
        let Some(peers) = self.peers.get() else {
            return Sought::Nowhere(None);
        };
        let Ok(question) = postcard::to_stdvec(question) else {
            return Sought::Nowhere(None);
        };
        match peers.find(&key, &question) {
            Some(answer) => Sought::Found(answer),
            None => Sought::Nowhere(Some(FetchLease {
                peers: &**peers,
                key,
                is_here: false,
            })),
        }
    }

    fn given(&self, bytes: Bytes, range: &Range<u64>) -> Option<Bytes> {
        let bytes = Some(bytes).filter(|bytes| bytes.len() as u64 == range.end - range.start)?;
        self.counters.peer_bytes.add(bytes.len() as u64);
        Some(bytes)
    }

    /// Answers a peer's question, without asking anyone else.
    pub(crate) fn answer(&self, question: &[u8]) -> Option<Bytes> {
        match postcard::from_bytes(question).ok()? {
            Question::Part { segment, start, end } => {
                let within = segment.range();
                let is_part = within.start <= start && start < end && end <= within.end;
                is_part.then(|| self.held(&segment, &(start..end)))?
            }
            Question::Grown { version } => {
                let shorter = self.verdict(&version)?;
                postcard::to_stdvec(&shorter).ok().map(Bytes::from)
            }
        }
    }
}

fn part(segment: &Segment, range: &Range<u64>) -> Question {
    Question::Part {
        segment: segment.clone(),
        start: range.start,
        end: range.end,
    }
}
