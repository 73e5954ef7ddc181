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
use std::time::Duration;

use distdl_storage::Unpoisoned;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::events::ENDED_HERE;
use super::join::{JOIN_VARIABLE, Join};
use super::output::{Life, Output, Stream};
use super::signals;

/// Bytes that are read from a pipe at a time.
const READ_BYTES: usize = 16 << 10;

/// How long a remote shell may take to tell how its process has ended, before it is killed.
const REMOTE_END_TIME_MAX: Duration = Duration::from_secs(2);

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
    /// Whether it is a remote shell, which tells how a process of another host has ended.
    pub is_remote: bool,
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
            is_remote: false,
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
    /// Whether it is a remote shell.
    pub is_remote: bool,
    /// Whether it ended of its own will, with code 0.
    pub success: bool,
    /// How it ended: `exit code 1`, `killed by signal 9 (SIGKILL)`, [`ENDED_HERE`].
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
    running: HashMap<Life, Running>,
    /// Children whose end or last output is still to come.
    open: usize,
}

#[derive(Clone)]
struct Running {
    started: Arc<Mutex<Started>>,
    is_remote: bool,
}

struct Started {
    child: Child,
    /// Whether it was killed here, and did not end anyway just then.
    killed: bool,
}

impl Started {
    fn kill(&mut self) -> io::Result<()> {
        // A closed connection may be what is seen first of the end of a process.
        let ends_anyway = is_ending(self.child.id());
        self.child.kill()?;
        self.killed |= !ends_anyway;
        Ok(())
    }
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

    /// Starts a process for a slot; one that is still there is killed first, as by [`Children::kill`]. Gives its number
    /// in the system.
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

    /// Kills the process of a slot, if there is one; a remote shell has a moment to tell how its process has ended.
    pub(crate) fn kill(&self, slot: u32) {
        self.shared.kill(&self.shared.state(), slot);
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
            let outcome = child.started.lock().unpoisoned().kill();
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

    fn kill(self: &Arc<Self>, state: &State, slot: u32) {
        let of_slot = state.running.iter().filter(|((other, _), _)| *other == slot);
        for (life, child) in of_slot {
            let (shared, life) = (Arc::clone(self), *life);
            let kill_late = move || {
                let ends = |state: &mut State| state.running.contains_key(&life);
                let waited = shared
                    .ended
                    .wait_timeout_while(shared.state(), REMOTE_END_TIME_MAX, ends);
                waited.unpoisoned().0.kill(|other| other == life);
            };
            let late = child.is_remote && thread::Builder::new().spawn(kill_late).is_ok();
            if !late {
                state.kill(|other| other == life);
            }
        }
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
        self.kill(&state, slot);
        let life = state.lives.get(&slot).copied().unwrap_or(0);
        let recipe = recipe_for(slot, life);
        let mut child = recipe.spawn()?;
        state.lives.insert(slot, life + 1);
        let process = child.id();
        let pipes = (child.stdout.take(), child.stderr.take());
        let child = Running {
            started: Arc::new(Mutex::new(Started { child, killed: false })),
            is_remote: recipe.is_remote,
        };
        let watch = {
            let (shared, child) = (self.clone(), child.clone());
            move || shared.watch((slot, life), process, &child, pipes)
        };
        let watcher = thread::Builder::new().name(format!("child {slot}")).spawn(watch);
        if let Err(error) = watcher {
            let child = &mut child.started.lock().unpoisoned().child;
            let _ = child.kill().and_then(|()| child.wait());
            return Err(error);
        }
        state.running.insert((slot, life), child);
        state.open += 1;
        Ok(process)
    }

    /// Waits for the end of a child and of what it prints.
    fn watch(&self, life: Life, process: u32, running: &Running, pipes: Pipes) {
        thread::scope(|scope| {
            let (output, errors) = pipes;
            let reader = || thread::Builder::new().name(format!("output {}", life.0));
            // Without a thread to read it the pipe is closed, and the child sees that.
            let _ = reader().spawn_scoped(scope, || self.forward(life, Stream::Output, output));
            let _ = reader().spawn_scoped(scope, || self.forward(life, Stream::Errors, errors));
            wait_for_end(process);
            // Only now, with the lock: a kill meets either this process or nobody, never another of the same number.
            let mut started = running.started.lock().unpoisoned();
            let (status, killed) = (started.child.wait(), started.killed);
            drop(started);
            self.state().running.remove(&life);
            self.ended.notify_all();
            let (slot, life) = life;
            (self.exited)(Exited {
                slot,
                life,
                process,
                is_remote: running.is_remote,
                success: status.as_ref().is_ok_and(ExitStatus::success),
                cause: status.map_or_else(
                    |error| error.to_string(),
                    |status| cause(status, killed, running.is_remote),
                ),
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

/// Whether a child has ended, or ends already: then what it had open is closed before it can be waited for.
fn is_ending(process: u32) -> bool {
    /// In Linux's `include/linux/sched.h`.
    const PF_EXITING: u64 = 4;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let id = i32::try_from(process).ok().and_then(Pid::from_raw);
    let has_ended = id.is_some_and(|id| matches!(waitid(WaitId::Pid(id), options), Ok(Some(_))));
    // Behind the program's name, which may have any bytes, the flags are the seventh word. Elsewhere than on Linux
    // there is no such file, and what is not seen is the short time between the two.
    let told = std::fs::read(format!("/proc/{process}/stat")).unwrap_or_default();
    let told = String::from_utf8_lossy(&told);
    let flags = told.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(6));
    has_ended || flags.is_some_and(|flags| flags.parse().is_ok_and(|flags: u64| flags & PF_EXITING != 0))
}

fn cause(status: ExitStatus, killed: bool, is_remote: bool) -> String {
    let cause = match (status.code(), status.signal()) {
        // As OpenSSH's manual has it; of a signal there its client says no more either.
        (Some(255), _) if is_remote => {
            return "exit code 255: the remote shell failed, and has said why, or a signal ended the process there"
                .to_owned();
        }
        (Some(code), _) => return format!("exit code {code}"),
        (None, Some(9)) if killed => ENDED_HERE.to_owned(),
        (None, Some(signal)) => match signal_hook::low_level::signal_name(signal) {
            Some(name) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        (None, None) => status.to_string(),
    };
    if is_remote {
        format!("its remote shell was {cause}")
    } else {
        cause
    }
}

#[cfg(test)]
mod tests;
