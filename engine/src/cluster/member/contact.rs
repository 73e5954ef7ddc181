//! The control connection: joining, reporting, obeying, and finding a name node again that was started again.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use distdl_storage::Unpoisoned;

use super::{CONNECT_TIMEOUT, END_TIME_MAX, Shared, State, lock};
use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::control::{self, JOIN_BYTES_MAX, MESSAGE_BYTES_MAX};
use crate::cluster::dismissal::Dismissal;
use crate::cluster::handshake::{self, Mine, Refused};
use crate::cluster::identity::{Address, MemberId};
use crate::cluster::protocol::{FormerMember, Order, Report};
use crate::cluster::socket::{self, Listener, Socket};
use crate::config::TIME_MAX;

/// What a process can do for the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// Its worker threads.
    pub threads: usize,
    /// Whether it says when it has ended a task, and copies those of others.
    pub speculates: bool,
    /// Of its machine, or of any where they may differ.
    pub arithmetic: Arithmetic,
}

/// When the host of the name node is gone, or cannot be reached, that is noticed after so long.
const NAME_NODE_SILENCE_MAX: Duration = Duration::from_secs(30);

/// How long nobody tries after a name node was not reached: at first, and at most.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(50)];

/// Connections in a row that a name node may close without a reason before it counts as one that wants nothing of this
/// process.
const CLOSED_MAX: u32 = 3;

/// What a connection is that the name node has closed without a word.
const ENDED: &str = "the name node has ended, or has taken this process for lost before it took part in anything";

/// Why nobody listens to a name node any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    #[error("the name node dismissed this process: {0}")]
    Dismissed(Dismissal),
    #[error("{0}")]
    Broken(String),
}

/// Why a name node was not joined.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missed {
    /// It is not there, or the connection broke: it may be there the next time.
    #[error("{0}")]
    Away(String),
    /// It closed the connection and gave no reason.
    #[error("{0}")]
    Closed(String),
    /// It takes this process for a stranger.
    #[error("{0}")]
    Refused(String),
    /// It does not want this process.
    #[error("the name node dismissed this process: {0}")]
    Dismissed(Dismissal),
}

/// What a name node says to a process that it lets in.
pub(super) struct Admission {
    /// Who it is now.
    pub(super) member: MemberId,
    pub(super) lease: Duration,
    pub(super) run: u64,
}

/// What is said once of a name node that is gone.
fn looks_for(reason: &str, name_node: &Address, grace: Duration) -> String {
    format!("{reason}; looking for another one at {name_node} for {grace:?} (`--name-grace`)")
}

/// What is said in the end, if none has come.
fn not_found(reason: String, name_node: &Address, grace: Duration, missed: Option<&Missed>) -> String {
    if grace.is_zero() {
        // The name node is the parent: there will be no other.
        return reason;
    }
    let why = missed.map_or_else(String::new, |missed| format!(": {missed}"));
    format!("{reason}, and no other one was found at {name_node} for {grace:?} (`--name-grace`){why}")
}

impl Shared {
    /// Joins for the first time. The processes of a cluster are started in any order, so a name node that is not there
    /// yet is waited for.
    pub(super) fn contact_first(
        &self,
        listener: &Listener,
        capacity: Capacity,
    ) -> std::result::Result<(Arc<Socket>, Admission), Missed> {
        let patience = self.join.name_node_grace.max(CONNECT_TIMEOUT);
        let deadline = Instant::now() + patience;
        let [first, longest] = PAUSES;
        let (mut pause, mut closed, mut is_known_to_wait) = (first, 0, false);
        loop {
            let joined = self.contact(listener, capacity, None, deadline);
            closed = match &joined {
                _ if Instant::now() + pause >= deadline => return joined,
                Err(Missed::Away(reason)) => {
                    if !std::mem::replace(&mut is_known_to_wait, true) {
                        tracing::warn!("{reason}; trying again for {patience:?}");
                    }
                    0
                }
                // Perhaps one that is dying. One that takes this process for a stranger says no more either.
                Err(Missed::Closed(_)) if closed < CLOSED_MAX => closed + 1,
                _ => return joined,
            };
            std::thread::sleep(pause);
            pause = (pause * 2).min(longest);
        }
    }

