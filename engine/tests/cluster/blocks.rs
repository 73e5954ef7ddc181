//! Which partitions are computed again: exactly those whose only holder died and that are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{Context, Dataset, PartitionIter, Result};
use distdl_storage::Level;
use proptest::prelude::*;

use crate::faults::{alone, cases, clusters, messages, milestones};

const PARTITIONS: usize = 5;

type Row = (u64, u64);
/// A life of a process: place and number.
type Who = (u32, u32);

/// A persisted stage was computed somewhere.
#[derive(Debug, Clone, Copy)]
struct Computed {
    /// During which action of that process.
    action: usize,
    stage: usize,
    partition: usize,
    who: Who,
}

/// What an action asks for.
#[derive(Debug, Clone, Copy)]
enum Ask {
    Base,
    Sums,
    Last,
    /// Two partitions that read blocks from all over the cluster.
    Moved,
    /// The last stage and the one before, behind one more shuffle.
    Both,
}

/// Three persisted stages: narrow, behind a shuffle, and narrow behind that. `note` hears of each computation.
struct Stages([Dataset<Row>; 3]);

impl Stages {
    fn new(context: &Context, levels: [Level; 3], note: impl Fn(usize, usize) + Clone + Send + Sync + 'static) -> Self {
        let noted = |stage: usize| {
            let note = note.clone();
            move |partition: usize, rows: PartitionIter<Row>| {
                note(stage, partition);
                rows
            }
        };
        let base = context.range(0..400, PARTITIONS).map(|x| (x % 40, x));
        let base = base.map_partitions_with_index(noted(0)).persist(levels[0]);
        let sums = base.reduce_by_key(|left, right| left.wrapping_mul(31).wrapping_add(right));
        let sums = sums.map_partitions_with_index(noted(1)).persist(levels[1]);
        let last = sums.map_values(|value| value ^ 0xFF);
        Self([base, sums, last.map_partitions_with_index(noted(2)).persist(levels[2])])
    }

    fn answer(&self, ask: Ask) -> Result<Vec<Row>> {
        let [base, sums, last] = &self.0;
        match ask {
            Ask::Base => base.collect(),
            Ask::Sums => sums.collect(),
            Ask::Last => last.collect(),
            Ask::Moved => last.coalesce(2).collect(),
            Ask::Both => last.union(sums).reduce_by_key(u64::wrapping_sub).collect(),
        }
    }
}

/// Computations of each stage that an action costs when the blocks in `left` are left: whatever is asked for and not
/// there. A partition behind a shuffle asks for all partitions before it.
fn costs(ask: Ask, left: &BTreeSet<(usize, usize)>) -> BTreeMap<(usize, usize), usize> {
    let stages: &[usize] = match ask {
        Ask::Base => &[0],
        Ask::Sums => &[1],
        Ask::Last | Ask::Moved => &[2],
        Ask::Both => &[1, 2],
    };
    let mut costs = BTreeMap::new();
    let mut asked: Vec<(usize, usize)> = Vec::new();
    asked.extend(
        stages
            .iter()
            .flat_map(|stage| (0..PARTITIONS).map(|partition| (*stage, partition))),
    );
    while let Some(block @ (stage, partition)) = asked.pop() {
        if left.contains(&block) || costs.insert(block, 1).is_some() {
            continue;
        }
        match stage {
            0 => {}
            1 => asked.extend((0..PARTITIONS).map(|partition| (0, partition))),
            _ => asked.push((1, partition)),
        }
    }
    costs
}

#[derive(Default)]
struct Ledger {
    computed: Vec<Computed>,
    /// When which process was killed: before this action.
    killed: BTreeMap<Who, usize>,
}

#[derive(Debug, Clone)]
struct Plan {
    processes: u32,
    threads: usize,
    levels: [Level; 3],
    asks: Vec<Ask>,
    /// Before which action the first process of each place is killed, if ever.
    deaths: Vec<Option<usize>>,
}

