//! The name node: who belongs to the cluster, what it does next, and what happens when one of them dies.
//!
//! This is a pure state machine: events go in with the time, effects come out, and the same events make the same
//! effects. It knows no socket, clock, thread or file; [`super::server`] carries out what it decides.
//!
//! The rules:
//! - **Members.** A process joins, gets a number that is never given twice and fills one of N + M slots. At most N
//!   members are *active*: they are the generation. The others (spares, replacements) come to the actions as well and
//!   *wait* there.
//! - **Actions.** The action that the cluster is at is the first without an answer. A member that comes to an earlier
//!   one gets its answer from the journal. A round begins when all living members of the generation have come; the
//!   round is over when each of them has ended it or is gone; then the action is answered or another round begins.
//! - **Generations.** A new one is made right before a round, if the members that are there are others than those of
//!   the last, or if the last was cut. So however many losses come while a cut round ends, they cost one generation.
//! - **Losses.** A closed connection, a lease that ran out, a member that does not end a cut round, links that fail
//!   again and again. The survivors of a running round are cut; nobody waits for a replacement, unless a grace time is
//!   set. A replacement that waits is taken in at the next round, and a loop is cut to take it in.
//! - **Restarts.** A lost slot gets a new process: the first time at once, then after a growing delay, from a budget. A
//!   slot that ended with an error of its own gets one only if others go on. Where others start the processes, places
//!   that are free are open to whoever comes, without a limit of time.
//! - **The log.** What must outlive the name node is logged before it is acted on. After a restart the members that it
//!   knows are expected for one lease, and a round that they are in goes on; who finds no place meanwhile waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use distdl_storage::Digest;

use super::arithmetic::Arithmetic;
use super::control::ANSWER_BYTES_MAX;
use super::events::{ClusterEvent, Happening};
use super::identity::MemberId;
use super::journal::{JournalQuota, LogEntry};
use super::protocol::{Generation, Head, Inventory, LoopState, Order, Peer, Report, Work};
use crate::error::EngineError;

mod action;
mod cache_directory;
mod generation;
mod limits;
mod placing;
mod membership;
mod restart;
mod round;
mod slot;
#[cfg(test)]
mod tests;

use action::Action;
use cache_directory::CacheDirectory;
use generation::Absence;
use limits::within_limits;
use membership::{Newcomer, Strikes};
use placing::Moves;
use slot::Slots;

/// Who has not come for so long is asked for.
const WAITS_SILENTLY: Duration = Duration::from_secs(5);

/// A connection to a process, as numbered by whoever accepts connections. A number is never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(pub u64);

/// What a name node is told once.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Members that are active at a time.
    pub processes: u32,
    /// Processes more that stand by.
    pub spares: u32,
    /// A member of which nothing is heard for so long is lost.
    pub lease: Duration,
    /// A member that does not end a cut round for so long is killed.
    pub cut_patience: Duration,
    /// So long all processes are waited for when none is active yet; a process that does not join for so long is
    /// killed.
    pub start_patience: Duration,
    /// So long a replacement is waited for before going on with fewer.
    pub grace: Duration,
    /// Whether the name node has processes started. If not, others start them, when they like and as often as they
    /// like.
    pub starts_processes: bool,
    /// Processes that may be started again, in all.
    pub restarts_max: u32,
    /// Results and updates of one action.
    pub answer_bytes_max: u64,
    /// Tells this run of a program from others at the same address, unless the log says by what. The server draws it.
    pub run: u64,
    /// What there is in the journal as it begins. The server asks the journal.
    pub quota: JournalQuota,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            processes: 1,
            spares: 0,
            lease: Duration::from_secs(10),
            cut_patience: Duration::from_secs(30),
            start_patience: Duration::from_secs(60),
            grace: Duration::ZERO,
            starts_processes: true,
            restarts_max: 16,
            answer_bytes_max: ANSWER_BYTES_MAX,
            run: 0,
            quota: JournalQuota::ENDLESS,
        }
    }
}

