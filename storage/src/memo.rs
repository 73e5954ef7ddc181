//! Results that are remembered from run to run: blocks under the keys of the computations that made them.
//!
//! A [`BlockStore`](crate::BlockStore) with a [`Memo`] keeps blocks that are bound to a key there in place of its own
//! files. What cannot be kept there goes to those files; what is damaged there, or gone, is a block that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use serde::Serialize;

use crate::block::{Block, BlockId};
use crate::bloom::{Bloom, Digest};
use crate::cache::{Blocks, CacheOptions};
use crate::codec::Codec;
use crate::disk::DiskTier;
use crate::error::{Result, StorageError};
use crate::figures::Counters;
use crate::spill::Spill;
use crate::tier::Tier;
use crate::unpoisoned::Unpoisoned;

/// How long another process that writes is waited for before a block is kept elsewhere.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// A folder of computed blocks that stays when the program ends, and which processes may share. Nothing is made there
/// before [`Memo::open`].
#[derive(Debug)]
pub struct Memo {
    options: CacheOptions,
    counters: Arc<Counters>,
    blocks: OnceLock<Blocks>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bound: BTreeMap<BlockId, Bound>,
    /// Keys whose files could not be read: they are not counted on again while their datasets live, even if they cannot
    /// be removed.
    refused: BTreeSet<Digest>,
    /// Datasets whose blocks must not be lost when others need their room here.
    held: BTreeSet<u64>,
}

/// The key of a block's computation.
#[derive(Debug)]
struct Bound {
    key: Digest,
    is_here: bool,
    /// Whether the block was computed by this program, or has been read once.
    is_counted: bool,
}

/// What remembering has cost and spared since a [`Memo`] was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoFigures {
    /// Blocks that were computed.
    pub computations: u64,
    /// Blocks that were read instead of being computed.
    pub computations_avoided: u64,
    /// Times that the Bloom filter said "absent", which spared a look-up on disk.
    pub bloom_absent: u64,
    /// Times that it said "maybe", and there was no file.
    pub bloom_false_positives: u64,
    /// Bytes of blocks that were read from the folder.
    pub bytes_read: u64,
    /// Bytes of blocks that were written there.
    pub bytes_written: u64,
    /// Blocks that left the folder to make room.
    pub blocks_evicted: u64,
    /// Blocks in it that were not what had been written.
    pub blocks_damaged: u64,
    /// Blocks that could not be kept there: no room, no permission, a full disk.
    pub blocks_not_kept: u64,
}

