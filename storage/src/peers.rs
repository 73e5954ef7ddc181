//! Other processes with caches of their own, which are asked before a remote store is.

use std::fmt;

use bytes::Bytes;

use crate::bloom::Digest;

/// Longest question, in bytes: an object under the longest URL takes less.
pub const QUESTION_BYTES_MAX: u64 = 64 << 10;

/// Longest answer, in bytes: a segment.
pub const ANSWER_BYTES_MAX: u64 = crate::chunk::SEGMENT_BYTES;

/// The way to the other processes of a cluster. Questions are made, and answered, by
/// [`Stores`](crate::remote::Stores) alone; whoever carries them checks that they arrive as they were sent.
pub trait Peers: fmt::Debug + Send + Sync {
    /// The first answer among those processes that may have what `key` names; `None` if nobody has it, or can be
    /// reached.
    fn ask(&self, key: &Digest, question: &[u8]) -> Option<Bytes>;

    /// The same, and `None` gives this process the lease to fetch what `key` names: others who look for it wait until
    /// [`Peers::brought`] says what has come of it.
    fn find(&self, key: &Digest, question: &[u8]) -> Option<Bytes>;

    /// The lease has ended; `is_here` if others can be given what `key` names.
    fn brought(&self, key: &Digest, is_here: bool);
}

/// A process's lease to fetch something for all. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct FetchLease<'a> {
    pub(crate) peers: &'a dyn Peers,
    pub(crate) key: Digest,
    pub(crate) is_here: bool,
}

impl Drop for FetchLease<'_> {
    fn drop(&mut self) {
        self.peers.brought(&self.key, self.is_here);
    }
}