/// What happens to the name node.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A process said something.
    Reported {
        /// On this connection; its first report is [`Report::Join`].
        connection: ConnectionId,
        report: Report,
    },
    /// A part of what a process says has come: it lives, however long the rest takes.
    Heard {
        /// On this connection.
        connection: ConnectionId,
    },
    /// A connection is closed or broken.
    Disconnected { connection: ConnectionId },
    /// A process that was started for a slot ended. Comes once for each [`Effect::Start`], also if that failed.
    Exited {
        /// The slot.
        slot: u32,
        /// Its number in the system, if it had one.
        process: Option<u32>,
        /// How, for people.
        cause: String,
    },
    /// It is [`NameNode::wake_at`].
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone)]
pub(crate) enum Effect {
    /// Tell a process.
    Send {
        /// On this connection.
        connection: ConnectionId,
        order: Order,
    },
    /// Tell a process the answer that the journal has for an action, or how that was another one than the process is
    /// at: see [`Head::answer_of`].
    Recall {
        /// On this connection.
        connection: ConnectionId,
        /// What the process is at.
        head: Head,
    },
    /// Close a connection, after what was sent on it.
    Close { connection: ConnectionId },
    /// Start a process for a slot.
    Start { slot: u32 },
    /// End the process of a slot, if it is still there.
    Kill { slot: u32 },
    /// Put into the journal, before anything that follows is done.
    Log(LogEntry),
    /// Tell people and programs.
    Note(ClusterEvent),
    /// The cluster has ended; nothing follows.
    Finish {
        /// Why, unless the program ended well.
        error: Option<String>,
    },
}

/// The state machine. Times are counted from its start.
#[derive(Debug)]
pub(crate) struct NameNode {
    options: Options,
    /// As the log says.
    run: Option<u64>,
    now: Duration,
    effects: Vec<Effect>,
    slots: Slots,
    members: BTreeMap<MemberId, Member>,
    connections: BTreeMap<ConnectionId, MemberId>,
    newcomers: Vec<Newcomer>,
    member_next: u64,
    /// Of the machine of the first member.
    arithmetic: Option<Arithmetic>,
    /// The last one; number 0 and nobody before the first.
    generation: Generation,
    /// No number below this is given to a generation any more.
    generation_next: u64,
    /// Why the last generation is over, if it is although its members live.
    broken: Option<String>,
    /// In which generations the link between two members failed lately, since it has stood for a lease or a round was
    /// not cut.
    strikes: BTreeMap<(MemberId, MemberId), Strikes>,
    /// The last action that has an answer, as all before it have. What they were is in the journal alone: a program may
    /// run for weeks.
    last_answered: Option<Head>,
    /// The error that it ended with, which all are told, also by the journal.
    failure: Option<String>,
    /// Members that finished its loop themselves.
    finished_by: BTreeSet<MemberId>,
    action: Option<Action>,
    /// Who hosted which lane last.
    lanes: Vec<Option<MemberId>>,
    moves: Moves,
    cache_directory: CacheDirectory,
    round: Option<Round>,
    /// That members do not come to the action that others wait at.
    absence: Option<Absence>,
    loss: Option<MemberLoss>,
    /// Since when no member is active; where others start the processes, since when there is one.
    gathering: Option<Duration>,
    /// Whether it was said who is waited for since then.
    told_of_waiting: bool,
    /// Whether a member's driver program has ended well.
    finishing: bool,
    done: bool,
}

/// A process that was admitted and is not gone.
#[derive(Debug)]
struct Member {
    peer: Peer,
    process: u32,
    /// `None` while it is expected back after the name node was started again.
    connection: Option<ConnectionId>,
    heard: Duration,
    /// Whether it was silent for too long as far as this process can tell, which was away itself.
    doubted: bool,
    /// Whether it has come to the action that the cluster is at.
    arrived: bool,
    held: Inventory,
    state: LoopState,
    /// How long a lane's step takes it, and a task, as far as that was measured.
    lane_micros: Option<u64>,
    task_micros: Option<u64>,
}

