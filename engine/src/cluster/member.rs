//! A process as a member of a cluster: its control connection, its links, and the round that it takes part in.
//!
//! Four kinds of threads meet here. The driver program's thread arrives at actions and runs rounds. The control thread
//! listens to the name node, and interrupts the round when a generation is cut. One thread a link reads frames and
//! hands them to the round. One thread accepts links. A heartbeat tells the name node that all of them live.

mod blocks;
mod contact;
mod faults;
mod links;
mod peer_cache;
mod round;
mod speaking;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use distdl_storage::{BlockId, Unpoisoned};

use crate::cluster::chaos::{ChaosPlan, Point};
use crate::cluster::dismissal::Dismissal;
use crate::cluster::handshake::Credentials;
use crate::cluster::identity::{Address, MemberId};
use crate::cluster::join::Join;
use crate::cluster::link::Link;
use crate::cluster::protocol::{Generation, HEARTBEATS_PER_LEASE, Inventory, Order, Outcome, Report};
use crate::cluster::socket::{Listener, Socket};
use crate::cluster::wire::{Header, Limits};
use crate::error::{EngineError, Result};
use crate::progress::JobProgress;

pub(crate) use contact::Capacity;
use contact::{Admission, Missed};
pub(crate) use faults::Fate;
pub use faults::Faults;
#[cfg(any(test, feature = "testing"))]
pub(crate) use faults::Vanish;
use peer_cache::PeerCache;
pub(crate) use round::{Receive, Round, RoundKey};
pub(crate) use speaking::Canceller;
use speaking::Speaker;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a process that leaves waits for the name node to have heard it, if that would not be looked for for longer.
const PART_TIME_MAX: Duration = Duration::from_secs(1);

/// How long the driver program of a process that is no member any more may take to notice.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// Longest payload of a frame.
const FRAME_BYTES_MAX: u64 = 16 << 30;

/// Gives the bytes of a block that this process has, for another one: `None` if it has it no more, the text of an error
/// if it has it and cannot read it now.
pub(crate) type Serve = Arc<dyn Fn(BlockId) -> Found + Send + Sync>;

/// What comes of asking for a block.
pub(crate) type Found = std::result::Result<Option<Vec<u8>>, String>;

/// Keeps a copy of a block that another process has computed; returns whether it does.
pub(crate) type Keep = Arc<dyn Fn(BlockId, Vec<u8>) -> bool + Send + Sync>;

/// Says how far the action is that runs in this process.
pub(crate) type Tell = Arc<dyn Fn() -> Option<JobProgress> + Send + Sync>;

/// A process's membership. The cluster counts it as lost when this is dropped before it has left.
pub(crate) struct Member {
    orders: Mutex<Receiver<Order>>,
    shared: Arc<Shared>,
}

struct Shared {
    join: Join,
    credentials: Credentials,
    chaos: ChaosPlan,
    fate: Fate,
    limits: Limits,
    /// Whoever has it speaks to the name node. Locked before the state.
    speaking: Mutex<Speaker>,
    /// A report is sent whole before the next one is begun. Locked after the two others.
    sending: Mutex<()>,
    /// A copy is kept whole before the next generation begins here. Locked before the state.
    copying: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
    requests: AtomicU64,
    /// Of remote objects, with other members.
    peer_cache: PeerCache,
    /// Frames and reports that were to be sent, heartbeats left out: at any of them a fault may be planned.
    frames: AtomicU64,
    reports: AtomicU64,
    /// The step of the loop that runs, plus 1; 0 if there is none.
    progress: AtomicU64,
    /// How long a lane's step took here of late, in microseconds; 0 if that is not known.
    lane_micros: AtomicU64,
}

