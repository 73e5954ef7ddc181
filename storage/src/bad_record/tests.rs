//! Good records and bad ones are those of a plain reading line by line, in order, however a file is cut.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;

use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;
use crate::csv::{CsvOptions, read_csv, split_csv, try_read_csv};
use crate::object::Object;
use crate::remote::Stores;
use crate::text::{TextOptions, split_text, try_read_json_lines};

#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Row {
    name: String,
    count: Option<i64>,
    share: f64,
}

type Read<T> = Result<Vec<Result<T, BadRecord>>>;

/// What a plain reading finds: a value, or where a bad record starts and its text.
type Expected<T> = Vec<Result<T, (u64, String)>>;

fn stored(stores: &Stores, name: &str, bytes: Vec<u8>) -> Vec<Object> {
    let url = format!("memory://{name}");
    stores.write(&url, bytes.into()).unwrap();
    stores.list(&url).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn json<T: DeserializeOwned>(stores: &Stores, objects: &[Object], options: TextOptions, partitions: usize) -> Read<T> {
    let groups = split_text(objects, partitions);
    let mut read = Vec::new();
    for split in groups.iter().flatten() {
        read.extend(try_read_json_lines(stores, split, options)?.collect::<Result<Vec<_>>>()?);
    }
    Ok(read)
}

fn csv<T: DeserializeOwned>(stores: &Stores, objects: &[Object], options: &CsvOptions, partitions: usize) -> Read<T> {
    let groups = split_csv(objects, options, partitions);
    let mut read = Vec::new();
    for split in groups.iter().flatten() {
        read.extend(try_read_csv(stores, split, options)?.collect::<Result<Vec<_>>>()?);
    }
    Ok(read)
}

/// Lines without their ends, and where they start.
fn lines(bytes: &[u8]) -> Vec<(u64, &[u8])> {
    let mut start = 0;
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let offset = start;
        start += line.len() as u64;
        (offset, line.strip_suffix(b"\n").unwrap_or(line))
    });
    lines.collect()
}

fn bad<T>(offset: u64, line: &[u8], bytes_max: usize) -> Result<T, (u64, String)> {
    let shown = &line[..line.len().min(bytes_max + 1)];
    let shown = shown.strip_suffix(b"\r").unwrap_or(shown);
    Err((offset, String::from_utf8_lossy(shown).into_owned()))
}

fn json_by_lines<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Expected<T> {
    let mut found = Vec::new();
    for (offset, line) in lines(bytes) {
        match std::str::from_utf8(line).map(str::trim_ascii) {
            Ok("") if line.len() <= bytes_max => {}
            Ok(text) if line.len() <= bytes_max => {
                found.push(serde_json::from_str(text).or_else(|_| bad(offset, line, bytes_max)));
            }
            _ => found.push(bad(offset, line, bytes_max)),
        }
    }
    found
}

/// The fields of a line alone, if it is no blank one; `Err` if they cannot be told.
fn fields(line: &[u8]) -> Option<Result<::csv::StringRecord, ()>> {
    let mut reader = ::csv::ReaderBuilder::new().has_headers(false).from_reader(line);
    let record = reader.byte_records().next()?.unwrap();
    // Only a quote that is not closed lets the line end into a field.
    let ends = record.iter().any(|field| field.contains(&b'\n'));
    Some(match ends {
        true => Err(()),
        false => ::csv::StringRecord::from_byte_record(record).map_err(|_| ()),
    })
}

fn csv_by_lines<T: DeserializeOwned>(bytes: &[u8], header: bool, bytes_max: usize) -> Expected<T> {
    let read = lines(bytes).into_iter().filter_map(|(offset, line)| {
        let fields = match line.len() > bytes_max {
            true => Err(()),
            false => fields(&[line, b"\n"].concat())?,
        };
        Some((offset, line, fields))
    });
    let mut read: Vec<_> = read.collect();
    let names = header.then(|| read.remove(0).2.unwrap());
    let value = |fields: &::csv::StringRecord| fields.deserialize::<T>(names.as_ref()).ok();
    let is_value = |(_, _, fields): &&(u64, &[u8], Result<::csv::StringRecord, ()>)| {
        fields.as_ref().is_ok_and(|fields| value(fields).is_some())
    };
    let first = read
        .iter()
        .take(100)
        .find(is_value)
        .map(|(_, _, fields)| fields.clone().unwrap());
    let width = names.as_ref().or(first.as_ref()).map(::csv::StringRecord::len);
    let checked = read.iter().map(|(offset, line, fields)| {
        let fields = fields
            .as_ref()
            .ok()
            .filter(|fields| width.is_none_or(|width| width == fields.len()));
        fields
            .and_then(value)
            .ok_or(())
            .or_else(|()| bad(*offset, line, bytes_max))
    });
    checked.collect()
}

