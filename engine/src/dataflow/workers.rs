//! The timely workers of this process: threads that live as long as the context and run one dataflow after another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;
use timely::communication::WorkerGuards;
use timely::worker::Worker;
use timely::{CommunicationConfig, WorkerConfig};

use crate::error::{EngineError, Result};
use crate::task;

/// Builds a dataflow on a worker.
pub(crate) type Build = Arc<dyn Fn(&mut Worker) + Send + Sync>;

/// What an idle worker does before it sleeps: a short poll saves a wake-up per step, but only where it takes no core
/// from a worker that has work.
const IDLE_SPIN: Duration = Duration::from_micros(50);

/// How batches move between the threads of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// By pointer.
    Pointers,
    /// As bytes, as between processes: for tests of what other processes would see.
    #[cfg(test)]
    Bytes,
}

/// What workers do while a dataflow waits for other processes.
pub(crate) trait IdlePoll: Send + Sync {
    /// Looks for what has come. Whether something has; operators that wait for it are woken.
    fn poll(&self) -> bool;

    /// A worker is about to sleep; it polls once more before it does.
    fn fall_asleep(&self);

    /// A worker that was about to sleep is awake.
    fn wake_up(&self);

    /// How long a worker that has nothing to do polls before it sleeps.
    fn patience(&self) -> Duration;
}

/// A step of a worker that takes longer has done something.
const STEP_OF_WORK: Duration = Duration::from_micros(10);

struct Command {
    build: Build,
    idle: Option<Arc<dyn IdlePoll>>,
    /// Dropped by a worker when its part of the dataflow has ended.
    _running: Sender<()>,
}

/// The worker threads.
pub(crate) struct Workers {
    commands: Vec<Sender<Command>>,
    dead: Arc<Death>,
    guards: Mutex<Option<WorkerGuards<()>>>,
}

/// Tells everybody that a worker thread has died, and why.
struct Death {
    happened: AtomicBool,
    threads: Mutex<Vec<Thread>>,
}

impl Death {
    fn enlist(&self) {
        self.threads.lock().unpoisoned().push(std::thread::current());
    }

    fn announce(&self) {
        self.happened.store(true, Ordering::SeqCst);
        self.threads.lock().unpoisoned().iter().for_each(Thread::unpark);
    }
}

impl Workers {
    /// Starts `threads` workers.
    pub(crate) fn start(threads: usize, transport: Transport) -> Result<Self> {
        let (commands, receivers): (Vec<_>, Vec<_>) = (0..threads).map(|_| channel::<Command>()).unzip();
        let receivers = Mutex::new(receivers.into_iter().map(Some).collect::<Vec<_>>());
        let dead = Arc::new(Death {
            happened: AtomicBool::new(false),
            threads: Mutex::default(),
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spin = if threads > 1 && threads <= cores {
            IDLE_SPIN
        } else {
            Duration::ZERO
        };
        let death = Arc::clone(&dead);
        let communication = match transport {
            Transport::Pointers => CommunicationConfig::Process(threads),
            #[cfg(test)]
            Transport::Bytes => CommunicationConfig::ProcessBinary(threads),
        };
        let worker = WorkerConfig::default().idle_spin(spin);
        let guards = timely::execute(timely::Config { communication, worker }, move |worker| {
            let index = worker.index();
            let receiver = receivers.lock().unpoisoned()[index].take();
            if let Some(receiver) = receiver {
                work(worker, &receiver, &death);
            }
        })
        .map_err(|reason| EngineError::NoThread { reason })?;
        Ok(Self {
            commands,
            dead,
            guards: Mutex::new(Some(guards)),
        })
    }

    /// Number of workers.
    pub(crate) fn count(&self) -> usize {
        self.commands.len()
    }

    /// Builds one dataflow on every worker, which does what `idle` says while it waits. The receiver disconnects when
    /// all of them have ended it.
    pub(crate) fn run(&self, build: Build, idle: Option<Arc<dyn IdlePoll>>) -> Result<Receiver<()>> {
        let (running, ended) = channel();
        for command in &self.commands {
            let command = command.send(Command {
                build: Arc::clone(&build),
                idle: idle.clone(),
                _running: running.clone(),
            });
            command.map_err(|_| self.stopped())?;
        }
        Ok(ended)
    }

    /// An error if a worker has died.
    pub(crate) fn check(&self) -> Result<()> {
        if self.dead.happened.load(Ordering::SeqCst) {
            Err(self.stopped())
        } else {
            Ok(())
        }
    }

    fn stopped(&self) -> EngineError {
        EngineError::WorkersStopped {
            reason: "a worker thread panicked; its message is on standard error".into(),
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.commands.clear();
        if let Some(guards) = self.guards.lock().unpoisoned().take() {
            for ended in guards.join() {
                if let Err(reason) = ended {
                    tracing::error!("a worker thread had panicked: {reason}");
                }
            }
        }
    }
}

fn work(worker: &mut Worker, commands: &Receiver<Command>, death: &Arc<Death>) {
    struct Watch<'a>(&'a Death);
    impl Drop for Watch<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                self.0.announce();
            }
        }
    }
    // Lanes and shards are computed outside of tasks.
    task::serve();
    death.enlist();
    let _watch = Watch(death);
    while let Ok(command) = commands.recv() {
        (command.build)(worker);
        while worker.has_dataflows() {
            if death.happened.load(Ordering::SeqCst) {
                return abandon(worker);
            }
            match &command.idle {
                None => drop(worker.step_or_park(None)),
                Some(idle) => step_or_sleep(worker, &**idle),
            }
        }
    }
}

/// Works, and polls for as long as patience lasts; then sleeps until woken.
fn step_or_sleep(worker: &mut Worker, idle: &dyn IdlePoll) {
    let patience = idle.patience();
    let mut idle_since = Instant::now();
    loop {
        let begun = Instant::now();
        let came = idle.poll();
        if !worker.step() {
            return;
        }
        let now = Instant::now();
        if came || now - begun >= STEP_OF_WORK {
            idle_since = now;
        } else if now - idle_since >= patience {
            break;
        }
    }
    idle.fall_asleep();
    if !idle.poll() {
        worker.step_or_park(None);
    }
    idle.wake_up();
}

/// Drops what a dead peer will never let end.
fn abandon(worker: &mut Worker) {
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
}
