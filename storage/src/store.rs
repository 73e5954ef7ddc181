//! The hierarchy of memory and disk that a process keeps its blocks in.
//!
//! Two kinds of lock, always taken in this order. A *claim* on a block is held by whoever writes, removes or moves it
//! between tiers, over its disk I/O; nobody holds two. The index lock is held for moments, and never over disk I/O.
//! Whoever needs room claims each block it evicts, one at a time, before it claims its own. A block that leaves memory
//! is dropped with neither held: what the last copy of a record runs then may ask this store for any block.

mod index;
mod level;
mod options;
mod pin;
mod reserve;

use std::sync::Arc;

use self::index::{Entry, Index, State};
pub use self::level::Level;
pub use self::options::{StoreOptions, StoreStatistics};
pub use self::pin::Pin;
pub use self::reserve::Reservation;
use self::reserve::Reserved;
use crate::block::{Block, BlockId};
use crate::bloom::Digest;
use crate::codec::Codec;
use crate::disk::DiskTier;
use crate::error::{Result, StorageError};
use crate::memo::{Memo, MemoTier};
use crate::memory::MemoryTier;
use crate::tier::Tier;

/// Keeps blocks in memory and on disk. Threads share it by reference.
///
/// Blocks in memory are evicted least recently used first, but not for a block of their own dataset: one that is read
/// in order and larger than memory would push out each block before it is read again. Readers hold what they got,
/// whatever is evicted meanwhile.
#[derive(Debug)]
pub struct BlockStore {
    memory: Box<dyn Tier>,
    disk: Box<dyn Tier>,
    memo: Option<Arc<Memo>>,
    index: Index,
    reserved: Reserved,
}

/// What a look at the index and at memory found.
enum Found {
    Nothing,
    InMemory(Block),
    OnDisk(Entry),
}

impl BlockStore {
    /// An empty store.
    ///
    /// # Errors
    /// [`StoreOptions::folder`] is named but cannot be made or written to.
    pub fn new(options: StoreOptions) -> Result<Self> {
        let (memory, disk) = Self::tiers(options)?;
        Ok(Self::with_tiers(Box::new(memory), Box::new(disk)))
    }

    /// An empty store that finds blocks of earlier programs in `memo`, and leaves it those that are
    /// [bound](BlockStore::recall) to the keys of their computations.
    ///
    /// # Errors
    /// As [`BlockStore::new`].
    pub fn with_memo(options: StoreOptions, memo: Arc<Memo>) -> Result<Self> {
        let (memory, disk) = Self::tiers(options)?;
        let disk = MemoTier::new(Arc::clone(&memo), disk);
        Ok(Self {
            memo: Some(memo),
            ..Self::with_tiers(Box::new(memory), Box::new(disk))
        })
    }

    fn tiers(options: StoreOptions) -> Result<(MemoryTier, DiskTier)> {
        let StoreOptions {
            memory_bytes_max,
            disk_bytes_max,
            folder,
        } = options;
        let disk = match folder {
            Some(folder) => DiskTier::open(folder, disk_bytes_max)?,
            None => DiskTier::temporary(disk_bytes_max),
        };
        Ok((MemoryTier::new(memory_bytes_max), disk))
    }

    /// A store on tiers of the caller's choice, both empty and used by nobody else. The `memory` tier is called with
    /// the index locked and so must answer at once.
    pub fn with_tiers(memory: Box<dyn Tier>, disk: Box<dyn Tier>) -> Self {
        Self {
            memory,
            disk,
            memo: None,
            index: Index::default(),
            reserved: Reserved::default(),
        }
    }

    /// Keeps `block`, in place of what was kept under `id` before. Blocks of [`Level::MemoryAndDisk`] for which there
    /// is no room in memory go to disk at once.
    ///
    /// Returns whether the block is kept: `false` means that it is of [`Level::Memory`] and larger than all memory of
    /// the store that is neither [reserved](BlockStore::reservation) nor [pinned](BlockStore::pin), nor taken by blocks
    /// of its dataset, so that it must be computed again when it is needed.
    ///
    /// # Errors
    /// The block cannot be written to disk, or blocks cannot be written that would have to make room for it. They stay
    /// in memory; `block` is not kept, and what was kept under `id` may be gone.
    pub fn put(&self, id: BlockId, block: &Block, level: Level) -> Result<bool> {
        let level = level.single();
        if level == Level::Disk {
            return self.put_on_disk(id, block, level).map(|()| true);
        }
        match self.put_in_memory(id, block, level) {
            Ok(true) => Ok(true),
            Ok(false) | Err(_) if level == Level::MemoryAndDisk => self.put_on_disk(id, block, level).map(|()| true),
            Ok(false) => self.remove(id).map(|_| false),
            Err(error) => Err(error),
        }
    }

