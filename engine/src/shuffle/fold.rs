//! Folding the values of each key into one, in memory and beyond.
//!
//! While memory has room, every key has its place in one hash table. Then the table takes no new key: those in it are
//! folded on, and all other values are put on disk, by parts of the hash, in the order in which they came. When all
//! have come, the parts are folded one after another in the same way. Every key so meets its values in one order,
//! whatever the memory, and the results are put into the order in which keys first came.

use std::hash::BuildHasher;
use std::mem::needs_drop;
use std::sync::Arc;

use distdl_storage::{Record, Spill};
use foldhash::fast::FixedState;
use itertools::Itertools;
use serde::{Deserialize, Serialize};

use super::runs::{Run, RunWriter, fallible_stream, merged, spill};
use super::{Hint, KeyEntry, Table, hint};
use crate::batch::{AnyBatch, AnyStream, TaskResult, stream_of};
use crate::partitioner::Key;
use crate::task::TaskContext;
use crate::working::{Working, bytes_of_one, owned_bytes};

/// Parts of the hash into which keys are cut that have no place in the first table.
const PARTS: u64 = 32;

/// Records of which the keys are looked up together.
const LOOKED_UP: usize = 1024;

/// How the values of a key become one.
pub(crate) trait Combine<V, C>: Send + Sync + 'static {
    fn create(&self, value: V) -> C;
    fn add(&self, combined: C, value: V) -> C;
    fn merge(&self, left: C, right: C) -> C;
}

/// Three closures as a [`Combine`].
pub(crate) struct Closures<A, B, D>(pub A, pub B, pub D);

impl<V, C, A, B, D> Combine<V, C> for Closures<A, B, D>
where
    A: Fn(V) -> C + Send + Sync + 'static,
    B: Fn(C, V) -> C + Send + Sync + 'static,
    D: Fn(C, C) -> C + Send + Sync + 'static,
{
    fn create(&self, value: V) -> C {
        (self.0)(value)
    }
    fn add(&self, combined: C, value: V) -> C {
        (self.1)(combined, value)
    }
    fn merge(&self, left: C, right: C) -> C {
        (self.2)(left, right)
    }
}

/// One function for all, where values and results are of one type.
pub(crate) struct Merging<F>(pub F);

impl<V, F: Fn(V, V) -> V + Send + Sync + 'static> Combine<V, V> for Merging<F> {
    fn create(&self, value: V) -> V {
        value
    }
    fn add(&self, combined: V, value: V) -> V {
        (self.0)(combined, value)
    }
    fn merge(&self, left: V, right: V) -> V {
        (self.0)(left, right)
    }
}

/// All values of a key, in order.
pub(crate) struct Collecting;

impl<V: Record> Combine<V, Vec<V>> for Collecting {
    fn create(&self, value: V) -> Vec<V> {
        vec![value]
    }
    fn add(&self, mut values: Vec<V>, value: V) -> Vec<V> {
        values.push(value);
        values
    }
    fn merge(&self, mut left: Vec<V>, mut right: Vec<V>) -> Vec<V> {
        left.append(&mut right);
        left
    }
}

/// What comes for a key: a value, or values that were combined before.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Arrival<V, C> {
    Value(V),
    Combined(C),
}

/// What is put on disk: the place of its key in the order in which keys first came, and what came for it.
pub(crate) type Entry<K, V, C> = (u64, K, Arrival<V, C>);

/// The result for a key, with the place of its key.
pub(crate) type Folded<K, C> = (u64, (K, C));

/// Folds records into a table of combined values.
pub(crate) struct Combining<K, V, C, M> {
    context: TaskContext,
    working: Working,
    combine: Arc<M>,
    /// A value is absent only while a closure has it.
    table: Table<K, Option<C>>,
    /// Of the keys that were looked up last.
    hints: Vec<Hint>,
    /// The place of each key of the table among all; empty where that is its index.
    places: Vec<u64>,
    /// Parts of what does not fit the table.
    parts: usize,
    /// Where it goes, once the table takes no new key.
    rest: Option<Rest<K, V, C>>,
}

/// Entries on their way to disk, by parts of the hash.
struct Rest<K, V, C> {
    writers: Vec<RunWriter<Entry<K, V, C>>>,
    /// The place of the next one.
    next: u64,
}

