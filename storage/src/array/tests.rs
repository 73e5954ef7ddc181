//! Any cut gives every row once; what is cut, longer or hostile is an error that names the file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;
use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::error::{Result, StorageError};
use crate::object::{Object, ObjectError};
use crate::remote::Stores;

fn stored(stores: &Stores, name: &str, bytes: impl Into<bytes::Bytes>) -> Vec<Object> {
    let url = format!("memory://{name}");
    stores.write(&url, bytes.into()).unwrap();
    stores.list(&url).unwrap()
}

fn read<T: Element>(
    stores: &Stores,
    objects: &[Object],
    format: &ArrayFormat,
    partitions: usize,
) -> Result<Vec<Vec<T>>> {
    let groups = split_arrays::<T>(stores, objects, format, partitions)?;
    assert_eq!(groups.len(), partitions);
    let mut rows = Vec::new();
    for split in groups.iter().flatten() {
        for row in read_rows(stores, split)? {
            rows.push(row?);
        }
    }
    Ok(rows)
}

fn idx<T: Element>(magic: u32, sides: &[u32], elements: &[T]) -> Vec<u8> {
    let words = std::iter::once(magic).chain(sides.iter().copied());
    let mut bytes: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
    for element in elements {
        let start = bytes.len();
        element.encode(&mut bytes);
        bytes[start..].reverse();
    }
    bytes
}

fn npy<T: Element>(row_shape: &[usize], rows: &[Vec<T>]) -> Vec<u8> {
    let mut writer = NpyWriter::new("a.npy", row_shape).unwrap();
    rows.iter().for_each(|row| writer.push(row).unwrap());
    writer.finish()
}

