//! Several processes with a folder each: an object is fetched once for all of them, whatever their filters say.
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Condvar, Weak};

use proptest::prelude::*;

use super::*;
use crate::bloom::Digest;
use crate::unpoisoned::Unpoisoned;

/// What a name node and the links between processes do, within one process.
#[derive(Default)]
struct Cluster {
    caches: Mutex<Vec<Weak<Cache>>>,
    /// What others know of each cache.
    filters: Mutex<Vec<Bloom>>,
    leases: Mutex<BTreeMap<Digest, usize>>,
    over: Condvar,
}

#[derive(Clone)]
struct Way {
    cluster: Arc<Cluster>,
    from: usize,
}

impl fmt::Debug for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the way from {}", self.from)
    }
}

impl Peers for Way {
    fn ask(&self, key: &Digest, question: &[u8]) -> Option<Bytes> {
        let caches: Vec<_> = self
            .cluster
            .caches
            .lock()
            .unpoisoned()
            .iter()
            .map(Weak::upgrade)
            .collect();
        let others = (0..caches.len()).filter(|other| *other != self.from);
        let may: Vec<usize> = others
            .filter(|other| self.cluster.filters.lock().unpoisoned()[*other].may_contain(key))
            .collect();
        may.into_iter()
            .find_map(|other| caches[other].as_ref()?.answer(question))
    }

    fn find(&self, key: &Digest, question: &[u8]) -> Option<Bytes> {
        // Under the lock, so that nobody is done between the question and the lease.
        let mut leases = self.cluster.leases.lock().unpoisoned();
        loop {
            let answer = self.ask(key, question);
            if answer.is_some() || !leases.contains_key(key) {
                answer.is_none().then(|| leases.insert(*key, self.from));
                return answer;
            }
            leases = self.cluster.over.wait(leases).unwrap();
        }
    }

    fn brought(&self, key: &Digest, is_here: bool) {
        if is_here {
            self.cluster.filters.lock().unpoisoned()[self.from].insert(key);
        }
        assert_eq!(self.cluster.leases.lock().unpoisoned().remove(key), Some(self.from));
        self.cluster.over.notify_all();
    }
}

/// Caches in folders of their own, joined.
struct Together {
    folder: tempfile::TempDir,
    cluster: Arc<Cluster>,
    caches: Vec<Arc<Cache>>,
    grows: bool,
}

impl Together {
    fn new(count: usize, grows: bool) -> Self {
        let mut together = Self {
            folder: tempfile::tempdir().unwrap(),
            cluster: Arc::default(),
            caches: Vec::new(),
            grows,
        };
        (0..count).for_each(|number| together.open(number));
        together
    }

    /// A new process with the folder of an earlier one, if there was one.
    fn open(&mut self, number: usize) {
        let options = CacheOptions {
            grows_only: if self.grows { vec!["s3://".into()] } else { Vec::new() },
            ..options(&self.folder.path().join(number.to_string()))
        };
        let cache = Arc::new(open(&options));
        let (cluster, from) = (Arc::clone(&self.cluster), number);
        let (mut caches, mut filters) = (cluster.caches.lock().unpoisoned(), cluster.filters.lock().unpoisoned());
        if self.caches.len() == number {
            self.caches.push(Arc::clone(&cache));
            caches.push(Arc::downgrade(&cache));
            filters.push(cache.holdings().1);
        } else {
            self.caches[number] = Arc::clone(&cache);
            caches[number] = Arc::downgrade(&cache);
            filters[number] = cache.holdings().1;
        }
        drop((caches, filters));
        cache.join(Arc::new(Way { cluster, from }));
    }

    fn poison(&self, number: usize, filter: Bloom) {
        self.cluster.filters.lock().unpoisoned()[number] = filter;
    }
}

#[test]
fn an_object_is_fetched_once_for_all() {
    let mut together = Together::new(3, false);
    let remote = Remote::new("s3://b/x", "1", random(13_000_000, 1));
    std::thread::scope(|scope| {
        for cache in &together.caches {
            scope.spawn(|| remote.read_all(cache));
        }
    });
    assert_eq!(remote.fetched_bytes.load(SeqCst), 13_000_000);
    let from_peers: u64 = together.caches.iter().map(|cache| figures(cache).peer_bytes).sum();
    assert_eq!(from_peers, 2 * 13_000_000);
    together.open(1);
    std::fs::remove_dir_all(together.folder.path().join("2")).unwrap();
    together.open(2);
    together.caches.iter().for_each(|cache| _ = remote.read_all(cache));
    assert_eq!(remote.fetched_bytes.load(SeqCst), 13_000_000, "also in new processes");
}

#[test]
fn what_a_peer_has_given_ahead_counts_when_it_is_read() {
    let together = Together::new(2, false);
    let remote = Remote::new("s3://b/x", "1", random(1_000_000, 1));
    remote.read_all(&together.caches[0]);
    let ahead = &together.caches[1];
    ahead.ensure(&remote.version.segment(0), &|range| remote.fetch(range));
    assert_eq!(
        (figures(ahead).peer_bytes, figures(ahead).fetches_avoided),
        (1_000_000, 0)
    );
    assert_eq!(remote.read(ahead, 0..1000), 0);
    assert_eq!(figures(ahead).fetches_avoided, 1);
}

