//! The signals that ask a process to end, and what it does first.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// By which people, shells and whoever runs containers end a process.
const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Does not return once a signal is ending this process.
pub(super) fn wait_if(signalled: &AtomicBool) {
    while signalled.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Those that this process is not told to ignore.
pub(super) fn not_ignored() -> Vec<i32> {
    let ignored = mask("SigIgn").unwrap_or(0);
    ENDING.into_iter().filter(|signal| !has(ignored, *signal)).collect()
}

/// What the system says this process does with signals; nothing where it does not say.
fn mask(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    u64::from_str_radix(line?.trim(), 16).ok()
}

fn has(mask: u64, signal: i32) -> bool {
    mask >> (signal - 1) & 1 == 1
}

/// Calls `then` on a thread of its own with the first of these signals that comes; `signalled` is set before that.
///
/// # Errors
/// If the system does not let signals be handled, or a thread cannot be started.
pub(super) fn on_first(
    signals: Vec<i32>,
    signalled: &Arc<AtomicBool>,
    then: impl FnOnce(i32) + Send + 'static,
) -> io::Result<()> {
    if signals.is_empty() {
        return Ok(());
    }
    let (sender, receiver) = channel::<Signals>();
    let is_set = Arc::clone(signalled);
    let wait = move || {
        let Ok(mut handled) = receiver.recv() else { return };
        if let Some(signal) = handled.forever().next() {
            is_set.store(true, Ordering::SeqCst);
            then(signal);
        }
    };
    // Before any is handled: without this thread, or the pipe to it, signals would come to nothing.
    thread::Builder::new().name("signals".to_owned()).spawn(wait)?;
    let handled = Signals::new(&signals)?;
    for signal in signals {
        signal_hook::flag::register(signal, Arc::clone(signalled))?;
    }
    // The thread waits for it.
    let _ = sender.send(handled);
    Ok(())
}