    /// Connects to the name node and joins.
    fn contact(
        &self,
        listener: &Listener,
        capacity: Capacity,
        known: Option<FormerMember>,
        deadline: Instant,
    ) -> std::result::Result<(Arc<Socket>, Admission), Missed> {
        let name = &self.join.name_node;
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        let socket = socket::connect(name, left.min(CONNECT_TIMEOUT))
            .map_err(|error| Missed::Away(format!("cannot reach the name node at {name}: {error}")))?;
        // It reads all the time, and heartbeats are sent all the time.
        socket.set_user_timeout(NAME_NODE_SILENCE_MAX);
        let mine = Mine {
            generation: known.map_or(0, |known| known.generation),
            member: known.map(|known| known.member),
            ..Mine::of_nobody(left.min(CONNECT_TIMEOUT))
        };
        let turned_away = |refused| format!("the name node at {name} turned this process away: {refused}");
        handshake::initiate(&socket, &self.credentials, &mine).map_err(|refused| match refused {
            Refused::Timeout | Refused::Io(_) => Missed::Away(format!("the name node at {name}: {refused}")),
            Refused::Closed => Missed::Closed(turned_away(refused)),
            _ => Missed::Refused(turned_away(refused)),
        })?;
        let join = Report::Join {
            slot: self.join.slot,
            known,
            address: listener.address(),
            threads: capacity.threads as u32,
            speculates: capacity.speculates,
            role: self.join.role,
            process: std::process::id(),
            arithmetic: capacity.arithmetic,
        };
        let sent = control::send(&socket, &join, JOIN_BYTES_MAX);
        // One that ends at this moment has said why, and reads no more.
        match control::receive(&socket, JOIN_BYTES_MAX) {
            Ok(Some(Order::Welcome { member, lease, run, .. })) => {
                let lease = lease.min(TIME_MAX);
                Ok((Arc::new(socket), Admission { member, lease, run }))
            }
            Ok(Some(Order::Dismiss { reason })) => Err(Missed::Dismissed(reason)),
            Ok(_) => Err(Missed::Away("the name node ended the connection".to_owned())),
            Err(error) => Err(Missed::Away(sent.err().unwrap_or(error).to_string())),
        }
    }

    /// Listens to the name node until it is gone for good.
    pub(super) fn obey(&self, listener: &Listener, capacity: Capacity, mut socket: Arc<Socket>, orders: Sender<Order>) {
        loop {
            let gone = self.listen(&socket, &orders);
            if lock(self).closed.is_some() {
                return;
            }
            let gone = match gone {
                Gone::Broken(reason) => self.find_again(listener, capacity, reason),
                dismissed => Err(dismissed),
            };
            match gone {
                Ok(again) => socket = again,
                Err(gone) => {
                    lock(self).heard = matches!(gone, Gone::Dismissed(Dismissal::Over));
                    self.close(&gone.to_string());
                    // The driver program may be waiting for one.
                    drop(orders);
                    return self.end_process(&gone);
                }
            }
        }
    }

    /// Ends this process, if that is wanted and its driver program does not end. It may be in a closure that never
    /// returns, and who has started the process may only have the client of a remote shell to end.
    fn end_process(&self, gone: &Gone) {
        let goes_on = |state: &mut State| state.ends_process && state.last.is_none();
        let waited = self.changed.wait_timeout_while(lock(self), END_TIME_MAX, goes_on);
        if waited.unpoisoned().1.timed_out() {
            let why = format!("error: {gone}; the program did not end within {END_TIME_MAX:?}, so its process does");
            // It ends also where nobody can be told.
            let _ = writeln!(std::io::stderr(), "{why}");
            std::process::exit(1);
        }
    }

    fn listen(&self, socket: &Socket, orders: &Sender<Order>) -> Gone {
        loop {
            let order = match control::receive(socket, MESSAGE_BYTES_MAX) {
                Ok(Some(order)) => order,
                Ok(None) => return Gone::Broken(ENDED.to_owned()),
                Err(error) => return Gone::Broken(format!("the connection to the name node failed: {error}")),
            };
            match order {
                Order::Cut { generation, lost } => self.cut(generation, &lost),
                Order::Dismiss { reason } => return Gone::Dismissed(reason),
                Order::Welcome { .. } => {}
                Order::CacheFilter { .. } | Order::Found { .. } | Order::Read { .. } | Order::Notices { .. } => {
                    self.hear_of_caches(order);
                }
                Order::Begin { .. } | Order::Answer { .. } => {
                    if let Order::Answer { action, .. } = &order {
                        self.answered(*action);
                    }
                    // The driver program may have ended; then nobody waits for orders.
                    let _ = orders.send(order);
                }
            }
        }
    }

