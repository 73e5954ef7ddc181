//! A round as the process sees that takes part in it: its members, the links to them, and who takes their frames.

use std::sync::Arc;

use super::{Phase, Shared, lock};
use crate::cluster::identity::MemberId;
use crate::cluster::link::{Body, Link};
use crate::cluster::wire::{Header, WireError};

/// Which round a frame belongs to. Later rounds are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct RoundKey {
    /// The generation.
    pub generation: u64,
    /// The action.
    pub action: u64,
    /// Its round.
    pub round: u32,
}

impl RoundKey {
    pub(super) fn of(header: &Header) -> Self {
        Self {
            generation: header.generation,
            action: header.action,
            round: header.round,
        }
    }
}

/// What takes part in a round on this process.
pub(crate) trait Receive: Send + Sync {
    /// Takes a frame of the round from another rank; called by the threads of links.
    ///
    /// # Errors
    /// A frame that makes no sense ends the link.
    fn receive(&self, rank: usize, header: &Header, body: &mut Body<'_>) -> Result<(), WireError>;

    /// Stops the round as soon as possible: it was cut.
    fn cancel(&self);
}

/// A round that this process has entered.
#[derive(Clone)]
pub(crate) struct Round {
    pub key: RoundKey,
    /// This process's rank.
    pub rank: usize,
    /// The members, by rank.
    pub members: Arc<[MemberId]>,
    pub(super) links: Arc<[Option<Arc<Link>>]>,
    pub(super) shared: Arc<Shared>,
}

impl Round {
    /// Lets frames of this round in. Returns false if the round was cut already.
    pub(crate) fn begin(&self, receiver: Arc<dyn Receive>) -> bool {
        let mut state = lock(&self.shared);
        if state.is_over(self.key) {
            return false;
        }
        match &mut state.current {
            Some(current) if current.key == self.key => current.phase = Phase::Begun(receiver),
            _ => return false,
        }
        drop(state);
        self.shared.changed.notify_all();
        true
    }

    /// Sends a frame of this round. A link that fails ends the generation here, and the name node is told.
    pub(crate) fn send(&self, rank: usize, header: Header, payload: &[&[u8]]) {
        if let Some(Some(link)) = self.links.get(rank) {
            self.shared.send(link, self.of_this_round(header), payload);
        }
    }

    /// The same without payload and without waiting, for a thread that reads a link.
    pub(crate) fn send_soon(&self, rank: usize, header: Header) {
        if let Some(Some(link)) = self.links.get(rank) {
            self.shared.send_soon(link, self.of_this_round(header));
        }
    }

    /// Counts a frame that goes another way. Returns whether this process goes on.
    pub(crate) fn comes_to_frame(&self) -> bool {
        self.shared.comes_to_frame()
    }

    /// Sends a frame without payload that does not count.
    pub(crate) fn ring(&self, rank: usize, header: Header) {
        if let Some(Some(link)) = self.links.get(rank) {
            self.shared.write(link, self.of_this_round(header), &[]);
        }
    }

    fn of_this_round(&self, header: Header) -> Header {
        let RoundKey {
            generation,
            action,
            round,
        } = self.key;
        Header {
            generation,
            action,
            round,
            ..header
        }
    }
}
