//! Lanes that read older parameters: what they may read, and who waits for whom.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use distdl::engine::{Lane, Placement, ShardUpdate, ShardValues, Staleness, StepReport, Tallies, tree};
use distdl::{Context, EngineError, Iteration, Parameters};
use proptest::prelude::*;

use crate::common::{cases, context};

/// What a lane computes: different roundings for each lane, step and place.
fn update(lane: usize, step: u64, index: usize, parameters: &[f32]) -> f32 {
    let neighbour = parameters[(index + lane + 1) % parameters.len()];
    (0.1 + lane as f32) * parameters[index] - 0.7 * neighbour / (1.0 + step as f32) + 1.0 / (3.0 + index as f32)
}

fn initial(length: usize) -> Vec<f32> {
    (0..length).map(|index| (index as f32 * 0.37).sin()).collect()
}

/// Parameters after `steps` steps, each of which reads what there was `lag` steps before.
fn plain(length: usize, lanes: usize, steps: u64, lag: u64) -> Vec<f32> {
    let mut versions = vec![initial(length)];
    for step in 0..steps {
        let read = &versions[step.saturating_sub(lag) as usize];
        let sum = |index: usize| {
            let mut leaf = |lane| update(lane, step, index, read);
            tree::fold(0..lanes, &mut leaf, &mut |left, right| left + right).unwrap()
        };
        let newest = versions.last().unwrap().iter().enumerate();
        let next = newest.map(|(index, value)| value - 0.05 * sum(index)).collect();
        versions.push(next);
    }
    versions.pop().unwrap()
}

/// Runs lanes that are closures over parameters that shards change by `-0.05 * sum`.
fn run(
    context: &Context,
    iteration: Iteration,
    parameters: &Arc<Parameters>,
    step_of: impl Fn(usize, u64, &[f32], &mut [f32]) + Send + Sync + 'static,
) -> Result<Vec<StepReport>, EngineError> {
    run_with(context, iteration, parameters, step_of, || {})
}

/// As [`run`]; owners of shards call `applies`.
fn run_with(
    context: &Context,
    iteration: Iteration,
    parameters: &Arc<Parameters>,
    step_of: impl Fn(usize, u64, &[f32], &mut [f32]) + Send + Sync + 'static,
    applies: impl Fn() + Send + Sync + 'static,
) -> Result<Vec<StepReport>, EngineError> {
    let applies = Arc::new(applies);
    let step_of = Arc::new(step_of);
    let make_lane = move |lane: usize| -> Result<Box<dyn Lane>, EngineError> {
        let step_of = Arc::clone(&step_of);
        Ok(Box::new(move |step: u64, parameters: &[f32], into: &mut [f32]| {
            step_of(lane, step, parameters, into);
            Ok(Tallies([1.0, 0.0, 0.0, 0.0]))
        }))
    };
    let make_shard = move |_| -> Result<Box<dyn ShardUpdate>, EngineError> {
        let applies = Arc::clone(&applies);
        Ok(Box::new(
            move |_: &StepReport, sum: &[f32], values: &mut ShardValues<'_>| {
                applies();
                for ((after, before), sum) in values.after.iter_mut().zip(values.before).zip(sum) {
                    *after = before - 0.05 * sum;
                }
                Ok(())
            },
        ))
    };
    let mut reports = Vec::new();
    let observe = &mut |report: &StepReport| reports.push(*report);
    context.iterate(iteration, parameters, make_lane, make_shard, observe)?;
    Ok(reports)
}

