//! Waiting for what another thread or process does.

use std::time::{Duration, Instant};

/// Only a test that fails waits for so long.
pub const WAIT_MAX: Duration = Duration::from_secs(120);

/// Waits until something is so.
///
/// # Panics
/// With `what` it is, if it has not come to be within [`WAIT_MAX`].
#[track_caller]
pub fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(
            Instant::now() < end,
            "{WAIT_MAX:?} have passed, and it is not so that {what}"
        );
        std::thread::yield_now();
    }
}
