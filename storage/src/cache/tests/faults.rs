//! Damage costs a fetch.
use std::fs;

use super::*;
use crate::error::StorageError;

type Damage = fn(&Path);

#[test]
fn a_damaged_file_costs_a_fetch_and_never_a_wrong_byte() {
    let damages: [(&str, Damage); 4] = [
        ("cut", |file| {
            fs::File::options().write(true).open(file).unwrap().set_len(9).unwrap()
        }),
        ("emptied", |file| fs::write(file, "").unwrap()),
        ("altered", |file| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 4;
            fs::write(file, bytes).unwrap();
        }),
        ("grown", |file| {
            let mut bytes = fs::read(file).unwrap();
            bytes.push(0);
            fs::write(file, bytes).unwrap();
        }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::new("s3://b/x", "1", random(1_500_000, 1));
    let cache = open(&options(folder.path()));
    remote.read_all(&cache);
    let files = kept(folder.path());
    assert!(files.len() > 4);
    for (round, file) in files.iter().enumerate() {
        let (what, damage) = damages[round % damages.len()];
        damage(file);
        let before = figures(&cache).chunks_damaged;
        assert_eq!(remote.read_all(&cache), 1_500_000, "{what} {}", file.display());
        assert_eq!(figures(&cache).chunks_damaged, before + 1, "{what}");
        assert_eq!(remote.read_all(&cache), 0, "mended: {what} {}", file.display());
        fs::remove_file(file).unwrap();
        assert_eq!((remote.read_all(&cache), remote.read_all(&cache)), (1_500_000, 0));
    }
}

#[test]
fn a_folder_that_is_deleted_meanwhile_costs_a_fetch() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("cache");
    let remote = Remote::new("s3://b/x", "1", random(1_500_000, 1));
    let cache = open(&options(&folder));
    remote.read_all(&cache);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!((remote.read_all(&cache), remote.read_all(&cache)), (1_500_000, 0));
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "a file in its place").unwrap();
    assert_eq!(
        (remote.read_all(&cache), remote.read_all(&cache)),
        (1_500_000, 1_500_000)
    );
}

/// A link to itself cannot be followed, whoever asks: as a folder without permission, but for root too.
#[test]
fn a_folder_that_cannot_be_looked_through_is_read_and_not_added_to() {
    let folder = tempfile::tempdir().unwrap();
    let (here, more) = (
        Remote::new("s3://b/x", "1", random(1_500_000, 1)),
        Remote::new("s3://b/y", "1", random(1_500_000, 2)),
    );
    here.read_all(&open(&options(folder.path())));
    let chunk = kept(folder.path()).remove(0);
    let unreadable = [folder.path().join("chunks/zz"), chunk.with_file_name("0".repeat(62))];
    for unreadable in unreadable {
        std::os::unix::fs::symlink(&unreadable, &unreadable).unwrap();
        let cache = open(&options(folder.path()));
        assert_eq!(here.read_all(&cache), 0);
        assert_eq!(
            (more.read_all(&cache), figures(&cache).segments_not_kept),
            (1_500_000, 1)
        );
        fs::remove_file(&unreadable).unwrap();
        assert_eq!((more.read_all(&cache), more.read_all(&cache)), (1_500_000, 0));
        assert_eq!(kept_bytes(folder.path()), cache.folder.bytes_used());
        fs::remove_dir_all(folder.path().join("objects").join(more.version.folder_name())).unwrap();
    }
}

#[test]
fn a_full_disk_degrades_to_reading_remotely() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::new("s3://b/x", "1", random(1_500_000, 1));
    let cache = open(&options(folder.path()));
    for left in [0, 100_000, 700_000, 1_500_000] {
        cache.folder.disk_bytes_left.store(left, SeqCst);
        assert_eq!(remote.read_all(&cache), 1_500_000, "{left} bytes left");
        assert!(!cache.keeps());
        assert_eq!(fs::read_dir(folder.path().join("unfinished")).unwrap().count(), 0);
        assert_eq!(kept_bytes(folder.path()), cache.folder.bytes_used());
    }
    cache.folder.disk_bytes_left.store(u64::MAX, SeqCst);
    assert_eq!((remote.read_all(&cache), remote.read_all(&cache)), (1_500_000, 0));
    assert!(cache.keeps());
    assert_eq!(figures(&cache).segments_not_kept, 4);
}

#[test]
fn a_failed_fetch_is_an_error_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let remote = Remote::new("s3://b/x", "1", random(1_500_000, 1));
    let cache = open(&options(folder.path()));
    let gone = ObjectError::NotFound { url: "s3://b/x".into() };
    let failed = cache.read(&remote.version, &(0..10), &|_| Err(gone.clone()));
    assert_eq!(failed, Err(gone));
    assert_eq!(kept(folder.path()).len(), 0);
    assert_eq!((remote.read_all(&cache), remote.read_all(&cache)), (1_500_000, 0));
}

#[test]
fn an_unusable_folder_is_an_error_that_names_it() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Cache::open(&options(&file.join("cache")), &Arc::default()).unwrap_err();
    assert!(
        matches!(&error, StorageError::Io { path, .. } if path.ends_with("file/cache")),
        "{error}"
    );
}

#[test]
fn files_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = CacheOptions {
        bytes_max: 3_000_000,
        ..options(folder.path())
    };
    fs::create_dir_all(folder.path().join("chunks/ab")).unwrap();
    let others = [folder.path().join("notes"), folder.path().join("chunks/ab/notes")];
    others.iter().for_each(|other| fs::write(other, "mine").unwrap());
    let cache = open(&options);
    for seed in 0..3 {
        Remote::new(&format!("a://{seed}"), "1", random(2_000_000, seed)).read_all(&cache);
    }
    assert!(others.iter().all(|other| fs::read(other).unwrap() == b"mine"));
}
