//! Anything that may happen, in any order, against plain bytes.
use std::fs;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    Read {
        object: usize,
        start: u32,
        bytes: u32,
    },
    /// A new version, longer by so much.
    Grow {
        object: usize,
        bytes: u32,
    },
    /// A new version with one byte changed. Not of objects that only grow.
    Change {
        object: usize,
        at: u32,
    },
    /// Cut, alter or remove a file.
    Damage {
        file: usize,
        how: u8,
    },
    DeleteFolder,
    /// Another process, and which of two reads from now on.
    Reopen {
        cache: usize,
    },
    /// The filter is all ones, another worker's, or an old one of its own.
    Poison {
        cache: usize,
        how: u8,
    },
    /// The next fetch fails.
    FailFetch {
        object: usize,
    },
    FillDisk {
        bytes_left: u64,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let object = 0..3_usize;
    prop_oneof![
        8 => (object.clone(), any::<u32>(), any::<u32>()).prop_map(|(object, start, bytes)| Event::Read { object, start, bytes }),
        3 => (object.clone(), 0..600_000_u32).prop_map(|(object, bytes)| Event::Grow { object, bytes }),
        2 => (object.clone(), any::<u32>()).prop_map(|(object, at)| Event::Change { object, at }),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(file, how)| Event::Damage { file, how }),
        1 => Just(Event::DeleteFolder),
        2 => (0..2_usize).prop_map(|cache| Event::Reopen { cache }),
        2 => (0..2_usize, 0..3_u8).prop_map(|(cache, how)| Event::Poison { cache, how }),
        1 => object.prop_map(|object| Event::FailFetch { object }),
        1 => prop_oneof![Just(u64::MAX), 0..500_000_u64].prop_map(|bytes_left| Event::FillDisk { bytes_left }),
    ]
}

fn damage(file: &Path, how: u8) {
    let Ok(mut bytes) = fs::read(file) else { return };
    match how % 3 {
        0 => bytes.truncate(usize::from(how)),
        1 if !bytes.is_empty() => {
            let at = usize::from(how) * 997 % bytes.len();
            bytes[at] ^= 1 << (how % 8);
        }
        _ => return fs::remove_file(file).unwrap(),
    }
    fs::write(file, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn reads_are_what_plain_bytes_are(
        events in prop::collection::vec(event(), 1..24), bytes_max in 100_000..20_000_000_u64, grows in any::<bool>(),
    ) {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("cache");
        let options = CacheOptions {
            bytes_max,
            grows_only: if grows { vec!["s3://b/".into()] } else { Vec::new() },
            ..options(&folder)
        };
        let mut versions = 0;
        let mut remote = |object: usize, bytes: Vec<u8>| {
            versions += 1;
            Remote::new(&format!("s3://b/{object}"), &versions.to_string(), bytes)
        };
        let mut remotes: Vec<Remote> =
            (0..3).map(|object| remote(object, random(200_000 + 2_100_000 * object, object as u64))).collect();
        let mut caches = [open(&options), open(&options)];
        let old_filter = caches[0].folder.bloom();
        let mut reader = 0;
        for event in events {
            match event {
                Event::Read { object, start, bytes } => {
                    let length = remotes[object].bytes.len() as u64;
                    let start = u64::from(start) % length;
                    let end = start + u64::from(bytes) % (length - start + 1);
                    if !remotes[object].fails.load(SeqCst) {
                        remotes[object].read(&caches[reader], start..end);
                    } else if let Ok(bytes) = remotes[object].try_read(&caches[reader], start..end) {
                        let expected = &remotes[object].bytes[start as usize..end as usize];
                        prop_assert!(bytes == expected, "what is here is given without a fetch");
                    }
                    prop_assert!(kept_bytes(&folder) <= bytes_max);
                }
                Event::Grow { object, bytes } => {
                    let more = random(bytes as usize, u64::from(bytes));
                    remotes[object] = remote(object, [&remotes[object].bytes[..], &more].concat());
                }
                Event::Change { object, at } if !grows => {
                    let mut bytes = remotes[object].bytes.to_vec();
                    let at = at as usize % bytes.len();
                    bytes[at] ^= 0x20;
                    remotes[object] = remote(object, bytes);
                }
                Event::Change { .. } => {}
                Event::Damage { file, how } => {
                    let files = kept(&folder);
                    if !files.is_empty() {
                        damage(&files[file % files.len()], how);
                    }
                }
                Event::DeleteFolder => drop(fs::remove_dir_all(&folder)),
                Event::Reopen { cache } => {
                    caches[cache] = open(&options);
                    reader = cache;
                }
                Event::Poison { cache, how } => caches[cache].folder.set_bloom(match how {
                    0 => Bloom::all_ones(),
                    1 => Bloom::of([[7; 32], remotes[0].version.segment(0).key()].iter(), 0.01),
                    _ => old_filter.clone(),
                }),
                Event::FailFetch { object } => remotes[object].fails.store(true, SeqCst),
                Event::FillDisk { bytes_left } => {
                    caches.iter().for_each(|cache| cache.folder.disk_bytes_left.store(bytes_left, SeqCst));
                }
            }
        }
    }
}
