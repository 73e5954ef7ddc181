//! Folders that a process has for itself, and whose are whose.
//!
//! Their names say the host, and which of its starts it is, and the process holds a lock on each while it lives. So
//! what a killed process has left is known by its lock being free, and removed by the next process of that host. A lock
//! that looks free may be held on another host, where the file system is one of several.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use tempfile::{Builder, TempDir};

const FOLDER_ATTEMPTS_MAX: usize = 16;

/// Each thread that was writing a file puts at most that one into a folder that is removed.
const REMOVAL_ATTEMPTS_MAX: usize = 1024;

/// For how long nobody has touched an unfinished file whose writer is taken for dead.
pub(crate) const LEFT_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How names of one kind of folders begin and end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) prefix: &'static str,
    pub(crate) suffix: &'static str,
    /// How long nothing has been put into one, if another start of this host made it, until it is taken for left
    /// behind; or if another mount of this host may have, of what several hosts share.
    pub(crate) other_boots_after: Duration,
}

/// A folder that is removed with all its files when it is dropped.
#[derive(Debug)]
pub(crate) struct OwnFolder {
    // Before the lock: the folder is removed while it is still locked.
    folder: TempDir,
    lock: File,
}

impl OwnFolder {
    /// Makes one in `outer`, as `builder` makes folders, and removes what killed processes have left of its kind there.
    pub(crate) fn make(outer: &Path, kind: Kind, builder: Builder<'static, 'static>) -> io::Result<Self> {
        let owner = Owner::this();
        owner.remove_leftovers(outer, kind);
        let prefix = owner.prefix(kind);
        let mut builder: Builder<'_, '_> = builder;
        builder.prefix(&prefix).suffix(kind.suffix);
        for _ in 0..FOLDER_ATTEMPTS_MAX {
            let folder = builder.tempdir_in(outer)?;
            // Another process may take the folder for a leftover before it is locked. Then there is nothing to lose.
            let lock = match File::open(folder.path()) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    // To look what is in it would take an open file as well.
                    let _ = fs::remove_dir(folder.path());
                    return Err(error);
                }
            };
            match lock.try_lock() {
                Err(fs::TryLockError::WouldBlock) => continue,
                // Without locks nobody removes leftovers here.
                Err(fs::TryLockError::Error(_)) | Ok(()) if folder.path().exists() => {
                    return Ok(Self { folder, lock });
                }
                _ => continue,
            }
        }
        Err(io::Error::other(format!(
            "{FOLDER_ATTEMPTS_MAX} new folders were taken by other processes"
        )))
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it while other threads may still put files into it.
    pub(crate) fn remove_in_use(&self) {
        for _ in 0..REMOVAL_ATTEMPTS_MAX {
            match fs::remove_dir_all(self.path()) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %self.path().display(), %error, "a folder stays behind");
                    return;
                }
                _ => return,
            }
        }
    }

    /// The folder, and what holds the lock on it.
    pub(crate) fn into_parts(self) -> (TempDir, File) {
        (self.folder, self.lock)
    }
}

/// How the names of hosts begin that nobody has named.
const NAMELESS: [&str; 2] = ["localhost", "_none_"];

/// Who makes folders: the host, and which of its starts this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) host: String,
    pub(crate) boot: String,
}

impl Owner {
    /// A host that does not tell its boots apart has one.
    pub(crate) fn this() -> Self {
        let plain = |character: char| match character {
            '.' | '-' => character,
            _ if character.is_ascii_alphanumeric() => character,
            _ => '_',
        };
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .chars()
            .map(plain)
            .collect();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self {
            host,
            boot: boot.chars().filter(char::is_ascii_hexdigit).collect(),
        }
    }

    pub(crate) fn prefix(&self, kind: Kind) -> String {
        format!("{}{}-{}-", kind.prefix, self.host, self.boot)
    }

