//! What is measured, applied and refused of single steps.
#![allow(clippy::unwrap_used)]

use distdl_engine::{Parameters, Tallies};

use super::*;
use crate::deal::Deal;
use crate::layer::{BatchNorm, Dense};
use crate::loss::Loss;
use crate::optimizer::Lamb;
use crate::shape::Input;
use crate::training::order::KnownOrders;

#[test]
fn many_parameters_have_more_shards_than_lanes() {
    for (lanes, parameters, expected) in [
        (1, 235_146, 1),
        (4, 4_000_000, 4),
        (4, 8 << 20, 8),
        (1, 50_000_000, 16),
        (64, 50_000_000, 64),
    ] {
        assert_eq!(shards(lanes, parameters), expected, "{lanes} {parameters}");
    }
}

/// Of six tensors of one value each, two of them statistics, and an optimizer that measures.
fn plan() -> TrainingPlan {
    let network = NeuralNetwork::new(Input(1)).hidden(BatchNorm::default());
    let network = network.output(Dense::linear(1), Loss::MeanSquaredError).unwrap();
    let options = TrainingOptions {
        optimizer: Arc::new(Lamb::default()),
        gradient_norm_max: Some(1.0),
        ..TrainingOptions::default()
    };
    TrainingPlan {
        network,
        deal: Deal::new(vec![2], 1).unwrap(),
        options,
        state_begin: 0,
        rate_factor: 1.0,
        orders: KnownOrders::default(),
    }
}

/// A step of some loss, samples and weight.
fn step(loss: f64, samples: f64, weight: f64) -> StepReport {
    let tallies = Tallies([loss, 0.0, samples, weight]);
    StepReport { step: 0, tallies }
}

/// Parameters of a plan with the optimizer's state, and what updates all of them.
fn whole(plan: TrainingPlan) -> (Parameters, Update) {
    let count = plan.network.parameter_count();
    let begin = (0..count).map(|index| index as f32 + 3.0);
    let parameters = Parameters::with_state(begin.collect(), 2).unwrap();
    (parameters, Update::new(Arc::new(plan), 0..count, Failed::default()))
}

#[test]
fn a_step_without_samples_changes_nothing() {
    let plan = plan();
    let (network, options) = (&plan.network, &plan.options);
    assert_eq!(measures(network, options), [1, 2 * 6]);
    let count = network.parameter_count();
    let (parameters, update) = whole(plan);
    for (step, samples) in [(0, 2.0), (1, 0.0)] {
        let mut claimed = parameters.claim(step + 1, 0..count).unwrap();
        let tallies = Tallies([1.0, 0.0, samples, samples]);
        let sum = vec![if samples > 0.0 { 2.0 } else { 0.0 }; count];
        let step = StepReport { step, tallies };
        let mut values = claimed.values();
        let totals = [samples; 13];
        values.totals = &totals;
        update.try_apply(&step, &sum, &mut values).unwrap();
        assert!(claimed.finish_with_state());
    }
    let (before, after) = (parameters.read(1).unwrap(), parameters.read(2).unwrap());
    assert_eq!(before[..], after[..]);
    assert_ne!(after[0], 3.0, "the step before has changed nothing either");
    for slot in 0..2 {
        assert_eq!(before.state(slot).unwrap(), after.state(slot).unwrap());
    }
}

#[test]
fn split_ranges_are_the_whole_in_order() {
    let statistics = [2..4, 4..5, 8..9].map(|range| Statistics { range, momentum: 0.5 });
    let found = |whole| {
        let ranges = split_statistics(&statistics, whole).into_iter();
        ranges
            .map(|(range, momentum)| (range, momentum.is_some()))
            .collect::<Vec<_>>()
    };
    let all = [
        (0..2, false),
        (2..4, true),
        (4..5, true),
        (5..8, false),
        (8..9, true),
        (9..12, false),
    ];
    assert_eq!(found(0..12), all);
    assert_eq!(found(3..6), [(3..4, true), (4..5, true), (5..6, false)]);
    assert_eq!(found(6..7), [(6..7, false)]);
    assert_eq!(found(8..9), [(8..9, true)]);
    assert_eq!(found(10..10), []);
}

