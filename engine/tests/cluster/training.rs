//! A training program whose every computation is written into a ledger that all logical processes share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use distdl_engine::testing::{Life, Run, TestCluster};
use distdl_engine::{
    Context, EngineError, Iteration, Lane, LaneData, Parameters, Result, ShardBefore, ShardUpdate, ShardValues,
    SquareSum, Staleness, StepReport, Tallies, UpdateFormat,
};
use distdl_storage::Records;
use proptest::prelude::*;

use crate::faults::alone;

pub(crate) const EPOCHS: u64 = 3;
pub(crate) const STEPS: u64 = EPOCHS * EPOCH_STEPS;
const EPOCH_STEPS: u64 = 20;
const LANES: usize = 5;
const SHARDS: usize = 4;
const PARAMETERS: usize = 37;
const RECORDS: u64 = 23;
const PARTITIONS: usize = 7;
/// Sometimes two ends go together.
const PIECE_MIN: usize = 4;

/// What a shard's update remembers from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Optimizer {
    /// Nothing.
    Plain,
    /// One value for every parameter, which a second process keeps too.
    Momentum,
    /// As `Momentum`, and every step is shortened by norms over all shards, the second of which needs the first.
    Norms,
}

impl Optimizer {
    fn state_slots(self) -> usize {
        usize::from(self != Self::Plain)
    }

    fn measures(self) -> &'static [usize] {
        match self {
            Self::Norms => &[1, 2],
            _ => &[],
        }
    }
}

pub(crate) fn optimizers() -> impl Strategy<Value = Optimizer> {
    prop::sample::select(vec![Optimizer::Plain, Optimizer::Momentum, Optimizer::Norms])
}

/// How lanes read and what is sent, where results must be the same whatever happens.
pub(crate) fn determinate() -> impl Strategy<Value = (Staleness, UpdateFormat)> {
    let staleness = vec![Staleness::Synchronous, Staleness::FixedLag(1), Staleness::FixedLag(3)];
    let updates = vec![UpdateFormat::Full, UpdateFormat::Bf16, UpdateFormat::Sparse];
    (prop::sample::select(staleness), prop::sample::select(updates))
}

/// Bits of the final parameters, and the report of each step.
pub(crate) type Trained = (Vec<u32>, Vec<StepReport>);

/// What has happened anywhere, in the order of one clock.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Books>);

#[derive(Default)]
struct Books {
    /// Who has seen each step as finished.
    finished: HashMap<u64, Vec<Life>>,
    /// Steps that each life has seen.
    seen: HashMap<(u32, u32), u64>,
    reports: Vec<StepReport>,
    wrong: Vec<String>,
}

impl Ledger {
    /// Somebody begins to compute a part of a step.
    fn begins(&self, life: &Life, step: u64, what: &str) {
        let mut books = self.0.lock().unwrap();
        if !life.lasts() {
            // It is dead and does not know: whatever it makes is lost.
            return;
        }
        let finished = books.finished.get(&step).into_iter().flatten();
        if let Some(other) = finished.clone().find(|other| other.lasts()) {
            let wrong = format!(
                "process {}.{} begins {what} of step {step}, which {}.{} has seen finished",
                life.slot, life.number, other.slot, other.number
            );
            books.wrong.push(wrong);
        }
    }

    /// A process sees a step as finished.
    fn finished(&self, life: &Life, report: &StepReport) {
        let mut books = self.0.lock().unwrap();
        if !life.lasts() {
            return;
        }
        let seen = books.seen.entry((life.slot, life.number)).or_default();
        let expected = *seen;
        *seen += 1;
        let known = books.reports.get(expected as usize).copied();
        if report.step != expected || known.is_some_and(|known| known != *report) {
            let wrong = format!(
                "process {}.{} sees {report:?}, not step {expected}",
                life.slot, life.number
            );
            books.wrong.push(wrong);
        } else if known.is_none() {
            books.reports.push(*report);
        }
        books.finished.entry(report.step).or_default().push(life.clone());
    }

    /// How many steps any process has seen.
    pub(crate) fn steps(&self) -> usize {
        self.0.lock().unwrap().reports.len()
    }

    pub(crate) fn wrong(&self) -> Vec<String> {
        self.0.lock().unwrap().wrong.clone()
    }
}

struct TestLane {
    lane: usize,
    records: Vec<u64>,
    ledger: Option<(Arc<Ledger>, Life)>,
}

