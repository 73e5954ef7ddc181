//! The processes that run a round together, as one of them sees them.

use std::ops::Range;

use crate::cluster::member::Round;
use crate::cluster::wire::Header;

/// The processes of a round. Their workers are counted through: those of rank 0 first.
#[derive(Clone)]
pub(crate) struct Team {
    /// This process, from 0.
    pub rank: usize,
    /// One past the last worker of each rank.
    ends: Vec<usize>,
    /// The way to the others; none if there are none.
    round: Option<Round>,
}

impl Team {
    /// One process with some workers.
    pub(crate) fn alone(workers: usize) -> Self {
        Self {
            rank: 0,
            ends: vec![workers],
            round: None,
        }
    }

    /// Several processes, with the number of workers of each.
    pub(crate) fn new(rank: usize, threads: Vec<usize>, round: Round) -> Self {
        let add = |end: &mut usize, threads: usize| {
            *end += threads;
            Some(*end)
        };
        Self {
            rank,
            ends: threads.into_iter().scan(0, add).collect(),
            round: Some(round),
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

    /// Sends a frame to one process, and waits while the link is full. A link that breaks ends the generation, so that
    /// nobody waits for what was on it: there is nothing for the sender to do about it.
    pub(crate) fn send(&self, rank: usize, header: Header, payload: &[&[u8]]) {
        if let Some(round) = &self.round {
            round.send(rank, header, payload);
        }
    }

    /// Sends a frame without payload, without waiting: for threads that read links, which must never wait for one.
    pub(crate) fn send_soon(&self, rank: usize, header: Header) {
        if let Some(round) = &self.round {
            round.send_soon(rank, header);
        }
    }

    /// Counts a frame that goes another way: a fault may be planned for it. False if this process was killed by that.
    pub(crate) fn comes_to_frame(&self) -> bool {
        self.round.as_ref().is_none_or(Round::comes_to_frame)
    }

    /// Sends a frame that does not count: whether there are any depends on time alone.
    pub(crate) fn ring(&self, rank: usize, header: Header) {
        if let Some(round) = &self.round {
            round.ring(rank, header);
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
