//! What the processes of a cluster print, as one.
//!
//! Every process runs the same driver program and so prints the same. On standard output line k is forwarded once, from
//! whichever process comes to it first; what a replacement prints again is dropped. Lines are told apart by their
//! position, because times in them may differ.
//!
//! On standard error processes may differ in what they say: a panic happens in one of them. There lines are told apart
//! by their content: a line is forwarded as often as the process that said it most often. So what all say is shown
//! once, and what only one says is never lost.
//!
//! A line that is not over yet waits. Longer ones than [`LINE_BYTES_MAX`] pass in pieces of that length, each of which
//! counts as a line, so that output without lines passes as it is.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::sync::Mutex;

use distdl_storage::Unpoisoned;
use xxhash_rust::xxh3::xxh3_128;

/// Most bytes that wait for the end of their line.
pub(crate) const LINE_BYTES_MAX: usize = 64 << 10;

/// Most lines of standard error that are remembered. Older ones may be shown again.
const LINES_MAX: usize = 1 << 16;

/// A process: its slot, and how many its parent has started for that slot before.
pub(crate) type Life = (u32, u32);

/// A position in standard output: the line, and the piece of it. Both are counted from 0.
type LinePosition = (u64, u64);

/// The bytes of one process that are not passed on yet, cut into lines and pieces.
#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<u8>,
    position: LinePosition,
}

impl Lines {
    /// Gives each line or piece that is complete now, with its position.
    fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(LinePosition, &[u8])) {
        while !bytes.is_empty() {
            let room = &bytes[..bytes.len().min(LINE_BYTES_MAX - self.waiting.len())];
            let end = memchr::memchr(b'\n', room);
            let (taken, rest) = bytes.split_at(end.map_or(room.len(), |at| at + 1));
            self.waiting.extend_from_slice(taken);
            bytes = rest;
            if end.is_some() || self.waiting.len() == LINE_BYTES_MAX {
                each(self.position, &self.waiting);
                self.waiting.clear();
                let (line, piece) = self.position;
                self.position = if end.is_some() {
                    (line + 1, 0)
                } else {
                    (line, piece + 1)
                };
            }
        }
    }
}

/// Standard output of all processes as one.
#[derive(Debug, Default)]
pub(crate) struct OutputMerger {
    processes: HashMap<Life, Lines>,
    /// The first position that is not forwarded.
    next: LinePosition,
    /// Whether the last piece forwarded has not ended its line.
    open: bool,
    /// The longest unfinished line of an ended process that goes furthest.
    unfinished: (LinePosition, Vec<u8>),
}

impl OutputMerger {
    /// Takes what a process has printed; gives what is to be written.
    pub(crate) fn feed(&mut self, life: Life, bytes: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        let (next, open) = (&mut self.next, &mut self.open);
        self.processes.entry(life).or_default().feed(bytes, |position, piece| {
            if position < *next {
                return;
            }
            forward(&mut written, open, position, piece);
            *next = if *open {
                (position.0, position.1 + 1)
            } else {
                (position.0 + 1, 0)
            };
        });
        written
    }

    /// A process has ended. Its last line, if it has no end, is kept for [`OutputMerger::close`]: the process may have
    /// been killed in the middle of it, and then another prints it whole.
    pub(crate) fn ended(&mut self, life: Life) {
        let Some(lines) = self.processes.remove(&life) else {
            return;
        };
        let (position, bytes) = &self.unfinished;
        if !lines.waiting.is_empty() && (lines.position, lines.waiting.len()) > (*position, bytes.len()) {
            self.unfinished = (lines.position, lines.waiting);
        }
    }

    /// All processes have ended: the last line, if it has no end.
    pub(crate) fn close(&mut self) -> Vec<u8> {
        let lives: Vec<Life> = self.processes.keys().copied().collect();
        lives.into_iter().for_each(|life| self.ended(life));
        let mut written = Vec::new();
        let (position, bytes) = std::mem::take(&mut self.unfinished);
        if position >= self.next && !bytes.is_empty() {
            forward(&mut written, &mut self.open, position, &bytes);
        }
        written
    }
}

/// Writes a line or piece. If another process's version of the line before was longer than this one's, that ends here.
fn forward(written: &mut Vec<u8>, open: &mut bool, position: LinePosition, piece: &[u8]) {
    if *open && position.1 == 0 {
        written.push(b'\n');
    }
    written.extend_from_slice(piece);
    *open = piece.last() != Some(&b'\n');
}

/// Standard error of all processes as one.
#[derive(Debug, Default)]
pub(crate) struct ErrorMerger {
    processes: HashMap<Life, Lines>,
    seen: HashMap<u128, Seen>,
    /// The keys of `seen`, the oldest first.
    order: VecDeque<u128>,
    /// Who has written a line that has no end yet.
    open: Option<Life>,
}

/// How often a line was forwarded, and how often each process said it.
#[derive(Debug, Default)]
struct Seen {
    forwarded: u64,
    said: Vec<(Life, u64)>,
}

impl Seen {
    /// Whether the process has said it more often than anyone before.
    fn is_new(&mut self, life: Life) -> bool {
        let at = self.said.iter().position(|(other, _)| *other == life);
        let at = at.unwrap_or_else(|| {
            self.said.push((life, 0));
            self.said.len() - 1
        });
        let count = &mut self.said[at].1;
        *count += 1;
        let is_new = *count > self.forwarded;
        self.forwarded = self.forwarded.max(*count);
        is_new
    }
}

