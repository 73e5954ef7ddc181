//! Which commits are kept where some are to go.

use super::*;

#[test]
fn equal_commits_count_once_where_some_are_kept() {
    let shared = Shared::new();
    let commits = shared.commits();
    for seed in [1, 2, 3, 2, 3] {
        commit(&commits, seed).unwrap();
    }
    commits.keep(3).unwrap();
    assert_eq!(
        commits.numbers().unwrap(),
        [0, 3, 4],
        "the oldest is not pushed out by what was written again"
    );
    for (number, seed) in [(0, 1), (3, 2), (4, 3)] {
        assert_eq!(commits.read(number).unwrap().blobs, blobs(seed));
    }
}

#[test]
fn a_commit_that_was_replaced_goes_once_a_newer_one_is_whole() {
    let shared = Shared::new();
    let commits = shared.commits();
    for seed in 1..=3 {
        commit(&commits, seed).unwrap();
    }
    commits.keep_without(3, Some(2)).unwrap();
    assert_eq!(commits.numbers().unwrap(), [0, 1, 2], "nothing newer is there");
    commit(&commits, 4).unwrap();
    commits.keep_without(3, Some(2)).unwrap();
    assert_eq!(commits.numbers().unwrap(), [0, 1, 3]);
    for (number, seed) in [(0, 1), (1, 2), (3, 4)] {
        assert_eq!(commits.read(number).unwrap().blobs, blobs(seed));
    }
}

#[test]
fn a_commit_that_was_replaced_stays_while_the_newer_one_cannot_be_read() {
    let (folder, commits) = folder();
    let values = file(&folder, &commits.manifest(1).unwrap().blobs["values"].object());
    fs::write(values, b"cut").unwrap();
    commits.keep_without(3, Some(0)).unwrap();
    assert_eq!(commits.read(0).unwrap().blobs, blobs(1));
}

#[test]
fn damaged_commits_do_not_push_whole_ones_out() {
    let (folder, commits) = folder();
    fs::write(file(&folder, &manifest_name(1)), b"{}").unwrap();
    commits.keep(1).unwrap();
    assert_eq!(commits.latest().unwrap().unwrap().number, 0);
    commit(&commits, 3).unwrap();
    commits.keep(2).unwrap();
    assert_eq!(commits.numbers().unwrap(), [0, 1, 2]);
    commits.keep(1).unwrap();
    assert_eq!(commits.numbers().unwrap(), [2]);
    assert_eq!(
        fs::read_dir(file(&folder, "")).unwrap().count(),
        4,
        "three blobs and a manifest"
    );
}

#[test]
fn commits_that_lack_a_blob_do_not_push_whole_ones_out() {
    let (folder, commits) = folder();
    let values = file(&folder, &commits.manifest(1).unwrap().blobs["values"].object());
    for damage in [
        |values: &PathBuf| fs::write(values, b"cut").unwrap(),
        |values: &PathBuf| fs::remove_file(values).unwrap(),
    ] {
        damage(&values);
        commits.keep(1).unwrap();
        assert_eq!(commits.latest().unwrap().unwrap().number, 0);
        assert!(file(&folder, &Blob::of(b"commit of 2").object()).exists());
    }
    commit(&commits, 3).unwrap();
    commits.keep(1).unwrap();
    assert_eq!(
        (commits.numbers().unwrap(), commits.read(2).unwrap().blobs),
        (vec![2], blobs(3))
    );
}

#[test]
fn what_is_being_written_goes_with_the_oldest_commit_that_is_kept() {
    let shared = Shared::new();
    let commits = shared.commits();
    commit(&commits, 1).unwrap();
    let _unpublished = commits.begin(&blobs(9)).unwrap();
    commit(&commits, 2).unwrap();
    commits.keep(2).unwrap();
    assert!(shared.names().contains(&Blob::of(b"commit of 9").object()));
}