    /// Looks for a name node that is started again, and says again what it may not know.
    pub(super) fn find_again(
        &self,
        listener: &Listener,
        capacity: Capacity,
        reason: String,
    ) -> std::result::Result<Arc<Socket>, Gone> {
        let grace = self.join.name_node_grace;
        let deadline = Instant::now() + grace;
        if !grace.is_zero() {
            tracing::warn!("{}", looks_for(&reason, &self.join.name_node, grace));
        }
        let known = {
            let mut state = lock(self);
            state.control = None;
            let generation = state.current.as_ref().map_or(0, |current| current.key.generation);
            let run = state.run;
            state.id.map(|member| FormerMember {
                member,
                generation,
                run,
            })
        };
        self.peer_cache.forget_questions();
        let [mut pause, longest] = PAUSES;
        let mut missed = None;
        while Instant::now() < deadline {
            let contact = self.contact(listener, capacity, known, deadline);
            if let Ok((socket, Admission { member: id, .. })) = contact {
                let mut state = lock(self);
                if let Some(closed) = &state.closed {
                    return Err(Gone::Broken(closed.clone()));
                }
                // From here on it counts the time since it has heard of this process.
                state.found = Some(Arc::clone(&socket));
                drop(state);
                let said = self.said();
                // What others say meanwhile comes after what is said again: the name node takes what comes last for
                // what is so.
                let mut speaker = self.speaker();
                speaker.told = 0;
                let mut state = lock(self);
                state.found = None;
                if let Some(closed) = &state.closed {
                    return Err(Gone::Broken(closed.clone()));
                }
                if state.current.is_none() {
                    // It has taken part in nothing yet, so it may be whoever it is taken for.
                    state.id = Some(id);
                }
                if state.id != Some(id) {
                    // What it has computed counts for nothing any more; it is started again as somebody else.
                    let reason = "the name node was started again and does not know this process";
                    return Err(Gone::Broken(reason.to_owned()));
                }
                state.control = Some(Arc::clone(&socket));
                let again = [&state.arrival, &state.ended, &state.cancel, &state.last].map(Clone::clone);
                drop(state);
                // First what is here: others would fetch that once this process has come to an action.
                self.tell_filter(&mut speaker);
                self.tell_figures(&mut speaker, said);
                for report in again.iter().flatten() {
                    self.say(&mut speaker, report);
                }
                return Ok(socket);
            }
            match contact {
                // A connection that has broken here first is gone there soon.
                Err(Missed::Dismissed(Dismissal::Connected(_))) => {}
                Err(Missed::Dismissed(reason)) => return Err(Gone::Dismissed(reason)),
                Err(why) => missed = Some(why),
                Ok(_) => {}
            }
            let state = lock(self);
            if let Some(closed) = &state.closed {
                return Err(Gone::Broken(closed.clone()));
            }
            let _ = self.changed.wait_timeout(state, pause);
            pause = (pause * 2).min(longest);
        }
        Err(Gone::Broken(not_found(
            reason,
            &self.join.name_node,
            grace,
            missed.as_ref(),
        )))
    }

    pub(super) fn beat(&self, interval: Duration) {
        let mut state = lock(self);
        // A connection that the name node closed with a heartbeat unread would be reset, perhaps before its last word
        // was read.
        while state.closed.is_none() && state.last.is_none() {
            drop(state);
            let step = self.progress.load(Ordering::Relaxed).checked_sub(1);
            let lane_micros = Some(self.lane_micros.load(Ordering::Relaxed)).filter(|micros| *micros > 0);
            let tell = lock(self).tell.clone();
            let job = tell.and_then(|tell| tell());
            self.report_at_once(&Report::Heartbeat { step, lane_micros, job });
            state = lock(self);
            let deadline = Instant::now() + interval;
            while state.closed.is_none()
                && let Some(left) = deadline.checked_duration_since(Instant::now())
            {
                state = self.changed.wait_timeout(state, left).unpoisoned().0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_for_a_name_node_says_where_and_for_how_long() {
        let (gone, at) = ("the connection broke", Address::Tcp(([10, 0, 0, 1], 80).into()));
        let grace = Duration::from_secs(30);
        assert_eq!(
            looks_for(gone, &at, grace),
            "the connection broke; looking for another one at 10.0.0.1:80 for 30s (`--name-grace`)"
        );
        let missed = Missed::Refused("it has another secret".to_owned());
        assert_eq!(
            not_found(gone.to_owned(), &at, grace, Some(&missed)),
            "the connection broke, and no other one was found at 10.0.0.1:80 for 30s (`--name-grace`): it has another \
             secret"
        );
        assert_eq!(
            not_found(gone.to_owned(), &at, grace, None),
            "the connection broke, and no other one was found at 10.0.0.1:80 for 30s (`--name-grace`)"
        );
        assert_eq!(not_found(gone.to_owned(), &at, Duration::ZERO, None), gone);
    }
}
