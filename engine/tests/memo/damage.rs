//! Whatever happens to the folder, a result is right.

use std::fs;
use std::path::Path;

use distdl_engine::{Config, Context};
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
