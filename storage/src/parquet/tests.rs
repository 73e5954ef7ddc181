//! Any number of partitions gives every row once; what is cut, damaged or too large is an error that names its place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use parquet::data_type::{DataType, Int64Type, Int96, Int96Type};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

use super::*;
use crate::error::{Result, StorageError};
use crate::object::ObjectError;
use crate::remote::Stores;
use crate::table::tests::{Row, fixture, fixture_rows, rows, stored};

fn read<T: serde::de::DeserializeOwned>(
    stores: &Stores,
    objects: &[Object],
    options: &ParquetOptions,
    partitions: usize,
) -> Result<Vec<T>> {
    let groups = split_parquet(stores, objects, options, partitions)?;
    assert_eq!(groups.len(), partitions);
    let splits = groups.iter().flatten();
    let records = splits.map(|split| read_parquet(stores, split, options)?.collect::<Result<Vec<T>>>());
    Ok(records
        .collect::<Result<Vec<Vec<T>>>>()?
        .into_iter()
        .flatten()
        .collect())
}

fn write(rows: &[Row], row_group_rows: usize) -> Vec<u8> {
    let mut writer = ParquetWriter::with_row_group_rows("t.parquet", row_group_rows).unwrap();
    rows.iter().for_each(|row| writer.push(row.clone()).unwrap());
    writer.finish().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn what_is_written_is_read_again_for_any_number_of_partitions(
        files in prop::collection::vec(rows(), 1..4), row_group_rows in 1..9_usize, partitions in 1..9_usize,
    ) {
        let stores = Stores::new();
        let write = |(index, rows): (usize, &Vec<Row>)| stored(&stores, &format!("t{index}"), write(rows, row_group_rows));
        let objects: Vec<Object> = files.iter().enumerate().flat_map(write).collect();
        let read = read::<Row>(&stores, &objects, &ParquetOptions::default(), partitions).unwrap();
        prop_assert_eq!(read, files.concat());
    }

    #[test]
    fn altered_files_are_errors_or_rows_and_never_a_panic(place in any::<prop::sample::Index>(), byte in 1..=u8::MAX, other in any::<prop::sample::Index>()) {
        let stores = Stores::new();
        let mut bytes = write(&fixture_rows(), 6);
        let (place, other) = (place.index(bytes.len()), other.index(bytes.len()));
        bytes[place] ^= byte;
        bytes[other] = bytes[other].wrapping_add(byte);
        let objects = stored(&stores, "t", bytes);
        let options = ParquetOptions { row_group_bytes_max: 1 << 20, ..ParquetOptions::default() };
        if let Err(error) = read::<Row>(&stores, &objects, &options, 2) {
            prop_assert!(error.to_string().starts_with("memory://t"), "{}", error);
        }
    }
}