/// An npy file of version 1 with that dictionary.
fn npy_with(dictionary: &str, elements: &[u8]) -> Vec<u8> {
    let length = dictionary.len() as u16;
    [
        b"\x93NUMPY\x01\x00",
        &length.to_le_bytes()[..],
        dictionary.as_bytes(),
        elements,
    ]
    .concat()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Rows of one shape, for several files.
fn files<T: Element + Debug>(
    element: impl Strategy<Value = T> + Clone,
) -> impl Strategy<Value = (Vec<usize>, Vec<Vec<Vec<T>>>)> {
    prop::collection::vec(1..4_usize, 0..3).prop_flat_map(move |shape| {
        let row = prop::collection::vec(element.clone(), shape.iter().product::<usize>());
        let files = prop::collection::vec(prop::collection::vec(row, 0..9), 1..4);
        (Just(shape), files)
    })
}

fn same_for_any_cut<T: Element + PartialEq + Debug>(
    format: &ArrayFormat,
    files: &[Vec<Vec<T>>],
    partitions: usize,
    compressed: bool,
    write: impl Fn(&[Vec<T>]) -> Vec<u8>,
) -> Result<(), TestCaseError> {
    let stores = Stores::new();
    let write = |(index, rows): (usize, &Vec<Vec<T>>)| match compressed {
        true => stored(&stores, &format!("a{index}.gz"), gzip(&write(rows))),
        false => stored(&stores, &format!("a{index}"), write(rows)),
    };
    let objects: Vec<Object> = files.iter().enumerate().flat_map(write).collect();
    prop_assert_eq!(
        read::<T>(&stores, &objects, format, partitions).unwrap(),
        files.concat()
    );
    for (object, rows) in objects.iter().zip(files) {
        let array = read_array::<T>(&stores, object, format, u64::MAX).unwrap();
        prop_assert_eq!(array.shape[0], rows.len());
        prop_assert_eq!(array.elements, rows.concat());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn npy_files_give_every_row_once(
        (shape, floats) in files(-1e9..1e9_f64), (other, bytes) in files(any::<u8>()), (third, words) in files(any::<i16>()),
        partitions in 1..7_usize, compressed: bool,
    ) {
        same_for_any_cut(&ArrayFormat::Npy, &floats, partitions, compressed, |rows| npy(&shape, rows))?;
        same_for_any_cut(&ArrayFormat::Npy, &bytes, partitions, compressed, |rows| npy(&other, rows))?;
        same_for_any_cut(&ArrayFormat::Npy, &words, partitions, compressed, |rows| npy(&third, rows))?;
    }

    #[test]
    fn idx_files_give_every_row_once((shape, floats) in files(-1e9..1e9_f32), (other, bytes) in files(any::<u8>()), partitions in 1..7_usize, compressed: bool) {
        let sides = |shape: &[usize], rows: usize| -> Vec<u32> { std::iter::once(&rows).chain(shape).map(|side| *side as u32).collect() };
        same_for_any_cut(&ArrayFormat::Idx, &floats, partitions, compressed, |rows| idx(0x0d01 + shape.len() as u32, &sides(&shape, rows.len()), &rows.concat()))?;
        same_for_any_cut(&ArrayFormat::Idx, &bytes, partitions, compressed, |rows| idx(0x0801 + other.len() as u32, &sides(&other, rows.len()), &rows.concat()))?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, dictionary in "[{}():,'\" 0-9a-zA-ZL]{0,60}", magic: u16) {
        let stores = Stores::new();
        let heads = [bytes.clone(), [&[0, 0][..], &magic.to_be_bytes(), &bytes].concat(), npy_with(&dictionary, &bytes)];
        for (index, bytes) in heads.into_iter().enumerate() {
            let objects = stored(&stores, &format!("a{index}"), bytes);
            let _ = read::<u8>(&stores, &objects, &ArrayFormat::Idx, 2);
            let _ = read::<u8>(&stores, &objects, &ArrayFormat::Npy, 2);
        }
    }
}

#[test]
fn every_cut_and_every_addition_is_an_error() {
    let stores = Stores::new();
    let (idx, npy) = (
        idx(0x0803, &[2, 2, 2], &[9_u8; 8]),
        npy(&[2, 2], &[vec![9_u8; 4], vec![9; 4]]),
    );
    for (format, whole) in [(&ArrayFormat::Idx, idx), (&ArrayFormat::Npy, npy)] {
        let longer = [whole.clone(), vec![0]].concat();
        let much_longer = [whole.clone(), vec![0; 4]].concat();
        let cuts = (0..whole.len()).map(|length| whole[..length].to_vec());
        for bytes in cuts.chain([longer, much_longer]) {
            let length = bytes.len();
            let packed = stored(&stores, "packed.gz", gzip(&bytes));
            let plain = stored(&stores, "plain", bytes);
            for objects in [plain, packed] {
                let error = read::<u8>(&stores, &objects, format, 2).unwrap_err();
                assert!(error.to_string().starts_with(&objects[0].url), "{length}: {error}");
                assert!(read_array::<u8>(&stores, &objects[0], format, 100).is_err(), "{length}");
            }
        }
    }
}

fn words<T: Element + Debug>(bytes: Vec<u8>, format: &ArrayFormat) -> String {
    let stores = Stores::new();
    let objects = stored(&stores, "a", bytes);
    match read::<T>(&stores, &objects, format, 2) {
        Err(StorageError::Object(error @ ObjectError::Malformed { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hostile_idx_headers_are_errors_that_say_what_is_wrong() {
    for (magic, sides, expected) in [
        (0x0803, vec![u32::MAX; 3], "multiply to rows of more than"),
        (0x0802, vec![u32::MAX, 1 << 30], "0 bytes of elements, the sides say"),
        (0x0e02, vec![u32::MAX, 0], "rows without elements"),
        (
            0x08ff,
            vec![2; 4],
            "the header is cut: 20 bytes, expected at least 1024",
        ),
        (0x0800, vec![], "magic number 0x00000800"),
        (0x0a01, vec![1], "magic number 0x00000a01"),
        (
            0x0d01,
            vec![0],
            "the elements are f32, but u8 are asked for; ask for f32",
        ),
    ] {
        let message = words::<u8>(idx::<u8>(magic, &sides, &[]), &ArrayFormat::Idx);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn hostile_npy_headers_are_errors_that_say_what_is_wrong() {
    let shaped = |shape: &str| {
        npy_with(
            &format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"),
            &[],
        )
    };
    let many = format!("({})", "1,".repeat(70));
    for (bytes, expected) in [
        (
            shaped("(18446744073709551615, 2)"),
            "multiply to more than memory can hold",
        ),
        (shaped("(2, 18446744073709551615, 2)"), "multiply to rows of more than"),
        (shaped("(18446744073709551616,)"), "is not a dictionary"),
        (shaped("(-1,)"), "is not a dictionary"),
        (shaped("(9, 0)"), "rows without elements"),
        (shaped(&many), "is not a dictionary"),
        (
            npy_with("{'descr': '<f4', 'shape': (1,)}", &[0; 4]),
            "is not a dictionary",
        ),
        (
            npy_with("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", &[0; 8]),
            "type `|O` cannot be read",
        ),
        (
            npy_with("{'descr': '<é', 'fortran_order': False, 'shape': (1,)}", &[]),
            "cannot be read",
        ),
        (
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(),
            "a header of 4294967295 bytes is longer than 10000",
        ),
        (b"\x93NUMPY\x04\x00\xff\xff\xff\xff".to_vec(), "version 4"),
        (b"PK\x03\x04 not npy".to_vec(), "does not begin as an npy file"),
    ] {
        let message = words::<u8>(bytes, &ArrayFormat::Npy);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_packed_array_that_promises_much_and_holds_little_costs_little() {
    let stores = Stores::new();
    let objects = stored(&stores, "a.gz", gzip(&idx::<u8>(0x0802, &[4, 1 << 30], &[1; 10])));
    let error = read::<u8>(&stores, &objects, &ArrayFormat::Idx, 1)
        .unwrap_err()
        .to_string();
    assert!(error.contains("records of 1073741824"), "{error}");
    let error = read_array::<u8>(&stores, &objects[0], &ArrayFormat::Idx, 1 << 20)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("4294967296 bytes of elements, above the limit of 1048576"),
        "{error}"
    );
}

#[test]
fn files_of_other_shapes_and_rows_of_other_lengths_are_refused() {
    let stores = Stores::new();
    let mut objects = stored(&stores, "a", npy(&[2], &[vec![1_u8, 2]]));
    objects.extend(stored(&stores, "b", npy(&[3], &[vec![1_u8, 2, 3]])));
    let error = read::<u8>(&stores, &objects, &ArrayFormat::Npy, 1)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("memory://b, its header: rows of shape [3], but [2] in memory://a"),
        "{error}"
    );
    let mut writer = NpyWriter::new("c.npy", &[2]).unwrap();
    let error = writer.push(&[1_u8]).unwrap_err().to_string();
    assert!(
        error.contains("c.npy, row 0: 1 elements where rows are of shape [2]"),
        "{error}"
    );
    assert!(NpyWriter::<u8>::new("c.npy", &[0]).is_err());
    assert!(NpyWriter::<f64>::new("c.npy", &[1 << 28]).is_err());
}

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    folder.join(name).to_str().unwrap().to_owned()
}

fn read_fixture<T: Element>(name: &str) -> Result<Vec<Vec<T>>> {
    let stores = Stores::new();
    let objects = stores.list(&fixture(name)).unwrap();
    read::<T>(&stores, &objects, &ArrayFormat::Npy, 2)
}

#[test]
fn files_of_numpy_are_read() {
    let matrix = read_fixture::<f32>("matrix.f4.npy").unwrap();
    assert_eq!(matrix, [[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]]);
    let cube = read_fixture::<u8>("cube.u1.npy").unwrap();
    assert_eq!(cube, [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]);
    assert_eq!(read_fixture::<i16>("vector.big.i2.npy").unwrap(), [[1], [-2], [300]]);
    assert_eq!(read_fixture::<i64>("version2.i8.npy").unwrap(), [[5, 6]]);
    assert_eq!(read_fixture::<f64>("number.f8.npy").unwrap(), [[1.5]]);
    for (name, expected) in [
        ("fortran.npy", "numpy.ascontiguousarray"),
        ("fields.npy", "fields of several types"),
    ] {
        let error = read_fixture::<f64>(name).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn an_npy_file_is_what_numpy_would_write() {
    let rows = [vec![0.0_f32, 0.5], vec![1.0, 1.5], vec![2.0, 2.5]];
    assert_eq!(npy(&[2], &rows), std::fs::read(fixture("matrix.f4.npy")).unwrap());
    let words = [vec![1_u8], vec![2]];
    let header = npy(&[], &words);
    let text = String::from_utf8_lossy(&header);
    assert!(
        text.contains("{'descr': '|u1', 'fortran_order': False, 'shape': (2,), }"),
        "{text}"
    );
}

fn npz(array: &str) -> ArrayFormat {
    ArrayFormat::Npz {
        array: array.to_owned(),
    }
}

#[test]
fn arrays_of_archives_of_numpy_are_read() {
    let stores = Stores::new();
    let images: Vec<Vec<u8>> = (0..4).map(|row| (6 * row..6 * (row + 1)).collect()).collect();
    let labels = [[1.5_f32], [-2.0], [3.25], [4.0]];
    for name in ["stored.npz", "packed.npz"] {
        let objects = stores.list(&fixture(name)).unwrap();
        for partitions in 1..6 {
            assert_eq!(
                read::<u8>(&stores, &objects, &npz("images"), partitions).unwrap(),
                images
            );
            assert_eq!(
                read::<f32>(&stores, &objects, &npz("labels"), partitions).unwrap(),
                labels
            );
        }
        let array = read_array::<u8>(&stores, &objects[0], &npz("images"), 100).unwrap();
        assert_eq!((array.shape, array.elements.len()), (vec![4, 3, 2], 24));
        let error = read::<u8>(&stores, &objects, &npz("names"), 1).unwrap_err().to_string();
        assert!(
            error.contains("no array `names`") && error.contains("it has images, labels"),
            "{error}"
        );
    }
    let stored = stores.list(&fixture("stored.npz")).unwrap();
    let groups = split_arrays::<u8>(&stores, &stored, &npz("images"), 2).unwrap();
    assert!(
        groups
            .iter()
            .all(|group| group[0].range().end - group[0].range().start == 12),
        "cut between rows"
    );
}

#[test]
fn damaged_archives_are_errors_and_never_other_rows() {
    let stores = Stores::new();
    for name in ["stored.npz", "packed.npz"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let expected: Vec<Vec<u8>> = (0..4).map(|row| (6 * row..6 * (row + 1)).collect()).collect();
        for length in 0..whole.len() {
            let objects = stored(&stores, "cut.npz", whole[..length].to_vec());
            assert!(
                read::<u8>(&stores, &objects, &npz("images"), 2).is_err(),
                "cut at {length}"
            );
        }
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 0x55;
            let objects = stored(&stores, "altered.npz", bytes);
            // What is stored as it is has no checksum that a reader of some rows could look at.
            if let Ok(rows) = read::<u8>(&stores, &objects, &npz("images"), 2)
                && name == "packed.npz"
            {
                assert_eq!(rows, expected, "altered at {position}");
            }
        }
    }
}
