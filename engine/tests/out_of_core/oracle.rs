//! Every wide operation with hardly any memory, against the same in memory, and against plain vectors.

use std::collections::BTreeMap;

use distdl_engine::{Config, Context, HashPartitioner, Result};
use proptest::prelude::*;

/// Words and numbers under few or many keys.
type Words = Vec<(u64, String)>;
type Numbers = Vec<(u64, f64)>;

pub(crate) fn context(memory_bytes_max: u64, threads: usize, batch_records: usize) -> Context {
    let config = Config {
        batch_records,
        ..Config::default().with_memory_bytes_max(memory_bytes_max)
    };
    Context::new(config.with_threads(threads)).unwrap()
}

pub(crate) fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        ..ProptestConfig::default()
    }
}

/// What every wide operation makes of two datasets, by partition. Floats are printed with all their digits.
fn everything(context: &Context, words: &Words, numbers: &Numbers, partitions: usize) -> Result<Vec<String>> {
    macro_rules! shown {
        ($($dataset:expr),+ $(,)?) => { vec![$(format!("{:?}", $dataset.glom().collect()?)),+] };
    }
    let left = context.parallelize(words.clone(), 3);
    let right = context.parallelize(numbers.clone(), 4);
    let keys = (left.keys(), right.keys());
    Ok(shown![
        left.sort_by_key_into(partitions),
        left.sort_by_key_descending_into(partitions),
        right.sort_by_into(|(_, number)| number.to_bits(), partitions),
        left.repartition_and_sort_within_partitions(HashPartitioner::new(partitions)),
        left.repartition(partitions),
        right.reduce_by_key_into(|left, right| left + 0.1 * right, partitions),
        left.reduce_by_key_into(|left, right| left + &right, partitions),
        right.aggregate_by_key_into(
            0.0,
            |sum, number| sum / 3.0 + number,
            |left, right| left - right,
            partitions
        ),
        left.combine_by_key_into(
            |word| vec![word],
            |mut words, word| {
                words.push(word);
                words
            },
            |left, right| [left, right].concat(),
            partitions,
        ),
        left.group_by_key_into(partitions),
        left.cogroup_into(&right, partitions),
        left.join_into(&right, partitions),
        right.join_into(&left, partitions),
        left.left_outer_join_into(&right, partitions),
        left.right_outer_join_into(&right, partitions),
        left.full_outer_join_into(&right, partitions),
        left.subtract_by_key_into(&right.filter(|(key, _)| key % 3 == 0), partitions),
        keys.0.distinct_into(partitions),
        keys.0.intersection_into(&keys.1, partitions),
        keys.0.subtract_into(&keys.1.filter(|key| key % 2 == 0), partitions),
        left.sort_by_key_into(partitions)
            .reduce_by_key(|left, right| right + &left),
        left.group_by_key_into(partitions + 2).coalesce(partitions),
    ])
}

fn words(keys: std::ops::Range<u64>, count: usize) -> impl Strategy<Value = Words> {
    prop::collection::vec((keys, "[a-z]{0,12}"), 0..count)
}

fn numbers(keys: std::ops::Range<u64>, count: usize) -> impl Strategy<Value = Numbers> {
    prop::collection::vec((keys, -1e3..1e3f64), 0..count)
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn any_memory_gives_the_same_bits(
        (words, numbers) in prop_oneof![
            (words(0..6, 60), numbers(0..9, 40)),
            (words(0..400, 300), numbers(100..500, 200)),
        ],
        memory_bytes_max in prop_oneof![Just(0u64), 200..2_000u64, 2_000..40_000u64],
        threads in 1..=3usize,
        partitions in 1..=5usize,
        batch_records in prop_oneof![1..=7usize, Just(1024)],
    ) {
        let expected = everything(&context(1 << 30, 1, 1024), &words, &numbers, partitions).unwrap();
        let small = context(memory_bytes_max, threads, batch_records);
        let found = everything(&small, &words, &numbers, partitions).unwrap();
        for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
            prop_assert_eq!(found, expected, "operation {}", index);
        }
        prop_assert!(small.metrics().spilled_bytes() > 0 || words.len() + numbers.len() < 200 || memory_bytes_max > 2_000);
        prop_assert_eq!(small.store().reserved_bytes(), 0);
        prop_assert_eq!(small.store().disk_bytes_used(), 0);
    }

    #[test]
    fn beyond_memory_is_what_plain_vectors_give(
        words in words(0..50, 400),
        numbers in numbers(0..60, 100),
        memory_bytes_max in 0..4_000u64,
    ) {
        let small = context(memory_bytes_max, 2, 16);
        let (left, right) = (small.parallelize(words.clone(), 3), small.parallelize(numbers.clone(), 2));
        let mut sorted = words.clone();
        sorted.sort_by_key(|(key, _)| *key);
        prop_assert_eq!(left.sort_by_key_into(2).collect().unwrap(), sorted);

        let mut groups: BTreeMap<u64, (usize, Vec<String>)> = BTreeMap::new();
        for (position, (key, word)) in words.iter().enumerate() {
            groups.entry(*key).or_insert((position, Vec::new())).1.push(word.clone());
        }
        let mut in_order: Vec<_> = groups.iter().map(|(key, (first, words))| (*first, (*key, words.clone()))).collect();
        in_order.sort();
        let grouped: Vec<_> = in_order.into_iter().map(|(_, group)| group).collect();
        prop_assert_eq!(left.group_by_key_into(1).collect().unwrap(), grouped);

        let joined: Vec<_> = numbers
            .iter()
            .flat_map(|(key, number)| {
                let words = groups.get(key).map(|(_, words)| words.clone()).unwrap_or_default();
                words.into_iter().map(|word| (*key, (word, *number)))
            })
            .collect();
        prop_assert_eq!(left.join_into(&right, 1).collect().unwrap(), joined);
    }
}