fn without_words<T: Clone>(read: &[Result<T, BadRecord>]) -> Expected<T> {
    let pairs = read
        .iter()
        .cloned()
        .map(|record| record.map_err(|bad| (bad.byte, bad.text)));
    pairs.collect()
}

/// `text` with some of its bytes replaced by others. No `\r` loses its `\n`, as it would end a record of its own then.
fn damaged(text: &str, damage: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for (place, byte) in damage {
        let place = place.checked_rem(bytes.len()).unwrap_or(0);
        let is_end = place > 0 && bytes[place - 1] == b'\r';
        if let Some(damaged) = bytes.get_mut(place).filter(|_| !is_end) {
            *damaged = *byte;
        }
    }
    bytes
}

fn damage() -> impl Strategy<Value = Vec<(usize, u8)>> {
    let byte = prop::sample::select(b"\xff\xe9\"\",\n\nx0 }".to_vec());
    prop::collection::vec((any::<usize>(), byte), 0..12)
}

/// Lines that are values and others, some of them longer than others.
fn json_text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        5 => ("[a-zé語]{0,6}", any::<i16>()).prop_map(|pair| serde_json::to_string(&pair).unwrap()),
        1 => "[ \r]{0,3}",
        1 => "[x\"é]{0,90}",
    ];
    let lines = prop::collection::vec(line, 0..20);
    (lines, any::<bool>()).prop_map(|(lines, ended)| lines.join("\n") + if ended { "\n" } else { "" })
}

