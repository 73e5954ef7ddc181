//! An object that only grows costs its tail and a comparison.
use super::*;

const URL: &str = "s3://b/logs/x";

fn growing(folder: &Path) -> CacheOptions {
    CacheOptions {
        grows_only: vec!["s3://b/logs/".into()],
        ..options(folder)
    }
}

#[test]
fn of_an_object_that_has_grown_the_tail_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = random(15_000_000, 1);
    let cache = open(&growing(folder.path()));
    Remote::new(URL, "1", bytes.clone()).read_all(&cache);
    for version in 2..5 {
        bytes.extend(random(784_000, version));
        let grown = Remote::new(URL, &version.to_string(), bytes.clone());
        let fetched = grown.read_all(&cache);
        assert!((784_000..3_000_000).contains(&fetched), "{fetched}");
        assert_eq!(grown.read_all(&cache), 0);
    }
}

#[test]
fn a_read_that_a_shorter_version_answers_counts_as_avoided_and_by_its_own_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = random(15_000_000, 1);
    let cache = open(&growing(folder.path()));
    Remote::new(URL, "1", bytes.clone()).read_all(&cache);
    bytes.extend(random(784_000, 2));
    let grown = Remote::new(URL, "2", bytes);
    // The comparison.
    grown.read(&cache, 0..10);
    let before = figures(&cache);
    assert_eq!(grown.read(&cache, SEGMENT_BYTES..SEGMENT_BYTES + 10), 0);
    let after = figures(&cache);
    assert_eq!(
        (
            after.fetches_avoided - before.fetches_avoided,
            after.cache_bytes - before.cache_bytes
        ),
        (1, 10)
    );
}

#[test]
fn a_header_may_change_where_the_rest_only_grows() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = random(6_000_000, 1);
    let cache = open(&growing(folder.path()));
    Remote::new(URL, "1", bytes.clone()).read_all(&cache);
    bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
    bytes.extend(random(10_000, 2));
    let grown = Remote::new(URL, "2", bytes);
    let fetched = grown.read_all(&cache);
    assert!(fetched < 2_600_000, "{fetched}");
}

#[test]
fn a_broken_promise_that_is_noticed_costs_the_whole_object() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = random(6_000_000, 1);
    let cache = open(&growing(folder.path()));
    Remote::new(URL, "1", bytes).read_all(&cache);
    let other = Remote::new(URL, "2", random(7_000_000, 2));
    let fetched = other.read_all(&cache);
    assert!(
        (7_000_000..8_100_000).contains(&fetched),
        "{fetched}: all of it, and what was compared once"
    );
    assert_eq!(other.read_all(&cache), 0);
}

#[test]
fn each_of_the_compared_chunks_counts() {
    let bytes = random(3_000_000, 1);
    let chunks = cut(&bytes, 0);
    let version = Remote::new(URL, "2", [&bytes[..], &random(1_000, 2)].concat()).version;
    let drawn = super::super::growth::drawn(&version, &chunks)
        .copied()
        .collect::<Vec<_>>();
    assert!((1..=2).contains(&drawn.len()));
    for chunk in drawn.into_iter().chain(chunks.last().copied()) {
        let folder = tempfile::tempdir().unwrap();
        let cache = open(&growing(folder.path()));
        Remote::new(URL, "1", bytes.clone()).read_all(&cache);
        let mut changed = [&bytes[..], &random(1_000, 2)].concat();
        changed[chunk.offset as usize + 5] ^= 1;
        let changed = Remote::new(URL, "2", changed);
        assert!(
            changed.read_all(&cache) >= 3_001_000,
            "the change at {} shows",
            chunk.offset
        );
    }
}

#[test]
fn without_the_promise_a_grown_object_is_fetched_whole() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = random(3_000_000, 1);
    let cache = open(&growing(folder.path()));
    Remote::new("s3://b/other", "1", bytes.clone()).read_all(&cache);
    bytes.extend(random(1_000, 2));
    assert_eq!(Remote::new("s3://b/other", "2", bytes).read_all(&cache), 3_001_000);
}

#[test]
fn what_is_known_in_part_is_used_in_part() {
    let folder = tempfile::tempdir().unwrap();
    let mut bytes = random(13_000_000, 1);
    let cache = open(&growing(folder.path()));
    let first = Remote::new(URL, "1", bytes.clone());
    first.read(&cache, 5_000_000..5_000_001);
    bytes.extend(random(1_000, 2));
    let grown = Remote::new(URL, "2", bytes);
    let fetched = grown.read_all(&cache);
    let unknown = 13_001_000 - SEGMENT_BYTES;
    assert!((unknown..unknown + 2_100_000).contains(&fetched), "{fetched}");
    // Of what was evicted since, the list alone is known.
    survey::files(&folder.path().join("chunks")).for_each(|chunks| std::fs::remove_dir_all(chunks).unwrap());
    let grown = Remote::new(URL, "3", [&grown.bytes[..], &[7; 5_000_000]].concat());
    assert!(grown.read_all(&cache) >= 18_001_000);
    assert_eq!(grown.read_all(&cache), 0);
}