#[test]
fn row_groups_of_other_writers_are_read_by_the_partitions_they_are_dealt_to() {
    let stores = Stores::new();
    for compression in ["none", "snappy", "gzip", "zstd", "lz4"] {
        let objects = stores.list(&fixture(&format!("table.{compression}.parquet"))).unwrap();
        for partitions in 1..7 {
            let read = read::<Row>(&stores, &objects, &ParquetOptions::default(), partitions).unwrap();
            assert_eq!(read, fixture_rows(), "{compression}, {partitions} partitions");
        }
        let groups = split_parquet(&stores, &objects, &ParquetOptions::default(), 2).unwrap();
        let row_groups: Vec<Range<usize>> = groups.iter().flatten().map(|split| split.row_groups.clone()).collect();
        assert_eq!(row_groups, [0..2, 2..4], "{compression}");
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Share {
    share: f64,
}

#[test]
fn columns_that_are_not_chosen_are_not_fetched() {
    let stores = Stores::new();
    let mut all = fixture_rows();
    for (index, row) in (0_u64..).zip(&mut all) {
        // Letters that cannot be packed.
        row.name = (0..20_000_u64)
            .map(|at| char::from(b'a' + (index * 31 + at * at * 7 + at / 13) as u8 % 26))
            .collect();
    }
    let objects = stored(&stores, "t", write(&all, 100));
    let shares: Vec<Share> = all.iter().map(|row| Share { share: row.share }).collect();
    let cost = |columns: Option<Vec<String>>| {
        let options = ParquetOptions {
            columns,
            ..ParquetOptions::default()
        };
        let groups = split_parquet(&stores, &objects, &options, 1).unwrap();
        let before = stores.figures().remote_bytes;
        let read: Result<Vec<Share>> = read_parquet(&stores, &groups[0][0], &options).unwrap().collect();
        assert_eq!(read.unwrap(), shares);
        stores.figures().remote_bytes - before
    };
    let (one, every) = (cost(Some(vec!["share".into()])), cost(None));
    assert!(one < every / 2, "{one} and {every} bytes");
}

fn error_of(bytes: Vec<u8>, options: &ParquetOptions) -> String {
    let stores = Stores::new();
    let objects = stored(&stores, "t", bytes);
    match read::<Row>(&stores, &objects, options, 1) {
        Err(StorageError::Object(error @ ObjectError::Malformed { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_cut_is_an_error() {
    let whole = write(&fixture_rows(), 6);
    for length in 0..whole.len() {
        let message = error_of(whole[..length].to_vec(), &ParquetOptions::default());
        assert!(message.starts_with("memory://t, its "), "{length}: {message}");
    }
}

#[test]
fn hostile_footers_and_what_goes_beyond_a_limit_are_errors() {
    let whole = write(&fixture_rows(), 6);
    let options = ParquetOptions::default();
    let mut long = whole.clone();
    let at = long.len() - 8;
    long[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(error_of(long, &options).contains("a footer of 4294967295 bytes"));
    let mut empty = whole.clone();
    empty[at..at + 4].copy_from_slice(&0_u32.to_le_bytes());
    assert!(error_of(empty, &options).contains("its footer"));
    let few = ParquetOptions {
        footer_bytes_max: 10,
        ..ParquetOptions::default()
    };
    assert!(error_of(whole.clone(), &few).contains("above the limit of 10"));
    let small = ParquetOptions {
        row_group_bytes_max: 50,
        ..ParquetOptions::default()
    };
    let message = error_of(whole.clone(), &small);
    assert!(
        message.contains("row group 0: its columns take") && message.contains("limit of 50"),
        "{message}"
    );
    let missing = ParquetOptions {
        columns: Some(vec!["nmae".into()]),
        ..ParquetOptions::default()
    };
    let message = error_of(whole, &missing);
    assert!(
        message.contains("no column `nmae`; its columns are `name`, `count`"),
        "{message}"
    );
}

/// A file without rows whose schema is a root, groups of one field within each other, and a column of numbers. The root
/// says that it has `children` fields.
fn nested(groups: usize, children: i32) -> Vec<u8> {
    // Heads of fields have how much further this one is in the upper half, and its type in the lower.
    let number = |head: u8, value: i32| {
        let mut bytes = vec![head];
        let mut rest = ((value << 1) ^ (value >> 31)) as u32;
        while rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    };
    let root = [vec![0x48, 1, b'r'], number(0x15, children), vec![0]].concat();
    let group = [number(0x35, 0), vec![0x18, 1, b'a'], number(0x15, 1), vec![0]].concat();
    let column = [number(0x15, 1), number(0x25, 0), vec![0x18, 1, b'n', 0]].concat();
    let mut elements = vec![0xfc];
    let mut length = groups + 2;
    while length >= 0x80 {
        elements.push(length as u8 | 0x80);
        length >>= 7;
    }
    elements.push(length as u8);
    let schema = [elements, root, group.repeat(groups), column].concat();
    let footer = [
        number(0x15, 1),
        vec![0x19],
        schema,
        number(0x16, 0),
        vec![0x19, 0x0c, 0],
    ]
    .concat();
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1", footer.as_slice(), &length, b"PAR1"].concat()
}

#[test]
fn columns_too_deep_within_each_other_are_an_error_and_no_overflow_of_the_stack() {
    let read = |bytes| {
        let stores = Stores::new();
        split_parquet(&stores, &stored(&stores, "t", bytes), &ParquetOptions::default(), 1)
    };
    for groups in [0, 1, 99] {
        assert_eq!(read(nested(groups, 1)).unwrap().len(), 1, "{groups} groups");
    }
    for groups in [100_000, 100] {
        let message = error_of(nested(groups, 1), &ParquetOptions::default());
        assert!(message.contains("more than 100 groups"), "{message}");
    }
    // Room for as many fields as that is refused by many systems, which would end the process.
    for children in [2, i32::MAX] {
        let message = error_of(nested(0, children), &ParquetOptions::default());
        assert!(
            message.contains(&format!("{children} more fields, where 1 are described")),
            "{message}"
        );
    }
    let message = error_of(nested(0, -1), &ParquetOptions::default());
    assert!(message.contains("less than no fields"), "{message}");
    // What the decoder would read before it finds that the root has no such fields.
    let message = error_of(nested(100_000, 0), &ParquetOptions::default());
    assert!(message.contains("columns that no group has"), "{message}");
    // A version that is said to be a text: the decoder would read its length as the version, and then the text as a
    // schema.
    let mut deep = nested(100_000, 1);
    assert_eq!(deep[4..6], [0x15, 2]);
    deep[4] = 0x18;
    let message = error_of(deep, &ParquetOptions::default());
    assert!(message.contains("field 1 of type 8"), "{message}");
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Other {
    name: u8,
}

#[test]
fn records_of_another_type_are_an_error_that_names_the_columns() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", write(&fixture_rows(), 6));
    let error = read::<Other>(&stores, &objects, &ParquetOptions::default(), 1)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("memory://t, row group 0, rows 0..6: "), "{error}");
    assert!(
        error.contains("Other must be named and typed as the columns are (`name`, `count`"),
        "{error}"
    );
    let error = ParquetWriter::<u8>::new("t.parquet").unwrap_err().to_string();
    assert!(
        error.contains("t.parquet, u8: ") && error.contains("map the records to a struct"),
        "{error}"
    );
}

#[test]
fn tuples_are_read_as_they_were_written() {
    let stores = Stores::new();
    let rows: Vec<(i64, (String, [u8; 2]))> = (0..20).map(|number| (number, (number.to_string(), [1, 2]))).collect();
    let mut writer = ParquetWriter::new("t.parquet").unwrap();
    rows.iter().for_each(|row| writer.push(row.clone()).unwrap());
    let objects = stored(&stores, "t", writer.finish().unwrap());
    let read = read::<(i64, (String, [u8; 2]))>(&stores, &objects, &ParquetOptions::default(), 2);
    assert_eq!(read.unwrap(), rows);
}

/// A time as older programs write it, 12 bytes: nanoseconds of a day, and the day, which is counted from 1970 here.
fn old_time(days: i64, nanoseconds: u64) -> Int96 {
    let mut time = Int96::new();
    let julian = u32::try_from(2_440_588 + days).unwrap();
    time.set_data(nanoseconds as u32, (nanoseconds >> 32) as u32, julian);
    time
}

/// 1970-01-02 and 9999-12-31, and what they are in microseconds.
fn old_times() -> ([Int96; 2], [i64; 2]) {
    let times = [old_time(1, 5000), old_time(2_932_896, 0)];
    (times, [86_400_000_005, 253_402_214_400_000_000])
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

/// A file of one row group with columns of `schema`.
fn written(schema: &str, columns: impl FnOnce(&mut Group<'_>)) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    columns(&mut group);
    group.close().unwrap();
    writer.into_inner().unwrap()
}

fn write_column<T: DataType>(group: &mut Group<'_>, values: &[T::T], levels: Option<[&[i16]; 2]>) {
    let mut column = group.next_column().unwrap().unwrap();
    let [definition, repetition] = levels.map_or([None; 2], |levels| levels.map(Some));
    column.typed::<T>().write_batch(values, definition, repetition).unwrap();
    column.close().unwrap();
}

fn read_written<T: serde::de::DeserializeOwned>(bytes: Vec<u8>) -> Vec<T> {
    let stores = Stores::default();
    let objects = stored(&stores, "old.parquet", bytes);
    read(&stores, &objects, &ParquetOptions::default(), 1).unwrap()
}

#[test]
fn old_times_of_any_year_are_microseconds() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Event {
        at: i64,
    }
    let (times, expected) = old_times();
    let events = written("message events { required int96 at; }", |group| {
        write_column::<Int96Type>(group, &times, None);
    });
    assert_eq!(read_written::<Event>(events), expected.map(|at| Event { at }));
}

#[test]
fn old_times_within_others_are_microseconds_too() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Event {
        number: i64,
        at: i64,
    }
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Row {
        event: Event,
        times: Vec<i64>,
        by_number: BTreeMap<i64, i64>,
        number: i64,
        at: i64,
    }
    let schema = "message rows {
        required group event { required int64 number; required int96 at; }
        required group times (LIST) { repeated group list { required int96 element; } }
        required group by_number (MAP) { repeated group key_value { required int64 key; required int96 value; } }
        required int64 number;
        required int96 at;
    }";
    let (times, expected) = old_times();
    let rows = written(schema, |group| {
        let two: [&[i16]; 2] = [&[1, 1], &[0, 1]];
        write_column::<Int64Type>(group, &[7], None);
        write_column::<Int96Type>(group, &times[1..], None);
        write_column::<Int96Type>(group, &times, Some(two));
        write_column::<Int64Type>(group, &[1, 2], Some(two));
        write_column::<Int96Type>(group, &times, Some(two));
        write_column::<Int64Type>(group, &[8], None);
        write_column::<Int96Type>(group, &times[1..], None);
    });
    let row = Row {
        event: Event {
            number: 7,
            at: expected[1],
        },
        times: expected.into(),
        by_number: BTreeMap::from([(1, expected[0]), (2, expected[1])]),
        number: 8,
        at: expected[1],
    };
    assert_eq!(read_written::<Row>(rows), [row]);
}

#[test]
fn files_that_hold_times_in_different_units_are_not_read_as_one() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Event {
        at: i64,
    }
    let stores = Stores::default();
    let file = |name: &str, schema: &str, times: &[i64]| {
        stored(
            &stores,
            name,
            written(schema, |group| write_column::<Int64Type>(group, times, None)),
        )
        .remove(0)
    };
    let micros = file(
        "micros",
        "message m { required int64 at (TIMESTAMP(MICROS,true)); }",
        &[7],
    );
    let millis = file(
        "millis",
        "message m { required int64 at (TIMESTAMP(MILLIS,true)); }",
        &[7],
    );
    let old = written("message m { required int96 at; }", |group| {
        write_column::<Int96Type>(group, &[old_time(0, 8000)], None);
    });
    let old = stored(&stores, "old", old).remove(0);
    let read = |objects: &[Object]| read::<Event>(&stores, objects, &ParquetOptions::default(), 2);
    assert_eq!(
        read(&[micros.clone(), old.clone()]).unwrap(),
        [7, 8].map(|at| Event { at })
    );
    let error = read(&[micros, old, millis.clone()]).unwrap_err().to_string();
    assert!(
        error.starts_with("memory://millis, column `at`: it holds times in milliseconds"),
        "{error}"
    );
    assert!(error.contains("microseconds in memory://micros"), "{error}");
    // Without rows there is nothing to mix, whether there is a group of none or no group.
    let none = file("none", "message m { required int64 at (TIMESTAMP(NANOS,true)); }", &[]);
    assert_eq!(read(&[none, millis.clone()]).unwrap(), [Event { at: 7 }]);
    let writer = SerializedFileWriter::new(
        Vec::new(),
        Arc::new(parse_message_type("message m { required int32 at; }").unwrap()),
        Arc::default(),
    );
    let empty = stored(&stores, "empty", writer.unwrap().into_inner().unwrap()).remove(0);
    assert_eq!(read(&[empty, millis]).unwrap(), [Event { at: 7 }]);
}

#[test]
fn an_optional_field_has_a_column_unless_that_is_said_otherwise() {
    #[derive(Debug, PartialEq, serde::Deserialize)]
    struct Misspelt {
        name: String,
        #[serde(rename = "Count")]
        count: Option<i32>,
    }
    let stores = Stores::new();
    let objects = stored(&stores, "t", write(&fixture_rows(), 6));
    let error = read::<Misspelt>(&stores, &objects, &ParquetOptions::default(), 2).unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("memory://t, its schema: field `Count` of "),
        "{error}"
    );
    assert!(error.contains("which has `name`, `count`, `share`"), "{error}");
    assert!(error.contains("`ParquetOptions::columns_may_be_missing`"), "{error}");
    let options = ParquetOptions {
        columns_may_be_missing: true,
        ..ParquetOptions::default()
    };
    let rows = read::<Misspelt>(&stores, &objects, &options, 2).unwrap();
    assert!(rows.iter().all(|row| row.count.is_none()));
    // Who names columns has said which fields are to be there.
    let chosen = ParquetOptions {
        columns: Some(["name", "share", "tags", "kind"].map(str::to_owned).into()),
        ..ParquetOptions::default()
    };
    let rows = read::<Row>(&stores, &objects, &chosen, 2).unwrap();
    assert!(rows.len() == 20 && rows.iter().all(|row| row.count.is_none()));
}
