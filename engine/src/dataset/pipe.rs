//! A partition through an outside program: lines in, lines out.
//!
//! Three threads stand between a task and its program, one for each of its streams. The task itself only ever waits for
//! the next event of them, and hands out input when it is asked for: so a program may write before it reads, read
//! before it writes, or close its input early, and neither side waits for the other forever. While it waits, it looks
//! now and then whether the program is still wanted, and once the output is at its end, whether the program has ended:
//! what it has left behind may hold its input open, and never read it.

mod files;

use std::collections::VecDeque;
use std::fmt::{Display, Write as _};
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::marker::PhantomData;
use std::os::unix::process::CommandExt;
use std::panic::Location;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use distdl_storage::Record;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::batch::{AnyStream, Batches, Failure, TaskError, TaskResult};
use crate::cluster::join::JOIN_VARIABLE;
use crate::dataset::{Dataset, only, streams};
use crate::error::EngineError;
use crate::lineage::NodeSpec;
use crate::task::TaskContext;

/// Longest line that a program may write, in bytes.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// Of what a program writes to its standard error, so much is kept for an error, in bytes.
const WORDS_BYTES_MAX: usize = 2048;

/// How often a task that waits for its program looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// Between two looks whether a program that has closed its streams has ended.
const PAUSE: Duration = Duration::from_millis(1);

/// How long the threads at the other streams of an ended program are waited for.
const STREAMS_WAIT_MAX: Duration = Duration::from_secs(1);

/// Once all output is there, who takes nothing of the input for so long will not.
const REFUSED_AFTER: Duration = Duration::from_secs(5);

/// Bytes that are written to a program at a time.
const PIECE_BYTES: usize = 4096;

/// Batches of lines that wait for the task.
const WAITING_MAX: usize = 2;

impl<T: Record + Display> Dataset<T> {
    /// The lines that `program` with `arguments` writes for each partition, which it gets as its input, a line a
    /// record. The program is started once for each partition, in the folder and with the variables of the process.
    ///
    /// It should write the same whenever it gets the same: a partition may be computed again. If it ends or closes its
    /// input early, the records that it has not read are passed over. Its output ends when the program, and all that it
    /// has started and left with its output, have closed it; what is left without that gets the rest of the input if it
    /// reads that, and is else not waited for: what does not read some KiB in 5 seconds is ended with the program's
    /// process group.
    ///
    /// To [`memoize`](Self::memoize) and [`checkpoint`](Self::checkpoint) the words of the command count, and what the
    /// files hold that they are paths of, as they are when `pipe` is called: the program's if its name has a `/`, and
    /// arguments', such as scripts and lists of words; of files beyond 64 MiB the first 64 MiB and the length. A
    /// program that `PATH` finds does not count, nor do folders, what a program reads besides, or files in the text of
    /// a shell.
    ///
    /// ```
    /// # use distdl_engine::{Config, Context};
    /// # let context = Context::new(Config::default())?;
    /// let last = context.range(0..6, 2).pipe("tail", &["-n", "1"]);
    /// assert_eq!(last.collect()?, ["2", "5"], "the last line of each partition");
    /// # Ok::<(), distdl_engine::EngineError>(())
    /// ```
    ///
    /// # Errors
    /// An action fails if the program cannot be started, ends with another exit code than 0 (the end of what it wrote
    /// to its standard error is in the error), or writes what is not UTF-8 or a line beyond 64 MiB; otherwise as any
    /// action.
    #[track_caller]
    pub fn pipe(&self, program: &str, arguments: &[&str]) -> Dataset<String> {
        let command: Arc<[String]> = [program]
            .iter()
            .chain(arguments)
            .map(|word| (*word).to_owned())
            .collect();
        let (place, site) = (Arc::clone(&command), Location::caller());
        let compute = streams(move |context, partition, inputs| {
            let failed = Failed {
                command: place.join(" "),
                site,
                partition,
            };
            let running =
                Running::start(&place).map_err(|error| failed.error(&format!("cannot be started: {error}")))?;
            let failure = Failure::default();
            let lines = Lines::<T> {
                context: context.clone(),
                input: only(inputs),
                running,
                waiting: Vec::new().into_iter(),
                is_read: false,
                failed,
                failure: Failure::clone(&failure),
                records: PhantomData,
            };
            Ok(Box::new(Batches::new(lines, context.resources.batch_records, failure)))
        });
        let mut spec = NodeSpec::new("pipe", self.partitions(), self.narrow_dependency(), compute);
        spec.remark = command.join(" ");
        // Not agreed on: a path may be each host's own.
        spec.parameters = format!("{command:?} {:?}", files::named(&command));
        spec.build(self.context())
    }
}

