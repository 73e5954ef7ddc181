//! Panics and forbidden calls in users' closures: the action ends with an error that says where, and life goes on.

use std::cmp::Ordering;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{self, AtomicUsize};

use distdl::{Context, Dataset, EngineError, PartitionFunction, Partitioner};
use serde::{Deserialize, Serialize};

use crate::common::small_batches;

type Attempt = Box<dyn Fn(&Context) -> Result<(), EngineError>>;

fn rows(context: &Context) -> Dataset<(u64, u64)> {
    context.range(0..60, 4).map(|x| (x % 6, x))
}

fn burst(value: u64) -> u64 {
    // Partition 2 of 4 holds it.
    assert!(value != 33, "cannot digest {value}");
    value
}

/// (operator to be named, partition or `None` where it is that of a key, a job).
fn attempts() -> Vec<(&'static str, Option<usize>, Attempt)> {
    fn attempt<R>(run: impl Fn(&Context) -> Result<R, EngineError> + 'static) -> Attempt {
        Box::new(move |context| run(context).map(drop))
    }
    vec![
        (
            "map",
            Some(2),
            attempt(|context| rows(context).map(|row| burst(row.1)).count()),
        ),
        (
            "filter",
            Some(2),
            attempt(|context| rows(context).filter(|row| burst(row.1) > 0).count()),
        ),
        (
            "try_map",
            Some(2),
            attempt(|context| rows(context).try_map(|row| Ok::<_, String>(burst(row.1))).count()),
        ),
        (
            "flat_map",
            Some(2),
            attempt(|context| rows(context).flat_map(|row| [burst(row.1)]).count()),
        ),
        (
            "map_values",
            Some(2),
            attempt(|context| rows(context).map_values(burst).map(|row| row).count()),
        ),
        (
            "key_by",
            Some(2),
            attempt(|context| rows(context).key_by(|row| burst(row.1)).cache().count()),
        ),
        (
            "map_partitions",
            Some(2),
            attempt(|context| {
                rows(context)
                    .map_partitions(|rows| rows.map(|row| burst(row.1)))
                    .values_doubled()
                    .count()
            }),
        ),
        (
            "map_partitions_with_index",
            Some(2),
            attempt(|context| {
                let rows = rows(context).map_partitions_with_index(|index, rows| {
                    assert!(index != 2, "cannot digest partition {index}");
                    rows
                });
                rows.count()
            }),
        ),
        (
            "reduce_by_key",
            Some(2),
            attempt(|context| {
                rows(context)
                    .reduce_by_key(|left, right| burst(left).max(right))
                    .count()
            }),
        ),
        (
            "combine_by_key",
            None,
            attempt(|context| {
                let merge = |_, _| panic!("cannot digest a merge");
                rows(context)
                    .combine_by_key(|value| value, |left, right| left + right, merge)
                    .count()
            }),
        ),
        (
            "map_values",
            None,
            attempt(|context| {
                let groups = rows(context)
                    .group_by_key()
                    .map_values(|values| values.into_iter().map(burst).sum::<u64>());
                groups.collect()
            }),
        ),
        (
            "map",
            Some(2),
            attempt(|context| {
                rows(context).for_each_partition(|_, rows| rows.for_each(|row| assert!(burst(row.1) < 60)))
            }),
        ),
        (
            "map",
            Some(2),
            attempt(|context| rows(context).map(|row| (burst(row.1), 0)).sort_by_key().count()),
        ),
        (
            "map",
            Some(2),
            attempt(|context| rows(context).map(|row| burst(row.1)).zip_with_index().count()),
        ),
    ]
}

trait Doubled {
    fn values_doubled(&self) -> Dataset<u64>;
}

impl Doubled for Dataset<u64> {
    fn values_doubled(&self) -> Dataset<u64> {
        self.map(|value| value * 2)
    }
}

#[test]
fn a_panic_ends_the_action_with_its_text_operator_and_partition_and_the_context_goes_on() {
    for threads in 1..=3 {
        let context = small_batches(threads, 4);
        for (index, (expected, place, attempt)) in attempts().into_iter().enumerate() {
            match attempt(&context) {
                Err(EngineError::Panic {
                    operator,
                    site,
                    partition,
                    message,
                }) => {
                    assert_eq!(operator, expected, "attempt {index}");
                    assert!(message.starts_with("cannot digest"), "{message}");
                    assert!(site.contains("panics.rs:"), "{site}");
                    assert!(
                        place.is_none_or(|place| place == partition),
                        "attempt {index}: {partition}"
                    );
                }
                other => panic!("attempt {index}: {other:?}"),
            }
            assert_eq!(
                rows(&context)
                    .reduce_by_key(|left, right| left + right)
                    .count()
                    .unwrap(),
                6
            );
        }
        assert_eq!(context.live_datasets(), 0);
    }
}

