//! What closures add to an accumulator counts once for each partition of the operator.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use distdl::{Accumulator, Config, Context, Dataset, Level};
use proptest::prelude::*;

use crate::common::{block, cases, context, levels, small_batches};

fn counted(rows: &Dataset<u64>, counter: &Accumulator<u64>) -> Dataset<u64> {
    let counter = counter.clone();
    rows.map(move |x| {
        counter.add(1);
        x
    })
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn partitions_count_once_whatever_is_computed_again(
        threads in 1..=3usize,
        level in prop::option::of(levels()),
        lost in prop::array::uniform4(any::<bool>()),
    ) {
        let context = small_batches(threads, 3);
        let counter = context.counter();
        let rows = counted(&context.range(0..100, 4), &counter);
        if let Some(level) = level {
            let _ = rows.persist(level);
        }
        prop_assert_eq!(counter.value(), 0, "nothing has run");
        for _ in 0..2 {
            prop_assert_eq!(rows.count().unwrap(), 100);
            prop_assert_eq!(rows.repartition(3).count().unwrap(), 100);
            prop_assert_eq!(counter.value(), 100);
        }
        for (partition, _) in lost.iter().enumerate().filter(|(_, lost)| **lost) {
            context.store().remove(block(rows.id(), partition)).unwrap();
        }
        prop_assert_eq!(rows.count().unwrap(), 100);
        prop_assert_eq!(counter.value(), 100);
    }
}

#[test]
fn a_partial_read_does_not_count() {
    let context = small_batches(2, 5);
    let counter = context.counter();
    let rows = counted(&context.range(0..100, 4), &counter);
    assert_eq!(rows.take(3).unwrap(), [0, 1, 2]);
    assert_eq!(counter.value(), 0);
    assert_eq!(rows.count().unwrap(), 100);
    assert_eq!(counter.value(), 100);
}

#[test]
fn a_partition_that_was_kept_counts_even_if_the_action_read_only_part_of_it() {
    let context = small_batches(2, 5);
    let counter = context.counter();
    let rows = counted(&context.range(0..100, 4), &counter).cache();
    let unread = context.counter();
    let after = counted(&rows, &unread);
    assert_eq!(after.take(3).unwrap(), [0, 1, 2]);
    assert_eq!((counter.value(), unread.value()), (25, 0));
    assert_eq!(after.count().unwrap(), 100);
    assert_eq!((counter.value(), unread.value()), (100, 100));
}

#[test]
fn a_partition_that_a_task_uses_twice_counts_once() {
    let context = small_batches(1, 5);
    let counter = context.counter();
    let rows = counted(&context.range(0..100, 4), &counter);
    assert_eq!(rows.zip(&rows.map(|x| x)).unwrap().count().unwrap(), 100);
    assert_eq!(counter.value(), 100);
}

#[test]
fn work_done_again_within_a_task_counts_once() {
    let context = context(1);
    let counter = context.counter();
    let kept = context.range(0..100, 4).cache();
    let (armed, store, id) = (Arc::new(AtomicBool::new(false)), context.clone(), kept.id());
    let trigger = Arc::clone(&armed);
    // So deep a chain of whole-partition operators is computed before the right side of `zip` is looked at.
    let mut deep = counted(&context.range(0..100, 4), &counter).map_partitions_with_index(move |partition, rows| {
        if trigger.load(Ordering::SeqCst) {
            store.store().remove(block(id, partition)).unwrap();
        }
        rows
    });
    for _ in 0..100 {
        deep = deep.map_partitions(|rows| rows);
    }
    assert_eq!(kept.count().unwrap(), 100);
    armed.store(true, Ordering::SeqCst);
    assert_eq!(deep.zip(&kept).unwrap().count().unwrap(), 100);
    assert_eq!(counter.value(), 100);
    assert_eq!(
        context.metrics().blocks_lost(),
        4,
        "the right side was to be lost in each task"
    );
}