impl Lane for TestLane {
    fn step(&mut self, step: u64, parameters: &[f32], into: &mut [f32]) -> Result<Tallies> {
        self.step_from_end(step, parameters, into, &mut |_, _| ())
    }

    fn step_from_end(
        &mut self,
        step: u64,
        parameters: &[f32],
        into: &mut [f32],
        has_end: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<Tallies> {
        if let Some((ledger, life)) = &self.ledger {
            ledger.begins(life, step, &format!("lane {}", self.lane));
        }
        let weight = self.records.iter().map(|record| (*record as f32).sqrt()).sum::<f32>();
        for index in (0..into.len()).rev() {
            let neighbour = parameters[(index + self.lane + 1) % parameters.len()];
            // Some of them are 0.
            let kept = f32::from(u8::from(!(index + self.lane + step as usize).is_multiple_of(3)));
            let own = (0.1 + weight) * parameters[index] / (3.0 + step as f32);
            into[index] = kept * (own - 0.3 * neighbour / (1.0 + index as f32));
            if (index + self.lane).is_multiple_of(3) {
                has_end(index, &into[index..]);
            }
        }
        let samples = self.records.len() as f64;
        Ok(Tallies([samples, 1.0 / (1.0 + self.lane as f64), step as f64, 0.0]))
    }
}

struct TestUpdate {
    shard: usize,
    ledger: Option<(Arc<Ledger>, Life)>,
}

impl ShardUpdate for TestUpdate {
    fn measure(
        &mut self,
        round: usize,
        _: &StepReport,
        sum: &[f32],
        shard: &ShardBefore<'_>,
        measures: &mut [SquareSum],
    ) -> Result<()> {
        match round {
            0 => measures[0].add(sum),
            _ => {
                let length = shard.totals[0].sqrt() as f32;
                let changed = shard
                    .values
                    .iter()
                    .zip(shard.state[0])
                    .map(|(value, slot)| value + slot / length);
                measures[0].add(&changed.collect::<Vec<f32>>());
                measures[1].add(shard.values);
            }
        }
        Ok(())
    }

