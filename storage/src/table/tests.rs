//! Rows for the tests of both formats.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, FixedSizeListArray, Int64Array, ListArray, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{BatchRows, Outline, Units, parts};
use crate::error::Result;
use crate::object::{Object, ObjectError};
use crate::remote::Stores;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) count: Option<i32>,
    pub(crate) share: f64,
    pub(crate) tags: Vec<i64>,
    pub(crate) kind: String,
}

pub(crate) fn rows() -> impl Strategy<Value = Vec<Row>> {
    let tags = prop::collection::vec(any::<i64>(), 0..4);
    let row = (
        "[a-zé]{0,8}",
        proptest::option::of(any::<i32>()),
        -1e9..1e9_f64,
        tags,
        "[ab]",
    );
    let row = row.prop_map(|(name, count, share, tags, kind)| Row {
        name,
        count,
        share,
        tags,
        kind,
    });
    prop::collection::vec(row, 0..30)
}

/// What `fixtures/make.py` writes.
pub(crate) fn fixture_rows() -> Vec<Row> {
    let row = |number: i32| Row {
        name: format!("name {}", number % 7),
        count: (number % 5 != 0).then_some(number),
        share: f64::from(number) / 4.0,
        tags: (0..i64::from(number % 3)).collect(),
        kind: format!("kind {}", number % 2),
    };
    (0..20).map(row).collect()
}

pub(crate) fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    folder.join(name).to_str().unwrap().to_owned()
}

pub(crate) fn stored(stores: &Stores, name: &str, bytes: Vec<u8>) -> Vec<Object> {
    let url = format!("memory://{name}");
    stores.write(&url, bytes.into()).unwrap();
    stores.list(&url).unwrap()
}

/// All rows of a batch with one column.
fn read<T: DeserializeOwned>(column: &ArrayRef) -> Result<Vec<T>> {
    let batch = RecordBatch::try_from_iter_with_nullable([("column", Arc::clone(column), true)]).unwrap();
    let mut rows = BatchRows::<T>::default();
    rows.refill(batch);
    std::iter::from_fn(|| rows.next("t", "a batch").transpose()).collect()
}

#[derive(Debug, PartialEq, Deserialize)]
struct Of<T> {
    column: T,
}

fn of<T>(column: T) -> Of<T> {
    Of { column }
}

#[derive(Debug, PartialEq, Deserialize)]
struct Point {
    x: Option<i64>,
}

fn refused<T: DeserializeOwned + std::fmt::Debug>(column: &ArrayRef) {
    let error = read::<Of<T>>(column).unwrap_err().to_string();
    assert!(error.contains("is null where the record has no `Option`"), "{error}");
}

#[test]
fn what_is_null_is_no_empty_list_and_no_struct_of_what_lies_under_it() {
    let lists = [Some(vec![Some(1), Some(2)]), None];
    let lists = Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)) as ArrayRef;
    refused::<Vec<i64>>(&lists);
    let read_lists: Vec<Of<Option<Vec<i64>>>> = read(&lists).unwrap();
    assert_eq!(read_lists, [of(Some(vec![1, 2])), of(None)]);

    let pairs = [Some(vec![Some(1), Some(2)]), None];
    let pairs = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>(pairs, 2);
    let pairs = Arc::new(pairs) as ArrayRef;
    refused::<(i64, i64)>(&pairs);
    refused::<Vec<i64>>(&pairs);
    let read_pairs: Vec<Of<Option<(i64, i64)>>> = read(&pairs).unwrap();
    assert_eq!(read_pairs, [of(Some((1, 2))), of(None)]);

    let field = Arc::new(Field::new("x", DataType::Int64, true));
    let under: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), Some(99), None]));
    let structs = StructArray::new(vec![field].into(), vec![under], Some(vec![true, false, true].into()));
    let structs = Arc::new(structs) as ArrayRef;
    refused::<Point>(&structs);
    let read_structs: Vec<Of<Option<Point>>> = read(&structs).unwrap();
    let points = [Some(Point { x: Some(1) }), None, Some(Point { x: None })];
    assert_eq!(read_structs, points.map(of));
}

fn error_of<T: DeserializeOwned + std::fmt::Debug>(column: &ArrayRef) -> String {
    read::<Of<T>>(column).unwrap_err().to_string()
}

#[test]
fn an_array_takes_all_of_a_list_or_is_an_error() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Pair(i64, i64);

    let three = || Some(vec![Some(1), Some(2), Some(3)]);
    let lists = ListArray::from_iter_primitive::<Int64Type, _, _>([three()]);
    let fixed = FixedSizeListArray::from_iter_primitive::<Int64Type, _, _>([three()], 3);
    for lists in [Arc::new(lists) as ArrayRef, Arc::new(fixed)] {
        assert_eq!(read::<Of<[i64; 3]>>(&lists).unwrap(), [of([1, 2, 3])]);
        assert_eq!(read::<Of<Option<[i64; 3]>>>(&lists).unwrap(), [of(Some([1, 2, 3]))]);
        for error in [
            error_of::<[i64; 2]>(&lists),
            error_of::<(i64, i64)>(&lists),
            error_of::<Pair>(&lists),
            error_of::<Option<[i64; 2]>>(&lists),
        ] {
            assert!(
                error.contains("more values than the record's array or tuple"),
                "{error}"
            );
        }
        let error = error_of::<[i64; 4]>(&lists);
        assert!(
            error.contains("invalid length 3, expected an array of length 4"),
            "{error}"
        );
    }
}

