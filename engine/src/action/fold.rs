//! Actions that fold all records into one value, in an order that partitions fix.

use std::sync::Arc;

use distdl_storage::Record;

use crate::batch::typed_batches;
use crate::dataset::Dataset;
use crate::error::Result;
use crate::tree;

impl<T: Record> Dataset<T> {
    /// Combines all records by `function`, which must be associative: within partitions in order, then over partitions
    /// in order. `None` if there is no record.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let words = context.parallelize(["or", "not", "to", "be"].map(str::to_owned), 3);
    /// let text = words.reduce(|left, right| format!("{left} {right}"))?;
    /// assert_eq!(text.as_deref(), Some("or not to be"), "it need not be commutative");
    /// assert_eq!(context.range(0..0, 2).reduce(|left, _| left)?, None);
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn reduce(&self, function: impl Fn(T, T) -> T + Send + Sync + 'static) -> Result<Option<T>> {
        let function = Arc::new(function);
        let parts = self.reduce_partitions(Arc::clone(&function))?;
        self.in_driver("reduce", || {
            parts.into_iter().reduce(|left, right| function(left, right))
        })
    }

    /// As [`reduce`](Self::reduce), but joins the results of partitions in a fixed binary tree over their indices, so
    /// that rounding errors of floating-point sums grow with the logarithm of the number of partitions.
    ///
    /// # Errors
    /// As any action.
    pub fn tree_reduce(&self, function: impl Fn(T, T) -> T + Send + Sync + 'static) -> Result<Option<T>> {
        let function = Arc::new(function);
        let parts = self.reduce_partitions(Arc::clone(&function))?;
        self.in_driver("tree_reduce", || {
            join_in_tree(parts, |left, right| function(left, right))
        })
    }

    /// What `function` makes of each partition that has records.
    fn reduce_partitions(&self, function: Arc<impl Fn(T, T) -> T + Send + Sync + 'static>) -> Result<Vec<T>> {
        let parts = self.run_all(move |_, _, stream| {
            let mut reduced: Option<T> = None;
            for batch in typed_batches::<T>(stream) {
                batch?.for_each(|record| {
                    reduced = Some(match reduced.take() {
                        Some(left) => function(left, record),
                        None => record,
                    });
                });
            }
            Ok(reduced)
        })?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Folds the records of each partition into `zero` by `function`, then the results, in order. As in Spark, `zero`
    /// enters once for each partition and once more.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let numbers = context.range(1..4, 2);
    /// assert_eq!(numbers.fold(0, |sum, number| sum + number)?, 6);
    /// let with_ten = numbers.fold(10, |sum, number| sum + number)?;
    /// assert_eq!(with_ten, 36, "10 entered for each of two partitions and once more");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// As any action.
    pub fn fold(&self, zero: T, function: impl Fn(T, T) -> T + Send + Sync + 'static) -> Result<T> {
        let function = Arc::new(function);
        let merge = Arc::clone(&function);
        self.aggregate(
            zero,
            move |sum, record| function(sum, record),
            move |left, right| merge(left, right),
        )
    }

    /// Folds the records of each partition into `zero` by `add`, then joins the results in order by `merge`.
    ///
    /// # Errors
    /// As any action.
    pub fn aggregate<A: Record>(
        &self,
        zero: A,
        add: impl Fn(A, T) -> A + Send + Sync + 'static,
        merge: impl Fn(A, A) -> A + Send + Sync + 'static,
    ) -> Result<A> {
        let parts = self.fold_partitions(zero.clone(), add)?;
        self.in_driver("aggregate", || parts.into_iter().fold(zero, merge))
    }

    /// As [`aggregate`](Self::aggregate), but joins the results of partitions in a fixed binary tree over their
    /// indices, so that rounding errors of floating-point sums grow with the logarithm of the number of partitions.
    ///
    /// # Errors
    /// As any action.
    pub fn tree_aggregate<A: Record>(
        &self,
        zero: A,
        add: impl Fn(A, T) -> A + Send + Sync + 'static,
        merge: impl Fn(A, A) -> A + Send + Sync + 'static,
    ) -> Result<A> {
        let parts = self.fold_partitions(zero.clone(), add)?;
        self.in_driver("tree_aggregate", || join_in_tree(parts, merge).unwrap_or(zero))
    }

    fn fold_partitions<A: Record>(&self, zero: A, add: impl Fn(A, T) -> A + Send + Sync + 'static) -> Result<Vec<A>> {
        self.run_all(move |_, _, stream| {
            let mut sum = Some(zero.clone());
            for batch in typed_batches::<T>(stream) {
                batch?.for_each(|record| sum = sum.take().map(|sum| add(sum, record)));
            }
            Ok(sum)
        })
        .map(|sums| sums.into_iter().flatten().collect())
    }
}

/// Joins parts along the fixed tree over their indices.
pub(super) fn join_in_tree<A>(parts: Vec<A>, merge: impl Fn(A, A) -> A) -> Option<A> {
    let count = parts.len();
    // Leaves come from left to right.
    let mut parts = parts.into_iter();
    let mut leaf = |_| parts.next();
    let mut add = |left: Option<A>, right: Option<A>| match (left, right) {
        (Some(left), Some(right)) => Some(merge(left, right)),
        (left, right) => left.or(right),
    };
    tree::fold(0..count, &mut leaf, &mut add).flatten()
}
