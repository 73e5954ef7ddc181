//! The role that a process has in an exchange: it follows from where lanes and shards are.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Owner;
use crate::dataflow::team::Team;
use crate::iteration::{Iteration, Placement};
use crate::staleness::Staleness;
use crate::tree;

/// What a process sums and applies, and whom it gives that to and gets it from.
pub(super) struct LocalRole {
    /// Its lanes, ascending.
    pub(super) lanes: Vec<usize>,
    /// The largest nodes of the tree over lanes that are all among them.
    pub(super) nodes: Vec<Range<usize>>,
    /// The ranges of its shards, by shard.
    pub(super) own: BTreeMap<usize, Range<usize>>,
    /// The other processes that own shards.
    pub(super) owners: Vec<Owner>,
    /// Its workers that lanes hand their updates to: owners of shards, and couriers.
    pub(super) targets: Vec<usize>,
    /// Nodes of the tree that come from other processes, with the rank that sends each.
    pub(super) expected: BTreeMap<usize, (Range<usize>, usize)>,
}

impl LocalRole {
    /// That of the process that `team` says, in an exchange of so many parameters.
    pub(super) fn new(iteration: &Iteration, placement: &Placement, team: &Team, length: usize) -> Self {
        let ranges = |rank: usize| {
            let held = iteration.shards_held(length);
            let held = held.filter(|shard| team.rank_of(placement.shards[*shard]) == rank);
            let ranges = held.map(|shard| (shard, iteration.shard_range(shard, length)));
            ranges.collect::<BTreeMap<usize, Range<usize>>>()
        };
        let own = ranges(team.rank);
        let others = (0..team.ranks()).filter(|rank| *rank != team.rank);
        let workers = team.workers(team.rank);
        let owners: Vec<Owner> = others
            .clone()
            .map(|rank| Owner {
                rank,
                courier: rank % workers.len().max(1),
                ranges: ranges(rank).into_values().collect(),
            })
            .filter(|owner| !owner.ranges.is_empty())
            .collect();
        let mut expected = BTreeMap::new();
        for rank in others.filter(|_| !own.is_empty()) {
            for node in tree::cover(0..iteration.lanes, &hosts(rank, placement, team)) {
                expected.insert(node.start, (node, rank));
            }
        }
        let held = own.keys().map(|shard| placement.shards[*shard] - workers.start);
        let mut targets: Vec<usize> = held.chain(owners.iter().map(|owner| owner.courier)).collect();
        targets.sort_unstable();
        targets.dedup();
        let is_here = hosts(team.rank, placement, team);
        Self {
            lanes: (0..iteration.lanes).filter(|lane| is_here(*lane)).collect(),
            nodes: tree::cover(0..iteration.lanes, &is_here),
            own,
            owners,
            targets,
            expected,
        }
    }
}

/// Whether a lane is on the process of a rank.
fn hosts<'a>(rank: usize, placement: &'a Placement, team: &'a Team) -> impl Fn(usize) -> bool + use<'a> {
    move |lane| team.rank_of(placement.lanes[lane]) == rank
}

/// Ranks that keep copies of optimizer state and may fall behind, since they host no lanes or need not read the newest
/// version.
pub(super) fn attending(
    iteration: &Iteration,
    placement: &Placement,
    team: &Team,
    copies: &[Option<usize>],
) -> Vec<usize> {
    let is_idle = |rank: usize| !(0..iteration.lanes).any(hosts(rank, placement, team));
    let may_fall_behind = iteration.staleness != Staleness::Synchronous;
    let attends = |rank: &usize| copies.contains(&Some(*rank)) && (may_fall_behind || is_idle(*rank));
    (0..team.ranks()).filter(attends).collect()
}
