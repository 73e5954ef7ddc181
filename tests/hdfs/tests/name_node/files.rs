//! Files and folders, as their user and Hadoop's own client see them.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use distdl_storage::Commits;
use distdl_storage::remote::{ObjectError, Stores};

use super::cluster::Cluster;
use super::{BYTES, drawn, names, object_error, only};

#[test]
fn files_are_as_they_were_written_here_and_by_hadoop() {
    let cluster = Cluster::start();
    let stores = Stores::new();
    files_are_read_whole_and_in_ranges(&cluster, &stores);
    names_are_listed_as_in_every_store(&cluster, &stores);
    wrong_names_are_errors_of_their_kind(&cluster, &stores);
    of_many_writers_one_wins(&cluster, &stores);
    bytes_belong_to_the_version_that_was_listed(&cluster, &stores);
    folders_appear_whole(&cluster, &stores);
    commits_are_numbered(&cluster, &stores);
    hadoop_agrees(&cluster, &stores);
}

fn files_are_read_whole_and_in_ranges(cluster: &Cluster, stores: &Stores) {
    let bytes = drawn(3, BYTES);
    let url = cluster.url("ranges/large.bin");
    stores.write(&url, bytes.clone()).unwrap();
    let object = only(stores, &url);
    assert_eq!((&object.url, object.bytes), (&url, BYTES as u64));
    assert_eq!(stores.read(&object).unwrap(), bytes);
    // Blocks have 1 MiB.
    let block = 1 << 20;
    for range in [0..1, block - 1..block + 1, 5..3 * block + 5, BYTES - 7..BYTES, 9..9] {
        let read = stores
            .read_range(&object, range.start as u64..range.end as u64)
            .unwrap();
        assert_eq!(read, bytes[range.clone()], "{range:?}");
    }
    assert!(matches!(
        object_error(stores.read_range(&object, 0..BYTES as u64 + 1)),
        ObjectError::OutOfRange { .. }
    ));
    stores.write(&cluster.url("ranges/empty"), Bytes::new()).unwrap();
    let empty = only(stores, &cluster.url("ranges/empty"));
    assert_eq!((empty.bytes, stores.read(&empty).unwrap().len()), (0, 0));

    stores.write(&url, drawn(4, BYTES)).unwrap();
    assert!(matches!(
        object_error(stores.read_range(&object, 0..1)),
        ObjectError::Changed { .. }
    ));
    assert_eq!(stores.read(&only(stores, &url)).unwrap(), drawn(4, BYTES));
}

fn names_are_listed_as_in_every_store(cluster: &Cluster, stores: &Stores) {
    for name in [
        "a b.txt",
        "c.csv",
        "deep/d%20.txt",
        "deep/er/e.txt",
        "_hidden.txt",
        ".f/g.txt",
    ] {
        stores.write(&cluster.url(&format!("in/{name}")), Bytes::new()).unwrap();
    }
    stores.write(&cluster.url("in2/h.txt"), Bytes::new()).unwrap();
    let listed = |pattern: &str| names(stores, &cluster.url(pattern));
    assert_eq!(listed("in"), ["in/a b.txt", "in/c.csv"]);
    assert_eq!(listed("in/"), listed("in"));
    assert_eq!(listed("in/*.txt"), ["in/a b.txt"]);
    assert_eq!(listed("in/[c-d].*"), ["in/c.csv"]);
    assert_eq!(listed("in*/?.txt"), ["in2/h.txt"]);
    assert_eq!(
        listed("in/**/*.txt"),
        ["in/a b.txt", "in/deep/d%20.txt", "in/deep/er/e.txt"]
    );
    assert_eq!(listed("in/deep/d%20.txt"), ["in/deep/d%20.txt"]);
    assert_eq!(listed("in/_*"), ["in/_hidden.txt"]);
    assert_eq!(listed("in/.f"), ["in/.f/g.txt"]);
}

fn wrong_names_are_errors_of_their_kind(cluster: &Cluster, stores: &Stores) {
    for missing in ["none", "none/", "none/x", "in/c.csv/x"] {
        let error = object_error(stores.list(&cluster.url(missing)));
        assert!(matches!(error, ObjectError::NotFound { .. }), "{missing}: {error}");
    }
    assert!(matches!(
        object_error(stores.list(&cluster.url("none/*"))),
        ObjectError::NothingFound { .. }
    ));
    for taken in ["in", "in/c.csv/x"] {
        let error = object_error(stores.write(&cluster.url(taken), Bytes::new()));
        assert!(matches!(error, ObjectError::Remote { .. }), "{taken}: {error}");
    }
}

fn of_many_writers_one_wins(cluster: &Cluster, stores: &Stores) {
    let url = cluster.url("race/x");
    std::thread::scope(|scope| {
        for writer in 0..8_u8 {
            let (url, stores) = (&url, stores.clone());
            scope.spawn(move || stores.write(url, Bytes::from(vec![writer; 100_000])).unwrap());
        }
    });
    let read = stores.read(&only(stores, &url)).unwrap();
    assert!(read == vec![read[0]; 100_000], "bytes of several writers");
    assert!(
        stores.list(&cluster.url("race/.*")).is_err(),
        "a writer has left something"
    );
}

