//! Transformations that bring the records of two datasets together, by key.

use std::sync::Arc;

use distdl_storage::Record;

use crate::batch::{AnyBatch, AnyStream, Batches, Failure, PartitionIter, TaskResult, stream_of, typed_batches};
use crate::dataset::{Dataset, both, streams};
use crate::error::EngineError;
use crate::lineage::Dependency;
use crate::pair::Placed;
use crate::partitioner::Key;
use crate::shuffle::{Combined, Merging, Table, table};

/// What [`Dataset::cogroup`] makes: a key with all its values on either side.
pub type Cogrouped<K, V, W> = Dataset<(K, (Vec<V>, Vec<W>))>;

/// What [`Dataset::full_outer_join`] makes: a key with a value of either side, or of one of them.
pub type FullyJoined<K, V, W> = Dataset<(K, (Option<V>, Option<W>))>;

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// For each key of either dataset: all its values here, and all its values in `other`. Keys in the order in which they
    /// first come, those of this dataset before those of the other one only. Shuffles each dataset that does not lie as
    /// asked for.
    #[track_caller]
    pub fn cogroup<W: Record>(&self, other: &Dataset<(K, W)>) -> Cogrouped<K, V, W> {
        self.cogroup_at(other, &Placed::like_either(self, other))
    }

    /// [`cogroup`](Self::cogroup) into a number of partitions.
    #[track_caller]
    pub fn cogroup_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Cogrouped<K, V, W> {
        self.cogroup_at(other, &Placed::by_hash(partitions))
    }

    #[track_caller]
    fn cogroup_at<W: Record>(&self, other: &Dataset<(K, W)>, placed: &Placed<K>) -> Cogrouped<K, V, W> {
        let dependencies = vec![placed.bring(self, None).0, placed.bring(other, None).0];
        let compute = streams(|context, _, inputs| {
            let (left, right) = both(inputs);
            let mut groups = table::<K, (Vec<V>, Vec<W>)>();
            for batch in typed_batches::<(K, V)>(left) {
                batch?.for_each(|(key, value)| groups.entry(key).or_default().0.push(value));
            }
            for batch in typed_batches::<(K, W)>(right) {
                batch?.for_each(|(key, value)| groups.entry(key).or_default().1.push(value));
            }
            Ok(stream_of(groups.into_iter(), context.resources.batch_records))
        });
        placed.derive("cogroup", dependencies, compute).build(self.context())
    }

    /// All pairs of values that share a key: for each record of `other`, in its order, those of this dataset in theirs.
    /// Shuffles each dataset that does not lie as asked for; one partition of this one at a time is held in memory by a task.
    #[track_caller]
    pub fn join<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, (V, W))> {
        self.join_at(other, &Placed::like_either(self, other))
    }

    /// [`join`](Self::join) into a number of partitions.
    #[track_caller]
    pub fn join_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Dataset<(K, (V, W))> {
        self.join_at(other, &Placed::by_hash(partitions))
    }

    #[track_caller]
    fn join_at<W: Record>(&self, other: &Dataset<(K, W)>, placed: &Placed<K>) -> Dataset<(K, (V, W))> {
        let dependencies = vec![placed.bring(self, None).0, placed.bring(other, None).0];
        let compute = streams(|_, _, inputs| {
            let (left, right) = both(inputs);
            let build = Chains::<K, V>::collect(left)?;
            Ok(Box::new(typed_batches::<(K, W)>(right).map(move |batch| {
                let mut pairs = Vec::new();
                batch?.for_each(|(key, right)| build.join(key, right, &mut pairs));
                Ok(AnyBatch::owned(pairs))
            })))
        });
        placed.derive("join", dependencies, compute).build(self.context())
    }

    /// The pairs of [`join`](Self::join) in its order, then the records of this dataset whose key `other` lacks: keys in the
    /// order in which they first come, the records of each in theirs. Shuffles as `join` does.
    #[track_caller]
    pub fn left_outer_join<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, (V, Option<W>))> {
        self.outer_join(
            "left_outer_join",
            other,
            &Placed::like_either(self, other),
            |left, right| left.map(|left| (left, right)),
        )
    }

    /// [`left_outer_join`](Self::left_outer_join) into a number of partitions.
    #[track_caller]
    pub fn left_outer_join_into<W: Record>(
        &self,
        other: &Dataset<(K, W)>,
        partitions: usize,
    ) -> Dataset<(K, (V, Option<W>))> {
        self.outer_join("left_outer_join", other, &Placed::by_hash(partitions), |left, right| {
            left.map(|left| (left, right))
        })
    }

    /// All pairs of values that share a key, as of [`join`](Self::join): for each record of `other`, in its order, those of
    /// this dataset in theirs, or none. Shuffles as `join` does.
    #[track_caller]
    pub fn right_outer_join<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, (Option<V>, W))> {
        self.outer_join(
            "right_outer_join",
            other,
            &Placed::like_either(self, other),
            |left, right| right.map(|right| (left, right)),
        )
    }

    /// [`right_outer_join`](Self::right_outer_join) into a number of partitions.
    #[track_caller]
    pub fn right_outer_join_into<W: Record>(
        &self,
        other: &Dataset<(K, W)>,
        partitions: usize,
    ) -> Dataset<(K, (Option<V>, W))> {
        self.outer_join(
            "right_outer_join",
            other,
            &Placed::by_hash(partitions),
            |left, right| right.map(|right| (left, right)),
        )
    }

    /// The pairs of [`right_outer_join`](Self::right_outer_join) in its order, then the records of this dataset whose key
    /// `other` lacks, in the order of [`left_outer_join`](Self::left_outer_join). Shuffles as `join` does.
    #[track_caller]
    pub fn full_outer_join<W: Record>(&self, other: &Dataset<(K, W)>) -> FullyJoined<K, V, W> {
        self.outer_join(
            "full_outer_join",
            other,
            &Placed::like_either(self, other),
            |left, right| Some((left, right)),
        )
    }

    /// [`full_outer_join`](Self::full_outer_join) into a number of partitions.
    #[track_caller]
    pub fn full_outer_join_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> FullyJoined<K, V, W> {
        self.outer_join("full_outer_join", other, &Placed::by_hash(partitions), |left, right| {
            Some((left, right))
        })
    }

    /// What `pair` makes of the values of either side; where it makes nothing there is no record.
    #[track_caller]
    fn outer_join<W: Record, X: Record>(
        &self,
        operator: &'static str,
        other: &Dataset<(K, W)>,
        placed: &Placed<K>,
        pair: fn(Option<V>, Option<W>) -> Option<X>,
    ) -> Dataset<(K, X)> {
        let dependencies = vec![placed.bring(self, None).0, placed.bring(other, None).0];
        let compute = streams(move |context, _, inputs| {
            let (left, right) = both(inputs);
            let failure = Failure::default();
            let joined = OuterJoin {
                left: Chains::<K, V>::collect(left)?,
                right: Some(PartitionIter::<(K, W)>::new(right, Failure::clone(&failure))),
                pair,
                ready: Vec::new().into_iter(),
            };
            Ok(Box::new(Batches::new(joined, context.resources.batch_records, failure)))
        });
        placed.derive(operator, dependencies, compute).build(self.context())
    }

    /// The records whose key `other` lacks, in order of (source partition, position). Shuffles this dataset, and the
    /// different keys of the other one.
    #[track_caller]
    pub fn subtract_by_key<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, V)> {
        self.without("subtract_by_key", other, &Placed::like(self))
    }

    /// [`subtract_by_key`](Self::subtract_by_key) into a number of partitions.
    #[track_caller]
    pub fn subtract_by_key_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Dataset<(K, V)> {
        self.without("subtract_by_key", other, &Placed::by_hash(partitions))
    }

    #[track_caller]
    pub(super) fn without<W: Record>(
        &self,
        operator: &'static str,
        other: &Dataset<(K, W)>,
        placed: &Placed<K>,
    ) -> Dataset<(K, V)> {
        let keys = other.map_values(|_| ());
        let dependencies = vec![placed.bring(self, None).0, placed.bring_keys(&keys)];
        let compute = streams(|_, _, inputs| {
            let (left, right) = both(inputs);
            let keys = collect_keys::<K>(right)?;
            Ok(Box::new(typed_batches::<(K, V)>(left).map(move |batch| {
                let mut records = Vec::new();
                batch?.for_each(|(key, value)| {
                    if !keys.contains_key(&key) {
                        records.push((key, value));
                    }
                });
                Ok(AnyBatch::owned(records))
            })))
        });
        placed.derive(operator, dependencies, compute).build(self.context())
    }
}

