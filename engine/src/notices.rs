//! What a process lets all of its cluster read: figures about itself, for example.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Bytes of a notice, at most.
const BYTES_MAX: usize = 4 << 10;
/// Notices of a process, at most.
const COUNT_MAX: usize = 64;

/// What gives a notice as it is now, until there is none any more.
type Notice = Arc<dyn Fn() -> Option<Bytes> + Send + Sync>;

/// The notices of a process, by name.
#[derive(Default)]
pub struct Notices(Mutex<BTreeMap<String, Notice>>);

impl std::fmt::Debug for Notices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_set().entries(self.all().keys()).finish()
    }
}

impl Notices {
    /// From now on there is this one, in the place of one of that name before. Returns whether there is room for it.
    pub(crate) fn publish(&self, name: String, notice: Notice) -> bool {
        let mut all = self.all();
        let has_room = all.len() < COUNT_MAX || all.contains_key(&name);
        if has_room {
            all.insert(name, notice);
        }
        has_room
    }

    /// What they say now. Those that give nothing any more are forgotten, and those that are too long are left out.
    pub(crate) fn read(&self) -> BTreeMap<String, Bytes> {
        // They are asked without the lock, since they may take their time.
        let all = self.all().clone();
        let mut said = BTreeMap::new();
        for (name, notice) in all {
            match notice() {
                Some(bytes) if bytes.len() <= BYTES_MAX => drop(said.insert(name, bytes)),
                Some(bytes) => tracing::warn!(name, bytes = bytes.len(), "a notice of more than {BYTES_MAX} bytes"),
                None => self.forget(&name, &notice),
            }
        }
        said
    }

    /// Unless another one has taken its place.
    fn forget(&self, name: &str, notice: &Notice) {
        let mut all = self.all();
        if all.get(name).is_some_and(|now| Arc::ptr_eq(now, notice)) {
            all.remove(name);
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Notice>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(bytes: &'static [u8]) -> Notice {
        Arc::new(move || Some(Bytes::from_static(bytes)))
    }

    #[test]
    fn the_newest_of_a_name_is_read_until_it_is_over() {
        let notices = Notices::default();
        assert!(notices.publish("one".into(), says(b"1")));
        assert!(notices.publish("two".into(), says(b"2")));
        assert!(notices.publish("one".into(), says(b"3")));
        let read = |bytes: &'static [u8]| Bytes::from_static(bytes);
        let all = [("one".to_owned(), read(b"3")), ("two".to_owned(), read(b"2"))];
        assert_eq!(notices.read(), BTreeMap::from(all));
        assert!(notices.publish("two".into(), Arc::new(|| None)));
        assert_eq!(notices.read().into_keys().collect::<Vec<_>>(), ["one"]);
        assert_eq!(notices.all().len(), 1);
    }

    #[test]
    fn what_is_too_long_or_too_much_is_left_out() {
        let notices = Notices::default();
        for count in 0..COUNT_MAX {
            assert!(notices.publish(count.to_string(), says(b"")));
        }
        assert!(!notices.publish("more".into(), says(b"")));
        let long = |bytes: usize| Arc::new(move || Some(Bytes::from(vec![0; bytes])));
        assert!(notices.publish("0".into(), long(BYTES_MAX)));
        assert!(notices.publish("1".into(), long(BYTES_MAX + 1)));
        let read = notices.read();
        assert_eq!(read.len(), COUNT_MAX - 1);
        assert!(read.contains_key("0") && !read.contains_key("1"));
    }
}
