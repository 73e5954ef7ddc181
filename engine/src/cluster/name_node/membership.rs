//! Who comes and who goes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::slot::{SlotState, Start};
use super::{ConnectionId, Effect, Member, MemberLoss, NameNode, Options};
use crate::cluster::arithmetic::Arithmetic;
use crate::cluster::dismissal::Dismissal;
use crate::cluster::events::Happening;
use crate::cluster::identity::MemberId;
use crate::cluster::journal::LogEntry;
use crate::cluster::protocol::{FormerMember, HEARTBEATS_PER_LEASE, Inventory, LoopState, Order, Peer};

/// Generations in which the link between two members may fail, each not long behind the one before, before one of them
/// has to go.
const STRIKES_MAX: usize = 3;

/// A failure longer ago than this is another matter than the next one of that link: one that can never be made fails
/// again as soon as it was tried.
const STRIKE_AGE_MAX: Duration = Duration::from_secs(120);

/// Failures of the link between two members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Strikes {
    generations: BTreeSet<u64>,
    /// When the newest one was told.
    newest: Duration,
}

/// Members and generations that no cluster comes to: whoever names a number from here on was not given it.
const NUMBERS_MAX: u64 = 1 << 48;

/// What has come is read within this time, even where there is much to do.
const HEARD_WITHIN: Duration = Duration::from_millis(100);

/// Who is looked for so much of a lease late was perhaps heard meanwhile.
const LATE_PART: u32 = 100;

/// A process that is to be let in.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) connection: ConnectionId,
    /// The slot that it asks for.
    pub(super) asked: Option<u32>,
    pub(super) peer: Peer,
    pub(super) process: u32,
    pub(super) arithmetic: Arithmetic,
}

impl Member {
    /// Its slot and process, for people.
    pub(super) fn named(&self) -> String {
        format!("slot {} (process {})", self.peer.slot, self.process)
    }
}

impl NameNode {
    pub(super) fn joined(&mut self, newcomer: Newcomer, known: Option<FormerMember>) {
        let Newcomer {
            connection,
            asked,
            arithmetic,
            ..
        } = newcomer;
        let unlike = self.arithmetic.is_some_and(|first| first != arithmetic);
        if let Some(FormerMember {
            member,
            generation,
            run,
        }) = known
        {
            if self.run != Some(run) {
                return self.dismiss(connection, Dismissal::EarlierRun);
            }
            if member.0.max(generation) >= NUMBERS_MAX {
                // Numbers go on above those that are named here, and would come to an end.
                return self.effects.push(Effect::Close { connection });
            }
            self.member_next = self.member_next.max(member.0 + 1);
            self.generation_next = self.generation_next.max(generation + 1);
            if generation > self.generation.number && !self.finishing {
                return self.ahead(connection, member);
            }
            match self.members.get(&member).map(|member| member.connection) {
                Some(None) if unlike => return self.dismiss(connection, Dismissal::Unlike),
                Some(None) => return self.found_again(connection, member, newcomer.peer, newcomer.process),
                Some(Some(_)) => return self.dismiss(connection, Dismissal::Connected(member)),
                // It would be nobody else any more, and its place is for the process that comes instead.
                None if generation > 0 && !self.finishing => return self.dismiss(connection, Dismissal::Lost(member)),
                None => {}
            }
        }
        if self.finishing {
            return self.dismiss(connection, Dismissal::Over);
        }
        if unlike {
            if let Some(slot) = asked.and_then(|slot| self.slots.get_mut(slot))
                && matches!(slot.state, SlotState::Starting(_))
            {
                // Another process on that host would be no other.
                slot.state = SlotState::Empty;
            }
            return self.dismiss(connection, Dismissal::Unlike);
        }
        match self.slots.free(asked) {
            Some(slot) => {
                self.arithmetic.get_or_insert(arithmetic);
                self.admit(slot, newcomer);
            }
            // One of those that are expected back may not come, as where all were killed and are started again.
            None if self.members.values().any(|member| member.connection.is_none()) => {
                self.newcomers.push(newcomer);
            }
            None => self.dismiss(connection, Dismissal::Full),
        }
    }

    /// Who waits for a place is let in, is told that there is none, or waits on.
    pub(super) fn look_after_newcomers(&mut self) {
        for newcomer in std::mem::take(&mut self.newcomers) {
            self.joined(newcomer, None);
        }
    }

