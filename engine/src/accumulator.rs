//! Counters and sums that closures add to: each partition of each operator counts once, whatever is recomputed.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use distdl_storage::{Record, Unpoisoned};

use crate::error::{EngineError, Result, in_driver};
use crate::id::DatasetId;
use crate::task::{self, Resources, Role, UpdateOrigin, Updates};

/// Adds one value to another.
type Add<T> = Arc<dyn Fn(&mut T, T) + Send + Sync>;
type Merge = Arc<dyn Fn(Box<dyn Any + Send>) + Send + Sync>;
type Encode = fn(&(dyn Any + Send)) -> Option<Vec<u8>>;
type Decode = fn(&[u8]) -> Option<Box<dyn Any + Send>>;

/// All accumulators of a context, and which origins have been counted.
#[derive(Default)]
pub(crate) struct Accumulators {
    list: Mutex<List>,
    next: AtomicU64,
}

#[derive(Default)]
struct List {
    entries: HashMap<u64, Entry>,
    /// By operator: the accumulators that have counted what it added.
    counted_in: HashMap<DatasetId, HashSet<u64>>,
}

struct Entry {
    /// Where it was made.
    site: &'static Location<'static>,
    merge: Merge,
    encode: Encode,
    decode: Decode,
    /// By operator, so that they can be forgotten with it.
    counted: HashMap<DatasetId, HashSet<UpdateOrigin>>,
}

impl Accumulators {
    /// A new accumulator that starts at `empty` and grows by `add`.
    #[track_caller]
    pub(crate) fn register<T: Record>(
        self: &Arc<Self>,
        resources: &Arc<Resources>,
        empty: T,
        add: impl Fn(&mut T, T) + Send + Sync + 'static,
    ) -> Accumulator<T> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let value = Arc::new(Mutex::new(empty.clone()));
        let add: Add<T> = Arc::new(add);
        let (total, merge) = (Arc::clone(&value), Arc::clone(&add));
        let merge: Merge = Arc::new(move |update| {
            if let Ok(update) = update.downcast::<T>() {
                merge(&mut total.lock().unpoisoned(), *update);
            }
        });
        let entry = Entry {
            site: Location::caller(),
            merge,
            encode: |update| postcard::to_stdvec(update.downcast_ref::<T>()?).ok(),
            decode: |bytes| Some(Box::new(postcard::from_bytes::<T>(bytes).ok()?)),
            counted: HashMap::new(),
        };
        self.lock().entries.insert(id, entry);
        let registration = Registration {
            id,
            list: Arc::downgrade(self),
        };
        Accumulator {
            id,
            resources: Arc::downgrade(resources),
            value,
            empty,
            add,
            _registration: Arc::new(registration),
        }
    }

    /// What tasks have added, for other processes.
    pub(crate) fn encode(&self, updates: &[Updates]) -> Result<Vec<u8>> {
        let list = self.lock();
        let mut encoded: Vec<(u64, UpdateOrigin, Vec<u8>)> = Vec::new();
        for ((id, origin), value) in updates.iter().flatten() {
            // An accumulator without a handle is read by nobody.
            let Some(entry) = list.entries.get(id) else { continue };
            let bytes = (entry.encode)(value.as_ref()).ok_or_else(|| unreadable("encoded"))?;
            encoded.push((*id, *origin, bytes));
        }
        postcard::to_stdvec(&encoded).map_err(|_| unreadable("encoded"))
    }

    /// What tasks of any process have added.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<Updates> {
        let list = self.lock();
        let encoded: Vec<(u64, UpdateOrigin, Vec<u8>)> =
            postcard::from_bytes(bytes).map_err(|_| unreadable("decoded"))?;
        let mut updates = Updates::new();
        for (id, origin, bytes) in encoded {
            let Some(entry) = list.entries.get(&id) else { continue };
            updates.insert(
                (id, origin),
                (entry.decode)(&bytes).ok_or_else(|| unreadable("decoded"))?,
            );
        }
        Ok(updates)
    }

    /// Counts what tasks have added, where the same partition of the same operator has not been counted before. What an
    /// action's own closure added is counted for each action.
    /// Updates are merged in the order of (operator, partition), so that floating-point sums do not depend on timing.
    ///
    /// # Errors
    /// If the closure of one of them panics: what it was to add may be added in part, and the others are counted.
    pub(crate) fn merge(&self, updates: Vec<Updates>) -> Result<()> {
        let mut all = Updates::new();
        for updates in updates {
            for (key, value) in updates {
                all.entry(key).or_insert(value);
            }
        }
        let mut due: Vec<(Merge, &'static Location<'static>, Box<dyn Any + Send>)> = Vec::new();
        let mut list = self.lock();
        for ((id, origin), value) in all {
            if let Some(entry) = list.count(id, origin) {
                due.push((Arc::clone(&entry.merge), entry.site, value));
            }
        }
        // A closure of the program may ask for accumulators itself.
        drop(list);
        let merged = due
            .into_iter()
            .map(|(merge, site, value)| in_driver("accumulator", site, || merge(value)));
        merged.fold(Ok(()), Result::and)
    }

    /// Nothing is computed again of operators that nobody refers to any more.
    pub(crate) fn forget(&self, operators: impl Iterator<Item = DatasetId>) {
        let mut list = self.lock();
        operators.for_each(|operator| list.forget(operator));
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unpoisoned()
    }
}