/// What an error needs to say.
struct Failed {
    command: String,
    site: &'static Location<'static>,
    partition: usize,
}

impl Failed {
    fn error(&self, message: &str) -> TaskError {
        EngineError::Operator {
            operator: "pipe".into(),
            site: self.site.to_string(),
            partition: self.partition,
            message: format!("the program `{}` {message}", self.command),
        }
        .into()
    }
}

/// What happens at a program's ends.
enum Event {
    /// Its input could take more.
    Hungry,
    /// It wrote lines.
    Lines(Vec<String>),
    /// It wrote something that is no line of text, or cannot be given its input.
    Broken(String),
    /// It writes no more.
    End,
}

/// A program that is running, with the threads at its streams.
struct Running {
    child: Child,
    events: Receiver<Event>,
    /// `None` once there is no more input.
    input: Option<Sender<String>>,
    feeder: Option<JoinHandle<()>>,
    fed: Arc<Fed>,
    /// How much was taken when that was last looked at, and since when it is so much.
    taken: Option<(u64, Instant)>,
    words: Option<JoinHandle<String>>,
    /// When it was first seen to have ended.
    since: Option<Instant>,
    /// How it has ended, once nothing keeps its number from being another's.
    status: Option<ExitStatus>,
}

/// What the thread at a program's input is doing.
#[derive(Default)]
struct Fed {
    bytes: AtomicU64,
    /// Whether it has, or is going to be given, what is not taken yet.
    is_writing: AtomicBool,
}