impl<K: Key, V: Record, C: Record> Rest<K, V, C> {
    fn new(context: &TaskContext, parts: usize, next: u64) -> TaskResult<Self> {
        let file = spill(context)?;
        let writers = (0..parts).map(|_| RunWriter::new(context, &file));
        Ok(Self {
            writers: writers.collect(),
            next,
        })
    }

    fn push(&mut self, entry: Entry<K, V, C>) -> TaskResult<()> {
        let part = if self.writers.len() == 1 { 0 } else { part_of(&entry.1) };
        self.writers[part].push(entry)
    }
}

/// The part of a key: by another hash than that which placed it in its partition.
pub(super) fn part_of<K: Key>(key: &K) -> usize {
    let hasher = FixedState::with_seed(0x7370_696c_6c65_6421);
    ((u128::from(hasher.hash_one(key)) * u128::from(PARTS)) >> 64) as usize
}

/// Number of parts.
pub(super) const fn parts() -> usize {
    PARTS as usize
}

impl<K: Key, V: Record, C: Record, M: Combine<V, C>> Combining<K, V, C, M> {
    /// For all that one partition reads.
    pub(crate) fn new(context: &TaskContext, combine: &Arc<M>) -> Self {
        Self::with_parts(context, combine, parts())
    }

    /// For one part, whose entries bring their places with them.
    pub(super) fn of_part(context: &TaskContext, combine: &Arc<M>) -> Self {
        Self::with_parts(context, combine, 1)
    }

    fn with_parts(context: &TaskContext, combine: &Arc<M>, parts: usize) -> Self {
        Self {
            context: context.clone(),
            working: Working::of(context),
            combine: Arc::clone(combine),
            table: Table::new(),
            hints: Vec::new(),
            places: Vec::new(),
            parts,
            rest: None,
        }
    }

    /// Folds plain values in.
    pub(crate) fn add(&mut self, batch: AnyBatch) -> TaskResult<()> {
        self.take(batch.typed::<(K, V)>().into_vec(), Arrival::Value)
    }

    /// Folds values in that were combined before.
    pub(crate) fn merge(&mut self, batch: AnyBatch) -> TaskResult<()> {
        self.take(batch.typed::<(K, C)>().into_vec(), Arrival::Combined)
    }

    /// Folds records in, in order.
    pub(crate) fn take<R>(&mut self, records: Vec<(K, R)>, arrival: impl Fn(R) -> Arrival<V, C>) -> TaskResult<()> {
        let mut records = records.into_iter();
        if self.rest.is_some() {
            return records.try_for_each(|(key, value)| self.arrive(None, key, arrival(value)));
        }
        let (before, mut owned) = (self.table.len(), 0);
        let mut hints = std::mem::take(&mut self.hints);
        while !records.as_slice().is_empty() {
            let next = records.as_slice().iter().take(LOOKED_UP);
            self.table.look_up(next.map(|(key, _)| key), &mut hints);
            for (hint, (key, value)) in hints.iter().zip(records.by_ref()) {
                owned += self.fold(key, *hint, arrival(value));
            }
        }
        self.hints = hints;
        self.account(before, owned)
    }

    /// Folds what comes for a key, whose place is given if it is known.
    pub(super) fn arrive(&mut self, place: Option<u64>, key: K, arrival: Arrival<V, C>) -> TaskResult<()> {
        let hint = hint(&key);
        if let Some(rest) = &mut self.rest
            && self.table.get(&key, hint).is_none()
        {
            let place = place.unwrap_or(rest.next);
            rest.next += 1;
            return rest.push((place, key, arrival));
        }
        let before = self.table.len();
        let owned = self.fold(key, hint, arrival);
        if self.table.len() > before {
            self.places.extend(place);
        }
        self.account(before, owned)
    }