impl List {
    /// The accumulator, if what an origin has added to it is still to be counted: it is no more from now on.
    fn count(&mut self, id: u64, origin: UpdateOrigin) -> Option<&Entry> {
        let entry = self.entries.get_mut(&id)?;
        let operator = origin.dataset;
        if origin.role != Role::Action {
            if !entry.counted.entry(operator).or_default().insert(origin) {
                return None;
            }
            self.counted_in.entry(operator).or_default().insert(id);
        }
        Some(entry)
    }

    /// Forgets what was counted of an operator.
    fn forget(&mut self, operator: DatasetId) {
        for id in self.counted_in.remove(&operator).into_iter().flatten() {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.counted.remove(&operator);
            }
        }
    }

    /// Takes an accumulator off the list.
    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.entries.remove(&id)?;
        for operator in entry.counted.keys() {
            if let Some(counted_in) = self.counted_in.get_mut(operator) {
                counted_in.remove(&id);
                if counted_in.is_empty() {
                    self.counted_in.remove(operator);
                }
            }
        }
        Some(entry)
    }
}

fn unreadable(what: &str) -> EngineError {
    EngineError::invalid(
        format!("what was added to an accumulator could not be {what}"),
        "`Deserialize` must mirror `Serialize`",
    )
}

/// A value that closures on workers add to and the driver reads.
///
/// What an operator's closure adds is counted when its partition has been computed to the end, once for each partition
/// of the operator, however often actions or recovery run it again. A closure that reads a partition must ask for the
/// record behind the last one, and so learn that there is none: `Iterator::take` does not, nor does `Iterator::zip` of
/// its right side. What the closure of an action adds, such as that of
/// [`for_each_partition`](crate::Dataset::for_each_partition), is counted once for each partition and action. An action
/// that ends with an error adds nothing, also where it has kept blocks that are not computed again; but if the error is
/// a panic where what partitions added is put together, all else counts.
///
/// ```
/// # use distdl_engine::{Config, Context};
/// # let context = Context::new(Config::default())?;
/// let bad = context.counter();
/// let counted = bad.clone();
/// let words = context.parallelize(["1", "two", "3"].map(str::to_owned), 2);
/// let numbers = words.flat_map(move |word| word.parse::<i32>().inspect_err(|_| counted.add(1)).ok());
/// assert_eq!((numbers.count()?, numbers.count()?), (2, 2));
/// assert_eq!(bad.value(), 1, "once, although it was computed twice");
/// # Ok::<(), distdl_engine::EngineError>(())
/// ```
#[derive(Clone)]
pub struct Accumulator<T> {
    id: u64,
    /// Those of the context whose tasks may add to it.
    resources: Weak<Resources>,
    value: Arc<Mutex<T>>,
    empty: T,
    add: Add<T>,
    _registration: Arc<Registration>,
}