#[derive(Default)]
struct State {
    id: Option<MemberId>,
    /// As a name node said with it.
    run: u64,
    /// Why this process is no member any more.
    closed: Option<String>,
    control: Option<Arc<Socket>>,
    /// A connection to a name node that was found again, and hears no more than signs of life yet.
    found: Option<Arc<Socket>>,
    /// That the driver program has ended, and whether a name node has heard that.
    last: Option<Report>,
    heard: bool,
    /// Whether this process ends with its membership, although its driver program may not.
    ends_process: bool,
    listener: Option<Arc<Listener>>,
    links: HashMap<MemberId, Arc<Link>>,
    /// A connection that is being made, so that a cut can interrupt it.
    connecting: Option<Socket>,
    /// The newest generation that is over.
    cut: u64,
    /// Number of actions that are over.
    answered: u64,
    /// The round that frames are for, and what takes them once it has begun.
    current: Option<Current>,
    /// What to say again to a name node that was started again.
    arrival: Option<Report>,
    ended: Option<Report>,
    cancel: Option<Report>,
    fetches: HashMap<u64, Fetch>,
    serve: Option<Serve>,
    keep: Option<Keep>,
    tell: Option<Tell>,
    /// Requests, and copies with their frames: each waits for its answer, so there are no more than workers elsewhere.
    wanted: VecDeque<(MemberId, Header, Vec<u8>)>,
    /// What threads that read links have to say.
    soon: VecDeque<(Arc<Link>, Header)>,
    recoveries: u64,
}

struct Current {
    key: RoundKey,
    /// With their slots, by rank.
    members: Vec<(MemberId, u32)>,
    phase: Phase,
}

impl Current {
    fn rank(&self, member: MemberId) -> Option<usize> {
        self.members.iter().position(|(known, _)| *known == member)
    }
}

/// How far this process is with a round.
#[derive(Clone)]
enum Phase {
    /// Not begun: frames wait in their links.
    Entered,
    /// Frames are taken.
    Begun(Arc<dyn Receive>),
    /// Frames are dropped.
    Over,
}

impl State {
    /// Whether a round is over, whatever still runs of it here.
    fn is_over(&self, key: RoundKey) -> bool {
        self.closed.is_some() || self.cut >= key.generation || self.answered > key.action
    }

    /// The generation that this process is in, or was in last.
    fn generation(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.key.generation)
    }

    /// What takes frames now.
    fn receiver(&self) -> Option<Arc<dyn Receive>> {
        match &self.current.as_ref()?.phase {
            Phase::Begun(receiver) => Some(Arc::clone(receiver)),
            Phase::Entered | Phase::Over => None,
        }
    }
}

enum Fetch {
    Waiting(MemberId),
    Done(Found),
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unpoisoned()
}

fn stopped(reason: &str) -> EngineError {
    EngineError::LeftCluster { reason: reason.into() }
}

impl Member {
    /// Joins the cluster that `join` names. A name node that does not listen yet is waited for as long as one that is
    /// gone would be looked for, and for a moment anyway.
    ///
    /// # Errors
    /// If the name node cannot be reached, or does not want this process; [`EngineError::ProgramEnded`] if that is
    /// because the program has ended.
    pub(crate) fn join(join: Join, capacity: Capacity, chaos: ChaosPlan, fate: Fate) -> Result<Self> {
        let credentials = Credentials::new(
            join.secrets.cluster,
            &join.secrets.token,
            distdl_storage::program_fingerprint(),
        );
        let listener = links::listen(&join).map_err(|reason| stopped(&reason))?;
        let shared = Arc::new(Shared {
            credentials,
            chaos,
            fate,
            limits: Limits {
                payload_bytes_max: FRAME_BYTES_MAX,
            },
            speaking: Mutex::default(),
            sending: Mutex::default(),
            copying: Mutex::default(),
            state: Mutex::default(),
            changed: Condvar::new(),
            requests: AtomicU64::new(0),
            peer_cache: PeerCache::default(),
            frames: AtomicU64::new(0),
            reports: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            lane_micros: AtomicU64::new(0),
            join,
        });
        let listener = Arc::new(listener);
        lock(&shared).listener = Some(Arc::clone(&listener));
        let (socket, Admission { member, lease, run }) =
            shared
                .contact_first(&listener, capacity)
                .map_err(|missed| match missed {
                    Missed::Dismissed(Dismissal::Over) => EngineError::ProgramEnded,
                    missed => stopped(&missed.to_string()),
                })?;
        {
            let mut state = lock(&shared);
            (state.id, state.run) = (Some(member), run);
            state.control = Some(Arc::clone(&socket));
        }
        let (sender, orders) = channel();
        spawn("control", &shared, move |shared| {
            shared.obey(&listener, capacity, socket, sender);
        })?;
        spawn("accept", &shared, |shared| shared.accept())?;
        spawn("heartbeat", &shared, move |shared| {
            shared.beat(lease / HEARTBEATS_PER_LEASE)
        })?;
        spawn("blocks", &shared, |shared| shared.serve_blocks())?;
        Ok(Self {
            orders: Mutex::new(orders),
            shared,
        })
    }

