//! What members give each other of remote objects: questions to those who may have the answer, on connections of their
//! own, in and between rounds and generations. Whatever fails here costs a fetch from the remote store.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use distdl_storage::StoreFigures;
use distdl_storage::bloom::Bloom;
use distdl_storage::peers::{ANSWER_BYTES_MAX, Peers, QUESTION_BYTES_MAX};
use distdl_storage::remote::Stores;
use distdl_storage::{Digest, Unpoisoned};

use super::{CONNECT_TIMEOUT, Member, Shared, Speaker, lock};
use crate::cluster::control;
use crate::cluster::handshake::{self, Mine, Purpose};
use crate::cluster::identity::MemberId;
use crate::cluster::protocol::{Order, Report, Source};
use crate::cluster::socket::{self, Socket};
use crate::notices::{Notices, Said};

/// How long an answer, or another member's fetch, is waited for before the remote store is asked.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a message takes beside the question or answer in it, in bytes.
const MARGIN_BYTES: u64 = 64;

#[derive(Default)]
pub(super) struct PeerCache {
    state: Mutex<State>,
    found: Condvar,
    requests: AtomicU64,
}

#[derive(Default)]
struct State {
    stores: Option<Weak<Stores>>,
    /// Whom the others may be asked for.
    filters: BTreeMap<MemberId, (Source, Bloom)>,
    /// Questions to the name node, and what it has answered.
    sought: HashMap<u64, Option<Vec<Source>>>,
    lines: HashMap<MemberId, Arc<Line>>,
    /// Connections on which others are answered.
    answering: Vec<Arc<Socket>>,
    /// What reading has cost the cluster.
    figures: Option<StoreFigures>,
    notices: Option<Weak<Notices>>,
    /// Whether the name node was told any.
    has_said: bool,
    /// Those of all processes.
    of_all: BTreeMap<(u32, MemberId), Said>,
    over: bool,
}

impl State {
    fn forget(&mut self, member: MemberId) {
        self.filters.remove(&member);
        if let Some(line) = self.lines.remove(&member) {
            line.socket.shutdown();
        }
    }
}

/// A connection on which one question is asked at a time.
#[derive(Debug)]
struct Line {
    socket: Socket,
    busy: Mutex<()>,
}

impl Line {
    fn exchange(&self, question: &[u8]) -> Option<Option<Bytes>> {
        let _busy = self.busy.lock().unpoisoned();
        control::send(&self.socket, question, QUESTION_BYTES_MAX + MARGIN_BYTES).ok()?;
        control::receive(&self.socket, ANSWER_BYTES_MAX + MARGIN_BYTES).ok()?
    }
}

impl PeerCache {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }

    /// Whether a member may be asked for anything.
    #[cfg(test)]
    pub(super) fn is_told_of(&self, member: MemberId) -> bool {
        self.state().filters.contains_key(&member)
    }

    fn may_have(&self, key: &Digest) -> Vec<Source> {
        let state = self.state();
        let filters = state.filters.values();
        let may = filters.filter(|(_, filter)| filter.may_contain(key));
        may.map(|(source, _)| source.clone()).collect()
    }

    /// The answer of the name node to a question, if it comes in time.
    fn answered(&self, request: u64) -> Option<Vec<Source>> {
        let deadline = Instant::now() + WAIT_MAX;
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match state.sought.get(&request) {
                Some(None) if !state.over && !left.is_zero() => {
                    let waited = self.found.wait_timeout(state, left);
                    state = waited.unpoisoned().0;
                }
                _ => return state.sought.remove(&request).flatten(),
            }
        }
    }

    /// Nothing more comes from the name node to what it was asked: it is gone, and perhaps another one comes. That one
    /// says anew who has what; it does not know of those that died meanwhile.
    pub(super) fn forget_questions(&self) {
        let mut state = self.state();
        state.sought.clear();
        state.filters.clear();
        std::mem::take(&mut state.lines)
            .values()
            .for_each(|line| line.socket.shutdown());
        self.found.notify_all();
    }

    /// Members are gone: who waits for one of them is let go.
    pub(super) fn lost(&self, members: &[MemberId]) {
        let mut state = self.state();
        members.iter().for_each(|member| state.forget(*member));
    }

    pub(super) fn end(&self) {
        let mut state = self.state();
        state.over = true;
        state.lines.values().for_each(|line| line.socket.shutdown());
        state.answering.iter().for_each(|socket| socket.shutdown());
        self.found.notify_all();
    }
}

