#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

const ID: BlockId = BlockId {
    dataset: 3,
    partition: 7,
};

/// A tier in an outer folder of its own, with one block of 100 numbers.
fn tier_with_block(bytes_max: u64) -> (TempDir, DiskTier) {
    let outer = tempfile::tempdir().unwrap();
    let tier = DiskTier::open(outer.path(), bytes_max).unwrap();
    tier.put(ID, &Block::new((0..100_u64).collect())).unwrap();
    (outer, tier)
}

fn file_of(tier: &DiskTier, id: BlockId) -> PathBuf {
    tier.folder().unwrap().path().join(id.file_name())
}

fn get(tier: &DiskTier) -> Result<Option<Block>> {
    tier.get(ID, Codec::of::<u64>())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn conforms() {
    let outer = tempfile::tempdir().unwrap();
    crate::testing::conformance(&DiskTier::open(outer.path(), 1 << 20).unwrap());
    crate::testing::conformance(&DiskTier::temporary(1 << 20));
}

#[test]
fn every_flipped_byte_of_the_file_is_found() {
    let (_outer, tier) = tier_with_block(1 << 20);
    let path = file_of(&tier, ID);
    let intact = fs::read(&path).unwrap();
    for index in 0..intact.len() {
        let mut bytes = intact.clone();
        bytes[index] ^= 0x10;
        // A new file under the old name, as mappings of the old one may still be read.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let error = get(&tier).expect_err("a flipped byte");
        assert!(
            matches!(&error, StorageError::Corrupt { what, .. } if what.contains(&ID.to_string())),
            "{error}"
        );
    }
}

#[test]
fn a_file_cut_at_any_length_or_grown_is_found() {
    let (_outer, tier) = tier_with_block(1 << 20);
    let path = file_of(&tier, ID);
    let intact = fs::read(&path).unwrap();
    let cut = (0..intact.len()).map(|length| intact[..length].to_vec());
    for bytes in cut.chain([[&intact[..], &[0]].concat()]) {
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert!(matches!(get(&tier), Err(StorageError::Corrupt { .. })));
    }
}

#[test]
fn a_file_that_is_gone_is_corrupt_and_can_be_put_again() {
    let (_outer, tier) = tier_with_block(1 << 20);
    fs::remove_file(file_of(&tier, ID)).unwrap();
    let error = get(&tier).expect_err("there is no file");
    assert!(error.to_string().contains("gone"), "{error}");
    assert!(tier.remove(ID).unwrap());
    assert_eq!(tier.bytes_used(), 0);
    tier.put(ID, &Block::new(vec![1_u64])).unwrap();
    assert!(get(&tier).unwrap().is_some());
}

#[test]
fn a_block_may_fill_the_tier_and_takes_the_room_of_what_it_replaces() {
    let bytes = tier_with_block(1 << 20).1.bytes_used();
    let (_outer, tier) = tier_with_block(bytes);
    tier.put(ID, &Block::new((100..200_u64).collect())).unwrap();
    assert_eq!(tier.bytes_used(), bytes);
    let other = BlockId { partition: 8, ..ID };
    let refused = tier.put(other, &Block::new(vec![1_u64]));
    assert!(matches!(refused, Err(StorageError::OverBudget { .. })));
}

#[test]
fn a_failed_write_leaves_no_file_and_the_old_block() {
    let (_outer, tier) = tier_with_block(1 << 20);
    let blocked = BlockId {
        dataset: 3,
        partition: 8,
    };
    let bytes_used = tier.bytes_used();
    // A folder of the block's name, with something in it, cannot be replaced by a file, not even by root.
    fs::create_dir_all(file_of(&tier, blocked).join("in the way")).unwrap();
    assert!(tier.put(blocked, &Block::new(vec![1_u64])).is_err());
    let folder = tier.folder().unwrap();
    assert_eq!(names(folder.path()), [ID.file_name(), blocked.file_name()]);
    assert_eq!((tier.ids(), tier.bytes_used()), (vec![ID], bytes_used));
    assert!(get(&tier).unwrap().is_some());
}

#[test]
fn a_folder_that_vanished_costs_what_was_in_it_and_is_made_anew() {
    let (outer, tier) = tier_with_block(1 << 20);
    fs::remove_dir_all(outer.path()).unwrap();
    assert!(matches!(get(&tier), Err(StorageError::Corrupt { .. })));
    assert!(tier.spill().is_ok());
    assert_eq!((tier.ids(), tier.bytes_used()), (vec![], 0));
    fs::remove_dir_all(outer.path()).unwrap();
    tier.put(ID, &Block::new(vec![1_u64])).unwrap();
    assert_eq!(get(&tier).unwrap().unwrap().len(), 1);
    drop(tier);
    assert_eq!(names(outer.path()), [""; 0]);
}

#[test]
fn an_outer_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let outer = tempfile::tempdir().unwrap();
    let file = outer.path().join("a file");
    fs::write(&file, "").unwrap();
    let error = DiskTier::open(file.join("below it"), 1 << 20).expect_err("below a file");
    let says = error.to_string();
    assert!(
        says.contains("below it") && says.contains("`spill_folder`, or TMPDIR"),
        "{says}"
    );
}

