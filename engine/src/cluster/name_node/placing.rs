//! Who gets how much: lanes and tasks go by what the members have been measured to take.

use std::time::Duration;

use super::{Action, NameNode};
use crate::cluster::load_balance::{MemberSpeed, deal, deal_again, time};
use crate::cluster::protocol::{ActionKind, Work};

/// A loop must run for so long before its lanes are moved: by then its speed is known.
const MOVE_AFTER: Duration = Duration::from_secs(1);
/// The first pause between two moves; each is twice as long as the one before, so that noise cannot keep lanes moving.
const MOVE_PAUSE_MIN: Duration = Duration::from_secs(2);
/// Lanes are moved if a step then takes at most this part of what it takes.
const WORTH: (u64, u64) = (2, 3);
/// Members whose tasks take at most so many times what the quickest member's take are as quick as that.
const ALIKE: u64 = 2;
/// Workers that were busy for less than this in a round say nothing about their speed, in microseconds.
pub(super) const BUSY_MICROS_MIN: u64 = 50_000;

/// When lanes were moved last, and how long to wait until the next move.
#[derive(Debug, Default)]
pub(super) struct Moves {
    last: Option<(Duration, Duration)>,
}

impl Moves {
    /// Others compute now: what was found out of those before says nothing of them.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    fn may(&self, now: Duration) -> bool {
        self.last.is_none_or(|(at, pause)| at + pause <= now)
    }

    fn note(&mut self, now: Duration) {
        let pause = self.last.map_or(MOVE_PAUSE_MIN, |(_, pause)| pause.saturating_mul(2));
        self.last = Some((now, pause));
    }
}

fn is_worth_it(takes: u64, would_take: u64) -> bool {
    would_take.saturating_mul(WORTH.1) <= takes.saturating_mul(WORTH.0)
}

impl NameNode {
    /// Notes where the lanes are, of a round that begins or that the log tells of.
    pub(super) fn lanes_placed(&mut self, work: &Work) {
        let (Work::Compute { lanes, .. } | Work::Loop { lanes, .. }) = work;
        if !lanes.is_empty() {
            let member = |rank: &u32| Some(self.generation.members.get(*rank as usize)?.member);
            self.lanes = lanes.iter().map(member).collect();
        }
    }

    /// The ranks that take lanes and partitions, with the speeds that `cost` knows.
    fn speeds(&self, cost: impl Fn(&super::Member) -> Option<u64>) -> (Vec<usize>, Vec<MemberSpeed>) {
        let ranks = self.generation.computing();
        let member = |rank: &usize| {
            let peer = self.generation.members.get(*rank)?;
            Some(MemberSpeed {
                cost: self.members.get(&peer.member).and_then(&cost),
                threads: peer.threads as usize,
            })
        };
        let speeds = ranks.iter().filter_map(member).collect();
        (ranks, speeds)
    }

    /// Where each lane of the last placement is, as a position among `ranks`.
    fn lanes_among(&self, ranks: &[usize], lanes: usize) -> Vec<Option<usize>> {
        let position = |lane: usize| {
            let member = (*self.lanes.get(lane)?)?;
            let rank = self.generation.members.iter().position(|peer| peer.member == member)?;
            ranks.iter().position(|computing| *computing == rank)
        };
        // Those of an action with another number of lanes hold other data.
        let known = self.lanes.len() == lanes;
        (0..lanes).map(|lane| position(lane).filter(|_| known)).collect()
    }

    /// The rank for each lane of an action: where it was, as far as that is fair; by speed where that is worth it.
    pub(super) fn lanes_for(&self, action: &Action) -> Vec<u32> {
        let ActionKind::Iterate { lanes, .. } = action.head.kind else {
            return Vec::new();
        };
        let (ranks, speeds) = self.speeds(|member| member.lane_micros);
        let before = self.lanes_among(&ranks, lanes as usize);
        let alike: Vec<MemberSpeed> = speeds
            .iter()
            .map(|member| MemberSpeed { cost: None, ..*member })
            .collect();
        let (even, quick) = (deal_again(&alike, &before), deal_again(&speeds, &before));
        let known = even.iter().all(|member| speeds[*member].cost.is_some());
        let dealt = if known && is_worth_it(time(&speeds, &even), time(&speeds, &quick)) {
            quick
        } else {
            even
        };
        dealt.into_iter().map(|position| ranks[position] as u32).collect()
    }

    /// How long a task takes on each member, by rank; empty unless all have been measured and some are much slower.
    pub(super) fn costs(&self) -> Vec<u64> {
        let members = self.generation.members.iter();
        let costs = members.map(|peer| self.members.get(&peer.member)?.task_micros);
        let costs: Vec<u64> = costs.collect::<Option<_>>().unwrap_or_default();
        let least = costs.iter().copied().min().unwrap_or_default();
        let alike = |cost: &u64| *cost <= least.saturating_mul(ALIKE);
        if costs.iter().all(alike) {
            return Vec::new();
        }
        costs
            .iter()
            .map(|cost| if alike(cost) { least } else { *cost })
            .collect()
    }

    /// Cuts the loop that runs if its lanes would be done much sooner elsewhere.
    pub(super) fn move_lanes_if_worth_it(&mut self) {
        let Some(round) = self.round.as_ref().filter(|round| round.cut.is_none()) else {
            return;
        };
        let Work::Loop { lanes, .. } = &round.work else { return };
        if round.began + MOVE_AFTER > self.now || !self.moves.may(self.now) {
            return;
        }
        let (ranks, speeds) = self.speeds(|member| member.lane_micros);
        let now: Option<Vec<usize>> = self.lanes_among(&ranks, lanes.len()).into_iter().collect();
        let Some(now) = now.filter(|now| now.iter().all(|member| speeds[*member].cost.is_some())) else {
            return;
        };
        let (takes, would_take) = (time(&speeds, &now), time(&speeds, &deal(&speeds, now.len())));
        if !is_worth_it(takes, would_take) {
            return;
        }
        self.moves.note(self.now);
        let cause = format!("lanes are moved: a step would take {would_take} us where it takes {takes} us");
        self.broken.get_or_insert(cause);
        self.cut();
    }
}
