//! Any cuts and any pieces give every line once; damaged input is an error that names the place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;

use bytes::Bytes;

use flate2::write::GzEncoder;
use proptest::prelude::*;

use super::*;
use crate::error::StorageError;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

type Pack = fn(&[u8]) -> Vec<u8>;

/// Both ways to pack, and the ending that tells of each.
const PACKERS: [(&str, Pack); 2] = [("gz", gzip), ("zst", zstd)];

/// What a zstd reader must leave out.
fn skippable_frame(bytes: &[u8]) -> Vec<u8> {
    [
        &0x184d_2a53_u32.to_le_bytes()[..],
        &(bytes.len() as u32).to_le_bytes(),
        bytes,
    ]
    .concat()
}

fn stored(stores: &Stores, name: &str, bytes: impl Into<Bytes>) -> Vec<Object> {
    let url = format!("memory://{name}");
    stores.write(&url, bytes.into()).unwrap();
    stores.list(&url).unwrap()
}

fn options(piece_bytes: usize) -> TextOptions {
    TextOptions {
        piece_bytes,
        ..TextOptions::default()
    }
}

fn all_lines(stores: &Stores, groups: &[Vec<TextSplit>], options: TextOptions) -> Result<Vec<String>, StorageError> {
    let readers = groups
        .iter()
        .flatten()
        .map(|split| read_lines_with(stores, split, options).unwrap());
    readers.flatten().collect()
}

fn object_error<T: std::fmt::Debug>(result: Result<T, StorageError>) -> ObjectError {
    match result {
        Err(StorageError::Object(error)) => error,
        other => panic!("not an object error: {other:?}"),
    }
}

fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-zé語]{0,6}",
        Just("\n".to_owned()),
        Just("\r\n".to_owned()),
        Just("\r".to_owned())
    ];
    prop::collection::vec(part, 0..40).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn splits_give_every_line_once(texts in prop::collection::vec(text(), 1..4), partitions in 1_usize..9, piece_bytes in 1_usize..40) {
        let stores = Stores::new();
        let objects: Vec<Object> =
            texts.iter().enumerate().flat_map(|(index, text)| stored(&stores, &format!("t{index}"), text.clone())).collect();
        let groups = split_text(&objects, partitions);
        prop_assert_eq!(groups.len(), partitions);
        let expected: Vec<&str> = texts.iter().flat_map(|text| text.lines()).collect();
        prop_assert_eq!(all_lines(&stores, &groups, options(piece_bytes)).unwrap(), expected);
    }

    #[test]
    fn compressed_files_give_the_same_lines(text in text(), partitions in 1_usize..4, piece_bytes in 1_usize..40, member_cut in 0_usize..200) {
        let stores = Stores::new();
        let (first, second) = text.as_bytes().split_at(member_cut.min(text.len()));
        for (ending, pack) in PACKERS {
            let between = if ending == "zst" { skippable_frame(&text.as_bytes()[text.len() / 2..]) } else { Vec::new() };
            let objects = stored(&stores, &format!("t.txt.{ending}"), [pack(first), between, pack(second)].concat());
            let lines = all_lines(&stores, &split_text(&objects, partitions), options(piece_bytes)).unwrap();
            prop_assert_eq!(lines, text.lines().collect::<Vec<_>>());
        }
    }

    #[test]
    fn arbitrary_bytes_are_an_error_or_text_and_never_a_panic(bytes: Vec<u8>, begun: bool) {
        let stores = Stores::new();
        for (ending, pack) in PACKERS {
            let start = if begun { pack(b"text")[..4].to_vec() } else { Vec::new() };
            let objects = stored(&stores, &format!("t.{ending}"), [start, bytes.clone()].concat());
            let _ = all_lines(&stores, &split_text(&objects, 1), options(100));
        }
    }

    #[test]
    fn json_lines_come_once_and_in_order(
        rows in prop::collection::vec(("[a-zé\n\"]{0,5}", proptest::option::of(any::<i32>()), prop::collection::vec(any::<u8>(), 0..3)), 0..20),
        blanks in "[ \n\r]{0,3}", partitions in 1_usize..9, piece_bytes in 1_usize..40,
    ) {
        let stores = Stores::new();
        let text: String = rows.iter().map(|row| serde_json::to_string(row).unwrap() + "\n" + &blanks + "\n").collect();
        let objects = stored(&stores, "t.jsonl", text);
        let groups = split_text(&objects, partitions);
        let readers = groups.iter().flatten().map(|split| read_json_lines(&stores, split, options(piece_bytes)).unwrap());
        let read: Vec<(String, Option<i32>, Vec<u8>)> = readers.flatten().map(Result::unwrap).collect();
        prop_assert_eq!(read, rows);
    }

    #[test]
    fn records_come_once_and_in_order(counts in prop::collection::vec(0_usize..30, 1..4), record_bytes in 1_usize..9, header_bytes in 0_usize..5, partitions in 1_usize..9, compressed in 0_usize..3) {
        let stores = Stores::new();
        let mut expected = Vec::new();
        let mut objects = Vec::new();
        for (index, count) in counts.iter().enumerate() {
            let body: Vec<u8> = (0..count * record_bytes).map(|byte| (byte * 7 + index) as u8).collect();
            expected.extend(body.chunks(record_bytes).map(<[u8]>::to_vec));
            let whole = [vec![0xff; header_bytes], body].concat();
            let (name, whole) = match PACKERS.get(compressed) {
                Some((ending, pack)) => (format!("r{index}.{ending}"), pack(&whole)),
                None => (format!("r{index}"), whole),
            };
            objects.extend(stored(&stores, &name, whole));
        }
        let groups = split_records(&objects, record_bytes as u64, header_bytes as u64, partitions).unwrap();
        prop_assert_eq!(groups.len(), partitions);
        let readers = groups.iter().flatten().map(|split| read_records(&stores, split).unwrap());
        let records: Vec<Vec<u8>> = readers.flatten().map(|record| record.unwrap().to_vec()).collect();
        prop_assert_eq!(records, expected);
    }
}

