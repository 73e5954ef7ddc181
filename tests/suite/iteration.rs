//! `iterate`: lanes and shards anywhere, the same bits everywhere.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use distdl::engine::{
    Lane, LaneData, LanePartition, Placement, Resident, ShardUpdate, ShardValues, StepReport, Tallies, tree,
};
use distdl::{Context, EngineError, Iteration, Parameters, Records};
use proptest::prelude::*;

use crate::common::{cases, context};

/// What a lane computes: different roundings for each lane, step and place.
fn update(lane: usize, step: u64, index: usize, parameters: &[f32]) -> f32 {
    let neighbour = parameters[(index + lane + 1) % parameters.len()];
    (0.1 + lane as f32) * parameters[index] - 0.7 * neighbour / (1.0 + step as f32) + 1.0 / (3.0 + index as f32)
}

fn tallies(lane: usize, step: u64) -> Tallies {
    Tallies([1.0 / (1.0 + lane as f64 + step as f64), 1.0, step as f64, 0.0])
}

fn applied(sum: f32, total: f64, parameter: f32) -> f32 {
    parameter - 0.05 * sum / (1.0 + total as f32)
}

/// The same without an engine: `steps` steps over `lanes` lanes.
fn plain(parameters: &mut [f32], lanes: usize, first_step: u64, steps: u64) -> Vec<StepReport> {
    let mut reports = Vec::new();
    for step in first_step..first_step + steps {
        let tallies = tree::fold(0..lanes, &mut |lane| tallies(lane, step), &mut Tallies::plus).unwrap();
        let sums: Vec<f32> = (0..parameters.len())
            .map(|index| {
                let mut leaf = |lane| update(lane, step, index, parameters);
                tree::fold(0..lanes, &mut leaf, &mut |left, right| left + right).unwrap()
            })
            .collect();
        for (parameter, sum) in parameters.iter_mut().zip(sums) {
            *parameter = applied(sum, tallies.0[0], *parameter);
        }
        reports.push(StepReport { step, tallies });
    }
    reports
}

/// Where and when something goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Error {
        lane: usize,
        step: u64,
    },
    Panic {
        lane: usize,
        step: u64,
    },
    /// All shards refuse.
    Refused {
        step: u64,
    },
    /// One of several shards refuses, when it has written already.
    RefusedBy {
        shard: usize,
        step: u64,
    },
    Making {
        lane: usize,
    },
}

fn run(
    context: &Context,
    iteration: Iteration,
    parameters: &Arc<Parameters>,
    fault: Fault,
) -> (Result<(), EngineError>, Vec<StepReport>) {
    let make_lane = move |lane: usize| -> Result<Box<dyn Lane>, EngineError> {
        if fault == (Fault::Making { lane }) {
            return Err(EngineError::invalid("no such lane", "test"));
        }
        Ok(Box::new(move |step: u64, parameters: &[f32], into: &mut [f32]| {
            assert!(fault != Fault::Panic { lane, step }, "lane {lane} panics");
            // Half of it is written already when it fails.
            for (index, value) in into.iter_mut().enumerate() {
                *value = update(lane, step, index, parameters);
            }
            match fault == (Fault::Error { lane, step }) {
                true => Err(EngineError::invalid(format!("lane {lane} fails"), "test")),
                false => Ok(tallies(lane, step)),
            }
        }))
    };
    let make_shard = move |shard: usize| -> Result<Box<dyn ShardUpdate>, EngineError> {
        Ok(Box::new(
            move |report: &StepReport, sum: &[f32], values: &mut ShardValues<'_>| {
                for ((after, before), sum) in values.after.iter_mut().zip(values.before).zip(sum) {
                    *after = applied(*sum, report.tallies.0[0], *before);
                }
                let step = report.step;
                match fault == (Fault::Refused { step }) || fault == (Fault::RefusedBy { shard, step }) {
                    true => Err(EngineError::invalid("refused", "test")),
                    false => Ok(()),
                }
            },
        ))
    };
    let mut reports = Vec::new();
    let result = context.iterate(iteration, parameters, make_lane, make_shard, &mut |report| {
        reports.push(*report)
    });
    (result, reports)
}

/// Takes whole steps by the plain loop: so many at each time, until there are no more numbers.
struct Whole {
    lanes: usize,
    at_a_time: std::vec::IntoIter<u64>,
}

