//! Steps of one dataset, partition by partition.

use std::collections::HashMap;
use std::ops::Bound;

use distdl::PartitionIter;
use proptest::prelude::*;

use crate::oracle::{self, Partitions, Row, digest};
use crate::pipelines::{Both, both, partitions_of, row_of};

#[derive(Debug, Clone)]
pub(crate) enum Narrow {
    Map(u64),
    Filter(u64),
    FlatMap(u64),
    MapPartitions,
    MapPartitionsWithIndex,
    MapValues(u64),
    FlatMapValues(u64),
    KeyBy(u64),
    Keys,
    Values,
    ZipWithIndex,
    Sample(f64, u64),
    RandomSplit(u64, usize),
    Batch(usize),
    Coalesce(usize),
    Glom,
    ZipWithUniqueId,
    SampleByKey(u64),
    FilterByRange(u64, u64),
}

pub(super) fn narrow() -> impl Strategy<Value = Narrow> {
    use Narrow::*;
    prop_oneof![
        any::<u64>().prop_map(Map),
        (1..5u64).prop_map(Filter),
        (1..4u64).prop_map(FlatMap),
        Just(MapPartitions),
        Just(MapPartitionsWithIndex),
        any::<u64>().prop_map(MapValues),
        (1..4u64).prop_map(FlatMapValues),
        (1..9u64).prop_map(KeyBy),
        Just(Keys),
        Just(Values),
        Just(ZipWithIndex),
        (prop_oneof![Just(0.0), Just(0.4), Just(1.0)], any::<u64>())
            .prop_map(|(fraction, seed)| Sample(fraction, seed)),
        (any::<u64>(), 0..3usize).prop_map(|(seed, pick)| RandomSplit(seed, pick)),
        (1..6usize).prop_map(Batch),
        (1..7usize).prop_map(Coalesce),
        Just(Glom),
        Just(ZipWithUniqueId),
        any::<u64>().prop_map(SampleByKey),
        (0..14u64, 0..14u64).prop_map(|(low, high)| FilterByRange(low, high)),
    ]
}

fn running((sum, (key, value)): (u64, Row)) -> Row {
    (key, value.wrapping_mul(3).wrapping_add(sum))
}

/// Each row with the number of rows before it.
fn numbered(records: impl Iterator<Item = Row>) -> impl Iterator<Item = Row> {
    (0u64..).zip(records).map(running)
}

pub(super) fn narrow_step(both: Both, step: &Narrow) -> Both {
    let placed = both.placed;
    let made = apply(both, step);
    match step {
        Narrow::Filter(_)
        | Narrow::MapValues(_)
        | Narrow::FlatMapValues(_)
        | Narrow::Sample(..)
        | Narrow::SampleByKey(_)
        | Narrow::FilterByRange(..)
        | Narrow::RandomSplit(..) => made.keeping(placed),
        _ => made,
    }
}