    fn apply(&mut self, report: &StepReport, sum: &[f32], values: &mut ShardValues<'_>) -> Result<()> {
        if let Some((ledger, life)) = &self.ledger {
            ledger.begins(life, report.step, &format!("shard {}", self.shard));
        }
        let factor = match values.totals {
            [first, second, third] => (1.0 / (1.0 + first) + second / (1.0 + third)) as f32,
            _ => 1.0,
        };
        let gradients = sum.iter().map(|sum| factor * sum / report.tallies.0[0] as f32);
        let mut momentum: Vec<f32> = gradients.collect();
        for slot in values.state.iter_mut() {
            for ((after, before), momentum) in slot.after.iter_mut().zip(slot.before).zip(&mut momentum) {
                *momentum += 0.9 * before;
                *after = *momentum;
            }
        }
        for ((after, before), momentum) in values.after.iter_mut().zip(values.before).zip(momentum) {
            *after = before - 0.05 * momentum;
        }
        Ok(())
    }
}

/// Three iterations over a persisted dataset, by an optimizer with or without state. `at_step` is called after each
/// step that this process sees.
fn train(
    context: &Context,
    (optimizer, staleness, updates): (Optimizer, Staleness, UpdateFormat),
    ledger: Option<(Arc<Ledger>, Life)>,
    at_step: &dyn Fn(&StepReport) -> Result<()>,
) -> Result<Trained> {
    let initial = (0..PARAMETERS).map(|index| (index as f32 * 0.37).sin());
    let slots = optimizer.state_slots();
    let parameters = Parameters::with_state(initial.collect(), slots)?.with_lag(staleness.lag());
    let parameters = Arc::new(parameters);
    let records = context.range(0..RECORDS, PARTITIONS).map(|x| x * 3 + 1).cache();
    let (mut reports, mut outcome) = (Vec::new(), Ok(()));
    for epoch in 0..EPOCHS {
        let iteration = Iteration::new(LANES, EPOCH_STEPS)
            .with_shards(SHARDS)
            .with_state_slots(slots)
            .with_staleness(staleness)
            .with_updates(updates)
            .with_measures(optimizer.measures())
            .with_piece_min(PIECE_MIN)
            .from_step(EPOCH_STEPS * epoch);
        let (lanes, shards) = (ledger.clone(), ledger.clone());
        records.iterate(
            iteration,
            &parameters,
            move |data: LaneData<Records<u64>>| {
                let records = data.partitions.iter().flat_map(|records| records.to_vec()).collect();
                let (lane, ledger) = (data.lane, lanes.clone());
                Ok(Box::new(TestLane { lane, records, ledger }) as Box<dyn Lane>)
            },
            move |shard| {
                let ledger = shards.clone();
                Ok(Box::new(TestUpdate { shard, ledger }) as Box<dyn ShardUpdate>)
            },
            &mut |report| {
                reports.push(*report);
                if let Some((ledger, life)) = &ledger {
                    ledger.finished(life, report);
                }
                if outcome.is_ok() {
                    outcome = at_step(report);
                }
            },
        )?;
    }
    outcome?;
    Ok((
        parameters.latest().iter().map(|value| value.to_bits()).collect(),
        reports,
    ))
}

/// What one process trains, undisturbed.
pub(crate) fn trained_alone(optimizer: Optimizer, staleness: Staleness, updates: UpdateFormat) -> Trained {
    let trained = train(&alone(), (optimizer, staleness, updates), None, &|_| Ok(())).unwrap();
    assert_eq!(trained.1.len() as u64, STEPS);
    let all = |report: &StepReport| report.tallies.0[0] == RECORDS as f64;
    assert!(staleness == Staleness::Asynchronous || trained.1.iter().all(all));
    trained
}

/// Trains in a cluster, and checks all that must hold whatever goes wrong.
pub(crate) fn check(cluster: &TestCluster, optimizer: Optimizer) -> Result<Run<Trained>, TestCaseError> {
    check_exchange(cluster, optimizer, (Staleness::Synchronous, UpdateFormat::Full))
}

/// As [`check`], where lanes may read older parameters and updates have another form.
pub(crate) fn check_exchange(
    cluster: &TestCluster,
    optimizer: Optimizer,
    (staleness, updates): (Staleness, UpdateFormat),
) -> Result<Run<Trained>, TestCaseError> {
    check_with(cluster, (optimizer, staleness, updates), |_, _, _| Ok(()))
}

/// As [`check`]; `at_step` is called in every process when it begins, and after each step that it sees.
pub(crate) fn check_with(
    cluster: &TestCluster,
    (optimizer, staleness, updates): (Optimizer, Staleness, UpdateFormat),
    at_step: impl Fn(&Life, &Ledger, Option<&StepReport>) -> Result<()> + Send + Sync + 'static,
) -> Result<Run<Trained>, TestCaseError> {
    let expected = trained_alone(optimizer, staleness, updates);
    let ledger = Arc::new(Ledger::default());
    let shared = Arc::clone(&ledger);
    let run = cluster.run_lives(move |context, life| {
        at_step(life, &shared, None)?;
        let at_step = |report: &StepReport| at_step(life, &shared, Some(report));
        train(
            context,
            (optimizer, staleness, updates),
            Some((Arc::clone(&shared), life.clone())),
            &at_step,
        )
    });
    let run = run.map_err(|error: EngineError| TestCaseError::fail(format!("{error} under {}", cluster.chaos)))?;
    // Two that die at once may be the two that kept some optimizer state; then the iteration starts over.
    let dying = cluster.chaos.to_string().matches("kill=worker").count();
    if staleness.is_determinate() && (optimizer == Optimizer::Plain || dying < 2) {
        prop_assert_eq!(ledger.wrong(), Vec::<String>::new(), "under {}", cluster.chaos);
    }
    prop_assert!(!run.results.is_empty(), "nobody ended under {}", cluster.chaos);
    if !staleness.is_determinate() {
        // Which bits depends on time; that all processes have the same does not.
        for (parameters, reports) in &run.results {
            prop_assert!(
                *parameters == run.results[0].0,
                "{:?} under {}",
                run.events,
                cluster.chaos
            );
            let steps: Vec<u64> = reports.iter().map(|report| report.step).collect();
            prop_assert!(
                steps == (0..STEPS).collect::<Vec<u64>>(),
                "{steps:?}, {:?} under {}",
                run.events,
                cluster.chaos
            );
        }
        return Ok(run);
    }
    for result in &run.results {
        prop_assert!(*result == expected, "{:?} under {}", run.events, cluster.chaos);
    }
    Ok(run)
}
