//! Drawn pipelines: every step is done by the engine and by the oracle side by side.

use distdl::{Context, Dataset, Level, PartitionIter};
use proptest::prelude::*;

use crate::common::levels;
use crate::oracle::{self, Partitions, Row, compose, digest};

/// One step of a machine with a stack of datasets. A step that finds too little on the stack does nothing.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Source(Vec<Row>, usize),
    Range(u64, usize),
    Narrow(Narrow),
    Wide(Wide, usize),
    Pair(Pair, usize),
    Persist(Level),
    /// The same dataset once more.
    Copy,
}

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
}

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
}

#[derive(Debug, Clone)]
pub(crate) enum Pair {
    Union,
    Zip,
    Join,
    Cogroup,
}

/// A dataset, and what must be in it.
#[derive(Clone)]
pub(crate) struct Both {
    pub(crate) dataset: Dataset<Row>,
    pub(crate) expected: Partitions<Row>,
}

/// Pipelines do not grow beyond this.
const ROWS_MAX: usize = 2000;

pub(crate) fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((0..12u64, any::<u64>()), 0..50)
}

pub(crate) fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (rows(), 0..9usize).prop_map(|(rows, partitions)| Step::Source(rows, partitions)),
        1 => (0..70u64, 0..9usize).prop_map(|(length, partitions)| Step::Range(length, partitions)),
        8 => narrow().prop_map(Step::Narrow),
        6 => (wide(), 0..7usize).prop_map(|(wide, partitions)| Step::Wide(wide, partitions)),
        4 => (pair(), 0..7usize).prop_map(|(pair, partitions)| Step::Pair(pair, partitions)),
        3 => levels().prop_map(Step::Persist),
        2 => Just(Step::Copy),
    ];
    let first = (rows(), 0..9usize).prop_map(|(rows, partitions)| Step::Source(rows, partitions));
    (first, prop::collection::vec(step, 1..length)).prop_map(|(first, mut steps)| {
        steps.insert(0, first);
        steps
    })
}

fn narrow() -> impl Strategy<Value = Narrow> {
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
        (0..7usize).prop_map(Coalesce),
    ]
}

fn wide() -> impl Strategy<Value = Wide> {
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
    ])
}

fn pair() -> impl Strategy<Value = Pair> {
    use Pair::*;
    prop::sample::select(vec![Union, Zip, Join, Cogroup])
}

/// Declares the pipeline in `context`, and computes with vectors what it must give.
pub(crate) fn build(context: &Context, steps: &[Step]) -> Both {
    let mut stack: Vec<Both> = Vec::new();
    for step in steps {
        match step {
            Step::Source(rows, partitions) => stack.push(Both {
                dataset: context.parallelize(rows.clone(), *partitions),
                expected: oracle::cut(rows, *partitions),
            }),
            Step::Range(length, partitions) => {
                let numbers: Vec<u64> = (3..3 + length).collect();
                stack.push(Both {
                    dataset: context.range(3..3 + length, *partitions).map(row_of),
                    expected: oracle::map(&oracle::cut(&numbers, *partitions), row_of),
                });
            }
            Step::Narrow(step) => with_top(&mut stack, |both| narrow_step(both, step)),
            Step::Wide(step, partitions) => with_top(&mut stack, |both| wide_step(both, step, *partitions)),
            Step::Pair(step, partitions) => {
                let (Some(right), Some(left)) = (stack.pop(), stack.pop()) else {
                    panic!("a pipeline begins with a source, which is followed by one that `Pair` needs")
                };
                stack.push(pair_step(left, &right, step, *partitions));
            }
            Step::Persist(level) => with_top(&mut stack, |both| Both {
                dataset: both.dataset.persist(*level),
                expected: both.expected,
            }),
            Step::Copy => stack.extend(stack.last().cloned()),
        }
        if stack.len() == 1 {
            // What a pair takes when there is nothing else.
            stack.insert(0, stack[0].clone());
        }
        let grown = |both: &Both| both.expected.iter().map(Vec::len).sum::<usize>() > ROWS_MAX;
        if stack.last().is_some_and(grown) {
            with_top(&mut stack, |both| narrow_step(both, &Narrow::Filter(40)));
        }
    }
    stack.pop().unwrap()
}

fn with_top(stack: &mut Vec<Both>, step: impl FnOnce(Both) -> Both) {
    let top = stack.pop().unwrap();
    stack.push(step(top));
}

fn row_of(number: u64) -> Row {
    (number % 7, number)
}

fn running((sum, (key, value)): (u64, Row)) -> Row {
    (key, value.wrapping_mul(3).wrapping_add(sum))
}

/// Each row with the number of rows before it.
fn numbered(records: impl Iterator<Item = Row>) -> impl Iterator<Item = Row> {
    (0u64..).zip(records).map(running)
}

fn narrow_step(Both { dataset, expected }: Both, step: &Narrow) -> Both {
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
        Narrow::Coalesce(partitions) => both(dataset.coalesce(partitions), oracle::coalesce(&expected, partitions)),
    }
}

