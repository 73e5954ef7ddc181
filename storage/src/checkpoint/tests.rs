//! A checkpoint is whole or invisible, and its blobs are what was written or an error.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use object_store::memory::InMemory;

use super::*;
use crate::manifest::Commits;
use crate::remote::ObjectStore;
use crate::testing::{FaultStore, StoreFaults, WriteFault};

const PARTITIONS: usize = 3;

fn bytes(partition: usize) -> Bytes {
    Bytes::from(vec![partition as u8 + 1; 20 + partition])
}

fn write(checkpoint: &Checkpoint) -> Result<Vec<Blob>> {
    checkpoint.begin()?;
    let blobs = (0..PARTITIONS).map(|partition| checkpoint.write(bytes(partition)));
    let blobs = blobs.collect::<Result<Vec<Blob>>>()?;
    checkpoint.publish(&blobs)?;
    Ok(blobs)
}

fn within(store: &Arc<dyn ObjectStore>) -> Checkpoint {
    Checkpoint {
        folder: ObjectFolder::within(&Stores::new(), Arc::clone(store), "kept/one").unwrap(),
        name: "checkpoint-00.json".to_owned(),
    }
}

#[test]
fn a_death_before_or_after_any_write_leaves_all_or_nothing_and_the_next_run_is_not_hindered() {
    // What says that it has begun, its blobs, and its manifest.
    for after in 0..PARTITIONS as u64 + 2 {
        for fault in [
            WriteFault::DieBefore,
            WriteFault::DieAfter,
            WriteFault::FailAfter,
            WriteFault::Twice,
        ] {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let faults = StoreFaults::new();
            faults.on_write(after, fault);
            let faulty: Arc<dyn ObjectStore> = Arc::new(FaultStore::new(Arc::clone(&store), faults));
            let written = write(&within(&faulty));
            assert_eq!(written.is_ok(), fault == WriteFault::Twice, "{fault:?} at {after}");
            let whole = after == PARTITIONS as u64 + 1 && fault != WriteFault::DieBefore || fault == WriteFault::Twice;
            let found = within(&store).find(PARTITIONS).unwrap();
            assert_eq!(found.is_some(), whole, "{fault:?} at {after}");
            let blobs = write(&within(&store)).unwrap();
            let found = within(&store).find(PARTITIONS).unwrap().unwrap();
            assert_eq!((found.blobs, found.missing), (blobs, vec![]));
        }
    }
}

#[test]
fn commits_in_the_same_folder_spare_a_checkpoint_that_is_being_written() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let checkpoint = within(&store);
    let commits = Commits::within(&Stores::new(), Arc::clone(&store), "kept/one").unwrap();
    let commit = |content: &'static str| {
        let blobs = BTreeMap::from([("model".to_owned(), Bytes::from(content))]);
        commits.begin(&blobs).unwrap().publish().unwrap();
        commits.keep(1).unwrap();
    };
    checkpoint.begin().unwrap();
    let blobs = [checkpoint.write(bytes(0)).unwrap()];
    commit("one");
    assert_eq!(checkpoint.read(0, &blobs[0]).unwrap(), bytes(0), "before it is whole");
    checkpoint.publish(&blobs).unwrap();
    commit("two");
    assert_eq!(checkpoint.read(0, &blobs[0]).unwrap(), bytes(0));
    assert!(
        !checkpoint.folder.has(&checkpoint.begun()).unwrap(),
        "it has begun no more"
    );
}

/// Or it would keep the blobs of all commits that were ever given up.
#[test]
fn commits_in_the_same_folder_wait_for_a_checkpoint_until_nothing_was_written_for_a_day() {
    for (hours, stays) in [([30, 20], true), ([30, 30], false)] {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().to_str().unwrap();
        let checkpoint = Checkpoint::open(&Stores::new(), url, &[7; 32]).unwrap();
        checkpoint.begin().unwrap();
        let blobs = [0, 1].map(|partition| checkpoint.write(bytes(partition)).unwrap());
        let names = blobs.each_ref().map(Blob::object);
        for (hours, name) in [hours[0], hours[0], hours[1]]
            .iter()
            .zip([&checkpoint.begun(), &names[0], &names[1]])
        {
            let file = fs::File::options().write(true).open(folder.path().join(name)).unwrap();
            let changed = SystemTime::now() - Duration::from_secs(hours * 3600);
            file.set_modified(changed).unwrap();
        }
        let commits = Commits::open(&Stores::new(), url).unwrap();
        let model = BTreeMap::from([("model".to_owned(), Bytes::from("one"))]);
        commits.begin(&model).unwrap().publish().unwrap();
        commits.keep(1).unwrap();
        let is_there = names.map(|name| folder.path().join(name).exists());
        assert_eq!(is_there, [stays; 2], "{hours:?} hours ago");
    }
}