impl Memo {
    /// Blocks of up to `bytes_max` bytes in `folder`, each rounded up to 4 KiB. The folder is for nothing else. What
    /// was used least recently goes first. The block that is being written, and a journal of at most 64 MiB, come on
    /// top.
    pub fn new(folder: impl Into<PathBuf>, bytes_max: u64) -> Self {
        let options = CacheOptions {
            bytes_max,
            wait_max: WAIT_MAX,
            ..CacheOptions::new(folder)
        };
        Self {
            options,
            counters: Arc::default(),
            blocks: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    /// Opens the folder, if it is not open yet.
    ///
    /// # Errors
    /// It cannot be made or written to.
    pub fn open(&self) -> Result<()> {
        if self.blocks.get().is_none() {
            let _ = self.blocks.set(Blocks::open(&self.options, &self.counters)?);
        }
        Ok(())
    }

    /// A copy of the Bloom filter of all keys in the folder, for others: what it says is absent is not here. `None`
    /// before [`Memo::open`].
    pub fn bloom(&self) -> Option<Bloom> {
        self.blocks.get().map(Blocks::bloom)
    }

    /// What remembering has cost and spared.
    pub fn figures(&self) -> MemoFigures {
        let counters = &self.counters;
        MemoFigures {
            computations: counters.fetches.get(),
            computations_avoided: counters.fetches_avoided.get(),
            bloom_absent: counters.bloom_absent.get(),
            bloom_false_positives: counters.bloom_false_positives.get(),
            bytes_read: counters.cache_bytes.get(),
            bytes_written: counters.written_bytes.get(),
            blocks_evicted: counters.chunks_evicted.get(),
            blocks_damaged: counters.chunks_damaged.get(),
            blocks_not_kept: counters.segments_not_kept.get(),
        }
    }

    /// Learns what other processes have kept since the last call.
    pub fn catch_up(&self) {
        if let Some(blocks) = self.blocks.get() {
            blocks.catch_up();
        }
    }

    /// From now on the block of `id` is the result of the computation `key`. Returns whether that seems to be here.
    pub(crate) fn bind(&self, id: BlockId, key: &Digest) -> bool {
        let refused = self.state().refused.contains(key);
        let is_here = !refused && self.has(key);
        let bound = Bound {
            key: *key,
            is_here,
            is_counted: false,
        };
        self.state().bound.insert(id, bound);
        is_here
    }

    /// Forgets the keys of a dataset's blocks. The blocks stay.
    pub(crate) fn unbind(&self, dataset: u64) {
        let mut state = self.state();
        let State { bound, refused, held } = &mut *state;
        bound.retain(|id, bound| {
            let stays = id.dataset != dataset;
            if !stays {
                refused.remove(&bound.key);
            }
            stays
        });
        held.remove(&dataset);
    }

    /// Blocks of a dataset are kept in the store's own files too from now on.
    pub(crate) fn protect(&self, dataset: u64) {
        self.state().held.insert(dataset);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    fn key(&self, id: BlockId) -> Option<Digest> {
        self.state().bound.get(&id).map(|bound| bound.key)
    }

    fn key_here(&self, id: BlockId) -> Option<Digest> {
        let state = self.state();
        state
            .bound
            .get(&id)
            .filter(|bound| bound.is_here)
            .map(|bound| bound.key)
    }

    fn has(&self, key: &Digest) -> bool {
        self.blocks.get().is_some_and(|blocks| blocks.has(key))
    }

    fn bytes_of(&self, key: &Digest) -> Option<u64> {
        self.blocks.get()?.bytes_of(key)
    }

    /// Notes whether a block is here; returns whether it was.
    fn set_here(&self, id: BlockId, is_here: bool) -> bool {
        let mut state = self.state();
        let bound = state.bound.get_mut(&id);
        bound.is_some_and(|bound| std::mem::replace(&mut bound.is_here, is_here))
    }

    /// Keeps a block under its key. An error is for the log: the caller has another place.
    fn keep(&self, id: BlockId, key: &Digest, frame: Vec<u8>) -> Result<()> {
        let kept = match self.blocks.get() {
            Some(blocks) => blocks.keep(key, frame),
            None => Err(StorageError::io(
                "write",
                &self.options.folder,
                0,
                std::io::ErrorKind::NotFound.into(),
            )),
        };
        let mut state = self.state();
        if kept.is_ok() {
            state.refused.remove(key);
        }
        if let Some(bound) = state.bound.get_mut(&id) {
            bound.is_here = kept.is_ok();
            bound.is_counted = true;
        }
        self.counters.fetches.add(1);
        self.counters.segments_not_kept.add(u64::from(kept.is_err()));
        kept
    }

    /// The block of a key, or nothing, with a reason if it cannot be read as what it should be, or not just now.
    fn read(&self, id: BlockId, key: &Digest, codec: Codec) -> Result<Option<Block>> {
        let Some(blocks) = self.blocks.get() else {
            return Ok(None);
        };
        let Some(bytes) = blocks.read(key)? else {
            self.refuse(id, key);
            return Ok(None);
        };
        let block = codec.portable().decode(bytes.into()).map_err(|error| {
            blocks.discard(key);
            self.refuse(id, key);
            StorageError::corrupt(id, error)
        })?;
        if let Some(bound) = self.state().bound.get_mut(&id) {
            let first = !std::mem::replace(&mut bound.is_counted, true);
            self.counters.fetches_avoided.add(u64::from(first));
        }
        Ok(Some(block))
    }

    fn refuse(&self, id: BlockId, key: &Digest) {
        self.set_here(id, false);
        self.state().refused.insert(*key);
    }
}

/// The files of a store: those of blocks that are bound to keys in the memo, all others in a folder of the store's own.
#[derive(Debug)]
pub(crate) struct MemoTier {
    memo: Arc<Memo>,
    disk: DiskTier,
}

impl MemoTier {
    pub(crate) fn new(memo: Arc<Memo>, disk: DiskTier) -> Self {
        Self { memo, disk }
    }
}

impl Tier for MemoTier {
    fn name(&self) -> &str {
        self.disk.name()
    }

    fn put(&self, id: BlockId, block: &Block) -> Result<()> {
        let Some(key) = self.memo.key(id) else {
            return self.disk.put(id, block);
        };
        let is_held = self.memo.state().held.contains(&id.dataset);
        if is_held {
            self.disk.put(id, block)?;
            if self.memo.has(&key) {
                return Ok(());
            }
        }
        let frame = block.codec().portable().encode(block)?;
        match self.memo.keep(id, &key, frame) {
            Ok(()) if is_held => Ok(()),
            Ok(()) => self.disk.remove(id).map(drop),
            Err(error) => {
                tracing::warn!(block = %id, %error, "a computed block cannot be remembered for other runs");
                if is_held { Ok(()) } else { self.disk.put(id, block) }
            }
        }
    }

    fn get(&self, id: BlockId, codec: Codec) -> Result<Option<Block>> {
        let remembered = self.memo.key_here(id).map(|key| self.memo.read(id, &key, codec));
        match remembered {
            Some(Ok(Some(block))) => Ok(Some(block)),
            Some(Err(error)) if !self.disk.contains(id) => Err(error),
            _ => self.disk.get(id, codec),
        }
    }

    /// What is remembered stays for other runs.
    fn remove(&self, id: BlockId) -> Result<bool> {
        let was_here = self.memo.set_here(id, false);
        Ok(self.disk.remove(id)? || was_here)
    }

    fn bytes_of(&self, id: BlockId) -> Option<u64> {
        let remembered = self.memo.key_here(id).and_then(|key| self.memo.bytes_of(&key));
        remembered.or_else(|| self.disk.bytes_of(id))
    }

    fn contains(&self, id: BlockId) -> bool {
        self.memo.key_here(id).is_some() || self.disk.contains(id)
    }

    fn ids(&self) -> Vec<BlockId> {
        let state = self.memo.state();
        let here = state.bound.iter().filter(|(_, bound)| bound.is_here);
        let mut ids: BTreeSet<BlockId> = here.map(|(id, _)| *id).collect();
        drop(state);
        ids.extend(self.disk.ids());
        ids.into_iter().collect()
    }

    /// Without what is remembered, which has a budget of its own.
    fn bytes_used(&self) -> u64 {
        self.disk.bytes_used()
    }

    fn bytes_max(&self) -> u64 {
        self.disk.bytes_max()
    }

    /// What is remembered stays for other runs.
    fn abandon(&self) {
        self.disk.abandon();
    }

    fn spill(&self) -> Result<Spill> {
        self.disk.spill()
    }
}

#[cfg(test)]
mod tests;
