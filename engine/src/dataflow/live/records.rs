//! The typed operators on live records, with the closures of the driver program guarded and counted.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::panic::Location;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use differential_dataflow::input::InputSession;
use distdl_storage::Unpoisoned;
use timely::dataflow::Scope;

use super::contents::Contents;
use super::meter::Meter;
use super::row::{self, Pairs, Row, RowCollection};
use super::totals::Totals;
use super::{LiveRecord, Time};
use crate::error::LiveError;

/// What an input gives to a dataflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    /// What was committed.
    Held,
    /// What is being committed.
    Changes,
}

/// An input of a dataflow.
pub(crate) trait Session {
    fn feed(&mut self, feed: Feed);
    fn has_changes(&self) -> bool;
    /// Says that all before `time` is there.
    fn advance_to(&mut self, time: u64);
}

pub(crate) type Sessions = Vec<Box<dyn Session>>;

/// Where the closure of a live view reads inputs.
pub struct LiveScope<'s> {
    pub(crate) outer: Scope<'s, u64>,
    pub(crate) inner: Scope<'s, Time>,
    pub(crate) meter: Rc<Meter>,
    pub(crate) sessions: Rc<RefCell<Sessions>>,
}

impl std::fmt::Debug for LiveScope<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("LiveScope")
    }
}

impl<'s> LiveScope<'s> {
    /// The records of an input, and all that will be committed to it.
    pub(crate) fn read<T: LiveRecord>(&self, contents: &Arc<Mutex<Contents<T>>>) -> LiveRecords<'s, T> {
        if !contents.lock().unpoisoned().is_of(&self.meter.figures) {
            // Nobody would commit its changes here.
            let input = contents.lock().unpoisoned().name().to_owned();
            self.meter.fail(LiveError::Foreign { input });
        }
        let mut session = InputSession::new();
        let collection = session.to_collection(self.outer).enter(self.inner);
        self.sessions.borrow_mut().push(Box::new(InputFeed {
            contents: Arc::clone(contents),
            session,
        }));
        LiveRecords::with_rows(collection, &self.meter)
    }
}

/// An input of one dataflow.
struct InputFeed<T: LiveRecord> {
    contents: Arc<Mutex<Contents<T>>>,
    session: InputSession<u64, Row, isize>,
}

impl<T: LiveRecord> Session for InputFeed<T> {
    fn feed(&mut self, feed: Feed) {
        let contents = self.contents.lock().unpoisoned();
        let session = &mut self.session;
        match feed {
            Feed::Held => contents
                .held()
                .for_each(|(record, count)| session.update(Row::new(record.clone()), count as isize)),
            Feed::Changes => contents
                .sealed()
                .for_each(|(record, change)| session.update(Row::new(record.clone()), change as isize)),
        }
    }

    fn has_changes(&self) -> bool {
        self.contents.lock().unpoisoned().sealed().next().is_some()
    }

    fn advance_to(&mut self, time: u64) {
        self.session.advance_to(time);
        self.session.flush();
    }
}

/// Records of a live view on their way from inputs to the view, as a multiset: they have no order, and a record may be
/// there more than once.
///
/// Closures must be functions of their arguments: when a record is retracted, what they made of it is taken away by
/// asking them again. That they are not is noticed where `count`, `distinct`, `totals`, `reduce` or a view would lose a
/// record that it does not hold ([`LiveError::Unsteady`]), and not always. An accumulator that a closure adds to counts
/// retractions too, and what is built anew after a failure.
#[must_use = "live records do nothing unless the closure of a view returns them"]
pub struct LiveRecords<'s, T> {
    pub(crate) rows: RowCollection<'s>,
    meter: Rc<Meter>,
    records: PhantomData<fn() -> T>,
}

impl<T> Clone for LiveRecords<'_, T> {
    fn clone(&self) -> Self {
        Self::with_rows(self.rows.clone(), &self.meter)
    }
}

