//! Actions over processes: what they give, how they fail, and what happens to programs that differ.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{
    Config, Context, EngineError, Iteration, Lane, LaneData, Parameters, Result, ShardUpdate, ShardValues, StepReport,
    Tallies,
};
use distdl_storage::Records;
use proptest::prelude::*;

use crate::faults::{alone, cases, clusters, messages};

type Row = (u64, u64);

/// Every way in which partitions depend on others.
fn program(context: &Context) -> Result<Vec<Vec<Row>>> {
    let rows = context.range(0..500, 7).map(|x| (x * 7919 % 113, x));
    let sums = rows
        .reduce_by_key(|left, right| left.wrapping_mul(31).wrapping_add(right))
        .cache();
    let joined = sums.join(&rows.group_by_key().map_values(|values| values.len() as u64));
    let sorted = rows.sort_by_key_into(4);
    let numbered = sums.zip_with_index().map(|((key, value), index)| (key ^ index, value));
    let nested = sums.union(&numbered).coalesce(3);
    let zipped = nested
        .zip(&nested.map_values(|value| value / 3))?
        .map(|(left, right)| (left.0, left.1 ^ right.1));
    let empty = context.range(0..0, 3).map(|x| (x, x));
    let nothing = empty.reduce_by_key(|left, _| left).union(&empty.sort_by_key());
    Ok(vec![
        joined.map_values(|(sum, count)| sum ^ count).collect()?,
        sorted.collect()?,
        sorted.sort_by_key_descending().take(9)?,
        zipped.distinct_into(5).collect()?,
        nested.repartition(4).union(&nothing).take(200)?,
        nothing.collect()?,
        vec![(nothing.count()?, nested.count()?)],
        sums.unpersist().collect()?,
    ])
}

#[test]
fn a_pipeline_gives_the_same_on_many_processes() {
    let expected = program(&alone()).unwrap();
    for processes in 1..=4 {
        let run = TestCluster::new(processes).run(program).unwrap();
        assert_eq!(run.results, vec![expected.clone(); processes as usize]);
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn losses_do_not_show_in_a_pipeline(
        cluster in clusters(messages(200, 60)),
        batch_records in prop_oneof![1..=9usize, Just(1024)],
    ) {
        let expected = program(&alone()).unwrap();
        let cluster = TestCluster { batch_records, ..cluster };
        let run = cluster.run(program);
        let run = run.map_err(|error| TestCaseError::fail(format!("{error} under {}", cluster.chaos)))?;
        prop_assert!(!run.results.is_empty());
        for result in &run.results {
            prop_assert!(*result == expected, "under {}", &cluster.chaos);
        }
    }
}

/// Two actions that fail, by a panic and by an error, and one that does not.
fn failing(context: &Context) -> Result<(EngineError, EngineError, u64)> {
    let rows = context.range(0..100, 6);
    let bad = rows.map(|x| {
        assert!(x != 60, "record {x} is bad");
        (x % 5, x)
    });
    let panic = bad.reduce_by_key(|left, right| left + right).collect().unwrap_err();
    let error = rows.run_partitions(|partition, rows| match partition {
        4 => Err(EngineError::invalid(
            "partition 4 is not to be had",
            "ask for another one",
        )),
        _ => Ok(rows.count()),
    });
    Ok((panic, error.unwrap_err(), rows.count()?))
}

fn check_failing((panic, error, count): &(EngineError, EngineError, u64)) {
    let EngineError::Panic {
        operator,
        site,
        partition,
        message,
    } = panic
    else {
        panic!("{panic:?}")
    };
    assert_eq!((operator.as_str(), *partition), ("map", 3));
    assert!(site.contains("cluster/actions.rs:"), "{site}");
    assert_eq!(message, "record 60 is bad");
    assert!(error.to_string().contains("partition 4 is not to be had"), "{error}");
    assert_eq!(*count, 100);
}

#[test]
fn an_action_that_fails_fails_alike_everywhere_and_the_next_one_runs() {
    check_failing(&failing(&alone()).unwrap());
    for processes in 1..=4 {
        let run = TestCluster::new(processes).run(failing).unwrap();
        assert_eq!(run.results.len(), processes as usize);
        assert_eq!(
            run.events
                .iter()
                .filter(|event| event.sentence().is_some_and(|s| s.contains("lost")))
                .count(),
            0
        );
        run.results.iter().for_each(check_failing);
    }
}

proptest! {
    #![proptest_config(cases(20))]

    #[test]
    fn an_action_that_fails_while_processes_die_fails_alike(cluster in clusters(messages(12, 8))) {
        let run = cluster.run(failing);
        let run = run.map_err(|error| TestCaseError::fail(format!("{error} under {}", cluster.chaos)))?;
        prop_assert!(!run.results.is_empty());
        run.results.iter().for_each(check_failing);
    }
}

#[test]
fn a_process_that_asks_for_another_action_is_found_out_everywhere() {
    for chaos in ["", "kill=worker:2@report:1"] {
        let cluster = TestCluster::new(3).with_chaos(Chaos::parse(chaos).unwrap());
        let run = cluster.run_lives(|context, life| {
            let partitions = if life.slot == 1 { 5 } else { 6 };
            let first = context.range(0..10, 2).count()?;
            let error = context.range(0..100, partitions).count().unwrap_err();
            Ok((first, error.to_string(), context.range(0..30, 4).count()?))
        });
        let results = run.unwrap().results;
        // The one that was killed may come back too late.
        let expected = if chaos.is_empty() { 3..=3 } else { 2..=3 };
        assert!(expected.contains(&results.len()), "{results:?} under `{chaos}`");
        for (first, error, last) in results {
            assert!(
                error.contains("diverged at action 1") && error.contains("cluster/actions.rs:"),
                "{error}"
            );
            assert_eq!((first, last), (10, 30));
        }
    }
}

/// Steps that add 1 to parameters.
fn count_up(context: &Context, steps: u64, first: f32, shards: usize) -> Result<()> {
    count_up_by(context, Iteration::new(2, steps).with_shards(shards), first)
}

fn count_up_by(context: &Context, iteration: Iteration, first: f32) -> Result<()> {
    let parameters = Arc::new(Parameters::new(vec![first; 8]));
    let lane = |_: LaneData<Records<u64>>| {
        let step = |_: u64, _: &[f32], update: &mut [f32]| {
            update.fill(0.5);
            Ok(Tallies::default())
        };
        Ok(Box::new(step) as Box<dyn Lane>)
    };
    let shard = |_| {
        let apply = |_: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
            let values = shard.after.iter_mut().zip(shard.before).zip(sum);
            values.for_each(|((after, before), sum)| *after = before + sum);
            Ok(())
        };
        Ok(Box::new(apply) as Box<dyn ShardUpdate>)
    };
    let data = context.range(0..4, 2);
    data.iterate(iteration, &parameters, lane, shard, &mut |_| ())
}