fn csv_text() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        5 => ("[a-zé]{0,4}|\"[a,é]{0,4}(\"\")?\"", any::<i16>(), 0..9u8).prop_map(|(name, count, share)| format!("{name},{count},{share}")),
        1 => "[,a]{0,5}",
        1 => "[x,é]{0,90}",
    ];
    let lines = prop::collection::vec(line, 0..20);
    (lines, any::<bool>(), any::<bool>()).prop_map(|(lines, ended, crlf)| {
        let end = if crlf { "\r\n" } else { "\n" };
        lines.join(end) + if ended { end } else { "" }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn json_lines_and_bad_ones_are_those_of_each_line_however_they_are_cut(
        text in json_text(), damage in damage(), piece_bytes in 1_usize..60, line_bytes_max in 10_usize..80,
    ) {
        let (stores, bytes) = (Stores::new(), damaged(&text, &damage));
        let options = TextOptions { piece_bytes, line_bytes_max };
        let objects = stored(&stores, "t.jsonl", bytes.clone());
        let whole = json::<(String, i16)>(&stores, &objects, options, 1).unwrap();
        prop_assert_eq!(without_words(&whole), json_by_lines(&bytes, line_bytes_max));
        for partitions in 2..=7 {
            prop_assert_eq!(&json(&stores, &objects, options, partitions).unwrap(), &whole);
        }
        let packed = stored(&stores, "t.gz", gzip(&bytes));
        let packed = json::<(String, i16)>(&stores, &packed, options, 3).unwrap();
        prop_assert_eq!(without_words(&packed), without_words(&whole));
    }

    #[test]
    fn records_of_csv_and_bad_ones_are_those_of_each_line_however_they_are_cut(
        text in csv_text(), damage in damage(), header: bool, piece_bytes in 1_usize..60, line_bytes_max in 16_usize..80,
    ) {
        let head = if header { "name,count,share\n" } else { "" };
        let (stores, bytes) = (Stores::new(), [head.as_bytes(), &damaged(&text, &damage)].concat());
        let text = Some(TextOptions { piece_bytes, line_bytes_max });
        let options = CsvOptions { header, text, ..CsvOptions::default() };
        let objects = stored(&stores, "t.csv", bytes.clone());
        let whole = csv::<Row>(&stores, &objects, &options, 1).unwrap();
        prop_assert_eq!(without_words(&whole), csv_by_lines(&bytes, header, line_bytes_max));
        for partitions in 2..=7 {
            prop_assert_eq!(&csv(&stores, &objects, &options, partitions).unwrap(), &whole);
        }
        let packed = stored(&stores, "t.gz", gzip(&bytes));
        let packed = csv::<Row>(&stores, &packed, &options, 3).unwrap();
        prop_assert_eq!(without_words(&packed), without_words(&whole));
        // Without a bad record the strict form reads the same.
        let split = &split_csv(&objects, &options, 1)[0];
        let strict = split.iter().map(|split| read_csv::<Row>(&stores, split, &options)?.collect::<Result<Vec<_>>>());
        let strict: Result<Vec<Row>> = strict.collect::<Result<Vec<_>>>().map(|rows| rows.concat());
        match strict {
            Ok(rows) => prop_assert_eq!(rows, whole.into_iter().map(Result::unwrap).collect::<Vec<_>>()),
            Err(_) => prop_assert!(whole.iter().any(Result::is_err)),
        }
    }

    #[test]
    fn records_with_line_ends_in_them_are_the_same_for_any_piece(text in csv_text(), damage in damage(), line_bytes_max in 16_usize..80) {
        let (stores, bytes) = (Stores::new(), damaged(&text, &damage));
        let options = |piece_bytes| CsvOptions {
            header: false,
            quoted_newlines: true,
            text: Some(TextOptions { piece_bytes, line_bytes_max }),
            ..CsvOptions::default()
        };
        let objects = stored(&stores, "t.csv", bytes);
        let whole = csv::<Row>(&stores, &objects, &options(1000), 1).unwrap();
        for piece_bytes in [1, 7, 30] {
            prop_assert_eq!(&csv(&stores, &objects, &options(piece_bytes), 3).unwrap(), &whole);
        }
    }
}

fn bad_of<T: std::fmt::Debug>(record: &Result<T, BadRecord>) -> (u64, &str, &str) {
    let bad = record.as_ref().expect_err("a bad record");
    (bad.byte, &bad.problem, &bad.text)
}

#[test]
fn a_bad_line_says_where_it_is_and_what_is_wrong() {
    let stores = Stores::new();
    let long = format!("[1,\"{}\"]", "y".repeat(3000));
    let text = [b"[1,2]\n[1,\"x\"]\r\n[3\xff]\n", long.as_bytes(), b"\n[5,6]"].concat();
    let options = TextOptions {
        line_bytes_max: 2000,
        ..TextOptions::default()
    };
    let read = json::<(u8, u8)>(&stores, &stored(&stores, "t", text), options, 2).unwrap();
    assert_eq!((&read[0], &read[4]), (&Ok((1, 2)), &Ok((5, 6))));
    let (byte, problem, text) = bad_of(&read[1]);
    assert_eq!((byte, text), (6, "[1,\"x\"]"));
    assert!(problem.ends_with("expected u8 at column 6"), "{problem}");
    assert_eq!(bad_of(&read[2]), (15, "byte 17 is not UTF-8", "[3\u{fffd}]"));
    assert_eq!(
        bad_of(&read[3]),
        (20, "it is longer than 2000 bytes", &long[..BadRecord::TEXT_BYTES_MAX])
    );
    let shown = read[2].as_ref().unwrap_err().to_string();
    assert_eq!(shown, "memory://t, the record at byte 15: byte 17 is not UTF-8");
}

#[test]
fn a_quote_that_is_not_closed_takes_as_much_as_a_record_may_have() {
    let stores = Stores::new();
    let options = |line_bytes_max| CsvOptions {
        quoted_newlines: true,
        text: Some(TextOptions {
            line_bytes_max,
            ..TextOptions::default()
        }),
        ..CsvOptions::default()
    };
    let objects = stored(
        &stores,
        "t",
        b"name,count,share\n\"a\nb\",1,2\n\"c,1,2\nd,3,4\ne,5,6\nf,7,8\n".to_vec(),
    );
    let names = |read: &[Result<Row, BadRecord>]| {
        let name = |record: &Result<Row, BadRecord>| match record {
            Ok(row) => row.name.clone(),
            Err(bad) => format!("{}: {}", bad.byte, bad.problem),
        };
        read.iter().map(name).collect::<Vec<_>>()
    };
    let read = csv(&stores, &objects, &options(17), 2).unwrap();
    assert_eq!(
        names(&read),
        ["a\nb", "27: it is longer than 17 bytes"],
        "no more is left"
    );
    assert_eq!(read[1].as_ref().unwrap_err().text, "\"c,1,2\nd,3,4\ne,5,6\nf,7,8");
    let read = csv(&stores, &objects, &options(100), 2).unwrap();
    assert_eq!(names(&read), ["a\nb", "27: the file ends within a quoted field"]);
}

#[test]
fn what_is_wrong_with_a_header_stays_an_error() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "it is not read")]
    struct Closed {
        name: String,
        count: i64,
    }
    let stores = Stores::new();
    let options = CsvOptions {
        columns_may_be_missing: true,
        ..CsvOptions::default()
    };
    for (head, words) in [
        ("\"name,count", "a quoted field goes on"),
        ("na\u{0}e,count", "missing field `name`"),
        ("name,cuont", "unknown field `cuont`"),
        ("name", "missing field `count`"),
        (
            "name,count,name",
            "columns 1 and 3, `name` and `name`, are both field `name`",
        ),
    ] {
        let width = head.split(',').count();
        let row = ["1"].repeat(width).join(",");
        let objects = stored(&stores, "t", format!("{head}\n\"bad\n{row}\n").into_bytes());
        for partitions in 1..=4 {
            let error = csv::<Closed>(&stores, &objects, &options, partitions)
                .unwrap_err()
                .to_string();
            assert!(error.contains(words) || head.contains('\0'), "{error}");
        }
    }
    let objects = stored(&stores, "t", b"na\xffe,count\na,1\n".to_vec());
    let error = csv::<Closed>(&stores, &objects, &options, 2).unwrap_err();
    assert!(
        matches!(error, StorageError::Object(ObjectError::NotUtf8 { offset: 2, .. })),
        "{error}"
    );
}

