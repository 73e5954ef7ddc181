//! Patterns with braces, which stand for several.
use super::*;

#[test]
fn braces_in_a_pattern_stand_for_all_that_any_of_them_matches() {
    let (_guard, stores, places) = places();
    for place in places {
        for name in [
            "2022/a.csv",
            "2023/a.csv",
            "2024/a.csv",
            "2024/b.csv",
            "2024/.c.csv",
            "2025/a.txt",
        ] {
            stores.write(&format!("{place}/{name}"), Bytes::new()).unwrap();
        }
        let listed = |pattern: &str| -> Vec<String> {
            let objects = stores.list(&format!("{place}/{pattern}")).unwrap();
            let last = |object: &Object| object.url[object.url.len() - "2022/a.csv".len()..].to_owned();
            objects.iter().map(last).collect()
        };
        assert_eq!(listed("{2023,2024}/*.csv"), ["2023/a.csv", "2024/a.csv", "2024/b.csv"]);
        assert_eq!(listed("{2024,2025}"), ["2024/a.csv", "2024/b.csv", "2025/a.txt"]);
        assert_eq!(
            listed("{2024/b,202[24]/a}.{csv,txt}"),
            ["2022/a.csv", "2024/a.csv", "2024/b.csv"]
        );
        assert_eq!(listed("**/{a,b}.{c*,csv}"), listed("**/*.csv"), "each once");
        assert_eq!(listed("{none,2023}/{a.csv,none/a}"), ["2023/a.csv"]);
        assert_eq!(listed("2024/{.c,}*.csv").len(), 3, "what is hidden is spelled out");

        let error = object_error(stores.list(&format!("{place}/{{1,2}}/a"))).to_string();
        assert!(
            error.contains("no file or object matches; check the pattern"),
            "{error}"
        );
        let error = object_error(stores.list(&format!("{place}/{{2023,2024")));
        assert!(matches!(error, ObjectError::InvalidName { .. }), "{error}");

        stores
            .write(&format!("{place}/{{2023,x}}/y.csv"), Bytes::new())
            .unwrap();
        assert_eq!(
            names(&stores, &format!("{place}/{{2023,x}}")),
            ["y.csv"],
            "what has the very name comes first"
        );
        assert_eq!(names(&stores, &format!("{place}/[{{]*/*")), ["y.csv"]);
    }
}

#[test]
fn the_limit_of_a_listing_is_of_all_patterns_together() {
    let (folder, _, _) = places();
    let path = folder.path().to_str().unwrap();
    let options = StoresOptions {
        list_objects_max: 3,
        ..StoresOptions::default()
    };
    let stores = Stores::with_options(options);
    for name in ["a/1", "a/2", "b/1", "b/2"] {
        stores.write(&format!("{path}/{name}"), Bytes::new()).unwrap();
    }
    assert_eq!(stores.list(&format!("{path}/{{a,b}}/1")).unwrap().len(), 2);
    let error = object_error(stores.list(&format!("{path}/{{a,b}}")));
    assert!(
        matches!(error, ObjectError::TooManyObjects { objects_max: 3, .. }),
        "{error}"
    );
}

#[test]
fn a_file_has_one_name_however_the_alternatives_spell_it() {
    let (folder, stores) = (tempfile::tempdir().unwrap(), Stores::new());
    let path = folder.path().to_str().unwrap();
    for name in ["a.csv", "b/a.csv"] {
        stores.write(&format!("{path}/{name}"), Bytes::new()).unwrap();
    }
    let listed = |pattern: &str| stores.list(&format!("{path}/{pattern}")).unwrap();
    assert_eq!(listed(".//{*,a}.csv"), listed("a.csv"));
    assert_eq!(listed("./{a.csv,**/a.csv}"), listed("**/a.csv"));
    assert_eq!(listed("{/.,}/b/{,.,*,./a.csv}"), listed("b"));
}

#[test]
fn a_path_is_spelled_without_the_parts_that_say_nothing() {
    for (path, spelled) in [
        (".", "."),
        ("./", "."),
        ("/", "/"),
        ("//.", "/"),
        ("./a.csv", "a.csv"),
        ("/a//./b", "/a/b"),
        ("a/.", "a/"),
        ("./**/*/", "**/*/"),
        ("../.a", "../.a"),
    ] {
        assert_eq!(local::spelled(path), spelled, "{path}");
    }
    // Tests run in the folder of their crate.
    let stores = Stores::new();
    let listed = |pattern: &str| stores.list(pattern).unwrap();
    assert_eq!(listed("{.,./,./*.toml,./Cargo.toml,*.toml}"), listed("."));
    assert_eq!(listed("./Cargo.toml"), listed("*.toml"));
}

#[test]
fn only_an_alternative_that_names_nothing_is_left_out() {
    let (_guard, stores, places) = places();
    for place in &places {
        for name in ["data/a.csv", "readme"] {
            stores.write(&format!("{place}/{name}"), Bytes::new()).unwrap();
        }
        for pattern in ["*.csv", "**/*.csv", "a.csv", ".//a.csv"] {
            // A name in memory is taken as it stands.
            if !place.starts_with("memory:") || !pattern.starts_with('.') {
                let pattern = format!("{place}/{{data,readme,none}}/{pattern}");
                assert_eq!(names(&stores, &pattern), ["a.csv"], "{pattern}");
            }
        }
        let error = object_error(stores.list(&format!("{place}/readme/a.csv")));
        assert!(matches!(error, ObjectError::NotFound { .. }), "{error}");
    }
    let gone = |url: &str| ObjectError::NotFound { url: url.into() };
    assert!(names_nothing("/x//data", &gone("/x/data")));
    assert!(names_nothing("file:///x/a%20b/*", &gone("/x/a b/*")));
    assert!(!names_nothing("/x/data", &gone("/x/data/a.csv")), "it has vanished");
    assert!(
        !names_nothing("/x/*/*", &gone("/x/data")),
        "a folder on the way has vanished"
    );
}

#[test]
fn a_broken_link_is_no_alternative_that_names_nothing() {
    let (folder, stores) = (tempfile::tempdir().unwrap(), Stores::new());
    let path = folder.path().to_str().unwrap();
    fs::write(folder.path().join("a"), b"").unwrap();
    for (link, to) in [("broken", "none"), ("through", "a/x")] {
        std::os::unix::fs::symlink(to, folder.path().join(link)).unwrap();
        let error = object_error(stores.list(&format!("{path}/{{a,{link}}}")));
        assert!(matches!(error, ObjectError::BrokenLink { .. }), "{error}");
    }
}
