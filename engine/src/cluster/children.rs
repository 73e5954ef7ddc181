//! The processes that this one has started: it begins, watches and ends them, and reads what they print.
//!
//! Children are in the process group of their parent, so that Ctrl-C reaches all. However the parent ends, they end:
//! in order by [`Children::kill_all`], and otherwise because Linux ends them ([`Join::tie_to_parent`]) or because their
//! connection to the name node is closed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use distdl_storage::Unpoisoned;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::join::{JOIN_VARIABLE, Join};
use super::output::{Life, Output, Stream};
use super::signals;

/// Bytes that are read from a pipe at a time.
const READ_BYTES: usize = 16 << 10;

/// A process to start.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// What is set in its environment beyond this process's own; `DISTDL_JOIN` is never passed on.
    pub variables: Vec<(OsString, OsString)>,
    /// What it finds on standard input.
    pub input: Vec<u8>,
}

/// Without what variables and input hold: the cluster's token, and keys of the user's.
impl std::fmt::Debug for Recipe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&OsString> = self.variables.iter().map(|(name, _)| name).collect();
        formatter
            .debug_struct("Recipe")
            .field("program", &self.program)
            .field("arguments", &self.arguments)
            .field("variables", &names)
            .finish_non_exhaustive()
    }
}

impl Recipe {
    /// A process of this host that belongs to a cluster.
    pub fn member(program: impl Into<PathBuf>, arguments: Vec<OsString>, join: &Join) -> Self {
        let variables = [(JOIN_VARIABLE, join.to_text()), ("DISTDL_PROGRESS", "off".to_owned())];
        Self {
            program: program.into(),
            arguments,
            variables: variables.map(|(name, text)| (name.into(), text.into())).to_vec(),
            input: Vec::new(),
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_remove(JOIN_VARIABLE);
        command.envs(self.variables.iter().map(|(name, text)| (name, text)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = if self.input.is_empty() {
            command.stdin(Stdio::null()).spawn()?
        } else {
            command.stdin(Stdio::piped()).spawn()?
        };
        if let Some(mut input) = child.stdin.take() {
            // A process that ends before it has read this is reported as every other that ends. The input is shorter
            // than a pipe holds, so that this does not wait.
            let _ = input.write_all(&self.input);
        }
        Ok(child)
    }
}

/// A child that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exited {
    /// Which slot it was started for.
    pub slot: u32,
    /// How many were started for this slot before it.
    pub life: u32,
    /// Its number in the system.
    pub process: u32,
    /// Whether it ended of its own will, with code 0.
    pub success: bool,
    /// How it ended: `exit code 1`, `killed by signal 9 (SIGKILL)`.
    pub cause: String,
}

/// The children of this process. Dropped, it ends them.
pub(crate) struct Children {
    shared: Arc<Shared>,
    requests: Option<Sender<Request>>,
    starter: Option<JoinHandle<()>>,
    /// Whether a signal ends this process.
    signalled: Arc<AtomicBool>,
}

impl std::fmt::Debug for Children {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Children").finish_non_exhaustive()
    }
}

/// A slot to start a process for, and where the answer goes.
type Request = (u32, Sender<io::Result<u32>>);

/// Standard output and standard error of a child.
type Pipes = (Option<ChildStdout>, Option<ChildStderr>);

struct Shared {
    state: Mutex<State>,
    /// Told when a child has ended, and when all have said their last.
    ended: Condvar,
    output: Arc<Output>,
    exited: Box<dyn Fn(Exited) + Send + Sync>,
}

#[derive(Default)]
struct State {
    /// No process is started any more.
    closed: bool,
    /// How many were started for a slot.
    lives: HashMap<u32, u32>,
    /// Those that nobody has waited for yet.
    running: HashMap<Life, Arc<Mutex<Child>>>,
    /// Children whose end or last output is still to come.
    open: usize,
}

impl Children {
    /// Will start processes by `recipe_for` a slot and a life (how many were started for that slot before), write what
    /// they print to `output`, and tell `exited` of each that ends; it is called on a thread of its own.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub(crate) fn new(
        recipe_for: impl Fn(u32, u32) -> Recipe + Send + 'static,
        output: Arc<Output>,
        exited: impl Fn(Exited) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            ended: Condvar::new(),
            output,
            exited: Box::new(exited),
        });
        let (requests, receiver) = channel();
        let starter = {
            let shared = shared.clone();
            move || shared.serve(&receiver, &recipe_for)
        };
        // One thread starts all: Linux ends a tied child with the thread that started it, not with the process.
        let starter = thread::Builder::new().name("children".to_owned()).spawn(starter)?;
        Ok(Self {
            shared,
            requests: Some(requests),
            starter: Some(starter),
            signalled: Arc::default(),
        })
    }

    /// Starts a process for a slot; one that is still there is killed first. Gives its number in the system.
    ///
    /// # Errors
    /// If the program cannot be started, or [`Children::kill_all`] was called.
    pub(crate) fn start(&self, slot: u32) -> io::Result<u32> {
        let (sender, answer) = channel();
        let request = self.requests.as_ref().map(|requests| requests.send((slot, sender)));
        match request {
            Some(Ok(())) => answer.recv().unwrap_or_else(|_| Err(closed())),
            _ => Err(closed()),
        }
    }

    /// Kills the process of a slot, if there is one.
    pub(crate) fn kill(&self, slot: u32) {
        self.shared.state().kill(|(other, _)| other == slot);
    }

    /// Kills all, and lets none be started any more.
    pub(crate) fn kill_all(&self) {
        self.shared.kill_all();
    }

    /// Waits until every process has ended and what it printed is with the output.
    pub(crate) fn wait_all(&self) {
        let state = self.shared.state();
        let waited = self.shared.ended.wait_while(state, |state| state.open > 0);
        drop(waited);
    }

    /// From now on Ctrl-C (SIGINT), SIGTERM and SIGHUP kill all children, run `finally` when they are gone, and end
    /// this process with 128 and the number of the signal, as shells count: 130 for Ctrl-C. Those that this process was
    /// started to ignore, by `nohup` or behind a shell's `&`, it goes on to ignore, as its children do.
    ///
    /// # Errors
    /// If the system does not let signals be handled, or a thread cannot be started.
    pub(crate) fn end_with_signals(&self, finally: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let shared = self.shared.clone();
        signals::on_first(signals::not_ignored(), &self.signalled, move |signal| {
            shared.kill_all();
            shared.wait_for_ends();
            finally();
            std::process::exit(128 + signal);
        })
    }

    /// Whether a signal ends this process.
    pub(crate) fn signalled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.signalled)
    }

    /// Does not return if a signal ends this process: its children, which the signal may have reached as well, are gone
    /// because of it.
    pub(crate) fn wait_if_signalled(&self) {
        signals::wait_if(&self.signalled);
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        self.kill_all();
        self.wait_all();
        self.requests = None;
        if let Some(starter) = self.starter.take() {
            // It ends with its requests, and has nothing to say.
            let _ = starter.join();
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("the cluster is ending, no process is started any more")
}

impl State {
    fn kill(&self, which: impl Fn(Life) -> bool) {
        for (life, child) in self.running.iter().filter(|(life, _)| which(**life)) {
            let outcome = child.lock().unpoisoned().kill();
            if let Err(error) = outcome {
                tracing::warn!(slot = life.0, %error, "a process cannot be killed");
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    fn kill_all(&self) {
        let mut state = self.state();
        state.closed = true;
        state.kill(|_| true);
    }

    /// Waits until every process has ended, whoever still holds the pipes that it wrote to.
    fn wait_for_ends(&self) {
        let state = self.state();
        drop(self.ended.wait_while(state, |state| !state.running.is_empty()));
    }

    fn serve(self: &Arc<Self>, requests: &Receiver<Request>, recipe_for: &impl Fn(u32, u32) -> Recipe) {
        for (slot, answer) in requests {
            // Whoever asked may have gone.
            let _ = answer.send(self.start(slot, recipe_for));
        }
    }

    fn start(self: &Arc<Self>, slot: u32, recipe_for: &impl Fn(u32, u32) -> Recipe) -> io::Result<u32> {
        // Held throughout, so that no process begins behind the back of `kill_all`.
        let mut state = self.state();
        if state.closed {
            return Err(closed());
        }
        state.kill(|(other, _)| other == slot);
        let life = state.lives.get(&slot).copied().unwrap_or(0);
        let mut child = recipe_for(slot, life).spawn()?;
        state.lives.insert(slot, life + 1);
        let process = child.id();
        let pipes = (child.stdout.take(), child.stderr.take());
        let child = Arc::new(Mutex::new(child));
        let watch = {
            let (shared, child) = (self.clone(), child.clone());
            move || shared.watch((slot, life), process, &child, pipes)
        };
        let watcher = thread::Builder::new().name(format!("child {slot}")).spawn(watch);
        if let Err(error) = watcher {
            let mut child = child.lock().unpoisoned();
            let _ = child.kill().and_then(|()| child.wait());
            return Err(error);
        }
        state.running.insert((slot, life), child);
        state.open += 1;
        Ok(process)
    }

    /// Waits for the end of a child and of what it prints.
    fn watch(&self, life: Life, process: u32, child: &Mutex<Child>, pipes: Pipes) {
        thread::scope(|scope| {
            let (output, errors) = pipes;
            let reader = || thread::Builder::new().name(format!("output {}", life.0));
            // Without a thread to read it the pipe is closed, and the child sees that.
            let _ = reader().spawn_scoped(scope, || self.forward(life, Stream::Output, output));
            let _ = reader().spawn_scoped(scope, || self.forward(life, Stream::Errors, errors));
            wait_for_end(process);
            // Only now, with the lock: a kill meets either this process or nobody, never another of the same number.
            let status = child.lock().unpoisoned().wait();
            self.state().running.remove(&life);
            self.ended.notify_all();
            let (slot, life) = life;
            (self.exited)(Exited {
                slot,
                life,
                process,
                success: status.as_ref().is_ok_and(ExitStatus::success),
                cause: status.map_or_else(|error| error.to_string(), cause),
            });
        });
        let mut state = self.state();
        state.open -= 1;
        if state.open == 0 {
            self.ended.notify_all();
        }
    }

    fn forward(&self, life: Life, stream: Stream, pipe: Option<impl Read>) {
        let Some(mut pipe) = pipe else { return };
        let mut buffer = [0; READ_BYTES];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) if self.output.feed(life, stream, &buffer[..read]) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody reads it, or it cannot be read.
                Ok(_) | Err(_) => break,
            }
        }
        self.output.ended(life, stream);
    }
}

/// Waits until a child has ended, and leaves it to be asked how.
fn wait_for_end(process: u32) {
    let Some(process) = i32::try_from(process).ok().and_then(Pid::from_raw) else {
        return;
    };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(process), options) {}
}

fn cause(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests;
