//! Who takes part in the next round, and the generation and the round that begin with them.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Action, NameNode, Round, WAITS_SILENTLY};
use crate::cluster::events::Happening;
use crate::cluster::identity::MemberId;
use crate::cluster::journal::LogEntry;
use crate::cluster::protocol::{ActionKind, Answer, Generation, Head, LoopState, Order, Work};
use crate::cluster::resume::resume;
use crate::error::EngineError;

/// Who does not come to an action for so long is told of, and again each time that this has doubled.
const BEHIND: Duration = Duration::from_secs(30);

/// That members do not come to the action that others wait at.
#[derive(Debug)]
pub(super) struct Absence {
    since: Duration,
    /// How often it was told of.
    told: u32,
}

impl Absence {
    /// When it is to be told of.
    pub(super) fn tells_at(&self) -> Duration {
        self.since
            .saturating_add(BEHIND.saturating_mul(2_u32.saturating_pow(self.told)))
    }
}

impl NameNode {
    pub(super) fn all_arrived(&self) -> Vec<MemberId> {
        let arrived = self.members.values().filter(|member| member.arrived);
        arrived.map(|member| member.peer.member).collect()
    }

    /// The members of the next generation, by slot: those of the last that live, and of those that wait as many as
    /// there are places.
    pub(super) fn chosen(&self) -> Vec<MemberId> {
        let slot = |member: &MemberId| self.members.get(member).map(|member| member.peer.slot);
        let mut chosen: Vec<MemberId> = self.active().collect();
        let mut waiting = self.all_arrived();
        waiting.retain(|member| !self.is_active(*member));
        waiting.sort_by_key(slot);
        chosen.extend(waiting);
        chosen.truncate(self.options.processes as usize);
        chosen.sort_by_key(slot);
        chosen
    }

    pub(super) fn begin_if_ready(&mut self) {
        let Some(action) = &self.action else { return };
        if self.finishing {
            let answer = others_ended(&action.head);
            return self.answer(answer, BTreeSet::new());
        }
        let chosen = self.chosen();
        let is_absent = |member: &&MemberId| self.members.get(*member).is_none_or(|member| !member.arrived);
        let absent: Vec<MemberId> = chosen.iter().filter(is_absent).copied().collect();
        if !absent.is_empty() && absent.len() < chosen.len() {
            return self.tell_of_absent(&absent);
        }
        self.absence = None;
        if chosen.is_empty() || !absent.is_empty() {
            return;
        }
        if self.waits_for_more(chosen.len()) {
            return self.tell_of_waiting();
        }
        if self.lacks_state(&chosen) {
            // A process that is started again runs the program from its start, and so has the state that the loop began
            // with.
            match self.somebody_comes() {
                true => self.tell_of_lost_state(),
                false => self.answer(state_lost(), BTreeSet::new()),
            }
            return;
        }
        self.change_generation(&chosen);
        self.begin();
    }

    /// Says who has not come to the action that others wait at, if that takes long.
    fn tell_of_absent(&mut self, absent: &[MemberId]) {
        let now = self.now;
        let absence = self.absence.get_or_insert(Absence { since: now, told: 0 });
        if now < absence.tells_at() {
            return;
        }
        while absence.tells_at() <= now {
            absence.told += 1;
        }
        let micros = u64::try_from((now - absence.since).as_micros()).unwrap_or(u64::MAX);
        // Of one that is looked for after the name node was started again nobody knows whether it lives.
        let here = absent.iter().filter_map(|member| self.members.get(member));
        let here = here.filter(|member| member.connection.is_some());
        let (slots, processes): (Vec<u32>, Vec<u32>) = here.map(|member| (member.peer.slot, member.process)).unzip();
        if let Some(Action { head, .. }) = self.action.as_ref().filter(|_| !slots.is_empty()) {
            let (action, site) = (head.action, head.site.clone());
            self.note(Happening::Behind {
                slots,
                processes,
                action,
                site,
                micros,
            });
        }
    }

    /// Whether the loop that is to begin cannot be gone on from what these members have.
    fn lacks_state(&self, chosen: &[MemberId]) -> bool {
        let Some(Action { head, .. }) = &self.action else {
            return false;
        };
        let ActionKind::Iterate { first_step, .. } = head.kind else {
            return false;
        };
        let states = chosen
            .iter()
            .filter_map(|member| Some(self.members.get(member)?.state.clone()));
        resume(&states.collect::<Vec<_>>(), first_step).source.is_none()
    }

    /// Says once that the loop waits for a process that somebody has to start.
    fn tell_of_lost_state(&mut self) {
        let nobody_is_on_the_way = self.members.values().all(|member| member.arrived);
        let untold = self.action.as_mut().filter(|action| !action.told_of_lost_state);
        let Some(action) = untold.filter(|_| nobody_is_on_the_way && !self.options.starts_processes) else {
            return;
        };
        action.told_of_lost_state = true;
        let (action, site) = (action.head.action, action.head.site.clone());
        self.note(Happening::LacksState { action, site });
    }

    /// When it is to be said who is waited for, while members are here and none is active.
    pub(super) fn tells_of_waiting_at(&self) -> Option<Duration> {
        let is_waiting = self.action.is_some() && !self.told_of_waiting && self.active().next().is_none();
        let since = self.gathering.filter(|_| is_waiting)?;
        Some(since + WAITS_SILENTLY).filter(|at| *at > self.now)
    }

