//! The name node's shell: sockets, clock and journal around the state machine in `name_node`.
//!
//! One thread runs the state machine, one accepts connections, and each connection has one thread that reads reports
//! and one that writes orders, so that a slow member holds nobody up. Nothing polls: the state machine says when it
//! wants to be woken.

mod connections;
mod watched;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use distdl_storage::Digest;

use crate::cluster::chaos::{ChaosPlan, Point};
use crate::cluster::dismissal::Dismissal;
use crate::cluster::events::{ClusterEvent, NOT_STARTED};
use crate::cluster::handshake::{Credentials, TurnedAway};
use crate::cluster::journal::{Journal, LogEntry};
use crate::cluster::member::Fate;
use crate::cluster::name_node::{ConnectionId, Effect, Event, NameNode, Options};
use crate::cluster::protocol::{Order, Report};
use crate::cluster::socket::{Listener, random_bytes};
use crate::progress::JobProgress;
use connections::{Acceptor, Connection, Written};
use watched::Watched;

/// How long a name node that ends waits for what it says last to be sent.
const LAST_WORDS_TIME_MAX: Duration = Duration::from_secs(1);

/// Starts and ends the processes of slots.
pub(crate) trait Spawner: Send {
    /// Starts a process for a slot.
    ///
    /// # Errors
    /// If the system refuses.
    fn start(&mut self, slot: u32) -> io::Result<()>;

    /// Ends the process of a slot, if it is still there.
    fn kill(&mut self, slot: u32);
}

/// Hears of what happens.
pub(crate) type Notes = Box<dyn FnMut(ClusterEvent) + Send>;

/// Hears how far all members together are with an action.
pub(crate) type Watch = Box<dyn FnMut(&JobProgress) + Send>;

/// What a name node is made of.
pub(crate) struct Setup {
    /// Where processes find it.
    pub listener: Listener,
    /// Whom it lets in.
    pub credentials: Credentials,
    /// How it decides.
    pub options: Options,
    /// What it remembers, and what it finds there.
    pub journal: (Journal, Vec<LogEntry>),
    /// Starts processes.
    pub spawner: Box<dyn Spawner>,
    /// Hears of what happens.
    pub notes: Notes,
    /// Hears how far the members are with the action that runs, if anybody wants to know.
    pub progress: Option<Watch>,
    /// Faults that are planned for the name node itself.
    pub chaos: ChaosPlan,
    /// What becomes of it then.
    pub fate: Fate,
}

/// How [`Server::wait`] says that the name node was killed, where it is none of its own process.
pub(crate) const KILLED: &str = "the name node was killed";

/// A running name node.
pub(crate) struct Server {
    handle: ServerHandle,
    listener: Arc<Listener>,
    machine: JoinHandle<Result<(), String>>,
}

/// Tells a name node what happens beside its connections.
#[derive(Clone)]
pub(crate) struct ServerHandle(Sender<Input>);

impl ServerHandle {
    /// A process that was started for a slot has ended, or could not be started.
    pub(crate) fn exited(&self, slot: u32, process: Option<u32>, cause: String) {
        // A name node that has ended need not know.
        let _ = self.0.send(Input::Event(Event::Exited { slot, process, cause }));
    }

    /// Ends the name node as if it had been killed: nobody is told.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn vanish(&self) {
        let _ = self.0.send(Input::Vanish);
    }
}

enum Input {
    Event(Event),
    Connected(ConnectionId, Connection),
    #[cfg(any(test, feature = "testing"))]
    Vanish,
}

impl Server {
    /// Starts a name node.
    ///
    /// # Errors
    /// If threads cannot be started, or the system has no random numbers.
    pub(crate) fn start(setup: Setup) -> io::Result<Self> {
        let (sender, inputs) = channel();
        let options = Options {
            run: u64::from_le_bytes(random_bytes()?),
            quota: setup.journal.0.quota(),
            ..setup.options
        };
        let handle = ServerHandle(sender.clone());
        let (journal, entries) = setup.journal;
        let (lease, program) = (options.lease, program_of(&entries));
        let node = NameNode::recover(options, entries, Duration::ZERO);
        // What it has come to is that program's, and another one might go on from it to anything.
        if let Some(program) = program.filter(|_| !node.is_untouched()) {
            setup.credentials.let_in(program);
        }
        let listener = Arc::new(setup.listener);
        let accepting = Acceptor {
            listener: Arc::clone(&listener),
            credentials: setup.credentials.clone(),
            inputs: sender,
            permits: Arc::default(),
            turned_away: TurnedAway::default(),
            connections: AtomicU64::new(0),
            lease,
        };
        let accepting = Arc::new(accepting);
        spawn("name-accept", move || accepting.run())?;
        let mut machine = Machine {
            node,
            credentials: setup.credentials,
            journal,
            spawner: setup.spawner,
            notes: setup.notes,
            watched: setup.progress.map(Watched::new),
            chaos: setup.chaos,
            fate: setup.fate,
            reports: 0,
            orders: 0,
            connections: HashMap::new(),
            closing: Vec::new(),
            started: Instant::now(),
            handle: handle.clone(),
        };
        let closing = Arc::clone(&listener);
        let machine = spawn("name-node", move || {
            let outcome = machine.run(&inputs);
            closing.close();
            machine.end(&inputs, outcome.is_ok());
            outcome
        })?;
        Ok(Self {
            handle,
            listener,
            machine,
        })
    }