#[test]
fn a_field_that_has_two_columns_by_two_of_its_names_is_an_error_of_the_header() {
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is not read")]
    struct Aliased {
        name: String,
        #[serde(alias = "n", alias = "number")]
        count: Option<i64>,
    }
    let stores = Stores::new();
    let options = CsvOptions::default();
    for (head, one, other) in [
        ("count,name,n", "1 and 3, `count`", "`n`"),
        ("x,number,name,n,y", "2 and 4, `number`", "`n`"),
        ("n,name,count,n", "1 and 3, `n`", "`count`"),
    ] {
        let row = ["1"].repeat(head.split(',').count()).join(",");
        let objects = stored(&stores, "t", format!("\n{head}\nbad\n{row}\n").into_bytes());
        for partitions in 1..=4 {
            let read = csv::<Aliased>(&stores, &objects, &options, partitions);
            let error = read.unwrap_err().to_string();
            let words = format!("the record at byte 1: columns {one} and {other}, are both field `count` of ");
            assert!(error.contains(&words) && error.contains("serde(alias"), "{error}");
        }
    }
    /// A format of its own within a field says the same words of something else.
    #[derive(Debug)]
    struct Within;
    impl<'de> Deserialize<'de> for Within {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            match String::deserialize(deserializer)?.as_str() {
                "twice" => Err(serde::de::Error::duplicate_field("count")),
                _ => Ok(Self),
            }
        }
    }
    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "it is not read")]
    struct Outer {
        name: String,
        count: Within,
    }
    let objects = stored(&stores, "t", b"name,count\na,1\nb,twice\nc,1\n".to_vec());
    let read = csv::<Outer>(&stores, &objects, &options, 1).unwrap();
    let is_bad: Vec<bool> = read.iter().map(Result::is_err).collect();
    assert_eq!(is_bad, [false, true, false]);
}

#[test]
fn what_cannot_be_read_at_all_stays_an_error() {
    let stores = Stores::new();
    let packed = gzip(&b"[1,2]\n".repeat(1000));
    let objects = stored(&stores, "t.gz", packed[..packed.len() - 9].to_vec());
    let error = json::<(u8, u8)>(&stores, &objects, TextOptions::default(), 2).unwrap_err();
    assert!(
        matches!(error, StorageError::Object(ObjectError::NotDecompressed { .. })),
        "{error}"
    );
    let objects = stored(&stores, "t.csv", b"1,2\n".to_vec());
    let older = [Object {
        version: Some("older".into()),
        ..objects[0].clone()
    }];
    let options = CsvOptions {
        header: false,
        ..CsvOptions::default()
    };
    let error = csv::<(u8, u8)>(&stores, &older, &options, 1).unwrap_err();
    assert!(
        matches!(error, StorageError::Object(ObjectError::Changed { .. })),
        "{error}"
    );
}

#[test]
fn a_text_is_cut_between_two_characters() {
    let max = BadRecord::TEXT_BYTES_MAX;
    for before in max - 5..=max + 1 {
        let text = "x".repeat(before) + "語語";
        let cut = beginning(text.as_bytes());
        assert!(
            text.starts_with(&cut) && cut.len() <= max && cut.len() + 3 > max,
            "{before}"
        );
    }
    assert_eq!(beginning(&[0xff; 2000]).chars().count(), max);
    assert_eq!(beginning(&[0x80; 2000]).chars().count(), max);
    assert_eq!(beginning(b"a\xffb\r\n"), "a\u{fffd}b");
}
