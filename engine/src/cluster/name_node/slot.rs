//! The slots of a cluster, and the processes that are started to fill them.

use std::time::Duration;

use crate::cluster::identity::MemberId;

/// The first delay of a restart that is not immediate.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The delay where another process stands by: it takes the slot at once, and is not to share its cores just then with
/// one that starts.
const DELAY_BEHIND_SPARE: Duration = Duration::from_millis(500);
/// The longest delay, and how long a process must live for its slot to start afresh.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// All slots, and what may still be started.
#[derive(Debug)]
pub(super) struct Slots {
    list: Vec<Slot>,
    /// None if others start the processes.
    restarts_left: Option<u32>,
}

/// One slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    /// Processes started for it, and those that ended. Equal if none runs.
    started: u64,
    exited: u64,
    /// Since when its last process was there.
    since: Duration,
    /// Processes that ended soon, in a row.
    short_lives: u32,
    /// A process of which the connection was closed, and of which the end was not told yet.
    pub(super) closed: Option<u32>,
    /// What is known of the end of its last process.
    pub(super) cause: Option<String>,
    /// The error that its last process ended with, and when.
    pub(super) error: Option<(Duration, String)>,
}

/// Who is in a slot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Nobody, and nobody will come unasked.
    #[default]
    Empty,
    /// Nobody, and others may start a process for it.
    Open,
    /// A process is to be started at this time.
    Due(Duration),
    /// A process was started at this time and has not joined.
    Starting(Duration),
    /// A member that lives.
    Filled(MemberId),
}

/// What comes of a process that was to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It is the first one for its slot.
    First,
    /// There was one before.
    Again,
    /// It may not be: the budget is used up.
    NoMore,
}

