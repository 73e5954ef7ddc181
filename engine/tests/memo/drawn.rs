//! Drawn pipelines, changes of inputs, versions and damage, against plain vectors; and what is computed, counted.

use std::collections::BTreeSet;
use std::path::Path;

use distdl_engine::{Context, Dataset, Result};
use proptest::prelude::*;

use crate::pipeline::*;

const PARTITIONS: usize = 4;
const RECORDS: usize = 3;

/// What stands between the two memoized datasets.
#[derive(Debug, Clone, Copy)]
enum Between {
    Nothing,
    Coalesce(usize),
    /// With the source itself in front.
    Union,
    /// A shuffle.
    Sums(usize),
    /// Work before planning, and no shuffle.
    Indexed,
    /// Both.
    Sorted,
}

/// What is done before a run.
#[derive(Debug, Clone, Copy)]
enum Event {
    Nothing,
    /// A partition of the source gets other records.
    Change(usize, u64),
    FirstVersion(u64),
    SecondVersion(u64),
    /// All that is remembered is deleted.
    Forget,
    /// Some of what is remembered is damaged.
    Damage(u8),
    /// There is hardly any room.
    SmallBudget(u64),
}

fn between() -> impl Strategy<Value = Between> {
    prop_oneof![
        Just(Between::Nothing),
        (1..=PARTITIONS).prop_map(Between::Coalesce),
        Just(Between::Union),
        (1..=5_usize).prop_map(Between::Sums),
        Just(Between::Indexed),
        Just(Between::Sorted),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        1 => Just(Event::Nothing),
        4 => (0..PARTITIONS, 0..3_u64).prop_map(|(partition, value)| Event::Change(partition, value)),
        1 => (0..3_u64).prop_map(Event::FirstVersion),
        1 => (0..3_u64).prop_map(Event::SecondVersion),
        1 => Just(Event::Forget),
        1 => any::<u8>().prop_map(Event::Damage),
        1 => (0..12 * 4096_u64).prop_map(Event::SmallBudget),
    ]
}

/// What the program and its input are now.
#[derive(Debug, Clone)]
struct State {
    values: [u64; PARTITIONS],
    versions: [u64; 2],
    bytes_max: u64,
}

impl State {
    fn source(&self) -> Vec<Vec<u64>> {
        let records = |value: &u64| (0..RECORDS as u64).map(|index| value * 10 + index).collect();
        self.values.iter().map(records).collect()
    }

    /// A closure of the program, whose version tells what it does.
    fn first(&self, record: u64) -> u64 {
        record * 3 + self.versions[0]
    }

    fn second(&self, record: u64) -> u64 {
        record ^ (self.versions[1] << 8)
    }
}

fn noted(
    dataset: &Dataset<u64>,
    ledger: &Ledger,
    function: impl Fn(u64) -> u64 + Clone + Send + Sync + 'static,
) -> Dataset<u64> {
    let ledger = ledger.clone();
    dataset.map_partitions_with_index(move |partition, records| {
        ledger.note(partition);
        records.map(function.clone())
    })
}

fn dataset(context: &Context, between: Between, state: &State, ledgers: &[Ledger; 2]) -> Result<Dataset<u64>> {
    let source = context.parallelize(state.source().concat(), PARTITIONS);
    let (one, other) = (state.clone(), state.clone());
    let first = noted(&source, &ledgers[0], move |record| one.first(record));
    let first = first.memoize("first", state.versions[0])?;
    let middle = match between {
        Between::Nothing => first,
        Between::Coalesce(partitions) => first.coalesce(partitions),
        Between::Union => source.union(&first),
        Between::Sums(partitions) => {
            let sums = first
                .map(|record| (record % 5, record))
                .reduce_by_key_into(|left, right| left + right, partitions);
            sums.sort_by_key_into(1).values()
        }
        Between::Indexed => first.zip_with_index().map(|(record, index)| record + index),
        Between::Sorted => first
            .sort_by_into(|record| *record, 2)
            .zip_with_index()
            .map(|(record, index)| record + index),
    };
    noted(&middle, &ledgers[1], move |record| other.second(record)).memoize("second", state.versions[1])
}

/// The same with vectors.
fn plain(between: Between, state: &State) -> Vec<u64> {
    let source = state.source().concat();
    let first: Vec<u64> = source.iter().map(|record| state.first(*record)).collect();
    let middle = match between {
        Between::Nothing | Between::Coalesce(_) => first,
        Between::Union => [source, first].concat(),
        Between::Sums(_) => {
            let key_sum = |key: u64| {
                let of_key: Vec<u64> = first.iter().copied().filter(|record| record % 5 == key).collect();
                (!of_key.is_empty()).then(|| of_key.iter().sum())
            };
            (0..5).filter_map(key_sum).collect()
        }
        Between::Indexed => first.iter().zip(0..).map(|(record, index)| record + index).collect(),
        Between::Sorted => {
            let mut sorted = first;
            sorted.sort_unstable();
            sorted.iter().zip(0..).map(|(record, index)| record + index).collect()
        }
    };
    middle.into_iter().map(|record| state.second(record)).collect()
}