fn apply(Both { dataset, expected, .. }: Both, step: &Narrow) -> Both {
    match *step {
        Narrow::Map(add) => {
            let function = move |(key, value): Row| ((key.wrapping_mul(3) ^ add) % 17, value.wrapping_add(add));
            both(dataset.map(function), oracle::map(&expected, function))
        }
        Narrow::Filter(modulus) => {
            let keep = move |(key, value): &Row| (key.wrapping_add(*value)) % modulus == 0;
            let kept = oracle::each(&expected, |_, rows| rows.into_iter().filter(keep).collect());
            both(dataset.filter(keep), kept)
        }
        Narrow::FlatMap(times) => {
            let function = move |(key, value): Row| (0..value % times).map(move |copy| (key + copy, value / 2));
            let rows = oracle::each(&expected, |_, rows| rows.into_iter().flat_map(function).collect());
            both(dataset.flat_map(function), rows)
        }
        Narrow::MapPartitions => {
            let rows = oracle::each(&expected, |_, rows| numbered(rows.into_iter()).collect());
            both(dataset.map_partitions(|rows: PartitionIter<Row>| numbered(rows)), rows)
        }
        Narrow::MapPartitionsWithIndex => {
            let mark = |index: usize, (key, value): Row| (key, value ^ (index as u64 + 1));
            let rows = oracle::each(&expected, |index, rows| {
                rows.into_iter().map(|row| mark(index, row)).collect()
            });
            let dataset = dataset.map_partitions_with_index(move |index, rows| rows.map(move |row| mark(index, row)));
            both(dataset, rows)
        }
        Narrow::MapValues(add) => {
            let rows = oracle::map(&expected, |(key, value)| (key, value.wrapping_add(add)));
            both(dataset.map_values(move |value| value.wrapping_add(add)), rows)
        }
        Narrow::FlatMapValues(times) => {
            let function = move |value: u64| (0..value % times).map(move |copy| value ^ copy);
            let rows = oracle::each(&expected, |_, rows| {
                let rows = rows.into_iter();
                rows.flat_map(|(key, value)| function(value).map(move |value| (key, value)))
                    .collect()
            });
            both(dataset.flat_map_values(function), rows)
        }
        Narrow::KeyBy(modulus) => {
            let key = move |row: &Row| row.1 % modulus;
            let flat = |(key, (old, value)): (u64, Row)| (key, value.wrapping_add(old));
            let rows = oracle::map(&expected, |row| flat((key(&row), row)));
            both(dataset.key_by(key).map(flat), rows)
        }
        Narrow::Keys => both(
            dataset.keys().map(row_of),
            oracle::map(&expected, |(key, _)| row_of(key)),
        ),
        Narrow::Values => both(
            dataset.values().map(row_of),
            oracle::map(&expected, |(_, value)| row_of(value)),
        ),
        Narrow::ZipWithIndex => {
            let flat = |((key, value), index): (Row, u64)| (key, value.wrapping_mul(5).wrapping_add(index));
            let mut index = 0..;
            let mut number = |row| flat((row, index.next().unwrap()));
            let rows = expected
                .iter()
                .map(|rows| rows.iter().map(|row| number(*row)).collect());
            let rows = rows.collect();
            both(dataset.zip_with_index().map(flat), rows)
        }
        Narrow::Sample(fraction, seed) => {
            let sample = dataset.sample(fraction, seed).unwrap();
            let kept = partitions_of(&sample);
            match fraction {
                0.0 => assert!(kept.iter().all(Vec::is_empty)),
                1.0 => assert_eq!(kept, expected),
                _ => assert!(is_part_of(&kept, &expected)),
            }
            both(sample, kept)
        }
        Narrow::RandomSplit(seed, pick) => {
            let splits = dataset.random_split(&[1.0, 2.5, 0.5], seed).unwrap();
            let parts: Vec<Partitions<Row>> = splits.iter().map(partitions_of).collect();
            assert!(parts.iter().all(|part| is_part_of(part, &expected)));
            for (partition, rows) in expected.iter().enumerate() {
                let mut all: Vec<Row> = parts.iter().flat_map(|part| part[partition].clone()).collect();
                let mut rows = rows.clone();
                all.sort_unstable();
                rows.sort_unstable();
                assert_eq!(all, rows, "a split must hand out each record once");
            }
            both(splits[pick].clone(), parts[pick].clone())
        }
        Narrow::Batch(records) => {
            let flat = |rows: Vec<Row>| (rows.len() as u64, digest(rows.iter().flat_map(|row| [row.0, row.1])));
            let rows = oracle::each(&expected, |_, rows| {
                rows.chunks(records).map(|rows| flat(rows.to_vec())).collect()
            });
            both(dataset.batch(records).unwrap().map(flat), rows)
        }
        Narrow::Glom => {
            let flat = |rows: Vec<Row>| (rows.len() as u64, digest(rows.iter().flat_map(|row| [row.0, row.1])));
            let rows = oracle::each(&expected, |_, rows| vec![flat(rows)]);
            both(dataset.glom().map(flat), rows)
        }
        Narrow::ZipWithUniqueId => {
            let flat = |((key, value), id): (Row, u64)| (key, value.wrapping_mul(7).wrapping_add(id));
            let count = expected.len() as u64;
            let rows = oracle::each(&expected, |partition, rows| {
                let ids = (0..).map(|position: u64| position * count + partition as u64);
                rows.into_iter().zip(ids).map(flat).collect()
            });
            both(dataset.zip_with_unique_id().map(flat), rows)
        }
        Narrow::SampleByKey(seed) => {
            // Of three keys in four all or none.
            let fractions: HashMap<u64, f64> = (0..9).map(|key| (key, [1.0, 0.5, 0.0][key as usize % 3])).collect();
            let sample = dataset.sample_by_key(fractions.clone(), seed).unwrap();
            let kept = partitions_of(&sample);
            let sure = |(key, _): &Row| fractions.get(key).is_none_or(|fraction| *fraction != 0.5);
            let of = |rows: &[Vec<Row>], all: &dyn Fn(&Row) -> bool| {
                oracle::each(rows, |_, rows| {
                    rows.into_iter().filter(|row| sure(row) && all(row)).collect()
                })
            };
            assert_eq!(
                of(&kept, &|_| true),
                of(&expected, &|(key, _)| fractions.get(key) == Some(&1.0))
            );
            assert!(is_part_of(&kept, &expected));
            both(sample, kept)
        }
        Narrow::FilterByRange(low, high) => {
            let range = (Bound::Excluded(low), Bound::Included(high));
            let rows = oracle::each(&expected, |_, rows| {
                rows.into_iter().filter(|(key, _)| low < *key && *key <= high).collect()
            });
            both(dataset.filter_by_range(range), rows)
        }
        Narrow::Coalesce(partitions) => both(dataset.coalesce(partitions), oracle::coalesce(&expected, partitions)),
    }
}

/// Whether the records of each partition are among those of `whole`, in the same order.
fn is_part_of(part: &[Vec<Row>], whole: &[Vec<Row>]) -> bool {
    part.iter().zip(whole).all(|(part, whole)| {
        let mut whole = whole.iter();
        part.iter().all(|row| whole.any(|other| other == row))
    })
}
