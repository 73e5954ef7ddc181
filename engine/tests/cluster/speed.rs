//! Processes that are slower than others get less to do, and nobody sees it in the result.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use distdl_engine::cluster::events::Happening;
use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{
    Context, Iteration, Lane, LaneData, Parameters, Result, ShardUpdate, ShardValues, StepReport, Tallies,
};
use distdl_storage::Records;

use crate::faults::alone;

const LANES: usize = 4;
const STEPS: u64 = 4000;

/// Trains until lanes have moved; each step of a lane takes a while, and much longer in one place.
fn train(context: &Context, life: Option<&Life>, hosted: &Arc<Mutex<Vec<(u32, u64)>>>) -> Result<(Vec<u32>, u64)> {
    let parameters = Arc::new(Parameters::new((0..11).map(|index| index as f32).collect()));
    let data = context.range(0..8, LANES).cache();
    let (slot, hosted) = (life.map(|life| life.slot), Arc::clone(hosted));
    let steps = AtomicU64::new(0);
    data.iterate(
        Iteration::new(LANES, STEPS),
        &parameters,
        move |data: LaneData<Records<u64>>| {
            let hosted = Arc::clone(&hosted);
            let lane = data.lane as f32 + 1.0;
            Ok(Box::new(move |step: u64, before: &[f32], update: &mut [f32]| {
                if let Some(slot) = slot {
                    hosted.lock().unwrap().push((slot, step));
                    let begun = Instant::now();
                    std::thread::sleep(Duration::from_micros(50));
                    if slot == 1 {
                        // Times what it takes on this machine now: on a busy one sleeping takes as long as it likes.
                        std::thread::sleep(begun.elapsed() * 19);
                    }
                }
                for (update, before) in update.iter_mut().zip(before) {
                    *update = (before * lane + step as f32).sin();
                }
                Ok(Tallies::default())
            }) as Box<dyn Lane>)
        },
        |_| {
            Ok(Box::new(|_: &StepReport, sum: &[f32], values: &mut ShardValues<'_>| {
                for ((after, before), sum) in values.after.iter_mut().zip(values.before).zip(sum) {
                    *after = before + 0.01 * sum;
                }
                Ok(())
            }) as Box<dyn ShardUpdate>)
        },
        &mut |_| {
            steps.fetch_add(1, Ordering::Relaxed);
        },
    )?;
    let values = parameters.latest().iter().map(|value| value.to_bits()).collect();
    Ok((values, steps.into_inner()))
}

#[test]
fn lanes_leave_a_slow_process_and_the_result_is_the_same() {
    let hosted = Arc::new(Mutex::new(Vec::new()));
    let expected = train(&alone(), None, &hosted).unwrap();
    assert_eq!(expected.1, STEPS);
    let cluster = TestCluster {
        // Speed is told with the heartbeat, of which there are four a lease.
        lease: Duration::from_secs(2),
        ..TestCluster::new(2)
    };
    let noted = Arc::clone(&hosted);
    let run = cluster
        .run_lives(move |context, life| train(context, Some(life), &noted))
        .unwrap();
    assert_eq!(run.results, vec![expected; 2]);
    let moved =
        |what: &Happening| matches!(what, Happening::Generation { cause, .. } if cause.contains("lanes are moved"));
    assert!(run.events.iter().any(|event| moved(&event.what)), "{:?}", run.events);
    let hosted = hosted.lock().unwrap();
    let slow = |step: u64| hosted.iter().filter(|entry| **entry == (1, step)).count();
    assert_eq!(slow(0), 2, "of four lanes");
    // On a busy machine both may seem slow for a while, and some come back.
    let taken: BTreeSet<u64> = hosted
        .iter()
        .filter(|(slot, _)| *slot == 1)
        .map(|(_, step)| *step)
        .collect();
    assert!(taken.len() < STEPS as usize, "it had a lane in every step");
}
