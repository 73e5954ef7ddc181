//! What is saved in a format is read again, and what is read does not depend on partitions, threads or deaths.

use std::fs;
use std::path::Path;
use std::process::Command;

use distdl::engine::cluster::chaos::Chaos;
use distdl::engine::testing::TestCluster;
use distdl::{Config, Context, CsvOptions, EngineError, FileCompression, SaveOptions, TextOptions};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use crate::cluster::faults;
use crate::common::{batch_records, cases, context, small_batches};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    name: String,
    count: Option<i64>,
    tags: Vec<u32>,
}

/// A row whose fields are plain values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    name: String,
    count: Option<i64>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let tags = prop::collection::vec(any::<u32>(), 0..3);
    let row = ("[a-z \"\\né]{0,5}", proptest::option::of(any::<i64>()), tags);
    let row = row.prop_map(|(name, count, tags)| Row { name, count, tags });
    prop::collection::vec(row, 0..30)
}

fn part_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn expected_names(partitions: usize, ending: &str) -> Vec<String> {
    (0..partitions)
        .map(|partition| format!("part-{partition:05}{ending}"))
        .collect()
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn what_is_saved_is_read_again(
        rows in rows(), partitions in 1..6usize, read_partitions in 1..6usize, threads in 1..=3usize, batch_records in batch_records(),
    ) {
        let context = small_batches(threads, batch_records);
        let folder = tempfile::tempdir().unwrap();
        let url = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let saved = context.parallelize(rows.clone(), partitions);

        for url in [url("json"), "memory://json".to_owned()] {
            saved.save_as_json_lines_file(&url).unwrap();
            prop_assert_eq!(&context.json_lines::<Row>(&url, read_partitions).unwrap().collect().unwrap(), &rows);
        }
        prop_assert_eq!(part_names(&folder.path().join("json")), expected_names(partitions, ".jsonl"));

        let options = CsvOptions { quoted_newlines: true, header: partitions % 2 == 0, ..CsvOptions::default() };
        let flat: Vec<Flat> = rows.iter().map(|row| Flat { name: row.name.clone(), count: row.count }).collect();
        context.parallelize(flat.clone(), partitions).save_as_csv_file(&url("csv"), &options).unwrap();
        prop_assert_eq!(&context.csv::<Flat>(&url("csv"), options, read_partitions).unwrap().collect().unwrap(), &flat);
        prop_assert_eq!(part_names(&folder.path().join("csv")), expected_names(partitions, ".csv"));

        let numbers: Vec<Vec<i64>> = rows.iter().map(|row| vec![row.count.unwrap_or(0), row.tags.len() as i64]).collect();
        context.parallelize(numbers.clone(), partitions).save_as_npy_file(&url("npy"), &[2]).unwrap();
        prop_assert_eq!(&context.npy::<i64>(&url("npy"), read_partitions).unwrap().collect().unwrap(), &numbers);
        prop_assert_eq!(part_names(&folder.path().join("npy")), expected_names(partitions, ".npy"));

        #[cfg(feature = "parquet")]
        {
            saved.save_as_parquet_file(&url("parquet")).unwrap();
            let read = context.parquet::<Row>(&url("parquet"), distdl::ParquetOptions::default(), read_partitions).unwrap();
            prop_assert_eq!(&read.collect().unwrap(), &rows);
            prop_assert_eq!(part_names(&folder.path().join("parquet")), expected_names(partitions, ".parquet"));
        }
    }

    #[test]
    fn several_processes_save_every_row_once_whoever_dies(numbers in 0..60u64, parts in 1..6usize, faults in faults(3)) {
        let cluster = TestCluster::new(3).with_chaos(Chaos::parse(&faults).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let place = path.clone();
        let run = cluster.run(move |context| {
            let pairs = context.range(0..numbers, 4).map(|x| (x % 11, x));
            let grouped = pairs.group_by_key_into(parts).cache();
            let rows = grouped.flat_map(|(key, numbers)| numbers.into_iter().map(move |x| vec![key, x]));
            rows.save_as_npy_file(place.to_str().unwrap(), &[2])
        });
        prop_assert!(run.is_ok(), "{:?} under {}", run.err(), cluster.chaos);
        let mut read = context(2).npy::<u64>(path.to_str().unwrap(), 3).unwrap().collect().unwrap();
        read.sort_by_key(|row| row[1]);
        let expected: Vec<Vec<u64>> = (0..numbers).map(|x| vec![x % 11, x]).collect();
        prop_assert_eq!(read, expected, "under {}", cluster.chaos);
        prop_assert_eq!(part_names(&path), expected_names(parts, ".npy"));
        prop_assert_eq!(part_names(folder.path()), ["out"], "left behind under {}", cluster.chaos);
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn what_is_saved_compressed_is_read_again_and_is_the_same_each_time(
        rows in rows(), partitions in 1..6usize, read_partitions in 1..6usize, threads in 1..=3usize, batch_records in batch_records(),
        compression in prop_oneof![Just(FileCompression::Gzip), Just(FileCompression::Zstd)],
    ) {
        let context = small_batches(threads, batch_records);
        let folder = tempfile::tempdir().unwrap();
        let compressed = SaveOptions { compression, ..SaveOptions::default() };
        let saved = context.parallelize(rows.clone(), partitions);
        let flat = saved.map(|row| Flat { name: row.name, count: row.count });
        let texts = saved.map(|row| row.name.replace('\n', " "));
        let options = CsvOptions { quoted_newlines: true, header: partitions % 2 == 0, ..CsvOptions::default() };
        let save_to = |url: &dyn Fn(&str) -> String| {
            saved.save_as_json_lines_file_with(&url("json"), compressed).unwrap();
            flat.save_as_csv_file_with(&url("csv"), &options, compressed).unwrap();
            texts.save_as_text_file_with(&url("text"), compressed).unwrap();
        };
        let (first, second) = (folder.path().join("first"), folder.path().join("second"));
        save_to(&|name| first.join(name).to_str().unwrap().to_owned());
        save_to(&|name| second.join(name).to_str().unwrap().to_owned());
        save_to(&|name| format!("memory://{name}"));
        for (name, kind) in [("json", ".jsonl"), ("csv", ".csv"), ("text", "")] {
            let expected = expected_names(partitions, &format!("{kind}{}", compression.ending()));
            prop_assert_eq!(part_names(&first.join(name)), &expected[..]);
            for part in &expected {
                let [one, other] = [&first, &second].map(|place| fs::read(place.join(name).join(part)).unwrap());
                match compression {
                    FileCompression::Gzip => prop_assert_eq!(&one[..8], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0], "no name, no time"),
                    _ => prop_assert_eq!(&one[..4], [0x28, 0xb5, 0x2f, 0xfd]),
                }
                prop_assert_eq!(one, other);
            }
        }
        for place in [first.to_str().unwrap(), "memory:/"] {
            let url = |name: &str| format!("{place}/{name}");
            prop_assert_eq!(&context.json_lines::<Row>(&url("json"), read_partitions).unwrap().collect().unwrap(), &rows);
            let read = context.csv::<Flat>(&url("csv"), options.clone(), read_partitions).unwrap();
            prop_assert_eq!(read.collect().unwrap(), flat.collect().unwrap());
            let read = context.text_file(&url("text"), read_partitions).unwrap();
            prop_assert_eq!(read.collect().unwrap(), texts.collect().unwrap());
        }
    }
}

#[test]
fn what_is_saved_compressed_is_known_to_gzip_and_zstd() {
    for (compression, program) in [(FileCompression::Gzip, "gzip"), (FileCompression::Zstd, "zstd")] {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().join("out");
        let numbers = context(2).range(0..100_000, 2);
        let options = SaveOptions {
            compression,
            ..SaveOptions::default()
        };
        numbers.save_as_text_file_with(url.to_str().unwrap(), options).unwrap();
        let part = url.join(format!("part-00001{}", compression.ending()));
        let expected: String = (50_000..100_000).map(|number| format!("{number}\n")).collect();
        let packed = fs::metadata(&part).unwrap().len();
        assert!(packed * 2 < expected.len() as u64, "it is compressed: {packed}");
        match Command::new(program).arg("-dc").arg(&part).output() {
            Ok(unpacked) => assert!(unpacked.stdout == expected.as_bytes(), "{unpacked:?}"),
            Err(_) => println!("not tested: there is no {program} here"),
        }
    }
}

fn message<R>(result: Result<R, EngineError>) -> String {
    match result {
        Ok(_) => panic!("it did not fail"),
        Err(error) => error.to_string(),
    }
}

fn written(context: &Context, name: &str, text: &str) -> String {
    let url = format!("memory://{name}");
    context.stores().write(&url, text.to_owned().into()).unwrap();
    url
}

#[test]
fn delimited_text_is_read_by_name_or_by_position() {
    let context = context(2);
    let url = written(&context, "people.csv", "name,count\nann,1\n\"bo, b\",\nçem,3\n");
    let expected = [("ann", Some(1)), ("bo, b", None), ("çem", Some(3))].map(|(name, count)| (name.to_owned(), count));
    for partitions in 1..6 {
        let read = context
            .csv::<(String, Option<u8>)>(&url, CsvOptions::default(), partitions)
            .unwrap();
        assert_eq!(read.collect().unwrap(), expected);
    }
    let url = written(&context, "lines.csv", "a;\"x\ny\"\n");
    let options = CsvOptions {
        delimiter: b';',
        header: false,
        ..CsvOptions::default()
    };
    let read = context.csv::<(String, String)>(&url, options.clone(), 2).unwrap();
    let error = message(read.collect());
    assert!(
        error.contains("memory://lines.csv, the record at byte 0") && error.contains("quoted_newlines"),
        "{error}"
    );
    let options = CsvOptions {
        quoted_newlines: true,
        ..options
    };
    let read = context.csv::<(String, String)>(&url, options, 2).unwrap();
    assert_eq!(read.collect().unwrap(), [("a".to_owned(), "x\ny".to_owned())]);
}

#[test]
fn idx_files_are_read_by_the_row() {
    let context = context(2);
    let whole = [0_u8, 0, 8, 2, 0, 0, 0, 3, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6];
    context.stores().write("memory://a", whole.to_vec().into()).unwrap();
    for partitions in 1..5 {
        let rows = context.idx::<u8>("memory://a", partitions).unwrap();
        assert_eq!(rows.collect().unwrap(), [[1, 2], [3, 4], [5, 6]]);
    }
    context
        .stores()
        .write("memory://a", whole[..17].to_vec().into())
        .unwrap();
    let error = message(context.idx::<u8>("memory://a", 1));
    assert!(error.contains("5 bytes of elements, the sides say 6"), "{error}");
}

#[test]
fn a_record_without_a_form_ends_the_action_and_leaves_nothing() {
    let context = context(2);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let url = path.to_str().unwrap();
    let rows = context
        .range(0..40, 4)
        .map(|x| vec![x as f32; if x == 33 { 3 } else { 2 }]);
    let error = message(rows.save_as_npy_file(url, &[2]));
    assert!(error.contains("3 elements where rows are of shape [2]"), "{error}");
    let keyed = context
        .range(0..4, 2)
        .map(|x| std::collections::BTreeMap::from([((x, x), x)]));
    let error = message(keyed.save_as_json_lines_file(url));
    assert!(error.contains("has no JSON form"), "{error}");
    let error = message(context.range(0..4, 2).save_as_csv_file(url, &CsvOptions::default()));
    assert!(error.contains("it has no names for the header"), "{error}");
    let bad = context
        .range(0..40, 4)
        .map(|x| ("a".repeat(if x == 33 { 3 } else { 2 }), x));
    let text = TextOptions {
        line_bytes_max: 5,
        ..TextOptions::default()
    };
    let short = CsvOptions {
        header: false,
        text: Some(text),
        ..CsvOptions::default()
    };
    let error = message(bad.save_as_csv_file_with(
        url,
        &short,
        SaveOptions {
            compression: FileCompression::Gzip,
            ..SaveOptions::default()
        },
    ));
    assert!(
        error.contains("record 3: it, or the header, has more than 5 bytes"),
        "{error}"
    );
    #[cfg(feature = "parquet")]
    assert!(message(context.range(0..4, 2).save_as_parquet_file(url)).contains("map the records to a struct"));
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        0,
        "something was left behind"
    );
}

