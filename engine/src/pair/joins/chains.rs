//! Joins whose left side is in memory, and the way on for those where it has no room.

use std::mem::size_of;

use distdl_storage::Record;
use itertools::Itertools;

use crate::batch::{AnyBatch, AnyStream, Batch, Fill, TaskResult, typed_batches};
use crate::error::EngineError;
use crate::partitioner::Key;
use crate::shuffle::{Hint, KeyEntry, Pair, Table, join_on_disk};
use crate::task::TaskContext;
use crate::working::{Working, owned_bytes};

/// A hash table of chains: all values of a key, in order, without an allocation for each key.
pub(super) struct Chains<K, V> {
    /// Key to (first, last) position in `links`.
    keys: Table<K, (u32, u32)>,
    /// Of the keys of the batch that is read, of either side.
    hints: Vec<Hint>,
    /// Values, each with the position of the next one of its key.
    links: Vec<(V, u32)>,
    /// Whether the other side has a key, by its position in `keys`; empty where nobody asks.
    met: Vec<bool>,
    working: Working,
}

const END: u32 = u32::MAX;

/// What the left side of a join has become.
pub(super) enum Build<K, V> {
    /// All of it is in memory.
    Whole(Chains<K, V>),
    /// Memory has no room for all of it.
    Beyond(Beyond<K, V>),
}

/// The left side of a join that has no room in memory.
pub(super) struct Beyond<K, V> {
    begun: Chains<K, V>,
    rest: Box<dyn Iterator<Item = TaskResult<Batch<(K, V)>>>>,
}

impl<K: Key, V: Record> Chains<K, V> {
    pub(super) fn collect(context: &TaskContext, stream: AnyStream) -> TaskResult<Build<K, V>> {
        let mut chains = Self {
            keys: Table::new(),
            hints: Vec::new(),
            links: Vec::new(),
            met: Vec::new(),
            working: Working::of(context),
        };
        let mut batches = typed_batches::<(K, V)>(stream);
        while let Some(batch) = batches.next() {
            let batch = batch?;
            if chains.links.len() + batch.len() >= END as usize {
                let what = format!("one partition of the left side of a `join` has {END} records or more");
                return Err(EngineError::invalid(what, "join into more partitions with `join_into`").into());
            }
            if !chains.take(batch) {
                let rest = Box::new(batches);
                return Ok(Build::Beyond(Beyond { begun: chains, rest }));
            }
        }
        Ok(Build::Whole(chains))
    }

    /// Returns whether there is room for more.
    fn take(&mut self, batch: Batch<(K, V)>) -> bool {
        let (keys, links) = (self.keys.len(), self.links.len());
        let mut bytes = 0;
        let batch = batch.into_vec();
        self.keys.look_up(batch.iter().map(|(key, _)| key), &mut self.hints);
        for ((key, value), hint) in batch.into_iter().zip(&self.hints) {
            let position = self.links.len() as u32;
            bytes += owned_bytes(&value);
            self.links.push((value, END));
            match self.keys.entry(key, *hint) {
                KeyEntry::Occupied((_, last)) => {
                    self.links[*last as usize].1 = position;
                    *last = position;
                }
                KeyEntry::Vacant(entry) => {
                    bytes += owned_bytes(entry.key());
                    entry.insert((position, position));
                }
            }
        }
        // A table that grows is there twice for a moment.
        let keys = (self.keys.len() - keys) as u64 * Table::<K, (u32, u32)>::KEY_BYTES;
        let links = ((self.links.len() - links) * 2 * size_of::<(V, u32)>()) as u64;
        self.working.grow(bytes + keys + links)
    }

    /// Leaves those of `records` whose key is not here.
    pub(super) fn retain_others<W>(&mut self, records: &mut Vec<(K, W)>) {
        self.keys.look_up(records.iter().map(|(key, _)| key), &mut self.hints);
        let mut hints = self.hints.iter();
        records.retain(|(key, _)| hints.next().is_none_or(|hint| self.keys.get(key, *hint).is_none()));
    }

    /// Notes that the other side has a key; gives the position of its first value.
    fn meet(&mut self, key: &K, hint: Hint) -> Option<u32> {
        let (place, (first, _)) = self.keys.get(key, hint)?;
        if let Some(met) = self.met.get_mut(place) {
            *met = true;
        }
        Some(*first)
    }

    /// From `place` on, the first key that the other side lacks, and the position of its first value.
    fn not_met(&self, place: usize) -> Option<(usize, u32)> {
        let mut keys = self.keys.entries().iter().zip(&self.met).enumerate().skip(place);
        let (place, ((_, (first, _)), _)) = keys.find(|(_, (_, met))| !**met)?;
        Some((place, *first))
    }

    /// All records, those of a key together, with the places of the keys.
    fn into_placed(self) -> impl Iterator<Item = (u64, (K, V))> {
        let Self {
            keys, links, working, ..
        } = self;
        let records = keys
            .into_entries()
            .into_iter()
            .enumerate()
            .map(move |(place, (key, (first, _)))| {
                let _in_use = &working;
                let position = |position: &u32| Some(links[*position as usize].1).filter(|next| *next != END);
                let positions = std::iter::successors(Some(first), position);
                let values: Vec<V> = positions.map(|position| links[position as usize].0.clone()).collect();
                (place as u64, key, values)
            });
        records.flat_map(|(place, key, values)| values.into_iter().map(move |value| (place, (key.clone(), value))))
    }
}