    /// Who made a folder of that kind and name.
    pub(crate) fn of(name: &str, kind: Kind) -> Option<Self> {
        let name = name.strip_prefix(kind.prefix)?.strip_suffix(kind.suffix)?;
        let mut parts = name.rsplitn(3, '-').skip(1);
        let (boot, host) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { host, boot })
    }

    /// Whether a lock that looks free here is free: on the same kernel, whatever containers are called, and where this
    /// host has started anew since. Many hosts may have the name that a system has before it is given one.
    pub(crate) fn sees_locks_of(&self, other: &Self) -> bool {
        match self.boot == other.boot {
            true => !self.boot.is_empty() || self.host == other.host,
            false => {
                let is_nameless = self.host.is_empty() || NAMELESS.iter().any(|name| self.host.starts_with(name));
                self.host == other.host && !is_nameless
            }
        }
    }

    /// Removes this host's folders of a kind whose process ended without removing them. What cannot be locked or
    /// removed stays.
    pub(crate) fn remove_leftovers(&self, outer: &Path, kind: Kind) {
        let Ok(entries) = fs::read_dir(outer) else { return };
        let is_shared = is_shared(outer);
        for entry in entries.flatten() {
            let owner = Self::of(&entry.file_name().to_string_lossy(), kind);
            let is_old = |owner: &Self| {
                let changed = entry.metadata().and_then(|folder| folder.modified());
                let since = changed.map(|changed| changed.elapsed().unwrap_or_default());
                since.is_ok_and(|since| is_left(is_shared, owner.boot == self.boot, kind, since))
            };
            let is_ours = owner.is_some_and(|owner| self.sees_locks_of(&owner) && is_old(&owner));
            if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            let Ok(handle) = File::open(&path) else { continue };
            if handle.try_lock().is_ok() {
                match fs::remove_dir_all(&path) {
                    Ok(()) => {
                        tracing::info!(path = %path.display(), "removed what a killed process left behind")
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "cannot remove what a killed process left behind")
                    }
                }
            }
        }
    }
}

/// Whether a folder whose lock looks free, and into which nothing has been put for so long, is left behind. Where
/// hosts, or mounts of one host, share a file system, two hosts may have one name, and locks of others look free.
fn is_left(is_shared: bool, of_this_boot: bool, kind: Kind, since: Duration) -> bool {
    let after = match (is_shared, of_this_boot) {
        (false, true) => Duration::ZERO,
        (true, true) | (false, false) => kind.other_boots_after,
        (true, false) => LEFT_AFTER,
    };
    since >= after
}

/// Whether other hosts, or other mounts of this one, may have what is in a folder.
#[cfg(target_os = "linux")]
fn is_shared(folder: &Path) -> bool {
    // Of linux/magic.h and the file systems' own headers: NFS, SMB (three versions), FUSE, 9P, Ceph, AFS (two), Lustre,
    // GPFS, BeeGFS, GFS2 and OCFS2. The type of the number is not the same on all processors.
    const SHARED: [u32; 14] = [
        0x0000_6969,
        0x0000_517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x6573_5546,
        0x0102_1997,
        0x00c3_6400,
        0x5346_414f,
        0x6b41_4653,
        0x0bd0_0bd0,
        0x4750_4653,
        0x1983_0326,
        0x0116_1970,
        0x7461_636f,
    ];
    rustix::fs::statfs(folder).is_ok_and(|found| SHARED.contains(&(found.f_type as u32)))
}

#[cfg(not(target_os = "linux"))]
fn is_shared(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const ALONE: &str = "DISTDL_TEST_ALONE";

    /// In a process of its own, as the limit of open files is that of all its threads.
    #[test]
    fn want_of_open_files_is_said_and_leaves_no_folder() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        if std::env::var_os(ALONE).is_none() {
            let name = "owner::tests::want_of_open_files_is_said_and_leaves_no_folder";
            let mut process = std::process::Command::new(std::env::current_exe().unwrap());
            let output = process.args(["--exact", name]).env(ALONE, "yes").output().unwrap();
            let has_run = String::from_utf8_lossy(&output.stdout).contains("1 passed");
            assert!(output.status.success() && has_run, "{output:?}");
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        let kind = Kind {
            prefix: "p-",
            suffix: "",
            other_boots_after: Duration::ZERO,
        };
        let limit = getrlimit(Resource::Nofile);
        let none = Rlimit {
            current: Some(0),
            ..limit
        };
        setrlimit(Resource::Nofile, none).unwrap();
        let made = OwnFolder::make(outer.path(), kind, Builder::new());
        setrlimit(Resource::Nofile, limit).unwrap();
        let error = made.unwrap_err();
        assert!(crate::object::remedy(&error).contains("ulimit -n"), "{error}");
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
    }

    #[test]
    fn where_locks_of_others_may_look_free_a_folder_is_left_after_a_day() {
        let kind = |other_boots_after| Kind {
            prefix: "p-",
            suffix: "",
            other_boots_after,
        };
        let (blocks, saves) = (kind(Duration::ZERO), kind(LEFT_AFTER));
        for (is_shared, of_this_boot, kind, after) in [
            (false, true, blocks, Duration::ZERO),
            (false, true, saves, Duration::ZERO),
            (false, false, blocks, Duration::ZERO),
            (false, false, saves, LEFT_AFTER),
            (true, true, blocks, Duration::ZERO),
            (true, true, saves, LEFT_AFTER),
            (true, false, blocks, LEFT_AFTER),
            (true, false, saves, LEFT_AFTER),
        ] {
            assert!(is_left(is_shared, of_this_boot, kind, after));
            let before = after.checked_sub(Duration::from_secs(1));
            assert!(before.is_none_or(|since| !is_left(is_shared, of_this_boot, kind, since)));
        }
    }
}
