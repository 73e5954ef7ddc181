//! Every operation and action against the oracle, for drawn data, partitions, threads, batches and memory.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use distdl::engine::Stats;
use distdl::{Config, Context, Dataset, EngineError};
use proptest::prelude::*;

use crate::common::{batch_records, cases, context, small_batches};
use crate::oracle::{Row, compose, digest};
use crate::pipelines::{Both, build, partitions_of, steps};

fn engine(threads: usize, batch_records: usize, memory_bytes_max: u64) -> Context {
    let config = Config {
        batch_records,
        memory_bytes_max,
        ..Config::default()
    };
    Context::new(config.with_threads(threads)).unwrap()
}

#[test]
fn datasets_of_two_contexts_are_an_error() {
    let contexts = [(), ()].map(|()| engine(1, 10, 1 << 20));
    let [own, other] = contexts
        .each_ref()
        .map(|context| context.range(0..9, 3).map(|key| (key, key)));
    for error in [
        own.union(&other).collect().err(),
        own.join(&other).collect().err(),
        own.cogroup(&other).count().err(),
        own.left_outer_join(&other).count().err(),
        own.subtract_by_key(&other).count().err(),
        own.cartesian(&other).count().err(),
        own.intersection(&other).count().err(),
        own.zip(&other).err(),
    ] {
        let error = error.unwrap().to_string();
        assert!(
            error.contains("two contexts") && error.contains("operations.rs"),
            "{error}"
        );
    }
    assert_eq!(own.union(&own).count().unwrap(), 18);
}

proptest! {
    #![proptest_config(cases(160))]

    #[test]
    fn pipelines_give_what_plain_vectors_give(
        steps in steps(12),
        batch_records in batch_records(),
        memory_bytes_max in prop_oneof![Just(400u64), Just(1 << 30)],
    ) {
        let mut first: Option<Vec<Vec<Row>>> = None;
        for threads in 1..=3 {
            let engine = engine(threads, batch_records, memory_bytes_max);
            let Both { dataset, expected, .. } = build(&engine, &steps);
            prop_assert_eq!(&partitions_of(&dataset), &expected);
            prop_assert_eq!(&dataset.collect().unwrap(), &expected.concat(), "the second action");
            let first = first.get_or_insert_with(|| expected.clone());
            prop_assert_eq!(first, &expected, "{} threads", threads);
            drop(dataset);
            prop_assert_eq!(engine.live_datasets(), 0);
            prop_assert!(engine.store().ids().is_empty());
        }
    }

    #[test]
    fn actions_give_what_plain_vectors_give(
        steps in steps(5),
        threads in 1..=3usize,
        batch_records in batch_records(),
        count in 0..40usize,
        key in 0..12u64,
    ) {
        let engine = engine(threads, batch_records, 1 << 30);
        let both = build(&engine, &steps);
        actions(&both, count, key);
        order_and_samples(&both, count, key);
        statistics(&both, count);
    }
}

fn order_and_samples(Both { dataset, expected, .. }: &Both, count: usize, seed: u64) {
    let rows = expected.concat();
    assert_eq!(dataset.is_empty().unwrap(), rows.is_empty());
    assert_eq!(dataset.min().unwrap(), rows.iter().min().copied());
    assert_eq!(dataset.max().unwrap(), rows.iter().max().copied());
    let mut sorted = rows.clone();
    sorted.sort_unstable();
    assert_eq!(dataset.take_ordered(count).unwrap(), sorted[..count.min(sorted.len())]);
    let one_by_one: Result<Vec<Row>, EngineError> = dataset.to_local_iter().collect();
    assert_eq!(one_by_one.unwrap(), rows);
    let mut counts: Vec<(Row, u64)> = Vec::new();
    for row in &rows {
        match counts.iter_mut().find(|(counted, _)| counted == row) {
            Some((_, count)) => *count += 1,
            None => counts.push((*row, 1)),
        }
    }
    assert_eq!(dataset.count_by_value().unwrap(), counts);
    by_key(dataset, &rows, count);
    let numbered = dataset.zip_with_index();
    let sample = numbered.take_sample(count, seed).unwrap();
    assert_eq!(sample.len(), count.min(rows.len()));
    assert!(sample.iter().all(|(row, index)| rows[*index as usize] == *row));
    let positions: HashSet<u64> = sample.iter().map(|(_, index)| *index).collect();
    assert_eq!(positions.len(), sample.len(), "a record was drawn twice");
    match numbered.take_sample_with_replacement(count, seed) {
        Ok(sample) => {
            assert_eq!(sample.len(), count);
            assert!(sample.iter().all(|(row, index)| rows[*index as usize] == *row));
        }
        Err(error) => assert!(rows.is_empty() && count > 0, "{error}"),
    }
}

