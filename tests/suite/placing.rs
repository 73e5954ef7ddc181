//! Where keys lie: partitioners of a program's own, joins without a shuffle, ranges that are not read, and names.

use distdl::engine::{HashPartitioner, PartitionFunction, Partitioner};
use distdl::{Context, Dataset, EngineError};

use crate::common::context;

/// Numbers by the hundred, or by another width.
struct Hundreds {
    width: u64,
}

impl Partitioner<u64> for Hundreds {
    fn partitions(&self) -> usize {
        10
    }

    fn partition(&self, key: &u64) -> usize {
        (key / self.width) as usize
    }

    fn function(&self) -> PartitionFunction {
        PartitionFunction::custom::<Self>(self.width)
    }
}

const HUNDREDS: Hundreds = Hundreds { width: 100 };

fn pairs(context: &Context) -> Dataset<(u64, u64)> {
    context.range(0..1000, 3).map(|x| (x * 7 % 1000, x))
}

fn shuffles<T: distdl::storage::Record>(dataset: &Dataset<T>) -> usize {
    dataset.explain().matches("by shuffle").count()
}

#[test]
fn what_lies_as_it_is_asked_for_is_not_shuffled() {
    let context = context(2);
    let placed = pairs(&context).partition_by(HUNDREDS);
    assert_eq!(shuffles(&placed), 1);
    assert_eq!(placed.partition_by(HUNDREDS).id(), placed.id());
    let kept = placed.map_values(|x| x + 1).filter(|(_, x)| x % 2 == 0);
    let other = pairs(&context).partition_by(HUNDREDS);
    let joined = kept.join(&other).reduce_by_key(|left, _| left);
    assert_eq!(shuffles(&joined), 2, "{}", joined.explain());
    assert_eq!(joined.partitions(), 10);
    assert_eq!(shuffles(&kept.subtract_by_key(&other)), 2);
    assert_eq!(shuffles(&placed.repartition_and_sort_within_partitions(HUNDREDS)), 1);
    let keys = joined.run_partitions(|_, rows| Ok(rows.map(|(key, _)| key / 100).collect::<Vec<_>>()));
    for (partition, hundreds) in keys.unwrap().into_iter().enumerate() {
        assert!(hundreds.iter().all(|hundred| *hundred == partition as u64) && !hundreds.is_empty());
    }
}

#[test]
fn another_function_of_the_key_shuffles() {
    let context = context(2);
    let placed = pairs(&context).partition_by(HUNDREDS);
    let elsewhere = placed.partition_by(Hundreds { width: 200 });
    assert_eq!(shuffles(&elsewhere), 2);
    assert_eq!(elsewhere.values().count().unwrap(), 1000);
    assert_eq!(shuffles(&placed.partition_by(HashPartitioner::new(10))), 2);
    assert_eq!(shuffles(&placed.reduce_by_key_into(|left, _| left, 10)), 2);
    // Keys that were made anew lie anywhere.
    assert_eq!(shuffles(&placed.map(|(key, x)| (key + 1, x)).partition_by(HUNDREDS)), 2);
    let hashed = pairs(&context).partition_by(HashPartitioner::new(4));
    assert_eq!(shuffles(&hashed.group_by_key()), 1);
    assert_eq!(shuffles(&hashed.join(&placed)), 3, "{}", hashed.join(&placed).explain());
}

