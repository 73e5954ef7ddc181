//! A folder that replaces another: all of the old one or all of the new one is there.
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

fn write(stores: &Stores, url: &str, parts: &[&str], existing: Existing) -> Result<()> {
    let writer = stores.write_folder(url, existing)?;
    for part in parts {
        writer.write_part(part, Bytes::from(part.as_bytes().to_vec()))?;
    }
    writer.commit()
}

#[test]
fn a_replaced_folder_is_the_new_one_and_nothing_is_left_of_the_old_one() {
    let (folder, stores) = (tempfile::tempdir().unwrap(), Stores::new());
    let target = folder.path().join("out");
    let url = target.to_str().unwrap();
    let old = ["part-0", "part-1", "_SUCCESS"];
    write(&stores, url, &old, Existing::Replace).unwrap();
    fs::write(target.join(".part-0.crc"), b"crc").unwrap();
    let dropped = stores.write_folder(url, Existing::Replace).unwrap();
    dropped.write_part("part-0", Bytes::from_static(b"new")).unwrap();
    drop(dropped);
    assert_eq!(
        fs::read(target.join("part-0")).unwrap(),
        b"part-0",
        "it was not committed"
    );
    assert_eq!(entries(&target).len(), 4);
    assert!(matches!(
        object_error(write(&stores, url, &["part-0"], Existing::Refuse)),
        ObjectError::AlreadyExists { .. }
    ));
    for new in [&["part-7"][..], &[], &["part-8", "part-9"]] {
        write(&stores, url, new, Existing::Replace).unwrap();
        assert_eq!(entries(&target), new);
        assert_eq!(entries(folder.path()), ["out"], "nothing is left");
    }
}

#[test]
fn while_it_is_replaced_again_and_again_a_folder_is_never_gone() {
    let (folder, stores, over) = (tempfile::tempdir().unwrap(), Stores::new(), AtomicBool::new(false));
    let target = folder.path().join("out");
    let url = target.to_str().unwrap();
    write(&stores, url, &["part-0"], Existing::Replace).unwrap();
    std::thread::scope(|scope| {
        let looked = scope.spawn(|| {
            let mut is_there = true;
            while is_there && !over.load(Ordering::Relaxed) {
                is_there = target.is_dir();
            }
            is_there
        });
        let written = (0..200).try_for_each(|_| write(&stores, url, &["part-0", "part-1"], Existing::Replace));
        over.store(true, Ordering::Relaxed);
        written.unwrap();
        assert!(looked.join().unwrap());
    });
}

#[test]
fn what_is_no_output_is_not_replaced() {
    let (folder, stores) = (tempfile::tempdir().unwrap(), Stores::new());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for stranger in ["data.csv", ".hidden", "part"] {
        fs::create_dir_all(path(stranger)).unwrap();
        fs::write(path(stranger) + "/part-0", b"").unwrap();
        fs::write(format!("{}/{stranger}", path(stranger)), b"").unwrap();
    }
    fs::create_dir_all(path("folders") + "/part-0").unwrap();
    fs::write(path("file"), b"").unwrap();
    std::os::unix::fs::symlink(path("folders"), path("link")).unwrap();
    let before = entries(folder.path());
    for (name, words) in [
        ("data.csv", "`data.csv` in it is no part"),
        (".hidden", "`.hidden` in it is no part"),
        ("part", "`part` in it is no part"),
        ("folders", "`part-0` in it is no part"),
        ("file", "it is no folder"),
        ("link", "it is no folder"),
    ] {
        let error = object_error(stores.write_folder(&path(name), Existing::Replace)).to_string();
        assert!(error.contains(words), "{error}");
        let shared = SharedFolder::of_files(&path(name), "7", Existing::Replace).unwrap();
        assert!(object_error(shared.begin()).to_string().contains(words));
    }
    let late = stores.write_folder(&path("late"), Existing::Replace).unwrap();
    fs::create_dir(path("late")).unwrap();
    fs::write(path("late") + "/mine", b"").unwrap();
    let error = object_error(late.commit()).to_string();
    assert!(
        error.contains("`mine` in it is no part"),
        "what comes meanwhile: {error}"
    );
    fs::remove_dir_all(path("late")).unwrap();
    assert_eq!(entries(folder.path()), before);
    let error = object_error(stores.write_folder("memory://out", Existing::Replace)).to_string();
    assert!(error.contains("no store but a local folder"), "{error}");
}

#[test]
fn a_shared_folder_that_was_published_before_a_death_is_not_replaced_by_the_old_one() {
    let (folder, stores) = (tempfile::tempdir().unwrap(), Stores::new());
    let target = folder.path().join("out");
    let url = target.to_str().unwrap();
    write(&stores, url, &["part-0", "part-1"], Existing::Refuse).unwrap();
    let shared = SharedFolder::of_files(url, "7", Existing::Replace).unwrap();
    shared.begin().unwrap();
    let parts = [(
        "part-0".to_owned(),
        shared.write_part("part-0", Bytes::from_static(b"new")).unwrap(),
    )];
    for _ in 0..2 {
        shared.publish(&parts).unwrap();
        assert_eq!(entries(&target), ["part-0"]);
        assert_eq!(fs::read(target.join("part-0")).unwrap(), b"new");
    }
    shared.remove_unfinished().unwrap();
    assert_eq!(entries(folder.path()), ["out"]);
}

#[test]
fn unfinished_parts_are_taken_out_of_the_way_before_one_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let shared = SharedFolder::of_files(folder.path().join("out").to_str().unwrap(), "7", Existing::Replace).unwrap();
    shared.begin().unwrap();
    let part = shared.write_part("part-0", Bytes::from_static(b"new")).unwrap();
    let in_the_way = folder.path().join(pattern::unfinished("7.removed"));
    fs::write(&in_the_way, b"").unwrap();
    shared.remove_unfinished().unwrap_err();
    let unfinished = folder.path().join(pattern::unfinished("7"));
    assert_eq!(entries(&unfinished), [part], "it is whole where it was");
    fs::remove_file(&in_the_way).unwrap();
    // What a process that died as it removed has left.
    fs::create_dir(&in_the_way).unwrap();
    fs::write(in_the_way.join("part"), b"").unwrap();
    shared.remove_unfinished().unwrap();
    assert_eq!(entries(folder.path()), Vec::<String>::new());
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_is_replaced_while_it_is_listed_is_not_taken_for_the_new_one() {
    let (folder, stores) = (tempfile::tempdir().unwrap(), Stores::new());
    let target = folder.path().join("out");
    let url = target.to_str().unwrap();
    let kept = folder.path().join("kept");
    write(&stores, url, &["part-0"], Existing::Refuse).unwrap();
    let entry = fs::read_dir(&target).unwrap().next().unwrap().unwrap();
    let old = fs::metadata(entry.path()).unwrap();
    fs::rename(&target, &kept).unwrap();
    write(&stores, url, &["part-0", "part-1"], Existing::Refuse).unwrap();
    let metadata = local::entry_metadata(&entry, &entry.path()).unwrap();
    let inode = std::os::unix::fs::MetadataExt::ino;
    assert_eq!(inode(&metadata), inode(&old));
}