/// The shape of an iteration, where everything is.
fn shapes() -> impl Strategy<Value = (usize, Iteration)> {
    (1..=3usize, 1..=6usize, 1..=5usize, 0..12u64).prop_flat_map(|(threads, lanes, shards, steps)| {
        let workers = |count| prop::collection::vec(0..threads, count);
        (workers(lanes), workers(shards)).prop_map(move |(on, owners)| {
            let placement = Placement {
                lanes: on,
                shards: owners,
            };
            let iteration = Iteration::new(lanes, steps)
                .with_shards(shards)
                .with_placement(placement);
            (threads, iteration)
        })
    })
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn a_fixed_lag_is_a_plain_loop_over_older_versions((threads, iteration) in shapes(), length in 1..70usize, lag in 0..5u64) {
        let context = context(threads);
        let parameters = Arc::new(Parameters::new(initial(length)).with_lag(lag as usize));
        let iteration = iteration.with_staleness(Staleness::FixedLag(lag));
        let (lanes, steps) = (iteration.lanes, iteration.steps);
        let reports = run(&context, iteration, &parameters, |lane, step, parameters, into| {
            for (index, value) in into.iter_mut().enumerate() {
                *value = update(lane, step, index, parameters);
            }
        }).unwrap();
        prop_assert_eq!(reports.len() as u64, steps);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        prop_assert_eq!(bits(&parameters.latest()), bits(&plain(length, lanes, steps, lag)));
    }

    /// Every update is 1 for each lane's part, so that parameters say how many steps have made them.
    #[test]
    fn lanes_read_one_whole_version_that_is_new_enough(
        (threads, iteration) in shapes(),
        length in 1..70usize,
        staleness in prop_oneof![(0..4u64).prop_map(Staleness::Bounded), Just(Staleness::Asynchronous)],
    ) {
        let context = context(threads);
        let parameters = Arc::new(Parameters::new(vec![0.0; length]).with_lag(staleness.lag()));
        let iteration = iteration.with_staleness(staleness);
        let (lanes, steps) = (iteration.lanes, iteration.steps);
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let found = Arc::clone(&wrong);
        let reports = run(&context, iteration, &parameters, move |_, step, parameters, into| {
            let version = (parameters[0] / (-0.05 * lanes as f32)).round() as u64;
            let is_whole = parameters.iter().all(|value| value.to_bits() == parameters[0].to_bits());
            if !is_whole || matches!(staleness, Staleness::Bounded(bound) if version > step || version + bound < step) {
                found.lock().unwrap().push((step, version, is_whole));
            }
            into.fill(1.0);
        }).unwrap();
        prop_assert_eq!(wrong.lock().unwrap().clone(), vec![]);
        prop_assert_eq!(reports.len() as u64, steps);
        prop_assert!(reports.iter().all(|report| report.tallies.0[0] == lanes as f64));
        let version = (parameters.latest()[0] / (-0.05 * lanes as f32)).round() as u64;
        prop_assert_eq!((version, parameters.version()), (steps, steps));
    }
}

/// After so long a test takes lanes for stuck. Hundreds of threads of other tests may want the same cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// The newest step that each lane has begun.
struct Begun {
    steps: Mutex<Vec<u64>>,
    changed: Condvar,
}

impl Begun {
    fn note(&self, lane: usize, step: u64) {
        self.steps.lock().unwrap()[lane] = step;
        self.changed.notify_all();
    }

    /// Waits until all lanes but the first have begun a step, and says what they have begun by then. None if that takes
    /// too long.
    fn wait_for(&self, step: u64) -> Option<Vec<u64>> {
        let here = |steps: &mut Vec<u64>| !steps[1..].iter().all(|begun| *begun >= step);
        let waited = self
            .changed
            .wait_timeout_while(self.steps.lock().unwrap(), PATIENCE, here);
        let (steps, waited) = waited.unwrap();
        (!waited.timed_out()).then(|| steps.clone())
    }
}

/// The first lane stays in some step until all others, which share its worker or not, have begun one that is `ahead`
/// steps further. Returns that step and what they have begun by then.
fn while_one_waits(staleness: Staleness, ahead: u64) -> (u64, Vec<u64>) {
    const LANES: usize = 4;
    let context = context(3);
    let parameters = Arc::new(Parameters::new(vec![0.0; 8]).with_lag(staleness.lag()));
    let placement = Placement {
        lanes: vec![0, 0, 1, 1],
        shards: vec![2, 2],
    };
    let iteration = Iteration::new(LANES, 3_000).with_shards(2).with_placement(placement);
    let begun = Arc::new(Begun {
        steps: Mutex::new(vec![0; LANES]),
        changed: Condvar::new(),
    });
    let found = Arc::new(Mutex::new(None));
    let owner = Arc::new(Mutex::new(None));
    let (lanes, seen, owns) = (Arc::clone(&begun), Arc::clone(&found), Arc::clone(&owner));
    let step_of = move |lane: usize, step: u64, _: &[f32], into: &mut [f32]| {
        lanes.note(lane, step);
        into.fill(1.0);
        // Who waits must not own shards: nobody would complete a version. Any worker may be given this lane.
        let here = std::thread::current().id();
        let owner: Option<std::thread::ThreadId> = *owns.lock().unwrap();
        if lane == 0 && owner.is_some_and(|owner| owner != here) && seen.lock().unwrap().is_none() {
            let others = lanes
                .wait_for(step + ahead)
                .unwrap_or_else(|| panic!("the others wait for step {step}"));
            *seen.lock().unwrap() = Some((step, others));
        }
    };
    let owns = move || *owner.lock().unwrap() = Some(std::thread::current().id());
    run_with(
        &context,
        iteration.with_staleness(staleness),
        &parameters,
        step_of,
        owns,
    )
    .unwrap();
    let found = found.lock().unwrap().clone();
    found.expect("the lane was never given to a worker without shards")
}

