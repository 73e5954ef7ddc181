//! Iterations under losses: the same bits, each step once.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{
    Context, Iteration, Lane, LanePartition, Parameters, Placement, Result, ShardUpdate, ShardValues, Staleness,
    StepReport, Tallies, UpdateFormat,
};
use distdl_storage::testing::WAIT_MAX;
use proptest::prelude::*;

use crate::faults::{alone, cases, clusters, generations, messages, milestones};
use crate::training::{Optimizer, STEPS, check, check_exchange, check_with, determinate, optimizers};

const ALL: [Staleness; 4] = [
    Staleness::Synchronous,
    Staleness::FixedLag(2),
    Staleness::Bounded(3),
    Staleness::Asynchronous,
];

#[test]
fn an_iteration_gives_the_same_on_many_processes() {
    for processes in 1..=6 {
        for parameter_workers in 0..=2 {
            let cluster = TestCluster {
                parameter_workers,
                ..TestCluster::new(processes)
            };
            for staleness in ALL {
                let run = check_exchange(&cluster, Optimizer::Plain, (staleness, UpdateFormat::Bf16)).unwrap();
                assert_eq!(run.results.len(), processes as usize);
                assert_eq!(generations(&run.events).len(), 1);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(140))]

    #[test]
    fn losses_between_steps_do_not_show(
        cluster in clusters(milestones(STEPS)),
        optimizer in optimizers(),
        exchange in determinate(),
    ) {
        check_exchange(&cluster, optimizer, exchange)?;
    }

    #[test]
    fn losses_between_any_two_messages_do_not_show(
        cluster in clusters(messages(400, 24)),
        optimizer in optimizers(),
        exchange in determinate(),
    ) {
        check_exchange(&cluster, optimizer, exchange)?;
    }

    #[test]
    fn all_have_the_same_parameters_where_time_says_which(
        cluster in prop_oneof![clusters(milestones(STEPS)), clusters(messages(400, 24))],
        optimizer in optimizers(),
        staleness in prop::sample::select(vec![Staleness::Bounded(2), Staleness::Asynchronous]),
    ) {
        check_exchange(&cluster, optimizer, (staleness, UpdateFormat::Full))?;
    }
}

/// Who is given parameters that a lag needs older versions for has not all of them if the giver dies meanwhile, and the
/// steps before them are taken again.
#[test]
fn steps_before_parameters_that_were_given_in_part_are_not_seen_yet() {
    for frame in 80..100 {
        for lag in [1, 3] {
            let cluster = TestCluster {
                shared_memory: false,
                threads: 2,
                ..TestCluster::new(2)
            };
            let kills = format!("kill=worker:1@frame:{frame},kill=worker:0@frame:{frame}");
            let cluster = cluster.with_chaos(Chaos::parse(&kills).unwrap());
            let exchange = (Staleness::FixedLag(lag), UpdateFormat::Sparse);
            check_exchange(&cluster, Optimizer::Plain, exchange).unwrap();
        }
    }
}

const PARAMETERS: usize = 1000;
const EXCHANGES: u64 = 7;

/// A lane that changes one parameter in ten, and has the last quarter of its update first, then half of it.
struct Tenth;

impl Lane for Tenth {
    fn step(&mut self, _: u64, _: &[f32], update: &mut [f32]) -> Result<Tallies> {
        let tenth = |(index, value): (usize, &mut f32)| *value = f32::from(u8::from(index % 10 == 0));
        update.iter_mut().enumerate().for_each(tenth);
        Ok(Tallies::default())
    }

    fn step_from_end(
        &mut self,
        step: u64,
        parameters: &[f32],
        update: &mut [f32],
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Tallies> {
        let tallies = self.step(step, parameters, update)?;
        for start in [PARAMETERS / 4 * 3, PARAMETERS / 4] {
            has_end(start, &update[start..]);
        }
        Ok(tallies)
    }
}

/// What each of two processes gives to the other, in bytes; and what of that before an update was whole.
fn exchanged_bytes(shared_memory: bool, updates: UpdateFormat, piece_min: usize) -> Vec<(u64, u64)> {
    let cluster = TestCluster {
        shared_memory,
        ..TestCluster::new(2)
    };
    let run = cluster.run(move |context| {
        let values = Arc::new(Parameters::new(vec![0.0; PARAMETERS]));
        let lane = |_| Ok(Box::new(Tenth) as Box<dyn Lane>);
        let shard = |_| {
            let keep = |_: &StepReport, _: &[f32], shard: &mut ShardValues<'_>| {
                shard.after.copy_from_slice(shard.before);
                Ok(())
            };
            Ok(Box::new(keep) as Box<dyn ShardUpdate>)
        };
        let iteration = Iteration::new(2, EXCHANGES)
            .with_updates(updates)
            .with_piece_min(piece_min);
        context.iterate(iteration, &values, lane, shard, &mut |_| ())?;
        let metrics = context.metrics();
        Ok((metrics.exchanged_bytes(), metrics.exchanged_early_bytes()))
    });
    let mut given = run.unwrap().results;
    given.sort_unstable();
    given
}

#[test]
fn what_is_given_to_others_is_counted() {
    // In a step half of an update, and half of the new parameters.
    let half = PARAMETERS as u64 / 2 * EXCHANGES;
    let whole = PARAMETERS + 1;
    for (shared_memory, updates, bytes) in [
        (true, UpdateFormat::Full, 4 * half),
        (false, UpdateFormat::Full, 4 * half),
        (false, UpdateFormat::Bf16, 2 * half),
        (false, UpdateFormat::Sparse, 8 * half / 10),
    ] {
        let all = bytes + 4 * half;
        assert_eq!(exchanged_bytes(shared_memory, updates, whole), [(all, 0); 2]);
        if shared_memory {
            // When the other begins to read in place depends on time; from then on nothing is sent early.
            continue;
        }
        // One process owns the second half, all of which the other has early; of the first half only the last half is.
        // The last quarter alone may be too small for a piece, and goes with what is before it.
        for piece_min in [PARAMETERS / 5, PARAMETERS / 2] {
            let pieces = exchanged_bytes(shared_memory, updates, piece_min);
            assert_eq!(pieces, [(all, bytes / 2), (all, bytes)], "{updates:?}");
        }
    }
}

/// Computing what lanes read may take long: it is done again where a lane has moved to, and nowhere else.
#[test]
fn who_has_a_lanes_data_does_not_load_it_again() {
    let loads: Arc<Mutex<Vec<(u32, usize)>>> = Arc::default();
    let noted = Arc::clone(&loads);
    let cluster = TestCluster {
        restarts_max: 0,
        ..TestCluster::new(3)
    };
    let cluster = cluster.with_chaos(Chaos::parse("kill=worker:1@step:8").unwrap());
    let run = cluster.run_lives(move |context, life| {
        let values = Arc::new(Parameters::new(vec![0.0; PARAMETERS]));
        let (slot, noted) = (life.slot, Arc::clone(&noted));
        let keep = |_: &StepReport, _: &[f32], shard: &mut ShardValues<'_>| {
            shard.after.copy_from_slice(shard.before);
            Ok(())
        };
        context.range(0..60, 12).iterate_over(
            Iteration::new(6, 20),
            &values,
            move |part: LanePartition<u64>| {
                noted.lock().unwrap().push((slot, part.partition));
                Ok(())
            },
            |_| Ok(Box::new(Tenth) as Box<dyn Lane>),
            move |_| Ok(Box::new(keep) as Box<dyn ShardUpdate>),
            &mut |_| (),
        )
    });
    assert_eq!(run.unwrap().results.len(), 2);
    let loads = loads.lock().unwrap().clone();
    let different: BTreeSet<(u32, usize)> = loads.iter().copied().collect();
    assert_eq!(loads.len(), different.len(), "{loads:?}");
    assert_eq!(loads.len(), 12 + 4, "two lanes have moved");
}

