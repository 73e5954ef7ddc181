//! A commit is whole or invisible, whatever happens between its writes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod kept;
mod model;

use std::fs;
use std::path::PathBuf;
use std::thread;

use object_store::memory::InMemory;

use super::*;
use crate::testing::{FaultStore, ReadFault, StoreFaults, WriteFault};

fn blobs(seed: u64) -> BTreeMap<String, Bytes> {
    let bytes = |length: usize| Bytes::from(vec![seed as u8; length]);
    BTreeMap::from([
        ("description".to_owned(), Bytes::from(format!("commit of {seed}"))),
        ("values".to_owned(), bytes(100)),
        ("always the same".to_owned(), Bytes::from_static(b"constant")),
    ])
}

fn commit(commits: &Commits, seed: u64) -> Result<u64> {
    commits.begin(&blobs(seed))?.publish()
}

/// A store in memory, and ways into it: without faults, and with those of a script.
struct Shared {
    store: Arc<dyn ObjectStore>,
    stores: Stores,
}

impl Shared {
    fn new() -> Self {
        Self {
            store: Arc::new(InMemory::new()),
            stores: Stores::new(),
        }
    }

    fn commits(&self) -> Commits {
        Commits::within(&self.stores, Arc::clone(&self.store), "runs/one").unwrap()
    }

    fn faulty(&self) -> (Commits, StoreFaults) {
        let faults = StoreFaults::new();
        let store = FaultStore::new(Arc::clone(&self.store), faults.clone());
        (
            Commits::within(&self.stores, Arc::new(store), "runs/one").unwrap(),
            faults,
        )
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .commits()
            .folder
            .list()
            .unwrap()
            .into_iter()
            .map(|found| found.name)
            .collect();
        names.sort();
        names
    }
}

/// A folder with two commits.
fn folder() -> (tempfile::TempDir, Commits) {
    let folder = tempfile::tempdir().unwrap();
    let commits = Commits::open(&Stores::new(), folder.path().join("a b/run").to_str().unwrap()).unwrap();
    assert_eq!(
        commits.latest().unwrap(),
        None,
        "a folder that does not exist has no commits"
    );
    assert_eq!((commit(&commits, 1).unwrap(), commit(&commits, 2).unwrap()), (0, 1));
    (folder, commits)
}

fn file(folder: &tempfile::TempDir, name: &str) -> PathBuf {
    folder.path().join("a b/run").join(name)
}

/// Files of the commit 1 and of no other.
fn own_files(commits: &Commits) -> Vec<String> {
    let shared: BTreeSet<String> = commits.manifest(0).unwrap().objects().collect();
    let own = commits.manifest(1).unwrap();
    let own = own.objects().filter(|name| !shared.contains(name));
    own.chain([manifest_name(1)]).collect()
}

#[test]
fn what_is_committed_is_read_back() {
    for url in [None, Some("memory://runs/one")] {
        let folder = tempfile::tempdir().unwrap();
        let url = url.unwrap_or(folder.path().to_str().unwrap());
        let stores = Stores::new();
        let commits = Commits::open(&stores, url).unwrap();
        for seed in 0..3 {
            assert_eq!(commit(&commits, seed).unwrap(), seed);
            let latest = Commits::open(&stores, url).unwrap().latest().unwrap().unwrap();
            assert_eq!((latest.number, latest.blobs), (seed, blobs(seed)));
            assert!(latest.passed_over.is_empty());
        }
        assert_eq!(commits.read(1).unwrap().blobs, blobs(1));
        assert!(matches!(
            commits.read(9),
            Err(StorageError::NoSuchCommit { number: 9, .. })
        ));
    }
}