#[test]
fn what_the_closure_of_an_action_adds_counts_for_each_action() {
    let context = small_batches(2, 5);
    let (counter, partitions) = (context.counter(), context.counter());
    let rows = counted(&context.range(0..100, 4), &counter);
    for times in 1..=2 {
        let (records, adding) = (counter.clone(), partitions.clone());
        rows.for_each_partition(move |_, rows| {
            adding.add(1);
            rows.for_each(|_| records.add(1));
        })
        .unwrap();
        assert_eq!((counter.value(), partitions.value()), (100 + 100 * times, 4 * times));
    }
    // Also if it reads nothing.
    let adding = partitions.clone();
    rows.for_each_partition(move |_, _| adding.add(1)).unwrap();
    assert_eq!(partitions.value(), 12);
}

#[test]
fn sums_of_floats_do_not_depend_on_timing() {
    let sum = |threads| {
        let context = small_batches(threads, 3);
        let total = context.accumulator(0.0f64, |total, value| *total += value);
        let adding = total.clone();
        let rows = context
            .range(0..1000, 17)
            .map(move |x| adding.add(1.0 / (1.0 + x as f64)));
        rows.count().unwrap();
        total.value().to_bits()
    };
    assert_eq!(sum(1), sum(2));
    assert_eq!(sum(1), sum(3));
}

#[test]
fn outside_a_closure_it_adds_at_once() {
    let context = context(1);
    let words = context.accumulator(Vec::new(), |words: &mut Vec<String>, more| words.extend(more));
    words.add(vec!["driver".to_owned()]);
    assert_eq!(words.value(), ["driver"]);
}

#[test]
fn a_block_too_large_to_keep_counts_once() {
    let config = Config {
        memory_bytes_max: 64,
        ..Config::default()
    };
    let context = Context::new(config.with_threads(2)).unwrap();
    let counter = context.counter();
    let rows = counted(&context.range(0..100, 4), &counter).persist(Level::Memory);
    for _ in 0..2 {
        assert_eq!(rows.union(&rows).coalesce(2).count().unwrap(), 200);
        assert_eq!(counter.value(), 100);
    }
}

#[test]
fn what_a_closure_leaves_unread_does_not_count_yet() {
    let context = small_batches(2, 5);
    let counter = context.counter();
    let rows = counted(&context.range(0..100, 4), &counter);
    let some = rows.map_partitions(|rows| rows.take(3));
    assert_eq!(some.cache().count().unwrap(), 12);
    assert_eq!(counter.value(), 0, "one batch of five was computed");
    assert_eq!(rows.count().unwrap(), 100);
    assert_eq!(counter.value(), 100);
}

/// The loss of one block must not cost what was added on the way to another one, which is kept.
#[test]
fn what_was_kept_in_a_round_that_lost_something_counts() {
    let context = context(1);
    let counter = context.counter();
    let sums = context
        .range(0..8, 4)
        .map(|x| (x, x))
        .reduce_by_key(|left, right| left + right)
        .cache();
    assert_eq!(sums.count().unwrap(), 8);
    let kept = counted(&context.range(0..100, 4), &counter).cache();
    let (store, id) = (context.clone(), sums.id());
    let loses = sums.map_partitions_with_index(move |partition, rows| {
        if partition == 0 {
            store.store().remove(block(id, 1)).unwrap();
        }
        rows
    });
    let both = loses.join_into(&kept.map(|x| (x, x)), 3);
    assert_eq!(both.count().unwrap(), 8);
    assert_eq!(context.metrics().blocks_lost(), 1);
    assert_eq!(counter.value(), 100);
}

#[test]
fn an_accumulator_of_another_context_is_refused() {
    let (own, other) = (context(1), context(1));
    let (_, foreign) = (own.counter(), other.counter());
    let rows = counted(&own.range(0..10, 2), &foreign);
    let error = rows.count().unwrap_err().to_string();
    assert!(error.contains("of another context"), "{error}");
    assert_eq!(foreign.value(), 0);
}

#[test]
fn an_accumulator_may_hold_another_one() {
    let context = context(1);
    let inner = context.counter();
    let outer = context.accumulator(0u64, move |total, value| {
        *total += value;
        let _ = inner.value();
    });
    drop(outer);
    assert_eq!(context.range(0..10, 2).count().unwrap(), 10);
}
