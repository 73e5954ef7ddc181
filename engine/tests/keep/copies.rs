//! Blocks in two processes: what has a living copy is not computed again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{Context, Dataset, Result};
use distdl_storage::Level;

use crate::Row;

const PARTITIONS: usize = 7;

/// How often each partition was computed, in all processes together.
type Computed = Arc<Mutex<BTreeMap<usize, u64>>>;

fn sums(context: &Context, level: Level, computed: &Computed) -> Dataset<Row> {
    let computed = Arc::clone(computed);
    let rows = context.range(0..500, PARTITIONS).map(|x| (x % 50, x));
    let sums = rows.reduce_by_key(|left, right| left.wrapping_mul(31).wrapping_add(right));
    let counted = sums.map_partitions_with_index(move |partition, rows| {
        *computed.lock().unwrap().entry(partition).or_default() += 1;
        rows
    });
    counted.persist(level)
}

/// Collects twice, with a process dying between; returns how many partitions were computed more than once.
fn again(processes: u32, level: Level, dies: impl Fn(&Life) -> bool + Send + Sync + 'static) -> u64 {
    let computed = Computed::default();
    let seen = Arc::clone(&computed);
    let program = move |context: &Context, life: &Life| -> Result<Vec<Row>> {
        let sums = sums(context, level, &seen);
        let rows = sums.collect()?;
        if dies(life) {
            life.kill();
        }
        assert_eq!(sums.map(|row| row).collect()?, rows);
        Ok(rows)
    };
    let run = TestCluster::new(processes).run_lives(program).unwrap();
    let expected = sums(&crate::context(1), Level::Memory, &Computed::default())
        .collect()
        .unwrap();
    assert!(run.results.iter().all(|rows| *rows == expected));
    let computed = computed.lock().unwrap();
    assert_eq!(computed.len(), PARTITIONS);
    computed.values().map(|count| count - 1).sum()
}

#[test]
fn partitions_with_a_living_copy_are_not_computed_again() {
    for level in [Level::Memory2, Level::Disk2, Level::MemoryAndDisk2] {
        for victim in 0..3 {
            let dies = move |life: &Life| (life.slot, life.number) == (victim, 0);
            assert_eq!(again(3, level, dies), 0, "{level:?}, process {victim}");
        }
    }
    let dies = |life: &Life| (life.slot, life.number) == (1, 0);
    assert!(again(3, Level::Memory, dies) > 0, "without copies something is lost");
}

#[test]
fn what_both_holders_had_is_computed_again() {
    let dies = |life: &Life| life.slot < 2 && life.number == 0;
    let lost = again(3, Level::Memory2, dies);
    assert!(
        (1..PARTITIONS as u64).contains(&lost),
        "{lost} of {PARTITIONS} partitions"
    );
}

/// Two processes die, one after another: what the first had a copy of is in two processes again before the second dies.
#[test]
fn a_second_copy_is_made_again_after_a_loss() {
    for level in [Level::Memory2, Level::Disk2] {
        let computed = Computed::default();
        let seen = Arc::clone(&computed);
        let cluster = TestCluster {
            restarts_max: 0,
            ..TestCluster::new(3)
        };
        let run = cluster.run_lives(move |context, life| {
            let sums = sums(context, level, &seen);
            let rows = sums.collect()?;
            for victim in [1, 2] {
                if life.slot == victim {
                    life.kill();
                }
                // Those who are left copy in this action, and the next victim dies before the next.
                assert_eq!(sums.map(|row| row).collect()?, rows);
            }
            Ok(context.store().ids().len())
        });
        assert_eq!(run.unwrap().results, [PARTITIONS], "one is left, and has all of it");
        assert!(computed.lock().unwrap().values().all(|count| *count == 1), "{level:?}");
    }
}

#[test]
fn one_process_keeps_one_copy() {
    let (context, computed) = (crate::context(2), Computed::default());
    let sums = sums(&context, Level::Memory2, &computed);
    sums.count().unwrap();
    sums.count().unwrap();
    assert_eq!(sums.partitions_computed(), PARTITIONS as u64);
    assert_eq!(context.store().ids().len(), PARTITIONS);
    assert!(
        sums.explain().contains("persisted (Memory2, 7 of 7 blocks: "),
        "{}",
        sums.explain()
    );
}

#[test]
fn a_local_checkpoint_in_two_copies_survives_a_death() {
    let run = TestCluster::new(3).run_lives(|context, life| {
        let rows = context
            .range(0..100, PARTITIONS)
            .map(|x| (x, x * x))
            .persist(Level::Disk2);
        let rows = rows.local_checkpoint()?;
        if (life.slot, life.number) == (2, 0) {
            life.kill();
        }
        rows.collect()
    });
    let expected: Vec<Row> = (0..100).map(|x| (x, x * x)).collect();
    assert!(run.unwrap().results.iter().all(|rows| *rows == expected));
}

#[test]
fn a_dataset_that_is_dropped_leaves_no_copies() {
    let run = TestCluster::new(2).run(|context| {
        let sums = sums(context, Level::Memory2, &Computed::default());
        sums.count()?;
        let both = context.store().ids().len();
        drop(sums);
        Ok((both, context.store().ids().len()))
    });
    assert_eq!(run.unwrap().results, vec![(PARTITIONS, 0); 2]);
}