    /// Who it is. A name node that was started again and knew it no more has given it a new number.
    pub(crate) fn id(&self) -> Option<MemberId> {
        lock(&self.shared).id
    }

    /// Whether all members are on this host for sure: they reach the name node by an address that has no meaning
    /// elsewhere.
    pub(crate) fn is_on_one_host(&self) -> bool {
        matches!(self.shared.join.name_node, Address::Local(_))
    }

    /// Says how blocks are found for other members.
    pub(crate) fn serve(&self, serve: Serve) {
        lock(&self.shared).serve = Some(serve);
    }

    /// Says how copies of other members' blocks are kept.
    pub(crate) fn keep(&self, keep: Keep) {
        lock(&self.shared).keep = Some(keep);
    }

    /// Says what heartbeats tell of the action that runs.
    pub(crate) fn tell(&self, tell: Tell) {
        lock(&self.shared).tell = Some(tell);
    }

    /// Says that the driver program has come to an action.
    pub(crate) fn arrive(&self, arrival: Report) {
        let mut state = lock(&self.shared);
        (state.ended, state.cancel) = (None, None);
        state.arrival = Some(arrival.clone());
        drop(state);
        let mut speaker = self.shared.speaker();
        self.shared.tell_filter(&mut speaker);
        self.shared.say(&mut speaker, &arrival);
    }

    /// The next order for the driver program: a round to run, or the answer.
    ///
    /// # Errors
    /// Once this process is no member any more.
    pub(crate) fn next_order(&self) -> Result<Order> {
        let orders = self.orders.lock().unpoisoned();
        orders.recv().map_err(|_| self.closed())
    }

    fn closed(&self) -> EngineError {
        let state = lock(&self.shared);
        stopped(state.closed.as_deref().unwrap_or("the name node is gone"))
    }

    /// Opens the links of a round's generation. `None` if the generation is over before they are open.
    pub(crate) fn enter(&self, generation: &Generation, action: u64, round: u32) -> Option<Round> {
        self.enter_after(generation, action, round, &|| ())
    }

    /// The same, with something to be done before the first round of the generation, when copies of blocks that were
    /// sent before are kept, and none that is sent in it.
    pub(crate) fn enter_after(
        &self,
        generation: &Generation,
        action: u64,
        round: u32,
        before: &dyn Fn(),
    ) -> Option<Round> {
        let key = RoundKey {
            generation: generation.number,
            action,
            round,
        };
        let members: Arc<[MemberId]> = generation.members.iter().map(|peer| peer.member).collect();
        let id = self.id()?;
        let rank = members.iter().position(|member| *member == id)?;
        self.shared.position(key, generation, before);
        let mut links = Vec::with_capacity(members.len());
        for peer in &generation.members {
            links.push(match peer.member == id {
                true => None,
                false => Some(self.shared.open(id, key, peer)?),
            });
        }
        Some(Round {
            key,
            rank,
            members,
            links: links.into(),
            shared: Arc::clone(&self.shared),
        })
    }

