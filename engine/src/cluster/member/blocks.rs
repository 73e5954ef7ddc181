//! Blocks from one member to another.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use distdl_storage::{BlockId, Unpoisoned};

use super::{Fetch, Found, Keep, Round, Shared, lock};
use crate::cluster::link::Link;
use crate::cluster::wire::{Header, Kind};

/// What [`Kind::Block`] says of a block: that it is not there, that its bytes follow, or why it cannot be read now.
const ABSENT: u64 = 0;
const HERE: u64 = 1;
const UNREADABLE: u64 = 2;

/// What an answer says.
pub(super) fn found(answer: u64, bytes: Vec<u8>) -> Found {
    match answer {
        HERE => Ok(Some(bytes)),
        UNREADABLE => Err(String::from_utf8_lossy(&bytes).into_owned()),
        _ => Ok(None),
    }
}

impl Round {
    /// The bytes of a block that another rank has; `None` if it has it no more, or cannot be reached.
    ///
    /// # Errors
    /// The text of the one by which it cannot read it now.
    pub(crate) fn fetch(&self, rank: usize, block: BlockId) -> Found {
        self.ask(rank, Kind::BlockRequest, block, &[])
    }

    /// Gives another rank a block to keep. Returns whether it does; it may not have the room, or not be reached.
    pub(crate) fn copy(&self, rank: usize, block: BlockId, frame: &[u8]) -> bool {
        matches!(self.ask(rank, Kind::BlockCopy, block, frame), Ok(Some(_)))
    }

    /// Asks another rank about a block, and waits for [`Kind::Block`].
    fn ask(&self, rank: usize, kind: Kind, block: BlockId, payload: &[u8]) -> Found {
        let Some(Some(link)) = self.links.get(rank) else {
            return Ok(None);
        };
        let request = self.shared.requests.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared).fetches.insert(request, Fetch::Waiting(link.peer));
        let header = Header::new(kind, [block.dataset, block.partition, request, 0, 0, 0]);
        self.send(rank, header, &[payload]);
        let mut state = lock(&self.shared);
        loop {
            let over = link.is_broken() || state.is_over(self.key);
            match state.fetches.remove(&request) {
                Some(Fetch::Done(found)) => return found,
                Some(waiting) if !over => state.fetches.insert(request, waiting),
                _ => return Ok(None),
            };
            state = self.shared.changed.wait(state).unpoisoned();
        }
    }
}

impl Shared {
    /// Has a frame without payload sent by the thread that writes for those that read. One that rings does not count.
    pub(super) fn send_soon(&self, link: &Arc<Link>, header: Header) {
        lock(self).soon.push_back((Arc::clone(link), header));
        self.changed.notify_all();
    }

    /// Answers requests for blocks, keeps copies, and sends what is to be sent soon. Its own thread, since it writes: a
    /// thread that reads a link must never wait for one.
    pub(super) fn serve_blocks(&self) {
        let mut state = lock(self);
        while state.closed.is_none() {
            if let Some((link, header)) = state.soon.pop_front() {
                drop(state);
                match header.kind {
                    Kind::Ring => self.write(&link, header, &[]),
                    _ => self.send(&link, header, &[]),
                }
                state = lock(self);
                continue;
            }
            let Some((peer, request, payload)) = state.wanted.pop_front() else {
                state = self.changed.wait(state).unpoisoned();
                continue;
            };
            let link = state.links.get(&peer).cloned();
            let (serve, keep) = (state.serve.clone(), state.keep.clone());
            drop(state);
            if let Some(link) = link {
                let block = BlockId {
                    dataset: request.words[0],
                    partition: request.words[1],
                };
                let found = match request.kind {
                    Kind::BlockCopy => Ok(self
                        .keep_copy(request.generation, keep, (block, payload))
                        .then(Vec::new)),
                    _ => serve.map_or(Ok(None), |serve| serve(block)),
                };
                let (answer, bytes) = match found {
                    Ok(None) => (ABSENT, Vec::new()),
                    Ok(Some(bytes)) => (HERE, bytes),
                    Err(text) => (UNREADABLE, text.into_bytes()),
                };
                let words = [request.words[0], request.words[1], request.words[2], answer, 0, 0];
                let mut header = Header::new(Kind::Block, words);
                (header.generation, header.action, header.round) = (request.generation, request.action, request.round);
                self.send(&link, header, &[&bytes]);
            }
            state = lock(self);
        }
    }

    /// Keeps a copy that was made in the generation that this process is in. The maker of an older one may be gone, and
    /// others may be computing that block anew; a newer one waits until this process is there, too.
    fn keep_copy(&self, generation: u64, keep: Option<Keep>, (block, frame): (BlockId, Vec<u8>)) -> bool {
        let mut state = lock(self);
        while state.closed.is_none() && state.cut < generation && state.generation() < generation {
            state = self.changed.wait(state).unpoisoned();
        }
        drop(state);
        let _turn = self.copying.lock().unpoisoned();
        let state = lock(self);
        let is_in = state.cut < generation && state.generation() == generation;
        drop(state);
        is_in && keep.is_some_and(|keep| keep(block, frame))
    }
}
