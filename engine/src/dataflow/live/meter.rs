//! What the thread of live records counts, and the first thing that went wrong there.

use std::cell::{Cell, RefCell};
use std::fmt::{Debug, Write};
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use differential_dataflow::logging::{DifferentialEvent, DifferentialEventBuilder};
use timely::worker::Worker;

use crate::error::{LiveError, panic_text};

/// Numbers that the driver program may read at any time.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Records that operators took in, and values that closures of `reduce` were shown.
    pub(crate) records: AtomicU64,
    /// Updates that operators hold: records, and changes of them that are not merged yet.
    pub(crate) held: AtomicI64,
}

/// Limits that are looked at while a dataflow runs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) records_max: u64,
    pub(crate) rounds_max: u64,
}

pub(crate) struct Meter {
    pub(crate) limits: Limits,
    pub(super) figures: Arc<Figures>,
    failed: Cell<bool>,
    failure: RefCell<Option<LiveError>>,
    /// Loops around what is being built.
    loops: Cell<usize>,
}

impl Meter {
    pub(crate) fn new(limits: Limits, figures: Arc<Figures>) -> Self {
        Self {
            limits,
            figures,
            failed: Cell::new(false),
            failure: RefCell::default(),
            loops: Cell::new(0),
        }
    }

    /// Builds a loop, with the number of loops that it makes around its body.
    pub(crate) fn in_loop<R>(&self, build: impl FnOnce(usize) -> R) -> R {
        let outside = self.loops.get();
        self.loops.set(outside + 1);
        let built = build(outside + 1);
        self.loops.set(outside);
        built
    }

    /// Counts records that an operator took in.
    pub(crate) fn count(&self, records: usize) {
        self.figures.records.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Notes the first failure; the thread ends after the step in which it happened.
    pub(crate) fn fail(&self, error: LiveError) {
        self.failed.set(true);
        self.failure.borrow_mut().get_or_insert(error);
    }

    /// Notes that a closure before `operator` gave two answers for one record.
    pub(crate) fn unsteady(&self, operator: &str, site: &'static Location<'static>, record: &dyn Debug) {
        self.fail(LiveError::Unsteady {
            what: format!("`{operator}` (declared at {site})"),
            record: excerpt(record),
        });
    }

    /// How often `operator` holds a record. That it would hold it less than never is its failure: in loops too, where
    /// the records of each round are those that the round before made.
    pub(crate) fn held(
        &self,
        operator: &str,
        site: &'static Location<'static>,
        record: &dyn Debug,
        count: isize,
    ) -> u64 {
        u64::try_from(count).unwrap_or_else(|_| {
            self.unsteady(operator, site, record);
            0
        })
    }

    /// Runs a closure of the driver program, on a record if it is given one. A panic in it is the failure of `operator`;
    /// after a failure none runs.
    pub(crate) fn guard<R>(
        &self,
        operator: &str,
        site: &'static Location<'static>,
        record: Option<&dyn Debug>,
        work: impl FnOnce() -> R,
    ) -> Option<R> {
        if self.failed.get() {
            return None;
        }
        let panicked = |panic: Box<dyn std::any::Any + Send>| {
            self.fail(LiveError::Panic {
                operator: operator.to_owned(),
                site: site.to_string(),
                record: record.map(excerpt),
                message: panic_text(panic.as_ref()),
            });
        };
        catch_unwind(AssertUnwindSafe(work)).map_err(panicked).ok()
    }

    /// Fails once something has failed.
    pub(crate) fn failure(&self) -> Result<(), LiveError> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Fails once something has failed, or operators hold more than they may.
    pub(crate) fn check(&self) -> Result<(), LiveError> {
        let held = u64::try_from(self.figures.held.load(Ordering::Relaxed)).unwrap_or(0);
        let records_max = self.limits.records_max;
        if !self.failed.get() && held > records_max {
            return Err(LiveError::Full {
                what: "the operators of the live views".to_owned(),
                records: held,
                records_max,
                option: "operator_records_max".to_owned(),
            });
        }
        self.failure()
    }

    /// Counts what the operators of `worker` hold, as differential itself reports it.
    pub(crate) fn watch(&self, worker: &Worker) {
        let figures = Arc::clone(&self.figures);
        let Some(mut registry) = worker.log_register() else {
            return;
        };
        registry.insert::<DifferentialEventBuilder, _>("differential/arrange", move |_, events| {
            let events = events.iter().flat_map(|events| events.iter());
            let change: i64 = events.map(|(_, event)| growth(event)).sum();
            figures.held.fetch_add(change, Ordering::Relaxed);
        });
    }
}

/// A record as `Debug` writes it, or the beginning of that.
pub(super) fn excerpt(record: &dyn Debug) -> String {
    let mut excerpt = Excerpt(String::new());
    // It ends with an error where it is cut, and where the record is not whole it may panic.
    match catch_unwind(AssertUnwindSafe(|| write!(excerpt, "{record:?}").is_ok())) {
        Ok(_) => excerpt.0,
        Err(_) => "a record whose `Debug` panics".to_owned(),
    }
}

/// Text that takes no more than it may, however much it is given.
struct Excerpt(String);

impl Write for Excerpt {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        const CHARACTERS_MAX: usize = 200;
        let room = CHARACTERS_MAX.saturating_sub(self.0.chars().count());
        match text.char_indices().nth(room) {
            None => {
                self.0.push_str(text);
                Ok(())
            }
            Some((end, _)) => {
                self.0.push_str(&text[..end]);
                self.0.push('…');
                Err(std::fmt::Error)
            }
        }
    }
}

/// By how many updates an event changes what is held.
fn growth(event: &DifferentialEvent) -> i64 {
    match event {
        DifferentialEvent::Batch(batch) => batch.length as i64,
        DifferentialEvent::Merge(merge) => merge
            .complete
            .map_or(0, |length| length as i64 - (merge.length1 + merge.length2) as i64),
        DifferentialEvent::Drop(batch) => -(batch.length as i64),
        DifferentialEvent::Batcher(batcher) => batcher.records_diff as i64,
        DifferentialEvent::MergeShortfall(_) | DifferentialEvent::TraceShare(_) => 0,
    }
}