impl Member {
    /// From now on this process asks the others for what `stores` lack, gives them what they keep, and lets them read
    /// `notices`.
    pub(crate) fn share(&self, stores: &Arc<Stores>, notices: &Arc<Notices>) {
        self.shared.share(stores, notices);
    }

    /// What reading has cost all processes up to the last action, those that are gone included; `None` if it was
    /// nothing.
    pub(crate) fn cluster_has_read(&self) -> Option<StoreFigures> {
        self.shared.peer_cache.state().figures
    }

    /// What all processes that live have said in a notice, by place and life, as it was at the end of the last action.
    pub(crate) fn said(&self, notice: u64) -> BTreeMap<(usize, u64), Bytes> {
        let state = self.shared.peer_cache.state();
        let of_notice = state.of_all.iter();
        of_notice
            .filter_map(|((slot, member), said)| Some(((*slot as usize, member.0), said.get(&notice)?.clone())))
            .collect()
    }
}

/// The way of a member's stores to the others.
#[derive(Clone)]
pub(super) struct Others(pub(super) Arc<Shared>);

impl std::fmt::Debug for Others {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("the other members")
    }
}

impl Peers for Others {
    fn ask(&self, key: &Digest, question: &[u8]) -> Option<Bytes> {
        let may = self.0.peer_cache.may_have(key);
        may.iter().find_map(|source| self.0.ask(source, question))
    }

    fn find(&self, key: &Digest, question: &[u8]) -> Option<Bytes> {
        let mut may = self.0.peer_cache.may_have(key);
        let mut tried = Vec::new();
        loop {
            for source in &may {
                if let Some(answer) = self.0.ask(source, question) {
                    return Some(answer);
                }
                tried.push(source.member);
            }
            may = self.0.seek(key, &tried)?;
            if may.is_empty() {
                return None;
            }
        }
    }

    fn brought(&self, key: &Digest, is_here: bool) {
        let key = *key;
        self.0.report(&Report::Brought { key, is_here });
    }
}

impl Shared {
    /// From now on this process shares what `stores` keep, and its notices.
    fn share(self: &Arc<Self>, stores: &Arc<Stores>, notices: &Arc<Notices>) {
        let mut state = self.peer_cache.state();
        state.stores = Some(Arc::downgrade(stores));
        state.notices = Some(Arc::downgrade(notices));
        drop(state);
        stores.join(Arc::new(Others(Arc::clone(self))));
        self.tell_filter(&mut self.speaker());
    }

    fn stores(&self) -> Option<Arc<Stores>> {
        self.peer_cache.state().stores.as_ref()?.upgrade()
    }

    /// Tells the name node what others may ask this process for, if that has changed since it was told last.
    pub(super) fn tell_filter(&self, speaker: &mut Speaker) {
        let Some((version, filter)) = self.stores().and_then(|stores| stores.holdings()) else {
            return;
        };
        if std::mem::replace(&mut speaker.told, version) == version {
            return;
        }
        if let Ok(filter) = filter.snapshot() {
            let filter = filter.into();
            self.say(speaker, &Report::CacheFilter { filter });
        }
    }

    /// What others may read of this process, if the name node is to be told. Asks closures of users, which may take
    /// their time.
    pub(super) fn said(&self) -> Option<Said> {
        let notices = self.peer_cache.state().notices.clone();
        let said = notices?.upgrade()?.said();
        let has_said = !said.is_empty();
        // That there is nothing any more is said once.
        let had_said = std::mem::replace(&mut self.peer_cache.state().has_said, has_said);
        (had_said || has_said).then_some(said)
    }

    /// Tells the name node what reading has cost this process, and what others may read of it.
    pub(super) fn tell_figures(&self, speaker: &mut Speaker, said: Option<Said>) {
        if let Some(stores) = self.stores() {
            let figures = stores.figures();
            self.say(speaker, &Report::Read { figures });
        }
        if let Some(said) = said {
            self.say(speaker, &Report::Notices { said });
        }
    }