#[test]
fn a_partitioner_that_names_no_partition_is_an_error() {
    let context = context(2);
    let placed = pairs(&context).partition_by(Hundreds { width: 10 });
    match placed.count() {
        Err(EngineError::Panic { operator, message, .. }) => {
            assert_eq!(operator, "partition_by");
            assert!(message.contains("of 10"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_range_of_a_sorted_dataset_reads_the_partitions_that_may_hold_it() {
    let context = context(2);
    for descending in [false, true] {
        let pairs = pairs(&context);
        let sorted = match descending {
            false => pairs.sort_by_key_into(10),
            true => pairs.sort_by_key_descending_into(10),
        };
        let sorted = sorted.map_values(|x| x + 1).cache();
        let range = sorted.filter_by_range(250..260);
        let mut expected: Vec<u64> = (250..260).collect();
        if descending {
            expected.reverse();
        }
        assert_eq!(range.keys().collect().unwrap(), expected);
        assert!(sorted.partitions_computed() <= 2, "{}", sorted.partitions_computed());
        assert_eq!(sorted.filter_by_range(..0).count().unwrap(), 0);
        assert!(sorted.partitions_computed() <= 3);
        assert_eq!(sorted.filter_by_range(..).count().unwrap(), 1000);
        assert_eq!(sorted.partitions_computed(), 10);
        assert_eq!(
            sorted.filter_by_range(..).id().0,
            sorted.filter_by_range(990..).id().0 - 1
        );
        assert_eq!(sorted.filter_by_range(990..).count().unwrap(), 10);
    }
}

#[test]
fn every_range_of_keys_is_found_whatever_the_bounds() {
    let context = context(1);
    let keys = [1u64, 1, 4, 4, 4, 9, 9, 12, 20];
    for partitions in 1..=5 {
        let pairs = context.parallelize(keys.map(|key| (key, ())), 3);
        for sorted in [
            pairs.sort_by_key_into(partitions),
            pairs.sort_by_key_descending_into(partitions),
        ] {
            for low in 0..22 {
                for high in low..22 {
                    let found = sorted.filter_by_range(low..high).count().unwrap();
                    let expected = keys.iter().filter(|key| (low..high).contains(*key)).count();
                    assert_eq!(found, expected as u64, "{low}..{high} in {partitions} partitions");
                }
            }
        }
    }
}

#[test]
fn a_look_up_in_a_sorted_dataset_computes_one_partition() {
    let context = context(2);
    let sorted = pairs(&context).sort_by_key_into(10).cache();
    assert_eq!(sorted.lookup(&700).unwrap(), [100]);
    assert_eq!(sorted.partitions_computed(), 1);
    let placed = pairs(&context).partition_by(HUNDREDS).cache();
    assert_eq!(placed.lookup(&700).unwrap(), [100]);
    assert_eq!(placed.partitions_computed(), 1);
}

#[test]
fn one_partition_at_a_time_is_read_by_the_local_iterator() {
    let context = context(2);
    let numbers = context.range(0..100, 10).map(|x| x).cache();
    let mut local = numbers.to_local_iter();
    assert_eq!(numbers.partitions_computed(), 0);
    assert_eq!(local.next().unwrap().unwrap(), 0);
    assert_eq!(numbers.partitions_computed(), 1);
    assert_eq!(local.nth(9).unwrap().unwrap(), 10);
    assert_eq!(numbers.partitions_computed(), 2);
    let bad = numbers.map(|x| {
        assert!(x != 35, "no");
        x
    });
    let records: Vec<_> = bad.to_local_iter().collect();
    assert_eq!(records.len(), 31);
    assert!(records[..30].iter().all(Result::is_ok) && records[30].is_err());
}

#[test]
fn a_name_shows_in_the_explanation_and_in_errors() {
    let context = context(2);
    let bad = context.range(0..9, 3).map(|x| 10 / (x - x / 9 * x)).set_name("shares");
    assert!(bad.explain().contains("map \"shares\""), "{}", bad.explain());
    match bad.count() {
        Err(EngineError::Panic { operator, .. }) => assert_eq!(operator, "map \"shares\""),
        other => panic!("{other:?}"),
    }
    let left = context.range(0..9, 3);
    let zipped = left.zip(&left.filter(|x| x % 2 == 0)).unwrap().set_name("halves");
    let failing = zipped.map(|pair| pair).set_name("outer");
    match failing.count() {
        Err(EngineError::Operator { operator, .. }) => assert_eq!(operator, "zip \"halves\""),
        other => panic!("{other:?}"),
    }
    match left.pipe("false", &[]).set_name("fails").count() {
        Err(EngineError::Operator { operator, .. }) => assert_eq!(operator, "pipe \"fails\""),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_explanation_says_what_is_kept() {
    let context = context(2);
    let numbers = context.range(0..3000, 4).map(|x| x).cache();
    assert!(
        numbers.explain().contains("(Memory, 0 of 4 blocks)"),
        "{}",
        numbers.explain()
    );
    numbers.count().unwrap();
    let text = numbers.explain();
    assert!(text.contains("(Memory, 4 of 4 blocks: 3000 records, 23."), "{text}");
    context.store().remove(crate::common::block(numbers.id(), 1)).unwrap();
    let text = numbers.explain();
    assert!(text.contains("(Memory, 3 of 4 blocks: 2250 records, 17."), "{text}");
}
