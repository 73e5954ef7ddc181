//! Folders whose names survive a power cut: a name lies in the folder around it, which has to be synced too.

use std::fs;
use std::io;
use std::path::Path;

/// Makes a folder, and those that lead to it, so that all are there after a power cut.
///
/// # Errors
/// The system refuses, or something else has such a name.
pub fn create_folders(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    // What leads no further up is there, whatever the system says of it.
    let outer = path.parent().unwrap_or(Path::new(""));
    create_folders(outer)?;
    match fs::create_dir(path) {
        // Another process was quicker.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_folder(outer)
}

/// Makes renames and new names in a folder survive a power cut; the current one's path may be empty.
///
/// # Errors
/// The system refuses.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn folders_are_made_as_far_as_they_are_missing() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("a/b/c");
        create_folders(&inner).unwrap();
        create_folders(&inner).unwrap();
        assert!(inner.is_dir());
        let file = inner.join("file");
        fs::write(&file, "something else").unwrap();
        assert!(create_folders(&file).is_err() && create_folders(&file.join("d")).is_err());
    }
}
