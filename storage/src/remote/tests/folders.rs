//! Folders of objects in a store that fails at any write.
use std::sync::Arc;

use object_store::memory::InMemory;

use super::*;
use crate::remote::pattern::UNFINISHED;
use crate::testing::{FaultStore, Pause, StoreFaults, WriteFault};

pub(super) fn store() -> (Arc<InMemory>, StoreFaults, Stores) {
    let (inner, faults) = (Arc::new(InMemory::new()), StoreFaults::new());
    let store = FaultStore::new(inner.clone(), faults.clone());
    (inner, faults, Stores::over(Arc::new(store), StoresOptions::default()))
}

fn write_folder(stores: &Stores) -> Result<()> {
    let writer = stores.create_folder("memory://a/out")?;
    writer.write_part("part-0", Bytes::from_static(b"0"))?;
    writer.write_part("part-1", Bytes::from_static(b"1"))?;
    writer.commit()
}

#[test]
fn a_folder_is_whole_or_invisible_whichever_write_fails() {
    for fault in [
        WriteFault::FailBefore,
        WriteFault::FailAfter,
        WriteFault::DieBefore,
        WriteFault::DieAfter,
    ] {
        // The marker, two parts, the mark of success, and the end of the marker.
        for at in 0..5 {
            let (inner, faults, stores) = store();
            faults.on_write(at, fault);
            let written = write_folder(&stores);
            let later = Stores::over(inner.clone(), StoresOptions::default());
            match later.list("memory://a/out") {
                Ok(listed) => {
                    assert_eq!(listed.len(), 2, "{fault:?} at {at}");
                    assert!(later.list("memory://a/out/_SUCCESS").is_ok());
                    assert!(written.is_ok() || at == 4, "{fault:?} at {at}");
                }
                Err(_) => assert!(written.is_err(), "{fault:?} at {at}"),
            }
            assert_eq!(
                later.list("memory://a/out/part-0").is_ok(),
                later.list("memory://a/**/*").is_ok()
            );
        }
    }
}

#[test]
fn a_marker_that_a_retried_request_finds_is_its_own() {
    let (_, faults, stores) = store();
    faults.on_write(0, WriteFault::Twice);
    write_folder(&stores).unwrap();
    assert_eq!(names(&stores, "memory://a/out"), ["part-0", "part-1"]);
}

#[test]
fn what_a_killed_writer_left_keeps_the_name_taken_and_is_read_by_nobody() {
    let (inner, faults, stores) = store();
    faults.on_write(2, WriteFault::DieBefore);
    assert!(write_folder(&stores).is_err());
    let later = Stores::over(inner, StoresOptions::default());
    later.write("memory://a/other", Bytes::new()).unwrap();
    let mut errors = vec![object_error(later.create_folder("memory://a/out"))];
    for pattern in [
        "out",
        "out/",
        "out/part-0",
        "out/part-*",
        "ou*",
        "o*/part-0",
        "**/part-*",
    ] {
        errors.push(object_error(later.list(&format!("memory://a/{pattern}"))));
    }
    for error in errors {
        assert!(
            matches!(&error, ObjectError::Unfinished { url } if url == "memory://a/out"),
            "{error}"
        );
        assert!(error.to_string().contains("`.distdl-unfinished`"), "{error}");
    }
    // What others name goes on.
    assert_eq!(names(&later, "memory://a/{out,other}"), ["other"]);
    assert_eq!(names(&later, "memory://a/*"), ["other"]);
    let error = object_error(later.list("memory://a/none*"));
    assert!(matches!(error, ObjectError::NothingFound { .. }), "{error}");
}

#[test]
fn of_two_writers_of_one_name_one_is_refused() {
    let (_, _, stores) = store();
    let writer = stores.create_folder("memory://a/out").unwrap();
    assert!(matches!(
        object_error(stores.create_folder("memory://a/out")),
        ObjectError::Unfinished { .. }
    ));
    writer.write_part("part", Bytes::new()).unwrap();
    writer.commit().unwrap();
    assert_eq!(names(&stores, "memory://a/out"), ["part"]);
}

