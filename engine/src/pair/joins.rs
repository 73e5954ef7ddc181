//! Transformations that bring the records of two datasets together, by key.

mod chains;

use std::sync::Arc;

use distdl_storage::Record;
use serde::{Deserialize, Serialize};

use self::chains::{Build, Chains, Joined, beyond_memory};
use crate::batch::{AnyBatch, typed_batches};
use crate::dataset::{Dataset, both, streams};
use crate::lineage::Dependency;
use crate::pair::KeyPlacement;
use crate::partitioner::Key;
use crate::shuffle::{Arrival, Combine, Combined, Combining, Merging, Pair};

/// What [`Dataset::cogroup`] makes: a key with all its values on either side.
pub type Cogrouped<K, V, W> = Dataset<(K, (Vec<V>, Vec<W>))>;

/// What [`Dataset::full_outer_join`] makes: a key with a value of either side, or of one of them.
pub type FullyJoined<K, V, W> = Dataset<(K, (Option<V>, Option<W>))>;

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// For each key of either dataset: all its values here, and all its values in `other`. Keys in the order in which
    /// they first come, those of this dataset before those of the other one only. Shuffles each dataset that does not
    /// lie as asked for.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let left = context.parallelize([(1, 'a'), (2, 'b'), (1, 'c')], 1);
    /// let right = context.parallelize([(3, 'x'), (1, 'y')], 1);
    /// let groups = left.cogroup(&right).collect()?;
    /// let expected = [(1, (vec!['a', 'c'], vec!['y'])), (2, (vec!['b'], vec![])), (3, (vec![], vec!['x']))];
    /// assert_eq!(groups, expected);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn cogroup<W: Record>(&self, other: &Dataset<(K, W)>) -> Cogrouped<K, V, W> {
        self.cogroup_at(other, &KeyPlacement::like_either(self, other))
    }

    /// [`cogroup`](Self::cogroup) into a number of partitions.
    #[track_caller]
    pub fn cogroup_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Cogrouped<K, V, W> {
        self.cogroup_at(other, &KeyPlacement::by_hash(partitions))
    }

    #[track_caller]
    fn cogroup_at<W: Record>(&self, other: &Dataset<(K, W)>, placement: &KeyPlacement<K>) -> Cogrouped<K, V, W> {
        let dependencies = vec![placement.bring(self, None).0, placement.bring(other, None).0];
        let compute = streams(|context, _, inputs| {
            let (left, right) = both(inputs);
            let mut groups = Combining::<K, Side<V, W>, (Vec<V>, Vec<W>), _>::new(context, &Arc::new(Grouping));
            for batch in typed_batches::<(K, V)>(left) {
                groups.take(batch?.into_vec(), |value| Arrival::Value(Side::Left(value)))?;
            }
            for batch in typed_batches::<(K, W)>(right) {
                groups.take(batch?.into_vec(), |value| Arrival::Value(Side::Right(value)))?;
            }
            Ok(groups.into_stream())
        });
        placement
            .derive("cogroup", dependencies, compute)
            .of_one_context(self.context(), other.context())
            .build(self.context())
    }

    /// All pairs of values that share a key: for each record of `other`, in its order, those of this dataset in theirs.
    /// Shuffles each dataset that does not lie as asked for. A task holds one partition of this one, in memory as far
    /// as there is room; beyond that both sides, and all pairs, go to disk. So call it on the smaller side. One that
    /// fits into memory whole, `collect` and [`broadcast`](crate::Context::broadcast), and look it up in `flat_map`:
    /// there is no shuffle then, and no partition that has most of the work because it has a frequent key.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let left = context.parallelize([(1, 'a'), (2, 'b'), (1, 'c')], 1);
    /// let right = context.parallelize([(2, 'x'), (1, 'y'), (3, 'z')], 1);
    /// let joined = left.join(&right);
    /// assert_eq!(joined.collect()?, [(2, ('b', 'x')), (1, ('a', 'y')), (1, ('c', 'y'))], "as on the right");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn join<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, (V, W))> {
        self.join_at(other, &KeyPlacement::like_either(self, other))
    }

    /// [`join`](Self::join) into a number of partitions.
    #[track_caller]
    pub fn join_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Dataset<(K, (V, W))> {
        self.join_at(other, &KeyPlacement::by_hash(partitions))
    }

    #[track_caller]
    fn join_at<W: Record>(&self, other: &Dataset<(K, W)>, placement: &KeyPlacement<K>) -> Dataset<(K, (V, W))> {
        self.joined("join", other, placement, Option::zip, false)
    }

    /// The pairs of [`join`](Self::join) in its order, then the records of this dataset whose key `other` lacks: keys
    /// in the order in which they first come, the records of each in theirs. Shuffles as `join` does.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let left = context.parallelize([(1, 'a'), (2, 'b')], 1);
    /// let right = context.parallelize([(2, 'x')], 1);
    /// let joined = left.left_outer_join(&right);
    /// assert_eq!(joined.collect()?, [(2, ('b', Some('x'))), (1, ('a', None))], "what has no partner comes last");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn left_outer_join<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, (V, Option<W>))> {
        self.joined(
            "left_outer_join",
            other,
            &KeyPlacement::like_either(self, other),
            |left, right| left.map(|left| (left, right)),
            true,
        )
    }

    /// [`left_outer_join`](Self::left_outer_join) into a number of partitions.
    #[track_caller]
    pub fn left_outer_join_into<W: Record>(
        &self,
        other: &Dataset<(K, W)>,
        partitions: usize,
    ) -> Dataset<(K, (V, Option<W>))> {
        self.joined(
            "left_outer_join",
            other,
            &KeyPlacement::by_hash(partitions),
            |left, right| left.map(|left| (left, right)),
            true,
        )
    }

    /// All pairs of values that share a key, as of [`join`](Self::join): for each record of `other`, in its order,
    /// those of this dataset in theirs, or none. Shuffles as `join` does.
    #[track_caller]
    pub fn right_outer_join<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, (Option<V>, W))> {
        self.joined(
            "right_outer_join",
            other,
            &KeyPlacement::like_either(self, other),
            |left, right| right.map(|right| (left, right)),
            false,
        )
    }

    /// [`right_outer_join`](Self::right_outer_join) into a number of partitions.
    #[track_caller]
    pub fn right_outer_join_into<W: Record>(
        &self,
        other: &Dataset<(K, W)>,
        partitions: usize,
    ) -> Dataset<(K, (Option<V>, W))> {
        self.joined(
            "right_outer_join",
            other,
            &KeyPlacement::by_hash(partitions),
            |left, right| right.map(|right| (left, right)),
            false,
        )
    }

    /// The pairs of [`right_outer_join`](Self::right_outer_join) in its order, then the records of this dataset whose
    /// key `other` lacks, in the order of [`left_outer_join`](Self::left_outer_join). Shuffles as `join` does.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let left = context.parallelize([(1, 'a'), (2, 'b')], 1);
    /// let right = context.parallelize([(2, 'x'), (3, 'y')], 1);
    /// let joined = left.full_outer_join(&right).collect()?;
    /// assert_eq!(joined, [(2, (Some('b'), Some('x'))), (3, (None, Some('y'))), (1, (Some('a'), None))]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn full_outer_join<W: Record>(&self, other: &Dataset<(K, W)>) -> FullyJoined<K, V, W> {
        self.joined(
            "full_outer_join",
            other,
            &KeyPlacement::like_either(self, other),
            |left, right| Some((left, right)),
            true,
        )
    }

    /// [`full_outer_join`](Self::full_outer_join) into a number of partitions.
    #[track_caller]
    pub fn full_outer_join_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> FullyJoined<K, V, W> {
        self.joined(
            "full_outer_join",
            other,
            &KeyPlacement::by_hash(partitions),
            |left, right| Some((left, right)),
            true,
        )
    }

    /// What `pair` makes of the values of either side; where it makes nothing there is no record. It `keeps_left` if it
    /// makes something of this dataset's values alone.
    #[track_caller]
    fn joined<W: Record, X: Record>(
        &self,
        operator: &'static str,
        other: &Dataset<(K, W)>,
        placement: &KeyPlacement<K>,
        pair: Pair<V, W, X>,
        keeps_left: bool,
    ) -> Dataset<(K, X)> {
        let dependencies = vec![placement.bring(self, None).0, placement.bring(other, None).0];
        let compute = streams(move |context, _, inputs| {
            let (left, right) = both(inputs);
            match Chains::<K, V>::collect(context, left)? {
                Build::Whole(left) => Ok(Box::new(Joined::new(context, left, right, pair, keeps_left))),
                Build::Beyond(left) => beyond_memory(context, left, right, pair),
            }
        });
        placement
            .derive(operator, dependencies, compute)
            .of_one_context(self.context(), other.context())
            .build(self.context())
    }

    /// The records whose key `other` lacks, in order of (source partition, position). Shuffles this dataset, and the
    /// different keys of the other one.
    #[track_caller]
    pub fn subtract_by_key<W: Record>(&self, other: &Dataset<(K, W)>) -> Dataset<(K, V)> {
        self.without("subtract_by_key", other, &KeyPlacement::like(self))
    }

    /// [`subtract_by_key`](Self::subtract_by_key) into a number of partitions.
    #[track_caller]
    pub fn subtract_by_key_into<W: Record>(&self, other: &Dataset<(K, W)>, partitions: usize) -> Dataset<(K, V)> {
        self.without("subtract_by_key", other, &KeyPlacement::by_hash(partitions))
    }

    #[track_caller]
    pub(super) fn without<W: Record>(
        &self,
        operator: &'static str,
        other: &Dataset<(K, W)>,
        placement: &KeyPlacement<K>,
    ) -> Dataset<(K, V)> {
        let keys = other.map_values(|_| ());
        let dependencies = vec![placement.bring(self, None).0, placement.bring_keys(&keys)];
        let compute = streams(|context, _, inputs| {
            let (left, right) = both(inputs);
            let mut keys = match Chains::<K, ()>::collect(context, right)? {
                Build::Whole(keys) => keys,
                Build::Beyond(keys) => {
                    return beyond_memory(context, keys, left, |key, value: Option<V>| {
                        value.filter(|_| key.is_none())
                    });
                }
            };
            Ok(Box::new(typed_batches::<(K, V)>(left).map(move |batch| {
                let mut records = batch?.into_vec();
                keys.retain_others(&mut records);
                Ok(AnyBatch::owned(records))
            })))
        });
        placement
            .derive(operator, dependencies, compute)
            .of_one_context(self.context(), other.context())
            .build(self.context())
    }
}