impl Resident for Whole {
    fn take(&mut self, steps: Range<u64>, all: &mut ShardValues<'_>) -> Result<Vec<Tallies>, EngineError> {
        let Some(count) = self.at_a_time.next() else {
            all.after.fill(f32::NAN);
            return Ok(Vec::new());
        };
        let mut values = all.before.to_vec();
        let taken = plain(&mut values, self.lanes, steps.start, count.min(steps.end - steps.start));
        all.after.copy_from_slice(&values);
        Ok(taken.iter().map(|report| report.tallies).collect())
    }
}

fn run_whole(
    context: &Context,
    shape: &Shape,
    parameters: &Parameters,
    at_a_time: Vec<u64>,
) -> (Result<u64, EngineError>, Vec<StepReport>) {
    let lanes = shape.lanes;
    let data = context.range(0..2 * lanes as u64, lanes + 1);
    let make = |parts: Vec<LaneData<usize>>| -> Result<Option<Box<dyn Resident>>, EngineError> {
        let owned = |data: &LaneData<usize>| data.partitions.iter().all(|part| part % lanes == data.lane);
        assert!(parts.len() == lanes && parts.iter().all(owned), "{parts:?}");
        let mut all: Vec<usize> = parts.iter().flat_map(|part| part.partitions.clone()).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..=lanes));
        let at_a_time = at_a_time.into_iter();
        Ok(Some(Box::new(Whole { lanes, at_a_time })))
    };
    let mut reports = Vec::new();
    let load = |part: LanePartition<u64>| Ok(part.partition);
    let taken = data.iterate_resident(&shape.iteration(), parameters, load, make, &mut |report| {
        reports.push(*report);
    });
    (taken, reports)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn initial(length: usize) -> Vec<f32> {
    (0..length).map(|index| (index as f32 * 0.37).sin()).collect()
}

#[derive(Debug, Clone)]
struct Shape {
    threads: usize,
    lanes: usize,
    shards: usize,
    length: usize,
    first_step: u64,
    steps: u64,
    placement: Option<Placement>,
}

fn shapes() -> impl Strategy<Value = Shape> {
    (1..=3usize, 1..=6usize, 1..=5usize).prop_flat_map(|(threads, lanes, shards)| {
        let placement = (
            prop::collection::vec(0..threads, lanes),
            prop::collection::vec(0..threads, shards),
        );
        let placement = placement.prop_map(|(lanes, shards)| Placement { lanes, shards });
        let rest = (1..70usize, 0..5u64, 0..9u64, prop::option::weighted(0.8, placement));
        rest.prop_map(move |(length, first_step, steps, placement)| Shape {
            threads,
            lanes,
            shards,
            length,
            first_step,
            steps,
            placement,
        })
    })
}

impl Shape {
    /// One of the shards that get parameters.
    fn shard_held(&self, shard: usize) -> usize {
        let held = |shard: &usize| !self.iteration().shard_range(*shard, self.length).is_empty();
        let held: Vec<usize> = (0..self.shards).filter(held).collect();
        held[shard % held.len()]
    }

    fn iteration(&self) -> Iteration {
        let iteration = Iteration::new(self.lanes, self.steps)
            .from_step(self.first_step)
            .with_shards(self.shards);
        match &self.placement {
            Some(placement) => iteration.with_placement(placement.clone()),
            None => iteration,
        }
    }
}

