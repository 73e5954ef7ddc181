//! `plan`, `program` and `recover` as pure functions, over drawn lineages and drawn sets of blocks.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use distdl_storage::Level;
use proptest::prelude::*;

use super::*;
use crate::batch::RecordType;
use crate::id::{DatasetId, ShuffleId};
use crate::lineage::{BucketWriter, Compute, Dependency, Graph, Lineage, NodeSpec, PartitionMap, ShuffleSpec};
use crate::plan::{Operation, Output, Plan, Stage, plan, program};
use crate::task::TaskContext;

struct Buckets(usize);

impl ShuffleSpec for Buckets {
    fn buckets(&self) -> usize {
        self.0
    }
    fn record_type(&self) -> RecordType {
        RecordType::of::<u64>()
    }
    fn writer(&self, _: &TaskContext, _: usize) -> Box<dyn BucketWriter> {
        unreachable!("planning runs nothing")
    }
    fn combines(&self) -> bool {
        false
    }
}

/// A dataset to be, over earlier ones: drawn numbers choose them.
#[derive(Debug, Clone)]
enum Kind {
    Source(usize),
    Map(usize),
    Zip(usize, usize),
    Union(usize, usize),
    Coalesce(usize, usize),
    Shuffle(usize, usize),
    Cogroup(usize, usize, usize),
}

#[derive(Debug, Clone)]
struct Drawn {
    kind: Kind,
    persisted: bool,
    blocks: u64,
}

fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
    let number = || 0..64usize;
    let kind = prop_oneof![
        1 => (1..5usize).prop_map(Kind::Source),
        4 => number().prop_map(Kind::Map),
        2 => (number(), number()).prop_map(|(left, right)| Kind::Zip(left, right)),
        2 => (number(), number()).prop_map(|(left, right)| Kind::Union(left, right)),
        2 => (number(), 1..4usize).prop_map(|(parent, count)| Kind::Coalesce(parent, count)),
        3 => (number(), 1..5usize).prop_map(|(parent, count)| Kind::Shuffle(parent, count)),
        2 => (number(), number(), 1..5usize).prop_map(|(left, right, count)| Kind::Cogroup(left, right, count)),
    ];
    let node = (kind, any::<bool>(), any::<u64>());
    let node = node.prop_map(|(kind, persisted, blocks)| Drawn {
        kind,
        persisted,
        blocks,
    });
    prop::collection::vec(node, 1..14)
}

/// The lineage of the last dataset, and the blocks that exist.
fn lineage(drawn: &[Drawn]) -> (Lineage, BTreeSet<(DatasetId, usize)>) {
    let mut graph = Graph::default();
    let mut made: Vec<(DatasetId, usize)> = Vec::new();
    let mut blocks = BTreeSet::new();
    for Drawn {
        kind,
        persisted,
        blocks: bits,
    } in drawn
    {
        let (partitions, dependencies) = derive(kind, &made);
        let spec = NodeSpec::new("drawn", partitions, dependencies, Compute::Pass);
        let node = graph.insert(spec, RecordType::of::<u64>());
        node.set_level(persisted.then_some(Level::Memory));
        // Also blocks of what is no longer persisted: they must not be believed.
        blocks.extend(
            (0..partitions)
                .filter(|partition| bits >> (partition % 64) & 1 == 1)
                .map(|partition| (node.id, partition)),
        );
        made.push((node.id, partitions));
    }
    (graph.lineage(made[made.len() - 1].0), blocks)
}

const PARTITIONS_MAX: usize = 60;

