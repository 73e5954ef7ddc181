//! Drawn pipelines: every step is done by the engine and by the oracle side by side.

mod narrow;

mod pair;

mod wide;

use std::sync::Arc;

use distdl::{Context, Dataset, Level};
use proptest::prelude::*;
use tempfile::TempDir;

use self::narrow::{Narrow, narrow, narrow_step};
use self::pair::{Pair, pair, pair_step};
use self::wide::{Wide, wide, wide_step};
use crate::common::levels;
use crate::oracle::{self, Partitions, Placement, Row};

/// One step of a machine with a stack of datasets. A step that finds too little on the stack does nothing.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Source(Vec<Row>, usize),
    Range(u64, usize),
    Narrow(Narrow),
    /// Into a number of partitions, or without one.
    Wide(Wide, Option<usize>),
    Pair(Pair, Option<usize>),
    Persist(Level),
    /// Into a folder of its own, which all processes see.
    Checkpoint(Arc<TempDir>),
    /// The same dataset once more.
    Copy,
}

/// A dataset, and what must be in it.
#[derive(Clone)]
pub(crate) struct Both {
    pub(crate) dataset: Dataset<Row>,
    pub(crate) expected: Partitions<Row>,
    /// Where the program's own partitioner has put the keys, if it has.
    placed: Option<Placement>,
}

impl Both {
    /// With keys that have stayed where they were.
    fn keeping(self, placed: Option<Placement>) -> Self {
        Self { placed, ..self }
    }

    /// Where a transformation without a number of partitions places keys.
    fn placement(&self) -> Placement {
        self.placed.unwrap_or(Placement::Hash(self.expected.len()))
    }
}

/// Pipelines do not grow beyond this.
const ROWS_MAX: usize = 2000;

pub(crate) fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((0..12u64, any::<u64>()), 0..50)
}

pub(crate) fn steps(length: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        2 => (rows(), 1..9usize).prop_map(|(rows, partitions)| Step::Source(rows, partitions)),
        1 => (0..70u64, 1..9usize).prop_map(|(length, partitions)| Step::Range(length, partitions)),
        8 => narrow().prop_map(Step::Narrow),
        6 => (wide(), prop::option::of(1..7usize)).prop_map(|(wide, partitions)| Step::Wide(wide, partitions)),
        4 => (pair(), prop::option::of(1..7usize)).prop_map(|(pair, partitions)| Step::Pair(pair, partitions)),
        3 => levels().prop_map(Step::Persist),
        1 => folders().prop_map(Step::Checkpoint),
        2 => Just(Step::Copy),
    ];
    let first = (rows(), 1..9usize).prop_map(|(rows, partitions)| Step::Source(rows, partitions));
    (first, prop::collection::vec(step, 1..length)).prop_map(|(first, mut steps)| {
        steps.insert(0, first);
        steps
    })
}

/// New folders, one for each drawn value: closures that differ by what they capture must not meet in one.
fn folders() -> impl Strategy<Value = Arc<TempDir>> {
    Just(()).prop_map(|()| Arc::new(tempfile::tempdir().unwrap()))
}

/// Declares the pipeline in `context`, and computes with vectors what it must give.
pub(crate) fn build(context: &Context, steps: &[Step]) -> Both {
    let mut stack: Vec<Both> = Vec::new();
    for step in steps {
        match step {
            Step::Source(rows, partitions) => stack.push(both(
                context.parallelize(rows.clone(), *partitions),
                oracle::cut(rows, *partitions),
            )),
            Step::Range(length, partitions) => {
                let numbers: Vec<u64> = (3..3 + length).collect();
                stack.push(both(
                    context.range(3..3 + length, *partitions).map(row_of),
                    oracle::map(&oracle::cut(&numbers, *partitions), row_of),
                ));
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
                dataset: both.dataset.persist(*level).set_name("kept"),
                ..both
            }),
            Step::Checkpoint(folder) => with_top(&mut stack, |both| {
                let kept = both.dataset.checkpoint(folder.path().to_str().unwrap()).unwrap();
                Both { dataset: kept, ..both }
            }),
            Step::Copy => stack.extend(stack.last().cloned()),
        }
        let grown = |both: &Both| both.expected.iter().map(Vec::len).sum::<usize>() > ROWS_MAX;
        if stack.last().is_some_and(grown) {
            with_top(&mut stack, shortened);
        }
        if stack.len() == 1 {
            // What a pair takes when there is nothing else: shortened, or the rows of one join after another multiply.
            stack.insert(0, stack[0].clone());
        }
    }
    stack.pop().unwrap()
}

/// The first rows of each partition, so few that they are no more than [`ROWS_MAX`] together.
fn shortened(Both { dataset, expected, .. }: Both) -> Both {
    let each = ROWS_MAX / expected.len().max(1);
    Both {
        dataset: dataset.map_partitions(move |rows| rows.take(each)),
        expected: expected
            .into_iter()
            .map(|rows| rows.into_iter().take(each).collect())
            .collect(),
        placed: None,
    }
}

fn with_top(stack: &mut Vec<Both>, step: impl FnOnce(Both) -> Both) {
    let top = stack.pop().unwrap();
    stack.push(step(top));
}

fn row_of(number: u64) -> Row {
    (number % 7, number)
}

fn both(dataset: Dataset<Row>, expected: Partitions<Row>) -> Both {
    assert_eq!(dataset.partitions(), expected.len());
    Both {
        dataset,
        expected,
        placed: None,
    }
}

/// The records as the engine computes them, by partition.
pub(crate) fn partitions_of(dataset: &Dataset<Row>) -> Partitions<Row> {
    dataset.run_partitions(|_, rows| Ok(rows.collect())).unwrap()
}
