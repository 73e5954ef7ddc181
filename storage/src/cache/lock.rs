//! Locks that processes share, each a file. They spare work; nothing is wrong without them.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often a lock that is held elsewhere is asked for.
const PAUSE: Duration = Duration::from_millis(5);

/// The lock of a file, which is made if it is not there. Nothing if it stays held for `wait_max`, or there are no locks.
pub(super) fn hold(path: &Path, wait_max: Duration) -> Option<File> {
    let file = open(path)?;
    let end = Instant::now() + wait_max;
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(PAUSE),
            Err(_) => return None,
        }
    }
}

pub(super) fn open(path: &Path) -> Option<File> {
    let open = || File::options().read(true).append(true).create(true).open(path);
    open()
        .or_else(|_| {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            open()
        })
        .ok()
}
