//! Processes that are as far behind the others as they may be: what lies in shared memory must stay until they have
//! read it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use distdl_engine::testing::TestCluster;
use distdl_engine::{
    Context, EngineError, Iteration, Lane, Parameters, Result, ShardUpdate, ShardValues, Staleness, StepReport, Tallies,
};

use crate::faults::alone;

const STEPS: u64 = 24;
const LANES: usize = 4;
const LAG: u64 = 3;

/// The newest step that each lane has begun, anywhere.
#[derive(Default)]
struct Begun {
    steps: Mutex<[u64; LANES]>,
    changed: Condvar,
}

impl Begun {
    fn note(&self, lane: usize, step: u64) {
        self.steps.lock().unwrap()[lane] = step;
        self.changed.notify_all();
    }

    /// Waits until some lanes are as far ahead of a step as they may be.
    fn wait_for(&self, lanes: std::ops::Range<usize>, step: u64) -> Result<()> {
        let wanted = (step + LAG).min(STEPS - 1);
        let behind = |steps: &mut [u64; LANES]| steps[lanes.clone()].iter().any(|begun| *begun < wanted);
        let steps = self.steps.lock().unwrap();
        let waited = self.changed.wait_timeout_while(steps, Duration::from_secs(120), behind);
        let is_late = waited.unwrap().1.timed_out();
        match is_late {
            true => Err(EngineError::invalid(format!("nobody comes to step {wanted}"), "test")),
            false => Ok(()),
        }
    }
}

/// Who is kept back.
#[derive(Clone, Copy, PartialEq)]
enum Behind {
    Nobody,
    /// The process of the last two lanes.
    Reader,
    /// The process that owns all shards.
    Owner,
}

fn train(context: &Context, behind: Behind, begun: &Arc<Begun>) -> Result<Vec<u32>> {
    let parameters = Parameters::new((0..37).map(|index| (index as f32).sin()).collect());
    let parameters = Arc::new(parameters.with_lag(LAG as usize));
    let (lanes, shards) = (Arc::clone(begun), Arc::clone(begun));
    let make_lane = move |lane: usize| {
        let begun = Arc::clone(&lanes);
        let step = move |step: u64, parameters: &[f32], into: &mut [f32]| {
            begun.note(lane, step);
            // Every eight steps the reader is first as far ahead as it may be, and then stays until the others are.
            match (behind, lane) {
                (Behind::Reader, 0) if (step + LAG).is_multiple_of(8) => begun.wait_for(2..3, step)?,
                (Behind::Reader, 2) if step.is_multiple_of(8) => begun.wait_for(0..1, step)?,
                _ => {}
            }
            for (index, value) in into.iter_mut().enumerate() {
                *value = parameters[index] / (2.0 + lane as f32) - parameters[(index + 1) % 37] / (3.0 + step as f32);
            }
            Ok(Tallies::default())
        };
        Ok(Box::new(step) as Box<dyn Lane>)
    };
    let make_shard = move |_| {
        let begun = Arc::clone(&shards);
        let apply = move |report: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
            if behind == Behind::Owner {
                begun.wait_for(0..LANES, report.step)?;
            }
            for ((after, before), sum) in shard.after.iter_mut().zip(shard.before).zip(sum) {
                *after = before - 0.05 * sum;
            }
            Ok(())
        };
        Ok(Box::new(apply) as Box<dyn ShardUpdate>)
    };
    let iteration = Iteration::new(LANES, STEPS).with_staleness(Staleness::FixedLag(LAG));
    context.iterate(iteration, &parameters, make_lane, make_shard, &mut |_| ())?;
    Ok(parameters.latest().iter().map(|value| value.to_bits()).collect())
}

#[test]
fn what_lies_in_shared_memory_stays_for_who_is_behind() {
    let expected = train(&alone(), Behind::Nobody, &Arc::default()).unwrap();
    for behind in [Behind::Reader, Behind::Owner] {
        let cluster = TestCluster {
            parameter_workers: 1,
            ..TestCluster::new(3)
        };
        let begun: Arc<Begun> = Arc::default();
        let run = cluster.run(move |context| train(context, behind, &begun)).unwrap();
        assert_eq!(run.results, vec![expected.clone(); 3]);
    }
}
