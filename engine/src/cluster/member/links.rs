//! The links of a member: opened for a generation, kept as long as both ends live, read by a thread each.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use distdl_storage::Unpoisoned;

use super::{CONNECT_TIMEOUT, Current, Fetch, Phase, Receive, RoundKey, Shared, State, blocks, lock, spawn};
use crate::cluster::chaos::Point;
use crate::cluster::handshake::{self, HandshakePermits, Mine, Permit, Purpose, Refused, Theirs, TurnedAway};
use crate::cluster::identity::{Address, MemberId};
use crate::cluster::join::Join;
use crate::cluster::link::Link;
use crate::cluster::protocol::{Generation, Peer, Report};
use crate::cluster::socket::{self, Listener, Socket};
use crate::cluster::wire::{Kind, WireError};
use crate::error::panic_text;

/// Listens where the name node and the other members can reach this process; an error is words for people.
pub(super) fn listen(join: &Join) -> Result<Listener, String> {
    let ip = match (&join.name_node, join.bind) {
        (_, Some(ip)) => ip,
        (Address::Local(_), None) => return Listener::bind_local().map_err(|error| format!("cannot listen: {error}")),
        (Address::Tcp(name_node), None) => own_ip(name_node)
            .map_err(|error| format!("cannot tell by which address of this host {name_node} is reached: {error}"))?,
    };
    let at = SocketAddr::new(ip, join.port);
    Listener::bind_tcp(at, join.advertise).map_err(|error| {
        let remedy = match error.kind() {
            ErrorKind::AddrInUse => "; give each process on a host a port of its own, or none for any that is free",
            ErrorKind::AddrNotAvailable => "; bind an address of this host",
            ErrorKind::PermissionDenied => "; a port below 1024 needs rights that this process has not",
            _ => "",
        };
        format!("cannot listen at {at}: {error}{remedy}")
    })
}

