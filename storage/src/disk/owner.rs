//! Whose folders of blocks are whose: a lock that looks free may be held on another host, where the file system is one of
//! several.

use std::fs::{self, File};
use std::path::Path;

const FOLDER_PREFIX: &str = "distdl-blocks-";

/// How the names of hosts begin that nobody has named.
const NAMELESS: [&str; 2] = ["localhost", "_none_"];

/// Who makes folders: the host, and which of its starts this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) host: String,
    pub(super) boot: String,
}

impl Owner {
    /// A host that does not tell its boots apart has one.
    pub(super) fn this() -> Self {
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

    pub(super) fn prefix(&self) -> String {
        format!("{FOLDER_PREFIX}{}-{}-", self.host, self.boot)
    }

    /// Who made a folder of that name.
    pub(super) fn of(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(FOLDER_PREFIX)?.rsplitn(3, '-').skip(1);
        let (boot, host) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Self { host, boot })
    }

    /// Whether a lock that looks free here is free: on the same kernel, whatever containers are called, and where this host
    /// has started anew since. Many hosts may have the name that a system has before it is given one.
    pub(super) fn sees_locks_of(&self, other: &Self) -> bool {
        match self.boot == other.boot {
            true => !self.boot.is_empty() || self.host == other.host,
            false => {
                let is_nameless = self.host.is_empty() || NAMELESS.iter().any(|name| self.host.starts_with(name));
                self.host == other.host && !is_nameless
            }
        }
    }

    /// Removes the folders of this host's tiers whose process ended without removing them. What cannot be locked or removed
    /// stays.
    pub(super) fn remove_leftovers(&self, outer: &Path) {
        let Ok(entries) = fs::read_dir(outer) else { return };
        for entry in entries.flatten() {
            let owner = Self::of(&entry.file_name().to_string_lossy());
            let is_ours = owner.is_some_and(|owner| self.sees_locks_of(&owner));
            if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            let Ok(handle) = File::open(&path) else { continue };
            if handle.try_lock().is_ok() {
                match fs::remove_dir_all(&path) {
                    Ok(()) => {
                        tracing::info!(path = %path.display(), "removed blocks that a killed process left behind")
                    }
                    Err(error) => tracing::warn!(path = %path.display(), %error, "cannot remove left blocks"),
                }
            }
        }
    }
}