proptest! {
    #![proptest_config(cases(160))]

    #[test]
    fn parameters_and_reports_are_those_of_a_plain_loop(shape in shapes()) {
        let context = context(shape.threads);
        let parameters = Arc::new(Parameters::new(initial(shape.length)));
        let (result, reports) = run(&context, shape.iteration(), &parameters, Fault::None);
        result.unwrap();
        let mut expected = initial(shape.length);
        prop_assert_eq!(reports, plain(&mut expected, shape.lanes, shape.first_step, shape.steps));
        prop_assert_eq!(bits(&parameters.latest()), bits(&expected));
    }

    #[test]
    fn a_fault_leaves_the_parameters_of_the_last_applied_step(
        shape in shapes(),
        (lane, shard, after, kind) in (0..6usize, 0..5usize, 0..9u64, 0..5usize),
    ) {
        prop_assume!(shape.steps > 0);
        let (lane, after) = (lane % shape.lanes, after % shape.steps);
        let step = shape.first_step + after;
        let (fault, after) = match kind {
            0 => (Fault::Error { lane, step }, after),
            1 => (Fault::Panic { lane, step }, after),
            2 => (Fault::Refused { step }, after),
            3 => (Fault::RefusedBy { shard: shape.shard_held(shard), step }, after),
            _ => (Fault::Making { lane }, 0),
        };
        let context = context(shape.threads);
        let parameters = Arc::new(Parameters::new(initial(shape.length)));
        let (result, reports) = run(&context, shape.iteration(), &parameters, fault);
        match (fault, result) {
            (Fault::Panic { .. }, Err(EngineError::Panic { operator, site, partition, message })) => {
                prop_assert_eq!((operator.as_str(), partition), ("iterate (lane)", lane));
                prop_assert!(site.contains("iteration.rs:"));
                prop_assert_eq!(message, format!("lane {lane} panics"));
            }
            (Fault::Error { .. } | Fault::Refused { .. } | Fault::RefusedBy { .. } | Fault::Making { .. }, Err(EngineError::Invalid { remedy, .. })) => {
                prop_assert_eq!(remedy, "test");
            }
            (fault, result) => prop_assert!(false, "{:?}: {:?}", fault, result),
        }
        let mut expected = initial(shape.length);
        prop_assert_eq!(reports, plain(&mut expected, shape.lanes, shape.first_step, after));
        prop_assert_eq!(bits(&parameters.latest()), bits(&expected));
        // It goes on from there as if nothing had happened.
        let rest = Shape { first_step: shape.first_step + after, steps: shape.steps - after, ..shape.clone() };
        let (result, _) = run(&context, rest.iteration(), &parameters, Fault::None);
        result.unwrap();
        plain(&mut expected, rest.lanes, rest.first_step, rest.steps);
        prop_assert_eq!(bits(&parameters.latest()), bits(&expected));
    }

    #[test]
    fn steps_that_are_taken_whole_are_those_of_a_plain_loop(
        shape in shapes(),
        at_a_time in prop::collection::vec(1..4u64, 0..6),
    ) {
        let context = context(shape.threads);
        let parameters = Arc::new(Parameters::new(initial(shape.length)));
        let (taken, mut reports) = run_whole(&context, &shape, &parameters, at_a_time.clone());
        let taken = taken.unwrap();
        prop_assert_eq!(taken, shape.steps.min(at_a_time.iter().sum()));
        prop_assert_eq!(parameters.version(), shape.first_step + taken);
        // Lanes and shards take the rest.
        let rest = Shape { first_step: shape.first_step + taken, steps: shape.steps - taken, ..shape.clone() };
        let (result, others) = run(&context, rest.iteration(), &parameters, Fault::None);
        result.unwrap();
        reports.extend(others);
        let mut expected = initial(shape.length);
        prop_assert_eq!(reports, plain(&mut expected, shape.lanes, shape.first_step, shape.steps));
        prop_assert_eq!(bits(&parameters.latest()), bits(&expected));
    }

    #[test]
    fn lanes_get_the_records_of_their_partitions(
        threads in 1..=3usize,
        (lanes, more) in (1..5usize, 0..4usize),
        lengths in 0..60u64,
    ) {
        let context = context(threads);
        let partitions = lanes + more;
        let rows = context.range(0..lengths, partitions);
        let expected = crate::oracle::cut(&(0..lengths).collect::<Vec<u64>>(), partitions);
        let parameters = Arc::new(Parameters::new(vec![0.0; lanes]));
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        let make_lane = move |data: LaneData<Records<u64>>| -> Result<Box<dyn Lane>, EngineError> {
            count.fetch_add(1, Ordering::SeqCst);
            let own: Vec<Vec<u64>> = data.partitions.iter().map(|records| records.to_vec()).collect();
            let wanted: Vec<Vec<u64>> = expected.iter().skip(data.lane).step_by(lanes).cloned().collect();
            assert_eq!(own, wanted);
            Ok(Box::new(move |_: u64, _: &[f32], update: &mut [f32]| {
                update.fill(0.0);
                update[data.lane] = own.iter().flatten().sum::<u64>() as f32;
                Ok(Tallies::default())
            }))
        };
        let make_shard = |_| -> Result<Box<dyn ShardUpdate>, EngineError> {
            Ok(Box::new(|_: &StepReport, sum: &[f32], shard: &mut ShardValues<'_>| {
                shard.after.copy_from_slice(sum);
                Ok(())
            }))
        };
        let observe = &mut |_: &StepReport| {};
        rows.iterate(Iteration::new(lanes, 2), &parameters, make_lane, make_shard, observe).unwrap();
        prop_assert_eq!(made.load(Ordering::SeqCst), lanes as u64);
        prop_assert_eq!(parameters.latest().iter().sum::<f32>(), (0..lengths).sum::<u64>() as f32);
    }
}

