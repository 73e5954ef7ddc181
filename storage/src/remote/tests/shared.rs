//! Folders of objects that several processes write, any of which may die.

use super::folders::store;
use super::*;
use crate::remote::pattern::UNFINISHED;
use crate::testing::WriteFault;

const URL: &str = "memory://a/out";

/// As one process knows it.
fn shared(stores: &Stores) -> SharedFolder {
    named(stores, "7")
}

fn named(stores: &Stores, name: &str) -> SharedFolder {
    SharedFolder::of_objects(stores.prefix(URL).unwrap(), name).unwrap()
}

fn parts() -> [(String, String); 2] {
    ["part-0", "part-1"].map(|name| (name.to_owned(), name.to_owned()))
}

fn write(folder: &SharedFolder, name: &str) -> Result<String> {
    folder.write_part(name, Bytes::copy_from_slice(name.as_bytes()))
}

fn write_folder(folder: &SharedFolder) -> Result<()> {
    folder.begin()?;
    write_parts(folder)
}

fn write_parts(folder: &SharedFolder) -> Result<()> {
    write(folder, "part-0")?;
    write(folder, "part-1")?;
    folder.publish(&parts())
}

fn must_be_whole(stores: &Stores, case: &str) {
    assert_eq!(names(stores, URL), ["part-0", "part-1"], "{case}");
    for name in ["part-0", "part-1"] {
        let object = stores.list(&format!("{URL}/{name}")).unwrap().remove(0);
        assert_eq!(object.bytes, name.len() as u64, "{case}");
    }
    assert!(stores.list(&format!("{URL}/_SUCCESS")).is_ok(), "{case}");
}

#[test]
fn whoever_dies_at_whichever_write_another_goes_on() {
    for fault in [WriteFault::DieBefore, WriteFault::DieAfter] {
        // The marker, two parts, the mark of success, and the end of the marker.
        for at in 0..5 {
            let case = format!("{fault:?} at {at}");
            let (inner, faults, stores) = store();
            faults.on_write(at, fault);
            assert!(write_folder(&shared(&stores)).is_err(), "{case}");
            let later = Stores::over(inner, StoresOptions::default());
            let is_whole = later.list(URL).is_ok();
            assert_eq!(is_whole, (at, fault) == (4, WriteFault::DieAfter), "{case}");
            let other = shared(&later);
            match is_whole {
                true => other.publish(&parts()).unwrap(),
                false => write_folder(&other).unwrap(),
            }
            must_be_whole(&later, &case);
            other.remove_unfinished().unwrap();
            must_be_whole(&later, &case);
        }
    }
}

#[test]
fn what_fails_leaves_nothing_and_what_was_published_stays() {
    for fault in [WriteFault::FailBefore, WriteFault::FailAfter] {
        for at in 0..5 {
            let case = format!("{fault:?} at {at}");
            let (_, faults, stores) = store();
            faults.on_write(at, fault);
            let folder = shared(&stores);
            let begun = folder.begin();
            let has_begun = begun.is_ok();
            let written = begun.and_then(|()| write_parts(&folder));
            match has_begun {
                true => folder.remove_unfinished().unwrap(),
                false => folder.abandon().unwrap(),
            }
            match written {
                Ok(()) => must_be_whole(&stores, &case),
                // All but the marker's end was done: that is tried again.
                Err(_) if at == 4 => must_be_whole(&stores, &case),
                Err(_) => assert!(stores.create_folder(URL).is_ok(), "{case}: something is left"),
            }
        }
    }
}

#[test]
fn parts_of_tries_that_do_not_count_stay_out() {
    let (_, _, stores) = store();
    let folder = shared(&stores);
    folder.begin().unwrap();
    for name in ["part-0", "part-1", "part-2", "k=a/part-0"] {
        write(&folder, name).unwrap();
    }
    folder.publish(&parts()).unwrap();
    must_be_whole(&stores, "published");
    assert!(stores.list("memory://a/out/*/*").is_err());
}

#[test]
fn a_process_that_wakes_when_all_is_over_touches_nothing() {
    let (_, _, stores) = store();
    let (folder, woken) = (shared(&stores), shared(&stores));
    write_folder(&folder).unwrap();
    let refused = object_error(woken.write_part("part-0", Bytes::from_static(b"old")));
    assert!(matches!(refused, ObjectError::Superseded { .. }), "{refused}");
    woken.publish(&parts()).unwrap();
    assert!(woken.begin().is_err());
    woken.abandon().unwrap();
    woken.remove_unfinished().unwrap();
    must_be_whole(&stores, "woken");
    // Its marker was on its way.
    let place = stores.folder(URL).unwrap();
    place.create(UNFINISHED, Bytes::from_static(b"7")).unwrap();
    woken.remove_unfinished().unwrap();
    must_be_whole(&stores, "the marker came late");
    ["part-0", "part-1", "_SUCCESS"]
        .iter()
        .for_each(|name| place.remove(name).unwrap());
    let refused = object_error(woken.publish(&parts()));
    assert!(matches!(refused, ObjectError::Superseded { .. }), "{refused}");
}

