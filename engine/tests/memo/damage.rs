//! Whatever happens to the folder, a result is right.

use std::fs;
use std::path::Path;

use distdl_engine::{Config, Context, EngineError};
use distdl_storage::Level;

use crate::pipeline::*;

const FILES: usize = 8;

/// Runs the pipeline; checks its result and says which partitions it has computed.
fn run(config: Config, files: &Path) -> Vec<usize> {
    let ledger = Ledger::default();
    let context = Context::new(config).unwrap();
    let words = words(&context, files, FILES, &ledger)
        .unwrap()
        .memoize("words", 1)
        .unwrap();
    let plain: Vec<String> = (0..FILES)
        .flat_map(|file| [format!("word{file}"), format!("word{}", file % 7), "all".to_owned()])
        .collect();
    assert_eq!(words.collect().unwrap(), plain);
    ledger.take()
}

#[test]
fn a_damaged_block_costs_its_computation_and_no_other() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 5] = [
        ("deleted", |file| fs::remove_file(file).unwrap()),
        ("emptied", |file| fs::write(file, "").unwrap()),
        ("cut", |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("altered", |file| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(file, bytes).unwrap();
        }),
        ("grown", |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, [bytes, vec![0]].concat()).unwrap();
        }),
    ];
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), FILES);
    assert_eq!(run(config(cache.path()), files.path()).len(), FILES);
    for (what, damage) in damages {
        for file in remembered(cache.path()).iter().step_by(3) {
            damage(file);
            assert_eq!(run(config(cache.path()), files.path()).len(), 1, "{what}");
            assert_eq!(run(config(cache.path()), files.path()).len(), 0, "mended: {what}");
        }
    }
}

#[test]
fn a_whole_block_under_the_name_of_another_is_not_believed() {
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), FILES);
    run(config(cache.path()), files.path());
    let blocks = remembered(cache.path());
    fs::copy(&blocks[0], &blocks[1]).unwrap();
    assert_eq!(run(config(cache.path()), files.path()).len(), 1);
}

/// Damage between the plan and the reading of it, also where blocks cannot be removed.
#[test]
fn what_is_damaged_while_the_program_runs_is_computed_again() {
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), FILES);
    run(config(cache.path()), files.path());
    for level in [Level::Disk, Level::Memory, Level::MemoryAndDisk] {
        let (context, ledger) = (context(cache.path()), Ledger::default());
        let words = words(&context, files.path(), FILES, &ledger)
            .unwrap()
            .memoize("words", 1)
            .unwrap()
            .persist(level);
        let expected = words.collect().unwrap();
        assert_eq!(ledger.take(), [0; 0]);
        context.store().remove_dataset(words.id().0).unwrap();
        let _ = words.explain(); // Finds them again.
        fs::remove_dir_all(cache.path().join("computed")).unwrap();
        assert_eq!(words.collect().unwrap(), expected);
        assert_eq!(ledger.take().len(), FILES);
        assert_eq!(words.collect().unwrap(), expected);
        assert_eq!(ledger.take(), [0; 0]);
        assert_eq!(
            run(config(cache.path()), files.path()),
            [0; 0],
            "the folder was made anew"
        );
    }
}

#[test]
fn a_folder_that_cannot_be_written_costs_what_it_would_have_kept() {
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), FILES);
    let (context, ledger) = (context(cache.path()), Ledger::default());
    let words = words(&context, files.path(), FILES, &ledger)
        .unwrap()
        .memoize("words", 1)
        .unwrap();
    fs::remove_dir_all(cache.path().join("computed")).unwrap();
    fs::write(cache.path().join("computed"), "a file in its place").unwrap();
    let first = words.collect().unwrap();
    assert_eq!(words.collect().unwrap(), first);
    assert_eq!(
        ledger.take().len(),
        FILES,
        "what is not remembered is persisted all the same"
    );
    assert_eq!(context.store().memo().unwrap().figures().blocks_not_kept, FILES as u64);
    let other = Context::new(config(cache.path())).unwrap();
    let error = other.range(0..9, 2).memoize("x", 1).unwrap_err().to_string();
    assert!(error.contains("computed"), "{error}");
}