/// What was read of a partition, for as long as its process has it.
struct Held {
    whose: (u32, u32, usize),
    all: All,
}

/// By slot, life and partition; and where to wait for a change of it.
type All = Arc<(Mutex<BTreeSet<(u32, u32, usize)>>, Condvar)>;

impl Drop for Held {
    fn drop(&mut self) {
        self.all.0.lock().unwrap().remove(&self.whose);
    }
}

/// A lane that lingers in each step from the tenth on until the second life of process 1 has something.
struct Lingers(All);

impl Lane for Lingers {
    fn step(&mut self, step: u64, parameters: &[f32], update: &mut [f32]) -> Result<Tallies> {
        let (held, changed) = &*self.0;
        if step >= 10 {
            let is_late = |held: &mut BTreeSet<(u32, u32, usize)>| !held.iter().any(|held| (held.0, held.1) == (1, 1));
            let pause = Duration::from_millis(20);
            drop(
                changed
                    .wait_timeout_while(held.lock().unwrap(), pause, is_late)
                    .unwrap(),
            );
        }
        Tenth.step(step, parameters, update)
    }
}

/// The partitions that each life of a process has when the first one sees the last step, where the second process is
/// killed and another takes its place.
fn held_in_the_end() -> BTreeSet<(u32, u32, usize)> {
    const STEPS: u64 = 1500;
    let (all, in_the_end) = (All::default(), Arc::<Mutex<BTreeSet<_>>>::default());
    let seen = Arc::clone(&in_the_end);
    let cluster = TestCluster::new(3).with_chaos(Chaos::parse("kill=worker:1@step:8").unwrap());
    let run = cluster.run_lives(move |context, life| {
        let values = Arc::new(Parameters::new(vec![0.0; PARAMETERS]));
        let (slot, number, held, late) = (life.slot, life.number, Arc::clone(&all), Arc::clone(&all));
        let keep = |_: &StepReport, _: &[f32], shard: &mut ShardValues<'_>| {
            shard.after.copy_from_slice(shard.before);
            Ok(())
        };
        context.range(0..60, 12).iterate_over(
            Iteration::new(6, STEPS),
            &values,
            move |part: LanePartition<u64>| {
                let whose = (slot, number, part.partition);
                held.0.lock().unwrap().insert(whose);
                held.1.notify_all();
                let all = Arc::clone(&held);
                Ok(Arc::new(Held { whose, all }))
            },
            move |_| Ok(Box::new(Lingers(Arc::clone(&late))) as Box<dyn Lane>),
            move |_| Ok(Box::new(keep) as Box<dyn ShardUpdate>),
            &mut |report| {
                if (life.slot, report.step) == (0, STEPS - 1) {
                    seen.lock().unwrap().clone_from(&all.0.lock().unwrap());
                }
            },
        )
    });
    run.unwrap();
    let in_the_end = in_the_end.lock().unwrap().clone();
    in_the_end
        .into_iter()
        .filter(|(slot, number, _)| (*slot, *number) != (1, 0))
        .collect()
}

