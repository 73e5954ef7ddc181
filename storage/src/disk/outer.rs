//! Where blocks are kept if nobody says where.

use std::env;
use std::path::{Path, PathBuf};

/// On many systems the folder for temporary files is in memory, and this one is on a disk.
const ON_DISK: &str = "/var/tmp";

/// The folder for temporary files: that of the user (`TMPDIR`) or the system, or another one if the system's takes no
/// files, or is in memory, where blocks that memory has no room for would be kept in memory.
pub fn temporary_folder() -> PathBuf {
    let is_chosen = env::var_os("TMPDIR").is_some();
    chosen(env::temp_dir(), is_chosen, is_writable, is_in_memory)
}

fn chosen(
    system: PathBuf,
    is_chosen: bool,
    is_writable: impl Fn(&Path) -> bool,
    is_in_memory: impl Fn(&Path) -> bool,
) -> PathBuf {
    let on_disk = Path::new(ON_DISK);
    let is_better = || !is_writable(&system) || (is_in_memory(&system) && !is_in_memory(on_disk));
    match !is_chosen && is_writable(on_disk) && is_better() {
        true => on_disk.to_owned(),
        false => system,
    }
}

fn is_writable(folder: &Path) -> bool {
    use rustix::fs::Access;
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether what is written to a folder stays in memory, and in swap space.
#[cfg(target_os = "linux")]
fn is_in_memory(folder: &Path) -> bool {
    // `TMPFS_MAGIC` and `RAMFS_MAGIC` of linux/magic.h. The type of the number is not the same on all processors.
    const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];
    rustix::fs::statfs(folder).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_in_memory(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_on_a_disk_unless_somebody_says_otherwise() {
        let [tmp, var_tmp] = [Path::new("/tmp"), Path::new("/var/tmp")];
        let chosen = |is_chosen, writable: &[&Path], in_memory: &[&Path]| {
            let is_in_memory = |folder: &Path| in_memory.contains(&folder);
            chosen(
                "/tmp".into(),
                is_chosen,
                |folder| writable.contains(&folder),
                is_in_memory,
            )
        };
        let both = [tmp, var_tmp];
        assert_eq!(chosen(false, &both, &[tmp]), var_tmp);
        assert_eq!(chosen(false, &both, &[]), tmp, "it is on a disk");
        assert_eq!(chosen(true, &both, &[tmp]), tmp, "the user wants it");
        assert_eq!(chosen(true, &[var_tmp], &[]), tmp, "the user is told");
        assert_eq!(chosen(false, &[tmp], &[tmp]), tmp, "the other one takes no files");
        assert_eq!(chosen(false, &both, &both), tmp, "the other one is no better");
        assert_eq!(chosen(false, &[var_tmp], &[var_tmp]), var_tmp, "it takes no files");
        assert_eq!(chosen(false, &[], &[]), tmp, "neither takes files");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_in_memory_is_known_by_its_file_system() {
        assert!(!is_in_memory(Path::new("/proc")) && !is_in_memory(Path::new("/not/there")));
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
        if mounts.lines().any(|mount| mount.contains(" /dev/shm tmpfs ")) {
            assert!(is_in_memory(Path::new("/dev/shm")));
        }
    }
}
