//! What the child processes do. In a process that is none, nothing.
use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use distdl::{Config, Context, NeuralNetwork};
use distdl_storage::remote::{CacheOptions, ObjectError, Stores, StoresOptions};
use distdl_storage::text::{read_records, split_records};
use distdl_storage::{Commits, StorageError};

use super::RECORD_BYTES;

/// The variable with the cache folder.
pub(crate) const CACHE: &str = "DISTDL_TEST_CACHE";
/// The variable with the URL of the bucket.
pub(crate) const ROOT: &str = "DISTDL_TEST_ROOT";

/// Goes on from the hash of what came before.
pub(crate) fn hash(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u64::from(*byte))
    })
}

/// The URL of a name in the bucket.
fn url(name: &str) -> String {
    format!("{}/{name}", std::env::var(ROOT).unwrap())
}

fn stores() -> Option<Stores> {
    let folder = std::env::var(CACHE).ok()?;
    Some(Stores::with_options(StoresOptions {
        retries: 1,
        cache: Some(CacheOptions {
            grows_only: vec![url("data/")],
            ..CacheOptions::new(folder)
        }),
        ..StoresOptions::default()
    }))
}

#[test]
fn read() {
    let Some(stores) = stores() else { return };
    let objects = stores.list(&url("data/*.bin")).unwrap();
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
        .write(&url("in/a b.txt"), Bytes::from_static(b"0123456789"))
        .unwrap();
    stores.write(&url("in/deep/c.txt"), Bytes::from_static(b"c")).unwrap();
    stores.write(&url("in2/d.txt"), Bytes::from_static(b"d")).unwrap();
    // The server for S3 takes a folder for an object, unless its name ends as one.
    assert_eq!(names(&stores, &url("in/")), [url("in/a b.txt")]);
    assert_eq!(names(&stores, &url("in/*.txt")), [url("in/a b.txt")]);
    assert_eq!(
        names(&stores, &url("in/**/*.txt")),
        [url("in/a b.txt"), url("in/deep/c.txt")]
    );
    let object = stores.list(&url("in/a b.txt")).unwrap().remove(0);
    assert_eq!((object.bytes, object.version.is_some()), (10, true));
    assert_eq!(stores.read(&object).unwrap(), "0123456789");
    assert_eq!(stores.read_range(&object, 3..5).unwrap(), "34");
    assert!(matches!(
        object_error(stores.list(&url("none"))),
        ObjectError::NotFound { .. }
    ));

    let writer = stores.create_folder(&url("out")).unwrap();
    writer.write_part("part-0", Bytes::from_static(b"0")).unwrap();
    writer.write_part("part-1", Bytes::from_static(b"1")).unwrap();
    assert!(stores.list(&url("out/")).is_err() && stores.list(&url("out/part-0")).is_err());
    writer.commit().unwrap();
    assert_eq!(names(&stores, &url("out/")), [url("out/part-0"), url("out/part-1")]);
    assert!(stores.list(&url("out/_SUCCESS")).is_ok());
    assert!(matches!(
        object_error(stores.create_folder(&url("out"))),
        ObjectError::AlreadyExists { .. }
    ));
    let by_key = stores.create_folder(&url("by key")).unwrap();
    by_key.write_part("k=1%2F/part-0", Bytes::from_static(b"0")).unwrap();
    for pattern in ["by key/*/part-*", "by key/k=1%2F/", "by key/k=1%2F/part-0"] {
        assert!(stores.list(&url(pattern)).is_err(), "{pattern}");
    }
    by_key.commit().unwrap();
    for pattern in ["by key/*/part-*", "by key/k=1%2F/", "by key/k=1%2F/part-0"] {
        assert_eq!(
            names(&stores, &url(pattern)),
            [url("by key/k=1%2F/part-0")],
            "{pattern}"
        );
    }
    let dropped = stores.create_folder(&url("dropped")).unwrap();
    dropped.write_part("part-0", Bytes::from_static(b"0")).unwrap();
    drop(dropped);
    assert!(stores.list(&url("dropped/*")).is_err());

    let commits = Commits::open(&stores, &url("checkpoints")).unwrap();
    for number in 0..3 {
        let blobs = BTreeMap::from([("weights".to_owned(), Bytes::from(vec![number; 1000]))]);
        assert_eq!(commits.begin(&blobs).unwrap().publish().unwrap(), u64::from(number));
    }
    commits.keep(1).unwrap();
    let latest = commits.latest().unwrap().unwrap();
    assert_eq!((latest.number, &latest.blobs["weights"][..]), (2, &[2; 1000][..]));
}

/// Two writers of one number, whose creations the server holds until both have come.
#[test]
fn race() {
    let Some(stores) = stores() else { return };
    let write = |text: &'static str| {
        let commits = Commits::open(&stores, &url("race")).unwrap();
        let blobs = BTreeMap::from([("text".to_owned(), Bytes::from_static(text.as_bytes()))]);
        commits.begin_after(None, &blobs).unwrap().publish()
    };
    let outcomes = std::thread::scope(|scope| {
        let other = scope.spawn(|| write("two"));
        [write("one"), other.join().unwrap()]
    });
    let winner = match &outcomes {
        [Ok(0), Err(StorageError::CommitRace { number: 0, .. })] => "one",
        [Err(StorageError::CommitRace { number: 0, .. }), Ok(0)] => "two",
        other => panic!("not one winner: {other:?}"),
    };
    let latest = Commits::open(&stores, &url("race")).unwrap().latest().unwrap().unwrap();
    assert_eq!((latest.number, &latest.blobs["text"][..]), (0, winner.as_bytes()));
}

#[test]
fn be_refused() {
    let Some(stores) = stores() else { return };
    let error = object_error(stores.list(&url("data/records.bin")));
    assert!(
        matches!(&error, ObjectError::NoPermission { url, .. } if url.contains("bucket/data")),
        "{error}"
    );
    assert!(matches!(
        object_error(stores.write(&url("x"), Bytes::new())),
        ObjectError::NoPermission { .. }
    ));
}

/// The network whose models they are, and where one of it is.
fn network() -> (NeuralNetwork, String) {
    (
        NeuralNetwork::dense(6, &[5], 3).unwrap(),
        url("data/digits.safetensors"),
    )
}

fn context() -> Option<Context> {
    std::env::var(CACHE).ok()?;
    Some(Context::new(Config::default().with_threads(1)).unwrap())
}

#[test]
fn save_and_load_a_model() {
    let Some(context) = context() else { return };
    let (network, url) = network();
    for seed in [1, 2] {
        let parameters = network.initialize(seed).unwrap();
        network.save_to(&context, &url, &parameters).unwrap();
        assert_eq!(network.load_from(&context, &url).unwrap(), parameters);
    }
}

#[test]
fn load_no_model() {
    let Some(context) = context() else { return };
    let (network, url) = network();
    println!("error={}", network.load_from(&context, &url).unwrap_err());
}

fn fail_to_save(context: &Context) {
    let (network, url) = network();
    let parameters = network.initialize(1).unwrap();
    println!("error={}", network.save_to(context, &url, &parameters).unwrap_err());
}

#[test]
fn save_no_model() {
    let Some(context) = context() else { return };
    fail_to_save(&context);
}

/// Where no server answers.
#[test]
fn wait_in_vain() {
    let Some(context) = context() else { return };
    let hurried = context
        .config()
        .clone()
        .with_request_timeout(Duration::from_millis(200));
    fail_to_save(&Context::new(hurried).unwrap());
}
