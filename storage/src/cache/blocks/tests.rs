//! What is read is what was kept, or nothing, whatever happens to the folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::SeqCst;

use super::super::survey;
use super::*;
use crate::testing::wait_until;

const FOLDER: &str = "DISTDL_TEST_BLOCKS_FOLDER";

fn open(folder: &Path, bytes_max: u64) -> Blocks {
    let options = CacheOptions {
        bytes_max,
        ..CacheOptions::new(folder)
    };
    Blocks::open(&options, &Arc::default()).unwrap()
}

fn key(number: u64) -> Digest {
    *blake3::hash(&number.to_le_bytes()).as_bytes()
}

/// Bytes that tell which block they are.
fn bytes(number: u64, length: usize) -> Vec<u8> {
    key(number).iter().copied().cycle().take(length).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    survey::files(&folder.join("blocks"))
        .flat_map(|folder| survey::files(&folder))
        .collect()
}

/// What they count for.
fn file_bytes(folder: &Path) -> u64 {
    let counted = |file: &PathBuf| survey::counted(file.metadata().unwrap().len());
    files(folder).iter().map(counted).sum()
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_block_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = open(folder.path(), 1 << 20);
    let whole = bytes(1, 40);
    let mut damaged = 0;
    for position in 0..72 {
        for cut in [false, true] {
            blocks.keep(&key(1), whole.clone()).unwrap();
            assert_eq!(blocks.read(&key(1)).unwrap().unwrap(), whole);
            let file = files(folder.path()).pop().unwrap();
            let mut found = fs::read(&file).unwrap();
            assert_eq!(found.len(), 72);
            found[position] ^= 1 << (position % 8);
            if cut {
                found.truncate(position);
            }
            fs::write(&file, found).unwrap();
            damaged += 1;
            assert_eq!(blocks.read(&key(1)).unwrap(), None, "{position} {cut}");
            assert_eq!(blocks.counters.chunks_damaged.get(), damaged);
            assert!(!file.exists(), "what is damaged is removed");
        }
    }
}

#[test]
fn a_filter_of_ones_or_of_another_folder_changes_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = open(folder.path(), 1 << 20);
    blocks.keep(&key(1), bytes(1, 9)).unwrap();
    assert!(blocks.has(&key(1)) && !blocks.has(&key(2)));
    assert_eq!(blocks.counters.bloom_absent.get(), 1);
    blocks.folder.set_bloom(Bloom::all_ones());
    assert!(blocks.has(&key(1)) && !blocks.has(&key(2)));
    assert_eq!(blocks.counters.bloom_false_positives.get(), 1, "found out by looking");
    let mut other = Bloom::new(64, 0.01);
    other.insert(&key(7));
    blocks.folder.set_bloom(other);
    assert!(!blocks.has(&key(7)));
    assert_eq!(blocks.read(&key(7)).unwrap(), None);
    assert_eq!(blocks.read(&key(1)).unwrap(), Some(bytes(1, 9)));
}

#[test]
fn a_full_disk_keeps_nothing_torn_and_can_be_used_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = open(folder.path(), 1 << 20);
    for left in [0, 1, 999, 1031] {
        blocks.folder.disk_bytes_left.store(left, SeqCst);
        blocks.keep(&key(1), bytes(1, 1000)).unwrap_err();
        assert_eq!((blocks.read(&key(1)).unwrap(), files(folder.path()).len()), (None, 0));
        assert_eq!(survey::files(&folder.path().join("unfinished")).count(), 0);
    }
    blocks.folder.disk_bytes_left.store(u64::MAX, SeqCst);
    blocks.keep(&key(1), bytes(1, 1000)).unwrap();
    assert_eq!(blocks.read(&key(1)).unwrap(), Some(bytes(1, 1000)));
    assert_eq!(blocks.folder.bytes_used(), 4096);
}

/// A block is longer than a chunk may be, and counts for all its bytes in every process.
#[test]
fn processes_that_share_a_folder_share_its_budget() {
    let folder = tempfile::tempdir().unwrap();
    let budget = 8_000_000;
    let all = [open(folder.path(), budget), open(folder.path(), budget)];
    for number in 0..12 {
        let length = 1_300_000 + number as usize;
        all[(number % 2) as usize]
            .keep(&key(number), bytes(number, length))
            .unwrap();
        assert!(file_bytes(folder.path()) <= budget, "after block {number}");
        let other = &all[(1 - number % 2) as usize];
        other.catch_up();
        // It does not hear of evictions, and looks before it evicts.
        assert!(other.folder.bytes_used() >= file_bytes(folder.path()));
        assert!(other.has(&key(number)) && other.read(&key(number)).unwrap() == Some(bytes(number, length)));
    }
    assert!(!all[0].has(&key(0)), "the least recently used goes first");
    let before = file_bytes(folder.path());
    all[0].keep(&key(99), bytes(99, 8_000_000)).unwrap_err();
    assert_eq!(
        file_bytes(folder.path()),
        before,
        "nothing goes for what does not fit at all"
    );
}

#[test]
fn the_same_block_twice_takes_its_room_once() {
    let folder = tempfile::tempdir().unwrap();
    let all = [open(folder.path(), 10_000), open(folder.path(), 10_000)];
    all[0].keep(&key(1), bytes(1, 1000)).unwrap();
    all[1].keep(&key(2), bytes(2, 1000)).unwrap();
    all[1].keep(&key(1), bytes(1, 1000)).unwrap();
    all[0].catch_up();
    assert_eq!((all[0].folder.bytes_used(), all[1].folder.bytes_used()), (8192, 8192));
    assert!(all.iter().all(|blocks| blocks.has(&key(1)) && blocks.has(&key(2))));
}

/// The process that is killed: it keeps and evicts, until it is. Without the variable it does nothing.
#[test]
fn victim() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let blocks = open(Path::new(&folder), 5_000_000);
    for number in 0.. {
        println!("keeping");
        blocks.keep(&key(number), bytes(number, 700_000)).unwrap();
    }
}

#[test]
fn sigkill_in_a_write_leaves_nothing_that_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let by_key: BTreeMap<Digest, u64> = (0..10_000).map(|number| (key(number), number)).collect();
    for round in 0..6 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::blocks::tests::victim", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Kept until the end: with nobody to read its lines the victim would end by itself.
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let begun = lines.by_ref().map_while(std::io::Result::ok);
        let begun = begun.filter(|line| line.contains("keeping")).take(round + 1);
        assert_eq!(begun.count(), round + 1, "it is at work");
        // In every other round it is in the middle of a file.
        let unfinished = || survey::files(&folder.path().join("unfinished")).count();
        wait_until("the victim is writing a file", || round % 2 == 0 || unfinished() > 0);
        victim.kill().unwrap();
        victim.wait().unwrap();
        let blocks = open(folder.path(), 5_000_000);
        assert_eq!(
            (unfinished(), blocks.folder.bytes_used()),
            (0, file_bytes(folder.path()))
        );
        for file in files(folder.path()) {
            let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
            let named = blake3::Hash::from_hex(name(file.parent().unwrap()) + &name(&file)).unwrap();
            let number = by_key[named.as_bytes()];
            assert_eq!(
                blocks.read(named.as_bytes()).unwrap(),
                Some(bytes(number, 700_000)),
                "what has a name is whole"
            );
        }
    }
}
