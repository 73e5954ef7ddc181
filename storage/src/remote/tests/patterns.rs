//! What patterns match on the disk is what they match in a store.
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;

#[test]
fn patterns_match_the_same_on_the_disk_and_in_a_store() {
    let (_guard, stores, places) = places();
    let listed = places.map(|place| {
        for name in [
            "a", "b/a", "b/c/a", "b/.h/a", ".h1/a", "_t/a", "_t/b/a", "b/.a", "d[1]/x", "é/a", "b/c/.ab",
        ] {
            stores.write(&format!("{place}/{name}"), Bytes::new()).unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            let objects = stores.list(&format!("{place}/{pattern}")).unwrap_or_default();
            let place = place.trim_start_matches("file://");
            let name = |object: Object| object.url[place.len() + 1..].to_owned();
            objects.into_iter().map(name).collect()
        };
        assert_eq!(found(".*"), [".h1/a"], "{place}");
        assert_eq!(found("b/.*"), ["b/.a", "b/.h/a"], "{place}");
        assert_eq!(found("b/c/.a*"), ["b/c/.ab"], "{place}");
        assert_eq!(found("_?/*/a"), ["_t/b/a"], "{place}");
        let patterns = [
            "*", "?", "*/a", "*/*/a", "*/c", "b/*", ".h*/a", ".*/*", "b/.*/*", "*/.a", "_*", "_*/a", "[é]/a",
            "d[[]1]/x", "[!b]/a", "none*/a", "a*/a", "*/c/", "**/.a*", "**/[ab]", "*/none/a", "*a", "[a", "a**",
        ];
        patterns.map(|pattern| (pattern, found(pattern)))
    });
    assert_eq!(listed[0], listed[1]);
    assert_eq!(listed[0], listed[2]);
}

#[test]
fn names_that_are_no_text_and_links_that_lead_nowhere_concern_who_means_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("sub")).unwrap();
    for name in [&b"a.csv"[..], b"\xff.txt", b"sub/b.csv"] {
        fs::write(folder.path().join(OsStr::from_bytes(name)), b"x").unwrap();
    }
    for (link, to) in [
        ("broken", "none"),
        ("self", "self"),
        ("through", "a.csv/x"),
        ("back", "."),
    ] {
        symlink(to, path(link)).unwrap();
    }
    let stores = Stores::new();
    let list = |pattern: &str| stores.list(path(pattern).to_str().unwrap());
    let listed = |pattern: &str| -> Vec<String> {
        let name = |object: &Object| object.url[folder.path().to_str().unwrap().len() + 1..].to_owned();
        list(pattern).unwrap().iter().map(name).collect()
    };
    assert_eq!(listed("*.csv"), ["a.csv"]);
    assert_eq!(listed("*/*.csv"), ["back/a.csv", "sub/b.csv"]);
    assert_eq!(
        listed("*/../sub/b.csv"),
        ["sub/../sub/b.csv"],
        "`back/..` leads out of the folder"
    );
    assert_eq!(listed("s*/"), ["sub/b.csv"], "folders only");
    assert!(matches!(object_error(list("*/none")), ObjectError::NothingFound { .. }));
    for pattern in ["*.txt", "**/*.txt"] {
        let error = object_error(list(pattern)).to_string();
        assert!(error.contains("it is not UTF-8"), "{error}");
    }
    fs::remove_file(folder.path().join(OsStr::from_bytes(b"\xff.txt"))).unwrap();
    for pattern in ["", "s*", "t*", "*/broken", "**/broken"] {
        let error = object_error(list(pattern));
        assert!(matches!(error, ObjectError::BrokenLink { .. }), "{pattern}: {error}");
    }
    let error = object_error(list("br*")).to_string();
    let words = "broken: is a link to `none`, which cannot be followed; mend it or remove it, or read the folder with a pattern";
    assert!(error.contains(words), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_says_it_is_empty_and_is_not_is_refused() {
    let (folder, stores) = (tempfile::tempdir().unwrap(), Stores::new());
    fs::write(folder.path().join("empty"), b"").unwrap();
    symlink("/proc/self/status", folder.path().join("status")).unwrap();
    let url = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    assert_eq!(stores.list(&url("empty")).unwrap()[0].bytes, 0);
    for url in ["/proc/self/status".to_owned(), url("status"), url("s*"), url("")] {
        let error = object_error(stores.list(&url)).to_string();
        assert!(
            error.contains("status: its length is 0, and yet it holds bytes"),
            "{error}"
        );
    }
}
