//! The processes that run a round together, as one of them sees them.

use std::ops::Range;
use std::sync::Arc;

use crate::cluster::wire::Header;

/// Sends frames to the other processes of the round.
pub(crate) trait Post: Send + Sync {
    /// Sends one frame, and waits while the link is full. A link that breaks ends the generation, so that nobody waits
    /// for what was on it: there is nothing for the sender to do about it.
    fn send(&self, rank: usize, header: Header, payload: &[&[u8]]);

    /// Sends a frame without payload, without waiting: for threads that read links, which must never wait for one.
    fn send_soon(&self, rank: usize, header: Header);

    /// Counts a frame that goes another way: a fault may be planned for it. False if this process was killed by that.
    fn comes_to_frame(&self) -> bool;

    /// Sends a frame that does not count: whether there are any depends on time alone.
    fn ring(&self, rank: usize, header: Header);
}

/// The processes of a round. Their workers are counted through: those of rank 0 first.
#[derive(Clone)]
pub(crate) struct Team {
    /// This process, from 0.
    pub rank: usize,
    /// One past the last worker of each rank.
    ends: Vec<usize>,
    /// The way to the others; none if there are none.
    post: Option<Arc<dyn Post>>,
}

impl Team {
    /// One process with some workers.
    pub(crate) fn alone(workers: usize) -> Self {
        Self {
            rank: 0,
            ends: vec![workers],
            post: None,
        }
    }

    /// Several processes, with the number of workers of each.
    pub(crate) fn new(rank: usize, threads: Vec<usize>, post: Arc<dyn Post>) -> Self {
        let add = |end: &mut usize, threads: usize| {
            *end += threads;
            Some(*end)
        };
        Self {
            rank,
            ends: threads.into_iter().scan(0, add).collect(),
            post: Some(post),
        }
    }

    /// Number of processes.
    pub(crate) fn ranks(&self) -> usize {
        self.ends.len()
    }

    /// The other processes.
    pub(crate) fn others(&self) -> impl Iterator<Item = usize> + Clone + use<> {
        let own = self.rank;
        (0..self.ranks()).filter(move |rank| *rank != own)
    }

    /// The workers of a process.
    pub(crate) fn workers(&self, rank: usize) -> Range<usize> {
        let first = rank.checked_sub(1).map_or(0, |before| self.ends[before]);
        first..self.ends[rank]
    }

    /// The process of a worker; one beyond the last for a worker that does not exist.
    pub(crate) fn rank_of(&self, worker: usize) -> usize {
        self.ends.partition_point(|end| *end <= worker)
    }

    /// A worker of this process, counted through.
    pub(crate) fn global(&self, worker: usize) -> usize {
        self.workers(self.rank).start + worker
    }

    /// Sends a frame to one process.
    pub(crate) fn send(&self, rank: usize, header: Header, payload: &[&[u8]]) {
        if let Some(post) = &self.post {
            post.send(rank, header, payload);
        }
    }

    /// As [`Post::send_soon`].
    pub(crate) fn send_soon(&self, rank: usize, header: Header) {
        if let Some(post) = &self.post {
            post.send_soon(rank, header);
        }
    }

    /// As [`Post::comes_to_frame`].
    pub(crate) fn comes_to_frame(&self) -> bool {
        self.post.as_ref().is_none_or(|post| post.comes_to_frame())
    }

    /// As [`Post::ring`].
    pub(crate) fn ring(&self, rank: usize, header: Header) {
        if let Some(post) = &self.post {
            post.ring(rank, header);
        }
    }

    /// Sends a frame without payload to all others.
    pub(crate) fn tell_all(&self, header: &Header) {
        for rank in self.others() {
            self.send(rank, header.clone(), &[]);
        }
    }

    /// The same, without waiting.
    pub(crate) fn tell_all_soon(&self, header: &Header) {
        for rank in self.others() {
            self.send_soon(rank, header.clone());
        }
    }
}
