//! Lineages of thousands of operators: built, explained, run and dropped on a small stack.

use distdl::{Context, Dataset};

use crate::common::context;

const STACK_BYTES: usize = 1 << 20;

/// Runs the driver program on a thread with a small stack; nothing may be left of its datasets.
fn on_a_small_stack(program: impl FnOnce(&Context) + Send + 'static) {
    let driver = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(|| {
        let context = context(2);
        program(&context);
        assert_eq!(context.live_datasets(), 0);
    });
    driver.unwrap().join().unwrap();
}

fn again<T: Clone>(times: usize, first: T, step: impl Fn(T) -> T) -> T {
    (0..times).fold(first, |last, _| step(last))
}

#[test]
fn ten_thousand_maps() {
    on_a_small_stack(|context| {
        let last = again(10_000, context.range(0..50, 3), |last: Dataset<u64>| {
            last.map(|x| x + 1)
        });
        assert_eq!(last.collect().unwrap(), (10_000..10_050).collect::<Vec<u64>>());
        assert!(last.explain().lines().count() < 20);
        assert_eq!(context.live_datasets(), 10_001);
    });
}

#[test]
fn a_thousand_unions() {
    on_a_small_stack(|context| {
        let one = context.range(0..2, 1);
        let last = again(1000, one.clone(), |last| last.union(&one));
        assert_eq!(last.count().unwrap(), 2002);
        assert!(last.explain().contains("Plan: 1 stages, 1001 tasks"));
        let last = again(1000, one.clone(), |last| one.union(&last));
        assert_eq!(last.count().unwrap(), 2002);
    });
}

#[test]
fn thousands_of_whole_partition_operators() {
    on_a_small_stack(|context| {
        let last = again(3000, context.range(0..10, 2), |last| {
            last.map_partitions(|rows| rows.map(|x| x + 1))
        });
        assert_eq!(last.collect().unwrap(), (3000..3010).collect::<Vec<u64>>());
        let first = context.range(0..10, 2);
        let last = again(2000, first.clone(), |last| {
            last.zip(&first).unwrap().map(|(sum, x)| sum + x)
        });
        assert_eq!(last.collect().unwrap(), (0..10).map(|x| x * 2001).collect::<Vec<u64>>());
        assert!(last.explain().contains("zip"));
    });
}

#[test]
fn thousands_of_unions_brought_to_one_partition() {
    on_a_small_stack(|context| {
        let one = context.range(0..1, 1);
        let last = again(5000, one.clone(), |last| last.map(|x| x + 1).union(&one).coalesce(1));
        let expected: Vec<u64> = (0..=5000).rev().collect();
        assert_eq!(last.collect().unwrap(), expected);
        assert!(last.explain().contains("coalesce"));
    });
}

#[test]
fn many_shuffles() {
    on_a_small_stack(|context| {
        let first = context.range(0..100, 3).map(|x| (x, 1u64));
        let last = again(60, first, |last| {
            last.map(|(key, value)| (key / 2 * 2, value))
                .reduce_by_key_into(|left, right| left + right, 2)
        });
        assert_eq!(last.values().collect().unwrap().iter().sum::<u64>(), 100);
        assert!(last.explain().contains("Plan: 61 stages"));
    });
}

#[test]
fn many_persisted_datasets_leave_no_block() {
    on_a_small_stack(|context| {
        let last = again(200, context.range(0..20, 2), |last| last.map(|x| x + 1).cache());
        assert_eq!(last.count().unwrap(), 20);
        assert_eq!(context.store().ids().len(), 400);
        drop(last);
        assert!(context.store().ids().is_empty());
    });
}