/// What a partition of the second dataset depends on: partitions of the first one, and of the source.
fn inputs(between: Between) -> Vec<(Vec<usize>, Vec<usize>)> {
    let all: Vec<usize> = (0..PARTITIONS).collect();
    match between {
        Between::Nothing => all.iter().map(|partition| (vec![*partition], vec![])).collect(),
        Between::Coalesce(count) => {
            let group = |index: usize| (index * PARTITIONS / count..(index + 1) * PARTITIONS / count).collect();
            (0..count).map(|index| (group(index), vec![])).collect()
        }
        Between::Union => {
            let source = all.iter().map(|partition| (vec![], vec![*partition]));
            source
                .chain(all.iter().map(|partition| (vec![*partition], vec![])))
                .collect()
        }
        Between::Indexed => all.iter().map(|_| (all.clone(), vec![])).collect(),
        Between::Sums(_) => vec![(all, vec![])],
        Between::Sorted => vec![(all.clone(), vec![]), (all, vec![])],
    }
}

/// Whatever tells one computation from others.
fn key(between: Between, state: &State, dataset: usize, partition: usize) -> String {
    let first = |partition: usize| format!("{} {partition} {}", state.versions[0], state.values[partition]);
    if dataset == 0 {
        return first(partition);
    }
    let (of_first, of_source) = &inputs(between)[partition];
    let of_first: Vec<String> = of_first.iter().map(|partition| first(*partition)).collect();
    let of_source: Vec<u64> = of_source.iter().map(|partition| state.values[*partition]).collect();
    format!(
        "{between:?} {} {partition} {of_first:?} {of_source:?}",
        state.versions[1]
    )
}

/// Partitions of each dataset that a run computes if these are remembered; they are remembered then.
fn costs(between: Between, state: &State, remembered: &mut BTreeSet<String>) -> [Vec<usize>; 2] {
    let partitions = inputs(between);
    let is_new = |dataset: usize, partition: &usize, remembered: &BTreeSet<String>| {
        !remembered.contains(&key(between, state, dataset, *partition))
    };
    let second: Vec<usize> = (0..partitions.len())
        .filter(|partition| is_new(1, partition, remembered))
        .collect();
    let wanted: BTreeSet<usize> = second
        .iter()
        .flat_map(|partition| partitions[*partition].0.clone())
        .collect();
    let first: Vec<usize> = wanted
        .into_iter()
        .filter(|partition| is_new(0, partition, remembered))
        .collect();
    remembered.extend(first.iter().map(|partition| key(between, state, 0, *partition)));
    remembered.extend(second.iter().map(|partition| key(between, state, 1, *partition)));
    [first, second]
}

fn damage(cache: &Path, bits: u8) {
    for (number, file) in remembered(cache)
        .iter()
        .enumerate()
        .filter(|(number, _)| bits >> (number % 8) & 1 == 1)
    {
        let mut bytes = std::fs::read(file).unwrap();
        let middle = bytes.len() / 2;
        match number % 3 {
            0 => bytes.truncate(middle),
            _ => bytes[middle] ^= 1,
        }
        std::fs::write(file, bytes).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn runs_give_what_vectors_give_and_compute_what_is_new(
        between in between(),
        events in prop::collection::vec(event(), 1..7),
    ) {
        let cache = tempfile::tempdir().unwrap();
        let mut state = State { values: [0, 1, 2, 3], versions: [1, 1], bytes_max: 1 << 30 };
        let mut known = BTreeSet::new();
        // Whether the model knows what is remembered.
        let mut is_exact = true;
        for event in [Event::Nothing].into_iter().chain(events) {
            match event {
                Event::Nothing => {}
                Event::Change(partition, value) => state.values[partition] = value,
                Event::FirstVersion(version) => state.versions[0] = version,
                Event::SecondVersion(version) => state.versions[1] = version,
                Event::Forget => {
                    let _ = std::fs::remove_dir_all(cache.path().join("computed"));
                    known.clear();
                    is_exact = state.bytes_max > 1 << 20;
                }
                Event::Damage(bits) => {
                    damage(cache.path(), bits);
                    is_exact = false;
                }
                Event::SmallBudget(bytes_max) => {
                    state.bytes_max = bytes_max;
                    is_exact = false;
                }
            }
            let ledgers = [Ledger::default(), Ledger::default()];
            let context = Context::new(config(cache.path()).with_memo_bytes_max(state.bytes_max)).unwrap();
            let dataset = dataset(&context, between, &state, &ledgers).unwrap();
            prop_assert_eq!(dataset.collect().unwrap(), plain(between, &state), "{:?}", event);
            let computed = ledgers.map(|ledger| ledger.take());
            let expected = costs(between, &state, &mut known);
            if is_exact {
                prop_assert_eq!(&computed, &expected, "{:?}", event);
            }
            prop_assert_eq!(dataset.collect().unwrap(), plain(between, &state));
        }
    }
}