    /// Says that a round is over here.
    pub(crate) fn ended(&self, key: RoundKey, outcome: Outcome, held: Inventory) {
        self.shared.progress.store(0, Ordering::Relaxed);
        self.shared.lane_micros.store(0, Ordering::Relaxed);
        let mut state = lock(&self.shared);
        if let Some(Report::Arrive {
            held: arrived_with,
            state: goes_on_from,
            ..
        }) = &mut state.arrival
        {
            // What a name node that is started again is told is what there is now.
            arrived_with.clone_from(&held);
            if let Outcome::Looped { state, .. } = &outcome {
                goes_on_from.clone_from(state);
            }
        }
        let report = Report::Ended {
            generation: key.generation,
            action: key.action,
            round: key.round,
            outcome,
            held,
            cut: state.cut >= key.generation,
        };
        if let Some(current) = &mut state.current {
            current.phase = Phase::Over;
        }
        state.ended = Some(report.clone());
        drop(state);
        self.shared.changed.notify_all();
        let said = self.shared.said();
        self.shared.tell_figures(&mut self.shared.speaker(), said);
        self.shared.report(&report);
    }

    /// A handle that ends actions from other threads.
    pub(crate) fn canceller(&self) -> Canceller {
        Canceller(Arc::clone(&self.shared))
    }

    /// A handle for what runs on other threads.
    pub(crate) fn faults(&self) -> Faults {
        Faults::new(&self.shared)
    }

    /// Says that the driver program has ended, with an error's text if it failed, and waits until a name node has heard
    /// it: one that is gone is looked for. Returns whether this process was a member until now, and its error was
    /// heard.
    pub(crate) fn leave(&self, error: Option<String>) -> bool {
        let is_well = error.is_none();
        let was_member = self.shared.take_leave(&Report::Leave { error });
        if is_well && was_member {
            self.shared.chaos.end();
        }
        was_member
    }

    /// Whether the name node has started this process, and shows what it prints.
    pub(crate) fn is_child(&self) -> bool {
        self.shared.join.is_child
    }

    /// Has this process end if its membership ends before the driver program has, and that goes on for some seconds.
    pub(crate) fn end_process_with_it(&self) {
        lock(&self.shared).ends_process = true;
    }

    /// A handle that ends this membership as if the process had been killed.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn vanisher(&self) -> Vanish {
        Vanish::new(&self.shared)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.shared.close("it was dropped");
    }
}

fn spawn(name: &str, shared: &Arc<Shared>, run: impl FnOnce(Arc<Shared>) + Send + 'static) -> Result<()> {
    let shared = Arc::clone(shared);
    let thread = std::thread::Builder::new().name(format!("distdl-{name}"));
    let started = thread.spawn(move || run(shared));
    started.map(drop).map_err(|error| EngineError::NoThread {
        reason: error.to_string(),
    })
}

impl Shared {
    /// Ends the membership: everything that waits is let go.
    fn close(&self, reason: &str) {
        let mut state = lock(self);
        if state.closed.is_some() {
            return;
        }
        state.closed = Some(reason.to_owned());
        let connections = [state.control.take(), state.found.take()];
        drop(state);
        self.peer_cache.end();
        connections
            .iter()
            .flatten()
            .for_each(|connection| connection.shutdown());
        let mut state = lock(self);
        if let Some(listener) = state.listener.take() {
            listener.close();
        }
        if let Some(connecting) = state.connecting.take() {
            connecting.shutdown();
        }
        for link in state.links.values() {
            link.close();
        }
        let receiver = state.receiver();
        drop(state);
        self.changed.notify_all();
        if let Some(receiver) = receiver {
            receiver.cancel();
        }
    }

    /// Sends a frame. A link that fails ends the generation here, and the name node is told.
    fn send(&self, link: &Link, header: Header, payload: &[&[u8]]) {
        self.comes_to_frame();
        self.write(link, header, payload);
    }

    fn comes_to_frame(&self) -> bool {
        self.reach(Point::Frame(self.frames.fetch_add(1, Ordering::Relaxed)))
    }

    fn write(&self, link: &Link, header: Header, payload: &[&[u8]]) {
        if let Err(error) = link.send(header, payload) {
            self.lost(link, &error.to_string());
        }
    }
}