/// Of rows with equal keys the first ones count.
fn by_key(dataset: &Dataset<Row>, rows: &[Row], count: usize) {
    let key = |row: &Row| row.1 % 3;
    let mut ordered = rows.to_vec();
    ordered.sort_by_key(key);
    assert_eq!(dataset.min_by_key(key).unwrap(), ordered.first().copied());
    let least = &ordered[..count.min(rows.len())];
    assert_eq!(dataset.take_ordered_by_key(count, key).unwrap(), least);
    ordered.sort_by_key(|row| Reverse(key(row)));
    assert_eq!(dataset.max_by_key(key).unwrap(), ordered.first().copied());
    let largest = &ordered[..count.min(rows.len())];
    assert_eq!(dataset.top_by_key(count, key).unwrap(), largest);
}

fn statistics(Both { dataset, expected, .. }: &Both, buckets: usize) {
    let number = |row: &Row| f64::from(row.1 as u32 % 100);
    let numbers: Vec<f64> = expected.concat().iter().map(number).collect();
    let dataset = dataset.map(move |row| number(&row));
    let stats = dataset.stats().unwrap();
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count.max(1.0);
    let variance = numbers.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
    let close = |one: f64, other: f64| (one - other).abs() < 1e-9 || one.is_nan() && other.is_nan();
    assert_eq!(stats.count(), numbers.len() as u64);
    assert!(close(stats.mean(), mean) && close(stats.sum(), mean * count));
    assert!(close(stats.variance(), variance) && close(stats.stdev(), variance.sqrt()));
    assert!(close(stats.sample_variance(), variance * count / (count - 1.0)) || numbers.len() < 2);
    assert_eq!(stats.min(), numbers.iter().copied().fold(f64::INFINITY, f64::min));
    assert_eq!(stats.max(), numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max));
    let mut parts: Vec<Stats> = expected.iter().map(|rows| stats_of(rows.iter().map(number))).collect();
    while parts.len() > 1 {
        let pairs = parts.chunks(2);
        parts = pairs
            .map(|pair| pair.iter().copied().reduce(Stats::merge).unwrap())
            .collect();
    }
    assert_eq!(stats, parts[0], "the bits of another order");

    let edges = [10.0, 20.0, 50.5, 60.0];
    let between = |low: f64, high: f64, last: bool| {
        let within = |x: &&f64| low <= **x && (**x < high || last && **x == high);
        numbers.iter().filter(within).count() as u64
    };
    let counts = vec![
        between(10.0, 20.0, false),
        between(20.0, 50.5, false),
        between(50.5, 60.0, true),
    ];
    let histogram = dataset.histogram_between(&edges).unwrap();
    assert_eq!((&histogram.edges[..], histogram.counts), (&edges[..], counts));
    match dataset.histogram(buckets) {
        Ok(histogram) => {
            assert_eq!(histogram.counts.iter().sum::<u64>(), stats.count());
            assert_eq!(histogram.edges.first(), Some(&stats.min()));
            assert_eq!(histogram.edges.last(), Some(&stats.max()));
            let even = stats.max() > stats.min();
            assert_eq!(histogram.counts.len(), if even { buckets } else { 1 });
        }
        Err(error) => assert!(numbers.is_empty() || buckets == 0, "{error}"),
    }
}

fn stats_of(numbers: impl Iterator<Item = f64>) -> Stats {
    let mut stats = Stats::default();
    numbers.for_each(|number| stats.add(number));
    stats
}

