//! What a process lets all of its cluster read: figures about itself, for example.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use distdl_storage::Unpoisoned;

use crate::error::panic_text;

/// What a process says, by the number of the notice.
pub(crate) type Said = BTreeMap<u64, Bytes>;

/// Bytes that a process says under one number, at most.
const BYTES_MAX: usize = 4 << 10;
/// Numbers under which it says something, at most.
const COUNT_MAX: usize = 64;

/// What gives what there is to say, until that is nothing any more.
type Speaker = Arc<dyn Fn() -> Option<Bytes> + Send + Sync>;

/// The notices of a process.
#[derive(Default)]
pub(crate) struct Notices {
    next: AtomicU64,
    speakers: Mutex<BTreeMap<u64, Speaker>>,
}

impl std::fmt::Debug for Notices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.speakers().keys()).finish()
    }
}

impl Notices {
    /// A number that no other notice has.
    pub(crate) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// From now on `speaker` says something under a number. Returns whether there is room for it.
    pub(crate) fn add(&self, number: u64, speaker: Speaker) -> bool {
        let mut speakers = self.speakers();
        let has_room = speakers.len() < COUNT_MAX || speakers.contains_key(&number);
        if has_room {
            speakers.insert(number, speaker);
        }
        has_room
    }

    pub(crate) fn remove(&self, number: u64) {
        self.speakers().remove(&number);
    }

    /// What is said now. What is too long is left out, and who panics is asked no more.
    pub(crate) fn said(&self) -> Said {
        // They are asked without the lock, since they may take their time.
        let speakers = self.speakers().clone();
        let mut said = Said::new();
        for (number, speaker) in speakers {
            match catch_unwind(AssertUnwindSafe(|| speaker())) {
                Ok(Some(bytes)) if bytes.len() <= BYTES_MAX => drop(said.insert(number, bytes)),
                Ok(Some(bytes)) => tracing::warn!("a notice of {} bytes, more than {BYTES_MAX}", bytes.len()),
                Ok(None) => {}
                Err(panic) => {
                    tracing::warn!(
                        "a notice is asked no more: it has panicked: {}",
                        panic_text(panic.as_ref())
                    );
                    self.remove(number);
                }
            }
        }
        said
    }

    fn speakers(&self) -> MutexGuard<'_, BTreeMap<u64, Speaker>> {
        self.speakers.lock().unpoisoned()
    }
}

/// Errors if a process has said more than it can.
pub(crate) fn check(said: &Said) -> Result<(), String> {
    let longest = said.values().map(Bytes::len).max().unwrap_or(0);
    match said.len() <= COUNT_MAX && longest <= BYTES_MAX {
        true => Ok(()),
        false => Err(format!(
            "it has {} notices of up to {longest} bytes, more than the {COUNT_MAX} of {BYTES_MAX} allowed",
            said.len()
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    fn says(bytes: &'static [u8]) -> Speaker {
        Arc::new(move || Some(Bytes::from_static(bytes)))
    }

    #[test]
    fn the_newest_of_a_number_is_said_until_it_ends() {
        let notices = Notices::default();
        assert_eq!([notices.number(), notices.number()], [0, 1]);
        for (number, bytes) in [(0, b"1"), (1, b"2"), (0, b"3")] {
            assert!(notices.add(number, says(bytes)));
        }
        let all = [(0, Bytes::from_static(b"3")), (1, Bytes::from_static(b"2"))];
        assert_eq!(notices.said(), BTreeMap::from(all));
        assert!(notices.add(1, Arc::new(|| None)));
        assert_eq!(notices.said().into_keys().collect::<Vec<_>>(), [0]);
        notices.remove(0);
        assert_eq!(notices.said(), BTreeMap::new());
    }

    #[test]
    fn what_is_too_long_or_too_much_or_panics_is_left_out() {
        let notices = Notices::default();
        for number in 0..COUNT_MAX as u64 {
            assert!(notices.add(number, says(b"")));
        }
        assert!(!notices.add(COUNT_MAX as u64, says(b"")));
        let long = |bytes: usize| Arc::new(move || Some(Bytes::from(vec![0; bytes])));
        assert!(notices.add(0, long(BYTES_MAX)));
        assert!(notices.add(1, long(BYTES_MAX + 1)));
        assert!(notices.add(2, Arc::new(|| panic!("no words"))));
        let said = notices.said();
        assert_eq!(said.len(), COUNT_MAX - 2);
        assert!(said.contains_key(&0) && !said.contains_key(&1) && !said.contains_key(&2));
        assert!(check(&said).is_ok());
        // There is room again.
        assert!(notices.add(COUNT_MAX as u64, says(b"")));
        let many = (0..=COUNT_MAX as u64).map(|number| (number, Bytes::new()));
        assert!(check(&many.collect()).is_err());
        assert!(check(&Said::from([(0, Bytes::from(vec![0; BYTES_MAX + 1]))])).is_err());
    }
}
