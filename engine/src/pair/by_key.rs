//! Transformations that make one record of the values of each key.

use std::sync::Arc;

use distdl_storage::Record;

use crate::dataset::{Dataset, only, streams};
use crate::memo::digest_in_words;
use crate::pair::KeyPlacement;
use crate::partitioner::Key;
use crate::shuffle::{Closures, Collecting, Combine, Combined, Combining, Merging};

impl<T: Record> Dataset<T> {
    /// The records of each key that `function` makes from them, as [`key_by`](Self::key_by) and
    /// [`group_by_key`](Dataset::group_by_key) give them.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let groups = context.range(1..7, 1).group_by(|number| number % 2 == 0);
    /// assert_eq!(groups.collect()?, [(false, vec![1, 3, 5]), (true, vec![2, 4, 6])]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn group_by<K: Key>(&self, function: impl Fn(&T) -> K + Send + Sync + 'static) -> Dataset<(K, Vec<T>)> {
        self.key_by(function).group_by_key()
    }

    /// [`group_by`](Self::group_by) into a number of partitions.
    #[track_caller]
    pub fn group_by_into<K: Key>(
        &self,
        function: impl Fn(&T) -> K + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<(K, Vec<T>)> {
        self.key_by(function).group_by_key_into(partitions)
    }
}