fn actions(Both { dataset, expected, .. }: &Both, count: usize, key: u64) {
    let rows = expected.concat();
    assert_eq!(dataset.count().unwrap(), rows.len() as u64);
    match rows.first() {
        Some(row) => assert_eq!(dataset.first().unwrap(), *row),
        None => assert!(matches!(
            dataset.first(),
            Err(EngineError::Empty { action, .. }) if action == "first"
        )),
    }
    assert_eq!(dataset.take(count).unwrap(), rows[..count.min(rows.len())]);
    let mut largest = rows.clone();
    largest.sort_unstable_by(|left, right| right.cmp(left));
    largest.truncate(count);
    assert_eq!(dataset.top(count).unwrap(), largest);
    let values = dataset.values();
    let plain = || rows.iter().map(|(_, value)| *value);
    assert_eq!(values.reduce(compose).unwrap(), plain().reduce(compose));
    assert_eq!(values.tree_reduce(compose).unwrap(), plain().reduce(compose));
    let zeros = 11 * (expected.len() as u64 + 1);
    assert_eq!(
        values.fold(11, u64::wrapping_add).unwrap(),
        plain().fold(zeros, u64::wrapping_add)
    );
    let add = |mut values: Vec<u64>, value| {
        values.push(value);
        values
    };
    let append = |mut left: Vec<u64>, right: Vec<u64>| {
        left.extend(right);
        left
    };
    assert_eq!(
        values.aggregate(vec![], add, append).unwrap(),
        plain().collect::<Vec<_>>()
    );
    assert_eq!(
        values.tree_aggregate(vec![], add, append).unwrap(),
        plain().collect::<Vec<_>>()
    );
    let mut counts: HashMap<u64, u64> = HashMap::new();
    rows.iter().for_each(|(key, _)| *counts.entry(*key).or_default() += 1);
    let counted = dataset.count_by_key().unwrap();
    assert_eq!(counted.len(), counts.len());
    assert_eq!(counted.iter().copied().collect::<HashMap<_, _>>(), counts);
    let reduced = dataset.map_values(|_| 1).reduce_by_key(|left, right| left + right);
    assert_eq!(counted, reduced.collect().unwrap());
    let found: Vec<u64> = rows.iter().filter(|row| row.0 == key).map(|row| row.1).collect();
    assert_eq!(dataset.lookup(&key).unwrap(), found);
    let seen = Arc::new(Mutex::new(vec![Vec::new(); expected.len()]));
    let into = Arc::clone(&seen);
    dataset
        .for_each_partition(move |partition, rows| into.lock().unwrap()[partition].extend(rows))
        .unwrap();
    assert_eq!(*seen.lock().unwrap(), *expected);
    assert_eq!(dataset.glom().collect().unwrap(), *expected);
}

#[test]
fn lookup_by_a_placed_key_computes_one_partition() {
    let engine = context(2);
    let placed = engine.range(0..300, 4).map(|x| (x % 100, x)).group_by_key_into(7);
    let before = engine.metrics().tasks();
    assert_eq!(placed.lookup(&42).unwrap(), [vec![42, 142, 242]]);
    assert_eq!(engine.metrics().tasks() - before, 4 + 1);
}

#[test]
fn a_sort_spreads_the_records_evenly() {
    let engine = context(2);
    // More keys in a partition than the sample holds.
    let pairs = engine
        .range(0..20_000, 3)
        .map(|x| (x.wrapping_mul(0x9E37_79B9_7F4A_7C15), x));
    for sorted in [pairs.sort_by_key_into(5), pairs.repartition(5).sort_by_key_descending()] {
        let lengths = sorted.run_partitions(|_, rows| Ok(rows.count())).unwrap();
        assert!(
            lengths.iter().all(|length| (3800..=4200).contains(length)),
            "{lengths:?}"
        );
    }
}