#[test]
fn groups_are_balanced_and_exact() {
    let object = |url: &str, bytes| Object {
        url: url.into(),
        bytes,
        version: None,
    };
    let objects = [object("a", 300), object("b", 500), object("c", 200)];
    let groups = split_text(&objects, 7);
    let sizes: Vec<u64> = groups
        .iter()
        .map(|group| group.iter().map(|split| split.range.end - split.range.start).sum())
        .collect();
    assert_eq!(sizes.iter().sum::<u64>(), 1000);
    assert!(sizes.iter().all(|bytes| (142..=143).contains(bytes)), "{sizes:?}");
    assert!(split_text(&objects, 0).is_empty(), "none was asked for");
    assert_eq!(split_text(&[], 3), vec![vec![], vec![], vec![]]);
    let compressed = split_text(&[object("a.gz", 10), object("b.GZ", 90)], 2);
    assert_eq!(compressed.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn a_split_reads_no_more_than_it_needs() {
    let stores = Stores::new();
    let mut bytes = b"good\nlast line\n".to_vec();
    bytes.extend([0xff; 100]);
    let objects = stored(&stores, "t", bytes);
    let split = TextSplit {
        object: objects[0].clone(),
        range: 0..7,
        compression: None,
    };
    let lines: Vec<String> = read_lines(&stores, &split).unwrap().map(Result::unwrap).collect();
    assert_eq!(lines, ["good", "last line"]);
}

#[test]
fn bytes_that_are_no_text_are_named_with_their_place() {
    let stores = Stores::new();
    for piece_bytes in [1, 3, 100] {
        let objects = stored(&stores, "t", &b"ab\ncd\xffe\nf"[..]);
        let error = object_error(all_lines(&stores, &split_text(&objects, 1), options(piece_bytes)));
        assert_eq!(
            error,
            ObjectError::NotUtf8 {
                url: "memory://t".into(),
                offset: 5
            }
        );
    }
}

#[test]
fn a_line_beyond_the_limit_is_an_error_for_any_piece() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", "short\nmuch too long\nshort\n");
    for piece_bytes in [1, 4, 7, 100] {
        let options = TextOptions {
            piece_bytes,
            line_bytes_max: 8,
        };
        let mut lines = read_lines_with(&stores, &split_text(&objects, 1)[0][0], options).unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "short");
        let error = object_error(lines.next().unwrap());
        assert_eq!(
            error,
            ObjectError::LineTooLong {
                url: "memory://t".into(),
                offset: 6,
                bytes_max: 8
            }
        );
        assert!(lines.next().is_none(), "nothing after an error");
    }
    let zero = TextOptions {
        piece_bytes: 0,
        line_bytes_max: 8,
    };
    assert!(read_lines_with(&stores, &split_text(&objects, 1)[0][0], zero).is_err());
}