impl Running {
    fn start(command: &[String]) -> io::Result<Self> {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            // A program of DistDL would take a place in this cluster, and no other has any use for its token.
            .env_remove(JOIN_VARIABLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: what it starts in turn ends with it.
            .process_group(0)
            .spawn()?;
        let (sender, events) = sync_channel(WAITING_MAX);
        let (input, texts) = channel();
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut running = Self {
            child,
            events,
            input: Some(input),
            feeder: None,
            fed: Arc::default(),
            taken: None,
            words: None,
            since: None,
            status: None,
        };
        if let (Some(stdin), Some(stdout), Some(stderr)) = streams {
            let (asks, fed) = (sender.clone(), Arc::clone(&running.fed));
            running.feeder = Some(spawn("input", move || feed(stdin, &texts, &asks, &fed))?);
            spawn("output", move || read(stdout, &sender))?;
            running.words = Some(spawn("words", move || last_words(stderr))?);
        }
        Ok(running)
    }

    /// Whether the program has ended. It keeps its number, which is its group's, until [`Running::release`].
    fn has_ended(&self) -> io::Result<bool> {
        if self.status.is_some() {
            return Ok(true);
        }
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let pid = Pid::from_child(&self.child);
        Ok(waitid(WaitId::Pid(pid), ended)?.is_some())
    }

    /// Whether who has the input has taken nothing of it for long.
    fn is_refused(&mut self) -> bool {
        let bytes = self.fed.bytes.load(Ordering::SeqCst);
        let now = Instant::now();
        let (_, since) = *self.taken.insert(
            self.taken
                .filter(|(before, _)| *before == bytes)
                .unwrap_or((bytes, now)),
        );
        self.fed.is_writing.load(Ordering::SeqCst) && since.elapsed() >= REFUSED_AFTER
    }

    /// How the program has ended, and the end of what it wrote to its standard error, if that is known yet.
    fn ended(&mut self) -> io::Result<Option<(ExitStatus, String)>> {
        if !self.has_ended()? {
            return Ok(None);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        // Something that it started may hold its streams for as long as it likes.
        let is_at_streams = is_at_work(self.words.as_ref()) || is_at_work(self.feeder.as_ref());
        if is_at_streams && since.elapsed() < STREAMS_WAIT_MAX {
            return Ok(None);
        }
        let words = self.words.take().filter(JoinHandle::is_finished);
        let words = words.and_then(|words| words.join().ok());
        Ok(Some((self.release()?, words.unwrap_or_default())))
    }

    /// Waits for the program, after having ended it and what it has started if it runs, or if something does not read
    /// what is being written to it: the thread that writes would wait forever.
    fn release(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.status {
            return Ok(status);
        }
        if !self.has_ended()? || self.fed.is_writing.load(Ordering::SeqCst) {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        }
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }
}

impl Drop for Running {
    /// The task has all that it wants, or has failed. The threads end with the program's streams.
    fn drop(&mut self) {
        let _ = self.release();
    }
}

fn is_at_work<R>(thread: Option<&JoinHandle<R>>) -> bool {
    thread.is_some_and(|thread| !thread.is_finished())
}

fn spawn<R: Send + 'static>(what: &str, body: impl FnOnce() -> R + Send + 'static) -> io::Result<JoinHandle<R>> {
    std::thread::Builder::new().name(format!("pipe-{what}")).spawn(body)
}

/// Asks for input and writes it, until there is no more or the program wants none.
fn feed(mut stdin: ChildStdin, texts: &Receiver<String>, asks: &SyncSender<Event>, fed: &Fed) {
    loop {
        if asks.send(Event::Hungry).is_err() {
            return;
        }
        let Ok(text) = texts.recv() else { return };
        let written = text.as_bytes().chunks(PIECE_BYTES).try_for_each(|piece| {
            stdin.write_all(piece)?;
            fed.bytes.fetch_add(piece.len() as u64, Ordering::SeqCst);
            io::Result::Ok(())
        });
        fed.is_writing.store(false, Ordering::SeqCst);
        match written {
            Ok(()) => {}
            // A program that has closed its input, or has ended, has what it wants.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
            Err(error) => {
                // Before the input ends, which the program would take for its end. Whoever listened may have gone.
                let _ = asks.send(Event::Broken(format!("cannot be given its input: {error}")));
                return;
            }
        }
    }
}

fn read(stdout: ChildStdout, sender: &SyncSender<Event>) {
    let mut output = BufReader::new(stdout);
    let mut lines = Vec::new();
    loop {
        match read_line(&mut output) {
            Ok(Some(line)) => lines.push(line),
            end => {
                let _ = sender.send(Event::Lines(lines));
                let _ = sender.send(match end {
                    Err(problem) => Event::Broken(problem),
                    Ok(_) => Event::End,
                });
                return;
            }
        }
        // Whatever came in one piece goes on in one piece.
        let ends = !output.buffer().contains(&b'\n');
        if ends && sender.send(Event::Lines(std::mem::take(&mut lines))).is_err() {
            return;
        }
    }
}

fn read_line(output: &mut impl BufRead) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    let read = output.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
    match read {
        Err(error) => return Err(format!("cannot be read: {error}")),
        Ok(0) => return Ok(None),
        Ok(_) => {}
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() as u64 == LINE_BYTES_MAX {
        return Err(format!("writes a line beyond {LINE_BYTES_MAX} bytes"));
    }
    let text = String::from_utf8(line).map_err(|error| format!("writes what is not UTF-8: {error}"))?;
    Ok(Some(text))
}

/// Reads all, and keeps the end.
fn last_words(mut stderr: ChildStderr) -> String {
    let mut kept: VecDeque<u8> = VecDeque::new();
    let mut piece = [0; 1024];
    while let Ok(length @ 1..) = stderr.read(&mut piece) {
        kept.extend(&piece[..length]);
        kept.drain(..kept.len().saturating_sub(WORDS_BYTES_MAX));
    }
    String::from_utf8_lossy(kept.make_contiguous()).trim().to_owned()
}

/// The output of a program, which is fed as it goes.
struct Lines<T> {
    context: TaskContext,
    input: AnyStream,
    running: Running,
    waiting: std::vec::IntoIter<String>,
    /// Whether there is no more output.
    is_read: bool,
    failed: Failed,
    failure: Failure,
    records: PhantomData<fn() -> T>,
}

impl<T: Record + Display> Iterator for Lines<T> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            if let Some(line) = self.waiting.next() {
                return Some(line);
            }
            let step = match self.running.events.recv_timeout(LOOK) {
                Ok(Event::Hungry) => self.give(),
                Ok(Event::Lines(lines)) => {
                    self.waiting = lines.into_iter();
                    Ok(())
                }
                Ok(Event::Broken(problem)) => Err(self.failed.error(&problem)),
                Ok(Event::End) => {
                    self.is_read = true;
                    Ok(())
                }
                Err(RecvTimeoutError::Timeout) if !self.is_over() || !self.running.is_refused() => self.context.check(),
                // It has closed both its streams, or what it has left behind does not read.
                Err(_) => {
                    self.end().unwrap_or_else(|error| self.fail(error));
                    return None;
                }
            };
            if let Err(error) = step {
                self.fail(error);
                return None;
            }
        }
    }
}

