//! A hash table in order of first arrival, in which the keys of a batch are looked up together.
//!
//! In a table that is larger than the caches a look-up mostly waits for memory: for the cell of its key, then for the
//! entry. So the hashes and cells of many keys are looked up in passes over all of them, in which no step depends on
//! the one before, and the processor waits for several at a time.

use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;

use crate::partitioner::hasher;

/// Keys with values, in the order in which the keys first came.
pub(crate) struct Table<K, V> {
    cells: HashTable<Cell>,
    entries: Vec<(K, V)>,
}

/// A key's hash, and the index of its entry.
#[derive(Clone, Copy)]
struct Cell {
    hash: u64,
    index: usize,
}

/// A key's hash, and where its entry was when it was looked up; it may have come since.
#[derive(Clone, Copy)]
pub(crate) struct Hint(Cell);

/// What a key takes of the cells, in bytes: they are at least 7/16 full, and there are half as many before they grow.
const CELL_BYTES: u64 = 56;

/// No entry has this index.
const NOWHERE: usize = usize::MAX;

/// The entry of a key.
pub(crate) enum KeyEntry<'a, K, V> {
    /// Its value.
    Occupied(&'a mut V),
    /// There is none.
    Vacant(Vacant<'a, K, V>),
}

/// An index for a key that has no entry.
pub(crate) struct Vacant<'a, K, V> {
    table: &'a mut Table<K, V>,
    hash: u64,
    key: K,
}

impl<K, V> Table<K, V> {
    /// What a key takes with its value, beside what they own, in bytes. A table that grows is there twice for a moment.
    pub(crate) const KEY_BYTES: u64 = 2 * size_of::<(K, V)>() as u64 + CELL_BYTES;

    pub(crate) fn new() -> Self {
        Self {
            cells: HashTable::new(),
            entries: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// All keys, in the order in which they came.
    pub(crate) fn entries(&self) -> &[(K, V)] {
        &self.entries
    }

    pub(crate) fn into_entries(self) -> Vec<(K, V)> {
        self.entries
    }
}

impl<K: Hash + Eq, V> Table<K, V> {
    /// Looks up `keys`, in order.
    pub(crate) fn look_up<'a>(&self, keys: impl Iterator<Item = &'a K>, hints: &mut Vec<Hint>)
    where
        K: 'a,
    {
        hints.clear();
        hints.extend(keys.map(hint));
        for Hint(hint) in hints {
            let hash = hint.hash;
            if let Some(cell) = self.cells.find(hash, |cell| cell.hash == hash) {
                hint.index = cell.index;
            }
        }
    }

    /// The entry of a key, of which a hint is at hand.
    pub(crate) fn entry(&mut self, key: K, hint: Hint) -> KeyEntry<'_, K, V> {
        match self.index(&key, hint) {
            Some(index) => KeyEntry::Occupied(&mut self.entries[index].1),
            None => KeyEntry::Vacant(Vacant {
                table: self,
                hash: hint.0.hash,
                key,
            }),
        }
    }

    /// The index and the value of a key, of which a hint is at hand.
    pub(crate) fn get(&self, key: &K, hint: Hint) -> Option<(usize, &V)> {
        let index = self.index(key, hint)?;
        Some((index, &self.entries[index].1))
    }

    /// Takes the last entry out.
    pub(crate) fn pop(&mut self) -> Option<(K, V)> {
        let (key, value) = self.entries.pop()?;
        let index = self.entries.len();
        if let Ok(cell) = self.cells.find_entry(hash_of(&key), |cell| cell.index == index) {
            cell.remove();
        }
        Some((key, value))
    }

    fn index(&self, key: &K, Hint(hint): Hint) -> Option<usize> {
        if let Some((found, _)) = self.entries.get(hint.index)
            && found == key
        {
            return Some(hint.index);
        }
        let is_its = |cell: &Cell| cell.hash == hint.hash && self.entries[cell.index].0 == *key;
        self.cells.find(hint.hash, is_its).map(|cell| cell.index)
    }
}

/// The hash of a key in tables. The high bits, which tell cells apart before keys are compared, are other ones than
/// those that have chosen the partition: in each of many partitions all keys share these.
fn hash_of<K: Hash>(key: &K) -> u64 {
    hasher().hash_one(key).rotate_left(32)
}

/// The hint for a key that is looked up by itself.
pub(crate) fn hint<K: Hash>(key: &K) -> Hint {
    let hash = hash_of(key);
    Hint(Cell { hash, index: NOWHERE })
}

impl<K, V> Vacant<'_, K, V> {
    pub(crate) fn key(&self) -> &K {
        &self.key
    }

    pub(crate) fn insert(self, value: V) {
        let Self { table, hash, key } = self;
        let index = table.entries.len();
        table.entries.push((key, value));
        table.cells.insert_unique(hash, Cell { hash, index }, |cell| cell.hash);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn add(table: &mut Table<u64, u64>, key: u64, hint: Hint) {
        match table.entry(key, hint) {
            KeyEntry::Occupied(value) => *value += 1,
            KeyEntry::Vacant(entry) => entry.insert(1),
        }
    }

    /// How often each key came, in order of first arrival, by looking at all.
    fn counts(keys: &[u64]) -> Vec<(u64, u64)> {
        let mut counts: Vec<(u64, u64)> = Vec::new();
        for key in keys {
            match counts.iter_mut().find(|(found, _)| found == key) {
                Some((_, count)) => *count += 1,
                None => counts.push((*key, 1)),
            }
        }
        counts
    }

    proptest! {
        #[test]
        fn it_is_what_looking_at_all_entries_gives(
            batches in prop::collection::vec((any::<bool>(), prop::collection::vec(0..30u64, 0..40)), 0..6),
            popped in 0..40usize,
        ) {
            let (mut table, mut keys, mut hints) = (Table::new(), Vec::new(), Vec::new());
            for (together, batch) in &batches {
                keys.extend_from_slice(batch);
                if *together {
                    table.look_up(batch.iter(), &mut hints);
                } else {
                    hints = batch.iter().map(hint).collect();
                }
                batch.iter().zip(&hints).for_each(|(key, hint)| add(&mut table, *key, *hint));
            }
            let mut expected = counts(&keys);
            prop_assert_eq!(table.entries().to_vec(), expected.clone());
            for _ in 0..popped {
                prop_assert_eq!(table.pop(), expected.pop());
            }
            for key in 0..30 {
                let index = expected.iter().position(|(found, _)| *found == key);
                prop_assert_eq!(table.get(&key, hint(&key)), index.map(|index| (index, &expected[index].1)));
            }
            // What was popped may come again, at another index.
            for key in [3, 7, 3] {
                add(&mut table, key, hint(&key));
                keys = expected.iter().flat_map(|(key, count)| std::iter::repeat_n(*key, *count as usize)).collect();
                keys.push(key);
                expected = counts(&keys);
                prop_assert_eq!(table.entries().to_vec(), expected.clone());
            }
            prop_assert_eq!(table.len(), expected.len());
            prop_assert_eq!(table.into_entries(), expected);
        }
    }
}