#[test]
fn of_a_grown_object_the_tail_is_fetched_once_whoever_has_what_was_before_it() {
    let together = Together::new(3, true);
    let bytes = random(13_000_000, 1);
    let first = Remote::new("s3://b/x", "1", bytes.clone());
    for (index, cache) in together.caches.iter().enumerate() {
        let start = index as u64 * SEGMENT_BYTES;
        first.read(cache, start..start + 1);
    }
    first.read(&together.caches[0], 12_999_999..13_000_000);
    let grown = Remote::new("s3://b/x", "2", [&bytes[..], &random(784_000, 2)].concat());
    std::thread::scope(|scope| {
        for cache in &together.caches {
            scope.spawn(|| grown.read_all(cache));
        }
    });
    let fetched = grown.fetched_bytes.load(SeqCst);
    assert!(
        (784_000..3_000_000).contains(&fetched),
        "{fetched}: the tail, the first chunk, and one comparison"
    );
}

#[test]
fn the_turn_of_one_who_fails_goes_to_the_next() {
    let together = Together::new(2, false);
    let remote = Remote::new("s3://b/x", "1", random(1_000_000, 1));
    let fail = |_| Err(ObjectError::unsupported("s3://b/x", "it is down"));
    let failed = together.caches[0].read(&remote.version, &(0..10), &fail);
    assert!(failed.is_err());
    assert_eq!(remote.read_all(&together.caches[1]), 1_000_000);
    assert_eq!(remote.read_all(&together.caches[0]), 0);
}

#[test]
fn what_makes_no_sense_has_no_answer() {
    let together = Together::new(1, false);
    let cache = &together.caches[0];
    let remote = Remote::new("s3://b/x", "1", random(5_000_000, 1));
    remote.read_all(cache);
    let segment = remote.version.segment(1);
    let (inside, beyond) = (4_200_000_u64, u64::MAX);
    for (start, end) in [(0, 10), (inside, inside), (inside, inside - 1), (inside, beyond)] {
        let question = postcard::to_stdvec(&(0_u8, &segment, start, end)).unwrap();
        assert_eq!(cache.answer(&question), None, "{start} to {end}");
    }
    let question = postcard::to_stdvec(&(0_u8, &segment, 4_200_000_u64, 4_200_005_u64)).unwrap();
    assert_eq!(
        cache.answer(&question).unwrap(),
        remote.bytes.slice(4_200_000..4_200_005)
    );
    (0..question.len()).for_each(|length| assert_eq!(cache.answer(&question[..length]), None));
}

#[derive(Debug, Clone)]
enum Event {
    Read {
        process: usize,
        object: usize,
        start: u32,
        bytes: u32,
    },
    Grow {
        object: usize,
        bytes: u32,
    },
    Reopen {
        process: usize,
    },
    /// What others know of it from now on.
    Poison {
        process: usize,
        how: u8,
    },
    Lose {
        process: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let (process, object) = (0..3_usize, 0..2_usize);
    prop_oneof![
        8 => (process.clone(), object.clone(), any::<u32>(), any::<u32>())
            .prop_map(|(process, object, start, bytes)| Event::Read { process, object, start, bytes }),
        2 => (object, 1..600_000_u32).prop_map(|(object, bytes)| Event::Grow { object, bytes }),
        1 => process.clone().prop_map(|process| Event::Reopen { process }),
        2 => (process.clone(), any::<u8>()).prop_map(|(process, how)| Event::Poison { process, how }),
        1 => process.prop_map(|process| Event::Lose { process }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn poisoned_filters_of_peers_change_no_byte(events in prop::collection::vec(event(), 1..20), grows in any::<bool>()) {
        let mut together = Together::new(3, grows);
        let remote = |object: usize, version: usize, bytes: Vec<u8>| {
            Remote::new(&format!("s3://b/{object}"), &version.to_string(), bytes)
        };
        let mut remotes: Vec<Remote> = (0..2).map(|object| remote(object, 0, random(3_000_000 * (object + 1), 7))).collect();
        for (step, event) in events.into_iter().enumerate() {
            match event {
                Event::Read { process, object, start, bytes } => {
                    let length = remotes[object].bytes.len() as u64;
                    let start = u64::from(start) % length;
                    let end = start + u64::from(bytes) % (length - start + 1);
                    remotes[object].read(&together.caches[process], start..end);
                }
                Event::Grow { object, bytes } => {
                    let more = random(bytes as usize, u64::from(bytes));
                    remotes[object] = remote(object, step + 1, [&remotes[object].bytes[..], &more].concat());
                }
                Event::Reopen { process } => together.open(process),
                Event::Poison { process, how } => {
                    let filter = match how % 3 {
                        0 => Bloom::all_ones(),
                        1 => Bloom::new(64, 0.01),
                        _ => together.caches[(process + 1) % 3].holdings().1,
                    };
                    together.poison(process, filter);
                }
                Event::Lose { process } => drop(std::fs::remove_dir_all(together.folder.path().join(process.to_string()))),
            }
        }
    }
}