    /// Removes the files of this store that no other run has a use for, as this process ends at once by a signal:
    /// whoever asks for what is on disk afterwards waits for that end.
    pub fn abandon(&self) {
        self.disk.abandon();
    }

    /// What this store remembers from run to run, if it was made with a [`Memo`].
    pub fn memo(&self) -> Option<&Arc<Memo>> {
        self.memo.as_ref()
    }

    /// What is [`put`](BlockStore::put) of a dataset from now on stays as long as this store, also where it is bound to
    /// keys and others may take its room in the [`Memo`]: it is written to the store's own files as well.
    pub fn protect(&self, dataset: u64) {
        if let Some(memo) = &self.memo {
            memo.protect(dataset);
        }
    }

    /// Binds the block of `id` to the key of its computation. Returns whether the block is kept, be it that a program
    /// before this one has computed it: then it is read when it is asked for, as a block on disk. Without a [`Memo`]
    /// nothing is bound.
    pub fn recall(&self, id: BlockId, key: &Digest, codec: Codec, level: Level) -> bool {
        let level = level.single();
        let Some(memo) = self.memo.as_ref().filter(|_| !self.contains(id)) else {
            return self.contains(id);
        };
        let _claim = self.index.claim(id);
        if self.contains(id) || !memo.bind(id, key) {
            return self.contains(id);
        }
        let mut state = self.index.lock();
        state.replace(id, codec.native(), level);
        state.set_on_disk(id, true);
        true
    }

    /// [`put`](BlockStore::put) of a block that is bound to a key: written at once, and kept in memory beside that if
    /// `level` wants it and there is room. If it can be written nowhere, it is kept in memory or not at all.
    ///
    /// # Errors
    /// Blocks cannot be written that would have to make room for it in memory.
    pub fn remember(&self, id: BlockId, block: &Block, level: Level) -> Result<bool> {
        let level = level.single();
        if let Err(error) = self.put_on_disk(id, block, level) {
            tracing::warn!(block = %id, %error, "a computed block can be written nowhere");
            return self.put(id, block, Level::Memory);
        }
        let version = self.index.lock().entries.get(&id).map(|entry| entry.version);
        if let Some(version) = version.filter(|_| level != Level::Disk) {
            self.promote(id, version, block);
        }
        Ok(true)
    }

    /// The block of `id`, from memory, else from disk; `None` if none is kept. A block of [`Level::MemoryAndDisk`] that
    /// is read from disk returns to memory if room can be made.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] if the block was kept on disk but cannot be read back: it is no longer kept then, and
    /// must be computed again. [`StorageError::Decode`] if its bytes are whole and its records cannot be read back, and
    /// [`StorageError::WrongType`] if it holds records of another type than `codec`: it stays.
    pub fn get(&self, id: BlockId, codec: Codec) -> Result<Option<Block>> {
        let found = self.look(id, codec)?;
        match found {
            Found::Nothing => Ok(None),
            Found::InMemory(block) => Ok(Some(block)),
            Found::OnDisk(_) => self.get_from_disk(id, codec),
        }
    }

    /// Whether a block of `id` is kept.
    pub fn contains(&self, id: BlockId) -> bool {
        self.index.lock().entries.contains_key(&id)
    }

    /// Forgets a block. Returns whether there was one.
    ///
    /// # Errors
    /// Its file cannot be removed. It is forgotten all the same.
    pub fn remove(&self, id: BlockId) -> Result<bool> {
        let claim = self.index.claim(id);
        let mut state = self.index.lock();
        let Some(entry) = state.forget(id) else {
            return Ok(false);
        };
        let left = self.take_from_memory(id, entry);
        drop(state);
        let removed = if entry.on_disk { self.disk.remove(id) } else { Ok(true) };
        drop(claim);
        left.and(removed).map(|_| true)
    }

    /// Forgets all blocks of a dataset. Returns how many there were.
    ///
    /// # Errors
    /// A file cannot be removed. All the blocks are forgotten all the same; the first error is returned.
    pub fn remove_dataset(&self, dataset: u64) -> Result<usize> {
        let id = |partition| BlockId { dataset, partition };
        let partitions = self.partitions(dataset).into_iter();
        let removed: Vec<Result<bool>> = partitions.map(|partition| self.remove(id(partition))).collect();
        if let Some(memo) = &self.memo {
            memo.unbind(dataset);
        }
        removed
            .into_iter()
            .try_fold(0, |count, removed| Ok(count + usize::from(removed?)))
    }