#[test]
fn a_tuple_takes_columns_that_are_numbered_and_no_others() {
    let columns = |names: &[&'static str]| {
        let values = (1..).map(|value| Arc::new(Int64Array::from(vec![value])) as ArrayRef);
        RecordBatch::try_from_iter(names.iter().copied().zip(values)).unwrap()
    };
    let pairs = |batch: RecordBatch| {
        let mut rows = BatchRows::<(i64, i64)>::default();
        rows.refill(batch);
        rows.next("t", "a batch")
    };
    assert_eq!(pairs(columns(&["0", "1"])).unwrap(), Some((1, 2)));
    for names in [&["a", "b"][..], &["1", "0"], &["0", "b"]] {
        let error = pairs(columns(names)).unwrap_err().to_string();
        assert!(error.contains("a tuple takes fields by position"), "{error}");
    }
    let error = pairs(columns(&["0", "1", "2"])).unwrap_err().to_string();
    assert!(error.contains("more values than"), "{error}");

    let structs = |names: &[&'static str]| Arc::new(StructArray::from(columns(names))) as ArrayRef;
    assert_eq!(read::<Of<(i64, i64)>>(&structs(&["0", "1"])).unwrap(), [of((1, 2))]);
    let error = error_of::<(i64, i64)>(&structs(&["b", "a"]));
    assert!(error.contains("a tuple takes fields by position"), "{error}");
}

#[test]
fn numbers_of_files_that_are_read_as_one_have_one_unit() {
    let field = |data_type| Arc::new(Field::new("x", data_type, true));
    let of =
        |data_type: DataType| Schema::new(vec![field(DataType::Utf8), Arc::new(Field::new("at", data_type, true))]);
    let millis = || DataType::Timestamp(TimeUnit::Millisecond, None);
    let micros = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let map = |value| {
        let entries = vec![field(DataType::Int64), Arc::new(Field::new("value", value, true))];
        DataType::Map(field(DataType::Struct(entries.into())), false)
    };
    let dictionary = |values| DataType::Dictionary(DataType::Int8.into(), Box::new(values));
    let check = |one, other, wanted: Option<&[String]>| {
        let mut units = Units::default();
        units.check("first", &of(one), wanted).unwrap();
        units
            .check("second", &of(other), wanted)
            .map_err(|error| error.to_string())
    };
    for (one, other, path) in [
        (millis(), micros(), "at"),
        (micros(), DataType::Int64, "at"),
        (DataType::Date32, DataType::Date64, "at"),
        (
            DataType::Time32(TimeUnit::Second),
            DataType::Time32(TimeUnit::Millisecond),
            "at",
        ),
        (dictionary(millis()), micros(), "at"),
        (
            DataType::List(field(millis())),
            DataType::LargeList(field(micros())),
            "at[]",
        ),
        (
            DataType::Struct(vec![field(millis())].into()),
            DataType::Struct(vec![field(micros())].into()),
            "at.x",
        ),
        (map(millis()), map(micros()), "at.value"),
    ] {
        let error = check(one.clone(), other.clone(), None).unwrap_err();
        assert!(
            error.starts_with(&format!("second, column `{path}`: ")) && error.contains("in first;"),
            "{error}"
        );
        check(one, other, Some(&["x".into()])).unwrap();
    }
    check(DataType::Timestamp(TimeUnit::Microsecond, None), micros(), None).unwrap();
    check(DataType::Int64, DataType::UInt8, None).unwrap();
    // All values of a file may be null.
    check(DataType::Null, micros(), None).unwrap();
    let error = check(micros(), millis(), None).unwrap_err();
    assert!(
        error.contains("it holds times in milliseconds here, and times in microseconds in first"),
        "{error}"
    );
}

fn objects(count: usize) -> Vec<Object> {
    let object = |number| Object {
        url: format!("{number}"),
        bytes: 1,
        version: None,
    };
    (0..count).map(object).collect()
}

/// Waits for something that comes at once if all is well.
fn wait(until: &Mutex<Receiver<()>>) -> bool {
    until.lock().unwrap().recv_timeout(Duration::from_secs(60)).is_ok()
}

fn outline(schema: &Arc<Schema>, sizes: Vec<u64>) -> Outline {
    Outline {
        schema: Arc::clone(schema),
        sizes,
        has_rows: true,
    }
}

#[test]
fn footers_are_read_beside_each_other_and_come_in_their_order() {
    let schema = Arc::new(Schema::empty());
    let (last, first) = channel();
    let first = Mutex::new(first);
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let read = |object: &Object| {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let number = object.url.parse().unwrap();
        match number {
            0 => assert!(wait(&first), "the others are not read meanwhile"),
            15 => last.send(()).unwrap(),
            _ => {}
        }
        now.fetch_sub(1, Ordering::SeqCst);
        Ok(outline(&schema, vec![number]))
    };
    let expected: Vec<Vec<u64>> = (0..100).map(|number| vec![number]).collect();
    assert_eq!(parts(&objects(100), None, read).unwrap(), expected);
    assert!(most.into_inner() <= 16);
}

#[test]
fn the_first_footer_that_is_wrong_ends_the_reading() {
    let schema = Arc::new(Schema::empty());
    let (third, first) = channel();
    let first = Mutex::new(first);
    let reads = AtomicUsize::new(0);
    let read = |object: &Object| {
        reads.fetch_add(1, Ordering::SeqCst);
        let wrong = || Err(ObjectError::malformed(&object.url, "its footer", "it is wrong", "mend it").into());
        match object.url.as_str() {
            "1" => {
                assert!(wait(&first), "the others are not read meanwhile");
                wrong()
            }
            "3" => {
                third.send(()).unwrap();
                wrong()
            }
            _ => Ok(outline(&schema, Vec::new())),
        }
    };
    let error = parts(&objects(100), None, read).unwrap_err().to_string();
    assert!(error.starts_with("1, its footer"), "{error}");
    assert!(reads.into_inner() <= 17);
}