#[test]
fn an_error_of_a_closure_names_the_files_that_its_partition_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for file in 0..6 {
        let text: String = (0..10).map(|line| format!("{}\n", 10 + file * 10 + line)).collect();
        std::fs::write(path(&format!("{file}.txt")), text).unwrap();
    }
    let context = small_batches(2, 4);
    let error_at = |bad: u64, partitions| {
        let lines = context.text_file(&path("*.txt"), partitions).unwrap();
        let numbers = lines.map(|line| line.parse::<u64>().unwrap());
        let refuse = move |number| if number == bad { Err("no") } else { Ok(number) };
        numbers.try_map(refuse).count().unwrap_err().to_string()
    };
    let (one, part, all) = (error_at(35, 6), error_at(12, 12), error_at(12, 1));
    assert!(one.ends_with(&format!("no (of the input {})", path("2.txt"))), "{one}");
    assert!(
        part.ends_with(&format!("no (of the input {}, bytes 0 to 15)", path("0.txt"))),
        "{part}"
    );
    assert!(
        all.ends_with(&format!(
            "{}; {}; {}; 3 more)",
            path("0.txt"),
            path("1.txt"),
            path("2.txt")
        )),
        "{all}"
    );
    let lines = context.text_file(&path("*.txt"), 6).unwrap();
    let panicked = lines
        .map(|line| assert_ne!(line, "61"))
        .count()
        .unwrap_err()
        .to_string();
    let named = format!("(of the input {})\n  mend the closure", path("5.txt"));
    assert!(panicked.contains(&named), "{panicked}");
    // Behind a shuffle nobody knows which file it was.
    let sums = context
        .text_file(&path("*.txt"), 6)
        .unwrap()
        .key_by(|_| 0)
        .group_by_key();
    let behind = sums.try_map(|_| Err::<u64, _>("no")).count().unwrap_err().to_string();
    assert!(behind.ends_with("no"), "{behind}");
}

/// Joins the sums of partitions in the driver program.
fn merged(_: u64, _: u64) -> u64 {
    panic!("cannot digest sums")
}

/// A key that has no order from 50 on.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Unordered(u64);