/// As by people, who were told to, of one whose host was only suspended.
#[test]
fn a_writer_that_was_taken_for_dead_leaves_what_a_later_one_has_written() {
    for (writes_more, later_is_done) in [(false, true), (true, true), (false, false), (true, false)] {
        let (_, _, stores) = store();
        let woken = stores.create_folder("memory://a/out").unwrap();
        woken.write_part("part-0", Bytes::from_static(b"old")).unwrap();
        let place = stores.folder("memory://a/out").unwrap();
        for name in ["part-0", UNFINISHED] {
            place.remove(name).unwrap();
        }
        let later = stores.create_folder("memory://a/out").unwrap();
        let parts = ["part-0", "part-1"];
        let write = |name: &str| later.write_part(name, Bytes::from_static(b"new"));
        parts.iter().for_each(|name| write(name).unwrap());
        let commit = |later: FolderWriter| later.commit().unwrap();
        let mut later = Some(later);
        if later_is_done {
            later.take().map(commit);
        }
        let refused = match writes_more {
            true => woken
                .write_part("part-1", Bytes::from_static(b"old"))
                .inspect_err(|_| drop(woken)),
            false => woken.commit(),
        };
        let refused = object_error(refused);
        assert!(matches!(refused, ObjectError::Superseded { .. }), "{refused}");
        later.take().map(commit);
        for object in stores.list("memory://a/out").unwrap() {
            assert_eq!(stores.read(&object).unwrap(), "new");
        }
        assert_eq!(names(&stores, "memory://a/out"), parts);
    }
}

/// On a file system of several hosts another may have taken them for left behind.
#[test]
fn a_folder_of_which_a_part_is_gone_is_not_published() {
    let outer = tempfile::tempdir().unwrap();
    let url = outer.path().join("out").to_str().unwrap().to_owned();
    let stores = Stores::new();
    let writer = stores.create_folder(&url).unwrap();
    for name in ["part-0", "part-1"] {
        writer.write_part(name, Bytes::from_static(b"0")).unwrap();
    }
    let Some(name) = entries(outer.path()).pop() else {
        panic!("no folder of parts")
    };
    fs::remove_file(outer.path().join(name).join("part-0")).unwrap();
    let refused = object_error(writer.commit());
    assert!(
        matches!(&refused, ObjectError::NotFound { url } if url.contains("part-0")),
        "{refused}"
    );
    assert_eq!(entries(outer.path()), [""; 0]);
}

#[test]
fn a_folder_that_is_written_while_a_marker_is_on_its_way_stays() {
    let (inner, faults, slow) = store();
    let quick = Stores::over(inner, StoresOptions::default());
    let (pause, gate) = Pause::new();
    faults.pause_write(0, pause);
    let late = std::thread::spawn(move || slow.create_folder("memory://a/out").map(drop));
    gate.wait_until_reached();
    write_folder(&quick).unwrap();
    gate.open();
    let refused = object_error(late.join().unwrap());
    assert!(matches!(refused, ObjectError::AlreadyExists { .. }), "{refused}");
    assert_eq!(names(&quick, "memory://a/out"), ["part-0", "part-1"]);
}

#[test]
fn a_listing_stops_at_its_limit() {
    let (inner, _, stores) = store();
    (0..20).for_each(|name| stores.write(&format!("memory://a/{name}"), Bytes::new()).unwrap());
    let options = StoresOptions {
        list_objects_max: 5,
        ..StoresOptions::default()
    };
    let few = Stores::over(inner, options);
    for pattern in ["memory://a", "memory://a/*", "memory://**/*"] {
        assert!(
            matches!(object_error(few.list(pattern)), ObjectError::TooManyObjects { .. }),
            "{pattern}"
        );
        assert_eq!(stores.list(pattern).unwrap().len(), 20);
    }
}

