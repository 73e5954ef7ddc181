//! Waiting for what another thread or process does.

use std::time::{Duration, Instant};

/// Only a test that fails waits for so long.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Waits until something is so, and panics with what it is if it never comes to be.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + WAIT_MAX;
    while !is_so() {
        assert!(
            Instant::now() < end,
            "{WAIT_MAX:?} have passed, and it is not so that {what}"
        );
        std::thread::yield_now();
    }
}