    fn dismiss(&mut self, connection: ConnectionId, reason: Dismissal) {
        self.note(Happening::Dismissed { reason: reason.clone() });
        self.effects.push(Effect::Send {
            connection,
            order: Order::Dismiss { reason },
        });
        self.effects.push(Effect::Close { connection });
    }

    /// To a member that took part in what the journal has lost: what it does nobody waits for, and what it would be
    /// ordered it takes for something that it has done.
    fn ahead(&mut self, connection: ConnectionId, member: MemberId) {
        self.dismiss(connection, Dismissal::Ahead(member));
        if self
            .members
            .get(&member)
            .is_some_and(|member| member.connection.is_none())
        {
            self.lose(member, "it is further than the journal");
        }
    }

    fn admit(&mut self, slot: u32, newcomer: Newcomer) {
        let Newcomer {
            connection,
            peer,
            process,
            arithmetic,
            ..
        } = newcomer;
        let member = MemberId(self.member_next);
        self.member_next = self.member_next.saturating_add(1);
        self.log(LogEntry::Joined { member, arithmetic });
        self.slots.fill(slot, member, self.now);
        if self.members.is_empty() && !self.options.starts_processes {
            // Whoever starts the others could not begin before.
            (self.gathering, self.told_of_waiting) = (Some(self.now), false);
        }
        let entry = Member {
            peer: Peer { member, slot, ..peer },
            process,
            connection: Some(connection),
            heard: self.now,
            doubted: false,
            arrived: false,
            held: Inventory::new(),
            state: LoopState::default(),
            lane_micros: None,
            task_micros: None,
        };
        self.members.insert(member, entry);
        self.welcome(connection, member, slot, process, false);
    }

    /// A member of the time before the name node was started again.
    fn found_again(&mut self, connection: ConnectionId, member: MemberId, peer: Peer, process: u32) {
        let Some(entry) = self.members.get_mut(&member) else {
            return;
        };
        if entry.peer.address != peer.address {
            return self.dismiss(connection, Dismissal::Moved(member));
        }
        entry.connection = Some(connection);
        entry.hear(self.now);
        entry.process = process;
        let slot = entry.peer.slot;
        self.welcome(connection, member, slot, process, true);
    }

    fn welcome(&mut self, connection: ConnectionId, member: MemberId, slot: u32, process: u32, known: bool) {
        self.connections.insert(connection, member);
        let (lease, run) = (self.options.lease, self.run.unwrap_or_default());
        let welcome = Order::Welcome {
            member,
            slot,
            lease,
            run,
        };
        self.send(member, welcome);
        self.note(Happening::Joined {
            member,
            slot,
            process,
            known,
        });
    }