#[test]
fn a_full_disk_says_where_and_how_much() {
    let error = StorageError::io(
        "write",
        Path::new("/data"),
        4096,
        io::Error::from(io::ErrorKind::StorageFull),
    );
    assert!(matches!(&error, StorageError::DiskFull { path, needed_bytes: 4096 } if path == Path::new("/data")));
    let refused = StorageError::io(
        "write",
        Path::new("/data"),
        4096,
        io::Error::from(io::ErrorKind::PermissionDenied),
    );
    assert!(matches!(refused, StorageError::PermissionDenied { .. }));
    let read_only = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
    let says = StorageError::io("write", Path::new("/data"), 4096, read_only).to_string();
    assert!(
        says.contains("/data: its file system is read only") && !says.contains("permission"),
        "{says}"
    );
}

/// A write to a device that is always full, in place of a full file system, which needs a mount.
#[cfg(target_os = "linux")]
#[test]
fn the_answer_of_a_full_device_is_known() {
    let mut device = File::options().write(true).open("/dev/full").unwrap();
    let error = device.write_all(&[0; 4096]).expect_err("always full");
    let error = StorageError::io("write", Path::new("/dev/full"), 4096, error);
    assert!(
        matches!(error, StorageError::DiskFull { needed_bytes: 4096, .. }),
        "{error}"
    );
}

#[test]
fn nobody_else_gets_at_blocks_that_are_read_in_place() {
    let (guard, tier) = tier_with_block(1 << 20);
    let folder = file_of(&tier, ID).parent().unwrap().to_owned();
    assert!(folder != guard.path());
    let mode = fs::metadata(&folder).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700, "{mode:o}");
}

#[test]
fn dropping_removes_what_it_wrote_and_nothing_else() {
    let (outer, tier) = tier_with_block(1 << 20);
    fs::write(outer.path().join("foreign.txt"), "mine").unwrap();
    fs::create_dir(outer.path().join("distdl-blocks")).unwrap();
    let block = get(&tier).unwrap().unwrap();
    drop(tier);
    assert_eq!(names(outer.path()), ["distdl-blocks", "foreign.txt"]);
    assert_eq!(
        block.records::<u64>().unwrap().iter().sum::<u64>(),
        4950,
        "a reader keeps its mapping"
    );
}

#[test]
fn leftovers_of_the_dead_are_removed_and_folders_of_the_living_are_not() {
    let (outer, living) = tier_with_block(1 << 20);
    let dead = left(outer.path(), &Owner::this());
    let second = DiskTier::open(outer.path(), 1 << 20).unwrap();
    assert!(!dead.exists());
    assert!(get(&living).unwrap().is_some());
    // Two tiers, one folder, the same block: each keeps its own.
    second.put(ID, &Block::new(vec![1_u64])).unwrap();
    drop(second);
    assert_eq!(get(&living).unwrap().unwrap().len(), 100);
}

/// A folder that nobody holds a lock on, as that of another host looks on a network file system.
fn left(outer: &Path, owner: &Owner) -> PathBuf {
    let folder = outer.join(format!("{}dead", owner.prefix(BLOCKS)));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(ID.file_name()), "left behind").unwrap();
    folder
}

#[test]
fn folders_of_other_hosts_stay_and_those_of_earlier_boots_do_not() {
    let (outer, _living) = tier_with_block(1 << 20);
    let owner = |host: &str, boot: &str| Owner {
        host: host.to_owned(),
        boot: boot.to_owned(),
    };
    let this = Owner::this();
    assert_eq!(
        Owner::of(&format!("{}Ab12", this.prefix(BLOCKS)), BLOCKS),
        Some(this.clone())
    );
    let other = left(outer.path(), &owner("a-host.of-others", "0123"));
    let mut gone = vec![left(outer.path(), &owner("a-container", &this.boot))];
    if this.host != "localhost" {
        gone.push(left(outer.path(), &owner(&this.host, "0123")));
    }
    DiskTier::remove_leftovers(Some(outer.path()));
    assert!(other.exists(), "its lock cannot be seen from here");
    assert!(gone.iter().all(|folder| !folder.exists()));
    let (one, anew) = (owner("localhost", "0123"), owner("localhost", "4567"));
    assert!(
        one.sees_locks_of(&one) && !one.sees_locks_of(&anew),
        "that may be another host"
    );
    let (one, other) = (owner("mac", ""), owner("pc", ""));
    assert!(one.sees_locks_of(&one) && !one.sees_locks_of(&other));
}

#[test]
fn a_temporary_tier_makes_no_folder_before_it_needs_one() {
    let tier = DiskTier::temporary(1 << 20);
    assert!(tier.get(ID, Codec::of::<u64>()).unwrap().is_none());
    assert!(tier.folder.lock().unwrap().is_none());
    tier.put(ID, &Block::new(vec![1_u64])).unwrap();
    let folder = tier.folder().unwrap().path().to_path_buf();
    assert!(folder.exists());
    drop(tier);
    assert!(!folder.exists());
}

#[test]
fn plain_records_are_read_in_place() {
    let (_outer, tier) = tier_with_block(1 << 20);
    let (first, second) = (get(&tier).unwrap().unwrap(), get(&tier).unwrap().unwrap());
    let (first, second) = (first.records::<u64>().unwrap(), second.records::<u64>().unwrap());
    assert_ne!(first.as_ptr(), second.as_ptr());
    assert_eq!(first.as_ptr() as usize % 64, 0);
    assert_eq!(first.clone().into_vec(), second.to_vec());
    // A block read in place can be written again.
    tier.put(ID, &Block::from_records(first)).unwrap();
    assert_eq!(get(&tier).unwrap().unwrap().records::<u64>().unwrap(), second);
}