fn derive(kind: &Kind, made: &[(DatasetId, usize)]) -> (usize, Vec<Dependency>) {
    let Some(last) = made.len().checked_sub(1) else {
        return (3, Vec::new());
    };
    // Mostly recent ones, so that lineages are deep.
    let pick = |drawn: usize| made[last - (drawn % 3).min(last)];
    let narrow = |parent, partitions| Dependency::Narrow { parent, partitions };
    let shuffle = |parent, buckets| Dependency::Shuffle {
        parent,
        spec: Arc::new(Buckets(buckets)),
    };
    match *kind {
        Kind::Source(partitions) => (partitions, Vec::new()),
        Kind::Map(parent) => {
            let (parent, partitions) = pick(parent);
            (partitions, vec![narrow(parent, PartitionMap::Same)])
        }
        Kind::Zip(left, right) => {
            let ((left, partitions), (right, same)) = (pick(left), pick(right));
            let right = if same == partitions { right } else { left };
            (
                partitions,
                vec![narrow(left, PartitionMap::Same), narrow(right, PartitionMap::Same)],
            )
        }
        Kind::Union(left, right) => {
            let ((left, count), (right, more)) = (pick(left), pick(right));
            if count + more > PARTITIONS_MAX {
                return (count, vec![narrow(left, PartitionMap::Same)]);
            }
            let arms = vec![
                narrow(left, PartitionMap::Offset(0)),
                narrow(right, PartitionMap::Offset(count)),
            ];
            (count + more, arms)
        }
        Kind::Coalesce(parent, groups) => {
            let (parent, count) = pick(parent);
            let groups = groups.min(count);
            let group = |group: usize| (group * count / groups..(group + 1) * count / groups).collect();
            (
                groups,
                vec![narrow(parent, PartitionMap::Groups((0..groups).map(group).collect()))],
            )
        }
        Kind::Shuffle(parent, buckets) => (buckets, vec![shuffle(pick(parent).0, buckets)]),
        Kind::Cogroup(left, right, buckets) => (
            buckets,
            vec![shuffle(pick(left).0, buckets), shuffle(pick(right).0, buckets)],
        ),
    }
}

/// What is there already.
struct Known<'a> {
    available: &'a dyn Fn(DatasetId, usize) -> bool,
    sent: &'a dyn Fn(ShuffleId, usize) -> bool,
}

/// What computing some partitions takes, found by plain recursion.
#[derive(Default)]
struct Needs {
    computed: BTreeSet<(DatasetId, usize)>,
    blocks: BTreeSet<(DatasetId, usize)>,
    shuffles: BTreeSet<ShuffleId>,
}

impl Needs {
    fn visit(&mut self, lineage: &Lineage, id: DatasetId, partition: usize, known: &Known<'_>) {
        let node = lineage.node(id);
        if node.level().is_some() && (known.available)(id, partition) {
            self.blocks.insert((id, partition));
            return;
        }
        if !self.computed.insert((id, partition)) {
            return;
        }
        for (dependency, kind) in node.dependencies.iter().enumerate() {
            let count = lineage.node(kind.parent()).partitions;
            match kind {
                Dependency::Narrow { parent, partitions } => {
                    for partition in partitions.parents(partition, count) {
                        self.visit(lineage, *parent, partition, known);
                    }
                }
                Dependency::Shuffle { parent, .. } => {
                    let shuffle = ShuffleId { child: id, dependency };
                    if self.shuffles.insert(shuffle) {
                        let computed = (0..count).filter(|partition| !(known.sent)(shuffle, *partition));
                        computed.for_each(|partition| self.visit(lineage, *parent, partition, known));
                    }
                }
            }
        }
    }
}

/// A plan must be such that running it gives the wanted partitions and nothing is done that need not be.
fn check(lineage: &Lineage, wanted: &BTreeSet<usize>, plan: &Plan, known: &Known<'_>) {
    let mut needs = Needs::default();
    wanted
        .iter()
        .for_each(|partition| needs.visit(lineage, lineage.target(), *partition, known));
    let mut done = Needs::default();
    let mut written = BTreeSet::new();
    for (index, stage) in plan.stages.iter().enumerate() {
        for shuffle in stage.reads.keys() {
            assert!(
                written.contains(shuffle),
                "stage {index} reads {shuffle} before it is written"
            );
        }
        check_output(lineage, wanted, stage, index + 1 == plan.stages.len());
        let mut kept = BTreeSet::new();
        if let Output::Shuffle(shuffle) = stage.output {
            assert!(written.insert(shuffle), "{shuffle} is written twice");
            let sent = stage.partitions.iter().copied();
            kept.extend(sent.filter(|partition| (known.sent)(shuffle, *partition)));
        }
        assert_eq!(stage.kept, kept);
        check_programs(lineage, stage, known.available, &mut done);
    }
    assert_eq!(written, needs.shuffles, "shuffles");
    assert_eq!(done.shuffles, needs.shuffles, "shuffles that are read");
    assert_eq!(done.computed, needs.computed, "partitions computed");
    assert_eq!(done.blocks, needs.blocks, "blocks read");
}

