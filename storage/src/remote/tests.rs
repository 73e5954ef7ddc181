//! Every store gives the same answers; what is missing, forbidden, changed or too large is an error that names it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::ErrorKind;

use super::*;
use crate::error::StorageError;

fn object_error<T: std::fmt::Debug>(result: Result<T>) -> ObjectError {
    match result {
        Err(StorageError::Object(error)) => error,
        other => panic!("not an object error: {other:?}"),
    }
}

/// A folder on the disk and one in memory, as URLs, that every test below treats alike.
fn places() -> (tempfile::TempDir, Stores, [String; 3]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let urls = [
        path.clone(),
        format!("file://{path}/by-url"),
        "memory://store/place".to_owned(),
    ];
    (folder, Stores::new(), urls)
}

fn names(stores: &Stores, pattern: &str) -> Vec<String> {
    let objects = stores.list(pattern).unwrap();
    objects
        .iter()
        .map(|object| object.url.rsplit_once('/').unwrap().1.to_owned())
        .collect()
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_written_is_read_back_whole_and_in_ranges() {
    let (_guard, stores, places) = places();
    for place in places {
        let url = format!("{place}/a b/x.bin");
        stores.write(&url, Bytes::from_static(b"first")).unwrap();
        stores.write(&url, Bytes::from_static(b"0123456789")).unwrap();
        let [object] = &stores.list(&url).unwrap()[..] else {
            panic!("one object")
        };
        assert_eq!((object.bytes, object.version.is_some()), (10, true));
        assert_eq!(stores.read(object).unwrap(), "0123456789");
        assert_eq!(stores.read_range(object, 3..7).unwrap(), "3456");
        assert_eq!(stores.read_range(object, 10..10).unwrap(), "");
        assert!(matches!(
            object_error(stores.read_range(object, 3..11)),
            ObjectError::OutOfRange { end: 11, .. }
        ));
        let backwards = Range { start: 4, end: 3 };
        assert!(matches!(
            object_error(stores.read_range(object, backwards)),
            ObjectError::OutOfRange { .. }
        ));
        stores.write(&format!("{place}/empty"), Bytes::new()).unwrap();
        assert_eq!(
            stores
                .read(&stores.list(&format!("{place}/empty")).unwrap()[0])
                .unwrap(),
            ""
        );
    }
}

#[test]
fn bytes_of_local_files_are_counted_apart() {
    let (_guard, stores, places) = places();
    for place in &places {
        stores
            .write(&format!("{place}/x"), Bytes::from_static(b"0123456789"))
            .unwrap();
        let object = stores.list(&format!("{place}/x")).unwrap().remove(0);
        stores.read(&object).unwrap();
        stores.read_range(&object, 3..7).unwrap();
    }
    let figures = stores.figures();
    assert_eq!((figures.local_bytes, figures.remote_bytes), (28, 14));
}

#[test]
fn links_that_lead_back_are_not_followed_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("sub/.hidden")).unwrap();
    for name in ["a", "sub/a", "sub/.hidden/a"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    // Two in one folder double at each turn.
    for (link, to) in [
        ("sub/up", ".."),
        ("x", "."),
        ("y", "."),
        ("other", "sub"),
        ("nowhere", "none"),
        ("self", "self"),
        ("_hidden", "none"),
        ("through", "a/b"),
    ] {
        std::os::unix::fs::symlink(to, folder.path().join(link)).unwrap();
    }
    let listed = |pattern: &str| {
        let listed = Stores::new().list(&format!("{}/{pattern}", folder.path().display()));
        let names = listed.map(|listed| listed.into_iter().map(|object| object.url).collect::<Vec<_>>());
        names.map_err(|error| error.to_string())
    };
    let whole = |name: &str| format!("{}/{name}", folder.path().display());
    assert!(
        listed("**/n*").unwrap_err().contains("nowhere"),
        "a link that leads nowhere is said, if it is meant"
    );
    assert!(listed("**/self").unwrap_err().contains("self"));
    assert_eq!(listed("su*/**/a").unwrap()[0], whole("sub/a"));
    // The tests of a crate run in its folder.
    let here = |pattern: &str| Stores::new().list(pattern).unwrap();
    assert_eq!(here("**/pattern.rs")[0].url, "src/remote/pattern.rs");
    assert!(here("**").iter().any(|object| object.url == "Cargo.toml"));
    assert!(listed("none/**/a").unwrap_err().contains("no file or object matches"));
    assert_eq!(listed("**/a").unwrap(), ["a", "other/a", "sub/a"].map(whole));
    assert_eq!(
        listed("**/.hidden/a").unwrap(),
        [whole("other/.hidden/a"), whole("sub/.hidden/a")]
    );
}

