//! One fetch for all who want the same thing at the same time.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};

use crate::unpoisoned::Unpoisoned;

/// Work under way, by what it brings.
#[derive(Debug)]
pub(crate) struct Flights<K, V>(Mutex<BTreeMap<K, Arc<Flight<V>>>>);

#[derive(Debug)]
struct Flight<V> {
    state: Mutex<State<V>>,
    landed: Condvar,
}

#[derive(Debug)]
enum State<V> {
    UnderWay,
    Landed(V),
    /// Whoever did the work panicked.
    Lost,
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Takes a flight off the table, however the work ends.
struct Landing<'a, K: Ord, V> {
    flights: &'a Flights<K, V>,
    key: &'a K,
    flight: Arc<Flight<V>>,
    brought: Option<V>,
}

impl<K: Ord, V> Drop for Landing<'_, K, V> {
    fn drop(&mut self) {
        self.flights.0.lock().unpoisoned().remove(self.key);
        *self.flight.state.lock().unpoisoned() = self.brought.take().map_or(State::Lost, State::Landed);
        self.flight.landed.notify_all();
    }
}

impl<K: Ord + Clone, V: Clone> Flights<K, V> {
    /// What `work` brings, and whether another caller has done it: of those who come with one key while the work is
    /// under way, the first does it.
    pub(crate) fn once(&self, key: &K, work: impl FnOnce() -> V) -> (V, bool) {
        loop {
            let mut flights = self.0.lock().unpoisoned();
            let Some(flight) = flights.get(key).map(Arc::clone) else {
                let flight = Arc::new(Flight {
                    state: Mutex::new(State::UnderWay),
                    landed: Condvar::new(),
                });
                flights.insert(key.clone(), Arc::clone(&flight));
                drop(flights);
                let mut landing = Landing {
                    flights: self,
                    key,
                    flight,
                    brought: None,
                };
                let brought = work();
                landing.brought = Some(brought.clone());
                return (brought, false);
            };
            drop(flights);
            if let Some(brought) = flight.wait() {
                return (brought, true);
            }
        }
    }
}

impl<V: Clone> Flight<V> {
    fn wait(&self) -> Option<V> {
        let under_way = |state: &mut State<V>| matches!(state, State::UnderWay);
        let state = self.landed.wait_while(self.state.lock().unpoisoned(), under_way);
        match &*state.unpoisoned() {
            State::Landed(brought) => Some(brought.clone()),
            State::UnderWay | State::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    use super::*;
    use crate::testing::wait_until;

    #[test]
    fn those_who_come_meanwhile_get_what_the_first_brings() {
        let flights = Flights::<u8, u32>::default();
        let worked = AtomicUsize::new(0);
        let (begun, has_begun) = channel();
        let (go_on, may_go_on) = channel::<()>();
        std::thread::scope(|scope| {
            let (flights, worked) = (&flights, &worked);
            let first = scope.spawn(move || {
                flights.once(&1, || {
                    begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    worked.fetch_add(1, Ordering::SeqCst);
                    7
                })
            });
            has_begun.recv().unwrap();
            let flight = Arc::clone(&flights.0.lock().unpoisoned()[&1]);
            let late = scope.spawn(move || flights.once(&1, || unreachable!("the first is under way")));
            // The late one holds the flight, so it waits for this one.
            wait_until("the late one holds the flight", || Arc::strong_count(&flight) >= 4);
            assert_eq!(flights.once(&2, || 8), (8, false), "another key does not wait");
            go_on.send(()).unwrap();
            assert_eq!((first.join().unwrap(), late.join().unwrap()), ((7, false), (7, true)));
        });
        assert_eq!(worked.into_inner(), 1);
        assert_eq!(flights.once(&1, || 9), (9, false), "nothing is remembered");
    }

    #[test]
    fn a_panic_leaves_the_work_to_the_next() {
        let flights = Flights::<u8, u32>::default();
        let panics = std::panic::AssertUnwindSafe(|| flights.once(&1, || panic!("no luck")));
        assert!(std::panic::catch_unwind(panics).is_err());
        assert_eq!(flights.once(&1, || 5), (5, false));
    }
}
