//! What is not determinate is computed once, before anything is derived from it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{
    Context, Dataset, Determinacy, Iteration, Lane, LaneData, Parameters, Result, ShardUpdate, ShardValues, StepReport,
    Tallies,
};
use distdl_storage::testing::WAIT_MAX;
use distdl_storage::{Codec, Level, Records};

use crate::{PARTITIONS, block, context};

/// Numbers that nobody can foresee: how many were drawn before.
fn drawn(context: &Context, clock: &Arc<AtomicU64>) -> Dataset<u64> {
    let clock = Arc::clone(clock);
    let drawn = context
        .range(0..40, PARTITIONS)
        .map(move |_| clock.fetch_add(1, Ordering::SeqCst));
    drawn.with_determinacy(Determinacy::Indeterminate)
}

#[test]
fn everything_that_is_derived_sees_the_same_records() {
    let (context, clock) = (context(2), Arc::default());
    let drawn = drawn(&context, &clock);
    let (once, twice) = (drawn.map(|x| (x % 3, x)), drawn.map(|x| (x % 3, x)));
    let counts = once.cogroup(&twice).map(|(_, (left, right))| left == right);
    assert!(counts.collect().unwrap().into_iter().all(|same| same));
    assert_eq!(clock.load(Ordering::SeqCst), 40, "all of it was drawn once");
    let sums = once.reduce_by_key(|left, right| left + right).cache();
    let rows = sums.collect().unwrap();
    context.store().remove(block(sums.id(), 0)).unwrap();
    assert_eq!(sums.collect().unwrap(), rows, "a lost block is the same again");
    assert_eq!(drawn.collect().unwrap().len(), 40);
    assert_eq!(clock.load(Ordering::SeqCst), 40);
}

#[test]
fn explain_says_what_is_not_determinate_until_it_is_kept() {
    let context = context(1);
    let plain = context.range(0..10, 2).map(|x| x);
    assert!(!plain.explain().contains("in any order") && !plain.explain().contains("not the same twice"));
    let unordered = plain.with_determinacy(Determinacy::Unordered).map(|x| x + 1);
    assert!(
        unordered.explain().contains("map [2 partitions] <- #0, in any order"),
        "{}",
        unordered.explain()
    );
    unordered.count().unwrap();
    assert!(!unordered.explain().contains("in any order"), "{}", unordered.explain());
    assert!(unordered.explain().contains("lineage cut"), "{}", unordered.explain());
}

#[test]
fn several_processes_see_the_same_records_although_one_dies() {
    let clock = Arc::new(AtomicU64::new(0));
    let run = TestCluster::new(3).run_lives(move |context, life| {
        let derived = drawn(context, &clock).map(|x| x * 2);
        let rows = derived.collect()?;
        if (life.slot, life.number) == (1, 0) {
            life.kill();
        }
        assert_eq!(derived.map(|x| x).collect()?, rows);
        Ok(rows)
    });
    let results = run.unwrap().results;
    assert!(results.iter().all(|rows| *rows == results[0]));
}

#[test]
fn what_is_not_determinate_is_kept_twice_whatever_it_was_kept_as() {
    let context = context(1);
    for (level, kept) in [(Level::Memory, Level::MemoryAndDisk2), (Level::Disk, Level::Disk2)] {
        let drawn = drawn(&context, &Arc::default()).persist(level);
        assert_eq!(drawn.map(|x| x).count().unwrap(), 40);
        assert_eq!(drawn.level(), Some(kept));
    }
}

/// What is prepared from records that are drawn must be prepared from those that are kept.
#[test]
fn positions_of_records_that_are_drawn_fit_the_records_that_are_kept() {
    let (context, clock) = (context(1), Arc::new(AtomicU64::new(0)));
    let clock = Arc::clone(&clock);
    // Other records, and other numbers of them, each time.
    let drawn = context
        .range(0..40, PARTITIONS)
        .filter(move |_| clock.fetch_add(1, Ordering::SeqCst) % 50 < 30);
    let drawn = drawn.map(move |x| x).with_determinacy(Determinacy::Indeterminate);
    let placed = drawn.zip_with_index().map(|(record, index)| (index, record));
    let found: Vec<u64> = (0..30).flat_map(|index| placed.lookup(&index).unwrap()).collect();
    assert_eq!(found, drawn.collect().unwrap());
}