#[test]
fn listings_are_sorted_and_leave_out_what_is_hidden() {
    let (_guard, stores, places) = places();
    for place in places {
        for name in [
            "b.txt",
            "a.txt",
            "c.bin",
            "_SUCCESS",
            ".crc",
            "sub/d.txt",
            "sub/deep/e.txt",
            "_temporary/f.txt",
        ] {
            stores
                .write(&format!("{place}/{name}"), Bytes::from_static(b"x"))
                .unwrap();
        }
        let listed = |pattern: &str| names(&stores, &format!("{place}{pattern}"));
        assert_eq!(listed(""), ["a.txt", "b.txt", "c.bin"]);
        assert_eq!(listed("/"), ["a.txt", "b.txt", "c.bin"]);
        assert_eq!(listed("/*.txt"), ["a.txt", "b.txt"]);
        assert_eq!(listed("/?.[tb]*"), ["a.txt", "b.txt", "c.bin"]);
        assert_eq!(listed("/s*"), ["d.txt"], "a folder that matches stands for its files");
        assert_eq!(listed("/**/*.txt"), ["a.txt", "b.txt", "d.txt", "e.txt"]);
        assert_eq!(listed("/**/deep/"), ["e.txt"]);
        assert_eq!(listed("/s*/**/d*/**/*.txt"), ["e.txt"]);
        assert_eq!(listed("/_SUCCESS"), ["_SUCCESS"]);
        assert_eq!(listed("/_S*"), ["_SUCCESS"]);
        let error = object_error(stores.list(&format!("{place}/*.csv")));
        assert!(
            matches!(&error, ObjectError::NothingFound { pattern, .. } if pattern.ends_with("/*.csv")),
            "{error}"
        );
        assert!(matches!(
            object_error(stores.list(&format!("{place}/none"))),
            ObjectError::NotFound { .. }
        ));
    }
}

#[test]
fn a_name_with_wildcards_that_exists_comes_first() {
    let (_guard, stores, places) = places();
    for name in ["a[1].txt", "a1.txt"] {
        stores.write(&format!("{}/{name}", places[0]), Bytes::new()).unwrap();
    }
    assert_eq!(names(&stores, &format!("{}/a[1].txt", places[0])), ["a[1].txt"]);
    assert!(matches!(
        object_error(stores.list(&format!("{}/a[", places[0]))),
        ObjectError::InvalidName { .. }
    ));
}

#[test]
fn an_object_that_changes_after_it_was_listed_is_refused() {
    let (_guard, stores, places) = places();
    for place in places {
        let url = format!("{place}/x");
        stores.write(&url, Bytes::from_static(b"one")).unwrap();
        let object = stores.list(&url).unwrap().remove(0);
        stores.write(&url, Bytes::from_static(b"longer")).unwrap();
        assert!(matches!(
            object_error(stores.read(&object)),
            ObjectError::Changed { .. }
        ));
        assert!(matches!(
            object_error(stores.read_range(&object, 0..1)),
            ObjectError::Changed { .. }
        ));
        let older = Object {
            version: Some("older".into()),
            ..stores.list(&url).unwrap().remove(0)
        };
        assert!(matches!(object_error(stores.read(&older)), ObjectError::Changed { .. }));
        let unversioned = Object { version: None, ..older };
        assert_eq!(stores.read(&unversioned).unwrap(), "longer");
    }
}

#[test]
fn a_folder_or_nothing_where_a_file_is_expected_is_named() {
    let (guard, stores, places) = places();
    let gone = Object {
        url: format!("{}/gone", places[0]),
        bytes: 1,
        version: None,
    };
    assert!(matches!(object_error(stores.read(&gone)), ObjectError::NotFound { url } if url == gone.url));
    let folder = Object {
        url: places[0].clone(),
        bytes: 1,
        version: None,
    };
    assert!(matches!(
        object_error(stores.read(&folder)),
        ObjectError::NotAFile { found: "a folder", .. }
    ));
    assert!(matches!(
        object_error(stores.write(&places[0], Bytes::new())),
        ObjectError::NotAFile { .. }
    ));
    let error = object_error(stores.list(&places[0]));
    assert!(
        matches!(&error, ObjectError::NothingFound { .. }),
        "an empty folder: {error}"
    );
    fs::write(guard.path().join("file"), "x").unwrap();
    assert!(
        stores
            .write(&format!("{}/file/below", places[0]), Bytes::new())
            .is_err()
    );
    assert_eq!(entries(guard.path()), ["file"], "a failed write leaves nothing behind");
}

