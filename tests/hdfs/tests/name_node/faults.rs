//! Servers that are not there, that die and that hang.
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use distdl_storage::StorageError;
use distdl_storage::remote::{CacheOptions, ObjectError, Stores, StoresOptions};

use super::cluster::{Cluster, go_on, kill, stop};
use super::{BYTES, drawn, names, object_error, only};

/// Patience for a test.
fn options() -> StoresOptions {
    StoresOptions {
        retries: 1,
        silence_timeout: Duration::from_secs(2),
        request_timeout: Duration::from_secs(4),
        ..StoresOptions::default()
    }
}

fn is_remote<T: std::fmt::Debug>(result: Result<T, StorageError>, url: &str, words: &str) {
    let error = object_error(result);
    let named = matches!(&error, ObjectError::Remote { url: failed, message } if failed.starts_with(url) && message.contains(words));
    assert!(named, "{error}");
}

#[test]
fn nobody_at_an_address_is_an_error_that_names_it() {
    let stores = Stores::with_options(options());
    let url = "hdfs://127.0.0.1:1/x";
    is_remote(stores.list(url), url, "refused");
    is_remote(stores.write(url, Bytes::new()), url, "refused");
    is_remote(stores.create_folder(url), url, "refused");
}

#[test]
fn a_server_that_hangs_is_an_error_and_usable_when_it_goes_on() {
    let cluster = Cluster::start();
    let stores = Stores::new();
    let hasty = Stores::with_options(StoresOptions {
        request_timeout: Duration::from_secs(1),
        ..options()
    });
    let url = cluster.url("x");
    stores.write(&url, Bytes::from_static(b"x")).unwrap();
    let object = only(&stores, &url);

    stop(cluster.name_node);
    is_remote(hasty.list(&url), &url, "no answer");
    is_remote(hasty.read(&object), &url, "no answer");
    is_remote(hasty.write(&url, Bytes::new()), &url, "no answer");
    go_on(cluster.name_node);
    assert_eq!(stores.read(&only(&stores, &url)).unwrap(), "x");

    stop(cluster.data_node);
    is_remote(hasty.read(&object), &url, "no answer");
    go_on(cluster.data_node);
    assert_eq!(stores.read(&object).unwrap(), "x");
}

#[test]
fn servers_that_die_are_an_error_and_never_a_wrong_byte() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let plain = Stores::with_options(options());
    let cached = Stores::with_options(StoresOptions {
        cache: Some(CacheOptions::new(folder.path())),
        ..options()
    });
    let (bytes, url) = (drawn(6, BYTES), cluster.url("data/x"));
    plain.write(&url, bytes.clone()).unwrap();
    let object = only(&plain, &url);
    assert_eq!(cached.read(&object).unwrap(), bytes);
    let writer = plain.create_folder(&cluster.url("out")).unwrap();
    writer.write_part("part-0", Bytes::new()).unwrap();

    // The data node first: names are still there, bytes are not.
    read_until_it_fails(&plain, &object, &bytes, || kill(cluster.data_node));
    assert_eq!(names(&plain, &cluster.url("data")), ["data/x"]);
    is_remote(
        plain.write(&cluster.url("data/y"), Bytes::from_static(b"y")),
        &cluster.url("data/y"),
        "",
    );
    assert_eq!(names(&plain, &cluster.url("data/*")), ["data/x"]);

    kill(cluster.name_node);
    is_remote(plain.list(&url), &url, "");
    is_remote(plain.read_range(&object, 0..1), &url, "");
    is_remote(writer.write_part("part-1", Bytes::new()), &cluster.url(""), "");
    is_remote(writer.commit(), &cluster.url(""), "");
    // What was fetched is here all the same.
    assert_eq!(cached.read(&object).unwrap(), bytes);
}

/// Reads over and over, and meanwhile something happens.
fn read_until_it_fails(stores: &Stores, object: &super::Object, bytes: &Bytes, happens: impl FnOnce()) {
    let (began, begun) = mpsc::channel();
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            loop {
                match stores.read(object) {
                    Ok(read) => assert!(read == *bytes, "wrong bytes"),
                    failed => return is_remote(failed, &object.url, ""),
                }
                let _ = began.send(());
            }
        });
        begun.recv().unwrap();
        happens();
        reader.join().unwrap();
    });
}
