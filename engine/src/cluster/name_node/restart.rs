//! The name node after it was started again: what its log says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::slot::{SlotState, Slots};
use super::{Action, CacheDirectory, Member, Moves, NameNode, Options, Round};
use crate::cluster::identity::MemberId;
use crate::cluster::journal::{Collected, LogEntry};
use crate::cluster::protocol::{Answer, Generation, Head, Inventory, LoopState, Peer, Work};

impl NameNode {
    /// The name node of the cluster that wrote `entries`. Its members are expected back within one lease; processes for
    /// other slots are started after that, as they may be on their way too.
    pub(crate) fn recover(options: Options, entries: Vec<LogEntry>, now: Duration) -> Self {
        let again = !entries.is_empty();
        let slots = options.processes.saturating_add(options.spares);
        let mut node = Self {
            run: None,
            now,
            effects: Vec::new(),
            slots: Slots::new(slots, options.starts_processes.then_some(options.restarts_max)),
            members: BTreeMap::new(),
            connections: BTreeMap::new(),
            newcomers: Vec::new(),
            member_next: 0,
            arithmetic: None,
            generation: Generation {
                number: 0,
                members: Vec::new(),
            },
            generation_next: 1,
            broken: None,
            strikes: BTreeMap::new(),
            last_answered: None,
            failure: None,
            finished_by: BTreeSet::new(),
            action: None,
            lanes: Vec::new(),
            moves: Moves::default(),
            cache_directory: CacheDirectory::new(!entries.is_empty()),
            round: None,
            absence: None,
            loss: None,
            gathering: Some(now),
            told_of_waiting: false,
            finishing: false,
            done: false,
            options,
        };
        for entry in entries {
            node.replay(entry);
        }
        node.members_expected();
        let first = if again { now + node.options.lease } else { now };
        if !node.finishing {
            node.slots.schedule(first);
        }
        node
    }

    fn replay(&mut self, entry: LogEntry) {
        match entry {
            LogEntry::Joined { member, arithmetic } => {
                self.member_next = self.member_next.max(member.0.saturating_add(1));
                self.arithmetic.get_or_insert(arithmetic);
            }
            LogEntry::Lost { member } => {
                self.members.remove(&member);
            }
            LogEntry::Generation(generation) => self.generation_replayed(generation),
            LogEntry::Came(head) => self.action = Some(Action::new(head)),
            LogEntry::Collected(collected) => self.collected_replayed(collected),
            LogEntry::Began { round, work } => self.began_replayed(round, work),
            LogEntry::Cut => {
                if let Some(round) = &mut self.round {
                    round.cut = Some(self.now);
                }
                self.broken = Some("it was cut before the name node was started again".to_owned());
            }
            LogEntry::Answered {
                head,
                finished_by,
                answer,
            } => {
                self.last_answered = Some(head);
                self.failure = match answer {
                    Some(Answer::Failed(error)) => Some(error.to_string()),
                    _ => None,
                };
                self.finished_by = finished_by.into_iter().collect();
                (self.action, self.round) = (None, None);
            }
            LogEntry::Finishing => self.finishing = true,
            LogEntry::Run(run) => self.run = Some(run),
            // For whoever shakes hands.
            LogEntry::Program(_) => {}
            // Nobody reads such a log again.
            LogEntry::Over => {}
        }
    }

    fn generation_replayed(&mut self, generation: Generation) {
        let expected = |peer: &Peer| Member {
            peer: peer.clone(),
            process: 0,
            connection: None,
            heard: self.now,
            doubted: false,
            arrived: false,
            held: Inventory::new(),
            state: LoopState::default(),
            lane_micros: None,
            task_micros: None,
        };
        self.members = generation
            .members
            .iter()
            .map(|peer| (peer.member, expected(peer)))
            .collect();
        self.generation = generation;
        (self.broken, self.round) = (None, None);
        if let Some(action) = &mut self.action {
            action.placed = false;
        }
    }

    fn collected_replayed(&mut self, collected: Vec<Collected>) {
        self.round = None;
        if let Some(action) = &mut self.action {
            collected.into_iter().for_each(|part| action.collect(part));
            action.unlogged.clear();
        }
    }

    fn began_replayed(&mut self, number: u32, work: Work) {
        if let Some(action) = &mut self.action {
            action.begin(&work);
            action.placed = matches!(work, Work::Loop { .. });
        }
        self.lanes_placed(&work);
        self.round = Some(Round::new(number, work, self.now));
    }

    fn members_expected(&mut self) {
        let expected: Vec<(u32, MemberId)> = self.members.values().map(|m| (m.peer.slot, m.peer.member)).collect();
        for (slot, member) in expected {
            self.slots.fill(slot, member, self.now);
        }
        // A slot that the options no longer have: its member is not expected.
        let filled: BTreeSet<MemberId> = self.slots.iter().filter_map(|(_, slot)| slot.state.member()).collect();
        self.members.retain(|member, _| filled.contains(member));
    }
}

impl SlotState {
    fn member(self) -> Option<MemberId> {
        match self {
            Self::Filled(member) => Some(member),
            _ => None,
        }
    }
}

impl LogEntry {
    /// The entry for an answer.
    pub(super) fn answered(head: Head, finished_by: &BTreeSet<MemberId>, answer: Answer) -> Self {
        let finished_by = finished_by.iter().copied().collect();
        Self::Answered {
            head,
            finished_by,
            answer: Some(answer),
        }
    }
}
