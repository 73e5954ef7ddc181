//! Actions and their rounds: who has come, what a round has brought, and when it is over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::placing::BUSY_MICROS_MIN;
use super::{Action, Effect, Member, NameNode, Round};
use crate::cluster::events::Happening;
use crate::cluster::identity::MemberId;
use crate::cluster::journal::{Collected, LogEntry};
use crate::cluster::protocol::{ActionKind, Answer, Head, Inventory, LoopState, Order, Outcome, Work};
use crate::error::EngineError;

impl NameNode {
    /// A member has come to an action.
    pub(super) fn arrived(&mut self, member: MemberId, head: Head, held: Inventory, state: LoopState) {
        let number = head.action;
        if number < self.action_number() {
            return self.answer_again(member, head);
        }
        if number > self.action_number() {
            let cause = format!(
                "it came to action {number}, but action {} has no answer yet",
                self.action_number()
            );
            return self.lose(member, &cause);
        }
        // Who found a name node again that was started again may say what it had come with after what it ended a round
        // with.
        let ended = self.round.as_ref().filter(|round| round.ended.contains_key(&member));
        let (keeps_held, keeps_state) = (
            ended.is_some(),
            ended.is_some_and(|round| matches!(round.work, Work::Loop { .. })),
        );
        if let Some(entry) = self.members.get_mut(&member) {
            entry.arrived = true;
            if !keeps_held {
                entry.held = held;
            }
            if !keeps_state {
                entry.state = state;
            }
            let slot = entry.peer.slot;
            if self.round.is_some() && !self.is_active(member) {
                let action = number;
                self.note(Happening::StandsBy { member, slot, action });
            }
        }
        match &self.action {
            None => {
                let entry = LogEntry::Came(head.clone());
                let refusal = self.options.quota.refusal(&entry, 0, &head.site);
                self.action = Some(Action::new(head));
                match refusal {
                    Some(error) => self.answer(Answer::Failed(error), BTreeSet::new()),
                    None => self.log(entry),
                }
            }
            Some(action) if action.head.same(&head) => self.begin_again(member),
            Some(action) => {
                let came_first = self.members.values();
                let came_first = came_first.filter(|entry| entry.arrived && entry.peer.member != member);
                let first = came_first.map(Member::named).next();
                let second = self.members.get(&member).map(Member::named);
                let answer = action.head.diverged(
                    &first.unwrap_or_else(|| "one process".to_owned()),
                    &head,
                    &second.unwrap_or_else(|| "another one".to_owned()),
                );
                self.answer(answer, BTreeSet::new());
            }
        }
    }

    fn answer_again(&mut self, member: MemberId, head: Head) {
        // Newer than the answer, but never older than what the member is told next.
        self.tell_figures(&[member]);
        let last = self.last_answered.as_ref().filter(|last| last.action == head.action);
        if let Some(last) = last.filter(|_| self.finished_by.contains(&member)) {
            let (action, answer) = (head.action, last.answer_of(&head, Answer::Iterated { result: None }));
            return self.send(member, Order::Answer { action, answer });
        }
        let connection = self.members.get(&member).and_then(|member| member.connection);
        if let Some(connection) = connection {
            self.effects.push(Effect::Recall { connection, head });
        }
    }

    /// To a member that found the name node again while a round of its generation runs. It may know of the round or
    /// not.
    fn begin_again(&mut self, member: MemberId) {
        let Some(round) = &self.round else { return };
        if !self.is_active(member) || round.ended.contains_key(&member) {
            return;
        }
        let (begin, cut) = (self.begin_order(round), round.cut.is_some());
        self.send(member, begin);
        if cut {
            let order = self.cut_order();
            self.send(member, order);
        }
    }

    /// Whether this is the round that runs.
    pub(super) fn runs(&self, generation: u64, action: u64, number: u32) -> bool {
        let current = generation == self.generation.number && action == self.action_number();
        current && self.round.as_ref().is_some_and(|round| round.number == number)
    }

    /// Whether this is a round that was begun and is not known: the journal had no time to reach the disk, as when the
    /// host of the name node lost its power.
    pub(super) fn is_ahead(&self, generation: u64, action: u64, number: u32) -> bool {
        let current = generation == self.generation.number && action == self.action_number();
        current && self.action.as_ref().is_some_and(|action| number >= action.round_next)
    }

