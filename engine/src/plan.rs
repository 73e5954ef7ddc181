//! Planning, as a pure function of (lineage, wanted partitions, blocks that exist, shuffles that were sent).
//!
//! The lineage is cut at shuffles into stages. Within a stage each partition has a program: a list of operations in
//! postfix order that reads blocks and shuffles and computes what lies between. Nothing here does I/O or knows timely.
//!
//! `recover` plans again what is missing, `assign` says which process computes which partition of a plan.

pub(crate) mod recover;
pub(crate) mod assign;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::error::{EngineError, Result};
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::{Dependency, Lineage};

/// Tells whether the block of (dataset, partition) exists.
pub(crate) type Available<'a> = &'a dyn Fn(DatasetId, usize) -> bool;

/// Tells whether what a partition has sent into a shuffle is kept.
pub(crate) type Sent<'a> = &'a dyn Fn(ShuffleId, usize) -> bool;

/// What a stage does with the partitions that it computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Output {
    /// Hands them to the action.
    Result,
    /// Cuts them by key for the shuffle.
    Shuffle(ShuffleId),
}

/// A narrow chain between shuffles, and the partitions of it that are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    /// The last dataset of the chain.
    pub root: DatasetId,
    /// Partitions of `root` to compute, ascending.
    pub partitions: Vec<usize>,
    /// Where they go.
    pub output: Output,
    /// Those whose output is kept: it is sent again, and they are not computed.
    pub kept: BTreeSet<usize>,
    /// For each shuffle read: which partitions of `root` read which bucket, ascending.
    pub reads: BTreeMap<ShuffleId, BTreeMap<usize, Vec<usize>>>,
    /// Blocks that stand in for computing: (dataset, its partitions).
    pub blocks: BTreeMap<DatasetId, BTreeSet<usize>>,
}

/// Stages in an order in which each comes after those that it reads from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// The stages; the last one has [`Output::Result`].
    pub stages: Vec<Stage>,
    /// A dataset that must be computed and whose work before planning is not done: the plan cannot be run then.
    pub unprepared: Option<DatasetId>,
}

impl Plan {
    /// Partitions to compute over all stages.
    pub(crate) fn tasks(&self) -> usize {
        self.stages.iter().map(|stage| stage.partitions.len()).sum()
    }
}

/// Cuts `lineage` into the stages that compute `partitions` of its target, given the blocks that exist and
/// the outputs that are kept.
pub(crate) fn plan(lineage: &Lineage, partitions: &[usize], available: Available<'_>, sent: Sent<'_>) -> Plan {
    // A stage can only be read by stages whose root has a larger id, so that taking the largest root first
    // completes a stage's readers before the stage itself is cut.
    let mut waiting = BTreeMap::from([((lineage.target(), Output::Result), partitions.to_vec())]);
    let (mut stages, mut unprepared) = (Vec::new(), None);
    while let Some(((root, output), partitions)) = waiting.pop_last() {
        let stage = cut(lineage, (root, output), &partitions, available, sent, &mut unprepared);
        for shuffle in stage.reads.keys() {
            let parent = lineage.node(shuffle.child).dependencies[shuffle.dependency].parent();
            let all = || (0..lineage.node(parent).partitions).collect();
            waiting.entry((parent, Output::Shuffle(*shuffle))).or_insert_with(all);
        }
        stages.push(stage);
    }
    stages.reverse();
    Plan { stages, unprepared }
}

fn cut(
    lineage: &Lineage,
    (root, output): (DatasetId, Output),
    partitions: &[usize],
    available: Available<'_>,
    sent: Sent<'_>,
    unprepared: &mut Option<DatasetId>,
) -> Stage {
    let mut partitions = partitions.to_vec();
    partitions.sort_unstable();
    partitions.dedup();
    let mut stage = Stage {
        root,
        partitions: Vec::new(),
        output,
        kept: BTreeSet::new(),
        reads: BTreeMap::new(),
        blocks: BTreeMap::new(),
    };
    // For each dataset of the chain: (its partition, the stage partition that needs it).
    let mut wanted: BTreeMap<DatasetId, BTreeSet<(usize, usize)>> = BTreeMap::new();
    if let Output::Shuffle(shuffle) = output {
        let kept = partitions.iter().copied().filter(|partition| sent(shuffle, *partition));
        stage.kept = kept.collect();
    }
    let computed = partitions.iter().filter(|partition| !stage.kept.contains(*partition));
    wanted.insert(root, computed.map(|partition| (*partition, *partition)).collect());
    stage.partitions = partitions;
    while let Some((id, needs)) = wanted.pop_last() {
        let node = lineage.node(id);
        let mut missing = Vec::with_capacity(needs.len());
        for (partition, user) in needs {
            if node.level().is_some() && available(id, partition) {
                stage.blocks.entry(id).or_default().insert(partition);
            } else {
                missing.push((partition, user));
            }
        }
        if !missing.is_empty() && !node.is_prepared() {
            unprepared.get_or_insert(id);
        }
        for (dependency, kind) in node.dependencies().iter().enumerate() {
            match kind {
                Dependency::Narrow { parent, partitions } => {
                    let parent_partitions = lineage.node(*parent).partitions;
                    let readers = partitions.readers(parent_partitions);
                    // What is missing is in ascending order.
                    let first = missing.partition_point(|(partition, _)| *partition < readers.start);
                    let after = missing.partition_point(|(partition, _)| *partition < readers.end);
                    let needs = missing[first..after].iter().flat_map(|(partition, user)| {
                        partitions
                            .parents(*partition, parent_partitions)
                            .into_iter()
                            .map(|parent| (parent, *user))
                    });
                    let needs: Vec<_> = needs.collect();
                    if !needs.is_empty() {
                        wanted.entry(*parent).or_default().extend(needs);
                    }
                }
                Dependency::Shuffle { .. } if missing.is_empty() => {}
                Dependency::Shuffle { .. } => {
                    let buckets = stage.reads.entry(ShuffleId { child: id, dependency }).or_default();
                    for (partition, user) in &missing {
                        // Each once, and ascending: all that is missing of a dataset is known before it is cut.
                        let users: &mut Vec<usize> = buckets.entry(*partition).or_default();
                        users.push(*user);
                    }
                }
            }
        }
    }
    stage
}