#[test]
fn what_reads_a_dataset_twice_reads_the_same_records() {
    let (context, clock) = (context(2), AtomicU32::new(0));
    let drawn = context
        .range(0..40, PARTITIONS)
        .map(move |_| clock.fetch_add(1, Ordering::SeqCst))
        .with_determinacy(Determinacy::Indeterminate);
    let counts = drawn.histogram(4).unwrap().counts;
    assert_eq!(counts.iter().sum::<u64>(), 40, "{counts:?}");

    // Other numbers of records each time, too.
    let again = AtomicU64::new(0);
    let some = context
        .range(0..40, PARTITIONS)
        .filter(move |_| again.fetch_add(1, Ordering::SeqCst) % 50 < 30)
        .with_determinacy(Determinacy::Indeterminate);
    assert_eq!(some.take_sample_with_replacement(1000, 7).unwrap().len(), 1000);
}

#[test]
fn lanes_that_move_to_another_process_get_the_same_records() {
    let clock = Arc::new(AtomicU64::new(0));
    let ticks = Arc::clone(&clock);
    let cluster = TestCluster::new(3).with_chaos(Chaos::parse("kill=worker:1@step:3").unwrap());
    let run = cluster.run(move |context| {
        let parameters = Arc::new(Parameters::new(vec![0.0]));
        let lane = |data: LaneData<Records<u64>>| -> Result<Box<dyn Lane>> {
            let sum = data.partitions.iter().flat_map(|rows| rows.iter()).sum::<u64>() as f32;
            Ok(Box::new(move |_: u64, _: &[f32], update: &mut [f32]| {
                update.fill(sum);
                Ok(Tallies::default())
            }))
        };
        let shard = |_| -> Result<Box<dyn ShardUpdate>> {
            Ok(Box::new(|_: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
                shard.after.copy_from_slice(sum);
                Ok(())
            }))
        };
        let iteration = Iteration::new(PARTITIONS, 6);
        drawn(context, &ticks).iterate(iteration, &parameters, lane, shard, &mut |_| ())?;
        let sum = parameters.latest()[0];
        Ok(sum)
    });
    let results = run.unwrap().results;
    assert_eq!(clock.load(Ordering::SeqCst), 40, "all of it was drawn once");
    let wanted = (0..40u64).sum::<u64>() as f32;
    assert!(results.iter().all(|sum| *sum == wanted), "{results:?}");
}

/// The first process sends a copy of its second partition to one that has said by then what it has, and dies before it
/// says so itself; a third one computes that partition anew, and sends its copy to the fourth.
#[test]
fn a_copy_of_which_nobody_has_heard_is_not_kept_beside_what_is_computed_anew() {
    const LATE: usize = 4;
    let (clock, gate) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new((Mutex::new(false), Condvar::new())),
    );
    let cluster = TestCluster {
        restarts_max: 0,
        ..TestCluster::new(4)
    };
    let cluster = cluster.with_chaos(Chaos::parse("kill=worker:0@block:1").unwrap());
    let run = cluster.run_lives(move |context, life| {
        let notice = context.notice();
        if life.slot == 1 {
            let gate = Arc::clone(&gate);
            // It is asked once that is known which the process will tell of the round.
            notice.say(move || {
                *gate.0.lock().unwrap() = true;
                gate.1.notify_all();
                None
            })?;
        }
        let (slot, clock, gate) = (life.slot, Arc::clone(&clock), Arc::clone(&gate));
        let drawn = context
            .range(0..80, 8)
            .map_partitions_with_index(move |partition, rows| {
                if (slot, partition) == (0, LATE) {
                    let open = gate.0.lock().unwrap();
                    let (open, _) = gate.1.wait_timeout_while(open, WAIT_MAX, |open| !*open).unwrap();
                    assert!(*open, "the second process was not asked what it tells of the round");
                }
                let clock = Arc::clone(&clock);
                rows.map(move |_| clock.fetch_add(1, Ordering::SeqCst))
            });
        let drawn = drawn.with_determinacy(Determinacy::Indeterminate);
        assert_eq!(drawn.map(|x| x).count()?, 80);
        let kept = context.store().get(block(drawn.id(), LATE), Codec::of::<u64>())?;
        Ok(kept.map(|kept| kept.records::<u64>().unwrap().to_vec()))
    });
    let kept: Vec<Vec<u64>> = run.unwrap().results.into_iter().flatten().collect();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept.iter().collect::<BTreeSet<_>>().len(), 1, "{kept:?}");
}