#[test]
fn what_was_loaded_for_a_lane_is_forgotten_where_it_has_left() {
    let held = held_in_the_end();
    let of = |slot| held.iter().filter(|held| held.0 == slot).count();
    assert!(
        of(1) > 0,
        "nobody has taken the lost one's place in 1500 steps: {held:?}"
    );
    assert_eq!(of(0), 4, "{held:?}");
}

/// A process without shards is given all values by others, which send them once.
#[test]
fn parameters_that_a_driver_program_still_reads_end_the_iteration_everywhere() {
    let cluster = TestCluster {
        parameter_workers: 1,
        ..TestCluster::new(2)
    };
    let run = cluster.run_lives(move |context, life| {
        let values = Arc::new(Parameters::new(vec![0.0; PARAMETERS]));
        let shard = |_| {
            let keep = |_: &StepReport, _: &[f32], shard: &mut ShardValues<'_>| {
                shard.after.copy_from_slice(shard.before);
                Ok(())
            };
            Ok(Box::new(keep) as Box<dyn ShardUpdate>)
        };
        let mut read = None;
        // It ends long before.
        let iteration = Iteration::new(1, 10_000_000);
        let lane = |_| Ok(Box::new(Tenth) as Box<dyn Lane>);
        context.iterate(iteration, &values, lane, shard, &mut |_| {
            if life.slot == 0 {
                read.get_or_insert_with(|| values.latest());
            }
        })
    });
    let error = run.unwrap_err().to_string();
    assert!(
        error.contains("while it was read") || error.contains("still read"),
        "{error}"
    );
}