/// While a writer replaces a file by others of its length again and again.
fn bytes_belong_to_the_version_that_was_listed(cluster: &Cluster, stores: &Stores) {
    let url = cluster.url("replaced/x");
    let write = |number: u8| stores.write(&url, Bytes::from(vec![number; 1000])).unwrap();
    write(0);
    let done = AtomicBool::new(false);
    let (mut seen, mut read) = (BTreeMap::new(), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (1..=40).for_each(write);
            done.store(true, Ordering::SeqCst);
        });
        let mut object = only(stores, &url);
        while !done.load(Ordering::SeqCst) {
            // An error when it has been replaced, and its blocks with it.
            let Ok(bytes) = stores.read(&object) else {
                object = only(stores, &url);
                continue;
            };
            let first = *seen.entry(object.version.clone()).or_insert(bytes[0]);
            assert!(bytes == vec![first; 1000], "bytes of another version");
            read += 1;
        }
    });
    assert!(seen.len() > 1 && read > seen.len(), "{read} reads of {}", seen.len());
}

fn folders_appear_whole(cluster: &Cluster, stores: &Stores) {
    let url = cluster.url("folders/out");
    let writer = stores.create_folder(&url).unwrap();
    writer.write_part("part-0", Bytes::from_static(b"old")).unwrap();
    writer.write_part("part-1", Bytes::from_static(b"1")).unwrap();
    writer.write_part("part-0", Bytes::from_static(b"0")).unwrap();
    assert!(stores.list(&url).is_err() && stores.list(&cluster.url("folders/**")).is_err());
    writer.commit().unwrap();
    assert_eq!(names(stores, &url), ["folders/out/part-0", "folders/out/part-1"]);
    assert_eq!(stores.read(&only(stores, &format!("{url}/part-0"))).unwrap(), "0");
    assert!(stores.list(&format!("{url}/_SUCCESS")).is_ok());

    let dropped = stores.create_folder(&cluster.url("folders/dropped")).unwrap();
    dropped.write_part("part-0", Bytes::new()).unwrap();
    dropped.write_part("k=1%2F/part-0", Bytes::new()).unwrap();
    drop(dropped);
    let late = stores.create_folder(&cluster.url("folders/late")).unwrap();
    late.write_part("part-0", Bytes::new()).unwrap();
    stores.write(&cluster.url("folders/late/theirs"), Bytes::new()).unwrap();
    let taken = [
        late.commit(),
        stores.create_folder(&url).map(drop),
        stores.create_folder(&format!("{url}/part-0")).map(drop),
        stores.create_folder(&cluster.url("folders/late")).map(drop),
    ];
    for taken in taken {
        let error = object_error(taken);
        assert!(matches!(error, ObjectError::AlreadyExists { .. }), "{error}");
    }
    assert_eq!(names(stores, &cluster.url("folders/late")), ["folders/late/theirs"]);
    assert!(stores.list(&cluster.url("folders/.*/**")).is_err(), "parts are left");

    // A writer that is killed removes nothing, and the name stays free.
    let killed = stores.create_folder(&cluster.url("folders/again")).unwrap();
    killed.write_part("part-0", Bytes::new()).unwrap();
    std::mem::forget(killed);
    let again = stores.create_folder(&cluster.url("folders/again")).unwrap();
    again.write_part("k=1%2F/part-0", Bytes::new()).unwrap();
    again.commit().unwrap();
    assert_eq!(
        names(stores, &cluster.url("folders/again/_*")),
        ["folders/again/_SUCCESS"]
    );
    assert_eq!(
        names(stores, &cluster.url("folders/again/*/part-*")),
        ["folders/again/k=1%2F/part-0"]
    );
}

fn commits_are_numbered(cluster: &Cluster, stores: &Stores) {
    let commits = Commits::open(stores, &cluster.url("checkpoints")).unwrap();
    assert!(commits.latest().unwrap().is_none());
    for number in 0..3 {
        let blobs = BTreeMap::from([("weights".to_owned(), Bytes::from(vec![number; 1000]))]);
        assert_eq!(commits.begin(&blobs).unwrap().publish().unwrap(), u64::from(number));
    }
    commits.keep(1).unwrap();
    let latest = commits.latest().unwrap().unwrap();
    assert_eq!((latest.number, &latest.blobs["weights"][..]), (2, &[2; 1000][..]));
}

/// Hadoop's own client reads what was written here, and the other way round.
fn hadoop_agrees(cluster: &Cluster, stores: &Stores) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), drawn(5, BYTES)).unwrap();
    cluster.shell(&["-put", file.path().to_str().unwrap(), "/ranges/theirs"]);
    let theirs = only(stores, &cluster.url("ranges/theirs"));
    assert_eq!(stores.read(&theirs).unwrap(), drawn(5, BYTES));
    assert_eq!(cluster.shell(&["-cat", "/ranges/large.bin"]), drawn(4, BYTES));

    cluster.shell(&["-mkdir", "/folders/empty"]);
    assert!(matches!(
        object_error(stores.create_folder(&cluster.url("folders/empty")).map(drop)),
        ObjectError::AlreadyExists { .. }
    ));
}