impl<'s, T> LiveRecords<'s, T> {
    fn with_rows(rows: RowCollection<'s>, meter: &Rc<Meter>) -> Self {
        Self {
            rows,
            meter: Rc::clone(meter),
            records: PhantomData,
        }
    }
}

impl<T> std::fmt::Debug for LiveRecords<'_, T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "LiveRecords({})", std::any::type_name::<T>())
    }
}

impl<'s, T: LiveRecord> LiveRecords<'s, T> {
    /// The records as they come into an operator, counted.
    fn counted(&self) -> RowCollection<'s> {
        let meter = Rc::clone(&self.meter);
        row::inspect(self.rows.clone(), Box::new(move |records| meter.count(records)))
    }

    fn next<U: LiveRecord>(&self, rows: RowCollection<'s>) -> LiveRecords<'s, U> {
        LiveRecords::with_rows(rows, &self.meter)
    }

    /// What `function` makes of each record.
    #[track_caller]
    pub fn map<U: LiveRecord>(self, function: impl Fn(T) -> U + 'static) -> LiveRecords<'s, U> {
        self.each("map", Location::caller(), move |record| vec![function(record.clone())])
    }

    /// The records that `predicate` accepts.
    #[track_caller]
    pub fn filter(self, predicate: impl Fn(&T) -> bool + 'static) -> Self {
        let keep = move |record: &T| predicate(record).then(|| record.clone()).into_iter().collect();
        self.each("filter", Location::caller(), keep)
    }

    /// All that `function` makes of each record. One record may become `operator_records_max` at most.
    #[track_caller]
    pub fn flat_map<U: LiveRecord, I: IntoIterator<Item = U>>(
        self,
        function: impl Fn(T) -> I + 'static,
    ) -> LiveRecords<'s, U> {
        let records_max = usize::try_from(self.meter.limits.records_max).unwrap_or(usize::MAX);
        self.each("flat_map", Location::caller(), move |record| {
            let made = function(record.clone()).into_iter();
            made.take(records_max.saturating_add(1)).collect()
        })
    }

    fn each<U: LiveRecord>(
        self,
        operator: &'static str,
        site: &'static Location<'static>,
        function: impl Fn(&T) -> Vec<U> + 'static,
    ) -> LiveRecords<'s, U> {
        let guard = Rc::clone(&self.meter);
        let each = move |record: Row| {
            let made = guard.guard(operator, site, Some(&record), || function(record.get()));
            made.into_iter().flatten().map(Row::new).collect()
        };
        self.next(row::flat_map(self.counted(), Box::new(each)))
    }

    /// These records and `others`.
    pub fn concat(self, others: Self) -> Self {
        Self::with_rows(self.rows.concat(others.rows), &self.meter)
    }

    /// Each different record once. A change costs as much as it has records.
    #[track_caller]
    pub fn distinct(self) -> Self {
        let (meter, site) = (Rc::clone(&self.meter), Location::caller());
        let look = move |record: &Row, count| {
            meter.held("distinct", site, record, count);
        };
        self.next(row::distinct(self.counted(), Box::new(look)))
    }

    /// Each different record with how often it is there. A change costs as much as it has records.
    #[track_caller]
    pub fn count(self) -> LiveRecords<'s, (T, u64)> {
        let (meter, site) = (Rc::clone(&self.meter), Location::caller());
        let pair = move |record: &Row, count| {
            let count = meter.held("count", site, record, count);
            Row::new((record.get::<T>().clone(), count))
        };
        self.next(row::count(self.counted(), Box::new(pair)))
    }

    /// By the key that `function` gives: how many records there are, and the sums of their values and of the squares of
    /// these, exactly. A change costs as much as it has records, however many share a key.
    #[track_caller]
    pub fn totals<K: LiveRecord>(
        self,
        function: impl Fn(&T) -> (K, Vec<i32>) + 'static,
    ) -> LiveRecords<'s, (K, Totals)> {
        let (guard, site) = (Rc::clone(&self.meter), Location::caller());
        let values = move |record: &Row| {
            let made = guard.guard("totals", site, Some(record), || function(record.get()));
            made.map(|(key, values)| (Row::new(key), values))
        };
        let meter = Rc::clone(&self.meter);
        let pair = move |key: &Row, totals: Option<Totals>| {
            if totals.is_none() {
                meter.unsteady("totals", site, key);
            }
            Row::new((key.get::<K>().clone(), totals.unwrap_or_default()))
        };
        self.next(row::totals(self.counted(), Box::new(values), Box::new(pair)))
    }

    /// Applies `body` again and again, first to these records and then to what it made, until nothing changes any more,
    /// and gives that. Records from outside the loop may be used in `body`. After a change only what follows from it is
    /// computed again, round by round.
    ///
    /// A loop that does not settle within `rounds_max` rounds fails.
    #[track_caller]
    pub fn iterate(self, body: impl FnOnce(Self) -> Self) -> Self {
        let (site, meter) = (Location::caller(), Rc::clone(&self.meter));
        let rounds_max = meter.limits.rounds_max;
        let watch = move |round: u64| {
            if round > rounds_max {
                meter.fail(LiveError::Unsettled {
                    site: site.to_string(),
                    rounds: rounds_max,
                });
            }
        };
        let meter = Rc::clone(&self.meter);
        let turn = |rows| body(Self::with_rows(rows, &meter)).counted();
        // By the loops that it stands in, whatever the records are that it begins with.
        let rows = meter.in_loop(|level| row::iterate(self.rows.clone(), level, Box::new(watch), turn));
        self.next(rows)
    }
}

