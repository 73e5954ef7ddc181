//! The updates of one step, as far as they are summed, and what of them goes to other processes.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::dataflow::exchange::{Exchange, Partial};
use crate::dataflow::vector::Vector;
use crate::iteration::Tallies;
use crate::tree::{self, PartialSum};

/// The updates of one step by this process's lanes.
pub(super) type Updates = BTreeMap<usize, (Tallies, Arc<Vector>)>;

/// Sums what this process's lanes have for another owner, as far as the tree allows, and pushes it.
pub(super) fn push_to(exchange: &Exchange, owner: usize, step: u64, updates: &Updates, scratch: &mut Vec<f32>) {
    let owner = &exchange.owners[owner];
    for node in tree::cover(0..exchange.iteration.lanes, &|lane| updates.contains_key(&lane)) {
        let Some(tallies) = tree::fold(node.clone(), &mut |lane| updates[&lane].0, &mut Tallies::plus) else {
            continue;
        };
        // Who reads in place has all of it there.
        let front = exchange.sent_from(step, &node, owner);
        if node.len() == 1 {
            let update = &updates[&node.start].1;
            if let (Some(start), true) = (update.start(), exchange.shares_with(owner.rank)) {
                exchange.push_in_place(owner, step, &node, tallies, start);
                continue;
            }
            let rest = owner.ranges.iter().map(|range| &update[up_to(front, range)]);
            exchange.push(owner, step, &node, tallies, &rest.collect::<Vec<&[f32]>>());
            continue;
        }
        let mut sum = |range: &Range<usize>, sum: &mut [f32]| {
            let leaves = node
                .clone()
                .map(|lane| PartialSum::of_lane(lane, &updates[&lane].1[range.clone()]));
            tree::sum(
                &leaves.collect::<Vec<PartialSum<'_>>>(),
                node.clone(),
                exchange.iteration.updates,
                sum,
            );
        };
        if let Some(start) = exchange.sum_in_place(owner, step, &node, &mut sum) {
            exchange.push_in_place(owner, step, &node, tallies, start);
            continue;
        }
        let ranges = owner.ranges.iter().map(|range| up_to(front, range));
        scratch.resize(ranges.clone().map(|range| range.len()).sum(), 0.0);
        let mut rest = &mut scratch[..];
        for range in ranges {
            let (part, after) = rest.split_at_mut(range.len());
            sum(&range, part);
            rest = after;
        }
        exchange.push(owner, step, &node, tallies, &[&*scratch]);
    }
}

/// What of a range lies before `front`.
fn up_to(front: usize, range: &Range<usize>) -> Range<usize> {
    range.start..front.clamp(range.start, range.end)
}

/// All updates of one step.
pub(super) struct Parts {
    pub(super) local: Updates,
    pub(super) remote: Vec<Arc<Partial>>,
}

impl Parts {
    /// The tallies of all lanes, summed along the tree.
    pub(super) fn tallies(&self, lanes: Range<usize>) -> Option<Tallies> {
        if let Some(partial) = self.remote.iter().find(|partial| partial.lanes == lanes) {
            return Some(partial.tallies);
        }
        match tree::split(&lanes) {
            None => self.local.get(&lanes.start).map(|(tallies, _)| *tallies),
            Some(middle) => {
                let left = self.tallies(lanes.start..middle)?;
                Some(left.plus(self.tallies(middle..lanes.end)?))
            }
        }
    }

    /// What there is of a shard: `range` of the parameters, which begins at `offset` in what other processes sent.
    pub(super) fn of(&self, range: &Range<usize>, offset: usize) -> Vec<PartialSum<'_>> {
        let local = self
            .local
            .iter()
            .map(|(lane, (_, update))| PartialSum::of_lane(*lane, &update[range.clone()]));
        let remote = self.remote.iter().map(|partial| PartialSum {
            lanes: partial.lanes.clone(),
            values: partial.of(range, offset),
        });
        let mut parts: Vec<PartialSum<'_>> = local.chain(remote).collect();
        parts.sort_unstable_by_key(|part| part.lanes.start);
        parts
    }
}