impl<K: Key> Placed<K> {
    /// Brings keys here, each once from a source partition if they must travel.
    pub(super) fn bring_keys(&self, keys: &Dataset<(K, ())>) -> Dependency {
        let once = Combined::<K, (), (), _>::new(Arc::clone(&self.partitioner), Arc::new(Merging(|(), ()| ())));
        self.bring(keys, Some(Arc::new(once))).0
    }
}

/// The different keys of records `(key, ())`, in the order in which they first come.
pub(super) fn collect_keys<K: Key>(stream: AnyStream) -> TaskResult<Table<K, ()>> {
    let mut keys = table();
    for batch in typed_batches::<(K, ())>(stream) {
        batch?.for_each(|(key, ())| {
            keys.entry(key).or_default();
        });
    }
    Ok(keys)
}

/// A hash table of chains: all values of a key, in order, without an allocation for each key.
struct Chains<K, V> {
    /// Key to (first, last) position in `links`.
    keys: Table<K, (u32, u32)>,
    /// Values, each with the position of the next one of its key.
    links: Vec<(V, u32)>,
    /// Keys, by their position in `keys`, that the other side has.
    met: Vec<bool>,
}

const END: u32 = u32::MAX;

impl<K: Key, V: Record> Chains<K, V> {
    fn collect(stream: AnyStream) -> TaskResult<Self> {
        let mut chains = Self {
            keys: table(),
            links: Vec::new(),
            met: Vec::new(),
        };
        for batch in typed_batches::<(K, V)>(stream) {
            let batch = batch?;
            if chains.links.len() + batch.len() >= END as usize {
                let what = format!("one partition of the left side of a `join` has {END} records or more");
                return Err(EngineError::invalid(what, "join into more partitions with `join_into`").into());
            }
            batch.for_each(|(key, value)| {
                let position = chains.links.len() as u32;
                chains.links.push((value, END));
                match chains.keys.entry(key) {
                    indexmap::map::Entry::Occupied(mut entry) => {
                        let (_, last) = entry.get_mut();
                        chains.links[*last as usize].1 = position;
                        *last = position;
                    }
                    indexmap::map::Entry::Vacant(entry) => {
                        entry.insert((position, position));
                    }
                }
            });
        }
        Ok(chains)
    }