#[test]
fn the_limit_of_a_listing_is_of_what_matches() {
    let (inner, _, stores) = store();
    let write = |name: &str| stores.write(&format!("memory://{name}"), Bytes::new()).unwrap();
    (0..20).for_each(|name| write(&format!("a/{name}")));
    for name in ["_SUCCESS", "_a", ".b", "c", "d", "e", "f", "g"] {
        write(&format!("b/{name}"));
    }
    for name in ["h", "i", "j", "k", "l"] {
        write(&format!("c/deep/{name}"));
    }
    let _unfinished = ["c/a", "c/b"].map(|folder| {
        let writer = stores.create_folder(&format!("memory://{folder}")).unwrap();
        // One is listed before the marker.
        for part in ["!", "m", "n"] {
            writer.write_part(part, Bytes::new()).unwrap();
        }
        writer
    });
    let options = StoresOptions {
        list_objects_max: 5,
        ..StoresOptions::default()
    };
    let few = Stores::over(inner, options);
    for pattern in ["memory://a/1*", "memory://a/?", "memory://[ab]/?"] {
        let error = object_error(few.list(pattern));
        assert!(
            matches!(&error, ObjectError::TooManyObjects { pattern: named, objects_max: 5 } if named == pattern),
            "{pattern}: {error}"
        );
    }
    for (pattern, expected) in [
        ("memory://a/[5-9]", ["5", "6", "7", "8", "9"]),
        ("memory://b", ["c", "d", "e", "f", "g"]),
        ("memory://c/**/*", ["h", "i", "j", "k", "l"]),
    ] {
        assert_eq!(names(&few, pattern), expected, "{pattern}");
    }
    write("b/z");
    assert!(matches!(
        object_error(few.list("memory://b")),
        ObjectError::TooManyObjects { .. }
    ));
}

#[test]
fn what_others_have_put_into_a_folder_is_found_behind_the_limit_of_a_listing() {
    let options = StoresOptions {
        list_objects_max: 2,
        ..StoresOptions::default()
    };
    let stores = Stores::with_options(options);
    let writer = stores.create_folder("memory://a/out").unwrap();
    for part in ["b", "c", "d"] {
        writer.write_part(part, Bytes::new()).unwrap();
    }
    stores.write("memory://a/out/other", Bytes::new()).unwrap();
    assert!(matches!(
        object_error(writer.commit()),
        ObjectError::AlreadyExists { .. }
    ));
}

#[test]
fn a_shared_folder_says_what_keeps_it_from_links() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let shared = SharedFolder::of_files(target.to_str().unwrap(), "7", Existing::Refuse).unwrap();
    shared.begin().unwrap();
    let unfinished = folder.path().join(pattern::unfinished("7"));
    assert_eq!(entries(&unfinished), Vec::<String>::new(), "the trial leaves nothing");
    let publish = |written: &str| shared.publish(&[("part".to_owned(), written.to_owned())]);
    let error = publish("gone").unwrap_err().to_string();
    assert!(error.contains("all processes must see this folder"), "{error}");
    // A folder cannot be linked, and the system says so as it does of files where there are no links.
    fs::create_dir(unfinished.join("folder")).unwrap();
    let error = publish("folder").unwrap_err().to_string();
    assert!(error.contains("hard links") && !error.contains("must see"), "{error}");
}

#[test]
fn a_shared_folder_that_takes_no_parts_fails_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(pattern::unfinished("7")), b"a file").unwrap();
    let target = folder.path().join("out");
    let shared = SharedFolder::of_files(target.to_str().unwrap(), "7", Existing::Refuse).unwrap();
    assert!(shared.begin().is_err());
}