    /// The partitions of a dataset whose blocks are kept, sorted.
    pub fn partitions(&self, dataset: u64) -> Vec<u64> {
        let id = |partition| BlockId { dataset, partition };
        let state = self.index.lock();
        let of_dataset = state.entries.range(id(0)..=id(u64::MAX));
        of_dataset.map(|(id, _)| id.partition).collect()
    }

    /// All blocks that are kept, sorted.
    pub fn ids(&self) -> Vec<BlockId> {
        self.index.lock().entries.keys().copied().collect()
    }

    /// What the blocks in memory take, in bytes.
    pub fn memory_bytes_used(&self) -> u64 {
        self.memory.bytes_used()
    }

    /// The limit for blocks and working data in memory, in bytes.
    pub fn memory_bytes_max(&self) -> u64 {
        self.memory.bytes_max()
    }

    /// What the files of blocks take, in bytes.
    pub fn disk_bytes_used(&self) -> u64 {
        self.disk.bytes_used()
    }

    /// What the store did so far, and what it holds.
    pub fn statistics(&self) -> StoreStatistics {
        let counted = self.index.lock().statistics;
        let (memory_bytes_used, disk_bytes_used) = (self.memory_bytes_used(), self.disk_bytes_used());
        StoreStatistics {
            memory_bytes_used,
            disk_bytes_used,
            ..counted
        }
    }

    /// Returns whether it can be there at all.
    fn put_in_memory(&self, id: BlockId, block: &Block, level: Level) -> Result<bool> {
        let bytes = block.memory_bytes();
        loop {
            if !self.evict_for(id, bytes)? {
                return Ok(false);
            }
            let claim = self.index.claim(id);
            let mut state = self.index.lock();
            if !self.fits(&state, id, bytes) {
                // Others were quicker and took the room; each round one of us gets on.
                continue;
            }
            // Held beyond the lock and the claim.
            let resident = state.entries.get(&id).filter(|entry| entry.memory.is_some());
            let replaced = resident.map(|entry| self.memory.get(id, entry.codec));
            self.memory.put(id, block)?;
            let before = state.replace(id, block.codec(), level);
            state.enter_memory(id, bytes);
            drop(state);
            if before.is_some_and(|entry| entry.on_disk) {
                self.discard_from_disk(id);
            }
            drop(claim);
            drop(replaced);
            return Ok(true);
        }
    }

    fn put_on_disk(&self, id: BlockId, block: &Block, level: Level) -> Result<()> {
        let claim = self.index.claim(id);
        let written = self.write_to_disk(id, block);
        let mut state = self.index.lock();
        if let Err(error) = written {
            state.set_on_disk(id, false);
            state.forget_if_lost(id);
            return Err(error);
        }
        let before = state.replace(id, block.codec(), level);
        state.set_on_disk(id, true);
        let left = before.map(|entry| self.take_from_memory(id, entry)).transpose();
        drop(state);
        drop(claim);
        left.map(|_| ())
    }

    /// Writes a block to disk, or leaves no file of it. The caller has the claim.
    fn write_to_disk(&self, id: BlockId, block: &Block) -> Result<()> {
        self.disk.put(id, block).inspect_err(|_| self.discard_from_disk(id))
    }

    /// Removes a file that the index no longer names. If that fails it occupies room but is never read.
    fn discard_from_disk(&self, id: BlockId) {
        if let Err(error) = self.disk.remove(id) {
            tracing::warn!(%id, %error, "cannot remove the file of a block that is no longer kept");
        }
    }

    /// Takes a block out of the memory tier, for the caller to drop once the index is unlocked and its claim has ended.
    fn take_from_memory(&self, id: BlockId, entry: Entry) -> Result<Option<Block>> {
        if entry.memory.is_none() {
            return Ok(None);
        }
        let block = self.memory.get(id, entry.codec);
        self.memory.remove(id)?;
        block
    }

    /// Looks for a block in the index and in memory, and counts what it finds there.
    fn look(&self, id: BlockId, codec: Codec) -> Result<Found> {
        let mut state = self.index.lock();
        let Some(entry) = state.entries.get(&id).copied() else {
            state.statistics.misses += 1;
            return Ok(Found::Nothing);
        };
        if entry.memory.is_none() {
            return Ok(Found::OnDisk(entry));
        }
        let Some(block) = self.memory.get(id, codec)? else {
            state.leave_memory(id);
            state.forget_if_lost(id);
            return Err(StorageError::corrupt(id, "the memory tier lost it"));
        };
        state.statistics.memory_hits += 1;
        state.statistics.memory_bytes_read += state.resident_bytes(id);
        state.touch(id);
        Ok(Found::InMemory(block))
    }