fn wide_step(Both { dataset, expected }: Both, step: &Wide, partitions: usize) -> Both {
    let same = expected.len();
    let digests = |groups: Partitions<(u64, Vec<u64>)>| oracle::map(&groups, |(key, values)| (key, digest(values)));
    match step {
        Wide::ReduceByKey => both(
            dataset.reduce_by_key_into(compose, partitions),
            oracle::reduce(&expected, partitions, compose),
        ),
        Wide::CombineByKey => {
            let append = |mut left: Vec<u64>, right: Vec<u64>| {
                left.extend(right);
                left
            };
            let add = |mut values: Vec<u64>, value| {
                values.push(value);
                values
            };
            let combined = dataset.combine_by_key(|value| vec![value], add, append);
            both(combined.map_values(digest), digests(oracle::group(&expected, same)))
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
            let rows = oracle::map(&oracle::group(&expected, same), |(key, values)| {
                let count = values.len() as u64;
                (key, flat((count, values.into_iter().reduce(compose))))
            });
            both(dataset.aggregate_by_key((0, None), add, merge).map_values(flat), rows)
        }
        Wide::GroupByKey => {
            let grouped = dataset.group_by_key_into(partitions).map_values(digest);
            both(grouped, digests(oracle::group(&expected, partitions)))
        }
        Wide::Distinct => {
            let keyed = oracle::map(&expected, |row| (row, ()));
            let rows = oracle::map(&oracle::group(&keyed, partitions), |(row, _)| row);
            both(dataset.distinct_into(partitions), rows)
        }
        Wide::Repartition => both(
            dataset.repartition(partitions),
            oracle::repartition(&expected, partitions),
        ),
        Wide::SortByKey => sorted(dataset.sort_by_key_into(partitions), &expected, partitions, false),
        Wide::SortByKeyDescending => sorted(dataset.sort_by_key_descending(), &expected, same, true),
    }
}

/// Where a sort cuts is the engine's choice, but no key may be on both sides of a cut.
fn sorted(dataset: Dataset<Row>, input: &[Vec<Row>], partitions: usize, descending: bool) -> Both {
    let mut rows: Vec<Row> = input.concat();
    rows.sort_by_key(|(key, _)| if descending { u64::MAX - key } else { *key });
    let lengths = dataset.run_partitions(|_, rows| Ok(rows.count())).unwrap();
    assert_eq!(lengths.len(), partitions.max(1));
    assert_eq!(lengths.iter().sum::<usize>(), rows.len());
    let mut expected = Vec::new();
    for length in lengths {
        let rest = rows.split_off(length);
        if let (Some(last), Some(next)) = (rows.last(), rest.first()) {
            assert_ne!(last.0, next.0, "one key in two partitions");
        }
        expected.push(std::mem::replace(&mut rows, rest));
    }
    both(dataset, expected)
}

fn pair_step(left: Both, right: &Both, step: &Pair, partitions: usize) -> Both {
    match step {
        Pair::Union => both(
            left.dataset.union(&right.dataset),
            [left.expected, right.expected.clone()].concat(),
        ),
        Pair::Zip => {
            let flat = |((key, value), (other, more)): (Row, Row)| (key.wrapping_add(other), value ^ more);
            let shape = |both: &Both| both.expected.iter().map(Vec::len).collect::<Vec<_>>();
            let even = shape(&left) == shape(right);
            let right = if even {
                right.clone()
            } else {
                narrow_step(left.clone(), &Narrow::Map(3))
            };
            let rows = left.expected.iter().zip(&right.expected);
            let rows = rows.map(|(left, right)| left.iter().copied().zip(right.iter().copied()).map(flat).collect());
            both(left.dataset.zip(&right.dataset).unwrap().map(flat), rows.collect())
        }
        Pair::Join => {
            let flat = |(key, (left, right)): (u64, Row)| (key, left.rotate_left(5) ^ right);
            let rows = oracle::map(&oracle::join(&left.expected, &right.expected, partitions), flat);
            both(left.dataset.join_into(&right.dataset, partitions).map(flat), rows)
        }
        Pair::Cogroup => {
            let flat = |(key, (left, right)): (u64, (Vec<u64>, Vec<u64>))| (key, compose(digest(left), digest(right)));
            let rows = oracle::map(&oracle::cogroup(&left.expected, &right.expected, partitions), flat);
            both(left.dataset.cogroup_into(&right.dataset, partitions).map(flat), rows)
        }
    }
}

fn both(dataset: Dataset<Row>, expected: Partitions<Row>) -> Both {
    assert_eq!(dataset.partitions(), expected.len());
    Both { dataset, expected }
}

/// The records as the engine computes them, by partition.
pub(crate) fn partitions_of(dataset: &Dataset<Row>) -> Partitions<Row> {
    dataset.run_partitions(|_, rows| Ok(rows.collect())).unwrap()
}

/// Whether the records of each partition are among those of `whole`, in the same order.
fn is_part_of(part: &[Vec<Row>], whole: &[Vec<Row>]) -> bool {
    part.iter().zip(whole).all(|(part, whole)| {
        let mut whole = whole.iter();
        part.iter().all(|row| whole.any(|other| other == row))
    })
}