impl Member {
    fn hear(&mut self, now: Duration) {
        (self.heard, self.doubted) = (now, false);
    }
}

/// A round that runs.
#[derive(Debug)]
struct Round {
    number: u32,
    work: Work,
    began: Duration,
    /// Of those who ended it: whether they are complete or finished.
    ended: BTreeMap<MemberId, bool>,
    cut: Option<Duration>,
    /// Whether a member stopped by itself in the middle of the loop.
    gave_up: bool,
    /// Whether the generation is over on a member without an order.
    forsaken: bool,
    failed: BTreeMap<usize, EngineError>,
    /// Tasks that members ended in it, and how long they were busy with them, in microseconds.
    tasks: BTreeMap<MemberId, (u64, u64)>,
}

#[derive(Debug)]
struct MemberLoss {
    at: Duration,
    cause: String,
}

impl NameNode {
    /// The name node of a new cluster.
    #[cfg(test)]
    pub(crate) fn new(options: Options, now: Duration) -> Self {
        Self::recover(options, Vec::new(), now)
    }

    /// What to do first.
    pub(crate) fn start(&mut self, now: Duration) -> Vec<Effect> {
        self.now = now;
        if self.run.is_none() {
            self.run = Some(self.options.run);
            self.log(LogEntry::Run(self.options.run));
        } else {
            let (action, members) = (self.action_number(), self.members.len());
            let error = self.failure.clone();
            self.note(Happening::WentOn { action, members, error });
        }
        self.settle()
    }

    /// The error that the last action ended with, if it ended so.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// When to say [`Event::Tick`] if nothing else happens before.
    pub(crate) fn wake_at(&self) -> Option<Duration> {
        if self.done {
            return None;
        }
        let leases = self.members.values().map(|member| member.heard + self.options.lease);
        let cut = self.round.as_ref().and_then(|round| round.cut);
        let times = leases
            .chain(cut.map(|since| since + self.options.cut_patience))
            .chain(self.slots.wake_at(self.options.start_patience, self.others_go_on()))
            .chain(self.patience_ends().filter(|end| *end > self.now))
            .chain(self.tells_of_waiting_at())
            .chain(self.absence.as_ref().map(Absence::tells_at));
        times.min()
    }

    /// Takes an event in; the effects are to be carried out in their order.
    pub(crate) fn handle(&mut self, now: Duration, event: Event) -> Vec<Effect> {
        if self.done {
            return Vec::new();
        }
        let expected = self.wake_at();
        self.now = now.max(self.now);
        match event {
            Event::Reported { connection, report } => self.reported(connection, report),
            Event::Heard { connection } => {
                let member = self.connections.get(&connection);
                if let Some(entry) = member.and_then(|member| self.members.get_mut(member)) {
                    entry.hear(self.now);
                }
            }
            Event::Disconnected { connection } => {
                self.newcomers.retain(|newcomer| newcomer.connection != connection);
                if let Some(member) = self.connections.remove(&connection) {
                    if let Some(entry) = self.members.get_mut(&member) {
                        entry.connection = None;
                    }
                    self.lose_closed(member);
                }
            }
            Event::Exited { slot, process, cause } => self.exited(slot, process, cause),
            Event::Tick => self.tick(expected),
        }
        self.settle()
    }

    /// Goes on as far as it can without another event.
    fn settle(&mut self) -> Vec<Effect> {
        self.look_after_newcomers();
        self.advance();
        self.start_due();
        self.finish_if_over();
        std::mem::take(&mut self.effects)
    }

