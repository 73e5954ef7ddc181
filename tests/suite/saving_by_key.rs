//! Pairs are saved into a folder for each key, whole or not at all, and read again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use distdl::engine::cluster::chaos::Chaos;
use distdl::engine::testing::TestCluster;
use distdl::storage::remote::{key_folder, key_of_name};
use distdl::{Context, CsvOptions, EngineError, Existing, FileCompression, SaveOptions};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cluster::faults;
use crate::common::{cases, context};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    number: u32,
    text: String,
}

const REPLACE: SaveOptions = SaveOptions {
    existing: Existing::Replace,
    compression: FileCompression::None,
};

/// The text of each file below a folder, by its name within.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(
                files(&entry.path())
                    .into_iter()
                    .map(|(within, text)| (format!("{name}/{within}"), text)),
            ),
            false => drop(found.insert(name, fs::read_to_string(entry.path()).unwrap())),
        }
    }
    found
}

/// What is to be saved of pairs that `parallelize` has cut.
fn expected(pairs: &[(String, u32)], partitions: usize) -> BTreeMap<String, String> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for partition in 0..partitions {
        let start = |partition: usize| partition * pairs.len() / partitions;
        for (key, value) in &pairs[start(partition)..start(partition + 1)] {
            let name = format!("{}/part-{partition:05}", key_folder("key", key).unwrap());
            files.entry(name).or_default().push_str(&format!("{value}\n"));
        }
    }
    if files.is_empty() {
        files.insert("_SUCCESS".into(), String::new());
    }
    files
}

fn sorted<T: Clone>(records: &[T], key: impl Fn(&T) -> (String, u32)) -> Vec<(String, u32)> {
    let mut sorted: Vec<_> = records.iter().map(key).collect();
    sorted.sort();
    sorted
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn pairs_lie_in_the_folders_of_their_keys_and_are_read_again(
        pairs in prop::collection::vec(("[a./%=_*ä\n ]{0,3}", 0..1000u32), 0..40), partitions in 1..6usize, threads in 1..=3usize,
    ) {
        let context = context(threads);
        let folder = tempfile::tempdir().unwrap();
        let url = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let saved = context.parallelize(pairs.clone(), partitions);
        let options = SaveOptions::default();
        saved.save_as_text_file_by_key(&url("text"), "key", options).unwrap();
        prop_assert_eq!(files(&folder.path().join("text")), expected(&pairs, partitions));
        saved.save_as_text_file_by_key("memory://text", "key", options).unwrap();
        if pairs.is_empty() {
            return Ok(());
        }
        let key = |name: &str| key_of_name(name, "key").unwrap();
        let before = sorted(&pairs, Clone::clone);
        for url in [url("text"), "memory://text".to_owned()] {
            let read = context.text_file_with_names(&format!("{url}/*/part-*"), 3).unwrap().collect().unwrap();
            prop_assert_eq!(sorted(&read, |(name, line)| (key(name), line.parse().unwrap())), before.clone());
        }
        let zstd = SaveOptions { compression: FileCompression::Zstd, ..options };
        let rows = saved.map_values(|number| Row { number, text: format!("\"{number},") });
        let row = |(name, row): &(String, Row)| {
            assert_eq!(row.text, format!("\"{},", row.number));
            (key(name), row.number)
        };
        rows.save_as_json_lines_file_by_key(&url("json"), "key", zstd).unwrap();
        let read = context.json_lines_with_names::<Row>(&url("json/key=*/*.jsonl.zst"), 3).unwrap();
        prop_assert_eq!(sorted(&read.collect().unwrap(), row), before.clone());
        let csv = CsvOptions::default();
        rows.save_as_csv_file_by_key(&url("csv"), "key", &csv, options).unwrap();
        let read = context.csv_with_names::<Row>(&url("csv/**/*.csv"), csv, 3).unwrap();
        prop_assert_eq!(sorted(&read.collect().unwrap(), row), before.clone());
        #[cfg(feature = "parquet")]
        {
            rows.save_as_parquet_file_by_key(&url("parquet"), "key", options).unwrap();
            let read = context.parquet::<Row>(&url("parquet/*/*.parquet"), distdl::ParquetOptions::default(), 3).unwrap();
            let numbers = |numbers: Vec<u32>| { let mut numbers = numbers; numbers.sort(); numbers };
            let read = numbers(read.map(|row| row.number).collect().unwrap());
            prop_assert_eq!(read, numbers(pairs.iter().map(|(_, number)| *number).collect()));
        }
    }
}