    /// A handle that outlives this.
    pub(crate) fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// Waits until the cluster has ended.
    ///
    /// # Errors
    /// Why it ended, if that was not the end of its program.
    pub(crate) fn wait(self) -> Result<(), String> {
        let outcome = self.machine.join();
        self.listener.close();
        outcome.unwrap_or_else(|_| Err("the name node panicked; its message is on standard error".to_owned()))
    }
}

/// The program file that all ran, as the journal says.
fn program_of(entries: &[LogEntry]) -> Option<Digest> {
    entries.iter().rev().find_map(|entry| match entry {
        LogEntry::Program(binary) => Some(*binary),
        _ => None,
    })
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(format!("distdl-{name}")).spawn(run)
}

struct Machine {
    node: NameNode,
    credentials: Credentials,
    journal: Journal,
    spawner: Box<dyn Spawner>,
    notes: Notes,
    watched: Option<Watched>,
    chaos: ChaosPlan,
    fate: Fate,
    /// Reports that came, heartbeats left out, and orders that were to be sent: at any of them a fault may be planned.
    reports: u64,
    orders: u64,
    connections: HashMap<ConnectionId, Connection>,
    /// Of connections that are being closed.
    closing: Vec<Written>,
    started: Instant,
    handle: ServerHandle,
}