impl<T: Record + Display> Lines<T> {
    fn fail(&self, error: TaskError) {
        self.failure.borrow_mut().get_or_insert(error);
    }

    /// Whether there is no more output, and nobody who is waited for to read the input.
    fn is_over(&self) -> bool {
        self.is_read && self.running.has_ended().unwrap_or(true)
    }

    /// Hands the next batch to the program, or closes its input.
    fn give(&mut self) -> TaskResult<()> {
        let Some(batch) = self.input.next() else {
            self.running.input = None;
            return Ok(());
        };
        let mut text = String::new();
        for record in batch?.typed::<T>().as_slice() {
            // Writing to a string cannot fail; a `Display` that does is the record's own affair.
            let _ = writeln!(text, "{record}");
        }
        if let Some(input) = &self.running.input {
            self.running.taken = None;
            self.running.fed.is_writing.store(true, Ordering::SeqCst);
            let _ = input.send(text);
        }
        Ok(())
    }

    /// An error if the program has not ended well.
    fn end(&mut self) -> TaskResult<()> {
        self.running.input = None;
        let cannot_wait = |error: io::Error| self.failed.error(&format!("cannot be waited for: {error}"));
        let (status, words) = loop {
            match self.running.ended().map_err(cannot_wait)? {
                Some(ended) => break ended,
                None => self.context.check()?,
            }
            std::thread::sleep(PAUSE);
        };
        if status.success() {
            return Ok(());
        }
        let said = match words.as_str() {
            "" => "and wrote nothing to its standard error".to_owned(),
            words => format!("and wrote last:\n{words}"),
        };
        Err(self.failed.error(&format!("ended with {status} {said}")))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn input_that_cannot_be_written_is_told_before_it_ends() {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let (input, texts) = channel();
        let (asks, events) = sync_channel(WAITING_MAX);
        input.send("text".to_owned()).unwrap();
        feed(OwnedFd::from(full).into(), &texts, &asks, &Fed::default());
        drop(asks);
        assert!(matches!(events.recv().unwrap(), Event::Hungry));
        match events.recv().unwrap() {
            Event::Broken(problem) => assert!(problem.contains("No space left"), "{problem}"),
            _ => panic!("the program would take what it has for all"),
        }
    }
}