/// The join of a left side that has no room in memory with `right`.
pub(super) fn beyond_memory<K: Key, V: Record, W: Record, X: Record>(
    context: &TaskContext,
    left: Beyond<K, V>,
    right: AnyStream,
    pair: Pair<V, W, X>,
) -> TaskResult<AnyStream> {
    // The place of a key is that of its first record.
    let first = left.begun.keys.len() as u64;
    let rest = left.rest.map_ok(Batch::into_vec).flatten_ok();
    let rest = rest
        .zip(first..)
        .map(|(record, place)| record.map(|record| (place, record)));
    let left = left.begun.into_placed().map(Ok).chain(rest);
    let right = typed_batches::<(K, W)>(right).map_ok(Batch::into_vec);
    join_on_disk(context, left, right.flatten_ok(), pair)
}

/// The records of a batch that is being made.
struct Made<T> {
    records: Vec<T>,
    fill: Fill,
}

impl<T: Record> Made<T> {
    fn with_room(records: usize) -> Self {
        Self {
            records: Vec::with_capacity(records),
            fill: Fill::default(),
        }
    }

    fn add(&mut self, record: Option<T>) {
        self.records.extend(record);
    }

    /// Whether there are so many records, or as many bytes as a batch may have.
    fn is_full(&mut self, batch_records: usize) -> bool {
        self.records.len() >= batch_records || self.fill.is_full(&self.records)
    }
}

/// A join under way: for each record of the right side the values of its key, then the keys that the right side lacks.
pub(super) struct Joined<K, V, W, X> {
    left: Chains<K, V>,
    /// `None` once it was read to its end.
    right: Option<AnyStream>,
    /// Of the right side, the records that were read and are not joined.
    batch: std::vec::IntoIter<(K, W)>,
    pair: Pair<V, W, X>,
    /// Records that are made at once: where a record of the right side meets more, they wait until these are read.
    batch_records: usize,
    /// A record of the right side, and where the values begin that it has yet to meet.
    begun: Option<(K, W, u32)>,
    /// A key that the right side lacks, by its place, and where those of its values begin that are not made yet; `None`
    /// at the end.
    alone: Option<(usize, u32)>,
}

impl<K: Key, V: Record, W: Record, X: Record> Joined<K, V, W, X> {
    /// With records for the keys that the right side lacks, if it `keeps_left`: if not, `pair` is not asked for any.
    pub(super) fn new(
        context: &TaskContext,
        mut left: Chains<K, V>,
        right: AnyStream,
        pair: Pair<V, W, X>,
        keeps_left: bool,
    ) -> Self {
        if keeps_left {
            left.met.resize(left.keys.len(), false);
        }
        Self {
            left,
            right: Some(right),
            batch: Vec::new().into_iter(),
            pair,
            batch_records: context.resources.batch_records,
            begun: None,
            alone: None,
        }
    }

    /// Joins a record with the values from `position` on, while there is room.
    fn join(&mut self, key: K, right: W, mut position: u32, made: &mut Made<(K, X)>) {
        loop {
            if made.is_full(self.batch_records) {
                self.begun = Some((key, right, position));
                return;
            }
            let (left, next) = &self.left.links[position as usize];
            if *next == END {
                // Its last: nothing need be copied.
                made.add((self.pair)(Some(left.clone()), Some(right)).map(|pair| (key, pair)));
                return;
            }
            made.add((self.pair)(Some(left.clone()), Some(right.clone())).map(|pair| (key.clone(), pair)));
            position = *next;
        }
    }

    /// What comes of the records of the right side that were read, as far as there is room.
    fn joined(&mut self) -> Vec<(K, X)> {
        let mut made = Made::with_room(self.batch.len().min(self.batch_records));
        if let Some((key, right, position)) = self.begun.take() {
            self.join(key, right, position, &mut made);
        }
        while self.begun.is_none()
            && !made.is_full(usize::MAX)
            && let Some((key, right)) = self.batch.next()
        {
            let hints = &self.left.hints;
            let hint = hints[hints.len() - self.batch.len() - 1];
            match self.left.meet(&key, hint) {
                Some(first) => self.join(key, right, first, &mut made),
                None => made.add((self.pair)(None, Some(right)).map(|pair| (key, pair))),
            }
        }
        made.records
    }

    /// What comes of the keys that the right side lacks, as far as there is room.
    fn left_alone(&mut self) -> Vec<(K, X)> {
        let mut made = Made::with_room(0);
        while !made.is_full(self.batch_records)
            && let Some((place, position)) = self.alone
        {
            let (left, next) = &self.left.links[position as usize];
            let key = &self.left.keys.entries()[place].0;
            made.add((self.pair)(Some(left.clone()), None).map(|pair| (key.clone(), pair)));
            self.alone = match *next {
                END => self.left.not_met(place + 1),
                next => Some((place, next)),
            };
        }
        made.records
    }
}

impl<K: Key, V: Record, W: Record, X: Record> Iterator for Joined<K, V, W, X> {
    type Item = TaskResult<AnyBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.begun.is_none()
            && self.batch.len() == 0
            && let Some(right) = &mut self.right
        {
            match right.next() {
                Some(Ok(batch)) => {
                    let batch = batch.typed::<(K, W)>().into_vec();
                    let left = &mut self.left;
                    left.keys.look_up(batch.iter().map(|(key, _)| key), &mut left.hints);
                    self.batch = batch.into_iter();
                }
                Some(Err(error)) => return Some(Err(error)),
                None => (self.right, self.alone) = (None, self.left.not_met(0)),
            }
        }
        let made = match self.right {
            Some(_) => self.joined(),
            None if self.alone.is_none() => return None,
            None => self.left_alone(),
        };
        Some(Ok(AnyBatch::owned(made)))
    }
}
