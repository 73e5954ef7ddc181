//! Text files appear whole or not at all.

use std::fs;
use std::path::Path;

use distdl::engine::cluster::chaos::Chaos;
use distdl::engine::testing::{Run, TestCluster};
use distdl::{Context, EngineError, Existing, FileCompression, SaveOptions};
use proptest::prelude::*;

use crate::cluster::faults;
use crate::common::{cases, context};

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn what_is_saved_is_read_again_partition_by_partition(
        lines in prop::collection::vec("[a-zA-Z0-9 äß,]{0,12}", 0..40),
        partitions in 1..6usize,
        threads in 1..=3usize,
    ) {
        let context = context(threads);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let url = path.to_str().unwrap();
        let saved = context.parallelize(lines.clone(), partitions);
        saved.save_as_text_file(url).unwrap();
        saved.save_as_text_file("memory://out").unwrap();
        let mut names: Vec<String> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        let expected: Vec<String> = (0..partitions).map(|partition| format!("part-{partition:05}")).collect();
        prop_assert!(names == expected, "{:?}", names);
        for partition in 0..partitions {
            let start = |partition: usize| partition * lines.len() / partitions;
            let part: String = lines[start(partition)..start(partition + 1)].iter().map(|line| format!("{line}\n")).collect();
            prop_assert_eq!(fs::read_to_string(path.join(format!("part-{partition:05}"))).unwrap(), part);
        }
        for url in [url, "memory://out"] {
            prop_assert_eq!(&context.text_file(url, 3).unwrap().collect().unwrap(), &lines);
        }
    }
}

/// Saves numbers by remainder to `path`, in place of what may be there, behind a shuffle and blocks; one of them may be
/// a bad one.
fn save(context: &Context, path: &Path, numbers: u64, partitions: usize, bad: Option<u64>) -> Result<(), EngineError> {
    let pairs = context.range(0..numbers, 4).map(|x| (x % 11, x));
    let groups = pairs.group_by_key_into(partitions).cache();
    let lines = groups.flat_map(|(key, numbers)| numbers.into_iter().map(move |x| (key, x)));
    let lines = lines.map(move |(key, x)| {
        assert!(Some(x) != bad, "a bad number");
        format!("{key} {x}")
    });
    let existing = Existing::Replace;
    lines.save_as_text_file_with(
        path.to_str().unwrap(),
        SaveOptions {
            existing,
            ..SaveOptions::default()
        },
    )
}

/// Output of before.
fn old(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::write(path.join("part-00099"), "old").unwrap();
}

fn sorted_lines(path: &Path) -> Vec<String> {
    let parts = fs::read_dir(path).unwrap();
    let texts: Vec<String> = parts
        .map(|part| fs::read_to_string(part.unwrap().path()).unwrap())
        .collect();
    let mut lines: Vec<String> = texts.iter().flat_map(|text| text.lines().map(str::to_owned)).collect();
    lines.sort();
    lines
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Numbers to save, parts, processes, faults.
fn savings() -> impl Strategy<Value = (u64, usize, TestCluster)> {
    let processes = prop_oneof![1 => Just(1u32), 3 => Just(3u32)];
    processes.prop_flat_map(|processes| {
        (0..60u64, 1..6usize, 1..=2usize, faults(processes)).prop_map(move |(numbers, parts, threads, faults)| {
            let cluster = TestCluster {
                threads,
                ..TestCluster::new(processes)
            };
            (numbers, parts, cluster.with_chaos(Chaos::parse(&faults).unwrap()))
        })
    })
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn several_processes_save_every_line_once_whoever_dies((numbers, parts, cluster) in savings(), replaces: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        if replaces {
            old(&path);
        }
        let place = path.clone();
        let run = cluster.run(move |context| save(context, &place, numbers, parts, None));
        prop_assert!(run.is_ok(), "{:?} under {}", run.err(), cluster.chaos);
        let mut expected: Vec<String> = (0..numbers).map(|x| format!("{} {x}", x % 11)).collect();
        expected.sort();
        prop_assert_eq!(sorted_lines(&path), expected, "under {}", cluster.chaos);
        let part_names: Vec<String> = (0..parts).map(|part| format!("part-{part:05}")).collect();
        prop_assert_eq!(names(&path), part_names);
        prop_assert_eq!(names(folder.path()), ["out"], "left behind under {}", cluster.chaos);
    }

    #[test]
    fn a_failure_of_several_processes_leaves_nothing_whoever_dies(
        (numbers, parts, cluster) in savings(), bad in 0..60u64, replaces: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let place = path.clone();
        if replaces {
            old(&path);
        }
        let numbers = numbers + bad + 1;
        let run = cluster.run(move |context| Ok(save(context, &place, numbers, parts, Some(bad))));
        let results = run.unwrap().results;
        prop_assert!(!results.is_empty());
        for result in results {
            prop_assert!(matches!(result, Err(EngineError::Panic { .. })), "{:?} under {}", result, cluster.chaos);
        }
        let expected = if replaces { vec!["out"] } else { Vec::new() };
        prop_assert_eq!(names(folder.path()), expected, "left behind under {}", cluster.chaos);
        if replaces {
            prop_assert_eq!(sorted_lines(&path), ["old"], "under {}", cluster.chaos);
        }
    }
}

#[test]
fn several_processes_refuse_what_exists_and_what_they_do_not_share() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("out"), "mine").unwrap();
    let words = |path: &str| {
        let path = path.to_owned();
        let run: Run<Result<(), EngineError>> = TestCluster::new(2)
            .run(move |context| Ok(context.range(0..3, 2).save_as_text_file(&path)))
            .unwrap();
        let errors = run.results.into_iter().map(|result| result.unwrap_err().to_string());
        errors.collect::<Vec<_>>().join(" ")
    };
    let taken = words(folder.path().join("out").to_str().unwrap());
    assert_eq!(taken.matches("exists").count(), 2, "{taken}");
    assert_eq!(names(folder.path()), ["out"]);
    assert_eq!(words("memory://out").matches("all processes see").count(), 2);
}

