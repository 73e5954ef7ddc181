//! What a store knows about its blocks, and who is moving one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex, MutexGuard};

use super::{Level, StoreStatistics};
use crate::block::BlockId;
use crate::codec::Codec;
use crate::unpoisoned::Unpoisoned;

/// One block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) level: Level,
    pub(super) codec: Codec,
    /// Tells this block from one that is put later under the same id.
    pub(super) version: u64,
    pub(super) memory: Option<Resident>,
    pub(super) on_disk: bool,
    /// While there are any, it stays in memory.
    pub(super) pins: u32,
}

impl Entry {
    /// Whether it must be written to disk before it may leave memory.
    pub(super) fn needs_writing(&self) -> bool {
        self.level == Level::MemoryAndDisk && !self.on_disk
    }
}

/// A block's stay in memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resident {
    pub(super) bytes: u64,
    /// When it was last used, on the index's own clock.
    used: u64,
}

/// The blocks of a dataset that are in memory.
#[derive(Debug, Default)]
struct ResidentBlocks {
    /// What they take together.
    bytes: u64,
    /// Partitions by the time of their last use.
    recency: BTreeMap<u64, u64>,
}

impl ResidentBlocks {
    /// When the least recently used one was used.
    fn oldest(&self) -> Option<u64> {
        self.recency.keys().next().copied()
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    state: Mutex<State>,
    unclaimed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<BlockId, Entry>,
    pub(super) statistics: StoreStatistics,
    /// Datasets with blocks in memory.
    resident: BTreeMap<u64, ResidentBlocks>,
    /// The same datasets by the time when their least recently used block was used.
    by_oldest: BTreeMap<u64, u64>,
    claimed: BTreeSet<BlockId>,
    clock: u64,
}

/// The right to write, remove or move one block. Ends when dropped.
pub(super) struct Claim<'a> {
    index: &'a Index,
    id: BlockId,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.index.lock().claimed.remove(&self.id);
        self.index.unclaimed.notify_all();
    }
}

impl Index {
    /// A poisoned lock is taken all the same: no change of the state is left half done where a panic may come from.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    /// Waits until nobody else has a claim on `id`. The caller must have no claim yet, and not hold the lock.
    pub(super) fn claim(&self, id: BlockId) -> Claim<'_> {
        let mut state = self
            .unclaimed
            .wait_while(self.lock(), |state| state.claimed.contains(&id))
            .unpoisoned();
        state.claimed.insert(id);
        Claim { index: self, id }
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Enters a block that is in no tier yet, in place of what was known under `id`, which is returned.
    pub(super) fn replace(&mut self, id: BlockId, codec: Codec, level: Level) -> Option<Entry> {
        let before = self.forget(id);
        let version = self.tick();
        let entry = Entry {
            level,
            codec,
            version,
            memory: None,
            on_disk: false,
            pins: 0,
        };
        self.entries.insert(id, entry);
        before
    }

    /// Forgets a block. Returns what was known of it.
    pub(super) fn forget(&mut self, id: BlockId) -> Option<Entry> {
        let entry = self.entries.get(&id).copied()?;
        self.leave_memory(id);
        self.entries.remove(&id);
        Some(entry)
    }

    /// Notes that a known block is now in memory.
    pub(super) fn enter_memory(&mut self, id: BlockId, bytes: u64) {
        let used = self.tick();
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.memory = Some(Resident { bytes, used });
            let of_dataset = self.resident.entry(id.dataset).or_default();
            of_dataset.recency.insert(used, id.partition);
            of_dataset.bytes += bytes;
            // It is the newest of all.
            if of_dataset.oldest() == Some(used) {
                self.by_oldest.insert(used, id.dataset);
            }
        }
    }

    /// Notes that a block is no longer in memory.
    pub(super) fn leave_memory(&mut self, id: BlockId) {
        let resident = self.entries.get_mut(&id).and_then(|entry| entry.memory.take());
        let of_dataset = self.resident.get_mut(&id.dataset);
        if let Some((resident, of_dataset)) = resident.zip(of_dataset) {
            of_dataset.recency.remove(&resident.used);
            of_dataset.bytes -= resident.bytes;
            let oldest = of_dataset.oldest();
            if self.by_oldest.remove(&resident.used).is_some() {
                self.by_oldest.extend(oldest.map(|used| (used, id.dataset)));
            }
            if oldest.is_none() {
                self.resident.remove(&id.dataset);
            }
        }
    }

    /// Notes whether a known block is on disk.
    pub(super) fn set_on_disk(&mut self, id: BlockId, on_disk: bool) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.on_disk = on_disk;
        }
    }

    /// Forgets a block that is in no tier.
    pub(super) fn forget_if_lost(&mut self, id: BlockId) {
        if self
            .entries
            .get(&id)
            .is_some_and(|entry| entry.memory.is_none() && !entry.on_disk)
        {
            self.entries.remove(&id);
        }
    }

    /// Notes that a block in memory was just used.
    pub(super) fn touch(&mut self, id: BlockId) {
        let resident = self.entries.get(&id).and_then(|entry| entry.memory);
        if let Some(resident) = resident {
            self.leave_memory(id);
            self.enter_memory(id, resident.bytes);
        }
    }

    /// What `id` takes in memory, in bytes.
    pub(super) fn resident_bytes(&self, id: BlockId) -> u64 {
        self.entries
            .get(&id)
            .and_then(|entry| entry.memory)
            .map_or(0, |resident| resident.bytes)
    }

    /// What the other blocks of its dataset take in memory, in bytes.
    pub(super) fn resident_bytes_beside(&self, id: BlockId) -> u64 {
        let of_dataset = self.resident.get(&id.dataset).map_or(0, |blocks| blocks.bytes);
        of_dataset - self.resident_bytes(id)
    }

    /// Pins a block if it is in memory; gives its version.
    pub(super) fn pin(&mut self, id: BlockId) -> Option<u64> {
        let entry = self.entries.get_mut(&id).filter(|entry| entry.memory.is_some())?;
        entry.pins += 1;
        Some(entry.version)
    }

    /// Takes a pin back, if the block is still the same one.
    pub(super) fn unpin(&mut self, id: BlockId, version: u64) {
        if let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.version == version) {
            entry.pins -= 1;
        }
    }

    /// The least recently used block in memory that is not pinned, of all datasets but `except`, and other than those
    /// that must be written to disk first unless `may_write`.
    pub(super) fn victim(&self, except: Option<u64>, may_write: bool) -> Option<BlockId> {
        self.first_used(except, |entry| entry.pins == 0 && (may_write || !entry.needs_writing()))
    }

    /// The least recently used block in memory that is `droppable`, of all datasets but `except`.
    fn first_used(&self, except: Option<u64>, mut droppable: impl FnMut(&Entry) -> bool) -> Option<BlockId> {
        let mut first: Option<(u64, BlockId)> = None;
        for (oldest, dataset) in self.by_oldest.iter().filter(|(_, dataset)| Some(**dataset) != except) {
            // From here on all blocks were used later.
            if first.is_some_and(|(used, _)| used < *oldest) {
                break;
            }
            let recency = self.resident.get(dataset).map(|blocks| &blocks.recency);
            let mut by_use = recency.into_iter().flatten().map(|(used, partition)| {
                let (dataset, partition) = (*dataset, *partition);
                (*used, BlockId { dataset, partition })
            });
            let found = by_use.find(|(_, id)| self.entries.get(id).is_some_and(&mut droppable));
            first = first.into_iter().chain(found).min_by_key(|(used, _)| *used);
        }
        first.map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests;