    /// Says once who has not come, if that takes long.
    fn tell_of_waiting(&mut self) {
        let Some(since) = self.gathering.filter(|_| self.active().next().is_none()) else {
            return;
        };
        if self.told_of_waiting || self.now < since + WAITS_SILENTLY {
            return;
        }
        self.told_of_waiting = true;
        let here = |slot: &u32| self.members.values().any(|m| m.arrived && m.peer.slot == *slot);
        let (processes, gave_up) = (self.options.processes, self.slots.given_up());
        let left = (since + self.options.start_patience).saturating_sub(self.now);
        self.note(Happening::Waits {
            slots: (0..processes).filter(|slot| !here(slot)).collect(),
            gave_up,
            processes,
            micros: u64::try_from(left.as_micros()).unwrap_or(u64::MAX),
        });
    }

    /// Whether it is too early to go on with so few.
    fn waits_for_more(&self, here: usize) -> bool {
        let patient = self.patience_ends().any(|end| end > self.now);
        here < self.options.processes as usize && self.somebody_comes() && patient
    }

    /// Whether another process may still come to this action.
    fn somebody_comes(&self) -> bool {
        self.slots.somebody_comes() || self.members.values().any(|member| !member.arrived)
    }

    /// When waiting for more members ends.
    pub(super) fn patience_ends(&self) -> impl Iterator<Item = Duration> + use<> {
        let nobody_active = self.active().next().is_none();
        let gathering = nobody_active.then(|| self.gathering.unwrap_or_default() + self.options.start_patience);
        let grace = self
            .loss
            .as_ref()
            .filter(|_| !nobody_active)
            .map(|loss| loss.at + self.options.grace);
        [gathering, grace].into_iter().flatten()
    }

    fn change_generation(&mut self, chosen: &[MemberId]) {
        let last: Vec<MemberId> = self.generation.members.iter().map(|peer| peer.member).collect();
        if last == chosen && self.broken.is_none() {
            return;
        }
        if last != chosen {
            self.moves.forget();
        }
        let peers = chosen
            .iter()
            .filter_map(|member| Some(self.members.get(member)?.peer.clone()));
        let members: Vec<_> = peers.collect();
        let slots = members.iter().map(|peer| peer.slot).collect();
        let number = self.generation_next.max(self.generation.number.saturating_add(1));
        self.generation = Generation { number, members };
        if let Some(action) = &mut self.action {
            action.placed = false;
        }
        self.log(LogEntry::Generation(self.generation.clone()));
        let broken = self.broken.take();
        let cause = match &self.loss {
            Some(loss) => loss.cause.clone(),
            None => broken.unwrap_or_else(|| "other members are there".to_owned()),
        };
        let (number, processes) = (self.generation.number, self.options.processes);
        self.note(Happening::Generation {
            number,
            slots,
            gave_up: self.slots.given_up(),
            processes,
            cause,
            micros: self.micros_since_loss(),
        });
        (self.gathering, self.told_of_waiting) = (None, false);
    }

    fn begin(&mut self) {
        let Some(action) = &self.action else { return };
        let ranks = self
            .generation
            .members
            .iter()
            .filter_map(|peer| self.members.get(&peer.member));
        let work = match action.head.kind {
            ActionKind::Iterate { first_step, .. } if action.placed => {
                let states: Vec<LoopState> = ranks.map(|member| member.state.clone()).collect();
                let rank = |member: &Option<MemberId>| {
                    let members = &self.generation.members;
                    members
                        .iter()
                        .position(|peer| Some(peer.member) == *member)
                        .unwrap_or(0) as u32
                };
                Work::Loop {
                    start: resume(&states, first_step),
                    lanes: self.lanes.iter().map(rank).collect(),
                }
            }
            _ => Work::Compute {
                finished: action.results.keys().copied().collect(),
                held: ranks.map(|member| member.held.clone()).collect(),
                costs: self.costs(),
                lanes: self.lanes_for(action),
            },
        };
        let (number, site) = (action.round_next, action.head.site.as_str());
        let began = LogEntry::Began {
            round: number,
            work: work.clone(),
        };
        // Of a loop it is known what it comes to: better now than behind its last step.
        if let Some(error) = self.options.quota.refusal(&began, action.answer_bytes_max(), site) {
            return self.answer(Answer::Failed(error), BTreeSet::new());
        }
        self.lanes_placed(&work);
        let Some(action) = &mut self.action else { return };
        let recovery = action.recovery(&work);
        action.begin(&work);
        let round = Round::new(number, work, self.now);
        let (action, site) = (action.head.action, action.head.site.clone());
        self.log(began);
        if round.number == 0 {
            self.note(Happening::Began { action, site });
        }
        for member in self.active().collect::<Vec<_>>() {
            let order = self.begin_order(&round);
            self.send(member, order);
        }
        if let Some(recovery) = recovery {
            let micros = self.micros_since_loss();
            self.note(recovery.since(micros));
        }
        if !matches!((&self.action, &round.work), (Some(action), Work::Compute { .. }) if action.is_iterate()) {
            self.loss = None;
        }
        self.round = Some(round);
    }

    pub(super) fn begin_order(&self, round: &Round) -> Order {
        Order::Begin {
            generation: self.generation.clone(),
            action: self.action_number(),
            round: round.number,
            work: round.work.clone(),
        }
    }
}

/// The answer to a loop of which all processes that kept some optimizer state are gone.
fn state_lost() -> Answer {
    Answer::Failed(EngineError::invalid(
        "optimizer state was lost with all the processes that kept it, and none may be started again",
        "keep two copies of it (`--parameter-copies 2`) and allow more `--restarts`, or start again: a training with \
         checkpoints goes on from the last one",
    ))
}

/// The answer to an action that only some of the driver programs come to.
fn others_ended(head: &Head) -> Answer {
    let what = format!(
        "the driver programs diverged: one process has ended its program, another is at action {}, {}",
        head.action, head.site
    );
    let remedy = "every process must call the same actions: look for an action behind a condition that differs";
    Answer::Failed(EngineError::invalid(what, remedy))
}
