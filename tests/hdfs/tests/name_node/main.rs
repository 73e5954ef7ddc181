//! `hdfs://` against the servers of Hadoop itself, which `tests/hdfs/start` starts.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cluster;

mod faults;

mod files;

mod inside;

use std::process::Command;

use bytes::Bytes;
use distdl_storage::StorageError;
use distdl_storage::remote::{CacheOptions, Object, ObjectError, Stores, StoresOptions};

use self::cluster::Cluster;

/// Longer than three blocks of the cluster, and than two segments of a cache.
const BYTES: usize = 9_000_000;

fn drawn(seed: u64, length: usize) -> Bytes {
    let mut state = seed;
    let next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn names(stores: &Stores, pattern: &str) -> Vec<String> {
    let listed = stores.list(pattern).unwrap();
    let name = |object: Object| object.url.splitn(4, '/').nth(3).unwrap().to_owned();
    listed.into_iter().map(name).collect()
}

fn only(stores: &Stores, url: &str) -> Object {
    let mut listed = stores.list(url).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    listed.remove(0)
}

fn object_error<T: std::fmt::Debug>(result: Result<T, StorageError>) -> ObjectError {
    match result {
        Err(StorageError::Object(error)) => error,
        other => panic!("not an object error: {other:?}"),
    }
}

#[test]
fn an_object_is_fetched_once_and_a_replaced_one_anew() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().unwrap();
    let url = cluster.url("data/records.bin");
    let read = || {
        // As a new program would: nothing but the folder is left of the one before.
        let stores = Stores::with_options(StoresOptions {
            cache: Some(CacheOptions::new(folder.path())),
            ..StoresOptions::default()
        });
        let bytes = stores.read(&only(&stores, &url)).unwrap();
        (bytes, stores.figures())
    };
    let first = drawn(1, BYTES);
    Stores::new().write(&url, first.clone()).unwrap();
    let (bytes, figures) = read();
    assert_eq!((bytes, figures.remote_bytes), (first.clone(), BYTES as u64));
    let (bytes, figures) = read();
    assert_eq!((bytes, figures.remote_bytes, figures.fetches), (first, 0, 0));

    let second = drawn(2, BYTES);
    Stores::new().write(&url, second.clone()).unwrap();
    let (bytes, figures) = read();
    assert_eq!((bytes, figures.remote_bytes), (second, BYTES as u64));
}

#[test]
fn the_files_of_hadoop_say_where_name_nodes_are_and_variables_who_asks() {
    let cluster = Cluster::start();
    let stores = Stores::new();
    stores
        .write(&cluster.url("own/x"), Bytes::from_static(b"theirs"))
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let alive = format!("127.0.0.1:{}", cluster.port);
    write_configuration(folder.path(), "core-site.xml", &[("fs.defaultFS", &cluster.url(""))]);
    write_configuration(
        folder.path(),
        "hdfs-site.xml",
        &[
            ("dfs.ha.namenodes.service", "dead,alive"),
            ("dfs.namenode.rpc-address.service.dead", "127.0.0.1:1"),
            ("dfs.namenode.rpc-address.service.alive", &alive),
        ],
    );
    for what in ["read_by_service", "be_refused"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("inside::{what}"), "--nocapture"])
            .env(inside::IS_CHILD, "yes")
            .env("HADOOP_CONF_DIR", folder.path())
            .env("HADOOP_USER_NAME", "guest")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}: {said}");
    }
    assert_eq!(stores.read(&only(&stores, &cluster.url("own/x"))).unwrap(), "theirs");
}

fn write_configuration(folder: &std::path::Path, name: &str, properties: &[(&str, &str)]) {
    let property =
        |(name, value): &(&str, &str)| format!("<property><name>{name}</name><value>{value}</value></property>");
    let properties: String = properties.iter().map(property).collect();
    std::fs::write(
        folder.join(name),
        format!("<configuration>{properties}</configuration>"),
    )
    .unwrap();
}