#[test]
fn what_killed_writers_left_on_this_host_is_removed_by_the_next_one() {
    let outer = tempfile::tempdir().unwrap();
    let url = |name: &str| outer.path().join(name).to_str().unwrap().to_owned();
    let stores = Stores::new();
    let living = stores.create_folder(&url("living")).unwrap();
    living.write_part("part-0", Bytes::from_static(b"0")).unwrap();
    let Some(name) = entries(outer.path()).pop() else {
        panic!("no folder of parts")
    };
    let left = |name: &str| {
        let folder = outer.path().join(name);
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("part-0"), b"left behind").unwrap();
        folder
    };
    // The same but for what was drawn, as nobody holds a lock on it any more.
    let (ours, _) = name.rsplit_once('-').unwrap();
    let dead = left(&format!("{ours}-dead.unfinished"));
    let others = [
        ".distdl-save-a-host.of-others-0123-dead.unfinished",
        ".distdl-0123.unfinished",
        &format!("{ours}-dead"),
    ]
    .map(left);
    let second = stores.create_folder(&url("second")).unwrap();
    assert!(!dead.exists());
    assert!(others.iter().all(|folder| folder.join("part-0").exists()));
    living.commit().unwrap();
    second.commit().unwrap();
    assert_eq!(names(&stores, &url("living")), ["part-0"]);
}

/// The marker lies above the folders of keys.
#[test]
fn an_unfinished_output_by_keys_is_read_by_nobody_and_whole_once_it_is_finished() {
    let (_, _, stores) = store();
    stores.write("memory://a/k=0/x", Bytes::new()).unwrap();
    let writer = stores.create_folder("memory://a/out").unwrap();
    for name in ["k=1/part-0", "k=1/part-1", "k=%2F/part-0"] {
        writer.write_part(name, Bytes::from_static(b"0")).unwrap();
    }
    let patterns = [
        ("out/k=1", 2),
        ("out/k=1/", 2),
        ("out/k=1/part-0", 1),
        ("out/k=1/part-*", 2),
        ("out/*", 3),
        ("out/*/part-*", 3),
        ("out/**/*", 3),
        ("o*/k=*/part-0", 2),
    ];
    for (pattern, _) in patterns {
        let error = object_error(stores.list(&format!("memory://a/{pattern}")));
        assert!(
            matches!(&error, ObjectError::Unfinished { url } if url == "memory://a/out"),
            "{pattern}: {error}"
        );
    }
    assert_eq!(names(&stores, "memory://a/**/*"), ["x"]);
    assert_eq!(names(&stores, "memory://a/k=0"), ["x"]);
    writer.commit().unwrap();
    for (pattern, found) in patterns {
        assert_eq!(
            names(&stores, &format!("memory://a/{pattern}")).len(),
            found,
            "{pattern}"
        );
    }
    let dropped = stores.create_folder("memory://b/out").unwrap();
    dropped.write_part("k=1/part-0", Bytes::new()).unwrap();
    drop(dropped);
    assert!(stores.list("memory://b/**/*").is_err());
    assert!(stores.create_folder("memory://b/out").is_ok(), "nothing is left");
}

/// As where upper and lower case are the same.
#[test]
fn parts_of_which_two_are_one_file_are_not_published() {
    let outer = tempfile::tempdir().unwrap();
    let url = outer.path().join("out").to_str().unwrap().to_owned();
    let writer = Stores::new().create_folder(&url).unwrap();
    writer.write_part("k=a/part-0", Bytes::from_static(b"a")).unwrap();
    let within = outer.path().join(entries(outer.path()).pop().unwrap());
    std::os::unix::fs::symlink("k=a", within.join("k=A")).unwrap();
    writer.write_part("k=A/part-1", Bytes::from_static(b"A")).unwrap();
    let error = object_error(writer.commit()).to_string();
    assert!(error.contains("upper and lower case"), "{error}");
    let shared = SharedFolder::of_files(&url, "7", Existing::Refuse).unwrap();
    shared.begin().unwrap();
    let written = ["a", "A"].map(|bytes| {
        shared
            .write_part("k=a/part-0", Bytes::from_static(bytes.as_bytes()))
            .unwrap()
    });
    let error = shared.publish(&written.map(|written| ("k=a/part-0".to_owned(), written)));
    assert!(object_error(error).to_string().contains("upper and lower case"));
    shared.remove_unfinished().unwrap();
    assert_eq!(entries(outer.path()), Vec::<String>::new());
}
