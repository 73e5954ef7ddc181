//! Files, folders, globs, gzip and objects in memory.

use std::fs;
use std::io::Write;
use std::path::Path;

use distdl::{Config, Context, EngineError};
use proptest::prelude::*;

use crate::common::{batch_records, cases, small_batches};

fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A file's text, whether it is packed, and how its lines end.
fn files() -> impl Strategy<Value = Vec<(Vec<String>, bool, &'static str)>> {
    let lines = prop::collection::vec("[a-zü ]{0,9}", 0..20);
    prop::collection::vec((lines, any::<bool>(), prop::sample::select(vec!["\n", "\r\n"])), 1..4)
}

fn text(lines: &[String], end: &str) -> String {
    lines.iter().map(|line| format!("{line}{end}")).collect()
}

fn pattern(folder: &Path, name: &str) -> String {
    folder.join(name).to_str().unwrap().to_owned()
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn lines_come_once_and_in_order_however_files_are_cut(
        files in files(),
        partitions in 1..9usize,
        threads in 1..=3usize,
        batch_records in batch_records(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let context = small_batches(threads, batch_records);
        for (index, (lines, packed, end)) in files.iter().enumerate() {
            let text = text(lines, end);
            let (name, bytes) = match packed {
                true => (format!("{index}.txt.gz"), gzip(&text)),
                false => (format!("{index}.txt"), text.into_bytes()),
            };
            context.stores().write(&format!("memory://some/{name}"), bytes.clone().into()).unwrap();
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        fs::write(folder.path().join("other.csv"), "not asked for\n").unwrap();
        let expected: Vec<String> = files.iter().flat_map(|(lines, ..)| lines.clone()).collect();
        for url in [pattern(folder.path(), "*.txt*"), "memory://some/*".to_owned(), "memory://some".to_owned()] {
            let lines = context.text_file(&url, partitions).unwrap();
            prop_assert_eq!(lines.partitions(), partitions);
            prop_assert_eq!(&lines.collect().unwrap(), &expected);
            prop_assert_eq!(lines.repartition(2).count().unwrap(), expected.len() as u64);
        }
    }

    #[test]
    fn records_of_fixed_length_come_once_and_in_order(
        lengths in prop::collection::vec(0..30usize, 1..4),
        (record_bytes, header_bytes) in (1..9usize, 0..5usize),
        partitions in 1..9usize,
        threads in 1..=3usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut expected = Vec::new();
        for (index, length) in lengths.iter().enumerate() {
            let record = |number: usize| vec![(number * 7 + index) as u8; record_bytes];
            let records: Vec<Vec<u8>> = (0..*length).map(record).collect();
            let bytes = [vec![0xEE; header_bytes], records.concat()].concat();
            fs::write(folder.path().join(format!("{index}.bin")), bytes).unwrap();
            expected.extend(records);
        }
        let context = small_batches(threads, 3);
        let url = pattern(folder.path(), "*.bin");
        let records = context.binary_records(&url, record_bytes as u64, header_bytes as u64, partitions).unwrap();
        prop_assert_eq!(records.collect().unwrap(), expected);
    }

    #[test]
    fn whole_objects_come_in_order_of_name(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
        partitions in 1..9usize,
        threads in 1..=3usize,
    ) {
        let context = small_batches(threads, 2);
        let mut expected = Vec::new();
        for (index, bytes) in contents.into_iter().enumerate() {
            let url = format!("memory://images/{index}");
            context.stores().write(&url, bytes.clone().into()).unwrap();
            expected.push((url, bytes));
        }
        prop_assert_eq!(context.objects("memory://images/*", partitions).unwrap().collect().unwrap(), expected);
    }

    #[test]
    fn ranges_and_vectors_are_cut_evenly(
        (start, length) in (0..1000u64, 0..200u64),
        partitions in 1..300usize,
        threads in 1..=3usize,
        batch_records in batch_records(),
    ) {
        let context = small_batches(threads, batch_records);
        let numbers: Vec<u64> = (start..start + length).collect();
        for dataset in [context.range(start..start + length, partitions), context.parallelize(numbers.clone(), partitions)] {
            prop_assert_eq!(dataset.partitions(), partitions);
            let lengths = dataset.run_partitions(|_, rows| Ok(rows.count())).unwrap();
            let (least, most) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
            prop_assert!(most - least <= 1);
            prop_assert_eq!(&dataset.collect().unwrap(), &numbers);
        }
    }
}

#[test]
fn what_cannot_be_read_is_an_error_and_not_fewer_records() {
    let folder = tempfile::tempdir().unwrap();
    let context = small_batches(2, 3);
    let storage_error = |result: Result<u64, EngineError>| assert!(matches!(result, Err(EngineError::Storage(_))));
    assert!(context.text_file(&pattern(folder.path(), "*.txt"), 2).is_err());
    fs::write(folder.path().join("bad.txt"), b"good line\nbad \xFF line\n").unwrap();
    storage_error(
        context
            .text_file(&pattern(folder.path(), "bad.txt"), 2)
            .unwrap()
            .count(),
    );
    let mut cut = gzip(&"a line of text\n".repeat(500));
    cut.truncate(cut.len() - 9);
    fs::write(folder.path().join("cut.gz"), cut).unwrap();
    storage_error(context.text_file(&pattern(folder.path(), "cut.gz"), 2).unwrap().count());
    assert!(
        context
            .binary_records(&pattern(folder.path(), "bad.txt"), 13, 0, 2)
            .is_err()
    );
    let path = folder.path().join("gone.txt");
    fs::write(&path, "here\n").unwrap();
    let gone = context.text_file(path.to_str().unwrap(), 2).unwrap();
    fs::write(&path, "here and changed\n").unwrap();
    storage_error(gone.count());
    fs::remove_file(&path).unwrap();
    storage_error(gone.count());
    assert_eq!(context.range(0..5, 2).count().unwrap(), 5);
}

#[test]
fn the_largest_range_is_cut_without_overflow() {
    let context = Context::new(Config::default().with_threads(1)).unwrap();
    let numbers = context.range(0..u64::MAX, 7);
    assert_eq!(numbers.take(2).unwrap(), [0, 1]);
    let backwards = std::ops::Range { start: 9, end: 3 };
    assert_eq!(context.range(backwards, 4).count().unwrap(), 0);
}
