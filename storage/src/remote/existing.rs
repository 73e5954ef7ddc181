//! What is done with a folder of parts that is there when another one is to get its name.
//!
//! It is replaced by one step of the file system that swaps the names of two folders. So at each moment the name leads
//! to all of the old parts or to all of the new ones, and the old ones are removed under the name that the new ones
//! had.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::key_folder::is_key_folder;
use super::local;
use crate::error::Result;
use crate::object::ObjectError;

/// What is done where something has the name of a folder that is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// It stays, and writing is refused.
    #[default]
    Refuse,
    /// A folder of parts is replaced at the very end: its name leads to all of the old parts or to all of the new ones
    /// at every moment, whoever dies, and to the old ones if the writing fails. A writer that is killed right then may
    /// leave the old parts in a hidden folder beside it.
    ///
    /// Where several processes run a program, nothing that it reads may be replaced: one that is started for a lost one
    /// reads it again. What the disk fails to make durable after the swap is an error, with the new parts in place.
    ///
    /// It is refused if there is a file that is no part (`part-*`, `_SUCCESS`, checksums of those, also in folders of
    /// keys, see [`key_folder`](super::key_folder())), and for links. And it takes a local folder, on a file system
    /// that can swap two folders in one step, as those of Linux and macOS for local disks can; network file systems,
    /// HDFS and stores of objects cannot.
    Replace,
}

/// Where the folder that has had the name is now.
#[must_use]
pub(super) enum Before {
    /// There was none.
    Nowhere,
    /// Where the new one was.
    Swapped,
}

impl Existing {
    /// Whether `target` may be written.
    pub(super) fn check(self, target: &Path) -> Result<()> {
        let url = || target.display().to_string();
        let metadata = match target.symlink_metadata() {
            Ok(_) if self == Self::Refuse => return Err(ObjectError::AlreadyExists { url: url() }.into()),
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(local::failed(target, "look at it", &error).into()),
        };
        if !metadata.is_dir() {
            let remedy =
                "it is no folder, so it is not replaced by one; remove it, or name the folder that a link leads to";
            return Err(ObjectError::unsupported(&url(), remedy).into());
        }
        match stranger(target, true).map_err(|error| local::failed(target, "list it", &error))? {
            None => Ok(()),
            Some(name) => {
                let remedy = format!(
                    "`{name}` in it is no part of an output, so it is not replaced; remove the folder yourself if it may go"
                );
                Err(ObjectError::unsupported(&url(), &remedy).into())
            }
        }
    }

    /// Tries within `folder` what replacing takes: without it all work would be in vain.
    pub(super) fn try_within(self, folder: &Path) -> Result<()> {
        if self == Self::Refuse {
            return Ok(());
        }
        let begin = || {
            let made = local::temporary(0o777).tempdir_in(folder);
            made.map_err(|error| local::failed(folder, "create a folder in it", &error))
        };
        let (one, other) = (begin()?, begin()?);
        Ok(swap(one.path(), other.path()).map_err(|error| not_swapped(folder, &error))?)
    }

    /// Gives `folder` the name `target`, which it then has or not at all.
    pub(super) fn rename(self, folder: &Path, target: &Path) -> Result<Before> {
        match self.replace(folder, target)? {
            Some(before) => Ok(before),
            None => self.take(folder, target),
        }
    }

    /// `None` if there is nothing to replace.
    fn replace(self, folder: &Path, target: &Path) -> Result<Option<Before>> {
        self.check(target)?;
        if self == Self::Refuse {
            return Ok(None);
        }
        match swap(folder, target) {
            Ok(()) => self.settle(folder, target).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(not_swapped(target, &error).into()),
        }
    }

    /// Looks once more at what had the name `target` and is `folder` now: what came after the last look, and may not be
    /// replaced, gets its name back.
    fn settle(self, folder: &Path, target: &Path) -> Result<Before> {
        let Err(refused) = self.check(folder) else {
            return Ok(Before::Swapped);
        };
        if let Err(error) = swap(folder, target) {
            let (folder, target) = (folder.display(), target.display());
            tracing::warn!(%folder, %target, %error, "what was not to be replaced is left in a hidden folder: {refused}");
            return Ok(Before::Nowhere);
        }
        Err(self.check(target).err().unwrap_or(refused))
    }