#[test]
fn a_process_with_other_numbers_in_its_program_is_found_out() {
    type Asked = fn(&Context, u64) -> Result<()>;
    let cases: [(&str, Asked); 9] = [
        ("a range", |context, slot| {
            context.range(slot..slot + 6, 3).count().map(drop)
        }),
        ("a seed", |context, slot| {
            context.range(0..9, 3).sample(0.5, slot)?.count().map(drop)
        }),
        ("a size of batches", |context, slot| {
            context.range(0..9, 3).batch(1 + slot as usize)?.count().map(drop)
        }),
        ("a range of keys", |context, slot| {
            let sorted = context.range(0..90, 3).key_by(|number| *number).sort_by_key_into(3);
            sorted.filter_by_range(..30 + 30 * slot).count().map(drop)
        }),
        ("a number of steps", |context, slot| count_up(context, 3 + slot, 0.0, 2)),
        ("values to begin with", |context, slot| {
            count_up(context, 3, slot as f32, 2)
        }),
        ("a number of shards", |context, slot| {
            count_up(context, 3, 0.0, 1 + slot as usize)
        }),
        ("what lanes have captured", |context, slot| {
            count_up_by(
                context,
                Iteration::new(2, 3).with_settings(format!("a rate of {slot}")),
                0.0,
            )
        }),
        ("what an action has captured", |context, slot| {
            let numbers = context.range(0..6, 3);
            let scaled = numbers
                .run_partitions_with_parameters(format!("{slot}"), move |_, rows| Ok(rows.count() as u64 * slot));
            scaled.map(drop)
        }),
    ];
    for (what, asked) in cases {
        for differs in [0, 1] {
            let run =
                TestCluster::new(2).run_lives(move |context, life| asked(context, differs * u64::from(life.slot)));
            match run {
                Ok(_) => assert_eq!(differs, 0, "{what}: not found out"),
                Err(error) => assert!(
                    differs == 1 && error.to_string().contains("diverged"),
                    "{what}: {error}"
                ),
            }
        }
    }
}