    /// The driver program of a member ended.
    pub(super) fn left(&mut self, member: MemberId, error: Option<String>) {
        let Some(entry) = self.members.get(&member) else { return };
        let slot = entry.peer.slot;
        let failure = self.failure.as_deref();
        let is_of_all = failure.is_some_and(|failure| error.as_ref().is_some_and(|error| error.contains(failure)));
        self.note(Happening::Left {
            member,
            slot,
            error: error.clone(),
            is_of_all,
        });
        if error.is_none() && !self.finishing {
            self.finishing = true;
            self.slots.start_no_more();
            self.log(LogEntry::Finishing);
        }
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.error = error.map(|error| (self.now, error));
            slot.cause = slot.error.as_ref().map(|(_, error)| error.clone());
        }
        self.take_out(member, "its driver program ended", Some(Dismissal::Over));
    }

    /// A member is gone, or is made to go.
    pub(super) fn lose(&mut self, member: MemberId, cause: &str) {
        let Some(entry) = self.members.get(&member) else { return };
        let (slot, process) = (entry.peer.slot, entry.process);
        let known = self.slots.get_mut(slot).and_then(|slot| slot.cause.clone());
        let cause = known.map_or_else(|| cause.to_owned(), |known| format!("{cause}; {known}"));
        self.note(Happening::Lost {
            member,
            slot,
            process,
            cause: cause.clone(),
        });
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.cause = Some(cause.clone());
        }
        self.effects.push(Effect::Kill { slot });
        // Who has taken part in nothing may come back as somebody else.
        let word = self.is_active(member).then(|| Dismissal::TakenForLost {
            member,
            cause: cause.clone(),
        });
        self.take_out(member, &cause, word);
    }

    /// The last `word` is for the member.
    fn take_out(&mut self, member: MemberId, cause: &str, word: Option<Dismissal>) {
        self.holds_no_more(member);
        let Some(entry) = self.members.remove(&member) else {
            return;
        };
        self.log(LogEntry::Lost { member });
        if let Some(connection) = entry.connection {
            self.connections.remove(&connection);
            if let Some(reason) = word {
                let order = Order::Dismiss { reason };
                self.effects.push(Effect::Send { connection, order });
            }
            self.effects.push(Effect::Close { connection });
        }
        self.strikes
            .retain(|(one, other), _| *one != member && *other != member);
        self.vacate(entry.peer.slot);
        if !self.is_active(member) {
            return;
        }
        let cause = format!("{member} (slot {}) is gone: {cause}", entry.peer.slot);
        let at = self.now;
        self.loss.get_or_insert(MemberLoss { at, cause });
        if let Some(action) = &mut self.action {
            action.loss = true;
        }
        if self.active().next().is_none() {
            self.gathering.get_or_insert(self.now);
        }
        if !self.cut() {
            self.cut_again();
        }
    }

    /// A member's connection is closed: mostly its process has ended by itself, and how is known a little later.
    pub(super) fn lose_closed(&mut self, member: MemberId) {
        let closed = self.members.get(&member).map(|entry| (entry.peer.slot, entry.process));
        self.lose(member, "its connection was closed");
        if let Some((slot, process)) = closed
            && let Some(slot) = self.slots.get_mut(slot)
        {
            slot.closed = Some(process);
        }
    }

    fn vacate(&mut self, slot: u32) {
        if !self.finishing {
            let waits = |member: &Member| member.arrived && !self.is_active(member.peer.member);
            let spare = self.active().next().is_some() && self.members.values().any(waits);
            if !self.slots.vacate(slot, self.now, spare) {
                self.starts_no_more(slot);
            }
        } else if let Some(slot) = self.slots.get_mut(slot) {
            slot.state = SlotState::Empty;
        }
    }

    fn starts_no_more(&mut self, slot: u32) {
        let restarts = self.options.restarts_max;
        self.note(Happening::StartsNoMore { slot, restarts });
    }

    /// A process ended. If it was a member, its connection closes too, after the last that it said.
    pub(super) fn exited(&mut self, slot: u32, process: Option<u32>, cause: String) {
        let closed = self.slots.get_mut(slot).map(|slot| &mut slot.closed);
        let by_itself = closed.is_some_and(|closed| {
            let is_that = |closed: &mut u32| process.is_none_or(|process| process == *closed);
            closed.take_if(is_that).is_some()
        });
        let unjoined = self.slots.exited(slot, cause.clone());
        self.note(Happening::Exited {
            slot,
            process,
            cause,
            is_unexplained: (by_itself || unjoined) && !self.finishing,
        });
        if unjoined {
            self.vacate(slot);
        }
    }

    pub(super) fn start_due(&mut self) {
        let due = self.slots.take_due(self.now, self.others_go_on());
        for (slot, start) in due {
            if start == Start::NoMore {
                self.starts_no_more(slot);
                continue;
            }
            let (restarts_left, restarts) = (self.slots.restarts_left(), self.options.restarts_max);
            self.note(Happening::Started {
                slot,
                again: start == Start::Again,
                restarts_left,
                restarts,
            });
            self.effects.push(Effect::Start { slot });
        }
    }

    /// Whether a member has come to the action that the cluster is at: then the program goes on.
    pub(super) fn others_go_on(&self) -> bool {
        self.action.is_some() && self.members.values().any(|member| member.arrived)
    }

    /// What time has brought about. `expected` is when this was to be called.
    pub(super) fn tick(&mut self, expected: Option<Duration>) {
        let Options {
            lease,
            cut_patience,
            start_patience,
            ..
        } = self.options;
        let silent = |member: &Member| member.heard + lease <= self.now;
        if expected.is_some_and(|expected| self.now > expected + lease / LATE_PART) {
            // This process itself was away: what the others have sent may be unread. They have until the next
            // heartbeat, once.
            let (now, more) = (self.now, (lease / HEARTBEATS_PER_LEASE).max(HEARD_WITHIN).min(lease));
            for member in self
                .members
                .values_mut()
                .filter(|member| silent(member) && !member.doubted)
            {
                (member.heard, member.doubted) = (now + more - lease, true);
            }
        }
        let silent: Vec<MemberId> = self
            .members
            .values()
            .filter(|m| silent(m))
            .map(|m| m.peer.member)
            .collect();
        for member in silent {
            let known = self
                .members
                .get(&member)
                .is_some_and(|member| member.connection.is_some());
            let heard = if known {
                "nothing was heard of it"
            } else {
                "it did not come back to the new name node"
            };
            self.lose(member, &format!("{heard} for {lease:?}"));
        }
        if self
            .round
            .as_ref()
            .and_then(|round| round.cut)
            .is_some_and(|since| since + cut_patience <= self.now)
        {
            for member in self.still_running() {
                self.lose(
                    member,
                    &format!("it did not stop for {cut_patience:?} after a round was cut"),
                );
            }
        }
        for slot in self.slots.overdue(self.now, start_patience) {
            if let Some(slot) = self.slots.get_mut(slot) {
                slot.cause = Some(format!("it was started and did not join for {start_patience:?}"));
            }
            self.effects.push(Effect::Kill { slot });
            self.vacate(slot);
        }
    }

    /// The link between two members that live is broken: the same members go on in a new generation, until that has
    /// not helped too often.
    pub(super) fn link_failed(
        &mut self,
        member: MemberId,
        generation: u64,
        (peer, stood): (MemberId, Duration),
        cause: &str,
    ) {
        let current = generation == self.generation.number && self.is_active(member) && self.is_active(peer);
        if !current || !self.members.contains_key(&peer) || member == peer {
            return;
        }
        let cause = format!("the link between {member} and {peer} failed: {cause}");
        let (at, pair) = (self.now, (member.min(peer), member.max(peer)));
        // What counts is the link: a round lasts longer than a lease where one is tried in vain.
        let strikes = self.strikes.entry(pair).or_default();
        if stood > self.options.lease || strikes.newest + STRIKE_AGE_MAX < at {
            strikes.generations.clear();
        }
        strikes.generations.insert(generation);
        strikes.newest = at;
        let out = strikes.generations.len() >= STRIKES_MAX;
        self.loss.get_or_insert_with(|| MemberLoss {
            at,
            cause: cause.clone(),
        });
        self.broken.get_or_insert(cause);
        if out {
            let slot = |member: &MemberId| self.members.get(member).map(|member| member.peer.slot);
            let higher = if slot(&member) > slot(&peer) { member } else { peer };
            self.lose(higher, &format!("its links failed in {STRIKES_MAX} generations"));
        }
        self.cut();
    }

    /// Whether, where others start the processes, one has failed and no other has come for long.
    fn has_failed(&self) -> bool {
        let failed = !self.options.starts_processes && self.slots.first_error().is_some();
        failed && self.patience_ends().all(|end| end <= self.now)
    }

    pub(super) fn finish_if_over(&mut self) {
        let comes = self.slots.somebody_comes() && !self.finishing && !self.has_failed();
        if self.done || !self.members.is_empty() || comes {
            return;
        }
        let error = self.slots.first_error();
        let causes = self.slots.causes();
        let used_up = match self.options.starts_processes && self.slots.restarts_left() == 0 {
            true => format!(" (`--restarts {}` is used up)", self.options.restarts_max),
            false => String::new(),
        };
        let nobody = || format!("no process is left, and none may be started any more{used_up}; {causes}");
        let error = if self.finishing {
            error
        } else {
            Some(error.unwrap_or_else(nobody))
        };
        let starting = self
            .slots
            .iter()
            .filter(|(_, slot)| matches!(slot.state, SlotState::Starting(_)));
        let starting: Vec<u32> = starting.map(|(number, _)| number).collect();
        self.effects
            .extend(starting.into_iter().map(|slot| Effect::Kill { slot }));
        if self.finishing {
            self.log(LogEntry::Over);
        }
        self.note(Happening::Finished { error: error.clone() });
        self.effects.push(Effect::Finish { error });
        self.done = true;
    }
}