fn level() -> impl Strategy<Value = Level> {
    prop::sample::select(vec![Level::Memory, Level::Disk, Level::MemoryAndDisk])
}

fn plans() -> impl Strategy<Value = Plan> {
    let asks = prop::sample::select(vec![Ask::Base, Ask::Sums, Ask::Last, Ask::Moved, Ask::Both]);
    (
        1..=4u32,
        1..=2usize,
        prop::array::uniform3(level()),
        prop::collection::vec(asks, 2..6),
    )
        .prop_flat_map(|(processes, threads, levels, asks)| {
            let death = prop::option::weighted(0.7, 1..asks.len());
            prop::collection::vec(death, processes as usize).prop_map(move |deaths| Plan {
                processes,
                threads,
                levels,
                asks: asks.clone(),
                deaths,
            })
        })
}

/// Runs the plan; every answer is checked against `expected`. Returns what was computed, and blocks that processes
/// planned on and did not find.
fn run(plan: &Plan, expected: &[Vec<Row>]) -> Result<(Ledger, u64)> {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let cluster = TestCluster {
        threads: plan.threads,
        ..TestCluster::new(plan.processes)
    };
    let (shared, plan, expected) = (Arc::clone(&ledger), plan.clone(), expected.to_vec());
    let run = cluster.run_lives(move |context, life| {
        let who = (life.slot, life.number);
        let action = Arc::new(AtomicUsize::new(0));
        let stages = Stages::new(context, plan.levels, {
            let (action, ledger) = (Arc::clone(&action), Arc::clone(&shared));
            move |stage, partition| {
                let action = action.load(Ordering::SeqCst);
                ledger.lock().unwrap().computed.push(Computed {
                    action,
                    stage,
                    partition,
                    who,
                });
            }
        });
        for (number, ask) in plan.asks.iter().enumerate() {
            if life.number == 0 && plan.deaths[life.slot as usize] == Some(number) {
                shared.lock().unwrap().killed.insert(who, number);
                life.kill();
            }
            action.store(number, Ordering::SeqCst);
            assert_eq!(stages.answer(*ask)?, expected[number]);
        }
        let computed = &shared.lock().unwrap().computed;
        for (stage, dataset) in stages.0.iter().enumerate() {
            let own = computed
                .iter()
                .filter(|computed| computed.who == who && computed.stage == stage);
            assert_eq!(dataset.partitions_computed(), own.count() as u64);
            assert_eq!(
                context.metrics().partitions_computed(dataset.id()),
                dataset.partitions_computed()
            );
        }
        Ok(context.metrics().blocks_lost())
    })?;
    let ledger = std::mem::take(&mut *ledger.lock().unwrap());
    Ok((ledger, run.results.iter().sum()))
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn lost_partitions_are_computed_again_and_no_others(plan in plans()) {
        let context = alone();
        let stages = Stages::new(&context, plan.levels, |_, _| {});
        let expected: Vec<Vec<Row>> = plan.asks.iter().map(|ask| stages.answer(*ask).unwrap()).collect();
        let (ledger, blocks_lost) = run(&plan, &expected).map_err(|error| TestCaseError::fail(error.to_string()))?;
        for (action, ask) in plan.asks.iter().enumerate() {
            let lives = |computed: &&Computed| ledger.killed.get(&computed.who).is_none_or(|death| *death > action);
            let before = ledger.computed.iter().filter(|computed| computed.action < action).filter(lives);
            let left = before.map(|computed| (computed.stage, computed.partition)).collect();
            let mut found = BTreeMap::new();
            for computed in ledger.computed.iter().filter(|computed| computed.action == action) {
                *found.entry((computed.stage, computed.partition)).or_insert(0) += 1;
            }
            if matches!(ask, Ask::Both) {
                // Two tasks that run at the same time may both find the same block missing.
                found.values_mut().for_each(|count| *count -= usize::from(*count == 2));
            }
            prop_assert_eq!(found, costs(*ask, &left), "action {} of {:?}", action, &ledger.computed);
        }
        prop_assert_eq!(blocks_lost, 0, "it was known before planning");
    }
}