/// An iteration of one lane over two processes, which is refused.
fn refusal(iteration: Iteration) -> String {
    let run = TestCluster::new(2).run(move |context| {
        let values = Arc::new(Parameters::new(vec![0.0; PARAMETERS]));
        let lane = |_| Ok(Box::new(Tenth) as Box<dyn Lane>);
        let shard = |_| {
            let keep = |_: &StepReport, _: &[f32], _: &mut ShardValues<'_>| Ok(());
            Ok(Box::new(keep) as Box<dyn ShardUpdate>)
        };
        context.iterate(iteration.clone(), &values, lane, shard, &mut |_| ())
    });
    run.unwrap_err().to_string()
}

#[test]
fn where_lanes_run_is_not_for_the_program_to_say() {
    let placement = Placement::even(1, 1, 1);
    let message = refusal(Iteration::new(1, 3).with_placement(placement));
    assert!(message.contains("a placement in an iteration of several"), "{message}");
    let message = refusal(Iteration::new(1, 1 << 30));
    assert!(message.contains("several calls of fewer steps"), "{message}");
    let message = refusal(Iteration::new(0, 3));
    assert!(message.contains("0 lanes"), "{message}");
}

#[test]
fn whoever_dies_the_others_go_on() {
    // Lane 0 and a shard are on the first process, the last shard, which reports the steps, on the last.
    for slot in 0..4 {
        for (parameter_workers, optimizer) in [
            (0, Optimizer::Momentum),
            (1, Optimizer::Momentum),
            (0, Optimizer::Norms),
            (1, Optimizer::Norms),
        ] {
            let cluster = TestCluster {
                parameter_workers,
                restarts_max: 0,
                ..TestCluster::new(4)
            };
            let chaos = Chaos::parse(&format!("kill=worker:{slot}@frame:40")).unwrap();
            let run = check(&cluster.with_chaos(chaos), optimizer).unwrap();
            assert_eq!(run.results.len(), 3, "it left for good");
            let rest: Vec<u32> = (0..4).filter(|other| *other != slot).collect();
            assert_eq!(generations(&run.events), [vec![0, 1, 2, 3], rest]);
        }
    }
}

#[test]
fn one_process_after_another_leaves_for_good() {
    let chaos = Chaos::parse("kill=worker:2@step:7,kill=worker:0@step:23,kill=worker:3@step:41").unwrap();
    let cluster = TestCluster {
        restarts_max: 0,
        ..TestCluster::new(4)
    };
    let run = check(&cluster.with_chaos(chaos), Optimizer::Momentum).unwrap();
    assert_eq!(run.results.len(), 1);
    assert_eq!(
        generations(&run.events),
        [vec![0, 1, 2, 3], vec![0, 1, 3], vec![1, 3], vec![1]]
    );
}

