//! The signals that ask a process to end, and what it does first.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use distdl_storage::{BlockStore, Unpoisoned};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// By which people, shells and whoever runs containers end a process.
const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// How a signal ends a process without children.
///
/// Where nothing is done about SIGINT, SIGTERM or SIGHUP, one of them ends this process as before, but also if it is
/// the first of a container, to which the system gives no such default, and the store's folder of blocks goes with it.
/// What is ignored, or has a handler of the program's own, is left alone.
#[derive(Debug, Default)]
pub struct SignalledEnd {
    signalled: Arc<AtomicBool>,
    blocks: Arc<Mutex<Weak<BlockStore>>>,
}

impl SignalledEnd {
    /// From now on. Handlers that are set later by way of the crate `signal-hook` come too late: they are called beside
    /// this.
    pub fn begin() -> Self {
        let end = Self::default();
        let blocks = Arc::clone(&end.blocks);
        let begun = on_first(with_default(), &end.signalled, move |signal| {
            let store = blocks.lock().unpoisoned().upgrade();
            if let Some(store) = store {
                store.abandon();
            }
            end_by(signal);
        });
        if let Err(error) = begun {
            tracing::warn!(%error, "signals are not handled: blocks stay behind if one ends this process");
        }
        end
    }

    /// What a store has on disk goes as well.
    pub fn with_blocks(&self, store: &Arc<BlockStore>) {
        *self.blocks.lock().unpoisoned() = Arc::downgrade(store);
    }

    /// Does not return if a signal is ending this process.
    pub fn wait_if_signalled(&self) {
        wait_if(&self.signalled);
    }
}

/// Ends this process at once, as the signal would have done by itself: whoever waits for it sees no difference.
fn end_by(signal: i32) -> ! {
    const FIRST_PROCESS: u32 = 1;
    if std::process::id() != FIRST_PROCESS {
        // It returns only if it knows no such signal.
        let _ = signal_hook::low_level::emulate_default_handler(signal);
    }
    signal_hook::low_level::exit(128 + signal)
}

/// Does not return once a signal is ending this process.
pub(super) fn wait_if(signalled: &AtomicBool) {
    while signalled.load(Ordering::SeqCst) {
        thread::park();
    }
}

/// Those that this process neither ignores nor handles; none where the system does not say.
fn with_default() -> Vec<i32> {
    let (Some(ignored), Some(caught)) = (mask("SigIgn"), mask("SigCgt")) else {
        return Vec::new();
    };
    let taken = ignored | caught;
    ENDING.into_iter().filter(|signal| !has(taken, *signal)).collect()
}

/// Those that this process is not told to ignore.
pub(super) fn not_ignored() -> Vec<i32> {
    let ignored = mask("SigIgn").unwrap_or(0);
    ENDING.into_iter().filter(|signal| !has(ignored, *signal)).collect()
}

/// Whether a signal is ending this process, also one that no thread of it has taken yet: its children, which may have
/// got it too, can be gone before.
pub(super) fn is_ending(signalled: &AtomicBool) -> bool {
    signalled.load(Ordering::SeqCst) || status().is_some_and(|status| are_pending(&status, &ENDING))
}

fn are_pending(status: &str, signals: &[i32]) -> bool {
    let pending = mask_in(status, "ShdPnd").unwrap_or(0);
    signals.iter().any(|signal| has(pending, *signal))
}

/// What the system says this process does with signals; nothing where it does not say.
fn mask(name: &str) -> Option<u64> {
    mask_in(&status()?, name)
}

fn status() -> Option<String> {
    std::fs::read_to_string("/proc/self/status").ok()
}

fn mask_in(status: &str, name: &str) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// SIGTERM, 15, waits; SIGINT, 2, is handled.
    const STATUS: &str =
        "Name:\tname\nSigPnd:\t0000000000000002\nShdPnd:\t0000000000004000\nSigCgt:\t0000000000004002\n";

    #[test]
    fn a_signal_that_has_come_ends_a_process_before_a_thread_has_taken_it() {
        assert!(are_pending(STATUS, &[SIGINT, SIGTERM]));
        assert!(
            !are_pending(STATUS, &[SIGINT, SIGHUP]),
            "what one thread got is another matter"
        );
        assert!(!are_pending("", &ENDING));
    }
}