#[test]
fn blocks_of_others_are_fetched_when_partitions_move() {
    let plan = Plan {
        processes: 4,
        threads: 1,
        levels: [Level::Memory; 3],
        asks: vec![Ask::Last, Ask::Moved, Ask::Both, Ask::Base, Ask::Moved],
        deaths: vec![None; 4],
    };
    let context = alone();
    let stages = Stages::new(&context, plan.levels, |_, _| {});
    let expected: Vec<Vec<Row>> = plan.asks.iter().map(|ask| stages.answer(*ask).unwrap()).collect();
    let (ledger, blocks_lost) = run(&plan, &expected).unwrap();
    assert_eq!((ledger.computed.len(), blocks_lost), (3 * PARTITIONS, 0));
    let places: BTreeSet<u32> = ledger.computed.iter().map(|computed| computed.who.0).collect();
    assert_eq!(places.len(), 4, "every process had blocks that others asked for");
}

/// A chain of actions over persisted datasets, with what an accumulator has counted.
fn counted(context: &Context, _: &Life) -> Result<(Vec<Row>, Vec<u64>)> {
    pipeline(context)
}

fn pipeline(context: &Context) -> Result<(Vec<Row>, Vec<u64>)> {
    let (seen, summed) = (context.counter(), context.counter());
    let inside = seen.clone();
    let rows = context.range(0..300, 7).map(move |x| {
        inside.add(1);
        (x % 30, x)
    });
    let kept = rows.cache();
    let inside = summed.clone();
    let sums = kept
        .reduce_by_key(|left, right| left.wrapping_mul(31).wrapping_add(right))
        .map(move |row| {
            inside.add(1);
            row
        });
    let sums = sums.persist(Level::MemoryAndDisk);
    let mut answer = sums.collect()?;
    let mut counts = vec![seen.value(), summed.value()];
    answer.extend(
        kept.join(&sums)
            .map(|(key, (value, sum))| (key, value ^ sum))
            .collect()?,
    );
    let each = context.counter();
    let inside = each.clone();
    kept.for_each_partition(move |_, rows| inside.add(rows.count() as u64))?;
    answer.extend(
        sums.zip(&sums)?
            .map(|(left, right)| (left.0, left.1 ^ right.1))
            .sort_by_key()
            .collect()?,
    );
    counts.extend([seen.value(), summed.value(), each.value()]);
    Ok((answer, counts))
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn accumulators_count_once_under_losses(
        cluster in prop_oneof![clusters(milestones(1)), clusters(messages(60, 20))],
        batch_records in prop_oneof![1..=9usize, Just(1024)],
    ) {
        let expected = pipeline(&alone()).unwrap();
        assert_eq!(expected.1, [300, 30, 300, 30, 300]);
        let cluster = TestCluster { batch_records, ..cluster };
        let run = cluster.run_lives(counted);
        let run = run.map_err(|error| TestCaseError::fail(format!("{error} under {}", cluster.chaos)))?;
        prop_assert!(!run.results.is_empty());
        for result in &run.results {
            prop_assert_eq!(result, &expected, "under {}", &cluster.chaos);
        }
    }
}

#[test]
fn a_process_that_dies_while_it_serves_a_block_is_no_error() {
    let expected = pipeline(&alone()).unwrap();
    for frame in 0..12 {
        let chaos = format!("kill=worker:1@frame:{frame},kill=worker:2@frame:{}", frame + 3);
        let cluster = TestCluster::new(3).with_chaos(Chaos::parse(&chaos).unwrap());
        let run = cluster.run_lives(counted).unwrap();
        assert!(run.results.iter().all(|result| *result == expected), "{chaos}");
    }
}