#[test]
fn what_is_there_is_not_written_over() {
    let (_, _, stores) = store();
    let other = stores.create_folder(URL).unwrap();
    let refused = object_error(shared(&stores).begin());
    assert!(matches!(refused, ObjectError::Unfinished { .. }), "{refused}");
    other.write_part("part-0", Bytes::new()).unwrap();
    other.commit().unwrap();
    let refused = object_error(shared(&stores).begin());
    assert!(matches!(refused, ObjectError::AlreadyExists { .. }), "{refused}");
    assert_eq!(names(&stores, URL), ["part-0"]);
}

#[test]
fn what_is_not_this_folders_is_never_removed() {
    let (_, _, stores) = store();
    let folder = shared(&stores);
    folder.begin().unwrap();
    write(&folder, "part-0").unwrap();
    write(&folder, "part-1").unwrap();
    for theirs in ["README.md", "errors/part-0"] {
        stores.write(&format!("{URL}/{theirs}"), Bytes::new()).unwrap();
    }
    let refused = object_error(folder.publish(&parts()));
    assert!(matches!(refused, ObjectError::AlreadyExists { .. }), "{refused}");
    folder.remove_unfinished().unwrap();
    assert_eq!(names(&stores, &format!("{URL}/**")), ["README.md", "part-0"]);
    assert!(stores.list(&format!("{URL}/part-*")).is_err());
}

#[test]
fn what_another_has_finished_meanwhile_stays() {
    let (_, _, stores) = store();
    let folder = shared(&stores);
    folder.begin().unwrap();
    for theirs in ["part-7", "_SUCCESS"] {
        stores.write(&format!("{URL}/{theirs}"), Bytes::new()).unwrap();
    }
    for refused in [folder.publish(&[]), folder.begin()] {
        let refused = object_error(refused);
        assert!(matches!(refused, ObjectError::AlreadyExists { .. }), "{refused}");
    }
    folder.remove_unfinished().unwrap();
    assert_eq!(names(&stores, URL), ["part-7"]);
}

#[test]
fn whoever_wakes_as_it_removes_leaves_a_later_save_alone() {
    let (_, _, stores) = store();
    let (woken, later) = (shared(&stores), named(&stores, "8"));
    woken.begin().unwrap();
    shared(&stores).remove_unfinished().unwrap();
    later.begin().unwrap();
    write(&later, "part-0").unwrap();
    woken.remove_unfinished().unwrap();
    write(&later, "part-1").unwrap();
    later.publish(&parts()).unwrap();
    must_be_whole(&stores, "later");
}

#[test]
fn a_marker_that_comes_late_hides_no_later_save() {
    let (_, _, stores) = store();
    write_folder(&named(&stores, "8")).unwrap();
    let place = stores.folder(URL).unwrap();
    place.create(UNFINISHED, Bytes::from_static(b"7")).unwrap();
    assert!(stores.list(URL).is_err());
    let refused = object_error(shared(&stores).begin());
    assert!(matches!(refused, ObjectError::AlreadyExists { .. }), "{refused}");
    must_be_whole(&stores, "the later one");
}

#[test]
fn a_part_that_is_gone_is_missed() {
    let (_, _, stores) = store();
    let folder = shared(&stores);
    folder.begin().unwrap();
    write(&folder, "part-0").unwrap();
    let missed = object_error(folder.publish(&parts())).to_string();
    assert!(missed.contains("part-1"), "{missed}");
}

#[test]
fn more_names_than_are_listed_at_once_are_removed() {
    let (inner, _, _) = store();
    let options = StoresOptions {
        list_objects_max: 3,
        ..StoresOptions::default()
    };
    let stores = Stores::over(inner, options);
    let folder = shared(&stores);
    folder.begin().unwrap();
    (0..20).for_each(|number| drop(write(&folder, &format!("part-{number}")).unwrap()));
    folder.remove_unfinished().unwrap();
    assert!(stores.create_folder(URL).is_ok(), "nothing is left");
}