/// Takes an accumulator off the list with its last handle.
struct Registration {
    id: u64,
    list: Weak<Accumulators>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(list) = self.list.upgrade() {
            let entry = list.lock().remove(self.id);
            // Its closure may hold the last handle on another one.
            drop(entry);
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Accumulator<T> {
    /// Adds to the share of the partition that is being computed. Outside an operator's closure it adds at once.
    ///
    /// # Panics
    /// In a closure that another context runs than the one that made the accumulator; the action ends with an error
    /// then.
    #[expect(clippy::panic, reason = "a closure has no other way to end its action")]
    pub fn add(&self, update: T) {
        match task::is_inside_of(&self.resources) {
            Some(true) => task::add_update(
                self.id,
                update,
                |slot, update| (self.add)(slot, update),
                || self.empty.clone(),
            ),
            Some(false) => panic!(
                "an accumulator of another context is added to; make it with the context whose datasets the closure is for"
            ),
            None => (self.add)(&mut self.value.lock().unpoisoned(), update),
        }
    }

    /// The total of all partitions counted so far.
    pub fn value(&self) -> T {
        self.value.lock().unpoisoned().clone()
    }
}

impl<T: Debug> Debug for Accumulator<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Accumulator")
            .field("id", &self.id)
            .field("value", &self.value)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;
    use crate::context::Context;

    #[test]
    fn an_operator_knows_which_accumulators_have_counted_it_and_takes_them_along() {
        let context = Context::new(Config::default().with_threads(1)).unwrap();
        let list = Arc::clone(context.accumulators());
        let counters: Vec<_> = (0..100).map(|_| context.counter()).collect();
        let adding = |counter: &Accumulator<u64>| {
            let counter = counter.clone();
            context.range(0..4, 2).map(move |number| {
                counter.add(1);
                number
            })
        };
        let (first, second) = (adding(&counters[7]), adding(&counters[7]));
        for _ in 0..2 {
            assert_eq!((first.count().unwrap(), second.count().unwrap()), (4, 4));
        }
        assert_eq!(counters[7].value(), 8);
        let known = || {
            let list = list.lock();
            let counted: usize = list.entries.values().map(|entry| entry.counted.len()).sum();
            let counted_in: usize = list.counted_in.values().map(HashSet::len).sum();
            (counted, counted_in, list.counted_in.len())
        };
        assert_eq!(
            known(),
            (2, 2, 2),
            "of a hundred accumulators one has to forget an operator"
        );
        drop(first);
        assert_eq!(known(), (1, 1, 1));
        drop(second);
        assert_eq!(known(), (0, 0, 0));
        let third = adding(&counters[8]);
        third.count().unwrap();
        let copied = third.map(|number| number + 1);
        assert_eq!((known(), copied.count().unwrap()), ((1, 1, 1), 4));
        drop(counters);
        assert_eq!(known(), (1, 1, 1), "closures have a handle");
    }

    #[test]
    fn an_accumulator_that_is_gone_is_no_more_known_to_operators() {
        let mut list = List::default();
        let entry = || Entry {
            site: Location::caller(),
            merge: Arc::new(drop),
            encode: |_| None,
            decode: |_| None,
            counted: HashMap::new(),
        };
        list.entries.extend([(1, entry()), (2, entry())]);
        let origin = |dataset, partition, role| UpdateOrigin {
            dataset: DatasetId(dataset),
            partition,
            role,
        };
        let counts = |list: &mut List, id, origin| list.count(id, origin).is_some();
        assert!(counts(&mut list, 1, origin(5, 0, Role::Operator)));
        assert!(counts(&mut list, 1, origin(5, 1, Role::Operator)));
        assert!(counts(&mut list, 2, origin(5, 0, Role::Operator)));
        assert!(!counts(&mut list, 2, origin(5, 0, Role::Operator)), "counted before");
        assert!(counts(&mut list, 2, origin(6, 0, Role::Action)) && counts(&mut list, 2, origin(6, 0, Role::Action)));
        assert!(!counts(&mut list, 3, origin(5, 0, Role::Operator)), "there is none");
        assert!(list.remove(1).is_some() && list.remove(1).is_none());
        assert_eq!(list.counted_in, HashMap::from([(DatasetId(5), HashSet::from([2]))]));
        list.forget(DatasetId(5));
        assert!(list.counted_in.is_empty() && list.entries[&2].counted.is_empty());
        assert!(counts(&mut list, 2, origin(5, 0, Role::Operator)), "anew");
        assert!(list.remove(2).is_some() && list.counted_in.is_empty());
    }
}