    fn join<W: Record>(&self, key: K, right: W, pairs: &mut Vec<(K, (V, W))>) {
        let Some((first, _)) = self.keys.get(&key) else { return };
        let mut position = *first;
        while position != END {
            let (value, next) = &self.links[position as usize];
            pairs.push((key.clone(), (value.clone(), right.clone())));
            position = *next;
        }
    }

    /// The values of the key at a position in `keys`, in order.
    fn values(&self, (first, _): (u32, u32)) -> impl Iterator<Item = &V> {
        let mut position = first;
        std::iter::from_fn(move || {
            let (value, next) = self.links.get(position as usize)?;
            position = *next;
            Some(value)
        })
    }

    /// What `pair` makes of each value of `key` with `right`, or of `right` alone.
    fn join_outer<W: Record, X>(
        &mut self,
        key: &K,
        right: W,
        pair: fn(Option<V>, Option<W>) -> Option<X>,
    ) -> Vec<(K, X)> {
        let Some((place, _, ends)) = self.keys.get_full(key) else {
            return pair(None, Some(right))
                .map(|made| (key.clone(), made))
                .into_iter()
                .collect();
        };
        self.met.resize(self.keys.len(), false);
        self.met[place] = true;
        let made = self
            .values(*ends)
            .filter_map(|left| pair(Some(left.clone()), Some(right.clone())));
        made.map(|made| (key.clone(), made)).collect()
    }

    /// What `pair` makes of the values of keys that were not joined.
    fn rest<W, X>(&self, pair: fn(Option<V>, Option<W>) -> Option<X>) -> Vec<(K, X)> {
        let met = |place: usize| self.met.get(place).copied().unwrap_or(false);
        let rest = self.keys.iter().enumerate().filter(|(place, _)| !met(*place));
        let made = rest.flat_map(|(_, (key, ends))| self.values(*ends).map(move |left| (key, left)));
        made.filter_map(|(key, left)| Some((key.clone(), pair(Some(left.clone()), None)?)))
            .collect()
    }
}

/// An outer join under way.
struct OuterJoin<K, V, W, X> {
    left: Chains<K, V>,
    /// `None` once it was read to its end.
    right: Option<PartitionIter<(K, W)>>,
    pair: fn(Option<V>, Option<W>) -> Option<X>,
    ready: std::vec::IntoIter<(K, X)>,
}

impl<K: Key, V: Record, W: Record, X> Iterator for OuterJoin<K, V, W, X> {
    type Item = (K, X);

    fn next(&mut self) -> Option<(K, X)> {
        loop {
            if let Some(made) = self.ready.next() {
                return Some(made);
            }
            let made = match self.right.as_mut()?.next() {
                Some((key, right)) => self.left.join_outer(&key, right, self.pair),
                None => {
                    self.right = None;
                    self.left.rest(self.pair)
                }
            };
            self.ready = made.into_iter();
        }
    }
}
