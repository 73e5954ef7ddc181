//! Any cuts give every record once; what cannot be read is an error that names the place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde::{Deserialize, Serialize};

use super::*;
use crate::error::{Result, StorageError};
use crate::object::ObjectError;
use crate::remote::Stores;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    name: String,
    count: Option<i64>,
    #[serde(rename = "share of all")]
    share: f64,
}

fn stored(stores: &Stores, name: &str, bytes: impl Into<bytes::Bytes>) -> Vec<Object> {
    let url = format!("memory://{name}");
    stores.write(&url, bytes.into()).unwrap();
    stores.list(&url).unwrap()
}

fn read<T: serde::de::DeserializeOwned>(
    stores: &Stores,
    objects: &[Object],
    options: &CsvOptions,
    partitions: usize,
) -> Result<Vec<T>> {
    let groups = split_csv(objects, options, partitions);
    assert_eq!(groups.len(), partitions);
    let splits = groups.iter().flatten();
    let records = splits.map(|split| read_csv(stores, split, options)?.collect::<Result<Vec<T>>>());
    Ok(records
        .collect::<Result<Vec<Vec<T>>>>()?
        .into_iter()
        .flatten()
        .collect())
}

fn pieces(piece_bytes: usize) -> TextOptions {
    TextOptions {
        piece_bytes,
        ..TextOptions::default()
    }
}

fn rows(newlines: bool) -> impl Strategy<Value = Vec<Row>> {
    let name = if newlines {
        "[ab,\"é語\r\n]{0,6}"
    } else {
        "[ab,\"é語]{0,6}"
    };
    let row = (name, proptest::option::of(any::<i64>()), -1e9..1e9_f64);
    let row = row.prop_map(|(name, count, share)| Row { name, count, share });
    prop::collection::vec(row, 0..12)
}

/// Text of a file as the `csv` crate writes it, with blank lines in front of and among the records.
fn written(rows: &[Row], options: &CsvOptions, blanks: usize, crlf: bool) -> String {
    let terminator = if crlf {
        csv::Terminator::CRLF
    } else {
        csv::Terminator::Any(b'\n')
    };
    let write = |rows: &[Row], header: bool| {
        let mut builder = csv::WriterBuilder::new();
        builder
            .delimiter(options.delimiter)
            .terminator(terminator)
            .has_headers(header);
        let mut writer = builder.from_writer(Vec::new());
        if header && rows.is_empty() {
            writer.write_record(["name", "count", "share of all"]).unwrap();
        }
        rows.iter().for_each(|row| writer.serialize(row).unwrap());
        String::from_utf8(writer.into_inner().unwrap()).unwrap()
    };
    let blank = "\n".repeat(blanks);
    let (first, second) = rows.split_at(rows.len() / 2);
    [blank.clone(), write(first, options.header), blank, write(second, false)].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn splits_give_every_record_once(
        (newlines, files) in any::<bool>().prop_flat_map(|newlines| (Just(newlines), prop::collection::vec(rows(newlines), 1..4))),
        header: bool,
        semicolon: bool,
        crlf: bool,
        blanks in 0..20_usize,
        partitions in 1..9_usize,
        piece_bytes in 1..60_usize,
    ) {
        let delimiter = if semicolon { b';' } else { b',' };
        let options = CsvOptions { delimiter, header, quoted_newlines: newlines, text: Some(pieces(piece_bytes)), ..CsvOptions::default() };
        let stores = Stores::new();
        let write = |(index, rows): (usize, &Vec<Row>)| stored(&stores, &format!("t{index}"), written(rows, &options, blanks, crlf));
        let objects: Vec<Object> = files.iter().enumerate().flat_map(write).collect();
        prop_assert_eq!(read::<Row>(&stores, &objects, &options, partitions).unwrap(), files.concat());
    }

    #[test]
    fn arbitrary_text_gives_the_same_for_any_cut_and_never_panics(
        text in "[ab,\"\r\n\u{feff}]{0,60}", quoted_newlines: bool, partitions in 2..9_usize,
    ) {
        let options = CsvOptions { header: false, quoted_newlines, ..CsvOptions::default() };
        let stores = Stores::new();
        let objects = stored(&stores, "t", text);
        let whole = read::<Vec<String>>(&stores, &objects, &options, 1);
        let cut = read::<Vec<String>>(&stores, &objects, &options, partitions);
        match (whole, cut) {
            (Ok(whole), Ok(cut)) => prop_assert_eq!(whole, cut),
            (whole, cut) => prop_assert_eq!(whole.is_err(), cut.is_err()),
        }
    }
}