fn check_output(lineage: &Lineage, wanted: &BTreeSet<usize>, stage: &Stage, last: bool) {
    let partitions: Vec<usize> = match stage.output {
        Output::Result => {
            assert_eq!(stage.root, lineage.target());
            wanted.iter().copied().collect()
        }
        Output::Shuffle(shuffle) => {
            assert_eq!(
                stage.root,
                lineage.node(shuffle.child).dependencies[shuffle.dependency].parent()
            );
            (0..lineage.node(stage.root).partitions).collect()
        }
    };
    assert_eq!(stage.output == Output::Result, last);
    assert_eq!(stage.partitions, partitions, "each partition once, in order");
}

/// Runs each partition's program on a machine that only counts, and compares with what the stage declares.
fn check_programs(lineage: &Lineage, stage: &Stage, available: &dyn Fn(DatasetId, usize) -> bool, done: &mut Needs) {
    let mut reads: BTreeMap<ShuffleId, BTreeMap<usize, BTreeSet<usize>>> = BTreeMap::new();
    let mut blocks: BTreeMap<DatasetId, BTreeSet<usize>> = BTreeMap::new();
    for partition in stage
        .partitions
        .iter()
        .filter(|partition| !stage.kept.contains(*partition))
    {
        let mut stack: Vec<Option<(DatasetId, usize)>> = Vec::new();
        let mut kept = BTreeSet::new();
        for operation in program(lineage, (stage.root, *partition), available, &|_| true).unwrap() {
            match operation {
                Operation::Read(dataset, partition) if kept.contains(&(dataset, partition)) => {
                    stack.push(Some((dataset, partition)));
                }
                Operation::Read(dataset, partition) => {
                    blocks.entry(dataset).or_default().insert(partition);
                    done.blocks.insert((dataset, partition));
                    stack.push(Some((dataset, partition)));
                }
                Operation::Shuffle(shuffle, bucket) => {
                    reads
                        .entry(shuffle)
                        .or_default()
                        .entry(bucket)
                        .or_default()
                        .insert(*partition);
                    done.shuffles.insert(shuffle);
                    stack.push(None);
                }
                Operation::Compute {
                    dataset,
                    partition,
                    inputs,
                } => {
                    let level = lineage.node(dataset).level();
                    assert!(
                        level.is_none() || !available(dataset, partition),
                        "computes what a block provides"
                    );
                    stack.truncate(stack.len().checked_sub(inputs).expect("inputs on the stack"));
                    done.computed.insert((dataset, partition));
                    stack.push(Some((dataset, partition)));
                }
                Operation::Keep(dataset, partition) => {
                    assert_eq!(stack.last(), Some(&Some((dataset, partition))));
                    assert!(lineage.node(dataset).level().is_some());
                    assert!(kept.insert((dataset, partition)), "kept twice");
                }
            }
        }
        assert_eq!(stack, [Some((stage.root, *partition))]);
    }
    let declared = stage.reads.iter().map(|(shuffle, buckets)| {
        let users = |(bucket, users): (&usize, &Vec<usize>)| {
            let set: BTreeSet<usize> = users.iter().copied().collect();
            assert_eq!(set.len(), users.len(), "a user named twice");
            (*bucket, set)
        };
        (*shuffle, buckets.iter().map(users).collect())
    });
    assert_eq!(declared.collect::<BTreeMap<_, BTreeMap<_, _>>>(), reads);
    assert_eq!(stage.blocks, blocks);
}

fn targets(lineage: &Lineage, bits: u64) -> BTreeSet<usize> {
    let partitions = lineage.node(lineage.target()).partitions;
    (0..partitions)
        .filter(|partition| bits >> (partition % 64) & 1 == 1)
        .collect()
}