    fn get_from_disk(&self, id: BlockId, codec: Codec) -> Result<Option<Block>> {
        let claim = self.index.claim(id);
        // Much may have happened while others had the claim.
        let entry = match self.look(id, codec)? {
            Found::Nothing => return Ok(None),
            Found::InMemory(block) => return Ok(Some(block)),
            Found::OnDisk(entry) => entry,
        };
        let bytes = self.disk.bytes_of(id).unwrap_or(0);
        let block = match self.disk.get(id, codec) {
            Ok(Some(block)) => block,
            // It is whole, and would be no other if it were computed again.
            Err(error @ (StorageError::WrongType { .. } | StorageError::Decode { .. })) => return Err(error),
            Err(error) if error.is_want_of_resources() => return Err(error),
            Ok(None) => return Err(self.discard(id, StorageError::corrupt(id, "its file is gone"))),
            Err(error) => return Err(self.discard(id, error)),
        };
        let mut state = self.index.lock();
        state.statistics.disk_hits += 1;
        state.statistics.disk_bytes_read += bytes;
        drop(state);
        drop(claim);
        if entry.level == Level::MemoryAndDisk {
            self.promote(id, entry.version, &block);
        }
        Ok(Some(block))
    }

    /// Forgets a block that could not be read from disk, and says that it must be computed again.
    fn discard(&self, id: BlockId, error: StorageError) -> StorageError {
        let mut state = self.index.lock();
        state.forget(id);
        state.statistics.corrupt_blocks += 1;
        drop(state);
        self.discard_from_disk(id);
        match error {
            StorageError::Corrupt { .. } => error,
            unreadable => StorageError::corrupt(id, unreadable),
        }
    }

    /// Brings a block back to memory if there is or can be made room, and nothing happened to it meanwhile.
    fn promote(&self, id: BlockId, version: u64, block: &Block) {
        let bytes = block.memory_bytes();
        if !self.evict_for(id, bytes).unwrap_or(false) {
            return;
        }
        let _claim = self.index.claim(id);
        let mut state = self.index.lock();
        let as_it_was = |entry: &Entry| entry.version == version && entry.memory.is_none();
        if state.entries.get(&id).is_some_and(as_it_was)
            && self.fits(&state, id, bytes)
            && self.memory.put(id, block).is_ok()
        {
            state.enter_memory(id, bytes);
            state.statistics.promotions += 1;
        }
    }

    /// Whether memory has room for `bytes` in place of what `id` takes there now.
    fn fits(&self, state: &State, id: BlockId, bytes: u64) -> bool {
        let others_bytes = self.memory.bytes_used().saturating_sub(state.resident_bytes(id));
        (others_bytes + self.reserved.bytes())
            .checked_add(bytes)
            .is_some_and(|bytes| bytes <= self.memory.bytes_max())
    }

    /// Evicts blocks of other datasets until [`Self::fits`], unless that does not help; returns whether it fits. Once a
    /// block cannot be written to disk, only those are evicted that need not be.
    fn evict_for(&self, id: BlockId, bytes: u64) -> Result<bool> {
        let mut failure = None;
        loop {
            let state = self.index.lock();
            if self.fits(&state, id, bytes) {
                return Ok(true);
            }
            let kept = self.reserved.bytes() + state.resident_bytes_beside(id);
            if bytes
                .checked_add(kept)
                .is_none_or(|bytes| bytes > self.memory.bytes_max())
            {
                return Ok(false);
            }
            let Some(victim) = state.victim(Some(id.dataset), failure.is_none()) else {
                return failure.map_or(Ok(false), Err);
            };
            drop(state);
            if let Err(error) = self.evict(victim) {
                failure = Some(error);
            }
        }
    }

    /// Moves a block out of memory: to disk if its level says so, else away. Nothing to do if somebody else did.
    fn evict(&self, id: BlockId) -> Result<()> {
        let claim = self.index.claim(id);
        let state = self.index.lock();
        let movable = |entry: &Entry| entry.memory.is_some() && entry.pins == 0;
        let Some(entry) = state.entries.get(&id).copied().filter(movable) else {
            return Ok(());
        };
        let block = self.memory.get(id, entry.codec)?;
        drop(state);
        let demoted = entry.needs_writing();
        if let Some(block) = block.as_ref().filter(|_| demoted) {
            self.write_to_disk(id, block)?;
        }
        let mut state = self.index.lock();
        state.set_on_disk(id, entry.on_disk || demoted && block.is_some());
        // It may have been pinned as it was written.
        if !state.entries.get(&id).is_some_and(movable) {
            return Ok(());
        }
        self.memory.remove(id)?;
        state.leave_memory(id);
        state.forget_if_lost(id);
        state.statistics.evictions += 1;
        state.statistics.demotions += u64::from(demoted);
        drop(state);
        drop(claim);
        drop(block);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