fn malformed(text: &str, options: &CsvOptions, partitions: usize) -> String {
    let stores = Stores::new();
    let objects = stored(&stores, "t.csv", text.to_owned());
    match read::<Row>(&stores, &objects, options, partitions) {
        Err(StorageError::Object(error @ ObjectError::Malformed { .. })) => error.to_string(),
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn bad_records_are_errors_that_name_place_column_and_remedy() {
    let options = CsvOptions::default();
    let head = "name,count,share of all\n";
    for (record, words) in [
        ("b,x,1\n", "column `count` has \"x\": invalid digit found in string"),
        ("b,1\n", "2 fields, but the first record of the file has 3"),
        ("b,1,2,3\n", "4 fields, but"),
        ("\"b\nc\",1,2\n", "set `CsvOptions::quoted_newlines`"),
        ("b,1,\"2", "a quoted field goes on"),
        ("b,1,y\n", "column `share of all` has \"y\": invalid float"),
    ] {
        let text = format!("{head}a,1,2\n{record}");
        for partitions in [1, 2, 7] {
            let message = malformed(&text, &options, partitions);
            assert!(
                message.starts_with("memory://t.csv, the record at byte 30: "),
                "{message}"
            );
            assert!(message.contains(words), "{message}");
        }
    }
    let names = malformed("name,count,share\na,1,2\n", &options, 1);
    let words = "missing field `share of all` (the header has `name`, `count`, `share`)";
    assert!(names.contains(words), "{names}");
    let unnamed = CsvOptions {
        header: false,
        ..options
    };
    let place = malformed("a,1,x\n", &unnamed, 1);
    assert!(place.contains("column 3 has "), "{place}");
}

#[test]
fn a_file_that_ends_within_quotes_is_an_error() {
    let options = CsvOptions {
        quoted_newlines: true,
        ..CsvOptions::default()
    };
    let message = malformed("name,count,share of all\na,1,\"2\n", &options, 1);
    assert!(message.contains("ends within a quoted field"), "{message}");
}

#[test]
fn a_record_beyond_the_limit_is_an_error() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", "name\n\"aaaa\naaaa\naaaa\"\n");
    let text = TextOptions {
        line_bytes_max: 10,
        ..TextOptions::default()
    };
    let options = CsvOptions {
        quoted_newlines: true,
        text: Some(text),
        ..CsvOptions::default()
    };
    let error = read::<Vec<String>>(&stores, &objects, &options, 1).unwrap_err();
    let expected = ObjectError::LineTooLong {
        url: "memory://t".into(),
        offset: 5,
        bytes_max: 10,
    };
    assert!(matches!(error, StorageError::Object(error) if error == expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_is_written_is_read_again_or_refused(
        rows in rows(true),
        header: bool,
        quoted_newlines: bool,
        semicolon: bool,
        partitions in 1..4_usize,
    ) {
        let delimiter = if semicolon { b';' } else { b',' };
        let options = CsvOptions { delimiter, header, quoted_newlines, ..CsvOptions::default() };
        let mut writer = CsvWriter::new("t", &options).unwrap();
        let written = rows.iter().try_for_each(|row| writer.push(row));
        let has_newline = rows.iter().any(|row| row.name.contains('\n'));
        prop_assert_eq!(written.is_err(), has_newline && !quoted_newlines, "{:?}", written);
        if written.is_ok() {
            let stores = Stores::new();
            let objects = stored(&stores, "t", writer.finish().unwrap());
            prop_assert_eq!(read::<Row>(&stores, &objects, &options, partitions).unwrap(), rows);
        }
    }
}

#[test]
fn what_nobody_could_read_again_is_not_written() {
    let refused = |options: CsvOptions, record: &dyn Fn(&mut CsvWriter) -> Result<()>| {
        let written = CsvWriter::new("t.csv", &options).and_then(|mut writer| record(&mut writer));
        written.unwrap_err().to_string()
    };
    let unnamed = || CsvOptions {
        header: false,
        ..CsvOptions::default()
    };
    let error = refused(CsvOptions::default(), &|writer| writer.push(&(1, "a")));
    assert!(error.starts_with("t.csv, record 0: it has no names"), "{error}");
    let error = refused(unnamed(), &|writer| writer.push(&("a\nb", 1)));
    assert!(error.contains("set `CsvOptions::quoted_newlines`"), "{error}");
    let error = refused(unnamed(), &|writer| {
        writer.push(&std::collections::BTreeMap::from([(1, 2)]))
    });
    assert!(error.contains("record 0"), "{error}");
    let error = refused(unnamed(), &|writer| writer.push(&("\u{feff}a", 1)));
    assert!(error.contains("byte order mark"), "{error}");
    let uneven = |writer: &mut CsvWriter| {
        writer.push(&[1, 2][..].to_vec())?;
        writer.push(&vec![1])
    };
    let error = refused(unnamed(), &uneven);
    assert!(error.contains("record 1"), "{error}");
    let unquoted = CsvOptions {
        quote: None,
        ..unnamed()
    };
    assert!(refused(unquoted, &|_| Ok(())).contains("set `CsvOptions::quote`"));
    let trimmed = CsvOptions {
        trim: true,
        ..unnamed()
    };
    assert!(refused(trimmed, &|_| Ok(())).contains("set `CsvOptions::trim`"));
    let text = TextOptions {
        line_bytes_max: "name,count,share of all".len(),
        ..TextOptions::default()
    };
    let short = CsvOptions {
        text: Some(text),
        ..CsvOptions::default()
    };
    let row = |name: &str| Row {
        name: name.to_owned(),
        count: None,
        share: 0.5,
    };
    let longest = row(&"n".repeat(text.line_bytes_max - ",,0.5".len()));
    let error = refused(short.clone(), &|writer| {
        writer.push(&row(&(longest.name.clone() + "n")))
    });
    assert!(error.contains("more than 23 bytes"), "{error}");
    let mut writer = CsvWriter::new("t.csv", &short).unwrap();
    writer.push(&longest).unwrap();
    let stores = Stores::new();
    let objects = stored(&stores, "longest", writer.finish().unwrap());
    assert_eq!(
        read::<Row>(&stores, &objects, &short, 1).unwrap(),
        [longest],
        "no longer than may be"
    );
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", "a,b\n");
    for (delimiter, quote) in [(b'"', b'"'), (b'\n', b'"'), (0xe9, b'"'), (b',', b'\r')] {
        let options = CsvOptions {
            delimiter,
            quote: Some(quote),
            ..CsvOptions::default()
        };
        let error = read::<Vec<String>>(&stores, &objects, &options, 1)
            .unwrap_err()
            .to_string();
        assert!(error.contains("two different ASCII characters"), "{error}");
    }
}

#[test]
fn compressed_files_give_the_same_records() {
    let stores = Stores::new();
    let text = "name,count,share of all\na,1,2\nb,,3\n";
    let plain = stored(&stores, "t.csv", text);
    let packed = stored(
        &stores,
        "t.csv.zst",
        compress_to_vec(text.as_bytes(), CompressionLevel::Fastest),
    );
    let options = CsvOptions::default();
    let expected: Vec<Row> = read(&stores, &plain, &options, 2).unwrap();
    assert_eq!(expected.len(), 2);
    assert_eq!(read::<Row>(&stores, &packed, &options, 2).unwrap(), expected);
}

#[test]
fn without_quotes_a_field_is_all_between_two_delimiters() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", "5\" pipe,\"x\n\"a\"\"b\",c\n");
    let read_with = |quote| {
        let options = CsvOptions {
            quote,
            header: false,
            ..CsvOptions::default()
        };
        read::<(String, String)>(&stores, &objects, &options, 2)
    };
    let pair = |left: &str, right: &str| (left.to_owned(), right.to_owned());
    assert_eq!(
        read_with(None).unwrap(),
        [pair("5\" pipe", "\"x"), pair("\"a\"\"b\"", "c")]
    );
    assert!(
        read_with(Some(b'"')).is_err(),
        "a quoted field goes on in the next line"
    );
}