/// The address of this host on the way to the name node.
fn own_ip(name_node: &SocketAddr) -> io::Result<IpAddr> {
    let probe = UdpSocket::bind(if name_node.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    probe.connect(name_node)?;
    Ok(probe.local_addr()?.ip())
}

impl Shared {
    /// A link has failed. If the generation counts on it, that is over, and the name node is told: also between two
    /// rounds and behind the last, since the other end may be waiting for this one to open another link.
    pub(super) fn lost(&self, link: &Link, cause: &str) {
        link.close();
        let mut state = lock(self);
        let needed = state.current.as_ref().filter(|current| {
            current.rank(link.peer).is_some()
                && current.key.generation > state.cut
                && current.key.generation == link.serves()
        });
        let generation = needed.map(|current| current.key.generation);
        if let Some(generation) = generation {
            state.cut = generation;
        }
        let receiver = state.receiver();
        let closed = state.closed.is_some();
        drop(state);
        self.changed.notify_all();
        if let (Some(generation), false) = (generation, closed) {
            self.report(&Report::PeerLost {
                generation,
                peer: link.peer,
                stood: link.age(),
                cause: cause.to_owned(),
            });
            if let Some(receiver) = receiver {
                receiver.cancel();
            }
        }
    }

    /// Frames are for this round from now on; those of earlier ones are dropped.
    pub(super) fn position(&self, key: RoundKey, generation: &Generation, before_first: &dyn Fn()) {
        let copying = self.copying.lock().unpoisoned();
        let is_first = lock(self).generation() < key.generation;
        if is_first {
            before_first();
        }
        let mut state = lock(self);
        let changes = state
            .current
            .as_ref()
            .is_some_and(|current| current.key.generation < key.generation);
        state.recoveries += u64::from(changes);
        let recovery = state.recoveries;
        state.current = Some(Current {
            key,
            members: generation.members.iter().map(|peer| (peer.member, peer.slot)).collect(),
            phase: Phase::Entered,
        });
        drop(copying);
        let is_member = |peer: &MemberId| generation.members.iter().any(|member| member.member == *peer);
        let left = state
            .links
            .extract_if(|peer, link| !is_member(peer) && link.serves() < key.generation);
        let left: Vec<Arc<Link>> = left.map(|(_, link)| link).collect();
        state
            .links
            .retain(|_, link| !link.is_broken() || link.serves() == key.generation);
        drop(state);
        // Whoever is not in it may hang, and whoever writes to it would wait.
        left.iter().for_each(|link| link.close());
        self.changed.notify_all();
        if changes {
            self.reach(Point::Recovery(recovery));
        }
    }

    /// The link to a peer: the one that is there, a new one to those that joined before, or the one that a later one
    /// opens. `None` once the generation is over.
    pub(super) fn open(self: &Arc<Self>, me: MemberId, key: RoundKey, peer: &Peer) -> Option<Arc<Link>> {
        let generation = key.generation;
        let mut state = lock(self);
        loop {
            if state.is_over(key) {
                return None;
            }
            match state.links.get(&peer.member) {
                Some(link) if !link.is_broken() => {
                    link.serve(generation);
                    return Some(Arc::clone(link));
                }
                // The other end may have ended this round before the link broke: it would never open another one in
                // this generation.
                Some(link) if link.serves() == generation => {
                    let stood = link.age();
                    drop(state);
                    let cause = "the link broke between two rounds".to_owned();
                    self.unreachable(generation, (peer.member, stood), cause);
                    return None;
                }
                _ => {}
            }
            if peer.member < me {
                break;
            }
            state = self.changed.wait(state).unpoisoned();
        }
        drop(state);
        match self.connect(me, generation, peer) {
            Ok(link) => Some(link),
            Err(cause) => {
                self.unreachable(generation, (peer.member, Duration::ZERO), cause);
                None
            }
        }
    }

    pub(super) fn connect(
        self: &Arc<Self>,
        me: MemberId,
        generation: u64,
        peer: &Peer,
    ) -> std::result::Result<Arc<Link>, String> {
        let socket = socket::connect(&peer.address, CONNECT_TIMEOUT).map_err(|error| error.to_string())?;
        let run = {
            let mut state = lock(self);
            if state.cut >= generation {
                return Err("the generation is over".to_owned());
            }
            state.connecting = socket.try_clone().ok();
            state.run
        };
        let mine = Mine {
            purpose: Purpose::Link,
            run,
            generation,
            member: Some(me),
            peer: Some(peer.member),
            time_max: CONNECT_TIMEOUT,
        };
        let shaken = handshake::initiate(&socket, &self.credentials, &mine);
        lock(self).connecting = None;
        shaken.map_err(|refused| refused.to_string())?;
        Ok(self.adopt(peer.member, generation, socket))
    }

    pub(super) fn unreachable(&self, generation: u64, (peer, stood): (MemberId, Duration), cause: String) {
        let mut state = lock(self);
        if state.cut >= generation || state.closed.is_some() {
            return;
        }
        state.cut = generation;
        drop(state);
        self.report(&Report::PeerLost {
            generation,
            peer,
            stood,
            cause,
        });
    }

    /// Takes a link into use; its frames are read from now on.
    pub(super) fn adopt(self: &Arc<Self>, peer: MemberId, generation: u64, socket: Socket) -> Arc<Link> {
        let link = Arc::new(Link::new(peer, socket));
        link.serve(generation);
        let mut state = lock(self);
        if state.closed.is_some() {
            link.close();
        }
        if let Some(old) = state.links.insert(peer, Arc::clone(&link)) {
            old.close();
        }
        drop(state);
        let reading = Arc::clone(&link);
        if spawn("link", self, move |shared| shared.read_link(&reading)).is_err() {
            link.close();
        }
        self.changed.notify_all();
        link
    }

    pub(super) fn read_link(&self, link: &Link) {
        // What comes may make room, and so write and drop records: a panic of theirs must not leave a link that nobody
        // reads.
        let read = catch_unwind(AssertUnwindSafe(|| self.read_frames(link)));
        let cause = match read {
            Ok(error) => error.to_string(),
            Err(panic) => format!("what came on it made a panic: {}", panic_text(&*panic)),
        };
        self.lost(link, &cause);
    }

    fn read_frames(&self, link: &Link) -> WireError {
        link.read(&self.limits, &mut |header, body| match header.kind {
            Kind::BlockRequest | Kind::BlockCopy => {
                let payload = body.take_bytes()?;
                lock(self).wanted.push_back((link.peer, header.clone(), payload));
                self.changed.notify_all();
                Ok(())
            }
            Kind::Block => {
                let bytes = body.take_bytes()?;
                let found = blocks::found(header.words[3], bytes);
                if let Some(fetch) = lock(self).fetches.get_mut(&header.words[2])
                    && matches!(fetch, Fetch::Waiting(peer) if *peer == link.peer)
                {
                    *fetch = Fetch::Done(found);
                }
                self.changed.notify_all();
                Ok(())
            }
            _ => match self.receiver(RoundKey::of(header), link) {
                Some((rank, receiver)) => receiver.receive(rank, header, body),
                None => Ok(()),
            },
        })
    }

    /// Who takes a frame: waits until its round has begun here; nobody if the round is over.
    pub(super) fn receiver(&self, key: RoundKey, link: &Link) -> Option<(usize, Arc<dyn Receive>)> {
        let mut state = lock(self);
        loop {
            if link.is_broken() || state.is_over(key) {
                return None;
            }
            if let Some(current) = &state.current {
                if current.key > key {
                    return None;
                }
                match &current.phase {
                    Phase::Begun(receiver) if current.key == key => {
                        let rank = current.rank(link.peer)?;
                        return Some((rank, Arc::clone(receiver)));
                    }
                    Phase::Over if current.key == key => return None,
                    _ => {}
                }
            }
            state = self.changed.wait(state).unpoisoned();
        }
    }

    /// Takes links from members that joined later.
    pub(super) fn accept(self: Arc<Self>) {
        let Some(listener) = lock(&self).listener.clone() else {
            return;
        };
        let (permits, turned_away) = (Arc::<HandshakePermits>::default(), Arc::<TurnedAway>::default());
        loop {
            let Some(socket) = listener.next() else { return };
            let permit = permits.take();
            if lock(&self).closed.is_some() {
                return;
            }
            let (peer, telling) = (socket.peer(), Arc::clone(&turned_away));
            let started = spawn("handshake", &self, move |shared| {
                let peer = socket.peer();
                let welcomed = shared.welcome(&socket, &permit);
                drop(permit);
                if welcomed.is_ok() {
                    telling.let_in();
                }
                match welcomed {
                    Ok((
                        _,
                        Theirs {
                            purpose: Purpose::Questions,
                            ..
                        },
                    )) => shared.answer_questions(socket),
                    Ok((peer, theirs)) => drop(shared.adopt(peer, theirs.generation, socket)),
                    Err(refused) => telling.tell(&peer, &refused),
                }
            });
            if let Err(error) = started {
                turned_away.tell(&peer, &error);
            }
        }
    }

    pub(super) fn welcome(&self, socket: &Socket, permit: &Permit) -> std::result::Result<(MemberId, Theirs), Refused> {
        let (id, run, generation) = {
            let state = lock(self);
            (state.id, state.run, state.generation())
        };
        let mine = Mine {
            purpose: Purpose::Link,
            run,
            generation,
            member: id,
            peer: None,
            time_max: CONNECT_TIMEOUT,
        };
        let check = |theirs: &Theirs| {
            if theirs.purpose == Purpose::Link && theirs.generation < generation {
                return Err(Refused::Generation {
                    expected: generation,
                    theirs: theirs.generation,
                });
            }
            Ok(())
        };
        let theirs = handshake::accept(socket, &self.credentials, &mine, permit, check)?;
        let peer = theirs.member.ok_or(Refused::WrongMember)?;
        Ok((peer, theirs))
    }

    /// Breaks the link to the member in a slot, as a fault of the network would.
    pub(super) fn cut_link(&self, peer_slot: u32) {
        let state = lock(self);
        let current = state.current.as_ref();
        let peer = current.and_then(|current| current.members.iter().find(|(_, slot)| *slot == peer_slot));
        if let Some(link) = peer.and_then(|(peer, _)| state.links.get(peer)) {
            link.close();
        }
    }

    /// The generation is over.
    pub(super) fn cut(&self, generation: u64, lost: &[MemberId]) {
        self.peer_cache.lost(lost);
        let mut state = lock(self);
        state.cut = state.cut.max(generation);
        for member in lost {
            if let Some(link) = state.links.remove(member) {
                link.close();
            }
        }
        if let Some(connecting) = state.connecting.take() {
            connecting.shutdown();
        }
        self.interrupt(state, |key| key.generation <= generation);
    }

    /// An action is over, perhaps by an error elsewhere while a round of it runs here or is about to.
    pub(super) fn answered(&self, action: u64) {
        let mut state = lock(self);
        state.answered = state.answered.max(action + 1);
        // A name node that was started again may tell an answer that the driver program had before.
        self.interrupt(state, |key| key.action <= action);
    }

    /// Cancels the round that runs here, if it is `meant`, and wakes all who wait.
    fn interrupt(&self, state: MutexGuard<'_, State>, meant: impl Fn(&RoundKey) -> bool) {
        let concerned = state.current.as_ref().is_some_and(|current| meant(&current.key));
        let receiver = state.receiver().filter(|_| concerned);
        drop(state);
        self.changed.notify_all();
        if let Some(receiver) = receiver {
            receiver.cancel();
        }
    }
}