impl ErrorMerger {
    /// Takes what a process has said; gives what is to be written.
    pub(crate) fn feed(&mut self, life: Life, bytes: &[u8]) -> Vec<u8> {
        let mut lines = self.processes.remove(&life).unwrap_or_default();
        let mut written = Vec::new();
        lines.feed(bytes, |_, piece| self.say(life, piece, &mut written));
        self.processes.insert(life, lines);
        written
    }

    /// A process has ended: its last line, if that has no end and is new.
    pub(crate) fn ended(&mut self, life: Life) -> Vec<u8> {
        let mut written = Vec::new();
        if let Some(lines) = self.processes.remove(&life).filter(|lines| !lines.waiting.is_empty()) {
            self.say(life, &lines.waiting, &mut written);
        }
        written
    }

    /// All processes have ended.
    pub(crate) fn close(&mut self) -> Vec<u8> {
        let lives: Vec<Life> = self.processes.keys().copied().collect();
        lives.into_iter().flat_map(|life| self.ended(life)).collect()
    }

    fn say(&mut self, life: Life, piece: &[u8], written: &mut Vec<u8>) {
        if !self.is_new(life, piece) {
            return;
        }
        if self.open.is_some_and(|other| other != life) {
            written.push(b'\n');
        }
        written.extend_from_slice(piece);
        self.open = Some(life).filter(|_| piece.last() != Some(&b'\n'));
    }

    fn is_new(&mut self, life: Life, piece: &[u8]) -> bool {
        let key = xxh3_128(&without_thread_number(piece));
        if !self.seen.contains_key(&key) {
            self.order.push_back(key);
        }
        let is_new = self.seen.entry(key).or_default().is_new(life);
        if self.order.len() > LINES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        is_new
    }
}

/// The first line of a panic, `thread 'main' (4711) panicked at ..`, without the system's number of the thread, which
/// no two processes share.
fn without_thread_number(line: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    let number = || {
        let at = memchr::memmem::find(line, b") panicked at ").filter(|_| line.starts_with(b"thread '"))?;
        let start = memchr::memrchr(b'(', &line[..at])? + 1;
        line[start..at].iter().all(u8::is_ascii_digit).then_some(start..at)
    };
    match number() {
        Some(number) => [&line[..number.start], &line[number.end..]].concat().into(),
        None => line.into(),
    }
}

/// Where a merged stream goes.
struct Sink<M> {
    merger: M,
    to: Box<dyn Write + Send>,
    /// The first failure; after it nothing is written.
    failure: Option<io::Error>,
}

impl<M> Sink<M> {
    fn new(merger: M, to: Box<dyn Write + Send>) -> Mutex<Self> {
        let failure = None;
        Mutex::new(Self { merger, to, failure })
    }

    /// Writes at once what `step` gives; whether more is wanted.
    fn write(sink: &Mutex<Self>, step: impl FnOnce(&mut M) -> Vec<u8>) -> bool {
        let mut sink = sink.lock().unpoisoned();
        let bytes = step(&mut sink.merger);
        if sink.failure.is_none() && !bytes.is_empty() {
            let outcome = sink.to.write_all(&bytes).and_then(|()| sink.to.flush());
            sink.failure = outcome.err();
        }
        sink.failure.is_none()
    }

    fn failure(sink: &Mutex<Self>) -> io::Result<()> {
        let failure = sink.lock().unpoisoned().failure.take();
        failure.map_or(Ok(()), Err)
    }
}

/// Both streams of all processes, merged and written.
pub(crate) struct Output {
    output: Mutex<Sink<OutputMerger>>,
    errors: Mutex<Sink<ErrorMerger>>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Output").finish_non_exhaustive()
    }
}

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

impl Output {
    /// Writes to the streams of this process.
    pub(crate) fn standard() -> Self {
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()))
    }

    /// Writes standard output and standard error of all processes to these.
    pub(crate) fn new(output: Box<dyn Write + Send>, errors: Box<dyn Write + Send>) -> Self {
        Self {
            output: Sink::new(OutputMerger::default(), output),
            errors: Sink::new(ErrorMerger::default(), errors),
        }
    }

    /// Takes what a process has written. False if standard output cannot be written: then the process is to have its
    /// end of the pipe closed, so that it sees a broken pipe as if it wrote there itself. Where standard error takes
    /// nothing, what is written there is dropped: the answer does not depend on who reads along.
    pub(crate) fn feed(&self, life: Life, stream: Stream, bytes: &[u8]) -> bool {
        match stream {
            Stream::Output => Sink::write(&self.output, |merger| merger.feed(life, bytes)),
            Stream::Errors => {
                Sink::write(&self.errors, |merger| merger.feed(life, bytes));
                // What comes next is tried again.
                let _ = Sink::failure(&self.errors);
                true
            }
        }
    }

    /// A process has closed a stream.
    pub(crate) fn ended(&self, life: Life, stream: Stream) {
        match stream {
            Stream::Output => Sink::write(&self.output, |merger| {
                merger.ended(life);
                Vec::new()
            }),
            Stream::Errors => Sink::write(&self.errors, |merger| merger.ended(life)),
        };
    }

    /// Writes what is left when all processes have ended.
    ///
    /// # Errors
    /// The first error in writing standard output.
    pub(crate) fn close(&self) -> io::Result<()> {
        Sink::write(&self.output, OutputMerger::close);
        Sink::write(&self.errors, ErrorMerger::close);
        Sink::failure(&self.output)
    }
}

#[cfg(test)]
mod tests;
