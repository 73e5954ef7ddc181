//! What the driver program does while it sees the steps of an iteration.

use std::sync::Arc;

use distdl_engine::cluster::events::{ClusterEvent, Happening};
use distdl_engine::testing::TestCluster;
use distdl_engine::{
    Config, Context, EngineError, Iteration, Lane, Parameters, Result, ShardUpdate, ShardValues, StepReport, Tallies,
};

const PARAMETERS: usize = 10;

/// A lane that changes nothing.
struct Still;

impl Lane for Still {
    fn step(&mut self, _: u64, _: &[f32], update: &mut [f32]) -> Result<Tallies> {
        update.fill(0.0);
        Ok(Tallies::default())
    }
}

/// Nobody waits for the steps that are left, of which there are more than anybody could take.
#[test]
fn a_panic_of_who_sees_the_steps_ends_the_iteration() {
    let iterate = |context: &Context, values: &Arc<Parameters>, steps, panics: bool| {
        let lane = |_| Ok(Box::new(Still) as Box<dyn Lane>);
        let shard = |_| {
            let keep = |_: &StepReport, _: &[f32], shard: &mut ShardValues<'_>| {
                shard.after.copy_from_slice(shard.before);
                Ok(())
            };
            Ok(Box::new(keep) as Box<dyn ShardUpdate>)
        };
        let mut seen = 0;
        let mut observe = |step: &StepReport| {
            seen += 1;
            assert!(!panics || step.step < 5, "cannot digest step {}", step.step);
        };
        let mut iteration = Iteration::new(2, steps);
        iteration.first_step = values.version();
        let iterated = context.iterate(iteration, values, lane, shard, &mut observe);
        iterated.map(|()| seen)
    };
    let is_it = |error: &EngineError| match error {
        EngineError::DriverPanic { site, message, .. } => {
            assert!(site.contains("observers.rs:"), "{site}");
            message == "cannot digest step 5"
        }
        _ => false,
    };
    let context = Context::new(Config::default().with_threads(2)).unwrap();
    let values = Arc::new(Parameters::new(vec![0.0; PARAMETERS]));
    assert!(is_it(&iterate(&context, &values, 10_000_000_000, true).unwrap_err()));
    let version = values.version();
    assert!(version > 5);
    assert_eq!(iterate(&context, &values, 3, false).unwrap(), 3);
    assert_eq!(values.version(), version + 3, "it goes on from what was applied");

    let run = TestCluster::new(3).run(move |context| {
        let values = Arc::new(Parameters::new(vec![0.0; PARAMETERS]));
        let error = iterate(context, &values, 10_000_000, true).unwrap_err();
        assert!(is_it(&error), "{error}");
        context.range(0..10, 3).count()
    });
    let run = run.unwrap();
    assert_eq!(run.results, [10; 3], "and the cluster goes on");
    let is_loss = |event: &ClusterEvent| matches!(event.what, Happening::Lost { .. });
    assert!(!run.events.iter().any(is_loss), "nobody was taken for lost");
}
