//! How records are cut into buckets on the writing side of a shuffle, and gathered by key on the reading side.
//!
//! Hash tables keep the order in which keys first came, so that the order of a result is a function of its input.

use std::marker::PhantomData;
use std::sync::Arc;

use distdl_storage::Record;
use foldhash::fast::FixedState;
use indexmap::IndexMap;

use crate::batch::{AnyBatch, RecordType};
use crate::lineage::{BucketWriter, Emit, Exchange};
use crate::partitioner::{Key, Partitioner, hasher};

/// A hash table in order of first arrival.
pub(crate) type Table<K, C> = IndexMap<K, C, FixedState>;

pub(crate) fn table<K, C>() -> Table<K, C> {
    IndexMap::with_hasher(hasher())
}

/// Which bucket a record goes to, given the source partition and its position there.
pub(crate) trait Route<T>: Send + Sync + 'static {
    fn bucket(&self, record: &T, source: usize, position: u64) -> usize;
}

/// By key.
pub(crate) struct ByKey<K>(pub Arc<dyn Partitioner<K>>);

impl<K: Key, V: Record> Route<(K, V)> for ByKey<K> {
    fn bucket(&self, (key, _): &(K, V), _: usize, _: u64) -> usize {
        self.0.partition(key)
    }
}

/// In turn, beginning with another bucket for each source.
pub(crate) struct InTurn(pub usize);

impl<T> Route<T> for InTurn {
    fn bucket(&self, _: &T, source: usize, position: u64) -> usize {
        ((source as u64).wrapping_add(position) % self.0 as u64) as usize
    }
}

/// Sends every record as it is.
pub(crate) struct Plain<T, R> {
    route: Arc<R>,
    buckets: usize,
    records: PhantomData<fn() -> T>,
}

impl<T, R> Plain<T, R> {
    pub(crate) fn new(route: R, buckets: usize) -> Self {
        Self {
            route: Arc::new(route),
            buckets,
            records: PhantomData,
        }
    }
}

impl<T: Record, R: Route<T>> Exchange for Plain<T, R> {
    fn buckets(&self) -> usize {
        self.buckets
    }

    fn record_type(&self) -> RecordType {
        RecordType::of::<T>()
    }

    fn writer(&self, partition: usize, batch_records: usize) -> Box<dyn BucketWriter> {
        let buckets = (0..self.buckets).map(|_| Vec::new()).collect();
        Box::new(PlainWriter {
            route: Arc::clone(&self.route),
            source: partition,
            position: 0,
            batch_records,
            buckets,
        })
    }

    fn combines(&self) -> bool {
        false
    }
}

struct PlainWriter<T, R> {
    route: Arc<R>,
    source: usize,
    position: u64,
    batch_records: usize,
    buckets: Vec<Vec<T>>,
}

impl<T: Record, R: Route<T>> BucketWriter for PlainWriter<T, R> {
    fn write(&mut self, batch: AnyBatch, emit: Emit<'_>) {
        batch.typed::<T>().for_each(|record| {
            let index = self.route.bucket(&record, self.source, self.position);
            self.position += 1;
            let bucket = &mut self.buckets[index];
            bucket.push(record);
            if bucket.len() >= self.batch_records {
                let full = std::mem::replace(bucket, Vec::with_capacity(self.batch_records));
                emit(index, AnyBatch::owned(full));
            }
        });
    }

    fn finish(&mut self, emit: Emit<'_>) {
        for (index, bucket) in self.buckets.iter_mut().enumerate() {
            if !bucket.is_empty() {
                emit(index, AnyBatch::owned(std::mem::take(bucket)));
            }
        }
    }
}

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

/// Folds `value` into the entry of `key`. A slot is empty only while `merge` runs.
fn fold<K: Key, C, V>(
    table: &mut Table<K, Option<C>>,
    key: K,
    value: V,
    create: impl FnOnce(V) -> C,
    merge: impl FnOnce(C, V) -> C,
) {
    match table.entry(key) {
        indexmap::map::Entry::Occupied(mut entry) => {
            let slot = entry.get_mut();
            *slot = Some(match slot.take() {
                Some(combined) => merge(combined, value),
                None => create(value),
            });
        }
        indexmap::map::Entry::Vacant(entry) => {
            entry.insert(Some(create(value)));
        }
    }
}

