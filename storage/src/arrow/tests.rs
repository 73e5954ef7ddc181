//! Any number of partitions gives every row once; what is cut, damaged or too large is an error that names its place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use arrow_array::{ArrayRef, Date32Array, Date64Array, RecordBatch};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions};
use arrow_schema::FieldRef;
use proptest::prelude::*;
use serde_arrow::schema::{SchemaLike, TracingOptions};

use super::*;
use crate::error::{Result, StorageError};
use crate::object::ObjectError;
use crate::remote::Stores;
use crate::table::tests::{Row, fixture, fixture_rows, rows, stored};

fn read<T: serde::de::DeserializeOwned>(
    stores: &Stores,
    objects: &[Object],
    options: &ArrowOptions,
    partitions: usize,
) -> Result<Vec<T>> {
    let groups = split_arrow(stores, objects, options, partitions)?;
    assert_eq!(groups.len(), partitions);
    let splits = groups.iter().flatten();
    let records = splits.map(|split| read_arrow(stores, split, options)?.collect::<Result<Vec<T>>>());
    Ok(records
        .collect::<Result<Vec<Vec<T>>>>()?
        .into_iter()
        .flatten()
        .collect())
}

fn write(rows: &[Row], batch_rows: usize, compression: Option<CompressionType>) -> Vec<u8> {
    let fields = Vec::<FieldRef>::from_type::<Row>(TracingOptions::default()).unwrap();
    let schema = arrow_schema::Schema::new(fields.clone());
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &schema, options).unwrap();
    for rows in rows.chunks(batch_rows) {
        writer
            .write(&serde_arrow::to_record_batch(&fields, &rows).unwrap())
            .unwrap();
    }
    writer.finish().unwrap();
    writer.into_inner().unwrap()
}