    fn reported(&mut self, connection: ConnectionId, report: Report) {
        let Some(member) = self.connections.get(&connection).copied() else {
            return self.greeted(connection, report);
        };
        if let Some(entry) = self.members.get_mut(&member) {
            entry.hear(self.now);
        }
        if let Err(fault) = within_limits(&report) {
            return self.lose(member, &fault);
        }
        match report {
            Report::Heartbeat { lane_micros, .. } => {
                if let Some(entry) = self.members.get_mut(&member) {
                    entry.lane_micros = lane_micros.or(entry.lane_micros);
                }
                self.move_lanes_if_worth_it();
            }
            Report::Join { .. } => self.lose(member, "it joined twice on one connection"),
            Report::Arrive { head, held, state } => self.arrived(member, head, held, state),
            Report::Ended {
                generation,
                action,
                round,
                outcome,
                held,
                cut,
            } => {
                if self.runs(generation, action, round) {
                    self.ended(member, outcome, held, cut);
                } else if self.is_ahead(generation, action, round) {
                    self.lose(
                        member,
                        &format!("it ended round {round}, of which the journal has lost all"),
                    );
                }
            }
            Report::Cancel { action, error } => self.cancelled(action, error),
            Report::PeerLost {
                generation,
                peer,
                stood,
                cause,
            } => self.link_failed(member, generation, (peer, stood), &cause),
            Report::CacheFilter { filter } => self.holds(member, &filter),
            Report::Seek { request, key, tried } => self.sought(member, request, key, &tried),
            Report::Brought { key, is_here } => self.brought(member, key, is_here),
            Report::Read { figures } => self.has_read(member, figures),
            Report::Notices { said } => self.has_said(member, said),
            Report::Leave { error } => self.left(member, error),
        }
    }

    fn greeted(&mut self, connection: ConnectionId, report: Report) {
        // Whoever waits on it and says more than that does not wait any more: it joins anew, or is closed.
        self.newcomers.retain(|newcomer| newcomer.connection != connection);
        match report {
            Report::Join {
                slot,
                known,
                address,
                threads,
                speculates,
                role,
                process,
                arithmetic,
            } => {
                let peer = Peer {
                    member: MemberId(0),
                    slot: 0,
                    address,
                    threads,
                    speculates,
                    role,
                };
                let newcomer = Newcomer {
                    connection,
                    asked: slot,
                    peer,
                    process,
                    arithmetic,
                };
                self.joined(newcomer, known);
            }
            _ => self.effects.push(Effect::Close { connection }),
        }
    }

    /// Whether nobody is here and the program has not come to anything yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.members.is_empty() && self.action.is_none() && self.last_answered.is_none()
    }

    /// Logs which program all run, as whoever shakes hands has seen it.
    pub(crate) fn log_program(&mut self, binary: Digest) -> Effect {
        let entry = LogEntry::Program(binary);
        self.options.quota.take(&entry);
        Effect::Log(entry)
    }

    fn send(&mut self, member: MemberId, order: Order) {
        let connection = self.members.get(&member).and_then(|member| member.connection);
        if let Some(connection) = connection {
            self.effects.push(Effect::Send { connection, order });
        }
    }

    fn log(&mut self, entry: LogEntry) {
        self.options.quota.take(&entry);
        self.effects.push(Effect::Log(entry));
    }

    fn note(&mut self, what: Happening) {
        self.effects.push(Effect::Note(ClusterEvent::new(self.now, what)));
    }

    /// Members of the generation that live, by rank.
    fn active(&self) -> impl Iterator<Item = MemberId> + '_ {
        let members = self.generation.members.iter().map(|peer| peer.member);
        members.filter(|member| self.members.contains_key(member))
    }

    fn is_active(&self, member: MemberId) -> bool {
        self.generation.members.iter().any(|peer| peer.member == member)
    }

    /// Number of the action that the cluster is at.
    fn action_number(&self) -> u64 {
        self.last_answered.as_ref().map_or(0, |head| head.action + 1)
    }

    /// Since the loss that the cluster has not recovered from was seen, in microseconds.
    fn micros_since_loss(&self) -> Option<u64> {
        let since = self.now.saturating_sub(self.loss.as_ref()?.at);
        u64::try_from(since.as_micros()).ok()
    }
}
