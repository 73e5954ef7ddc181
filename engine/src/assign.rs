//! Which process computes which partition of a plan, as a pure function of (plan, blocks of each process, pins).
//! Results never depend on it.
//!
//! A process is named by its rank in the generation. Every process works out the same assignment from the same facts.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::deal::{Hand, deal};
use crate::id::DatasetId;
use crate::lineage::Lineage;
use crate::plan::{Operation, Output, Plan, Stage, program};

/// Blocks that exist, and the ranks that have each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holders(BTreeMap<(DatasetId, usize), Vec<usize>>);

impl Holders {
    /// Notes that `rank` has a block.
    pub fn add(&mut self, rank: usize, dataset: DatasetId, partition: usize) {
        let ranks = self.0.entry((dataset, partition)).or_default();
        if !ranks.contains(&rank) {
            ranks.push(rank);
        }
    }

    /// The ranks that have a block.
    pub fn of(&self, dataset: DatasetId, partition: usize) -> &[usize] {
        self.0.get(&(dataset, partition)).map_or(&[], Vec::as_slice)
    }
}

/// The rank of each partition of each stage of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Assignment {
    stages: Vec<BTreeMap<usize, usize>>,
}

impl Assignment {
    /// Everything on one process.
    pub fn alone(plan: &Plan) -> Self {
        let stages = plan.stages.iter();
        let stages = stages.map(|stage| stage.partitions.iter().map(|partition| (*partition, 0)).collect());
        Self {
            stages: stages.collect(),
        }
    }

    /// Spreads a plan over the ranks in `computing`, whose speeds are in `hands`: a partition of the result goes where
    /// `pins` wants it, any other one to a rank that has the first block it reads, and what reads no block is dealt. Of
    /// several ranks that have the block it is the one that would have been dealt it, if that is among them.
    pub fn spread(
        lineage: &Lineage,
        plan: &Plan,
        holders: &Holders,
        (computing, hands): (&[usize], &[Hand]),
        pins: &dyn Fn(usize) -> Option<usize>,
    ) -> Self {
        let last = plan.stages.iter().filter_map(|stage| stage.partitions.last()).max();
        // By number, so that partitions with the same number in several stages are together.
        let dealt = deal(hands, last.map_or(0, |last| last + 1));
        let stages = plan.stages.iter().map(|stage| {
            let rank = |partition: &usize| {
                let pinned = pins(*partition).filter(|_| stage.output == Output::Result);
                let turn = dealt.get(*partition).and_then(|hand| computing.get(*hand)).copied();
                let near = || {
                    let near = near(lineage, stage, *partition, holders);
                    let turn = turn.filter(|turn| near.contains(turn));
                    turn.or_else(|| near.iter().copied().find(|rank| computing.contains(rank)))
                };
                (*partition, pinned.or_else(near).or(turn).unwrap_or(0))
            };
            stage.partitions.iter().map(rank).collect()
        });
        Self {
            stages: stages.collect(),
        }
    }

    /// The rank that computes a partition of a stage, if the stage has it.
    pub fn rank(&self, stage: usize, partition: usize) -> Option<usize> {
        self.stages.get(stage)?.get(&partition).copied()
    }

    /// The partitions of a stage on a rank, ascending.
    pub fn partitions(&self, stage: usize, rank: usize) -> impl Iterator<Item = usize> + '_ {
        let partitions = self.stages.get(stage).into_iter().flatten();
        partitions
            .filter(move |(_, assigned)| **assigned == rank)
            .map(|(partition, _)| *partition)
    }

    /// The ranks that have partitions of a stage.
    pub fn ranks(&self, stage: usize) -> BTreeSet<usize> {
        self.stages
            .get(stage)
            .map(|stage| stage.values().copied().collect())
            .unwrap_or_default()
    }
}

/// The ranks that have the first block that a partition reads.
fn near<'a>(lineage: &Lineage, stage: &Stage, partition: usize, holders: &'a Holders) -> &'a [usize] {
    if stage.blocks.is_empty() {
        return &[];
    }
    let planned = |dataset: DatasetId, partition: usize| {
        let blocks = stage.blocks.get(&dataset);
        blocks.is_some_and(|blocks| blocks.contains(&partition))
    };
    let operations = program(lineage, stage.root, partition, &planned);
    let read = operations.iter().find_map(|operation| match operation {
        Operation::Read(dataset, partition) => Some((*dataset, *partition)),
        _ => None,
    });
    read.map_or(&[], |(dataset, partition)| holders.of(dataset, partition))
}
