//! Records without their type, and differential's operators on them.
//!
//! Nothing here is generic over the records of a program: differential's operators are large, and would otherwise be
//! compiled anew for every type of record and for every program. A comparison costs a call through a pointer.

use std::any::Any;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use differential_dataflow::dynamic::feedback_summary;
use differential_dataflow::operators::iterate::Variable;
use differential_dataflow::{AsCollection, VecCollection};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::order::Product;

use super::totals::{Difference, Totals};
use super::{LiveRecord, Time};
use crate::partitioner::hasher;

/// A record whose type only the operators on both sides of it know.
#[derive(Clone)]
pub(crate) struct Row(Arc<dyn Erased>);

/// Differential asks that records can be sent, though these stay on their thread.
trait Erased: Send + Sync {
    fn compare(&self, other: &Row) -> Ordering;
    fn hashed(&self) -> u64;
    fn debug(&self) -> &dyn fmt::Debug;
    fn any(&self) -> &dyn Any;
}

impl<T: LiveRecord> Erased for T {
    fn compare(&self, other: &Row) -> Ordering {
        self.cmp(other.get())
    }

    fn hashed(&self) -> u64 {
        hasher().hash_one(self)
    }

    fn debug(&self) -> &dyn fmt::Debug {
        self
    }

    fn any(&self) -> &dyn Any {
        self
    }
}

impl Row {
    pub(crate) fn new<T: LiveRecord>(record: T) -> Self {
        Self(Arc::new(record))
    }

    /// The record. The typed operators build both ends of every edge, so the type is known.
    #[expect(
        clippy::panic,
        reason = "a wrong type here is a bug of this crate, and to go on would be a wrong result"
    )]
    pub(crate) fn get<T: LiveRecord>(&self) -> &T {
        match self.0.any().downcast_ref() {
            Some(record) => record,
            None => panic!("a live record is not of type {}", std::any::type_name::<T>()),
        }
    }
}

impl Ord for Row {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.compare(other)
    }
}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Row {}

impl Hash for Row {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hashed());
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.debug().fmt(formatter)
    }
}

/// Differential asks that records can travel. On a worker without peers none does.
impl Serialize for Row {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("live records stay on their thread"))
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("live records stay on their thread"))
    }
}

pub(crate) type RowCollection<'s> = VecCollection<'s, Time, Row, isize>;

/// Rows as keys and values.
pub(crate) type Pairs<'s> = VecCollection<'s, Time, (Row, Row), isize>;

/// What a reduction makes of a key and its values.
pub(crate) type Reduction = Box<dyn FnMut(&Row, &[(&Row, isize)]) -> Vec<Row>>;

/// What is made of a record or key, and of how much there is of it.
pub(crate) type OfCount<C, R> = Box<dyn Fn(&Row, C) -> R>;

pub(crate) fn flat_map<'s>(rows: RowCollection<'s>, function: Box<dyn FnMut(Row) -> Vec<Row>>) -> RowCollection<'s> {
    rows.flat_map(function)
}

pub(crate) fn pairs<'s>(rows: RowCollection<'s>, split: Box<dyn FnMut(Row) -> (Row, Row)>) -> Pairs<'s> {
    rows.map(split)
}

/// `look` sees how often each record is there.
pub(crate) fn distinct<'s>(rows: RowCollection<'s>, look: OfCount<isize, ()>) -> RowCollection<'s> {
    rows.threshold_named("Distinct", move |row, count| {
        look(row, *count);
        1
    })
}

pub(crate) fn count<'s>(rows: RowCollection<'s>, pair: OfCount<isize, Row>) -> RowCollection<'s> {
    rows.count().map(move |(row, count)| pair(&row, count))
}

pub(crate) fn join<'s>(left: Pairs<'s>, right: Pairs<'s>, combine: fn(&Row, &Row, &Row) -> Row) -> RowCollection<'s> {
    left.join_map(right, combine)
}

pub(crate) fn reduce<'s>(
    pairs: Pairs<'s>,
    mut function: Reduction,
    combine: fn(&Row, &Row) -> Row,
) -> RowCollection<'s> {
    let reduced = pairs.reduce(move |key, values: &[(&Row, isize)], made| {
        made.extend(function(key, values).into_iter().map(|row| (row, 1)));
    });
    reduced.map(move |(key, value)| combine(&key, &value))
}

/// The key of a record, and the values to sum under it.
pub(crate) type Values = Box<dyn Fn(&Row) -> Option<(Row, Vec<i32>)>>;

/// Sums batch by batch first: a record's totals take much more room than the record. `combine` is given no totals where
/// more records were taken away than were there.
pub(crate) fn totals<'s>(
    rows: RowCollection<'s>,
    function: Values,
    combine: OfCount<Option<Totals>, Row>,
) -> RowCollection<'s> {
    let sums = rows
        .inner
        .unary::<CapacityContainerBuilder<Vec<(Row, Time, Difference)>>, _, _, _>(Pipeline, "Totals", |_, _| {
            move |input, output| {
                input.for_each(|capability, batch| {
                    let mut sums: BTreeMap<(Row, Time), Difference> = BTreeMap::new();
                    for (record, time, change) in batch.drain(..) {
                        if let Some((key, values)) = function(&record) {
                            sums.entry((key, time)).or_default().add(&values, change as i64);
                        }
                    }
                    let sums = sums.into_iter().map(|((key, time), sums)| (key, time, sums));
                    output.session(&capability).give_iterator(sums);
                });
            }
        });
    let totals = sums.as_collection().count();
    totals.map(move |(key, totals)| combine(&key, totals.into_totals()))
}

/// The fixed point of `body` from `rows` on, in the loop at depth `level`; `watch` sees the round of each record.
pub(crate) fn iterate<'s>(
    rows: RowCollection<'s>,
    level: usize,
    watch: Box<dyn Fn(u64)>,
    body: impl FnOnce(RowCollection<'s>) -> RowCollection<'s>,
) -> RowCollection<'s> {
    let step = Product::new(Default::default(), feedback_summary::<u64>(level, 1));
    let (variable, current) = Variable::new_from(rows, step);
    let round = move |time: &Time| time.inner.get(level - 1).copied().unwrap_or(0);
    let current = current.inspect_batch(move |_, records| {
        records.iter().for_each(|(_, time, _)| watch(round(time)));
    });
    // Records that cancel out would go round for ever.
    let made = consolidate(body(current));
    variable.set(made.clone());
    made.leave_dynamic(level)
}

pub(crate) fn consolidate(rows: RowCollection<'_>) -> RowCollection<'_> {
    rows.consolidate()
}

pub(crate) fn inspect<'s>(rows: RowCollection<'s>, look: Box<dyn FnMut(usize)>) -> RowCollection<'s> {
    let mut look = look;
    rows.inspect_batch(move |_, records| look(records.len()))
}