impl<'s, K: LiveRecord, V: LiveRecord> LiveRecords<'s, (K, V)> {
    fn pairs(&self) -> Pairs<'s> {
        let split = |pair: Row| {
            let (key, value) = pair.get::<(K, V)>();
            (Row::new(key.clone()), Row::new(value.clone()))
        };
        row::pairs(self.counted(), Box::new(split))
    }

    /// Every value here with every value of `others` under the same key.
    pub fn join<W: LiveRecord>(self, others: LiveRecords<'s, (K, W)>) -> LiveRecords<'s, (K, (V, W))> {
        let combine = |key: &Row, left: &Row, right: &Row| {
            let values = (left.get::<V>().clone(), right.get::<W>().clone());
            Row::new((key.get::<K>().clone(), values))
        };
        let rows = row::join(self.pairs(), others.pairs(), combine);
        LiveRecords::with_rows(rows, &self.meter)
    }

    /// For each key, what `function` makes of its different values, which come in order and with how often each is
    /// there. A change of a key costs as much as the key has values.
    #[track_caller]
    pub fn reduce<W: LiveRecord, I: IntoIterator<Item = W>>(
        self,
        function: impl Fn(&K, &[(&V, u64)]) -> I + 'static,
    ) -> LiveRecords<'s, (K, W)> {
        let (guard, site) = (Rc::clone(&self.meter), Location::caller());
        let reduce = move |key: &Row, values: &[(&Row, isize)]| {
            guard.count(values.len());
            let held = |value: &Row, count| guard.held("reduce", site, &(key, value), count);
            let counts = values
                .iter()
                .map(|(value, count)| (value.get::<V>(), held(value, *count)));
            let counts: Vec<(&V, u64)> = counts.collect();
            let made = guard.guard("reduce", site, Some(key), || {
                function(key.get(), &counts)
                    .into_iter()
                    .map(Row::new)
                    .collect::<Vec<_>>()
            });
            made.unwrap_or_default()
        };
        let combine = |key: &Row, value: &Row| Row::new((key.get::<K>().clone(), value.get::<W>().clone()));
        self.next(row::reduce(self.pairs(), Box::new(reduce), combine))
    }
}
