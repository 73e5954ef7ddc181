//! Lineages of thousands of operators: built, explained, run and dropped on a small stack.

use distdl::{Config, Context, Dataset, EngineError};

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

/// Rounds in which each prediction is read twice by the next one, after gradient boosting.
fn boosted(rounds: usize, context: &Context, keep: impl Fn(Dataset<u64>) -> Dataset<u64>) -> Vec<Dataset<u64>> {
    let targets = context.range(0..20, 2);
    let mut predictions = vec![targets.map(|_| 0)];
    for _ in 0..rounds {
        let last = &predictions[predictions.len() - 1];
        let residuals = targets
            .zip(last)
            .unwrap()
            .map(|(target, last)| target.wrapping_sub(last));
        let next = last.zip(&residuals.map(|residual| residual / 2)).unwrap();
        predictions.push(keep(next.map(|(last, step)| last.wrapping_add(step))));
    }
    predictions
}

fn boosted_plainly(rounds: usize) -> Vec<u64> {
    let step = |target: u64, last: u64| last.wrapping_add(target.wrapping_sub(last) / 2);
    (0..20)
        .map(|target| again(rounds, 0, |last| step(target, last)))
        .collect()
}

#[test]
fn what_is_kept_and_read_twice_is_computed_once_in_a_task() {
    on_a_small_stack(|context| {
        let predictions = boosted(40, context, |dataset| dataset.cache());
        assert_eq!(predictions[40].collect().unwrap(), boosted_plainly(40));
        let computed = predictions[1..].iter().map(Dataset::partitions_computed);
        assert!(computed.eq([2; 40]), "each partition once");
        assert_eq!(context.metrics().blocks_lost(), 0);
    });
}

#[test]
fn what_cannot_be_kept_is_computed_for_each_of_its_readers() {
    let config = Config::default().with_threads(2).with_memory_bytes_max(0);
    let context = Context::new(config).unwrap();
    let predictions = boosted(8, &context, |dataset| dataset.cache());
    assert_eq!(predictions[8].collect().unwrap(), boosted_plainly(8));
    assert!(context.store().ids().is_empty());
}

#[test]
fn what_would_be_computed_millions_of_times_is_an_error_that_says_to_persist() {
    on_a_small_stack(|context| {
        let predictions = boosted(40, context, |dataset| dataset);
        let error = predictions[40].count().unwrap_err();
        assert!(matches!(error, EngineError::ProgramTooLong { .. }), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("`map`") && text.contains("depth.rs:") && text.contains("persist"),
            "{text}"
        );
        assert_eq!(predictions[8].collect().unwrap(), boosted_plainly(8));
    });
}
