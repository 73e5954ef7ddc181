//! The thread of live records: a timely worker without peers, which takes one order at a time.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use timely::WorkerConfig;
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::worker::Worker;

use super::meter::{Figures, Limits, Meter};
use super::records::Feed;
use super::view_dataflow::{Installed, ViewDataflow};
use crate::error::{EngineError, LiveError, Result, panic_text};
use crate::task;

/// What the driver program asks for.
enum Task {
    /// A view's dataflow, with what inputs hold. Whether the view is to get what comes of that, or has it already.
    Install {
        dataflow: Arc<dyn ViewDataflow>,
        publish: bool,
    },
    /// What is being committed to inputs.
    Commit,
}

/// A task, and where its answer goes. There is one on its way at a time.
type Order = (Task, SyncSender<Result<(), LiveError>>);

/// A thread that runs. It ends with its first failure, or when this is dropped.
pub(crate) struct LiveThread {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

impl LiveThread {
    pub(crate) fn start(limits: Limits, figures: &Arc<Figures>) -> Result<Self> {
        let (orders, received) = sync_channel::<Order>(1);
        let figures = Arc::clone(figures);
        let thread = std::thread::Builder::new()
            .name("distdl live".to_owned())
            .spawn(move || serve(&received, limits, figures))
            .map_err(|error| EngineError::NoThread {
                reason: error.to_string(),
            })?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Builds the dataflow of a view, and waits until it is up to date.
    pub(crate) fn install(&self, dataflow: Arc<dyn ViewDataflow>, publish: bool) -> Result<(), LiveError> {
        self.ask(Task::Install { dataflow, publish })
    }

    /// Brings all views up to date with what is being committed: all of them, or none.
    pub(crate) fn commit(&self) -> Result<(), LiveError> {
        self.ask(Task::Commit)
    }

    fn ask(&self, task: Task) -> Result<(), LiveError> {
        let stopped = || LiveError::Stopped {
            reason: "it is gone".to_owned(),
        };
        let (answer, answered) = sync_channel(1);
        let sent = self.orders.as_ref().map(|orders| orders.send((task, answer)));
        sent.and_then(std::result::Result::ok).ok_or_else(stopped)?;
        answered.recv().map_err(|_| stopped())?
    }
}

impl Drop for LiveThread {
    fn drop(&mut self) {
        self.orders.take();
        // A closure may own the last handle on all of this; a thread that waited for itself would wait for ever.
        let thread = self.thread.take();
        let other = thread.filter(|thread| thread.thread().id() != std::thread::current().id());
        // What it says was answered already.
        let _ = other.map(JoinHandle::join);
    }
}

fn serve(orders: &Receiver<Order>, limits: Limits, figures: Arc<Figures>) {
    task::serve();
    figures.held.store(0, Ordering::Relaxed);
    let allocator = Allocator::Thread(Thread::default());
    let mut running = Running {
        // With a clock, which differential's reports of what it holds need.
        worker: Worker::new(WorkerConfig::default(), allocator, Some(Instant::now())),
        meter: Rc::new(Meter::new(limits, figures)),
        installed: Vec::new(),
    };
    running.meter.watch(&running.worker);
    for (task, answer) in orders {
        let done = catch_unwind(AssertUnwindSafe(|| running.run(task)));
        let result = done.unwrap_or_else(|panic| {
            Err(LiveError::Stopped {
                reason: panic_text(panic.as_ref()),
            })
        });
        let failed = result.is_err();
        if failed {
            // Dropped before the answer, so that nothing of it outlives the failure.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(running)));
            let _ = answer.send(result);
            return;
        }
        // The driver waits for the answer, unless it is gone.
        let _ = answer.send(result);
    }
}

struct Running {
    worker: Worker,
    meter: Rc<Meter>,
    installed: Vec<Installed>,
}

impl Running {
    fn run(&mut self, task: Task) -> Result<(), LiveError> {
        match task {
            Task::Install { dataflow, publish } => self.install(dataflow, publish),
            Task::Commit => self.commit(),
        }
    }

    fn install(&mut self, dataflow: Arc<dyn ViewDataflow>, publish: bool) -> Result<(), LiveError> {
        self.drop_unwanted()?;
        let mut installed = dataflow.install(&mut self.worker, &self.meter);
        installed.feed(Feed::Held);
        self.installed.push(installed);
        self.settle()?;
        let Some(installed) = self.installed.last() else {
            return Ok(());
        };
        match publish {
            true => {
                installed.output().check()?;
                installed.output().publish();
            }
            false => installed.output().confirm()?,
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), LiveError> {
        self.drop_unwanted()?;
        self.installed
            .iter_mut()
            .for_each(|installed| installed.feed(Feed::Changes));
        self.settle()?;
        let outputs = || self.installed.iter().map(Installed::output);
        outputs().try_for_each(|output| output.check())?;
        outputs().for_each(|output| output.publish());
        Ok(())
    }

    /// Frees what dataflows hold whose views nobody has any more, before anything counts against the limit.
    fn drop_unwanted(&mut self) -> Result<(), LiveError> {
        let mut ending = Vec::new();
        self.installed.retain(|installed| {
            let is_wanted = installed.output().is_wanted();
            ending.extend((!is_wanted).then_some(installed.index()));
            is_wanted
        });
        // Without its inputs a dataflow comes to its end, in a few steps.
        let is_there = |worker: &Worker| worker.installed_dataflows().iter().any(|index| ending.contains(index));
        while is_there(&self.worker) {
            self.worker.step();
            self.meter.failure()?;
        }
        Ok(())
    }

    /// Runs until all dataflows have done what they were given.
    fn settle(&mut self) -> Result<(), LiveError> {
        loop {
            self.worker.step();
            self.meter.check()?;
            if !self.installed.iter().any(Installed::is_behind) {
                return Ok(());
            }
        }
    }
}