/// Saves numbers by remainder in place of what may be there, behind a shuffle and blocks; one may be a bad one.
fn save(context: &Context, path: &Path, numbers: u64, partitions: usize, bad: Option<u64>) -> Result<(), EngineError> {
    let pairs = context.range(0..numbers, 4).map(|x| (x % 5, x));
    let groups = pairs.group_by_key_into(partitions).cache();
    let pairs = groups.flat_map(|(key, numbers)| numbers.into_iter().map(move |x| (format!("{key}/"), x)));
    let pairs = pairs.map(move |(key, x)| {
        assert!(Some(x) != bad, "a bad number");
        (key, x)
    });
    pairs.save_as_text_file_by_key(path.to_str().unwrap(), "rest", REPLACE)
}

/// Output of before.
fn old(path: &Path) -> BTreeMap<String, String> {
    for folder in ["rest=old", "rest=1%2F"] {
        fs::create_dir_all(path.join(folder)).unwrap();
        fs::write(path.join(folder).join("part-00099"), "old").unwrap();
    }
    files(path)
}

fn savings() -> impl Strategy<Value = (u64, usize, TestCluster)> {
    (0..40u64, 1..6usize, faults(3)).prop_map(|(numbers, parts, faults)| {
        let cluster = TestCluster::new(3).with_chaos(Chaos::parse(&faults).unwrap());
        (numbers, parts, cluster)
    })
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn several_processes_save_every_pair_once_whoever_dies((numbers, parts, cluster) in savings(), replaces: bool) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        if replaces {
            old(&path);
        }
        let place = path.clone();
        let run = cluster.run(move |context| save(context, &place, numbers, parts, None));
        prop_assert!(run.is_ok(), "{:?} under {}", run.err(), cluster.chaos);
        let alone = folder.path().join("alone");
        save(&context(2), &alone, numbers, parts, None).unwrap();
        let saved = files(&path);
        prop_assert_eq!(&saved, &files(&alone), "under {}", cluster.chaos);
        let lines: usize = saved.values().map(|text| text.lines().count()).sum();
        prop_assert_eq!(lines as u64, numbers);
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "left behind under {}", cluster.chaos);
    }

    #[test]
    fn a_failure_of_several_processes_leaves_what_was_there_whoever_dies(
        (numbers, parts, cluster) in savings(), bad in 0..40u64, replaces: bool,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let before = replaces.then(|| old(&path));
        let (place, numbers) = (path.clone(), numbers + bad + 1);
        let run = cluster.run(move |context| Ok(save(context, &place, numbers, parts, Some(bad))));
        for result in run.unwrap().results {
            prop_assert!(matches!(result, Err(EngineError::Panic { .. })), "{:?} under {}", result, cluster.chaos);
        }
        prop_assert_eq!(path.exists().then(|| files(&path)), before);
        prop_assert_eq!(fs::read_dir(folder.path()).unwrap().count(), usize::from(replaces), "under {}", cluster.chaos);
    }
}

#[test]
fn outputs_by_key_and_others_replace_each_other_and_nothing_else() {
    let context = context(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let url = path.to_str().unwrap();
    let pairs = context.parallelize([("a".to_owned(), 1), ("b".to_owned(), 2)], 1);
    let names = || files(&path).into_keys().collect::<Vec<_>>();
    for _ in 0..2 {
        pairs.save_as_text_file_by_key(url, "k", REPLACE).unwrap();
        assert_eq!(names(), ["k=a/part-00000", "k=b/part-00000"]);
        pairs
            .filter(|_| false)
            .save_as_text_file_by_key(url, "k", REPLACE)
            .unwrap();
        assert_eq!(names(), ["_SUCCESS"]);
        pairs.values().save_as_text_file_with(url, REPLACE).unwrap();
        assert_eq!(names(), ["part-00000"]);
    }
    assert!(
        pairs
            .save_as_text_file_by_key(url, "k", SaveOptions::default())
            .is_err()
    );
    fs::create_dir(path.join("k=c")).unwrap();
    fs::write(path.join("k=c/mine"), "mine").unwrap();
    let error = pairs
        .save_as_text_file_by_key(url, "k", REPLACE)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`k=c/mine` in it is no part"), "{error}");
    assert_eq!(names(), ["k=c/mine", "part-00000"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn keys_have_limits_and_nothing_is_left_where_they_are_passed() {
    let context = context(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let url = path.to_str().unwrap();
    let save = |keys: u64| {
        let pairs = context.range(0..keys, 1).map(|x| (x, x));
        pairs.save_as_text_file_by_key(url, "k", REPLACE)
    };
    let error = save(1001).unwrap_err().to_string();
    assert!(
        error.contains("more than 1000 keys") && error.contains("`partition_by`"),
        "{error}"
    );
    let long = context.parallelize([("x".repeat(254), 1)], 1);
    let error = long
        .save_as_text_file_by_key(url, "k", REPLACE)
        .unwrap_err()
        .to_string();
    assert!(error.contains("at most 255 bytes"), "{error}");
    let error = long
        .save_as_text_file_by_key(url, "a/b", REPLACE)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`a/b` is not a usable name"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    save(1000).unwrap();
    assert_eq!(files(&path).len(), 1000);
}
