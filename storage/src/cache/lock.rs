//! Locks that processes share, each a file.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

/// How often a lock that is held elsewhere is asked for.
const PAUSE: Duration = Duration::from_millis(5);

/// The lock of a file, which is made if it is not there.
///
/// # Errors
/// `WouldBlock` if it stays held for `wait_max`; the system's own if there is no lock to be had.
pub(super) fn lock_exclusive(path: &Path, wait_max: Duration) -> io::Result<File> {
    let file = open(path)?;
    wait(|| file.try_lock(), wait_max)?;
    Ok(file)
}

/// Takes part in a lock that many may hold.
///
/// # Errors
/// As [`lock_exclusive`], where another one holds it alone.
pub(super) fn lock_shared(file: &File, wait_max: Duration) -> io::Result<()> {
    wait(|| file.try_lock_shared(), wait_max)
}

fn wait(lock: impl Fn() -> Result<(), TryLockError>, wait_max: Duration) -> io::Result<()> {
    let end = Instant::now() + wait_max;
    loop {
        match lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => {
                let reason = format!("another process has held it for {wait_max:.1?}");
                return Err(io::Error::new(ErrorKind::WouldBlock, reason));
            }
            Err(TryLockError::Error(error)) => return Err(explained(error)),
        }
    }
}

/// The file of a lock.
///
/// # Errors
/// It cannot be opened or made.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let open = || File::options().read(true).append(true).create(true).open(path);
    open().or_else(|error| match error.kind() {
        ErrorKind::NotFound => {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            open()
        }
        _ => Err(error),
    })
}

/// What some network file systems say, in words of use.
fn explained(error: io::Error) -> io::Error {
    let has_none = error.kind() == ErrorKind::Unsupported || Errno::from_io_error(&error) == Some(Errno::NOLCK);
    match has_none {
        true => io::Error::new(
            ErrorKind::Unsupported,
            format!("this file system has no locks ({error}); choose a folder on another one"),
        ),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::wait_until;

    #[test]
    fn errors_say_what_is_wrong() {
        for none in [Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS] {
            let words = explained(none.into()).to_string();
            assert!(words.contains("choose a folder on another"), "{words}");
        }
        assert_eq!(
            explained(Errno::IO.into()).raw_os_error(),
            Some(Errno::IO.raw_os_error())
        );
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("locks/one");
        let held = lock_exclusive(&path, Duration::ZERO).unwrap();
        assert_eq!(
            lock_exclusive(&path, Duration::ZERO).unwrap_err().kind(),
            ErrorKind::WouldBlock
        );
        drop(held);
        // A child process that another test is just starting may hold it on for a moment.
        wait_until("the lock is free", || lock_exclusive(&path, Duration::ZERO).is_ok());
        let below_a_file = lock_exclusive(&path.join("below"), Duration::ZERO).unwrap_err();
        assert_eq!(below_a_file.kind(), ErrorKind::NotADirectory);
    }
}