#[test]
fn a_partition_within_a_line_beyond_the_limit_does_not_look_for_its_end() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", "x".repeat(1000));
    let splits = split_text(&objects, 2);
    let options = TextOptions {
        piece_bytes: 4,
        line_bytes_max: 8,
    };
    for (split, offset) in [(&splits[0][0], 0), (&splits[1][0], 499)] {
        let mut lines = read_lines_with(&stores, split, options).unwrap();
        assert_eq!(
            object_error(lines.next().unwrap()),
            ObjectError::LineTooLong {
                url: "memory://t".into(),
                offset,
                bytes_max: 8
            }
        );
    }
}

#[test]
fn damaged_files_are_errors_that_name_the_object() {
    let stores = Stores::new();
    let text = "one\ntwo\nthree\n".repeat(50);
    for (ending, pack) in PACKERS {
        let whole = pack(text.as_bytes());
        let mut flipped = whole.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 0x10;
        let mut files = vec![
            ("flipped", flipped),
            ("plain", b"not packed at all".to_vec()),
            ("tail", [&whole[..], b"garbage"].concat()),
            ("second", [&whole[..], &whole[..whole.len() - 1]].concat()),
        ];
        files.extend((0..whole.len()).map(|length| ("cut", whole[..length].to_vec())));
        for (name, bytes) in files {
            let length = bytes.len();
            let objects = stored(&stores, &format!("{name}.{ending}"), bytes);
            let error = object_error(all_lines(&stores, &split_text(&objects, 2), TextOptions::default()));
            assert!(
                matches!(&error, ObjectError::NotDecompressed { url, .. } if url.contains(name)),
                "{name}.{ending} of {length}: {error}"
            );
            let early = error.to_string().contains("it ends too early");
            assert!(early || name != "cut", "{length}: {error}");
            let split = split_records(&objects, 1, 0, 1).unwrap();
            let records: Result<Vec<_>, _> = read_records(&stores, &split[0][0]).unwrap().collect();
            assert!(
                matches!(object_error(records), ObjectError::NotDecompressed { .. }),
                "{name}"
            );
        }
    }
}

#[test]
fn zeros_behind_a_gzip_file_are_padding_and_all_else_is_named() {
    let stores = Stores::new();
    let packed = [gzip(b"one\n"), gzip(b""), gzip(b"two\n")].concat();
    let read = |behind: &[u8], piece_bytes| {
        let objects = stored(&stores, "padded.gz", [&packed[..], behind].concat());
        all_lines(&stores, &split_text(&objects, 2), options(piece_bytes))
    };
    for piece_bytes in [1, 7, 100_000] {
        for zeros in [0, 1, 9, 10, 511, 70_000] {
            assert_eq!(
                read(&vec![0; zeros], piece_bytes).unwrap(),
                ["one", "two"],
                "{zeros} zeros"
            );
        }
        for (behind, at, shown) in [
            (&b"text that is longer"[..], 0, "text that is lon"),
            (b"\0\0\0text", 3, "t"),
            (b"\0\x1f\x8b", 1, "\\x1f"),
        ] {
            let error = object_error(read(behind, piece_bytes)).to_string();
            let place = format!("at byte {}, behind its last member, is `", packed.len() + at);
            assert!(error.contains(&place), "{error}");
            let whole = format!("{place}{shown}");
            assert!(piece_bytes < 100 || error.contains(&whole), "{error}");
        }
    }
}

#[test]
fn a_file_that_the_zstd_library_has_written_is_read() {
    let stores = Stores::new();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/lines.txt.zst");
    let groups = split_text(&stores.list(path).unwrap(), 3);
    let lines = all_lines(&stores, &groups, TextOptions::default()).unwrap();
    let expected: Vec<String> = (0..2000).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
}