/// Outputs that are kept, by the bits of a number.
fn sent_by(bits: u64) -> impl Fn(ShuffleId, usize) -> bool {
    move |shuffle, partition| bits >> ((shuffle.child.0 as usize * 5 + shuffle.dependency + partition) % 64) & 1 == 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_does_what_is_needed_in_order_and_once(drawn in drawn(), bits: u64, sent: u64) {
        let (lineage, blocks) = lineage(&drawn);
        let available = |dataset, partition| blocks.contains(&(dataset, partition));
        let wanted = targets(&lineage, bits);
        // In any order, with repetitions.
        let asked: Vec<usize> = wanted.iter().rev().chain(&wanted).copied().collect();
        let sent = sent_by(sent);
        let known = Known { available: &available, sent: &sent };
        check(&lineage, &wanted, &plan(&lineage, &asked, &available, &sent), &known);
        prop_assert_eq!(plan(&lineage, &asked, &available, &sent), plan(&lineage, &asked, &available, &sent));
    }

    #[test]
    fn with_all_blocks_of_the_target_a_plan_only_reads_them(drawn in drawn(), bits: u64) {
        let (lineage, _) = lineage(&drawn);
        lineage.node(lineage.target()).set_level(Some(Level::Disk));
        let wanted = targets(&lineage, bits | 1);
        let asked: Vec<usize> = wanted.iter().copied().collect();
        let plan = plan(&lineage, &asked, &|dataset, _| dataset == lineage.target(), &|_, _| true);
        prop_assert_eq!(plan.stages.len(), 1);
        prop_assert_eq!(plan.tasks(), wanted.len());
        prop_assert!(plan.stages[0].reads.is_empty());
        prop_assert_eq!(&plan.stages[0].blocks, &BTreeMap::from([(lineage.target(), wanted)]));
    }

    #[test]
    fn recovery_plans_what_is_missing_and_nothing_else(drawn in drawn(), bits: u64, finished: u64, sent: u64) {
        let (lineage, blocks) = lineage(&drawn);
        let available = |dataset, partition| blocks.contains(&(dataset, partition));
        let wanted: Vec<usize> = targets(&lineage, bits).into_iter().collect();
        let finished = targets(&lineage, finished);
        let missing: BTreeSet<usize> = wanted.iter().copied().filter(|partition| !finished.contains(partition)).collect();
        let sent = sent_by(sent);
        match recover(&lineage, &wanted, &finished, &available, &sent) {
            Some(plan) => {
                prop_assert!(!missing.is_empty());
                check(&lineage, &missing, &plan, &Known { available: &available, sent: &sent });
            }
            None => prop_assert!(missing.is_empty()),
        }
        let all = (0..lineage.node(lineage.target()).partitions).collect();
        prop_assert_eq!(recover(&lineage, &wanted, &all, &available, &sent), None);
    }

    #[test]
    fn a_lost_block_is_computed_in_its_stage_if_that_reads_enough(drawn in drawn(), lost: u64, known: u64, reused: u64) {
        let reuse = |dataset: DatasetId| (reused >> (dataset.0 % 64)) & 1 == 1;
        let (lineage, blocks) = lineage(&drawn);
        let left = |dataset: DatasetId, partition: usize| {
            blocks.contains(&(dataset, partition)) && (lost >> ((dataset.0 as usize + partition) % 64)) & 1 == 0
        };
        let reads = |operation: &Operation| match operation {
            Operation::Shuffle(shuffle, bucket) => known >> ((shuffle.child.0 as usize + bucket) % 64) & 1 == 1,
            _ => panic!("only shuffles are asked for"),
        };
        for partition in 0..lineage.node(lineage.target()).partitions {
            let root = (lineage.target(), partition);
            let again = program(&lineage, root, &left, &reuse).unwrap();
            let shuffles = again.iter().filter(|operation| matches!(operation, Operation::Shuffle(..)));
            let enough = shuffles.clone().all(reads);
            let found = recover_in_stage(&lineage, root, &left, &reuse, reads);
            prop_assert_eq!(found.unwrap(), enough.then_some(again.clone()));
        }
    }
}
