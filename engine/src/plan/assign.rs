//! Which process computes which partition of a plan, as a pure function of (plan, blocks of each process, required
//! ranks). Results never depend on it.
//!
//! A process is named by its rank in the generation. Every process works out the same assignment from the same facts.

use std::collections::{BTreeMap, BTreeSet};

use super::{OPERATIONS_MAX, Operation, Operations, Output, Plan, Stage};
use crate::cluster::load_balance::{MemberSpeed, deal};
use crate::cluster::protocol::{Asset, Partitions};
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::Lineage;

/// Which ranks have which blocks and keep which outputs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holders(BTreeMap<Asset, Vec<(usize, Partitions)>>);

impl Holders {
    /// Notes what `rank` has.
    pub(crate) fn add(&mut self, rank: usize, asset: Asset, partitions: &Partitions) {
        self.0.entry(asset).or_default().push((rank, partitions.clone()));
    }

    /// The ranks that have a block.
    pub(crate) fn of(&self, dataset: DatasetId, partition: usize) -> impl Iterator<Item = usize> + '_ {
        self.ranks(Asset::Dataset(dataset), partition)
    }

    /// The rank that keeps what a partition has sent into a shuffle.
    pub(crate) fn of_output(&self, shuffle: ShuffleId, partition: usize) -> Option<usize> {
        self.ranks(Asset::Output(shuffle), partition).next()
    }

    fn ranks(&self, asset: Asset, partition: usize) -> impl Iterator<Item = usize> + '_ {
        let holders = self.0.get(&asset).into_iter().flatten();
        holders
            .filter(move |(_, partitions)| partitions.contains(partition))
            .map(|(rank, _)| *rank)
    }
}

/// The rank of each partition of each stage of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Assignment {
    stages: Vec<BTreeMap<usize, usize>>,
    /// For each stage the ranks that have partitions of it: they are asked for at the end of every task.
    ranks: Vec<BTreeSet<usize>>,
}

impl Assignment {
    /// For each stage the rank of each of its partitions.
    pub(crate) fn of(stages: Vec<BTreeMap<usize, usize>>) -> Self {
        let ranks = stages.iter().map(|stage| stage.values().copied().collect());
        Self {
            ranks: ranks.collect(),
            stages,
        }
    }

    /// Everything on one process.
    pub(crate) fn alone(plan: &Plan) -> Self {
        let stages = plan.stages.iter();
        let stages = stages.map(|stage| stage.partitions.iter().map(|partition| (*partition, 0)).collect());
        Self::of(stages.collect())
    }

    /// Spreads a plan over the ranks in `computing`, whose speeds are in `speeds`: a partition of the result goes where
    /// `required_rank` says, one whose output is kept to where that is, any other one to a rank that has the first
    /// block it reads, if that can be the one that would have been dealt it. What reads no block is dealt, if that can
    /// be to ranks that may have the bytes of its source.
    pub(crate) fn spread(
        lineage: &Lineage,
        plan: &Plan,
        holders: &Holders,
        (computing, speeds): (&[usize], &[MemberSpeed]),
        required_rank: &dyn Fn(usize) -> Option<usize>,
    ) -> Self {
        let last = plan.stages.iter().filter_map(|stage| stage.partitions.last()).max();
        // By number, so that partitions with the same number in several stages are together.
        let dealt = deal(speeds, last.map_or(0, |last| last + 1));
        let stages = plan.stages.iter().map(|stage| {
            let (mut placed, mut rest) = (BTreeMap::new(), Vec::new());
            for partition in stage.partitions.iter().copied() {
                let required = match stage.output {
                    Output::Result => required_rank(partition),
                    Output::Shuffle(shuffle) => holders.of_output(shuffle, partition),
                };
                let turn = dealt.get(partition).and_then(|member| computing.get(*member)).copied();
                let near = || {
                    let near = near(lineage, stage, partition, holders);
                    let turn = turn.filter(|turn| near.contains(turn));
                    turn.or_else(|| near.iter().copied().find(|rank| computing.contains(rank)))
                };
                let fixed = required.or_else(near);
                match fixed {
                    Some(rank) => _ = placed.insert(partition, rank),
                    None => rest.push((partition, turn.unwrap_or(0))),
                }
            }
            placed.extend(exchanged(rest, |partition| {
                near_source(lineage, stage, partition, holders)
            }));
            placed
        });
        Self::of(stages.collect())
    }

    /// The rank that computes a partition of a stage, if the stage has it.
    pub(crate) fn rank(&self, stage: usize, partition: usize) -> Option<usize> {
        self.stages.get(stage)?.get(&partition).copied()
    }

    /// The partitions of a stage on a rank, ascending.
    pub(crate) fn partitions(&self, stage: usize, rank: usize) -> impl Iterator<Item = usize> + '_ {
        let partitions = self.stages.get(stage).into_iter().flatten();
        partitions
            .filter(move |(_, assigned)| **assigned == rank)
            .map(|(partition, _)| *partition)
    }

    /// The ranks that have partitions of a stage.
    pub(crate) fn ranks(&self, stage: usize) -> impl Iterator<Item = usize> + '_ {
        self.ranks.get(stage).into_iter().flatten().copied()
    }
}

