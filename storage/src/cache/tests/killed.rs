//! A process that is killed while it writes leaves nothing that is believed.
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;
use crate::testing::wait_until;

const FOLDER: &str = "DISTDL_TEST_CACHE_FOLDER";

fn remotes() -> Vec<Remote> {
    (0..4)
        .map(|seed| Remote::new(&format!("s3://b/{seed}"), "1", random(3_000_000, seed)))
        .collect()
}

/// The process that is killed: it keeps, evicts and keeps, until it is. Without the variable it does nothing.
#[test]
fn victim() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let options = CacheOptions {
        bytes_max: 7_000_000,
        ..options(Path::new(&folder))
    };
    let cache = open(&options);
    loop {
        for remote in remotes() {
            println!("reading");
            remote.read_all(&cache);
        }
    }
}

/// A chunk has the hash that names it, and a list its own.
fn assert_whole(file: &Path) {
    let bytes = std::fs::read(file).unwrap();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    let named = name(file.parent().unwrap()) + &name(file);
    let is_chunk = blake3::hash(&bytes).to_hex().as_str() == named;
    assert!(
        is_chunk || ChunkList::decode(&bytes).is_some(),
        "{} is torn",
        file.display()
    );
}

#[test]
fn sigkill_at_any_moment_leaves_nothing_that_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..8 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cache::tests::killed::victim", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Kept until the end: with nobody to read its lines the victim would end by itself.
        let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines();
        let begun = lines
            .by_ref()
            .map_while(Result::ok)
            .filter(|line| line.contains("reading"));
        assert_eq!(begun.take(round + 1).count(), round + 1, "it is at work");
        // In every other round it is in the middle of writing.
        let before = kept(folder.path());
        wait_until("the victim keeps another file", || {
            round % 2 == 0 || kept(folder.path()).iter().any(|file| !before.contains(file))
        });
        victim.kill().unwrap();
        victim.wait().unwrap();
        kept(folder.path()).iter().for_each(|file| assert_whole(file));
        let cache = open(&CacheOptions {
            bytes_max: 7_000_000,
            ..options(folder.path())
        });
        let unfinished = survey::files(&folder.path().join("unfinished")).count();
        assert_eq!((unfinished, cache.folder.bytes_used()), (0, kept_bytes(folder.path())));
        for remote in remotes() {
            remote.read_all(&cache);
        }
        assert_eq!(figures(&cache).chunks_damaged, 0, "what has a name is whole");
    }
}