impl<K: Key, V: Record> Dataset<(K, V)> {
    /// Combines the values of each key by `function`, which must be associative; on the writing side first.
    ///
    /// Values are taken in order of (source partition, position), so that a sum of floats has the same bits for any
    /// number of workers. Keys come in the order in which they first come. One shuffle, of one value for each key and
    /// source partition.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('b', 1), ('a', 2), ('b', 3)], 1);
    /// let sums = pairs.reduce_by_key(|left, right| left + right);
    /// assert_eq!(sums.collect()?, [('b', 4), ('a', 2)], "of each partition in the order of first coming, not sorted");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn reduce_by_key(&self, function: impl Fn(V, V) -> V + Send + Sync + 'static) -> Dataset<(K, V)> {
        self.combine("reduce_by_key", Merging(function), KeyPlacement::like(self))
    }

    /// [`reduce_by_key`](Self::reduce_by_key) into a number of partitions.
    #[track_caller]
    pub fn reduce_by_key_into(
        &self,
        function: impl Fn(V, V) -> V + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<(K, V)> {
        self.combine("reduce_by_key", Merging(function), KeyPlacement::by_hash(partitions))
    }

    /// Combines the values of each key into a result of another type: `create` makes it from the first value, `add`
    /// takes another one, `merge` joins two results. One shuffle, of one result for each key and source partition.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('a', 2.0), ('b', 5.0), ('a', 4.0)], 3);
    /// let sums = pairs.combine_by_key(
    ///     |value| (value, 1),
    ///     |(sum, count), value| (sum + value, count + 1),
    ///     |left, right| (left.0 + right.0, left.1 + right.1),
    /// );
    /// let means = sums.map_values(|(sum, count)| sum / f64::from(count));
    /// assert_eq!(means.sort_by_key().collect()?, [('a', 3.0), ('b', 5.0)]);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn combine_by_key<C: Record>(
        &self,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
    ) -> Dataset<(K, C)> {
        self.combine("combine_by_key", Closures(create, add, merge), KeyPlacement::like(self))
    }

    /// [`combine_by_key`](Self::combine_by_key) into a number of partitions.
    #[track_caller]
    pub fn combine_by_key_into<C: Record>(
        &self,
        create: impl Fn(V) -> C + Send + Sync + 'static,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<(K, C)> {
        let placement = KeyPlacement::by_hash(partitions);
        self.combine("combine_by_key", Closures(create, add, merge), placement)
    }

    /// Folds the values of each key into `zero` by `add`, and joins two results by `merge`. As in Spark, `zero` enters
    /// once for each key and source partition: it should change nothing. One shuffle, of one result for each of them.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('a', 1), ('a', 2), ('a', 3), ('a', 4)], 2);
    /// let largest = pairs.aggregate_by_key(i32::MIN, i32::max, i32::max);
    /// assert_eq!(largest.collect()?, [('a', 4)]);
    /// let sums = pairs.aggregate_by_key(100, |sum, value| sum + value, |left, right| left + right);
    /// assert_eq!(sums.collect()?, [('a', 210)], "100 entered for each of two partitions");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn aggregate_by_key<C: Record>(
        &self,
        zero: C,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
    ) -> Dataset<(K, C)> {
        let parameters = digest_in_words(&zero);
        let combine = from_zero(zero, add, merge);
        self.combine_with("aggregate_by_key", parameters, combine, KeyPlacement::like(self))
    }

    /// [`aggregate_by_key`](Self::aggregate_by_key) into a number of partitions.
    #[track_caller]
    pub fn aggregate_by_key_into<C: Record>(
        &self,
        zero: C,
        add: impl Fn(C, V) -> C + Send + Sync + 'static,
        merge: impl Fn(C, C) -> C + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<(K, C)> {
        let (parameters, placement) = (digest_in_words(&zero), KeyPlacement::by_hash(partitions));
        self.combine_with("aggregate_by_key", parameters, from_zero(zero, add, merge), placement)
    }

    /// Folds the values of each key into `zero` by `function`, which must be associative. As in Spark, `zero` enters
    /// once for each key and source partition: it should change nothing. One shuffle, of one value for each of them.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('a', 1), ('a', 2), ('a', 3)], 3);
    /// let add = |left, right| left + right;
    /// assert_eq!(pairs.fold_by_key(0, add).collect()?, [('a', 6)]);
    /// assert_eq!(pairs.fold_by_key(10, add).collect()?, [('a', 36)], "10 entered for each of three partitions");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn fold_by_key(&self, zero: V, function: impl Fn(V, V) -> V + Send + Sync + 'static) -> Dataset<(K, V)> {
        let parameters = digest_in_words(&zero);
        self.combine_with(
            "fold_by_key",
            parameters,
            folding(zero, function),
            KeyPlacement::like(self),
        )
    }

    /// [`fold_by_key`](Self::fold_by_key) into a number of partitions.
    #[track_caller]
    pub fn fold_by_key_into(
        &self,
        zero: V,
        function: impl Fn(V, V) -> V + Send + Sync + 'static,
        partitions: usize,
    ) -> Dataset<(K, V)> {
        let (parameters, placement) = (digest_in_words(&zero), KeyPlacement::by_hash(partitions));
        self.combine_with("fold_by_key", parameters, folding(zero, function), placement)
    }

    #[track_caller]
    pub(super) fn combine<C: Record, M: Combine<V, C>>(
        &self,
        operator: &'static str,
        combine: M,
        placement: KeyPlacement<K>,
    ) -> Dataset<(K, C)> {
        self.combine_with(operator, String::new(), combine, placement)
    }

    /// The same, with what is known of the operator's parameters.
    #[track_caller]
    fn combine_with<C: Record, M: Combine<V, C>>(
        &self,
        operator: &'static str,
        parameters: String,
        combine: M,
        placement: KeyPlacement<K>,
    ) -> Dataset<(K, C)> {
        let combine = Arc::new(combine);
        let combined = Combined::<K, V, C, M>::new(Arc::clone(&placement.partitioner), Arc::clone(&combine));
        let (dependency, shuffled) = placement.bring(self, Some(Arc::new(combined)));
        let compute = streams(move |context, _, inputs| {
            let mut combining = Combining::<K, V, C, M>::new(context, &combine);
            for batch in only(inputs) {
                if shuffled {
                    combining.merge(batch?)?;
                } else {
                    combining.add(batch?)?;
                }
            }
            Ok(combining.into_stream())
        });
        let mut spec = placement.derive(operator, vec![dependency], compute);
        // Not agreed on: a zero may have no order.
        spec.parameters = parameters;
        spec.build(self.context())
    }

    /// All values of each key, in order of (source partition, position); keys in the order in which they first come.
    /// One shuffle, in which every record travels; [`reduce_by_key`](Self::reduce_by_key) sends less.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let pairs = context.parallelize([('b', 3), ('a', 2), ('b', 1)], 3);
    /// let groups = pairs.group_by_key_into(1);
    /// assert_eq!(groups.collect()?, [('b', vec![3, 1]), ('a', vec![2])], "keys and values as they first come");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    #[track_caller]
    pub fn group_by_key(&self) -> Dataset<(K, Vec<V>)> {
        self.group(&KeyPlacement::like(self))
    }

    /// [`group_by_key`](Self::group_by_key) into a number of partitions.
    #[track_caller]
    pub fn group_by_key_into(&self, partitions: usize) -> Dataset<(K, Vec<V>)> {
        self.group(&KeyPlacement::by_hash(partitions))
    }

    #[track_caller]
    fn group(&self, placement: &KeyPlacement<K>) -> Dataset<(K, Vec<V>)> {
        let (dependency, _) = placement.bring(self, None);
        let compute = streams(|context, _, inputs| {
            let mut groups = Combining::<K, V, Vec<V>, _>::new(context, &Arc::new(Collecting));
            for batch in only(inputs) {
                groups.add(batch?)?;
            }
            Ok(groups.into_stream())
        });
        placement
            .derive("group_by_key", vec![dependency], compute)
            .build(self.context())
    }
}

/// Folding into `zero`: the first value goes into a copy of it.
fn from_zero<V: Record, C: Record>(
    zero: C,
    add: impl Fn(C, V) -> C + Send + Sync + 'static,
    merge: impl Fn(C, C) -> C + Send + Sync + 'static,
) -> impl Combine<V, C> {
    let add = Arc::new(add);
    let first = Arc::clone(&add);
    let create = move |value| first(zero.clone(), value);
    Closures(create, move |combined, value| add(combined, value), merge)
}

fn folding<V: Record>(zero: V, function: impl Fn(V, V) -> V + Send + Sync + 'static) -> impl Combine<V, V> {
    let function = Arc::new(function);
    let merge = Arc::clone(&function);
    let add = move |sum, value| function(sum, value);
    from_zero(zero, add, move |left, right| merge(left, right))
}