#[test]
fn no_permission_is_named_with_what_was_tried() {
    use std::os::unix::fs::PermissionsExt;
    let error = local::failed(Path::new("x"), "read it", &ErrorKind::PermissionDenied.into());
    assert_eq!(
        error,
        ObjectError::NoPermission {
            url: "x".into(),
            action: "read it"
        }
    );

    let (guard, stores, places) = places();
    fs::set_permissions(guard.path(), fs::Permissions::from_mode(0o500)).unwrap();
    if fs::write(guard.path().join("probe"), "").is_ok() {
        eprintln!("!! SKIPPED: folders without permission: the superuser may write everywhere");
        return;
    }
    let refused = [
        stores.write(&format!("{}/x", places[0]), Bytes::new()),
        stores.create_folder(&places[1]).map(drop),
    ];
    for refused in refused {
        assert!(matches!(object_error(refused), ObjectError::NoPermission { .. }));
    }
}

#[test]
fn written_files_get_the_permissions_that_the_mask_leaves() {
    use std::os::unix::fs::PermissionsExt;
    let (guard, stores, places) = places();
    let mode = |name: &str| fs::metadata(guard.path().join(name)).unwrap().permissions().mode() & 0o777;
    fs::write(guard.path().join("usual"), "").unwrap();
    fs::create_dir(guard.path().join("usual-folder")).unwrap();
    stores.write(&format!("{}/x", places[0]), Bytes::new()).unwrap();
    let writer = stores.create_folder(&format!("{}/out", places[0])).unwrap();
    writer.commit().unwrap();
    assert_eq!((mode("x"), mode("out")), (mode("usual"), mode("usual-folder")));
}

#[test]
fn limits_of_reads_and_listings_hold() {
    let options = StoresOptions {
        read_bytes_max: 3,
        list_objects_max: 1,
        ..StoresOptions::default()
    };
    let stores = Stores::with_options(options);
    stores.write("memory://d/a", Bytes::from_static(b"four")).unwrap();
    let object = stores.list("memory://d").unwrap().remove(0);
    assert!(matches!(
        object_error(stores.read(&object)),
        ObjectError::TooLarge {
            bytes: 4,
            bytes_max: 3,
            ..
        }
    ));
    assert_eq!(stores.read_range(&object, 0..4).unwrap(), "four");
    let place = stores.folder("memory://kept").unwrap();
    place.create("three", Bytes::from_static(b"3 b")).unwrap();
    assert_eq!(place.read("three", 9).unwrap(), "3 b");
    let error = place.replace("three", Bytes::from_static(b"four")).unwrap_err();
    assert!(matches!(
        error,
        ObjectError::TooLargeToKeep {
            bytes: 4,
            bytes_max: 3,
            ..
        }
    ));
    stores.write("memory://d/b", Bytes::new()).unwrap();
    assert!(matches!(
        object_error(stores.list("memory://d")),
        ObjectError::TooManyObjects { objects_max: 1, .. }
    ));
}

#[test]
fn each_value_has_a_memory_of_its_own() {
    let (one, other) = (Stores::new(), Stores::new());
    one.write("memory://x", Bytes::from_static(b"1")).unwrap();
    assert_eq!(one.clone().list("memory://x").unwrap().len(), 1, "a copy shares it");
    assert!(matches!(
        object_error(other.list("memory://x")),
        ObjectError::NotFound { .. }
    ));
}

