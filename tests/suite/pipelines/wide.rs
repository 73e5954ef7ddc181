//! Steps that bring the records of a key together, and sorts.

use distdl::Dataset;
use proptest::prelude::*;

use crate::oracle::{self, Custom, NEUTRAL, Partitions, Placement, Row, compose, digest};
use crate::pipelines::{Both, both};

#[derive(Debug, Clone)]
pub(crate) enum Wide {
    ReduceByKey,
    CombineByKey,
    AggregateByKey,
    GroupByKey,
    Distinct,
    Repartition,
    SortByKey,
    SortByKeyDescending,
    FoldByKey,
    SortBy,
    SortByDescending,
    PartitionBy,
    RepartitionAndSort,
}

pub(super) fn wide() -> impl Strategy<Value = Wide> {
    use Wide::*;
    prop::sample::select(vec![
        ReduceByKey,
        CombineByKey,
        AggregateByKey,
        GroupByKey,
        Distinct,
        Repartition,
        SortByKey,
        SortByKeyDescending,
        FoldByKey,
        SortBy,
        SortByDescending,
        PartitionBy,
        RepartitionAndSort,
    ])
}

pub(super) fn wide_step(input: Both, step: &Wide, into: Option<usize>) -> Both {
    let (same, placed, like) = (input.expected.len(), input.placed, input.placement());
    let Both { dataset, expected, .. } = input;
    let partitions = into.unwrap_or(same);
    let placement = into.map_or(like, Placement::Hash);
    // What lies by the program's own partitioner stays there, as long as nothing is asked of it.
    let kept = placed.filter(|_| into.is_none());
    let digests = |groups: Partitions<(u64, Vec<u64>)>| oracle::map(&groups, |(key, values)| (key, digest(values)));
    match step {
        Wide::ReduceByKey => {
            let reduced = match into {
                Some(partitions) => dataset.reduce_by_key_into(compose, partitions),
                None => dataset.reduce_by_key(compose),
            };
            both(reduced, oracle::reduce(&expected, placement, compose)).keeping(kept)
        }
        Wide::FoldByKey => {
            let folded = match into {
                Some(partitions) => dataset.fold_by_key_into(NEUTRAL, compose, partitions),
                None => dataset.fold_by_key(NEUTRAL, compose),
            };
            let fold = |values: Vec<u64>| values.into_iter().fold(NEUTRAL, compose);
            let rows = oracle::map(&oracle::group(&expected, placement), |(key, values)| {
                (key, fold(values))
            });
            both(folded, rows).keeping(kept)
        }
        Wide::CombineByKey => {
            let append = |mut left: Vec<u64>, right: Vec<u64>| {
                left.extend(right);
                left
            };
            let add = |mut values: Vec<u64>, value| {
                values.push(value);
                values
            };
            let combined = match into {
                Some(partitions) => dataset.combine_by_key_into(|value| vec![value], add, append, partitions),
                None => dataset.combine_by_key(|value| vec![value], add, append),
            };
            both(
                combined.map_values(digest),
                digests(oracle::group(&expected, placement)),
            )
            .keeping(kept)
        }
        Wide::AggregateByKey => {
            let add = |(count, composed): (u64, Option<u64>), value| {
                let composed = composed.map_or(value, |composed| compose(composed, value));
                (count + 1, Some(composed))
            };
            let merge = |left: (u64, Option<u64>), right: (u64, Option<u64>)| {
                let composed = [left.1, right.1].into_iter().flatten().reduce(compose);
                (left.0 + right.0, composed)
            };
            let flat = |(count, composed): (u64, Option<u64>)| count.wrapping_add(composed.unwrap_or(0));
            let rows = oracle::map(&oracle::group(&expected, placement), |(key, values)| {
                let count = values.len() as u64;
                (key, flat((count, values.into_iter().reduce(compose))))
            });
            let aggregated = match into {
                Some(partitions) => dataset.aggregate_by_key_into((0, None), add, merge, partitions),
                None => dataset.aggregate_by_key((0, None), add, merge),
            };
            both(aggregated.map_values(flat), rows).keeping(kept)
        }
        Wide::GroupByKey => {
            let grouped = match into {
                Some(partitions) => dataset.group_by_key_into(partitions),
                None => dataset.group_by_key(),
            };
            both(grouped.map_values(digest), digests(oracle::group(&expected, placement))).keeping(kept)
        }
        Wide::Distinct => {
            let distinct = match into {
                Some(partitions) => dataset.distinct_into(partitions),
                None => dataset.distinct(),
            };
            both(distinct, oracle::distinct(&expected, partitions))
        }
        Wide::Repartition => both(
            dataset.repartition(partitions),
            oracle::repartition(&expected, partitions),
        ),
        Wide::PartitionBy => {
            let placement = Placement::Custom(partitions);
            let rows = oracle::by_key(&expected, placement);
            both(dataset.partition_by(Custom(partitions)), rows).keeping(Some(placement))
        }
        Wide::RepartitionAndSort => {
            let placement = Placement::Custom(partitions);
            let rows = oracle::each(&oracle::by_key(&expected, placement), |_, mut rows| {
                rows.sort_by_key(|(key, _)| *key);
                rows
            });
            let sorted = dataset.repartition_and_sort_within_partitions(Custom(partitions));
            both(sorted, rows).keeping(Some(placement))
        }
        Wide::SortByKey => {
            let dataset = match into {
                Some(partitions) => dataset.sort_by_key_into(partitions),
                None => dataset.sort_by_key(),
            };
            sorted(dataset, &expected, partitions, |row| row.0)
        }
        Wide::SortByKeyDescending => {
            let dataset = match into {
                Some(partitions) => dataset.sort_by_key_descending_into(partitions),
                None => dataset.sort_by_key_descending(),
            };
            sorted(dataset, &expected, partitions, |row| u64::MAX - row.0)
        }
        Wide::SortBy => {
            let dataset = match into {
                Some(partitions) => dataset.sort_by_into(|row| row.1 % 5, partitions),
                None => dataset.sort_by(|row| row.1 % 5),
            };
            sorted(dataset, &expected, partitions, |row| row.1 % 5)
        }
        Wide::SortByDescending => {
            let dataset = dataset.sort_by_descending(|row| row.1 % 5);
            sorted(dataset, &expected, same, |row| 5 - row.1 % 5)
        }
    }
}

/// Where a sort cuts is the engine's choice, but no key may be on both sides of a cut.
fn sorted(dataset: Dataset<Row>, input: &[Vec<Row>], partitions: usize, key: impl Fn(&Row) -> u64) -> Both {
    let mut rows: Vec<Row> = input.concat();
    rows.sort_by_key(&key);
    let lengths = dataset.run_partitions(|_, rows| Ok(rows.count())).unwrap();
    assert_eq!(lengths.len(), partitions);
    assert_eq!(lengths.iter().sum::<usize>(), rows.len());
    let mut expected = Vec::new();
    for length in lengths {
        let rest = rows.split_off(length);
        if let (Some(last), Some(next)) = (rows.last(), rest.first()) {
            assert_ne!(key(last), key(next), "one key in two partitions");
        }
        expected.push(std::mem::replace(&mut rows, rest));
    }
    both(dataset, expected)
}