    /// A member of the round that runs has ended it.
    pub(super) fn ended(&mut self, member: MemberId, outcome: Outcome, held: Inventory, cut: bool) {
        let rank = self.generation.members.iter().position(|peer| peer.member == member);
        let (Some(rank), Some(action), Some(round)) = (rank, &mut self.action, &mut self.round) else {
            return;
        };
        if round.ended.contains_key(&member) {
            return;
        }
        let complete = match (outcome, &round.work) {
            (
                Outcome::Computed {
                    complete,
                    results,
                    updates,
                    tasks,
                },
                Work::Compute { .. },
            ) => {
                round.tasks.insert(member, tasks);
                action.collect(Collected { results, updates });
                complete
            }
            (
                Outcome::Looped {
                    finished,
                    state,
                    result,
                },
                Work::Loop { .. },
            ) => {
                action.looped = action.looped.take().or(result);
                if let Some(entry) = self.members.get_mut(&member) {
                    entry.state = state;
                }
                finished
            }
            (Outcome::Failed(error), _) => {
                round.failed.insert(rank, error);
                false
            }
            _ => return self.lose(member, "it ended a round of another kind than the one that runs"),
        };
        round.ended.insert(member, complete);
        let stops = !complete && round.cut.is_none();
        // The others wait for its part of the step.
        round.gave_up |= stops && matches!(round.work, Work::Loop { .. });
        // It takes part in nothing more of this generation. The report of the broken link that is the cause was lost
        // with a name node. Even if it has all of its own, the others may lack what was on that link.
        round.forsaken |= cut && round.cut.is_none();
        if let Some(entry) = self.members.get_mut(&member) {
            entry.held = held;
        }
        self.stop_if_hopeless();
    }

    /// A member's program ends an action.
    pub(super) fn cancelled(&mut self, action: u64, error: EngineError) {
        if action == self.action_number() {
            self.answer(Answer::Failed(error), BTreeSet::new());
        }
    }

    fn stop_if_hopeless(&mut self) {
        let over = self
            .action
            .as_ref()
            .is_some_and(|action| action.bytes > self.options.answer_bytes_max);
        if over {
            let answer = self.too_large();
            self.answer(answer, BTreeSet::new());
        } else if self
            .round
            .as_ref()
            .is_some_and(|round| round.gave_up || round.forsaken || !round.failed.is_empty())
        {
            self.cut();
        }
    }

    fn too_large(&self) -> Answer {
        let site = self.action.as_ref().map_or("", |action| action.head.site.as_str());
        let max = self.options.answer_bytes_max;
        let what = format!("the results of {site} have more than {max} bytes, and every process would get all of them");
        Answer::Failed(EngineError::invalid(
            what,
            "take less, or write the dataset to a store from where it is",
        ))
    }

    /// Members that the round waits for.
    pub(super) fn still_running(&self) -> Vec<MemberId> {
        let Some(round) = &self.round else { return Vec::new() };
        self.active()
            .filter(|member| !round.ended.contains_key(member))
            .collect()
    }

    /// Stops the round that runs, if one does. Its generation is over. Whether there was one to stop.
    pub(super) fn cut(&mut self) -> bool {
        let waited_for = self.still_running();
        let now = self.now;
        let Some(round) = self.round.as_mut().filter(|round| round.cut.is_none()) else {
            return false;
        };
        round.cut = Some(now);
        let cause = || "a round of it was stopped".to_owned();
        self.broken.get_or_insert_with(cause);
        self.log(LogEntry::Cut);
        for member in waited_for {
            let order = self.cut_order();
            self.send(member, order);
        }
        true
    }

    /// Names those who are lost by now to members that have not ended the cut round: one of them may be writing to a
    /// member that hangs.
    pub(super) fn cut_again(&mut self) {
        for member in self.still_running() {
            let order = self.cut_order();
            self.send(member, order);
        }
    }

    fn cut_order(&self) -> Order {
        let members = self.generation.members.iter().map(|peer| peer.member);
        let lost = members.filter(|member| !self.members.contains_key(member)).collect();
        Order::Cut {
            generation: self.generation.number,
            lost,
        }
    }

    /// Ends the round that runs, if it is over, and begins the next, if it can.
    pub(super) fn advance(&mut self) {
        if self.done {
            return;
        }
        if self.round.is_some() {
            if !self.still_running().is_empty() {
                return self.cut_to_take_in();
            }
            self.conclude();
        }
        self.begin_if_ready();
    }

    /// A loop runs for long: it is cut so that a member which waits can take part.
    fn cut_to_take_in(&mut self) {
        let runs = self
            .round
            .as_ref()
            .is_some_and(|round| matches!(round.work, Work::Loop { .. }));
        let chosen = self.chosen();
        if let (true, Some(newcomer)) = (runs, chosen.iter().find(|member| !self.is_active(**member))) {
            self.broken.get_or_insert(format!("{newcomer} is taken in"));
            self.cut();
        }
    }