    /// Folds into the table. Returns how much more memory its records may own, in bytes.
    fn fold(&mut self, key: K, hint: Hint, arrival: Arrival<V, C>) -> u64 {
        let combine = &self.combine;
        match self.table.entry(key, hint) {
            KeyEntry::Occupied(slot) => {
                let owned = if needs_drop::<C>() {
                    bytes_of_arrival(&arrival)
                } else {
                    0
                };
                *slot = Some(match (slot.take(), arrival) {
                    (Some(combined), Arrival::Value(value)) => combine.add(combined, value),
                    (Some(left), Arrival::Combined(right)) => combine.merge(left, right),
                    (None, Arrival::Value(value)) => combine.create(value),
                    (None, Arrival::Combined(combined)) => combined,
                });
                owned
            }
            KeyEntry::Vacant(entry) => {
                let mut owned = owned_bytes(entry.key());
                if needs_drop::<C>() {
                    owned += bytes_of_arrival(&arrival);
                }
                entry.insert(Some(match arrival {
                    Arrival::Value(value) => combine.create(value),
                    Arrival::Combined(combined) => combined,
                }));
                owned
            }
        }
    }

    /// Counts what the table has more than before.
    fn account(&mut self, keys_before: usize, owned_bytes: u64) -> TaskResult<()> {
        let keys = (self.table.len() - keys_before) as u64;
        let bytes = keys * Self::KEY_BYTES + owned_bytes;
        if bytes == 0 || self.working.grow(bytes) {
            return Ok(());
        }
        self.relieve()
    }

    const KEY_BYTES: u64 = Table::<K, Option<C>>::KEY_BYTES;

    /// There is no more room. What was added to values that own memory was an estimate: the table is measured; if it is
    /// as large as it seemed, it takes no new key, and its last ones go to disk until half of the room is free again. A
    /// table that stays has room to grow by a third, so that it is not measured again and again.
    fn relieve(&mut self) -> TaskResult<()> {
        let mut bytes = self.working_bytes();
        self.working.set(0);
        if self.working.grow(bytes + bytes / 3) {
            self.working.set(bytes);
            return Ok(());
        }
        if self.rest.is_none() {
            self.rest = Some(Rest::new(&self.context, self.parts, self.table.len() as u64)?);
        }
        let half = self.working.room_bytes() / 2;
        while needs_drop::<C>() && bytes > half && self.table.len() > 1 {
            bytes -= self.put_last_key_away()?;
        }
        self.working.set(bytes);
        if self.table.len() == 1 {
            self.working.hold_key(self.context.origin().partition)?;
        }
        Ok(())
    }

    /// What the table takes, in bytes.
    fn working_bytes(&self) -> u64 {
        let owned = |(key, combined): &(K, Option<C>)| owned_bytes(key) + combined.as_ref().map_or(0, owned_bytes);
        self.table.len() as u64 * Self::KEY_BYTES + self.table.entries().iter().map(owned).sum::<u64>()
    }

    /// Returns what it took, in bytes.
    fn put_last_key_away(&mut self) -> TaskResult<u64> {
        let (Some((key, combined)), Some(rest)) = (self.table.pop(), &mut self.rest) else {
            return Ok(0);
        };
        let place = self.places.pop().unwrap_or(self.table.len() as u64);
        let Some(combined) = combined else { return Ok(0) };
        let bytes = Self::KEY_BYTES + owned_bytes(&key) + owned_bytes(&combined);
        rest.push((place, key, Arrival::Combined(combined)))?;
        Ok(bytes)
    }

    /// The combined records in order of first arrival.
    pub(crate) fn into_records(self) -> Records<K, C> {
        let Self {
            context,
            working,
            combine,
            table,
            rest,
            ..
        } = self;
        let first = in_memory(table, working).map(Ok);
        let Some(rest) = rest else { return Box::new(first) };
        // The table is gone before the rest is begun, and has made room for it.
        let rest = std::iter::once_with(move || fold_parts(&context, &combine, rest));
        let rest = rest.flat_map(|rest| rest.unwrap_or_else(|error| Box::new(std::iter::once(Err(error)))));
        Box::new(first.chain(rest))
    }

    /// [`into_records`](Self::into_records) as a stream.
    pub(crate) fn into_stream(self) -> AnyStream {
        let batch_records = self.context.resources.batch_records;
        match self.rest {
            None => stream_of(in_memory(self.table, self.working), batch_records),
            Some(_) => fallible_stream(self.into_records(), batch_records),
        }
    }

    /// Number of keys that have a place in the table.
    pub(super) fn keys_in_memory(&self) -> usize {
        self.table.len()
    }