#[test]
fn nobody_is_further_ahead_of_a_lane_that_hangs_than_is_allowed() {
    let allowed = [
        (Staleness::Synchronous, 0),
        (Staleness::FixedLag(2), 2),
        (Staleness::Bounded(3), 3),
    ];
    for (staleness, ahead) in allowed {
        let (step, others) = while_one_waits(staleness, ahead);
        assert!(
            others[1..].iter().all(|begun| *begun == step + ahead),
            "{staleness:?}: {others:?}, step {step}"
        );
    }
}

#[test]
fn nobody_waits_for_a_lane_that_hangs_where_none_need() {
    // Further than any bound.
    while_one_waits(Staleness::Asynchronous, 70);
}

#[test]
fn what_does_not_wait_begins_where_it_is_told_to() {
    const LANES: usize = 3;
    let context = context(2);
    let parameters = Arc::new(Parameters::new(vec![0.0; 8]));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&calls);
    let iteration = Iteration::new(LANES, 7)
        .from_step(400)
        .with_staleness(Staleness::Asynchronous);
    let reports = run(&context, iteration, &parameters, move |_, step, _, into| {
        noted.lock().unwrap().push(step);
        into.fill(1.0);
    });
    let steps: Vec<u64> = reports.unwrap().iter().map(|report| report.step).collect();
    assert_eq!(steps, (400..407).collect::<Vec<u64>>());
    let calls = calls.lock().unwrap().clone();
    // Two updates of a lane at most are on their way when the last step is whole.
    assert!(calls.len() <= (7 + 2) * LANES, "{calls:?}");
    assert!(calls.iter().all(|step| *step >= 400), "{calls:?}");
}

#[test]
fn lanes_that_remember_read_what_is_the_same_again() {
    let parameters = Arc::new(Parameters::new(vec![0.0; 8]).with_lag(1));
    let nothing = |_: usize, _: u64, _: &[f32], into: &mut [f32]| into.fill(0.0);
    let iteration = |staleness| {
        Iteration::new(2, 4)
            .with_staleness(staleness)
            .with_lanes_that_remember()
    };
    for staleness in [Staleness::Bounded(1), Staleness::Asynchronous] {
        let error = run(&context(1), iteration(staleness), &parameters, nothing).unwrap_err();
        assert!(error.to_string().contains("remember"), "{error}");
    }
    run(&context(1), iteration(Staleness::FixedLag(1)), &parameters, nothing).unwrap();
}

#[test]
fn a_lag_that_there_is_no_room_for_is_refused() {
    let context = context(2);
    let nothing = |_: usize, _: u64, _: &[f32], into: &mut [f32]| into.fill(0.0);
    let parameters = Arc::new(Parameters::new(vec![0.0; 8]).with_lag(2));
    for (staleness, words) in [
        (Staleness::FixedLag(3), "with_lag(3)"),
        (Staleness::Bounded(3), "with_lag(3)"),
        (Staleness::FixedLag(65), "at most 64"),
    ] {
        let error = run(
            &context,
            Iteration::new(2, 4).with_staleness(staleness),
            &parameters,
            nothing,
        )
        .unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    run(
        &context,
        Iteration::new(2, 4).with_staleness(Staleness::Bounded(2)),
        &parameters,
        nothing,
    )
    .unwrap();
}

#[test]
fn the_report_says_what_each_worker_did() {
    let context = context(2);
    let parameters = Arc::new(Parameters::new(vec![0.0; 8]));
    let nothing = |_: usize, _: u64, _: &[f32], into: &mut [f32]| into.fill(0.0);
    (0..2).for_each(|_| drop(run(&context, Iteration::new(4, 10), &parameters, nothing).unwrap()));
    let times = context.metrics().worker_times();
    assert_eq!(times.iter().map(|times| times.worker).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(times.iter().map(|times| times.lane_steps).sum::<u64>(), 2 * 4 * 10);
    assert_eq!(times.iter().map(|times| times.behind_max).max(), Some(0));
}