#[test]
fn white_space_around_fields_and_names_is_trimmed_where_that_is_asked_for() {
    let stores = Stores::new();
    let objects = stored(
        &stores,
        "t",
        "name , count,share of all\n \u{a0}a b ,\t7 , 0.5\n\" c \",,1\n",
    );
    let trims = |trim| CsvOptions {
        trim,
        ..CsvOptions::default()
    };
    let row = |name: &str, count, share| Row {
        name: name.to_owned(),
        count,
        share,
    };
    let rows = read::<Row>(&stores, &objects, &trims(true), 2).unwrap();
    assert_eq!(rows, [row("a b", Some(7), 0.5), row("c", None, 1.0)]);
    assert!(read::<Row>(&stores, &objects, &trims(false), 2).is_err());
}

#[test]
fn an_optional_field_without_a_column_is_an_error_unless_that_is_meant() {
    /// One field of each kind that may be absent.
    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Loose {
        name: String,
        #[serde(alias = "number", alias = "n")]
        count: Option<i64>,
        #[serde(default)]
        share: f64,
        #[serde(skip)]
        _kept: Option<u8>,
    }
    #[derive(Debug, Deserialize)]
    struct Wrapped(Loose);
    #[derive(Debug, Deserialize)]
    struct Flat {
        name: String,
        #[serde(flatten)]
        rest: std::collections::BTreeMap<String, Option<i64>>,
    }

    let stores = Stores::new();
    let strict = CsvOptions::default();
    let misspelt = stored(&stores, "misspelt.csv", "\nname,cuont\na,1\nb,2\n");
    for partitions in [1, 4] {
        let errors = [
            read::<Loose>(&stores, &misspelt, &strict, partitions).map(|_| ()),
            read::<Wrapped>(&stores, &misspelt, &strict, partitions)
                .map(|rows| drop(rows.into_iter().map(|row| row.0))),
        ];
        for error in errors.map(|read| read.unwrap_err().to_string()) {
            let place = "memory://misspelt.csv, the record at byte 1: field `count` of ";
            assert!(error.starts_with(place), "{error}");
            assert!(error.contains("which has `name`, `cuont`; name the field"), "{error}");
            assert!(error.contains("`CsvOptions::columns_may_be_missing`"), "{error}");
        }
    }
    let meant = CsvOptions {
        columns_may_be_missing: true,
        ..CsvOptions::default()
    };
    let loose = |name: &str, count| Loose {
        name: name.into(),
        count,
        ..Loose::default()
    };
    let rows = read::<Loose>(&stores, &misspelt, &meant, 2).unwrap();
    assert_eq!(rows, [loose("a", None), loose("b", None)]);

    for names in ["n,name", "name,number", "name,count,more"] {
        let values = names.split(',').map(|name| if name == "name" { "a" } else { "7" });
        let text = format!("{names}\n{}\n", values.collect::<Vec<_>>().join(","));
        let objects = stored(&stores, "named.csv", text);
        assert_eq!(
            read::<Loose>(&stores, &objects, &strict, 1).unwrap(),
            [loose("a", Some(7))],
            "{names}"
        );
    }
    let flat = read::<Flat>(&stores, &misspelt, &strict, 1).unwrap();
    assert_eq!(
        (flat[0].name.as_str(), flat[0].rest["cuont"]),
        ("a", Some(1)),
        "it takes all columns"
    );
    let by_position = read::<(String, Option<i64>)>(&stores, &misspelt, &strict, 1).unwrap();
    assert_eq!(by_position[1], ("b".into(), Some(2)));
    let unnamed = CsvOptions {
        header: false,
        ..strict
    };
    let objects = stored(&stores, "unnamed.csv", "a,7,0\n");
    assert_eq!(
        read::<Loose>(&stores, &objects, &unnamed, 1).unwrap(),
        [loose("a", Some(7))]
    );
}
