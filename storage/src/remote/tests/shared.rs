//! Folders of objects that several processes write, any of which may die.

use super::folders::store;
use super::*;
use crate::testing::WriteFault;

const URL: &str = "memory://a/out";

/// As one process knows it.
fn shared(stores: &Stores) -> SharedFolder {
    SharedFolder::of_objects(stores.prefix(URL).unwrap(), "7").unwrap()
}

fn parts() -> [(String, String); 2] {
    ["part-0", "part-1"].map(|name| (name.to_owned(), name.to_owned()))
}

fn write(folder: &SharedFolder, name: &str) -> Result<String> {
    folder.write_part(name, Bytes::copy_from_slice(name.as_bytes()))
}

fn write_folder(folder: &SharedFolder) -> Result<()> {
    folder.begin()?;
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
            let written = write_folder(&folder);
            folder.remove_unfinished().unwrap();
            match written {
                Ok(()) => must_be_whole(&stores, &case),
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
    woken.remove_unfinished().unwrap();
    must_be_whole(&stores, "woken");
    let place = stores.folder(URL).unwrap();
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
