//! Joining two sides of which the left one has no room in memory.
//!
//! Both are put on disk by parts of the hash of their keys. For each part a table takes as many keys of the left side
//! as there is room for, and the right side is read past it; what found its key in the table is joined, the other
//! records of both sides come in the next pass. So each record of the right side is joined in one pass, with all values
//! of its key, and what is made of it has its rank among the results.

use std::sync::Arc;

use distdl_storage::{Record, Spill};
use itertools::Itertools;

use super::fold::{Arrival, Collecting, Combining, Entry, part_of, parts};
use super::runs::{Run, RunWriter, fallible_stream, merged, spill};
use crate::batch::{AnyStream, TaskResult};
use crate::partitioner::Key;
use crate::task::TaskContext;

/// What is made of the values of either side, or of one alone; where nothing is made there is no record.
pub(crate) type Pair<V, W, X> = fn(Option<V>, Option<W>) -> Option<X>;

/// A record and its rank in the order of the results.
type Ranked<R> = (u64, R);

/// All that is made of `left` and `right`: for each record of the right side in its order, with the values of its key
/// in theirs; then of the left side's keys that the right side lacks, in the order in which they first came. `left`
/// brings the rank of each key in that order.
pub(crate) fn join_on_disk<K: Key, V: Record, W: Record, X: Record>(
    context: &TaskContext,
    left: impl Iterator<Item = TaskResult<Ranked<(K, V)>>>,
    right: impl Iterator<Item = TaskResult<(K, W)>>,
    pair: Pair<V, W, X>,
) -> TaskResult<AnyStream> {
    let values = left.map_ok(|(rank, (key, value))| (rank, key, Arrival::Value(value)));
    let lefts = by_parts::<K, Entry<K, V, Vec<V>>>(context, values, |entry| &entry.1)?;
    let numbered = right.enumerate();
    let numbered = numbered.map(|(rank, record)| record.map(|(key, value)| (rank as u64, key, value)));
    let rights = by_parts::<K, (u64, K, W)>(context, numbered, |record| &record.1)?;
    let mut made = Made {
        file: spill(context)?,
        pairs: Vec::new(),
        rest: Vec::new(),
    };
    for (left, right) in lefts.into_iter().zip(rights) {
        join_part(context, left, right, pair, &mut made)?;
    }
    let pairs = merged(context, made.pairs, std::iter::empty(), by_rank)?;
    let rest = merged(context, made.rest, std::iter::empty(), by_rank)?;
    let records = pairs.chain(rest).map_ok(|(_, record)| record);
    Ok(fallible_stream(records, context.resources.batch_records))
}

fn by_rank<R>(left: &Ranked<R>, right: &Ranked<R>) -> std::cmp::Ordering {
    left.0.cmp(&right.0)
}

/// Puts records on disk by the part of their keys.
fn by_parts<K: Key, R: Record>(
    context: &TaskContext,
    records: impl Iterator<Item = TaskResult<R>>,
    key: impl Fn(&R) -> &K,
) -> TaskResult<Vec<Run<R>>> {
    let file = spill(context)?;
    let mut writers: Vec<_> = (0..parts()).map(|_| RunWriter::new(context, &file)).collect();
    for record in records {
        let record = record?;
        writers[part_of(key(&record))].push(record)?;
    }
    writers.into_iter().map(RunWriter::finish).collect()
}

/// What was made so far, sorted by rank in each run.
struct Made<K, X> {
    file: Arc<Spill>,
    /// Of the records of the right side.
    pairs: Vec<Run<Ranked<(K, X)>>>,
    /// Of what only the left side has.
    rest: Vec<Run<Ranked<(K, X)>>>,
}

fn join_part<K: Key, V: Record, W: Record, X: Record>(
    context: &TaskContext,
    left: Run<Entry<K, V, Vec<V>>>,
    mut right: Run<(u64, K, W)>,
    pair: Pair<V, W, X>,
    made: &mut Made<K, X>,
) -> TaskResult<()> {
    let mut left = Some(left);
    loop {
        context.check()?;
        let mut table = Combining::<K, V, Vec<V>, _>::of_part(context, &Arc::new(Collecting));
        for entry in left.into_iter().flat_map(Run::into_records) {
            let (rank, key, arrival) = entry?;
            table.arrive(Some(rank), key, arrival)?;
        }
        let last = table.is_whole();
        let mut met = vec![false; table.keys_in_memory()];
        let mut pairs = RunWriter::new(context, &made.file);
        let mut later = RunWriter::new(context, &made.file);
        for record in right.into_records() {
            let (rank, key, right) = record?;
            match table.get(&key) {
                Some((index, values)) => {
                    met[index] = true;
                    for left in values {
                        if let Some(made) = pair(Some(left.clone()), Some(right.clone())) {
                            pairs.push((rank, (key.clone(), made)))?;
                        }
                    }
                }
                None if last => {
                    if let Some(made) = pair(None, Some(right)) {
                        pairs.push((rank, (key, made)))?;
                    }
                }
                None => later.push((rank, key, right))?,
            }
        }
        made.pairs.push(pairs.finish()?);
        let pass = table.into_pass(move |index| !met[index])?;
        let alone = pass.folded.flat_map(|(rank, (key, values))| {
            let made = values.into_iter().filter_map(move |left| pair(Some(left), None));
            made.map(move |made| Ok((rank, (key.clone(), made))))
        });
        made.rest.push(Run::write(context, &made.file, alone)?);
        if last {
            return Ok(());
        }
        (left, right) = (pass.rest, later.finish()?);
    }
}