impl Slots {
    /// Without `restarts_max` no process is started for them.
    pub(super) fn new(count: u32, restarts_max: Option<u32>) -> Self {
        let list = (0..count).map(|_| Slot::default()).collect();
        Self {
            list,
            restarts_left: restarts_max,
        }
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Slot> {
        self.list.get_mut(slot as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Slot)> {
        (0..).zip(&self.list)
    }

    /// The slot for a newcomer: the one it asks for, or else one for which nothing was started, or else any free one.
    pub(super) fn free(&self, asked: Option<u32>) -> Option<u32> {
        let vacant = |slot: &Slot| !matches!(slot.state, SlotState::Filled(_));
        let asked = asked.filter(|asked| self.list.get(*asked as usize).is_some_and(vacant));
        let unexpected = |slot: &Slot| vacant(slot) && !matches!(slot.state, SlotState::Starting(_));
        let first = |free: &dyn Fn(&Slot) -> bool| self.iter().find(|(_, slot)| free(slot)).map(|(number, _)| number);
        asked.or_else(|| first(&unexpected)).or_else(|| first(&vacant))
    }

    pub(super) fn fill(&mut self, slot: u32, member: MemberId, now: Duration) {
        if let Some(slot) = self.get_mut(slot) {
            slot.state = SlotState::Filled(member);
            slot.since = now;
            slot.error = None;
            slot.cause = None;
        }
    }

    /// Its process is gone. Another is started, now or later, if the budget allows it and it is not for others to do;
    /// `spare` says whether one stands by. Gives whether another may come. After an error that is seen when others go
    /// on, and so is the budget.
    pub(super) fn vacate(&mut self, slot: u32, now: Duration, spare: bool) -> bool {
        let budget = self.restarts_left;
        let Some(slot) = self.get_mut(slot) else { return true };
        let Some(budget) = budget else {
            slot.state = SlotState::Open;
            return true;
        };
        if now.saturating_sub(slot.since) >= DELAY_MAX {
            slot.short_lives = 0;
        }
        let mut delay = match slot.short_lives {
            0 => Duration::ZERO,
            lives => DELAY_MIN.saturating_mul(1 << (lives - 1).min(16)).min(DELAY_MAX),
        };
        let gave_up = slot.error.is_some();
        if gave_up {
            delay = delay.max(DELAY_MIN);
        }
        if spare {
            delay = delay.max(DELAY_BEHIND_SPARE);
        }
        slot.short_lives = slot.short_lives.saturating_add(1);
        let comes = budget > 0 || gave_up;
        slot.state = if comes {
            SlotState::Due(now + delay)
        } else {
            SlotState::Empty
        };
        if !gave_up {
            self.restarts_left = Some(budget.saturating_sub(1));
        }
        comes
    }

    /// Processes that may still be started for those that end, if it is not for others to do.
    pub(super) fn restarts_left(&self) -> u32 {
        self.restarts_left.unwrap_or_default()
    }

    /// Counts an exit; whether the process that ended is one that had not joined.
    pub(super) fn exited(&mut self, slot: u32, cause: String) -> bool {
        let Some(slot) = self.get_mut(slot) else { return false };
        slot.exited += 1;
        slot.cause = Some(cause);
        matches!(slot.state, SlotState::Starting(_)) && slot.exited >= slot.started
    }

    /// Slots for which a process is to be started by now; those that ended with an error only if others go on.
    pub(super) fn take_due(&mut self, now: Duration, others_go_on: bool) -> Vec<(u32, Start)> {
        let mut due = Vec::new();
        for (number, slot) in (0..).zip(&mut self.list) {
            let gave_up = slot.error.is_some();
            let held = gave_up && !others_go_on;
            if held || !matches!(slot.state, SlotState::Due(at) if at <= now) {
                continue;
            }
            if gave_up && let Some(budget) = &mut self.restarts_left {
                let Some(left) = budget.checked_sub(1) else {
                    slot.state = SlotState::Empty;
                    due.push((number, Start::NoMore));
                    continue;
                };
                *budget = left;
            }
            let start = if slot.started > 0 { Start::Again } else { Start::First };
            due.push((number, start));
            slot.state = SlotState::Starting(now);
            slot.since = now;
            slot.started += 1;
        }
        due
    }

    /// Plans a process for every slot in which nobody is, or leaves it to others; these are not counted as restarts.
    pub(super) fn schedule(&mut self, at: Duration) {
        let state = self.restarts_left.map_or(SlotState::Open, |_| SlotState::Due(at));
        for slot in &mut self.list {
            if slot.state == SlotState::Empty {
                slot.state = state;
            }
        }
    }

    /// Plans no further process; the errors of those that others went on without no longer matter.
    pub(super) fn start_no_more(&mut self) {
        for slot in &mut self.list {
            slot.error = None;
            if matches!(slot.state, SlotState::Due(_) | SlotState::Open) {
                slot.state = SlotState::Empty;
            }
        }
    }

    /// Slots whose process has not joined for `patience`.
    pub(super) fn overdue(&self, now: Duration, patience: Duration) -> Vec<u32> {
        let late = |slot: &Slot| matches!(slot.state, SlotState::Starting(since) if since + patience <= now);
        self.iter()
            .filter(|(_, slot)| late(slot))
            .map(|(number, _)| number)
            .collect()
    }

    /// Whether a process may still come by itself to a slot that nobody is in.
    pub(super) fn somebody_comes(&self) -> bool {
        let comes = |slot: &Slot| match slot.state {
            SlotState::Due(_) | SlotState::Open => slot.error.is_none(),
            SlotState::Starting(_) => true,
            SlotState::Empty | SlotState::Filled(_) => false,
        };
        self.list.iter().any(comes)
    }

    pub(super) fn wake_at(&self, patience: Duration, others_go_on: bool) -> Option<Duration> {
        let time = |slot: &Slot| match slot.state {
            SlotState::Due(at) => (slot.error.is_none() || others_go_on).then_some(at),
            SlotState::Starting(since) => Some(since + patience),
            SlotState::Empty | SlotState::Open | SlotState::Filled(_) => None,
        };
        self.list.iter().filter_map(time).min()
    }

    /// The error that a process ended with first, of those that nobody came after.
    pub(super) fn first_error(&self) -> Option<String> {
        let errors = self.list.iter().filter_map(|slot| slot.error.as_ref());
        errors.min_by_key(|(at, _)| *at).map(|(_, error)| error.clone())
    }

    /// Slots that nobody is in since a process ended with an error.
    pub(super) fn given_up(&self) -> Vec<u32> {
        let given_up = self.iter().filter(|(_, slot)| slot.error.is_some());
        given_up.map(|(number, _)| number).collect()
    }

    /// What is known of the end of the processes, for people.
    pub(super) fn causes(&self) -> String {
        let cause = |(number, slot): (u32, &Slot)| Some(format!("slot {number}: {}", slot.cause.as_ref()?));
        let causes: Vec<String> = self.iter().filter_map(cause).collect();
        causes.join("; ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// When the process that is planned for a slot is to be started.
    fn due(slots: &Slots, slot: usize) -> Option<Duration> {
        match slots.list[slot].state {
            SlotState::Due(at) => Some(at),
            _ => None,
        }
    }

    #[test]
    fn processes_that_end_soon_are_started_ever_later_until_one_lives_for_long() {
        let mut slots = Slots::new(1, Some(1000));
        let (mut now, mut delays) = (100 * SECOND, Vec::new());
        slots.schedule(now);
        for life in [0, 0, 0, 0, 9, 10, 0, 0] {
            assert_eq!(slots.take_due(now, true).len(), 1);
            // None of them joins.
            now += life * SECOND;
            slots.vacate(0, now, false);
            let at = due(&slots, 0).unwrap();
            delays.push((at - now).as_millis());
            now = at;
        }
        assert_eq!(delays, [0, 100, 200, 400, 800, 0, 100, 200]);
        for _ in 0..100 {
            slots.take_due(now, true);
            slots.vacate(0, now, false);
            let at = due(&slots, 0).unwrap();
            assert!(at - now <= DELAY_MAX);
            now = at;
        }
    }

    /// A process that others have taken for lost may end later than the next one is started.
    #[test]
    fn the_end_of_an_earlier_process_is_not_that_of_the_one_that_was_started_since() {
        let mut slots = Slots::new(1, Some(1000));
        slots.schedule(SECOND);
        for _ in 0..2 {
            assert_eq!(slots.take_due(SECOND, true).len(), 1);
            slots.vacate(0, SECOND, false);
            slots.list[0].state = SlotState::Due(SECOND);
        }
        slots.take_due(SECOND, true);
        let exits = [(); 3].map(|()| slots.exited(0, "killed".to_owned()));
        assert_eq!(exits, [false, false, true]);
    }

    #[test]
    fn who_asks_for_no_place_leaves_those_to_the_processes_that_were_started_for_them() {
        let mut slots = Slots::new(3, Some(1000));
        slots.schedule(SECOND);
        slots.list[1].state = SlotState::Empty;
        slots.take_due(SECOND, true);
        assert_eq!(slots.free(None), Some(1));
        slots.fill(1, MemberId(0), SECOND);
        assert_eq!(slots.free(None), Some(0), "or else any that is free");
        assert_eq!((slots.free(Some(2)), slots.free(Some(1))), (Some(2), Some(0)));
    }

    #[test]
    fn a_process_that_is_started_after_an_error_counts_when_it_is_started() {
        let mut slots = Slots::new(2, Some(1));
        slots.schedule(SECOND);
        assert_eq!(slots.take_due(SECOND, true).len(), 2);
        slots.list[0].error = Some((SECOND, "no such file".to_owned()));
        assert!(slots.vacate(0, SECOND, false));
        assert_eq!(slots.restarts_left(), 1);
        assert!(
            slots.vacate(1, SECOND, false),
            "nobody else has taken the one that is left"
        );
        assert_eq!(slots.restarts_left(), 0);
        assert_eq!(slots.take_due(2 * SECOND, false), [(1, Start::Again)]);
        assert_eq!(slots.take_due(2 * SECOND, true), [(0, Start::NoMore)]);
        assert_eq!(slots.take_due(2 * SECOND, true), []);
    }

    #[test]
    fn a_place_whose_process_failed_waits_for_others_to_go_on_until_somebody_was_in_it_again() {
        let mut slots = Slots::new(1, Some(1000));
        let ends = |slots: &mut Slots, now| {
            slots.fill(0, MemberId(0), now);
            slots.vacate(0, now, false);
        };
        slots.list[0].error = Some((SECOND, "no such file".to_owned()));
        slots.list[0].state = SlotState::Due(SECOND);
        assert_eq!(slots.take_due(SECOND, false), []);
        assert_eq!(slots.take_due(SECOND, true), [(0, Start::First)]);
        ends(&mut slots, SECOND);
        assert_eq!(slots.take_due(2 * SECOND, false), [(0, Start::Again)]);
        assert_eq!(slots.first_error(), None);
    }
}