#[cfg(feature = "arrow")]
#[test]
fn arrow_files_are_read_by_the_record_batch() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Share {
        share: f64,
        count: Option<i32>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("storage/fixtures/table.zstd.arrow");
    let read = context(2)
        .arrow::<Share>(path.to_str().unwrap(), distdl::ArrowOptions::default(), 3)
        .unwrap();
    let share = |number: i32| Share {
        share: f64::from(number) / 4.0,
        count: (number % 5 != 0).then_some(number),
    };
    assert_eq!(read.collect().unwrap(), (0..20).map(share).collect::<Vec<_>>());
    assert_eq!(read.partitions(), 3);
}

#[test]
fn arrays_of_npz_archives_are_datasets() {
    let archives = concat!(env!("CARGO_MANIFEST_DIR"), "/storage/fixtures/*ed.npz");
    for partitions in 1..4 {
        let labels = context(2).npz::<f32>(archives, "labels", partitions).unwrap();
        let one = [[1.5], [-2.0], [3.25], [4.0]];
        assert_eq!(labels.collect().unwrap(), [one, one].concat());
        assert_eq!(
            context(1)
                .npz::<u8>(archives, "images", partitions)
                .unwrap()
                .count()
                .unwrap(),
            8
        );
    }
    let error = context(1)
        .npz::<f32>(archives, "labels.npy", 1)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no array `labels.npy` in it; it has images, labels"),
        "{error}"
    );
}