/// Its parameters would be none, and those of later steps.
#[test]
fn a_step_of_which_anything_is_not_finite_is_refused_with_what_it_is() {
    for (loss, wrong, says) in [
        (f64::NAN, None, "the loss"),
        (1.0, Some(0), "the norm of the gradient"),
        (1.0, Some(1), "what the optimizer measures"),
        (1.0, Some(12), "what the optimizer measures"),
    ] {
        let (parameters, update) = whole(plan());
        let mut totals = [1.0; 13];
        if let Some(place) = wrong {
            totals[place] = f64::INFINITY;
        }
        let mut claimed = parameters.claim(1, 0..6).unwrap();
        let mut values = claimed.values();
        values.totals = &totals;
        let refused = update.try_apply(&step(loss, 2.0, 2.0), &[1.0; 6], &mut values);
        assert!(
            matches!(&refused, Err(Error::NotFinite { what, .. }) if what == says),
            "{refused:?}"
        );
    }
}

#[test]
fn the_norm_of_a_gradient_is_that_of_what_it_changes() {
    let (parameters, update) = whole(plan());
    let latest = parameters.latest();
    let before = ShardBefore {
        values: &latest,
        state: Vec::new(),
        totals: &[],
    };
    let mut measured = [SquareSum::default()];
    update
        .add_measures(0, &step(1.0, 2.0, 2.0), &[3.0; 6], &before, &mut measured)
        .unwrap();
    assert_eq!(measured[0].value(), 4.0 * 9.0);
}

/// However much the loss counts them.
#[test]
fn statistics_move_towards_the_mean_over_samples() {
    let plan = plan();
    let statistics = plan.network.not_learnt();
    let (parameters, update) = whole(plan);
    let mut claimed = parameters.claim(1, 0..6).unwrap();
    let mut values = claimed.values();
    values.totals = &[1.0; 13];
    update.try_apply(&step(1.0, 4.0, 0.5), &[8.0; 6], &mut values).unwrap();
    assert!(claimed.finish_with_state());
    let (before, after) = (parameters.read(0).unwrap(), parameters.read(1).unwrap());
    let places = statistics.iter().flat_map(|statistics| statistics.range.clone());
    assert_eq!(places.clone().count(), 2);
    let momentum = statistics[0].momentum as f32;
    for place in places {
        assert_eq!(after[place], before[place] + momentum * (2.0 - before[place]));
    }
}

/// Only programs with debug assertions look.
#[cfg(debug_assertions)]
mod forgetful {
    use super::*;
    use crate::optimizer::Optimizer;

    /// An optimizer of the user's own that forgets to write something.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Forgetful {
        Nothing,
        Parameters,
        State,
    }

    impl Optimizer for Forgetful {
        fn state_slots(&self) -> usize {
            1
        }
        fn apply(&self, _: u64, _: f32, _: f32, _: &[f32], shard: &mut ShardValues<'_>) -> Result<()> {
            if *self != Self::Parameters {
                shard.after.fill(1.0);
            }
            if *self != Self::State {
                shard.state[0].after.fill(1.0);
            }
            Ok(())
        }
    }

    /// What lay there before would be taken for parameters.
    #[test]
    fn what_an_optimizer_of_ones_own_forgets_to_write_shows() {
        for forgets in [Forgetful::Nothing, Forgetful::Parameters, Forgetful::State] {
            let plan = plan();
            let options = TrainingOptions {
                optimizer: Arc::new(forgets),
                ..TrainingOptions::default()
            };
            let update = Update::new(Arc::new(TrainingPlan { options, ..plan }), 0..6, Failed::default());
            let parameters = Parameters::with_state(vec![3.0; 6], 1).unwrap();
            let mut claimed = parameters.claim(1, 0..6).unwrap();
            update
                .try_apply(&step(1.0, 2.0, 2.0), &[2.0; 6], &mut claimed.values())
                .unwrap();
            assert!(claimed.finish_with_state());
            let after = parameters.read(1).unwrap();
            let shows = |values: &[f32]| values.iter().any(|value| value.is_nan());
            assert_eq!(shows(&after), forgets == Forgetful::Parameters, "{forgets:?}");
            assert_eq!(
                shows(after.state(0).unwrap()),
                forgets == Forgetful::State,
                "{forgets:?}"
            );
        }
    }
}