    fn conclude(&mut self) {
        let (Some(mut round), Some(action)) = (self.round.take(), &mut self.action) else {
            return;
        };
        let complete = round
            .ended
            .iter()
            .filter(|(member, _)| self.members.contains_key(member))
            .all(|(_, done)| *done);
        let whole = round.cut.is_none();
        if whole {
            self.strikes.clear();
            let busy = |(tasks, micros): &(u64, u64)| *tasks > 0 && *micros >= BUSY_MICROS_MIN;
            if round.tasks.values().all(busy) {
                for (member, (tasks, micros)) in &round.tasks {
                    if let Some(entry) = self.members.get_mut(member) {
                        entry.task_micros = Some(micros / tasks);
                    }
                }
            }
        }
        let survivors = || {
            round
                .ended
                .keys()
                .copied()
                .filter(|member| self.members.contains_key(member))
                .collect()
        };
        if let Some((_, error)) = round.failed.pop_first() {
            return self.answer(Answer::Failed(error), BTreeSet::new());
        }
        match (&action.head.kind, &round.work) {
            (ActionKind::Compute { .. }, _) => {
                if action.missing().is_empty() {
                    let answer = action.computed();
                    return self.answer(answer, BTreeSet::new());
                }
                action.fruitless += u32::from(whole);
            }
            (ActionKind::Iterate { .. }, Work::Compute { .. }) => {
                action.placed = whole && complete;
                action.fruitless += u32::from(whole && !complete);
            }
            (ActionKind::Iterate { .. }, Work::Loop { .. }) => {
                if complete && action.looped.is_some() {
                    let finished_by = survivors();
                    let answer = Answer::Iterated {
                        result: action.looped.clone(),
                    };
                    return self.answer(answer, finished_by);
                }
                action.fruitless += u32::from(whole || round.gave_up);
            }
        }
        if let Some(error) = action.exhausted() {
            return self.answer(Answer::Failed(error), BTreeSet::new());
        }
        let collected = std::mem::take(&mut action.unlogged);
        if collected.is_empty() {
            return;
        }
        let entry = LogEntry::Collected(collected);
        let site = &action.head.site;
        match self.options.quota.refusal(&entry, 0, site) {
            Some(error) => self.answer(Answer::Failed(error), BTreeSet::new()),
            None => self.log(entry),
        }
    }

    /// The action is over. A round of it that still runs is stopped by the answer, and so is its generation. An answer
    /// that finds no room in the journal would not be there for those that come late: nobody is told it.
    pub(super) fn answer(&mut self, mut answer: Answer, mut finished_by: BTreeSet<MemberId>) {
        let Some(action) = self.action.take() else { return };
        self.absence = None;
        if self.round.take().is_some_and(|round| round.cut.is_none()) {
            self.broken
                .get_or_insert_with(|| "a round of it was stopped by an answer".to_owned());
            self.log(LogEntry::Cut);
        }
        let number = action.head.action;
        let mut entry = LogEntry::answered(action.head.clone(), &finished_by, answer.clone());
        if let Some(error) = self.options.quota.refusal(&entry, 0, &action.head.site) {
            (answer, finished_by) = (Answer::Failed(error), BTreeSet::new());
            entry = LogEntry::answered(action.head.clone(), &finished_by, answer.clone());
        }
        let error = match &answer {
            Answer::Failed(error) => Some(error.to_string()),
            _ => None,
        };
        self.log(entry);
        self.failure = error.clone();
        let (site, rounds) = (action.head.site.clone(), action.round_next);
        self.note(Happening::Answered {
            action: number,
            site,
            rounds,
            error,
        });
        let looped = action.head.is_iterate();
        self.last_answered = Some(action.head);
        let arrived = self.all_arrived();
        self.tell_figures(&arrived);
        for member in arrived {
            let alone = finished_by.contains(&member);
            let answer = if alone {
                Answer::Iterated { result: None }
            } else {
                answer.clone()
            };
            self.send(member, Order::Answer { action: number, answer });
        }
        let hosts = &self.lanes;
        for (id, member) in &mut self.members {
            (member.arrived, member.state) = (false, LoopState::default());
            if looped && !hosts.contains(&Some(*id)) {
                // It may have become quicker; only lanes would show it.
                member.lane_micros = None;
            }
        }
        self.finished_by = finished_by;
    }
}

impl Round {
    pub(super) fn new(number: u32, work: Work, began: Duration) -> Self {
        Self {
            number,
            work,
            began,
            ended: BTreeMap::new(),
            cut: None,
            gave_up: false,
            forsaken: false,
            failed: BTreeMap::new(),
            tasks: BTreeMap::new(),
        }
    }
}