    /// Whether all that came has a place there.
    pub(super) fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// What the table has for a key, and where.
    pub(super) fn get(&self, key: &K) -> Option<(usize, &C)> {
        let (index, combined) = self.table.get(key, hint(key))?;
        Some((index, combined.as_ref()?))
    }

    /// What a pass over a part has come to, of the keys at those indices of the table that are to be kept.
    pub(super) fn into_pass(self, keep: impl Fn(usize) -> bool + 'static) -> TaskResult<Pass<K, V, C>> {
        let Self {
            table,
            places,
            rest,
            working,
            ..
        } = self;
        let sorted = places.is_sorted();
        let keys = table.into_entries().into_iter().zip(places).enumerate();
        let kept = keys.filter(move |(index, _)| keep(*index));
        let folded = kept.filter_map(move |(_, ((key, combined), place))| {
            let _in_use = &working;
            Some((place, (key, combined?)))
        });
        let rest = rest.and_then(|mut rest| rest.writers.pop());
        let rest = rest.map(RunWriter::finish).transpose()?;
        Ok(Pass {
            // What was put on disk again came late.
            folded: if sorted {
                Box::new(folded)
            } else {
                Box::new(folded.sorted_unstable_by_key(|(place, _)| *place))
            },
            rest: rest.filter(|rest| !rest.is_empty()),
        })
    }
}

/// One pass over a part.
pub(super) struct Pass<K, V, C> {
    /// What the table had, by place.
    pub(super) folded: Box<dyn Iterator<Item = Folded<K, C>>>,
    /// What it had no room for.
    pub(super) rest: Option<Run<Entry<K, V, C>>>,
}

/// What a table has, in order. Until the last of it is read, its memory is in use.
fn in_memory<K, C>(table: Table<K, Option<C>>, working: Working) -> impl Iterator<Item = (K, C)> {
    table.into_entries().into_iter().filter_map(move |(key, combined)| {
        let _in_use = &working;
        Some((key, combined?))
    })
}

fn bytes_of_arrival<V: Record, C: Record>(arrival: &Arrival<V, C>) -> u64 {
    match arrival {
        Arrival::Value(value) => bytes_of_one(value),
        Arrival::Combined(combined) => owned_bytes(combined),
    }
}

/// Combined records, or why there are no more.
pub(crate) type Records<K, C> = Box<dyn Iterator<Item = TaskResult<(K, C)>>>;

/// Folds what is on disk part by part, and gives all of it in order of first arrival.
fn fold_parts<K: Key, V: Record, C: Record, M: Combine<V, C>>(
    context: &TaskContext,
    combine: &Arc<M>,
    rest: Rest<K, V, C>,
) -> TaskResult<Records<K, C>> {
    let file = spill(context)?;
    let parts: Vec<_> = rest
        .writers
        .into_iter()
        .map(RunWriter::finish)
        .collect::<TaskResult<_>>()?;
    let mut runs = Vec::new();
    for part in parts {
        fold_part(context, combine, part, &file, &mut runs)?;
    }
    let folded = merged(context, runs, std::iter::empty(), |left, right| left.0.cmp(&right.0))?;
    Ok(Box::new(folded.map(|folded| folded.map(|(_, record)| record))))
}

/// Folds a part in as many passes as there must be until each of its keys has had its place in the table.
fn fold_part<K: Key, V: Record, C: Record, M: Combine<V, C>>(
    context: &TaskContext,
    combine: &Arc<M>,
    part: Run<Entry<K, V, C>>,
    file: &Arc<Spill>,
    runs: &mut Vec<Run<Folded<K, C>>>,
) -> TaskResult<()> {
    let mut left = Some(part);
    while let Some(entries) = left.take() {
        context.check()?;
        let mut pass = Combining::<K, V, C, M>::of_part(context, combine);
        for entry in entries.into_records() {
            let (place, key, arrival) = entry?;
            pass.arrive(Some(place), key, arrival)?;
        }
        let pass = pass.into_pass(|_| true)?;
        let run = Run::write(context, file, pass.folded.map(Ok))?;
        runs.extend(Some(run).filter(|run| !run.is_empty()));
        left = pass.rest;
    }
    Ok(())
}