#[test]
fn the_configuration_limits_the_records_of_csv_files_unless_options_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows.csv");
    fs::write(&path, "number\n1\n123456789\n").unwrap();
    let path = path.to_str().unwrap();
    let context = Context::new(Config::default().with_threads(1).with_line_bytes_max(7)).unwrap();
    let read = |options| context.csv::<(u32,)>(path, options, 1).unwrap().collect();
    let error = read(CsvOptions::default()).unwrap_err().to_string();
    assert!(
        error.contains("longer than 7 bytes") && error.contains("`line_size`"),
        "{error}"
    );
    let own = CsvOptions {
        text: Some(TextOptions::default()),
        ..CsvOptions::default()
    };
    assert_eq!(read(own).unwrap(), [(1,), (123_456_789,)]);
}

#[test]
fn each_record_is_beside_the_name_of_its_file_however_files_are_cut() {
    let context = context(2);
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for (index, name) in ["a.txt", "b.txt", "c.txt"].iter().enumerate() {
        let path = folder.path().join(name);
        let numbers = 0..index * 40;
        fs::write(
            &path,
            numbers.clone().map(|number| format!("{number}\n")).collect::<String>(),
        )
        .unwrap();
        expected.extend(numbers.map(|number| (path.to_str().unwrap().to_owned(), number as u64)));
    }
    let pattern = format!("{}/*.txt", folder.path().display());
    let options = CsvOptions {
        header: false,
        ..CsvOptions::default()
    };
    for partitions in 1..=7 {
        let lines = context.text_file_with_names(&pattern, partitions).unwrap();
        let lines = lines.map(|(name, line)| (name, line.parse::<u64>().unwrap()));
        assert_eq!(lines.collect().unwrap(), expected);
        let json = context.json_lines_with_names::<u64>(&pattern, partitions).unwrap();
        assert_eq!(json.collect().unwrap(), expected);
        let csv = context
            .csv_with_names::<(u64,)>(&pattern, options.clone(), partitions)
            .unwrap();
        assert_eq!(csv.map(|(name, record)| (name, record.0)).collect().unwrap(), expected);
    }
    let names = context
        .objects(&pattern, 1)
        .unwrap()
        .map(|(name, _)| name)
        .collect()
        .unwrap();
    assert!(expected.iter().all(|(name, _)| names.contains(name)));
}