#[test]
fn a_budget_is_kept_and_what_it_evicts_is_computed_again() {
    let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_files(files.path(), FILES);
    for bytes_max in [0, 1, 4096, 4 * 4096, 8 * 4096] {
        let config = || config(cache.path()).with_memo_bytes_max(bytes_max);
        run(config(), files.path());
        let kept = remembered(cache.path());
        let counted = |file: &std::path::PathBuf| file.metadata().unwrap().len().next_multiple_of(4096);
        let bytes: u64 = kept.iter().map(counted).sum();
        assert!(bytes <= bytes_max, "{bytes} bytes are kept of {bytes_max}");
        // Those that are found may be pushed out by those that are not, before they are read.
        assert!(run(config(), files.path()).len() >= FILES - kept.len());
    }
}

/// Lineage is gone after a cut, so what was kept must not go when other runs need room.
#[test]
fn what_is_kept_for_good_does_not_depend_on_the_folder_that_runs_share() {
    for level in [Level::MemoryAndDisk, Level::Disk] {
        let (files, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write_files(files.path(), FILES);
        // So small a memory that nothing stays there.
        let context = Context::new(config(cache.path()).with_memory_bytes_max(64)).unwrap();
        let words = words(&context, files.path(), FILES, &Ledger::default()).unwrap();
        let words = words.memoize("words", 1).unwrap().persist(level);
        let all = words.collect().unwrap();
        let kept = words.local_checkpoint().unwrap();
        for file in remembered(cache.path()) {
            std::fs::remove_file(file).unwrap();
        }
        assert_eq!(kept.collect().unwrap(), all);
        assert_eq!(kept.map(|word| word).collect().unwrap(), all);
    }
}

/// What it writes has no name for which of the two it is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u64),
    Text(String),
}

/// Blocks of memoized datasets are in memory as well, and nothing is read back there. What is not in memory cannot be
/// computed again after the cut.
#[test]
fn records_that_cannot_be_read_back_after_a_cut_are_an_error_unless_they_are_in_memory() {
    for (level, memory_bytes_max, is_in_memory) in [
        (Level::MemoryAndDisk, 1 << 30, true),
        (Level::MemoryAndDisk, 64, false),
        (Level::Disk, 1 << 30, false),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let context = Context::new(config(cache.path()).with_memory_bytes_max(memory_bytes_max)).unwrap();
        let numbers = context.range(0..10, 2).map(Untagged::Number).memoize("numbers", 1);
        let numbers = numbers.unwrap().persist(level).local_checkpoint().unwrap();
        for _ in 0..2 {
            match (numbers.count(), is_in_memory) {
                (Ok(count), true) => assert_eq!(count, 10),
                (Err(error), false) => {
                    let says = error.to_string();
                    assert!(says.contains("Untagged") && says.contains("`untagged`"), "{says}");
                }
                (other, _) => panic!("{level:?} in {memory_bytes_max} bytes: {other:?}"),
            }
        }
    }
}

fn damage_all(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => damage_all(&path),
            false => fs::write(path, "damaged").unwrap(),
        }
    }
}

#[test]
fn files_that_are_damaged_after_a_cut_are_an_error_unless_their_blocks_are_in_memory() {
    for (memory_bytes_max, is_in_memory) in [(1 << 30, true), (64, false)] {
        let (cache, spill) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let config = config(cache.path()).with_memory_bytes_max(memory_bytes_max);
        let context = Context::new(config.with_spill_folder(spill.path())).unwrap();
        let words = context.range(0..10, 2).map(|x| format!("word {x}"));
        let words = words.memoize("words", 1).unwrap().local_checkpoint().unwrap();
        remembered(cache.path())
            .iter()
            .for_each(|file| fs::write(file, "damaged").unwrap());
        assert_eq!(words.count().unwrap(), 10, "the store has files of its own");
        damage_all(spill.path());
        for _ in 0..2 {
            match (words.count(), is_in_memory) {
                (Ok(count), true) => assert_eq!(count, 10),
                (Err(EngineError::LineageCut { partition: 0..2, .. }), false) => {}
                (other, _) => panic!("{memory_bytes_max} bytes: {other:?}"),
            }
        }
    }
}