impl Ord for Unordered {
    fn cmp(&self, other: &Self) -> Ordering {
        assert!(self.0.max(other.0) < 50, "cannot digest {} and {}", self.0, other.0);
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Unordered {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Puts the key 5 where nothing is, and does not know what is where.
struct Beyond;

impl Partitioner<u64> for Beyond {
    fn partitions(&self) -> usize {
        2
    }

    fn partition(&self, key: &u64) -> usize {
        *key as usize
    }

    fn function(&self) -> PartitionFunction {
        PartitionFunction::custom::<Self>("")
    }

    fn may_hold(&self, _: usize, _: (Bound<&u64>, Bound<&u64>)) -> bool {
        panic!("cannot digest ranges")
    }
}

#[test]
fn a_panic_of_the_driver_side_of_an_action_is_an_error_too() {
    let context = small_batches(1, 4);
    let numbers = context.range(0..8, 2);
    let one_each = context.parallelize([3, 4], 2);
    let unordered = context.range(0..2, 2).map(|x| (Unordered(50 + x), ()));
    let placed = context.range(0..2, 2).map(|x| (x, x)).partition_by(Beyond);
    let errors = [
        (
            "aggregate of range",
            numbers.aggregate(0, |sum, x| sum + x, merged).err(),
        ),
        (
            "tree_aggregate of range",
            numbers.tree_aggregate(0, |sum, x| sum + x, merged).err(),
        ),
        (
            "reduce of parallelize",
            one_each.reduce(|_, _| panic!("cannot digest two")).err(),
        ),
        (
            "tree_reduce of parallelize",
            one_each.tree_reduce(|_, _| panic!("cannot digest two")).err(),
        ),
        ("sort_by_key", unordered.sort_by_key().count().err()),
        ("lookup of partition_by", placed.lookup(&5).err()),
    ];
    for (expected, error) in errors {
        match error {
            Some(EngineError::DriverPanic {
                operator,
                site,
                message,
            }) => {
                assert_eq!(operator, expected);
                assert!(site.contains("panics.rs:"), "{site}");
                assert!(
                    message.contains("cannot digest") || message.contains("into partition 5 of 2"),
                    "{message}"
                );
            }
            other => panic!("{expected}: {other:?}"),
        }
        assert_eq!(numbers.count().unwrap(), 8);
    }
    let sorted = context.range(0..8, 2).map(|x| (Unordered(x), ())).sort_by_key();
    assert_eq!(sorted.count().unwrap(), 8);
    match sorted.filter_by_range(..Unordered(50)).count() {
        Err(EngineError::Panic { operator, .. }) => assert_eq!(operator, "filter_by_range"),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        placed.filter_by_range(..1).collect().unwrap(),
        [(0, 0)],
        "ruled out by nobody"
    );
}

#[test]
fn a_panic_where_an_accumulator_is_merged_is_an_error_and_others_are_counted() {
    let context = small_batches(1, 4);
    // One is digested, and that of the other partition is not.
    let total = context.accumulator(0u64, |total, value| {
        *total += value;
        assert!(*total < 2, "cannot digest {total}");
    });
    let count = context.counter();
    let adding = (total.clone(), count.clone());
    let rows = context.range(0..2, 2).map(move |x| {
        adding.1.add(x);
        adding.0.add(1);
    });
    let error = rows.count().unwrap_err();
    let EngineError::DriverPanic { operator, site, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(operator, "accumulator");
    assert!(site.contains("panics.rs:"), "{site}");
    assert_eq!(total.value(), 2, "the closure had added it before it panicked");
    assert_eq!((count.value(), context.range(0..60, 4).count().unwrap()), (1, 60));
}

#[test]
fn what_a_failed_action_added_does_not_count() {
    let context = small_batches(2, 4);
    let counter = context.counter();
    let adding = counter.clone();
    let rows = context.range(0..60, 4).map(move |x| {
        adding.add(1);
        burst(x)
    });
    assert!(matches!(rows.count(), Err(EngineError::Panic { partition: 2, .. })));
    assert_eq!(counter.value(), 0);
    assert_eq!(rows.filter(|_| true).take(5).unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_panic_in_what_an_accumulator_does_is_an_error_too() {
    let context = small_batches(2, 4);
    let total = context.accumulator(0u64, |total, value| *total += burst(value));
    let adding = total.clone();
    let rows = context.range(0..60, 4).map(move |x| adding.add(x));
    match rows.count() {
        Err(EngineError::Panic {
            operator, partition, ..
        }) => assert_eq!((operator.as_str(), partition), ("map", 2)),
        other => panic!("{other:?}"),
    }
    assert_eq!(context.range(0..60, 4).count().unwrap(), 60);
}

#[test]
fn an_action_inside_a_closure_is_refused() {
    for threads in 1..=2 {
        let context = small_batches(threads, 4);
        let inner = context.range(0..3, 1);
        let sorted = inner.map(|x| (x, x)).repartition(2).sort_by_key();
        let nested = context.range(0..2, 2).map(move |_| {
            let results = [
                inner.count().map(drop),
                sorted.collect().map(drop),
                inner.take(1).map(drop),
            ];
            results
                .iter()
                .all(|result| matches!(result, Err(EngineError::NestedAction)))
        });
        assert_eq!(nested.collect().unwrap(), [true, true]);
        drop(nested);
        assert_eq!(context.live_datasets(), 0);
    }
}

#[test]
fn an_error_of_a_partition_function_is_the_error_of_the_action() {
    let context = small_batches(2, 4);
    let refuse = |partition: usize, rows: distdl::PartitionIter<u64>| match partition {
        3 => Err(EngineError::invalid("no partition 3", "ask for fewer")),
        _ => Ok(rows.count()),
    };
    let error = context.range(0..60, 4).run_partitions(refuse).unwrap_err();
    assert_eq!(error.to_string(), "no partition 3; ask for fewer");
}

/// A closure that has an effect at its end must not take a part of a partition for all of it.
#[test]
fn a_closure_whose_input_fails_is_unwound_and_the_error_is_that_of_its_input() {
    struct Unwound(Arc<AtomicUsize>);
    impl Drop for Unwound {
        fn drop(&mut self) {
            self.0
                .fetch_add(usize::from(std::thread::panicking()), atomic::Ordering::SeqCst);
        }
    }
    for threads in [1, 2] {
        let context = small_batches(threads, 2);
        let rows = context.range(0..60, 4);
        let uneven = rows.zip(&rows.filter(|row| *row != 33)).unwrap();
        let (ended, unwound) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (count, drops) = (Arc::clone(&ended), Arc::clone(&unwound));
        let result = uneven.for_each_partition(move |partition, rows| {
            let _unwound = Unwound(Arc::clone(&drops));
            rows.for_each(drop);
            count.fetch_add(usize::from(partition == 2), atomic::Ordering::SeqCst);
        });
        assert!(
            matches!(&result, Err(EngineError::Operator { operator, .. }) if operator == "zip"),
            "{result:?}"
        );
        assert_eq!(ended.load(atomic::Ordering::SeqCst), 0);
        assert!(unwound.load(atomic::Ordering::SeqCst) >= 1);
        // The panic of a closure that counts on more records would hide why there are none.
        let first = uneven.map_partitions(|rows| {
            let mut rows = rows.skip(14);
            vec![rows.next().expect("each partition has 15 records")]
        });
        let result = first.count();
        assert!(
            matches!(&result, Err(EngineError::Operator { operator, .. }) if operator == "zip"),
            "{result:?}"
        );
        // One that swallows it all the same has made nothing, however many closures stand before it.
        let swallowed = uneven.map_partitions(|rows| rows).run_partitions(|_, rows| {
            Ok(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rows.count())).unwrap_or(0))
        });
        assert!(
            matches!(&swallowed, Err(EngineError::Operator { operator, .. }) if operator == "zip"),
            "{swallowed:?}"
        );
        assert_eq!(rows.count().unwrap(), 60);
    }
}
