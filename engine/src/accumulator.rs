//! Counters and sums that closures add to: each partition of each operator counts once, whatever is recomputed.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::task::{self, Place, Role, Updates};

/// Adds one value to another.
type Add<T> = Arc<dyn Fn(&mut T, T) + Send + Sync>;
type Merge = Arc<dyn Fn(Box<dyn Any + Send>) + Send + Sync>;

/// All accumulators of a context, and which places have been counted.
#[derive(Default)]
pub(crate) struct Accumulators {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
}

struct Entry {
    merge: Merge,
    counted: HashSet<Place>,
}

impl Accumulators {
    /// A new accumulator that starts at `empty` and grows by `add`.
    pub(crate) fn register<T: Clone + Send + Sync + 'static>(
        self: &Arc<Self>,
        empty: T,
        add: impl Fn(&mut T, T) + Send + Sync + 'static,
    ) -> Accumulator<T> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let value = Arc::new(Mutex::new(empty.clone()));
        let add: Add<T> = Arc::new(add);
        let (total, merge) = (Arc::clone(&value), Arc::clone(&add));
        let merge: Merge = Arc::new(move |update| {
            if let Ok(update) = update.downcast::<T>() {
                merge(&mut total.lock().unwrap_or_else(PoisonError::into_inner), *update);
            }
        });
        let entry = Entry {
            merge,
            counted: HashSet::new(),
        };
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(id, entry);
        let registration = Registration {
            id,
            list: Arc::downgrade(self),
        };
        Accumulator {
            id,
            value,
            empty,
            add,
            _registration: Arc::new(registration),
        }
    }

    /// Counts what tasks have added, where the same partition of the same operator has not been counted before. What an
    /// action's own closure added is counted for each action.
    /// Places are merged in the order of (operator, partition), so that floating-point sums do not depend on timing.
    pub(crate) fn merge(&self, updates: Vec<Updates>) {
        let mut all = Updates::new();
        for updates in updates {
            for (key, value) in updates {
                all.entry(key).or_insert(value);
            }
        }
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for ((id, place), value) in all {
            if let Some(entry) = entries.get_mut(&id)
                && (place.role == Role::Action || entry.counted.insert(place))
            {
                (entry.merge)(value);
            }
        }
    }
}

/// A value that closures on workers add to and the driver reads.
///
/// What an operator's closure adds is counted when its partition has been computed to the end, once for each partition
/// of the operator, however often actions or recovery run it again. What the closure of an action adds, such as that of
/// [`for_each_partition`](crate::Dataset::for_each_partition), is counted once for each partition and action.
#[derive(Clone)]
pub struct Accumulator<T> {
    id: u64,
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
            list.entries
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&self.id);
        }
    }
}

impl<T: Clone + Send + Sync + 'static> Accumulator<T> {
    /// Adds to the share of the partition that is being computed. Outside an operator's closure it adds at once.
    pub fn add(&self, update: T) {
        if task::is_inside() {
            task::add_update(
                self.id,
                update,
                |slot, update| (self.add)(slot, update),
                || self.empty.clone(),
            );
        } else {
            (self.add)(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner), update);
        }
    }

    /// The total of all partitions counted so far.
    pub fn value(&self) -> T {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