/// Partitions and whose turn each is, exchanged so that they go to ranks that they like as far as that can be; each
/// rank gets as many as before.
fn exchanged(mut rest: Vec<(usize, usize)>, likes: impl Fn(usize) -> Vec<usize>) -> BTreeMap<usize, usize> {
    let mut left: BTreeMap<usize, usize> = BTreeMap::new();
    rest.iter().for_each(|(_, turn)| *left.entry(*turn).or_default() += 1);
    let ranks: Vec<usize> = left.keys().copied().collect();
    let mut placed = BTreeMap::new();
    let mut take = |partition: usize, rank: usize| {
        let free = left.get_mut(&rank).filter(|free| **free > 0);
        free.map(|free| *free -= 1).is_some() && placed.insert(partition, rank).is_none()
    };
    rest.retain(|(partition, turn)| !(likes(*partition).contains(turn) && take(*partition, *turn)));
    rest.retain(|(partition, _)| !likes(*partition).into_iter().any(|rank| take(*partition, rank)));
    rest.retain(|(partition, turn)| !take(*partition, *turn));
    rest.retain(|(partition, _)| !ranks.iter().any(|rank| take(*partition, *rank)));
    placed
}

/// The ranks that may have the bytes of the first source that a partition reads.
fn near_source(lineage: &Lineage, stage: &Stage, partition: usize, holders: &Holders) -> Vec<usize> {
    if holders.0.is_empty() {
        return Vec::new();
    }
    let mut operations = Operations::new(lineage, (stage.root, partition), &|_, _| false, &|_| true);
    let source = operations.find_map(|operation| match operation {
        Operation::Compute { dataset, partition, .. } => Some((dataset, partition)),
        _ => None,
    });
    let holders = source.map(|(dataset, partition)| holders.of(dataset, partition));
    holders.into_iter().flatten().collect()
}

/// The ranks that have the first block that a partition reads.
fn near(lineage: &Lineage, stage: &Stage, partition: usize, holders: &Holders) -> Vec<usize> {
    if stage.blocks.is_empty() {
        return Vec::new();
    }
    let planned = |dataset: DatasetId, partition: usize| {
        let blocks = stage.blocks.get(&dataset);
        blocks.is_some_and(|blocks| blocks.contains(&partition))
    };
    let operations = Operations::new(lineage, (stage.root, partition), &planned, &|_| true);
    let read = operations.take(OPERATIONS_MAX).find_map(|operation| match operation {
        Operation::Read(dataset, partition) => Some((dataset, partition)).filter(|_| planned(dataset, partition)),
        _ => None,
    });
    let holders = read.map(|(dataset, partition)| holders.of(dataset, partition));
    holders.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(ranks: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
        ranks.fold(BTreeMap::new(), |mut counts, rank| {
            *counts.entry(rank).or_default() += 1;
            counts
        })
    }

    #[test]
    fn asking_for_the_ranks_of_a_stage_looks_at_each_rank_once_and_at_no_partition() {
        let stage = (0..1000).map(|partition| (partition, partition % 3)).collect();
        let assignment = Assignment::of(vec![stage, BTreeMap::new()]);
        assert!(assignment.ranks(0).eq(0..3));
        assert!(assignment.ranks(1).chain(assignment.ranks(2)).next().is_none());
        let kept = assignment.ranks.iter().map(BTreeSet::len);
        assert!(kept.eq([3, 0]), "they were worked out when the assignment was made");
    }

    #[test]
    fn each_goes_where_it_likes_to_be_if_that_can_be() {
        let turns = vec![(0, 0), (1, 1), (2, 2), (3, 0)];
        let likes: [&[usize]; 4] = [&[1], &[0], &[2, 0], &[]];
        let placed = exchanged(turns, |partition| likes[partition].to_vec());
        assert_eq!(placed, BTreeMap::from([(0, 1), (1, 0), (2, 2), (3, 0)]));
        let placed = exchanged(vec![(0, 0), (1, 1)], |_| vec![1]);
        assert_eq!(
            placed,
            BTreeMap::from([(0, 0), (1, 1)]),
            "all like one, which takes no more than before"
        );
    }

    proptest! {
        #[test]
        fn each_rank_gets_as_many_as_before(
            turns in prop::collection::vec(0..4_usize, 0..20),
            likes in prop::collection::vec(prop::collection::vec(0..6_usize, 0..4), 20),
        ) {
            let turns: Vec<(usize, usize)> = turns.into_iter().enumerate().collect();
            let placed = exchanged(turns.clone(), |partition| likes[partition].clone());
            prop_assert!(placed.keys().copied().eq(0..turns.len()));
            prop_assert_eq!(counts(placed.into_values()), counts(turns.into_iter().map(|(_, rank)| rank)));
        }
    }
}