impl<K: Key> KeyPlacement<K> {
    /// Brings keys here, each once from a source partition if they must travel.
    pub(super) fn bring_keys(&self, keys: &Dataset<(K, ())>) -> Dependency {
        let once = Combined::<K, (), (), _>::new(Arc::clone(&self.partitioner), Arc::new(Merging(|(), ()| ())));
        self.bring(keys, Some(Arc::new(once))).0
    }
}

/// A value of either side.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Side<V, W> {
    Left(V),
    Right(W),
}

/// All values of a key on either side.
struct Grouping;

impl<V: Record, W: Record> Combine<Side<V, W>, (Vec<V>, Vec<W>)> for Grouping {
    fn create(&self, value: Side<V, W>) -> (Vec<V>, Vec<W>) {
        self.add((Vec::new(), Vec::new()), value)
    }

    fn add(&self, mut group: (Vec<V>, Vec<W>), value: Side<V, W>) -> (Vec<V>, Vec<W>) {
        match value {
            Side::Left(value) => group.0.push(value),
            Side::Right(value) => group.1.push(value),
        }
        group
    }

    fn merge(&self, mut left: (Vec<V>, Vec<W>), mut right: (Vec<V>, Vec<W>)) -> (Vec<V>, Vec<W>) {
        left.0.append(&mut right.0);
        left.1.append(&mut right.1);
        left
    }
}