fn compression() -> impl Strategy<Value = Option<CompressionType>> {
    prop_oneof![
        Just(None),
        Just(Some(CompressionType::LZ4_FRAME)),
        Just(Some(CompressionType::ZSTD))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_number_of_partitions_gives_every_row_once(
        files in prop::collection::vec(rows(), 1..4), batch_rows in 1..9_usize, partitions in 1..9_usize, compression in compression(),
    ) {
        let stores = Stores::new();
        let write = |(index, rows): (usize, &Vec<Row>)| stored(&stores, &format!("t{index}"), write(rows, batch_rows, compression));
        let objects: Vec<Object> = files.iter().enumerate().flat_map(write).collect();
        let read = read::<Row>(&stores, &objects, &ArrowOptions::default(), partitions).unwrap();
        prop_assert_eq!(read, files.concat());
    }

    #[test]
    fn altered_files_are_errors_or_rows_and_never_a_panic(
        place in any::<prop::sample::Index>(), byte in 1..=u8::MAX, other in any::<prop::sample::Index>(), compression in compression(),
    ) {
        let stores = Stores::new();
        let mut bytes = write(&fixture_rows(), 6, compression);
        let (place, other) = (place.index(bytes.len()), other.index(bytes.len()));
        bytes[place] ^= byte;
        bytes[other] = bytes[other].wrapping_add(byte);
        let objects = stored(&stores, "t", bytes);
        let options = ArrowOptions { batch_bytes_max: 1 << 20, ..ArrowOptions::default() };
        if let Err(error) = read::<Row>(&stores, &objects, &options, 2) {
            prop_assert!(error.to_string().starts_with("memory://t"), "{}", error);
        }
    }
}

#[test]
fn record_batches_and_dictionaries_of_other_writers_are_read() {
    let stores = Stores::new();
    for compression in ["none", "lz4", "zstd"] {
        let objects = stores.list(&fixture(&format!("table.{compression}.arrow"))).unwrap();
        for partitions in 1..7 {
            let read = read::<Row>(&stores, &objects, &ArrowOptions::default(), partitions).unwrap();
            assert_eq!(read, fixture_rows(), "{compression}, {partitions} partitions");
        }
        let groups = split_arrow(&stores, &objects, &ArrowOptions::default(), 4).unwrap();
        assert!(groups.iter().all(|group| group.len() == 1), "{compression}: {groups:?}");
    }
}

fn error_of(bytes: Vec<u8>, options: &ArrowOptions) -> String {
    let stores = Stores::new();
    let objects = stored(&stores, "t", bytes);
    match read::<Row>(&stores, &objects, options, 1) {
        Err(StorageError::Object(error @ ObjectError::Malformed { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_cut_is_an_error() {
    let whole = write(&fixture_rows(), 6, None);
    for length in 0..whole.len() {
        let message = error_of(whole[..length].to_vec(), &ArrowOptions::default());
        assert!(message.starts_with("memory://t, its "), "{length}: {message}");
    }
}

#[test]
fn what_a_buffer_promises_is_compared_with_the_limit_before_room_is_made() {
    for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let whole = write(&fixture_rows(), 20, Some(compression));
        // Shares are 20 times 8 bytes: the length before what they are packed to.
        let promise = 160_i64.to_le_bytes();
        let places = whole.windows(8).enumerate().filter(|(_, window)| *window == promise);
        let mut refused = 0;
        for (place, _) in places {
            let mut hostile = whole.clone();
            hostile[place..place + 8].copy_from_slice(&(1_i64 << 62).to_le_bytes());
            let message = error_of(hostile, &ArrowOptions::default());
            refused += usize::from(message.contains("above the limit of 1073741824"));
        }
        assert!(refused > 0);
    }
}

#[test]
fn what_goes_beyond_a_limit_or_is_missing_is_an_error() {
    let whole = write(&fixture_rows(), 6, None);
    let few = ArrowOptions {
        footer_bytes_max: 10,
        ..ArrowOptions::default()
    };
    assert!(error_of(whole.clone(), &few).contains("above the limit of 10"));
    let small = ArrowOptions {
        batch_bytes_max: 50,
        ..ArrowOptions::default()
    };
    assert!(error_of(whole.clone(), &small).contains("above the limit of 50"));
    let missing = ArrowOptions {
        columns: Some(vec!["nmae".into()]),
        ..ArrowOptions::default()
    };
    let message = error_of(whole, &missing);
    assert!(
        message.contains("no column `nmae`; its columns are `name`, `count`"),
        "{message}"
    );
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Share {
    share: f64,
}

#[test]
fn chosen_columns_are_read() {
    let stores = Stores::new();
    let objects = stored(&stores, "t", write(&fixture_rows(), 6, None));
    let options = ArrowOptions {
        columns: Some(vec!["share".into()]),
        ..ArrowOptions::default()
    };
    let shares: Vec<Share> = fixture_rows().iter().map(|row| Share { share: row.share }).collect();
    assert_eq!(read::<Share>(&stores, &objects, &options, 2).unwrap(), shares);
    let error = read::<Row>(&stores, &objects, &options, 2).unwrap_err().to_string();
    assert!(error.starts_with("memory://t, record batch 0, rows 0..6: "), "{error}");
}

#[test]
fn files_that_hold_times_in_different_units_are_not_read_as_one() {
    let stores = Stores::new();
    let file = |name: &str, times: ArrayRef| {
        let batch = RecordBatch::try_from_iter([("at", times)]).unwrap();
        let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
        stored(&stores, name, writer.into_inner().unwrap()).remove(0)
    };
    let days = file("days", Arc::new(Date32Array::from(vec![1])));
    let millis = file("millis", Arc::new(Date64Array::from(vec![86_400_000])));
    let split = |objects: &[Object]| split_arrow(&stores, objects, &ArrowOptions::default(), 2);
    assert!(split(&[days.clone(), days.clone()]).is_ok());
    let error = split(&[days, millis]).unwrap_err().to_string();
    assert!(
        error.starts_with(
            "memory://millis, column `at`: it holds dates in milliseconds here, and dates in days in memory://days"
        ),
        "{error}"
    );
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
    let objects = stored(&stores, "t", write(&fixture_rows(), 6, None));
    let error = read::<Misspelt>(&stores, &objects, &ArrowOptions::default(), 2).unwrap_err();
    let error = error.to_string();
    assert!(
        error.starts_with("memory://t, its schema: field `Count` of "),
        "{error}"
    );
    assert!(error.contains("which has `name`, `count`, `share`"), "{error}");
    assert!(error.contains("`ArrowOptions::columns_may_be_missing`"), "{error}");
    let options = ArrowOptions {
        columns_may_be_missing: true,
        ..ArrowOptions::default()
    };
    let rows = read::<Misspelt>(&stores, &objects, &options, 2).unwrap();
    assert!(rows.iter().all(|row| row.count.is_none()));
    // Who names columns has said which fields are to be there.
    let chosen = ArrowOptions {
        columns: Some(["name", "share", "tags", "kind"].map(str::to_owned).into()),
        ..ArrowOptions::default()
    };
    let rows = read::<Row>(&stores, &objects, &chosen, 2).unwrap();
    assert!(rows.len() == 20 && rows.iter().all(|row| row.count.is_none()));
}