#[test]
fn every_flipped_byte_and_every_cut_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let checkpoint = Checkpoint::open(&Stores::new(), url, &[7; 32]).unwrap();
    let blobs = write(&checkpoint).unwrap();
    let whole = |partition: usize| checkpoint.read(partition, &blobs[partition]);
    assert_eq!(whole(1).unwrap(), bytes(1));
    let path = folder.path().join(blobs[1].object());
    for index in 0..bytes(1).len() {
        let mut damaged = bytes(1).to_vec();
        damaged[index] ^= 4;
        fs::write(&path, &damaged).unwrap();
        let error = whole(1).unwrap_err().to_string();
        assert!(error.contains("partition 1") && error.contains("remove it"), "{error}");
        assert_eq!(
            checkpoint.find(PARTITIONS).unwrap().unwrap().missing,
            Vec::<usize>::new()
        );
        fs::write(&path, &bytes(1)[..index]).unwrap();
        assert!(matches!(whole(1), Err(StorageError::DamagedCheckpoint { .. })));
        assert_eq!(
            checkpoint.find(PARTITIONS).unwrap().unwrap().missing,
            [1],
            "cut at {index}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert!(whole(1).unwrap_err().to_string().contains("it is missing"));
    assert_eq!(checkpoint.find(PARTITIONS).unwrap().unwrap().missing, [1]);
    assert_eq!(whole(2).unwrap(), bytes(2), "the others are as they were");
}

#[test]
fn a_manifest_that_is_damaged_is_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let checkpoint = Checkpoint::open(&Stores::new(), url, &[7; 32]).unwrap();
    write(&checkpoint).unwrap();
    let path = folder.path().join(&checkpoint.name);
    let text = fs::read(&path).unwrap();
    for index in (0..text.len()).step_by(7) {
        let mut damaged = text.clone();
        damaged[index] ^= 1;
        for damaged in [&damaged[..], &text[..index]] {
            fs::write(&path, damaged).unwrap();
            assert_eq!(checkpoint.find(PARTITIONS).unwrap(), None, "at {index}");
        }
        write(&checkpoint).unwrap();
        assert_eq!(fs::read(&path).unwrap(), text);
    }
    let other = Checkpoint::open(&Stores::new(), url, &[8; 32]).unwrap();
    fs::copy(&path, folder.path().join(&other.name)).unwrap();
    assert_eq!(
        other.find(PARTITIONS).unwrap(),
        None,
        "the manifest of another computation"
    );
    assert_eq!(checkpoint.find(PARTITIONS + 1).unwrap(), None);
}

#[test]
fn another_result_of_the_same_computation_is_refused() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let checkpoint = within(&store);
    let mut blobs = write(&checkpoint).unwrap();
    blobs.swap(0, 2);
    let error = checkpoint.publish(&blobs).unwrap_err().to_string();
    assert!(
        error.contains("checkpoint-00.json") && error.contains("another URL"),
        "{error}"
    );
    checkpoint.publish(&write(&checkpoint).unwrap()).unwrap();
}

#[test]
fn files_that_another_writer_fills_stay_and_those_that_nobody_has_touched_for_long_go() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(&Stores::new(), folder.path().to_str().unwrap(), &[7; 32]).unwrap();
    let hours_ago = |hours: u64, name: String| {
        let path = folder.path().join(name);
        let changed = SystemTime::now() - Duration::from_secs(hours * 3600);
        fs::File::create(&path).unwrap().set_modified(changed).unwrap();
        path
    };
    // Another computation may have a partition of the same bytes.
    let kept = [Blob::of(b"another").object(), Blob::of(&bytes(0)).object()];
    let kept = kept.map(|name| hours_ago(20, format!("{name}#1")));
    let left = hours_ago(30, format!("{}#2", Blob::of(b"another").object()));
    write(&checkpoint).unwrap();
    assert!(kept.iter().all(|path| path.exists()));
    assert!(!left.exists());
}

#[test]
fn more_partitions_than_a_manifest_has_room_for_are_refused_before_one_is_written() {
    let checkpoint = within(&(Arc::new(InMemory::new()) as Arc<dyn ObjectStore>));
    assert_eq!(checkpoint.find(BLOBS_MAX).unwrap(), None);
    let error = checkpoint.find(BLOBS_MAX + 1).unwrap_err().to_string();
    assert!(error.contains("at most 262144 partitions"), "{error}");
}