#[test]
fn shapes_that_make_no_sense_are_refused() {
    let context = context(2);
    let parameters = Arc::new(Parameters::new(initial(5)));
    let even = |lanes: &[usize], shards: &[usize]| Placement {
        lanes: lanes.to_vec(),
        shards: shards.to_vec(),
    };
    for iteration in [
        Iteration::new(0, 1),
        Iteration::new(2, 1).with_shards(0),
        Iteration::new(2, 1).with_placement(even(&[0], &[0, 1])),
        Iteration::new(2, 1).with_placement(even(&[0, 1], &[0])),
        Iteration::new(2, 1).with_placement(even(&[0, 2], &[0, 1])),
        Iteration::new(2, 1).with_placement(even(&[0, 1], &[0, 7])),
    ] {
        let (result, reports) = run(&context, iteration, &parameters, Fault::None);
        assert!(matches!(result, Err(EngineError::Invalid { .. })), "{result:?}");
        assert!(reports.is_empty());
    }
    assert_eq!(bits(&parameters.latest()), bits(&initial(5)));
    assert_eq!(context.range(0..5, 2).count().unwrap(), 5);
}

#[test]
fn an_iteration_inside_a_closure_is_refused() {
    let context = context(1);
    let inner = context.clone();
    let nested = context.range(0..1, 1).map(move |_| {
        let parameters = Arc::new(Parameters::new(initial(5)));
        matches!(
            run(&inner, Iteration::new(1, 1), &parameters, Fault::None).0,
            Err(EngineError::NestedAction)
        )
    });
    assert_eq!(nested.collect().unwrap(), [true]);
}

#[test]
fn an_action_of_what_observes_an_iteration_is_refused() {
    let context = context(2);
    let parameters = Arc::new(Parameters::new(initial(5)));
    let (mut refused, numbers) = (0, context.range(0..5, 2));
    let observe = &mut |_: &StepReport| {
        refused += u64::from(matches!(numbers.count(), Err(EngineError::NestedAction)));
    };
    let lane = |_| Ok(Box::new(|_: u64, _: &[f32], _: &mut [f32]| Ok(Tallies::default())) as Box<dyn Lane>);
    let shard = |_| {
        let keep = |_: &StepReport, _: &[f32], _: &mut ShardValues<'_>| Ok(());
        Ok(Box::new(keep) as Box<dyn ShardUpdate>)
    };
    context
        .iterate(Iteration::new(1, 3), &parameters, lane, shard, observe)
        .unwrap();
    assert_eq!((refused, numbers.count().unwrap()), (3, 5));
}

/// A failure in the second call: what the first has made stays, and no more.
#[test]
fn whole_steps_end_with_an_error_or_from_outside() {
    struct Fails<'a>(Whole, &'a str, distdl::engine::CancelHandle);
    impl Resident for Fails<'_> {
        fn take(&mut self, steps: Range<u64>, all: &mut ShardValues<'_>) -> Result<Vec<Tallies>, EngineError> {
            if steps.start == 0 {
                return self.0.take(steps, all);
            }
            match self.1 {
                "an error" => Err(EngineError::invalid("no more", "test")),
                "a panic" => panic!("no step {}", steps.start),
                "too many" => Ok(vec![Tallies::default(); 9]),
                _ => {
                    self.2.cancel();
                    self.0.take(steps, all)
                }
            }
        }
    }
    let context = context(1);
    let data = context.range(0..4, 2);
    for (how, applied, wanted) in [
        ("an error", 2, "no more"),
        ("a panic", 2, "no step 2"),
        ("too many", 2, "9 steps of 6 that were to be taken"),
        ("cancelled", 4, "cancelled"),
    ] {
        let parameters = Parameters::new(initial(5));
        let cancel = context.cancel_handle();
        let make = |_: Vec<LaneData<()>>| -> Result<Option<Box<dyn Resident>>, EngineError> {
            let at_a_time = vec![2; 8].into_iter();
            Ok(Some(Box::new(Fails(Whole { lanes: 2, at_a_time }, how, cancel))))
        };
        let mut seen = 0;
        let iteration = Iteration::new(2, 8);
        let result = data.iterate_resident(&iteration, &parameters, |_| Ok(()), make, &mut |_| seen += 1);
        let error = result.unwrap_err().to_string();
        assert!(error.contains(wanted), "{how}: {error}");
        let mut expected = initial(5);
        plain(&mut expected, 2, 0, applied);
        assert_eq!(bits(&parameters.latest()), bits(&expected), "{how}");
        assert_eq!((seen, parameters.version()), (applied, applied), "{how}");
    }
}