#[test]
fn a_folder_appears_whole_at_its_commit() {
    let (guard, stores, places) = places();
    for place in places {
        let target = format!("{place}/made/out");
        let writer = stores.create_folder(&target).unwrap();
        std::thread::scope(|scope| {
            for part in 0..4 {
                let writer = &writer;
                scope.spawn(move || {
                    writer
                        .write_part(&format!("part-{part}"), Bytes::from(vec![part; 3]))
                        .unwrap()
                });
            }
        });
        writer.write_part("part-0", Bytes::from_static(b"again")).unwrap();
        assert!(stores.list(&target).is_err(), "not before the commit");
        assert!(stores.list(&format!("{place}/made/**/*")).is_err(), "nor by a wildcard");
        writer.commit().unwrap();
        assert_eq!(names(&stores, &target), ["part-0", "part-1", "part-2", "part-3"]);
        let first = stores.list(&format!("{target}/part-0")).unwrap().remove(0);
        assert_eq!(stores.read(&first).unwrap(), "again");
        let error = object_error(stores.create_folder(&target));
        assert!(
            matches!(&error, ObjectError::AlreadyExists { url } if url.ends_with("made/out")),
            "{error}"
        );
    }
    assert_eq!(
        entries(&guard.path().join("made")),
        ["out"],
        "no unfinished folder is left"
    );
}

#[test]
fn a_folder_without_commit_leaves_nothing() {
    let (guard, stores, places) = places();
    for place in &places {
        let writer = stores.create_folder(&format!("{place}/out")).unwrap();
        writer.write_part("part", Bytes::from_static(b"x")).unwrap();
        drop(writer);
        assert!(matches!(
            object_error(stores.list(&format!("{place}/out"))),
            ObjectError::NotFound { .. }
        ));
    }
    assert_eq!(entries(guard.path()), ["by-url"]);
}

#[test]
fn a_name_taken_before_the_commit_is_kept() {
    let (guard, stores, places) = places();
    for place in &places {
        let writer = stores.create_folder(&format!("{place}/out")).unwrap();
        writer.write_part("part", Bytes::from_static(b"x")).unwrap();
        stores
            .write(&format!("{place}/out/other"), Bytes::from_static(b"kept"))
            .unwrap();
        assert!(matches!(
            object_error(writer.commit()),
            ObjectError::AlreadyExists { .. }
        ));
        assert_eq!(names(&stores, &format!("{place}/out")), ["other"]);
    }
    assert_eq!(entries(guard.path()), ["by-url", "out"]);
}

#[test]
fn part_names_cannot_leave_the_folder() {
    let (_guard, stores, places) = places();
    for place in places {
        let writer = stores.create_folder(&format!("{place}/out")).unwrap();
        let in_keys = ["k=1/", "k=1/../x", "k=1/a/b", "k=1/.a", ".k=1/a", "../k=1/a", "a/k=1"];
        for name in ["", ".", "..", "../x", "a/b", "/x", ".hidden", "a\0"]
            .into_iter()
            .chain(in_keys)
        {
            let error = object_error(writer.write_part(name, Bytes::new()));
            assert!(matches!(error, ObjectError::InvalidName { .. }), "{name:?}: {error}");
        }
    }
}

#[test]
fn servers_are_read_only_and_cannot_be_listed() {
    let stores = Stores::new();
    for refused in [
        stores.write("http://h/x", Bytes::new()),
        stores.create_folder("http://h/x").map(drop),
        stores.list("http://h/*.txt").map(drop),
    ] {
        assert!(matches!(object_error(refused), ObjectError::Unsupported { .. }));
    }
    #[cfg(not(feature = "http"))]
    {
        let error = object_error(stores.list("https://h/x")).to_string();
        assert!(error.contains("--features http"), "{error}");
    }
}

#[test]
fn buckets_that_are_not_built_in_say_which_feature_is_missing() {
    let stores = Stores::new();
    for (scheme, built_in) in [
        ("s3", cfg!(feature = "s3")),
        ("gs", cfg!(feature = "gs")),
        ("az", cfg!(feature = "az")),
        ("hdfs", cfg!(feature = "hdfs")),
    ] {
        if built_in {
            continue;
        }
        let url = format!("{scheme}://bucket/x");
        let remedy = format!("build with `--features {scheme}`");
        let refused = [
            stores.list(&url).map(drop),
            stores.write(&url, Bytes::new()),
            stores.create_folder(&url).map(drop),
            stores.folder(&url).map(drop),
        ];
        let mut refused = refused.into_iter();
        assert!(refused.all(|refused| object_error(refused).to_string().contains(&remedy)));
    }
}

mod alternatives;
mod buckets;

mod caching;

mod folders;
mod patterns;
mod replaced;
mod settled;
mod shared;

#[cfg(feature = "http")]
mod http;