/// One operation of a partition's program, for a machine with a stack of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Push the records of a stored block.
    Read(DatasetId, usize),
    /// Push what came through a shuffle for this bucket.
    Shuffle(ShuffleId, usize),
    /// Pop the inputs, push partition `partition` of `dataset`.
    Compute {
        /// What to compute.
        dataset: DatasetId,
        /// Which partition of it.
        partition: usize,
        /// How many streams it takes.
        inputs: usize,
    },
    /// Pop the records of (dataset, partition), store them as a block, push them again.
    Keep(DatasetId, usize),
}

/// Operations that a program may have: beyond that, partitions without a block are computed again and again in it.
pub(crate) const OPERATIONS_MAX: usize = 4_000_000;

/// The program that computes `partition` of `root`, given the blocks that exist.
///
/// # Errors
/// It would have too many operations.
pub(crate) fn program(
    lineage: &Lineage,
    (root, partition): (DatasetId, usize),
    available: Available<'_>,
    reuse: Reuse<'_>,
) -> Result<Vec<Operation>> {
    let mut operations = Operations::new(lineage, (root, partition), available, reuse);
    let program: Vec<Operation> = operations.by_ref().take(OPERATIONS_MAX).collect();
    if operations.next().is_none() {
        return Ok(program);
    }
    let node = lineage.node(root);
    Err(EngineError::ProgramTooLong {
        operator: node.title(),
        site: node.site.to_string(),
        partition,
        operations_max: OPERATIONS_MAX,
    })
}

/// Tells whether a program reads the blocks of a dataset that it keeps itself, so that each is computed once, however
/// many read it. If such blocks were not kept after all, each reader computes its own.
pub(crate) type Reuse<'a> = &'a dyn Fn(DatasetId) -> bool;

/// The operations of a [`program`], one after another, however many they are.
pub(crate) struct Operations<'a> {
    lineage: &'a Lineage,
    available: Available<'a>,
    reuse: Reuse<'a>,
    stack: Vec<Visit>,
    /// What this program keeps. All operations of what is visited first come before the next visit, and so does its
    /// `Keep`.
    kept: HashSet<(DatasetId, usize)>,
}

enum Visit {
    Partition(DatasetId, usize),
    Emit(Operation),
}

impl<'a> Operations<'a> {
    pub(crate) fn new(
        lineage: &'a Lineage,
        (root, partition): (DatasetId, usize),
        available: Available<'a>,
        reuse: Reuse<'a>,
    ) -> Self {
        Self {
            lineage,
            available,
            reuse,
            stack: vec![Visit::Partition(root, partition)],
            kept: HashSet::new(),
        }
    }

    /// What is to be done for a partition. Returns an operation if that is all.
    fn visit(&mut self, id: DatasetId, partition: usize) -> Option<Operation> {
        let node = self.lineage.node(id);
        if node.level().is_some() {
            let kept = (self.reuse)(id) && !self.kept.insert((id, partition));
            if kept || (self.available)(id, partition) {
                return Some(Operation::Read(id, partition));
            }
            self.stack.push(Visit::Emit(Operation::Keep(id, partition)));
        }
        let mut inputs = Vec::new();
        for (dependency, kind) in node.dependencies_of(partition) {
            match kind {
                Dependency::Shuffle { .. } => {
                    inputs.push(Visit::Emit(Operation::Shuffle(
                        ShuffleId { child: id, dependency },
                        partition,
                    )));
                }
                Dependency::Narrow { parent, partitions } => {
                    let parents = partitions.parents(partition, self.lineage.node(*parent).partitions);
                    inputs.extend(
                        parents
                            .into_iter()
                            .map(|partition| Visit::Partition(*parent, partition)),
                    );
                }
            }
        }
        self.stack.push(Visit::Emit(Operation::Compute {
            dataset: id,
            partition,
            inputs: inputs.len(),
        }));
        self.stack.extend(inputs.into_iter().rev());
        None
    }
}

impl Iterator for Operations<'_> {
    type Item = Operation;

    fn next(&mut self) -> Option<Operation> {
        loop {
            match self.stack.pop()? {
                Visit::Emit(operation) => return Some(operation),
                Visit::Partition(id, partition) => {
                    if let Some(operation) = self.visit(id, partition) {
                        return Some(operation);
                    }
                }
            }
        }
    }
}