/// The slots of the generations behind the loss, where the second life of process 1 comes to its first action when the
/// others are in the middle of the second one.
fn generations_with_one_that_comes_late() -> Vec<Vec<u32>> {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let chaos = Chaos::parse("kill=worker:1@step:12").unwrap();
    let run = check_with(
        &TestCluster::new(3).with_chaos(chaos),
        (Optimizer::Momentum, Staleness::FixedLag(2), UpdateFormat::Full),
        move |life, ledger, report| {
            let (open, changed) = &*gate;
            if ledger.steps() > 25 {
                *open.lock().unwrap() = true;
                changed.notify_all();
            }
            if life.slot == 1 && life.number == 1 && report.is_none() {
                let open = open.lock().unwrap();
                let (open, _) = changed.wait_timeout_while(open, WAIT_MAX, |open| !*open).unwrap();
                assert!(*open, "the others have not come to step 25 in {WAIT_MAX:?}");
            }
            Ok(())
        },
    );
    let mut generations = generations(&run.unwrap().events);
    assert_eq!(&generations[..2], [vec![0, 1, 2], vec![0, 2]]);
    generations.split_off(2)
}

#[test]
fn who_comes_late_takes_part_from_the_middle_of_an_iteration() {
    // The others may be through when it is to be taken in: then they begin a generation without it once more.
    let mut seen = Vec::new();
    let mut comes_in_time = || {
        let generations = generations_with_one_that_comes_late();
        assert!(
            generations.iter().all(|slots| *slots == [0, 2] || *slots == [0, 1, 2]),
            "{generations:?}"
        );
        let is_in_time = !generations.is_empty() && generations.iter().all(|slots| slots.len() == 3);
        seen.push(generations);
        is_in_time
    };
    assert!(
        (0..20).any(|_| comes_in_time()),
        "in 20 runs the others were through each time; generations behind the loss: {seen:?}"
    );
}

/// Two lanes, and parameters in five shards; what they are in the end, and what this process gave to others.
fn train_few_lanes(context: &Context) -> Result<(Vec<u32>, u64)> {
    let values = Arc::new(Parameters::new(
        (0..PARAMETERS).map(|index| index as f32 * 0.01).collect(),
    ));
    let lane = |lane: usize| {
        let step = move |step: u64, parameters: &[f32], update: &mut [f32]| {
            for (update, parameter) in update.iter_mut().zip(parameters) {
                *update = (parameter + lane as f32) / (3.0 + step as f32);
            }
            Ok(Tallies::default())
        };
        Ok(Box::new(step) as Box<dyn Lane>)
    };
    let shard = |_| {
        let apply = |_: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
            for ((after, before), sum) in shard.after.iter_mut().zip(shard.before).zip(sum) {
                *after = before - 0.1 * sum;
            }
            Ok(())
        };
        Ok(Box::new(apply) as Box<dyn ShardUpdate>)
    };
    let iteration = Iteration::new(2, 20).with_shards(5);
    context.iterate(iteration, &values, lane, shard, &mut |_| ())?;
    let bits = values.latest().iter().map(|value| value.to_bits()).collect();
    Ok((bits, context.metrics().exchanged_bytes()))
}

#[test]
fn more_shards_than_lanes_have_the_same_bits_and_a_process_without_lanes_gives_nothing() {
    let (alone, _) = train_few_lanes(&alone()).unwrap();
    for chaos in ["", "kill=worker:0@step:7", "kill=worker:1@step:7"] {
        let cluster = TestCluster::new(4).with_chaos(Chaos::parse(chaos).unwrap());
        let run = cluster.run(train_few_lanes).unwrap();
        assert!(run.results.iter().all(|(bits, _)| *bits == alone), "{chaos}");
        let silent = run.results.iter().filter(|(_, given)| *given == 0).count();
        assert!(
            silent >= 1,
            "{chaos}: {:?}",
            run.results.iter().map(|(_, given)| given).collect::<Vec<_>>()
        );
        assert!(!chaos.is_empty() || silent == 2, "two processes have no lanes");
    }
}
