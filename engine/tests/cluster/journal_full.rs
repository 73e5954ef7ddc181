//! What actions come to finds no room in the name node's journal.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use distdl_engine::testing::{Life, TestCluster};
use distdl_engine::{
    Context, EngineError, Iteration, Lane, LaneData, Parameters, Result, ShardUpdate, ShardValues, StepReport, Tallies,
};
use distdl_storage::Records;

use crate::faults::with_name_node_again;

const JOURNAL_BYTES_MAX: u64 = 100_000;

/// Adds 1 to so many parameters, and counts the steps that were begun.
fn count_up(context: &Context, length: usize, begun: &Arc<AtomicUsize>) -> Result<f32> {
    let parameters = Arc::new(Parameters::new(vec![0.0; length]));
    let begun = Arc::clone(begun);
    let lane = move |_: LaneData<Records<u64>>| {
        let begun = Arc::clone(&begun);
        let step = move |_: u64, _: &[f32], update: &mut [f32]| {
            begun.fetch_add(1, Ordering::SeqCst);
            update.fill(1.0);
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
    data.iterate(Iteration::new(1, 3), &parameters, lane, shard, &mut |_| ())?;
    Ok(parameters.latest()[0])
}

fn check(error: &EngineError, action: &str) {
    let EngineError::JournalFull {
        action: at,
        bytes,
        bytes_max,
        more,
    } = error
    else {
        panic!("{error:?}")
    };
    assert!(at.contains(action) && at.contains("cluster/journal_full.rs"), "{at}");
    // What comes to little has an eighth beyond.
    assert!(*bytes_max == JOURNAL_BYTES_MAX && bytes + more > JOURNAL_BYTES_MAX && bytes * 8 < bytes_max * 9);
    let says = error.to_string();
    assert!(says.contains("raise `disk`") && says.contains("100000 bytes"), "{says}");
}

/// How many times records were collected, what then went wrong, and what went well after that.
type Seen = (u64, Vec<String>, Vec<u64>);

fn fills_it_up(context: &Context, life: &Life, begun: &Arc<AtomicUsize>) -> Result<Seen> {
    let rows = context.range(0..2000, 4).map(|x| x * 7919 % 30_000);
    let collected = (0..1000).map(|_| rows.collect());
    let mut errors: Vec<EngineError> = Vec::new();
    let mut rounds = 0;
    for outcome in collected {
        match outcome {
            Ok(_) => rounds += 1,
            Err(error) => {
                check(&error, "`map`");
                errors.push(error);
                break;
            }
        }
    }
    let mut well = vec![rows.count()?];
    let error = count_up(context, 40_000, begun).unwrap_err();
    check(&error, "`range`");
    errors.push(error);
    well.push(count_up(context, 4, begun)? as u64);
    // Whoever comes in the place of the one that dies replays all of it from a journal that is read again.
    if life.number == 0 {
        match life.slot {
            0 => life.kill_name_node(),
            1 => life.kill(),
            _ => {}
        }
    }
    well.push(rows.map(|x| x + 1).count()?);
    let error = rows.collect().unwrap_err();
    check(&error, "`map`");
    errors.push(error);
    well.push(rows.count()?);
    let errors = errors.iter().map(ToString::to_string).collect();
    Ok((rounds, errors, well))
}

#[test]
fn an_action_that_finds_no_room_fails_alike_everywhere_and_the_program_goes_on() {
    let cluster = TestCluster {
        journal_bytes_max: JOURNAL_BYTES_MAX,
        ..TestCluster::new(3)
    };
    let cluster = with_name_node_again(cluster, Duration::from_secs(60));
    let begun = Arc::new(AtomicUsize::new(0));
    let steps = Arc::clone(&begun);
    let run = cluster.run_lives(move |context, life| fills_it_up(context, life, &begun));
    let results = run.unwrap().results;
    assert_eq!(results.len(), 3, "the one that was killed is there again");
    let (rounds, errors, well) = &results[0];
    assert!((2..40).contains(rounds), "{rounds}");
    assert_eq!((errors.len(), well), (3, &vec![2000, 3, 2000, 2000]));
    assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    assert_eq!(
        steps.load(Ordering::SeqCst),
        3,
        "nothing was begun of an iteration that will find no room"
    );
}
