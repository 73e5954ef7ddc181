//! A started process and the lines that it prints, as they come.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::program;

/// Nothing is to take so long; only a test that fails waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Dropped, it is killed.
pub(crate) struct Running {
    pub(crate) child: Child,
    received: Receiver<String>,
    /// All lines so far, of both streams.
    pub(crate) seen: Vec<String>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, received) = channel();
        forward(child.stdout.take().unwrap(), sender.clone());
        forward(child.stderr.take().unwrap(), sender);
        Self {
            child,
            received,
            seen: Vec::new(),
        }
    }

    /// The next line; none once both streams are closed.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<&str> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.received.recv_timeout(PATIENCE) {
            Ok(line) => self.seen.push(line),
            Err(Disconnected) => return None,
            Err(Timeout) => panic!("nothing more came of:\n{}", self.shown()),
        }
        self.seen.last().map(String::as_str)
    }

    /// Waits for a line in which something is found.
    #[track_caller]
    pub(crate) fn wait_for<T>(&mut self, wanted: impl Fn(&str) -> Option<T>) -> T {
        loop {
            match self.next().map(&wanted) {
                Some(Some(found)) => return found,
                Some(None) => {}
                None => panic!("it ended before its time:\n{}", self.shown()),
            }
        }
    }

    /// Waits until it has printed the loss of a step, which may have come while something else was waited for.
    #[track_caller]
    pub(crate) fn wait_for_step(&mut self, step: u64) {
        let start = format!("step {step} ");
        let printed = |line: &str| line.starts_with(&start);
        if !self.seen.iter().any(|line| printed(line)) {
            self.wait_for(|line| printed(line).then_some(()));
        }
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        while self.next().is_some() {}
        self.child.wait().unwrap()
    }

    /// What the program printed.
    pub(crate) fn printed(&self) -> Vec<String> {
        let lines = self.seen.iter().filter(|line| program::printed(line));
        lines.cloned().collect()
    }

    /// What happened to the cluster, if this is its name node.
    pub(crate) fn events(&self) -> impl Iterator<Item = Value> {
        let lines = self.seen.iter().filter(|line| line.starts_with('{'));
        lines.map(|line| serde_json::from_str(line).unwrap())
    }

    /// The slots of the last generation of the cluster, if this is its name node.
    pub(crate) fn generation(&self) -> Vec<u32> {
        let last = self.events().filter(|event| event["event"] == "generation").last();
        let slots = last.and_then(|last| serde_json::from_value(last["slots"].clone()).ok());
        slots.expect("a generation has begun")
    }

    pub(crate) fn shown(&self) -> String {
        self.seen.join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(stream: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}

pub(crate) fn send_signal(process: u32, signal: Signal) {
    kill_process(Pid::from_raw(process as i32).unwrap(), signal).unwrap();
}