impl Machine {
    fn run(&mut self, inputs: &Receiver<Input>) -> Result<(), String> {
        let effects = self.node.start(self.started.elapsed());
        let mut outcome = self.carry_out(effects);
        while outcome.is_none() {
            let event = match self.next(inputs) {
                Some(Input::Connected(id, connection)) => {
                    self.connections.insert(id, connection);
                    continue;
                }
                #[cfg(any(test, feature = "testing"))]
                Some(Input::Vanish) => return self.vanish(),
                Some(Input::Event(event)) => event,
                None => Event::Tick,
            };
            if self.comes_to(&event) {
                return self.vanish();
            }
            if let Some(connection) = self.joins_with_another_program(&event) {
                self.close(connection);
                continue;
            }
            if let Some(watched) = &mut self.watched {
                watched.see(&event);
            }
            if let Event::Disconnected { connection } = &event {
                // Its thread that writes ends with it.
                self.connections.remove(connection);
            }
            let now = self.started.elapsed();
            let mut effects = self.node.handle(now, event);
            self.settle_program(&mut effects);
            outcome = self.carry_out(effects);
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Who joins, if it runs another program than those that were let in since it shook hands. It is told so when it
    /// tries again.
    fn joins_with_another_program(&self, event: &Event) -> Option<ConnectionId> {
        let Event::Reported {
            connection,
            report: Report::Join { .. },
        } = event
        else {
            return None;
        };
        let first = self.credentials.binary()?;
        let binary = self.connections.get(connection)?.binary;
        (binary != first).then_some(*connection)
    }

    /// Which program all run is said by the first that is let in, and not by one that only shakes hands; and as long as
    /// nothing was computed, one that was started by mistake and is gone has said nothing.
    fn settle_program(&mut self, effects: &mut Vec<Effect>) {
        let welcomed = effects.iter().filter_map(|effect| match effect {
            Effect::Send {
                connection,
                order: Order::Welcome { .. },
            } => self.connections.get(connection),
            _ => None,
        });
        let mut binaries = welcomed.map(|connection| connection.binary);
        if let Some(first) = binaries.find(|binary| self.credentials.let_in(*binary)) {
            effects.insert(0, self.node.log_program(first));
        }
        if self.node.is_untouched() {
            self.credentials.start_over();
        }
    }

    /// Says the last words, if the program is over: who has just come would look for a name node that is gone. With
    /// this process goes what is not written yet.
    fn end(mut self, inputs: &Receiver<Input>, is_over: bool) {
        if is_over {
            let connected = inputs.try_iter().filter_map(|input| match input {
                Input::Connected(id, connection) => Some((id, connection)),
                _ => None,
            });
            self.connections.extend(connected);
            for (_, connection) in self.connections.drain() {
                let reason = Dismissal::Over;
                connection.send(Order::Dismiss { reason });
                self.closing.push(connection.written);
            }
        }
        let deadline = Instant::now() + LAST_WORDS_TIME_MAX;
        for written in &self.closing {
            let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Ends as if it had been killed.
    fn vanish(&self) -> Result<(), String> {
        self.connections
            .values()
            .for_each(|connection| connection.socket.shutdown());
        Err(KILLED.to_owned())
    }

    /// The next input; none if the state machine wants to be woken first.
    fn next(&self, inputs: &Receiver<Input>) -> Option<Input> {
        let now = self.started.elapsed();
        match self.node.wake_at() {
            // This holds a sender, so the channel stays open.
            None => inputs.recv().ok(),
            Some(at) => inputs.recv_timeout(at.saturating_sub(now)).ok(),
        }
    }

    /// Carries out the faults that are planned for this event; whether it is to vanish.
    fn comes_to(&mut self, event: &Event) -> bool {
        let Event::Reported { report, .. } = event else {
            return false;
        };
        match report {
            Report::Heartbeat { step: Some(step), .. } => self.suffers(Point::Step(*step)),
            Report::Heartbeat { step: None, .. } => false,
            _ => {
                self.reports += 1;
                self.suffers(Point::Report(self.reports - 1))
            }
        }
    }

    fn suffers(&self, point: Point) -> bool {
        match (self.chaos.fires(point), self.fate) {
            (None, _) => false,
            (Some(_), Fate::Vanish) => true,
            (Some(fault), Fate::Signal) => {
                fault.carry_out();
                false
            }
        }
    }

    /// Carries out effects in their order; the outcome, once the cluster has ended.
    fn carry_out(&mut self, effects: Vec<Effect>) -> Option<Result<(), String>> {
        for effect in effects {
            if matches!(effect, Effect::Send { .. } | Effect::Recall { .. }) {
                self.orders += 1;
                if self.suffers(Point::Frame(self.orders - 1)) {
                    return Some(self.vanish());
                }
            }
            match effect {
                Effect::Send { connection, order } => self.send(connection, order),
                Effect::Recall { connection, head } => match self.journal.answer(head.action) {
                    Ok((first, answer)) => {
                        let (action, answer) = (head.action, first.answer_of(&head, answer));
                        self.send(connection, Order::Answer { action, answer });
                    }
                    Err(error) => return Some(Err(error.to_string())),
                },
                Effect::Close { connection } => self.close(connection),
                Effect::Start { slot } => {
                    if let Err(error) = self.spawner.start(slot) {
                        self.handle.exited(slot, None, format!("{NOT_STARTED}{error}"));
                    }
                }
                Effect::Kill { slot } => self.spawner.kill(slot),
                Effect::Log(entry) => {
                    if let Err(error) = self.journal.append(&entry) {
                        return Some(Err(error.to_string()));
                    }
                }
                Effect::Note(event) => {
                    if let Some(watched) = &mut self.watched {
                        watched.hear(&event.what);
                    }
                    (self.notes)(event);
                }
                Effect::Finish { error: Some(error) } => return Some(Err(self.with_remedy(error))),
                Effect::Finish { error: None } => {
                    self.chaos.end();
                    return Some(Ok(()));
                }
            }
        }
        None
    }

    /// An error of the program. One of an action is in the journal, and whoever goes on from that is told it again.
    fn with_remedy(&self, error: String) -> String {
        let is_kept = self.node.failure().is_some_and(|failure| error.contains(failure));
        match self.journal.folder().filter(|_| is_kept) {
            Some(folder) => format!(
                "{error}; mend the cause, and remove the folder {}: its journal has this error, and with it the program \
                 would end with the same again",
                folder.display()
            ),
            None => error,
        }
    }

    fn close(&mut self, connection: ConnectionId) {
        let is_open = |written: &Written| matches!(written.try_recv(), Err(TryRecvError::Empty));
        self.closing.retain(is_open);
        let closed = self.connections.remove(&connection);
        self.closing.extend(closed.map(|connection| connection.written));
    }

    fn send(&self, connection: ConnectionId, order: Order) {
        if let Some(connection) = self.connections.get(&connection) {
            connection.send(order);
        }
    }
}

#[cfg(test)]
mod tests;
