//! What happens, for people: warnings of the libraries on the standard error stream.

use std::io::{IsTerminal, stderr};

use distdl_engine::config::Log;
use tracing_subscriber::filter::LevelFilter;

/// Has what happens written to the standard error stream, as far as `log` says, unless the program has a subscriber of
/// `tracing` already. [`run`](crate::run) does it by itself.
pub fn to_standard_error(log: Log) {
    let level = match log {
        Log::Off => LevelFilter::OFF,
        Log::Error => LevelFilter::ERROR,
        Log::Warn => LevelFilter::WARN,
        Log::Info => LevelFilter::INFO,
        Log::Debug => LevelFilter::DEBUG,
        Log::Trace => LevelFilter::TRACE,
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        // It would say on the same stream, with a panic, that the stream takes nothing.
        .log_internal_errors(false);
    // The program's own goes before it.
    let _ = subscriber.try_init();
}