    /// Gives `folder` a name that nothing had a moment ago.
    fn take(self, folder: &Path, target: &Path) -> Result<Before> {
        let fail = |error: &io::Error| local::failed(target, "rename a folder to it", error);
        match take_name(folder, target) {
            Ok(()) => Ok(Before::Nowhere),
            // What has come since is replaced like what was there before.
            Err(error) if self == Self::Replace && error.kind() == ErrorKind::AlreadyExists => {
                self.replace(folder, target)?.ok_or_else(|| fail(&error).into())
            }
            Err(error) => Err(fail(&error).into()),
        }
    }
}

/// The name of something in a folder that is no part of an output, if there is such a thing: neither in it nor, if
/// `has_keys`, in its folders of keys.
fn stranger(folder: &Path, has_keys: bool) -> io::Result<Option<String>> {
    for entry in folder.read_dir()? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let name = name.to_string_lossy();
        let found = match kind.is_dir() && has_keys && is_key_folder(&name) {
            true => stranger(&entry.path(), false)?.map(|within| format!("{name}/{within}")),
            false => (!kind.is_file() || !is_part(&name)).then(|| name.to_string()),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Whether output has files of that name: parts, the mark of success, and the checksums that Hadoop writes beside them.
fn is_part(name: &str) -> bool {
    let checked = name.strip_prefix('.').and_then(|name| name.strip_suffix(".crc"));
    let name = checked.unwrap_or(name);
    name.starts_with("part-") || name == "_SUCCESS"
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn swap(one: &Path, other: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn swap(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Renames a folder to a name that nothing has.
#[cfg(any(target_os = "linux", target_os = "macos"))]
fn take_name(folder: &Path, target: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, folder, CWD, target, RenameFlags::NOREPLACE) {
        // A file system that does not know how, as those of networks: there an empty folder that has just come may be
        // replaced.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => std::fs::rename(folder, target),
        renamed => Ok(renamed?),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn take_name(folder: &Path, target: &Path) -> io::Result<()> {
    std::fs::rename(folder, target)
}

fn not_swapped(path: &Path, error: &io::Error) -> ObjectError {
    match error.kind() {
        // What a file system answers that does not know how.
        ErrorKind::Unsupported | ErrorKind::InvalidInput => {
            let remedy = "its file system cannot swap two folders in one step, so that nothing there can be replaced at once; \
                          write to another name, or remove what is there before";
            ObjectError::unsupported(&path.display().to_string(), remedy)
        }
        _ => local::failed(path, "replace it", error),
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The system's plain renaming puts a folder in place of an empty one.
    #[test]
    fn a_name_that_was_taken_at_the_last_moment_is_not_taken_again() {
        let folder = tempfile::tempdir().unwrap();
        let [mine, theirs] = ["mine", "theirs"].map(|name| folder.path().join(name));
        std::fs::create_dir(&mine).unwrap();
        std::fs::create_dir(&theirs).unwrap();
        let refused = take_name(&mine, &theirs).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert!(mine.is_dir());
        std::fs::remove_dir(&theirs).unwrap();
        take_name(&mine, &theirs).unwrap();
        assert!(theirs.is_dir() && !mine.exists());
    }

    /// Folders with one file each, of the names that are given.
    fn folders(files: [&str; 2]) -> (tempfile::TempDir, [std::path::PathBuf; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["mine", "theirs"].map(|name| folder.path().join(name));
        for (path, file) in paths.iter().zip(files) {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join(file), b"").unwrap();
        }
        (folder, paths)
    }

    #[test]
    fn parts_that_come_at_the_last_moment_are_replaced_too() {
        let (_folder, [mine, theirs]) = folders(["part-0", "part-1"]);
        assert!(matches!(
            Existing::Replace.take(&mine, &theirs).unwrap(),
            Before::Swapped
        ));
        assert!(theirs.join("part-0").exists() && mine.join("part-1").exists());
        assert!(Existing::Refuse.take(&mine, &theirs).is_err());
    }

    #[test]
    fn what_is_no_output_and_comes_at_the_last_moment_keeps_its_name() {
        let (_folder, [mine, theirs]) = folders(["part-0", "notes"]);
        // After a look that found parts there.
        swap(&mine, &theirs).unwrap();
        let refused = Existing::Replace.settle(&mine, &theirs).err().unwrap().to_string();
        assert!(refused.contains("theirs") && refused.contains("`notes`"), "{refused}");
        assert!(theirs.join("notes").exists() && mine.join("part-0").exists());
    }
}