#[test]
fn what_one_process_does_for_all_is_done_once() {
    let (done, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = [Arc::clone(&done), Arc::clone(&told)];
    let chaos = Chaos::parse("kill=worker:1@report:3").unwrap();
    let run = TestCluster::new(3).with_chaos(chaos).run_lives(move |context, life| {
        let [done, told] = counts.clone();
        let answer = context.once(move || {
            done.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>(17)
        })?;
        told.fetch_add(1, Ordering::SeqCst);
        let failed = context.once(|| Err::<(), _>("no such thing")).unwrap_err().to_string();
        assert!(
            failed.contains("no such thing") && failed.contains("cluster/actions.rs"),
            "{}: {failed}",
            life.slot
        );
        // A process that was killed comes back here, and is told what came of it.
        context.range(0..100, 9).count()?;
        Ok(answer)
    });
    let results = run.unwrap().results;
    assert!(
        results.iter().all(|answer| *answer == 17) && results.len() >= 2,
        "{results:?}"
    );
    assert_eq!(done.load(Ordering::SeqCst), 1);
    assert!(told.load(Ordering::SeqCst) >= 3);
}

#[test]
fn a_process_that_asks_for_more_than_the_others_is_told() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let errors = Arc::clone(&told);
    let run = TestCluster::new(3).run_lives(move |context, life| {
        let count = context.range(0..10, 2).count()?;
        if life.slot == 1 {
            let error = context.range(0..100, 2).count().unwrap_err();
            errors.lock().unwrap().push(error.to_string());
        }
        Ok(count)
    });
    assert_eq!(run.unwrap().results, [10; 3]);
    let told = told.lock().unwrap();
    assert!(told.len() == 1 && told[0].contains("diverged"), "{told:?}");
}

#[test]
fn a_program_that_panics_ends_the_cluster_with_its_text() {
    let run = TestCluster::new(3).run(|context| {
        let count = context.range(0..10, 2).count()?;
        assert!(count != 10, "the program gives up at {count}");
        Ok(())
    });
    let error = run.unwrap_err().to_string();
    assert!(error.contains("the program gives up at 10"), "{error}");
}

#[test]
fn processes_that_have_listed_other_files_are_found_out() {
    for adds_file in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (path, turn) = (folder.path().to_owned(), Arc::new(Barrier::new(2)));
        std::fs::write(path.join("1.txt"), "1\n2\n3\n4\n").unwrap();
        let run = TestCluster::new(2).run_lives(move |context, life| {
            let list = || context.text_file(&path.to_string_lossy(), 2);
            let lines = match life.slot {
                0 => {
                    let lines = list()?;
                    turn.wait();
                    lines
                }
                _ => {
                    turn.wait();
                    if adds_file {
                        std::fs::write(path.join("2.txt"), "5\n6\n7\n8\n").unwrap();
                    }
                    list()?
                }
            };
            lines.count()
        });
        match run {
            Ok(run) => assert!(!adds_file && run.results == [4, 4], "{:?}", run.results),
            Err(error) => {
                let text = error.to_string();
                assert!(
                    adds_file && text.contains("what it reads, or what it was given, is not the same"),
                    "{text}"
                );
            }
        }
    }
}

#[test]
fn who_comes_later_and_finds_a_file_rewritten_in_its_length_is_found_out() {
    for rewrites in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (path, turn) = (folder.path().join("x.txt"), Arc::new(Barrier::new(2)));
        std::fs::write(&path, "1\n2\n3\n4\n").unwrap();
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        // How the cluster ends depends on who ends first.
        let _ = TestCluster::new(2).run_lives(move |context, life| {
            let comes_later = life.number > 0;
            if comes_later && rewrites {
                std::fs::write(&path, "5\n6\n7\n8\n").unwrap();
            }
            let counted = context.text_file(&path.to_string_lossy(), 2)?.count();
            if life.slot == 1 && !comes_later {
                life.kill();
                return counted;
            }
            if comes_later {
                *tell.lock().unwrap() = Some(counted.clone());
            }
            // The first goes on once the other has been told what both have counted.
            turn.wait();
            counted
        });
        match told.lock().unwrap().take().unwrap() {
            Ok(count) => assert!(!rewrites && count == 4, "{count}"),
            Err(error) => {
                let text = error.to_string();
                let differ = "what it reads, or what it was given, is not the same";
                assert!(rewrites && text.contains(differ), "{text}");
            }
        }
    }
}

#[test]
fn processes_that_begin_with_other_records_are_found_out() {
    let run = |differ: bool| {
        TestCluster::new(2).run_lives(move |context, life| {
            let first = if differ { u64::from(life.slot) } else { 0 };
            context.parallelize(first..first + 4, 2).collect()
        })
    };
    assert_eq!(run(false).unwrap().results, [[0, 1, 2, 3], [0, 1, 2, 3]]);
    let error = run(true).unwrap_err().to_string();
    assert!(
        error.contains("records (which come out of a `HashMap` in any order)"),
        "{error}"
    );
}

#[test]
fn a_plan_says_that_it_is_of_one_process_where_there_are_several() {
    let run = TestCluster::new(2)
        .run(|context| Ok(context.range(0..10, 2).explain()))
        .unwrap();
    let alone = Context::new(Config::default()).unwrap().range(0..10, 2).explain();
    let words = "what this process would do alone";
    assert!(
        run.results.iter().all(|text| text.contains(words)) && !alone.contains(words),
        "{:?}",
        run.results
    );
}
