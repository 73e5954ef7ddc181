//! Several processes compute what one computes.

#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;

use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Context, Iteration, Lane, Parameters, Result, ShardUpdate, ShardValues, StepReport, Tallies};

fn pipeline(context: &Context) -> Result<Vec<(u64, u64)>> {
    let pairs = context.range(0..1000, 7).map(|x| (x % 10, x));
    let sums = pairs
        .reduce_by_key(|left, right| left.wrapping_mul(31).wrapping_add(right))
        .cache();
    let sorted = sums.join(&pairs.group_by_key().map_values(|values| values.len() as u64));
    let mut rows: Vec<(u64, u64)> = sorted.map(|(key, (sum, count))| (key, sum ^ count)).collect()?;
    rows.extend(sums.collect()?);
    Ok(rows)
}

#[test]
fn a_pipeline_gives_the_same_on_many_processes() {
    let expected = pipeline(&Context::new(distdl_engine::Config::default()).unwrap()).unwrap();
    for processes in 1..=4 {
        let run = TestCluster::new(processes).run(pipeline).unwrap();
        assert_eq!(run.results, vec![expected.clone(); processes as usize]);
    }
}

fn train(context: &Context) -> Result<(Vec<f32>, Vec<StepReport>)> {
    iterate(context, 0)
}

/// The same with `slots` values of optimizer state for every parameter, each a momentum of another weight.
fn iterate(context: &Context, slots: usize) -> Result<(Vec<f32>, Vec<StepReport>)> {
    let parameters = (0..37).map(|index| index as f32).collect();
    let parameters = Arc::new(Parameters::with_state(parameters, slots)?);
    let mut reports = Vec::new();
    for epoch in 0..3 {
        let iteration = Iteration::new(5, 20).from_step(20 * epoch).with_state_slots(slots);
        context.iterate(
            iteration,
            &parameters,
            Arc::new(|lane: usize| {
                Ok(Box::new(move |step: u64, parameters: &[f32], into: &mut [f32]| {
                    for (index, value) in into.iter_mut().enumerate() {
                        *value = parameters[index] * (0.1 + lane as f32) / (3.0 + step as f32 + index as f32);
                    }
                    Ok(Tallies([lane as f64, step as f64, 1.0, 0.0]))
                }) as Box<dyn Lane>)
            }),
            Arc::new(|_| {
                Ok(
                    Box::new(|report: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
                        for ((after, before), sum) in shard.after.iter_mut().zip(shard.before).zip(sum) {
                            *after = before - 0.01 * sum / report.tallies.0[2] as f32;
                        }
                        Ok(())
                    }) as Box<dyn ShardUpdate>,
                )
            }),
            &mut |report| reports.push(*report),
        )?;
    }
    Ok((parameters.latest().to_vec(), reports))
}

#[test]
fn an_iteration_gives_the_same_on_many_processes() {
    let expected = train(&Context::new(distdl_engine::Config::default()).unwrap()).unwrap();
    assert_eq!(expected.1.len(), 60);
    for processes in 1..=6 {
        let run = TestCluster::new(processes).run(train).unwrap();
        for result in &run.results {
            assert_eq!(*result, expected, "{processes} processes");
        }
        assert_eq!(run.results.len(), processes as usize);
    }
}

/// Faults in the words of `--chaos`, for a cluster of some processes.
fn faults(processes: u32, steps: u64) -> impl Strategy<Value = String> {
    let worker = 0..processes;
    let point = prop_oneof![
        4 => (0..steps).prop_map(|step| format!("step:{step}")),
        1 => (1..3u64).prop_map(|recovery| format!("recovery:{recovery}")),
        1 => (0..6u64).prop_map(|block| format!("block:{block}")),
    ];
    let kill = (worker, point).prop_map(|(worker, point)| format!("kill=worker:{worker}@{point}"));
    let cut = (0..processes, 0..processes, 0..steps)
        .prop_map(|(left, right, step)| format!("cut={}-{}@step:{step}", left.min(right), left.max(right)))
        .prop_filter("two processes", |text| text.as_bytes()[4] != text.as_bytes()[6]);
    let fault = if processes > 1 {
        prop_oneof![3 => kill, 1 => cut].boxed()
    } else {
        kill.boxed()
    };
    prop::collection::vec(fault, 0..4).prop_map(|faults| faults.join(","))
}

fn clusters(steps: u64) -> impl Strategy<Value = (TestCluster, String)> {
    (1..=5u32, 1..=2usize, 0..=1u32).prop_flat_map(move |(processes, threads, spares)| {
        faults(processes, steps).prop_map(move |chaos| {
            let cluster = TestCluster {
                threads,
                spares,
                ..TestCluster::new(processes)
            };
            (cluster.with_chaos(Chaos::parse(&chaos).unwrap()), chaos)
        })
    })
}

/// One process is lost at a time: what two copies survive.
fn one_loss(steps: u64) -> impl Strategy<Value = (TestCluster, String)> {
    (2..=5u32, 1..=2usize, 0..5u32, 0..steps / 2, steps / 2..steps).prop_map(
        |(processes, threads, victim, first, second)| {
            let (one, other) = (victim % processes, (victim + 1) % processes);
            let chaos = format!("kill=worker:{one}@step:{first},kill=worker:{other}@step:{second}");
            let cluster = TestCluster {
                threads,
                ..TestCluster::new(processes)
            };
            (cluster.with_chaos(Chaos::parse(&chaos).unwrap()), chaos)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn losses_do_not_show_in_an_iteration((cluster, chaos) in clusters(60)) {
        let expected = train(&Context::new(distdl_engine::Config::default()).unwrap()).unwrap();
        let run = cluster.run(train);
        let run = run.map_err(|error| TestCaseError::fail(format!("{error} under {chaos}")))?;
        prop_assert!(!run.results.is_empty());
        for result in &run.results {
            prop_assert_eq!(result, &expected);
        }
    }

    #[test]
    fn losses_do_not_show_in_the_state_of_an_optimizer((cluster, chaos) in one_loss(60), slots in 1..=2usize) {
        let train = move |context: &Context| iterate(context, slots);
        let expected = train(&Context::new(distdl_engine::Config::default()).unwrap()).unwrap();
        let run = cluster.run(train);
        let run = run.map_err(|error| TestCaseError::fail(format!("{error} under {chaos}")))?;
        prop_assert!(!run.results.is_empty());
        for result in &run.results {
            prop_assert_eq!(result, &expected);
        }
    }
}
