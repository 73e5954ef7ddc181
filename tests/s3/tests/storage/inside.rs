//! What the child processes do. In a process that is none, nothing.
use std::collections::BTreeMap;

use bytes::Bytes;
use distdl_storage::remote::{CacheOptions, ObjectError, Stores, StoresOptions};
use distdl_storage::text::{read_records, split_records};
use distdl_storage::{Commits, StorageError};

use super::RECORD_BYTES;

/// The variable with the cache folder.
pub(crate) const CACHE: &str = "DISTDL_TEST_CACHE";

/// Goes on from the hash of what came before.
pub(crate) fn hash(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

fn stores() -> Option<Stores> {
    let folder = std::env::var(CACHE).ok()?;
    Some(Stores::with_options(StoresOptions {
        retries: 1,
        cache: Some(CacheOptions {
            grows_only: vec!["s3://bucket/data/".into()],
            ..CacheOptions::new(folder)
        }),
        ..StoresOptions::default()
    }))
}

#[test]
fn read() {
    let Some(stores) = stores() else { return };
    let objects = stores.list("s3://bucket/data/*.bin").unwrap();
    let splits = split_records(&objects, RECORD_BYTES as u64, 0, 3).unwrap();
    let readers = splits
        .iter()
        .flatten()
        .map(|split| read_records(&stores, split).unwrap());
    let (mut records, mut hashed) = (0, 0);
    for record in readers.flatten() {
        records += 1;
        hashed = hash(hashed, &record.unwrap());
    }
    let figures = stores.figures();
    println!(
        "records={records} hash={hashed} remote_bytes={} fetches={} ",
        figures.remote_bytes, figures.fetches
    );
}

fn names(stores: &Stores, pattern: &str) -> Vec<String> {
    let listed = stores.list(pattern).unwrap();
    listed.iter().map(|object| object.url.clone()).collect()
}

fn object_error<T: std::fmt::Debug>(result: Result<T, StorageError>) -> ObjectError {
    match result {
        Err(StorageError::Object(error)) => error,
        other => panic!("not an object error: {other:?}"),
    }
}

#[test]
fn write() {
    let Some(stores) = stores() else { return };
    stores
        .write("s3://bucket/in/a b.txt", Bytes::from_static(b"0123456789"))
        .unwrap();
    stores
        .write("s3://bucket/in/deep/c.txt", Bytes::from_static(b"c"))
        .unwrap();
    stores.write("s3://bucket/in2/d.txt", Bytes::from_static(b"d")).unwrap();
    // This server takes a folder for an object, unless its name ends as one.
    assert_eq!(names(&stores, "s3://bucket/in/"), ["s3://bucket/in/a b.txt"]);
    assert_eq!(names(&stores, "s3://bucket/in/*.txt"), ["s3://bucket/in/a b.txt"]);
    assert_eq!(
        names(&stores, "s3://bucket/in/**/*.txt"),
        ["s3://bucket/in/a b.txt", "s3://bucket/in/deep/c.txt"]
    );
    let object = stores.list("s3://bucket/in/a b.txt").unwrap().remove(0);
    assert_eq!((object.bytes, object.version.is_some()), (10, true));
    assert_eq!(stores.read(&object).unwrap(), "0123456789");
    assert_eq!(stores.read_range(&object, 3..5).unwrap(), "34");
    assert!(matches!(
        object_error(stores.list("s3://bucket/none")),
        ObjectError::NotFound { .. }
    ));

    let writer = stores.create_folder("s3://bucket/out").unwrap();
    writer.write_part("part-0", Bytes::from_static(b"0")).unwrap();
    writer.write_part("part-1", Bytes::from_static(b"1")).unwrap();
    assert!(stores.list("s3://bucket/out/").is_err() && stores.list("s3://bucket/out/part-0").is_err());
    writer.commit().unwrap();
    assert_eq!(
        names(&stores, "s3://bucket/out/"),
        ["s3://bucket/out/part-0", "s3://bucket/out/part-1"]
    );
    assert!(stores.list("s3://bucket/out/_SUCCESS").is_ok());
    assert!(matches!(
        object_error(stores.create_folder("s3://bucket/out")),
        ObjectError::AlreadyExists { .. }
    ));
    let dropped = stores.create_folder("s3://bucket/dropped").unwrap();
    dropped.write_part("part-0", Bytes::from_static(b"0")).unwrap();
    drop(dropped);
    assert!(stores.list("s3://bucket/dropped/*").is_err());

    let commits = Commits::open(&stores, "s3://bucket/checkpoints").unwrap();
    for number in 0..3 {
        let blobs = BTreeMap::from([("weights".to_owned(), Bytes::from(vec![number; 1000]))]);
        assert_eq!(commits.begin(&blobs).unwrap().publish().unwrap(), u64::from(number));
    }
    commits.keep(1).unwrap();
    let latest = commits.latest().unwrap().unwrap();
    assert_eq!((latest.number, &latest.blobs["weights"][..]), (2, &[2; 1000][..]));
}

#[test]
fn be_refused() {
    let Some(stores) = stores() else { return };
    let error = object_error(stores.list("s3://bucket/data/records.bin"));
    assert!(
        matches!(&error, ObjectError::NoPermission { url, .. } if url.contains("bucket/data")),
        "{error}"
    );
    assert!(matches!(
        object_error(stores.write("s3://bucket/x", Bytes::new())),
        ObjectError::NoPermission { .. }
    ));
}