#[test]
fn take_computes_no_more_partitions_than_it_needs() {
    let engine = context(2);
    let numbers = engine.range(0..1000, 100);
    let before = engine.metrics().tasks();
    assert_eq!(numbers.take(7).unwrap(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(engine.metrics().tasks() - before, 1);
    assert_eq!(numbers.take(50).unwrap(), (0..50).collect::<Vec<_>>());
    assert_eq!(engine.metrics().tasks() - before, 1 + 1 + 4);
}

#[test]
fn an_iterator_that_has_ended_is_not_asked_again() {
    let rows: Vec<u64> = vec![1, 2, 9, 3, 9, 4];
    let until_nine = |rows: distdl::PartitionIter<u64>| rows.map_while(|x| (x < 9).then_some(x));
    for batch_records in [1, 2, 3, 4, 1024] {
        let engine = small_batches(1, batch_records);
        let taken = engine.parallelize(rows.clone(), 1).map_partitions(until_nine);
        assert_eq!(taken.collect().unwrap(), [1, 2], "batches of {batch_records}");
    }
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let engine = context(1);
    let rows = engine.range(0..9, 3);
    let refused = |result: Result<(), EngineError>| assert!(matches!(result, Err(EngineError::Invalid { .. })));
    refused(rows.zip(&engine.range(0..9, 2)).map(drop));
    refused(rows.batch(0).map(drop));
    for fraction in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        refused(rows.sample(fraction, 0).map(drop));
        refused(rows.random_split(&[1.0, fraction.min(0.0)], 0).map(drop));
    }
    refused(rows.random_split(&[], 0).map(drop));
    refused(rows.random_split(&[1.0, f64::NAN], 0).map(drop));
}

#[test]
fn a_zip_of_unlike_partitions_is_an_error_that_names_the_first_such_partition() {
    for (threads, batch_records) in [(1, 2), (2, 1024)] {
        let engine = small_batches(threads, batch_records);
        let left = engine.range(0..30, 3);
        for right in [
            left.filter(|x| *x != 15),
            left.flat_map(|x| vec![x; if x == 15 { 2 } else { 1 }]),
        ] {
            match left.zip(&right).unwrap().count() {
                Err(EngineError::Operator {
                    operator, partition, ..
                }) => {
                    assert_eq!((operator.as_str(), partition), ("zip", 1));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(left.count().unwrap(), 30);
    }
}

#[test]
fn float_sums_have_the_same_bits_for_any_number_of_threads() {
    let sums = |threads| {
        let engine = small_batches(threads, 3);
        let values = engine.range(0..5000, 11).map(|x| (x % 13, 1.0 / (1.0 + x as f32)));
        let sums = values.reduce_by_key(|left, right| left + right).collect().unwrap();
        let whole = values
            .values()
            .tree_aggregate(0.0, |sum, x| sum + x, |left, right| left + right);
        digest(sums.iter().map(|(key, sum)| key << 32 | u64::from(sum.to_bits()))) ^ u64::from(whole.unwrap().to_bits())
    };
    assert_eq!(sums(1), sums(2));
    assert_eq!(sums(1), sums(3));
}

#[test]
fn unpersist_drops_the_blocks_and_the_result_stays() {
    let engine = context(2);
    let rows = engine.range(0..100, 4).map(|x| x + 1).cache();
    assert_eq!(rows.count().unwrap(), 100);
    assert_eq!(engine.store().ids().len(), 4);
    assert_eq!(rows.unpersist().level(), None);
    assert!(engine.store().ids().is_empty());
    assert_eq!(rows.sum_of_all(), 5050);
}

trait Sum {
    fn sum_of_all(&self) -> u64;
}

impl Sum for distdl::Dataset<u64> {
    fn sum_of_all(&self) -> u64 {
        self.reduce(u64::wrapping_add).unwrap().unwrap_or(0)
    }
}

/// More than any memory holds, of which only the first are wanted.
#[test]
fn what_is_made_of_a_record_is_made_as_it_is_needed() {
    let context = context(1);
    let endless = context.range(0..2, 2).flat_map(|x| x..u64::MAX);
    assert_eq!(endless.take(3).unwrap(), [0, 1, 2]);
    let endless = context.range(0..2, 2).map(|x| (x, x)).flat_map_values(|x| x..u64::MAX);
    assert_eq!(endless.take(2).unwrap(), [(0, 0), (0, 1)]);
}

#[test]
fn blocks_that_are_not_to_be_kept_any_more_are_computed_again_in_the_middle_of_an_action() {
    let context = context(1);
    let sums = context
        .range(0..100, 4)
        .map(|x| (x % 10, x))
        .reduce_by_key(|left, right| left + right);
    let kept = sums.cache();
    assert_eq!(kept.count().unwrap(), 10);
    let handle = kept.clone();
    let mapped = kept.map_partitions(move |rows| {
        handle.unpersist();
        rows
    });
    assert_eq!(mapped.collect().unwrap(), sums.collect().unwrap());
    assert_eq!(mapped.count().unwrap(), 10);
}

#[test]
fn a_union_of_many_is_one_after_the_other() {
    let context = context(2);
    let parts: Vec<Dataset<u64>> = (0..5)
        .map(|part| context.range(part * 10..part * 11, 1 + part as usize))
        .collect();
    let all = context.union(&parts);
    assert_eq!(all.partitions(), 15);
    let expected: Vec<u64> = (0..5).flat_map(|part| part * 10..part * 11).collect();
    assert_eq!(all.collect().unwrap(), expected);
    assert_eq!(context.union(&[] as &[Dataset<u64>]).collect().unwrap(), [0; 0]);
    let foreign = Context::new(Config::default()).unwrap().range(0..3, 1);
    for mixed in [[&parts[1], &foreign], [&foreign, &parts[1]]] {
        let error = context.union(mixed).count().unwrap_err().to_string();
        assert!(error.contains("two contexts"), "{error}");
    }
}

#[test]
fn groups_by_a_function_hold_the_records() {
    let context = context(2);
    let groups = context.range(0..10, 3).group_by(|number| number % 3).collect().unwrap();
    let expected: BTreeMap<u64, Vec<u64>> = (0..3).map(|key| (key, (key..10).step_by(3).collect())).collect();
    assert_eq!(groups.len(), 3);
    assert_eq!(groups.into_iter().collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn each_record_is_given_to_a_function_once() {
    let context = context(2);
    let (total, count) = (context.counter(), context.counter());
    let (adding, counting) = (total.clone(), count.clone());
    let numbers = context.range(0..100, 4);
    numbers
        .for_each(move |number| {
            adding.add(number);
            counting.add(1);
        })
        .unwrap();
    assert_eq!((total.value(), count.value()), (4950, 100));
}