#[test]
fn a_window_beyond_the_limit_is_refused_before_it_is_made() {
    let stores = Stores::new();
    // Magic, a descriptor without sizes, and a window of 2^41 bytes (RFC 8878, 3.1.1.1).
    let objects = stored(&stores, "t.zst", vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 31 << 3]);
    let error = object_error(all_lines(&stores, &split_text(&objects, 1), TextOptions::default()));
    assert!(error.to_string().contains("window"), "{error}");
}

#[test]
fn an_error_below_the_decoder_stays_what_it_is() {
    let stores = Stores::new();
    for (ending, pack) in PACKERS {
        let mut objects = stored(&stores, &format!("t.{ending}"), pack(b"one\n"));
        objects[0].version = Some("older".into());
        let error = object_error(all_lines(&stores, &split_text(&objects, 1), TextOptions::default()));
        assert!(matches!(error, ObjectError::Changed { .. }), "{error}");
    }
}

#[test]
fn names_tell_of_compression() {
    for (name, compression) in [
        ("a/b.gz", Some(Compression::Gzip)),
        ("a.ZST", Some(Compression::Zstd)),
        ("https://h/a.gz?x=1.zst#y", Some(Compression::Gzip)),
        ("s3://b/a.gz?", None),
        ("a.zst.txt", None),
        (".gz", None),
        ("gz", None),
    ] {
        assert_eq!(Compression::of_name(name), compression, "{name}");
    }
}

#[test]
fn a_line_that_is_no_value_of_the_type_is_named() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", "[1, 2]\n\n[1, \"x\"]\n[3, 4]\n");
    for partitions in [1, 5] {
        let groups = split_text(&objects, partitions);
        let readers = groups
            .iter()
            .flatten()
            .map(|split| read_json_lines::<(u8, u8)>(&stores, split, options(9)).unwrap());
        let error = object_error(readers.flatten().collect::<Result<Vec<_>, _>>()).to_string();
        let words =
            "memory://t, the line at byte 8: invalid type: string \"x\", expected u8 at column 7; each line must";
        assert!(error.starts_with(words), "{error}");
    }
}

#[test]
fn records_that_do_not_fit_are_counted_out() {
    let stores = Stores::new();
    let objects = stored(&stores, "r", vec![0; 30]);
    let wrong = |bytes, header_bytes, record_bytes, remainder| ObjectError::NotWholeRecords {
        url: "memory://r".into(),
        bytes,
        header_bytes,
        record_bytes,
        remainder,
    };
    assert_eq!(object_error(split_records(&objects, 8, 4, 2)), wrong(30, 4, 8, 2));
    assert_eq!(object_error(split_records(&objects, 8, 31, 2)), wrong(30, 31, 8, 30));
    assert!(split_records(&objects, 0, 0, 2).is_err());
    let objects = stored(&stores, "r.gz", gzip(&[0; 30]));
    for header_bytes in [4, 31] {
        let groups = split_records(&objects, 8, header_bytes, 1).unwrap();
        let records: Result<Vec<_>, _> = read_records(&stores, &groups[0][0]).unwrap().collect();
        assert!(matches!(
            object_error(records),
            ObjectError::NotWholeRecords { bytes: 30, .. }
        ));
    }
}

#[test]
fn a_mark_of_the_byte_order_is_no_part_of_a_text() {
    let stores = Stores::default();
    stores
        .write(
            "memory://mark.txt",
            Bytes::from_static("\u{feff}1\n\u{feff}2\n".as_bytes()),
        )
        .unwrap();
    let objects = stores.list("memory://mark.txt").unwrap();
    for partitions in 1..4 {
        let splits = split_text(&objects, partitions);
        let lines = splits
            .iter()
            .flatten()
            .flat_map(|split| read_lines(&stores, split).unwrap());
        assert_eq!(
            lines.collect::<crate::error::Result<Vec<String>>>().unwrap(),
            ["1", "\u{feff}2"]
        );
    }
    stores
        .write(
            "memory://mark.json",
            Bytes::from_static("\u{feff}{\"a\":1}\n".as_bytes()),
        )
        .unwrap();
    let objects = stores.list("memory://mark.json").unwrap();
    let split = &split_text(&objects, 1)[0][0];
    let mut values =
        read_json_lines::<std::collections::BTreeMap<String, u8>>(&stores, split, TextOptions::default()).unwrap();
    assert_eq!(values.next().unwrap().unwrap()["a"], 1);
}