    /// Those that the name node names; none if this process is to fetch it.
    fn seek(&self, key: &Digest, tried: &[MemberId]) -> Option<Vec<Source>> {
        let request = self.peer_cache.requests.fetch_add(1, Ordering::Relaxed);
        self.peer_cache.state().sought.insert(request, None);
        // A control connection that was lost since then has forgotten the question, and found another name node.
        if lock(self).control.is_none() {
            self.peer_cache.state().sought.remove(&request);
            return None;
        }
        let (key, tried) = (*key, tried.to_vec());
        self.report(&Report::Seek { request, key, tried });
        self.peer_cache.answered(request)
    }

    /// What the name node says of all this.
    pub(super) fn hear_of_caches(&self, order: Order) {
        let mut state = self.peer_cache.state();
        match order {
            Order::CacheFilter { of, filter } => {
                let filter = filter.and_then(|filter| Bloom::from_snapshot(&filter).ok());
                match filter {
                    Some(filter) => drop(state.filters.insert(of.member, (of, filter))),
                    None => state.forget(of.member),
                }
            }
            Order::Found { request, key, sources } => match state.sought.get_mut(&request) {
                Some(answer) => {
                    *answer = Some(sources);
                    self.peer_cache.found.notify_all();
                }
                // Nobody waits any more: the lease goes to the next.
                None if sources.is_empty() => {
                    drop(state);
                    self.report(&Report::Brought { key, is_here: false });
                }
                None => {}
            },
            Order::Read { figures } => state.figures = Some(figures),
            Order::Notices { of_all } => state.of_all = of_all,
            _ => {}
        }
    }

    /// A member's answer to a question; `None` also if it cannot be reached.
    fn ask(&self, source: &Source, question: &[u8]) -> Option<Bytes> {
        let line = self.line(source)?;
        let answer = line.exchange(question);
        if answer.is_none() {
            line.socket.shutdown();
            let mut state = self.peer_cache.state();
            if state
                .lines
                .get(&source.member)
                .is_some_and(|kept| Arc::ptr_eq(kept, &line))
            {
                state.lines.remove(&source.member);
            }
        }
        answer?
    }

    fn line(&self, source: &Source) -> Option<Arc<Line>> {
        if let Some(line) = self.peer_cache.state().lines.get(&source.member) {
            return Some(Arc::clone(line));
        }
        let line = Arc::new(self.connect_line(source)?);
        let mut state = self.peer_cache.state();
        if state.over {
            line.socket.shutdown();
            return None;
        }
        // Two threads may have connected; both lines work.
        state.lines.insert(source.member, Arc::clone(&line));
        Some(line)
    }

    fn connect_line(&self, source: &Source) -> Option<Line> {
        let (member, run) = {
            let state = lock(self);
            (state.id?, state.run)
        };
        let socket = socket::connect(&source.address, CONNECT_TIMEOUT).ok()?;
        let mine = Mine {
            purpose: Purpose::Questions,
            run,
            generation: 0,
            member: Some(member),
            peer: Some(source.member),
            time_max: CONNECT_TIMEOUT,
        };
        handshake::initiate(&socket, &self.credentials, &mine).ok()?;
        socket.set_read_timeout(Some(WAIT_MAX)).ok()?;
        socket.set_write_timeout(Some(WAIT_MAX)).ok()?;
        let busy = Mutex::default();
        Some(Line { socket, busy })
    }

    /// Answers what another member asks on a connection, until that ends.
    pub(super) fn answer_questions(&self, socket: Socket) {
        let socket = Arc::new(socket);
        {
            let mut state = self.peer_cache.state();
            if state.over {
                return socket.shutdown();
            }
            state.answering.push(Arc::clone(&socket));
        }
        let limits = (QUESTION_BYTES_MAX + MARGIN_BYTES, ANSWER_BYTES_MAX + MARGIN_BYTES);
        while let Ok(Some(question)) = control::receive::<Vec<u8>>(&*socket, limits.0) {
            let answer = self.stores().and_then(|stores| stores.answer(&question));
            if control::send(&*socket, &answer, limits.1).is_err() {
                break;
            }
        }
        socket.shutdown();
        self.peer_cache
            .state()
            .answering
            .retain(|kept| !Arc::ptr_eq(kept, &socket));
    }
}