#[test]
fn a_manifest_is_a_text_that_people_can_read() {
    let (folder, _) = folder();
    let text = fs::read_to_string(file(&folder, "manifest-0000000001.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["manifest"]["number"], 1);
    assert_eq!(value["manifest"]["blobs"]["values"]["bytes"], 100);
}

#[test]
fn what_is_not_published_is_invisible() {
    let shared = Shared::new();
    let commits = shared.commits();
    drop(commits.begin(&blobs(1)).unwrap());
    assert_eq!(commits.latest().unwrap(), None);
    commit(&commits, 2).unwrap();
    drop(commits.begin(&blobs(3)).unwrap());
    assert_eq!(commits.latest().unwrap().unwrap().blobs, blobs(2));
}

#[test]
fn a_death_before_or_after_any_write_leaves_a_whole_commit() {
    for after in 0..20 {
        for fault in [WriteFault::DieBefore, WriteFault::DieAfter] {
            let shared = Shared::new();
            commit(&shared.commits(), 1).unwrap();
            let (commits, faults) = shared.faulty();
            faults.on_write(after, fault);
            let died = commit(&commits, 2).and_then(|_| commits.keep(1));
            let latest = shared.commits().latest().unwrap().unwrap();
            // Three blobs and a manifest.
            let committed = after > 3 || (after, fault) == (3, WriteFault::DieAfter);
            assert_eq!(
                latest.blobs,
                blobs(if committed { 2 } else { 1 }),
                "{fault:?} at {after}"
            );
            assert_eq!(died.is_err(), faults.writes_count() > after, "{fault:?} at {after}");
            // The next writer is not hindered by what was left, and removes it.
            for seed in 3..6 {
                commit(&shared.commits(), seed).unwrap();
                shared.commits().keep(2).unwrap();
            }
            assert_eq!(shared.commits().latest().unwrap().unwrap().blobs, blobs(5));
            assert_eq!(shared.names().len(), 2 + 2 * 2 + 1, "{:?}", shared.names());
        }
    }
}

#[test]
fn a_write_that_was_done_twice_is_known_again() {
    for after in 0..4 {
        let shared = Shared::new();
        let (commits, faults) = shared.faulty();
        faults.on_write(after, WriteFault::Twice);
        assert_eq!(commit(&commits, 1).unwrap(), 0);
        assert_eq!(commits.numbers().unwrap(), [0]);
    }
}

#[test]
fn what_an_older_commit_held_becomes_the_newest_when_it_is_committed_again() {
    let shared = Shared::new();
    let commits = shared.commits();
    for (number, seed) in [1, 2, 1, 1].into_iter().enumerate() {
        // The last one is what is there already.
        assert_eq!(commit(&commits, seed).unwrap(), number.min(2) as u64);
        assert_eq!(commits.latest().unwrap().unwrap().blobs, blobs(seed));
    }
}

#[test]
fn a_commit_that_is_tried_again_is_done_once() {
    for after in 0..4 {
        let shared = Shared::new();
        let (commits, faults) = shared.faulty();
        faults.on_write(after, WriteFault::FailAfter);
        commit(&commits, 1).unwrap_err();
        assert_eq!(commit(&commits, 1).unwrap(), 0);
        assert_eq!(commit(&shared.commits(), 1).unwrap(), 0, "by another writer as well");
        assert_eq!(commits.numbers().unwrap(), [0]);
    }
}

#[test]
fn of_writers_that_want_one_number_one_gets_it_and_the_others_may_try_again() {
    let shared = Shared::new();
    let until_committed = |commits: &Commits, seed| loop {
        match commit(commits, seed) {
            Err(StorageError::CommitRace { .. }) => {}
            done => return done.unwrap(),
        }
    };
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let commits = shared.commits();
            thread::spawn(move || {
                (0..5)
                    .map(|seed| until_committed(&commits, 10 * writer + seed))
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let mut numbers: Vec<u64> = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).collect::<Vec<_>>());
    let found: BTreeSet<Bytes> = numbers
        .iter()
        .map(|number| shared.commits().read(*number).unwrap().blobs["description"].clone())
        .collect();
    assert_eq!(found.len(), 20);
}

#[test]
fn a_writer_that_slept_does_not_commit_what_is_outdated() {
    let shared = Shared::new();
    let (commits, faults) = shared.faulty();
    let unpublished = commits.begin(&blobs(1)).unwrap();
    commit(&shared.commits(), 2).unwrap();
    let error = unpublished.publish().unwrap_err();
    assert!(matches!(error, StorageError::CommitRace { number: 0, .. }), "{error}");
    assert_eq!(shared.commits().read(0).unwrap().blobs, blobs(2));
    // A listing that lacks the newest commits does not matter.
    faults.hide_from_listings(1);
    assert_eq!(commits.latest().unwrap().unwrap().number, 0);
    assert_eq!(commit(&commits, 3).unwrap(), 1);
    // Another one did its work meanwhile, and more.
    let (same, outdated) = (blobs(3), blobs(2));
    assert_eq!(commits.begin_after(Some(0), &same).unwrap().publish().unwrap(), 1);
    assert!(commits.begin_after(Some(0), &outdated).unwrap().publish().is_err());
    assert_eq!(commits.begin_after(Some(1), &outdated).unwrap().publish().unwrap(), 2);
    // Its number may be free again, as what had it was removed.
    faults.hide_from_listings(0);
    commits.keep_without(3, Some(1)).unwrap();
    let error = commits.begin_after(Some(0), &blobs(4)).unwrap().publish().unwrap_err();
    assert!(matches!(error, StorageError::CommitRace { number: 1, .. }), "{error}");
    assert_eq!(commits.numbers().unwrap(), [2]);
}

#[test]
fn a_store_that_is_busy_is_an_error_and_costs_no_commit() {
    let shared = Shared::new();
    (1..=2).for_each(|seed| assert!(commit(&shared.commits(), seed).is_ok()));
    let (names, (commits, faults)) = (shared.names(), shared.faulty());
    // The newest manifest, and each of its blobs.
    for read in 0..4 {
        faults.on_read(read, ReadFault::Busy);
        let error = commits.latest().unwrap_err();
        assert!(matches!(error, StorageError::Object(_)), "read {read}: {error}");
    }
    faults.on_read(0, ReadFault::Busy);
    assert!(commits.keep(1).is_err(), "that commit may be whole");
    let unpublished = commits.begin(&blobs(2)).unwrap();
    faults.on_read(0, ReadFault::Busy);
    assert!(unpublished.publish().is_err(), "it may be of the same blobs");
    assert_eq!(shared.names(), names);
}

#[test]
fn a_cut_file_is_passed_over_and_named() {
    let (folder, commits) = folder();
    for name in own_files(&commits) {
        let path = file(&folder, &name);
        let whole = fs::read(&path).unwrap();
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            fs::write(&path, &whole[..length]).unwrap();
            let latest = commits.latest().unwrap().unwrap();
            assert_eq!((latest.number, latest.blobs), (0, blobs(1)));
            assert!(latest.passed_over[0].contains(&name), "{:?}", latest.passed_over);
        }
        fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
        assert_eq!(commits.latest().unwrap().unwrap().number, 0, "longer");
        fs::remove_file(&path).unwrap();
        assert_eq!(commits.latest().unwrap().unwrap().number, 0, "gone");
        fs::write(&path, whole).unwrap();
        assert_eq!(commits.latest().unwrap().unwrap().number, 1);
    }
}

#[test]
fn a_flipped_bit_is_found_wherever_it_is() {
    let (folder, commits) = folder();
    for name in own_files(&commits) {
        let path = file(&folder, &name);
        let whole = fs::read(&path).unwrap();
        for bit in (0..whole.len() * 8).step_by(7) {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            assert_eq!(commits.latest().unwrap().unwrap().number, 0, "{name}, bit {bit}");
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(commits.latest().unwrap().unwrap().number, 1);
}

#[test]
fn a_manifest_under_another_number_is_refused() {
    let (folder, commits) = folder();
    fs::copy(file(&folder, &manifest_name(0)), file(&folder, &manifest_name(5))).unwrap();
    let latest = commits.latest().unwrap().unwrap();
    assert_eq!(latest.number, 1);
    assert!(
        latest.passed_over[0].contains("its number is 0"),
        "{:?}",
        latest.passed_over
    );
    assert_eq!(
        commit(&commits, 3).unwrap(),
        6,
        "a number that is taken is not used again"
    );
}

#[test]
fn a_whole_manifest_that_says_what_it_cannot_mean_is_passed_over() {
    let (folder, commits) = folder();
    let manifest = commits.manifest(1).unwrap();
    let mut other_format = manifest.clone();
    other_format.format += 1;
    let mut no_hash = manifest;
    let values = no_hash.blobs.get_mut("values").unwrap();
    values.blake3 = values.blake3.to_uppercase();
    for (manifest, reason) in [(other_format, "format"), (no_hash, "hash is none")] {
        fs::write(file(&folder, &manifest_name(1)), seal(&manifest)).unwrap();
        let latest = commits.latest().unwrap().unwrap();
        assert_eq!(latest.number, 0);
        assert!(latest.passed_over[0].contains(reason), "{:?}", latest.passed_over);
    }
}

#[test]
fn files_with_names_like_those_of_commits_are_none() {
    let (folder, commits) = folder();
    for name in [
        "manifest-7.json",
        "manifest-+000000007.json",
        "manifest-00000000007.json",
    ] {
        fs::write(file(&folder, name), b"{}").unwrap();
    }
    assert_eq!(commits.numbers().unwrap(), [0, 1]);
}

#[test]
fn without_a_whole_commit_there_is_an_error_that_names_them() {
    let (folder, commits) = folder();
    for number in 0..2 {
        fs::write(file(&folder, &manifest_name(number)), b"{}").unwrap();
    }
    let error = commits.latest().unwrap_err();
    assert!(matches!(error, StorageError::NoWholeCommit { count: 2, .. }));
    let text = error.to_string();
    assert!(
        text.contains("manifest-0000000000.json") && text.contains("manifest-0000000001.json"),
        "{text}"
    );
    assert!(!text.contains("computed again"), "{text}");
}

#[test]
fn a_damaged_blob_is_mended_by_the_next_commit_that_has_it() {
    let (folder, commits) = folder();
    let constant = Blob::of(b"constant").object();
    fs::write(file(&folder, &constant), b"damaged!").unwrap();
    assert!(matches!(commits.latest(), Err(StorageError::NoWholeCommit { .. })));
    commit(&commits, 3).unwrap();
    assert_eq!(commits.read(1).unwrap().blobs, blobs(2));
}

#[test]
fn files_that_a_killed_writer_left_are_removed() {
    let (folder, commits) = folder();
    let left = file(&folder, &format!("{}#1", Blob::of(b"constant").object()));
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    let unfinished = fs::File::create(&left).unwrap();
    unfinished.set_modified(long_ago).unwrap();
    let others = ["notes.txt", "results#2", "blob-of-mine"].map(|name| file(&folder, name));
    for other in &others {
        fs::File::create(other).unwrap().set_modified(long_ago).unwrap();
    }
    fs::create_dir(file(&folder, "blob-runs#1")).unwrap();
    commits.keep(1).unwrap();
    assert!(!left.exists() && others.iter().all(|other| other.exists()));
}

#[test]
fn a_full_or_forbidden_place_is_an_error_and_leaves_the_old_commit() {
    let shared = Shared::new();
    commit(&shared.commits(), 1).unwrap();
    for after in 0..4 {
        let (commits, faults) = shared.faulty();
        faults.on_write(after, WriteFault::Full);
        let error = commit(&commits, 2).unwrap_err();
        assert!(error.to_string().contains("could not write it"), "{error}");
        faults.on_write(after, WriteFault::Forbidden);
        let error = commit(&commits, 2).unwrap_err();
        assert!(
            matches!(error, StorageError::Object(ObjectError::NoPermission { .. })),
            "{error}"
        );
        assert_eq!(shared.commits().latest().unwrap().unwrap().blobs, blobs(1));
    }
}

#[test]
fn a_folder_is_the_same_by_whatever_path() {
    let (folder, commits) = folder();
    let run = file(&folder, "");
    let at = |path: PathBuf| Commits::open(&Stores::new(), path.to_str().unwrap()).unwrap();
    for path in [run.join("../run"), run.join("not there/../../run"), run.join("./.")] {
        assert_eq!(at(path).numbers().unwrap(), commits.numbers().unwrap());
    }
    {
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&run, &link).unwrap();
        assert_eq!(
            at(link.join("../run")).numbers().unwrap(),
            [0, 1],
            "beside what it links to"
        );
    }
}

#[test]
fn a_place_that_is_none_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("file");
    fs::write(&taken, b"x").unwrap();
    let stores = Stores::new();
    let commits = Commits::open(&stores, taken.join("run").to_str().unwrap()).unwrap();
    assert!(commit(&commits, 1).is_err());
    for url in ["", "http://localhost/x", "ftp://server/x"] {
        assert!(Commits::open(&stores, url).is_err(), "{url}");
    }
    let (long, many) = (
        "x".repeat(NAME_BYTES_MAX + 1),
        (0..=BLOBS_MAX).map(|name| name.to_string()),
    );
    let commits = Commits::open(&stores, "memory://x").unwrap();
    for names in [vec![String::new()], vec![long], many.collect()] {
        let blobs = names.into_iter().map(|name| (name, Bytes::new())).collect();
        assert!(commits.begin(&blobs).is_err());
    }
    assert_eq!(commits.latest().unwrap(), None);
}

#[test]
fn blobs_of_a_checkpointed_computation_in_the_same_folder_stay() {
    let (folder, commits) = folder();
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    let other = file(&folder, &Blob::of(b"a partition").object());
    let write_long_ago = || {
        fs::write(&other, b"a partition").unwrap();
        fs::File::open(&other).unwrap().set_modified(long_ago).unwrap();
    };
    let computation = file(&folder, &format!("{COMPUTATION}0123.json"));
    fs::write(&computation, b"{}").unwrap();
    write_long_ago();
    commits.keep(1).unwrap();
    assert!(other.exists());
    fs::remove_file(&computation).unwrap();
    commits.keep(1).unwrap();
    assert!(!other.exists(), "nobody names it");
}