/// Folds records into a table of combined values.
pub(crate) struct Combining<K, V, C, M> {
    table: Table<K, Option<C>>,
    combine: Arc<M>,
    values: PhantomData<fn() -> V>,
}

impl<K: Key, V: Record, C: Record, M: Combine<V, C>> Combining<K, V, C, M> {
    pub(crate) fn new(combine: Arc<M>) -> Self {
        Self {
            table: table(),
            combine,
            values: PhantomData,
        }
    }

    /// Folds plain values in.
    pub(crate) fn add(&mut self, batch: AnyBatch) {
        let combine = &self.combine;
        let table = &mut self.table;
        batch.typed::<(K, V)>().for_each(|(key, value)| {
            fold(
                table,
                key,
                value,
                |value| combine.create(value),
                |combined, value| combine.add(combined, value),
            );
        });
    }

    /// Folds values in that were combined before.
    pub(crate) fn merge(&mut self, batch: AnyBatch) {
        let combine = &self.combine;
        let table = &mut self.table;
        batch.typed::<(K, C)>().for_each(|(key, value)| {
            fold(
                table,
                key,
                value,
                |value| value,
                |left, right| combine.merge(left, right),
            );
        });
    }

    /// The combined records in order of first arrival.
    pub(crate) fn into_records(self) -> impl Iterator<Item = (K, C)> {
        self.table
            .into_iter()
            .filter_map(|(key, combined)| Some((key, combined?)))
    }
}

/// Combines the values of a key on the writing side, so that one record a key and source travels.
pub(crate) struct Combined<K, V, C, M> {
    partitioner: Arc<dyn Partitioner<K>>,
    combine: Arc<M>,
    records: PhantomData<fn() -> (V, C)>,
}

impl<K, V, C, M> Combined<K, V, C, M> {
    pub(crate) fn new(partitioner: Arc<dyn Partitioner<K>>, combine: Arc<M>) -> Self {
        Self {
            partitioner,
            combine,
            records: PhantomData,
        }
    }
}

impl<K: Key, V: Record, C: Record, M: Combine<V, C>> Exchange for Combined<K, V, C, M> {
    fn buckets(&self) -> usize {
        self.partitioner.partitions()
    }

    fn record_type(&self) -> RecordType {
        RecordType::of::<(K, C)>()
    }

    fn writer(&self, _: usize, _: usize) -> Box<dyn BucketWriter> {
        let combining = Combining::<K, V, C, M>::new(Arc::clone(&self.combine));
        Box::new(CombinedWriter {
            partitioner: Arc::clone(&self.partitioner),
            combining: Some(combining),
        })
    }

    fn combines(&self) -> bool {
        true
    }
}

struct CombinedWriter<K, V, C, M> {
    partitioner: Arc<dyn Partitioner<K>>,
    combining: Option<Combining<K, V, C, M>>,
}

impl<K: Key, V: Record, C: Record, M: Combine<V, C>> BucketWriter for CombinedWriter<K, V, C, M> {
    fn write(&mut self, batch: AnyBatch, _: Emit<'_>) {
        if let Some(combining) = &mut self.combining {
            combining.add(batch);
        }
    }

    fn finish(&mut self, emit: Emit<'_>) {
        let Some(combining) = self.combining.take() else { return };
        let buckets = self.partitioner.partitions();
        let expected = combining.table.len() / buckets + combining.table.len() / (8 * buckets);
        let mut records: Vec<Vec<(K, C)>> = (0..buckets).map(|_| Vec::with_capacity(expected)).collect();
        for (key, combined) in combining.into_records() {
            records[self.partitioner.partition(&key)].push((key, combined));
        }
        for (bucket, records) in records
            .into_iter()
            .enumerate()
            .filter(|(_, records)| !records.is_empty())
        {
            emit(bucket, AnyBatch::owned(records));
        }
    }
}