#[test]
fn several_processes_do_not_replace_what_they_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    old(&path);
    let url = path.to_str().unwrap().to_owned();
    let run: Run<Result<(), EngineError>> = TestCluster::new(2)
        .run(move |context| {
            let replace = SaveOptions {
                existing: Existing::Replace,
                ..SaveOptions::default()
            };
            let read = context.text_file(&url, 2)?.map(|line| line + "!");
            Ok(read.save_as_text_file_with(&url, replace))
        })
        .unwrap();
    for result in run.results {
        let error = result.unwrap_err().to_string();
        assert!(error.contains("part-00099 is read for that"), "{error}");
    }
    assert_eq!(names(&path), ["part-00099"]);
}

/// Cannot be displayed.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Mute;

impl std::fmt::Display for Mute {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Err(std::fmt::Error)
    }
}

#[test]
fn a_record_that_cannot_be_displayed_is_an_error_and_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mute = context(1).range(0..3, 1).map(|_| Mute);
    let error = mute.save_as_text_file(path.to_str().unwrap()).unwrap_err().to_string();
    assert!(error.contains("Mute has no text form"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_panic_half_way_leaves_nothing() {
    for threads in 1..=3 {
        let context = context(threads);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let bad = context.range(0..100, 8).map(|x| {
            assert!(x != 77, "no");
            x
        });
        for url in [path.to_str().unwrap(), "memory://out"] {
            assert!(matches!(bad.save_as_text_file(url), Err(EngineError::Panic { .. })));
            assert!(context.text_file(url, 1).is_err());
        }
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            0,
            "something was left behind"
        );
        context
            .range(0..3, 2)
            .save_as_text_file(path.to_str().unwrap())
            .unwrap();
        assert_eq!(fs::read_to_string(path.join("part-00001")).unwrap(), "1\n2\n");
    }
}

#[test]
fn what_exists_is_not_overwritten() {
    let context = context(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let numbers = context.range(0..3, 1);
    for url in [path.to_str().unwrap(), "memory://out"] {
        numbers.save_as_text_file(url).unwrap();
        assert!(matches!(
            numbers.map(|x| x + 1).save_as_text_file(url),
            Err(EngineError::Storage(_))
        ));
        assert_eq!(context.text_file(url, 1).unwrap().collect().unwrap(), ["0", "1", "2"]);
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_dataset_replaces_what_it_is_read_from() {
    let context = context(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let url = path.to_str().unwrap();
    let replace = SaveOptions {
        existing: Existing::Replace,
        ..SaveOptions::default()
    };
    context.range(0..9, 3).save_as_text_file_with(url, replace).unwrap();
    for partitions in 1..4 {
        let read = context.text_file(url, partitions).unwrap();
        let bad = read.map(|line| {
            assert!(line != "8", "no");
            line
        });
        assert!(bad.save_as_text_file_with(url, replace).is_err());
        read.save_as_text_file_with(url, replace).unwrap();
        let expected: Vec<String> = (0..9).map(|number| number.to_string()).collect();
        assert_eq!(context.text_file(url, 2).unwrap().collect().unwrap(), expected);
        assert_eq!((names(&path).len(), names(folder.path()).len()), (partitions, 1));
    }
    let gzip = SaveOptions {
        compression: FileCompression::Gzip,
        ..replace
    };
    let error = context
        .parallelize([vec![1_u8]], 1)
        .save_as_npy_file_with(url, &[1], gzip);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("npy files are not compressed as a whole")
    );
    let rows = context.parallelize([vec![1_u8]], 1);
    rows.save_as_npy_file_with(url, &[1], replace).unwrap();
    assert_eq!(names(&path), ["part-00000.npy"]);
    let error = context
        .range(0..9, 3)
        .save_as_text_file_with("memory://out", replace)
        .unwrap_err();
    assert!(error.to_string().contains("no store but a local folder"), "{error}");
}
