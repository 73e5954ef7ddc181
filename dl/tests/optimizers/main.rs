//! Optimizers against plain loops over f64, for any cut into shards, and in training: with any number of threads, over
//! processes that die, from a checkpoint.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod decay;
mod lamb;
mod layer_rates;
mod shards;

use std::sync::Arc;

use distdl_dl::{
    Adagrad, Adam, AdamW, CheckpointOptions, Decay, Features, NeuralNetwork, Optimizer, RmsProp, SampleTargets,
    Samples, Schedule, Sgd, TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context, EngineError, Parameters, Placement, ShardBefore, SquareSum};
use proptest::prelude::*;

use lamb::some_lamb;

/// One parameter in f64, as PyTorch's documentation has the formula: (update from 0, rate, gradient, parameter, state).
type Reference = fn(f64, f64, f64, &mut f64, &mut [f64; 3]);

fn all() -> Vec<(Arc<dyn Optimizer>, Reference)> {
    vec![
        (Arc::new(Sgd::default()), |_, rate, g, p, _| *p -= rate * g),
        (
            Arc::new(Sgd {
                weight_decay: 0.05,
                ..Sgd::default()
            }),
            |_, rate, g, p, _| *p -= rate * (g + 0.05 * *p),
        ),
        (
            Arc::new(Sgd {
                momentum: 0.9,
                dampening: 0.3,
                weight_decay: 0.02,
                nesterov: false,
            }),
            |n, rate, g, p, s| {
                let g = g + 0.02 * *p;
                s[0] = if n == 0.0 { g } else { 0.9 * s[0] + 0.7 * g };
                *p -= rate * s[0];
            },
        ),
        (Arc::new(Sgd::with_nesterov(0.8)), |_, rate, g, p, s| {
            s[0] = 0.8 * s[0] + g;
            *p -= rate * (g + 0.8 * s[0]);
        }),
        (
            Arc::new(Adagrad {
                lr_decay: 0.01,
                weight_decay: 0.03,
                initial_accumulator_value: 0.1,
                ..Adagrad::default()
            }),
            |n, rate, g, p, s| {
                let g = g + 0.03 * *p;
                s[0] += g * g + if n == 0.0 { 0.1 } else { 0.0 };
                *p -= rate / (1.0 + n * 0.01) * g / (s[0].sqrt() + 1e-10);
            },
        ),
        (Arc::new(RmsProp::default()), |_, rate, g, p, s| {
            s[0] = 0.99 * s[0] + 0.01 * g * g;
            *p -= rate * g / (s[0].sqrt() + 1e-8);
        }),
        (
            Arc::new(RmsProp {
                alpha: 0.9,
                momentum: 0.5,
                centered: true,
                weight_decay: 0.01,
                eps: 1e-3,
            }),
            |_, rate, g, p, s| {
                let g = g + 0.01 * *p;
                s[0] = 0.9 * s[0] + 0.1 * g * g;
                s[1] = 0.9 * s[1] + 0.1 * g;
                s[2] = 0.5 * s[2] + g / ((s[0] - s[1] * s[1]).sqrt() + 1e-3);
                *p -= rate * s[2];
            },
        ),
        (
            Arc::new(RmsProp {
                momentum: 0.5,
                ..RmsProp::default()
            }),
            |_, rate, g, p, s| {
                s[0] = 0.99 * s[0] + 0.01 * g * g;
                s[2] = 0.5 * s[2] + g / (s[0].sqrt() + 1e-8);
                *p -= rate * s[2];
            },
        ),
        (
            Arc::new(Adam {
                weight_decay: 0.02,
                ..Adam::default()
            }),
            |n, rate, g, p, s| adam(n, rate, g + 0.02 * *p, p, s, false),
        ),
        (
            Arc::new(Adam {
                amsgrad: true,
                ..Adam::default()
            }),
            |n, rate, g, p, s| adam(n, rate, g, p, s, true),
        ),
        (Arc::new(AdamW::default()), |n, rate, g, p, s| {
            *p *= 1.0 - rate * 0.01;
            adam(n, rate, g, p, s, false);
        }),
    ]
}

/// Those, and the one that looks at all parameters of a tensor.
fn every() -> impl Iterator<Item = Arc<dyn Optimizer>> {
    let lamb: Arc<dyn Optimizer> = Arc::new(some_lamb());
    all().into_iter().map(|(optimizer, _)| optimizer).chain([lamb])
}

fn adam(n: f64, rate: f64, g: f64, p: &mut f64, s: &mut [f64; 3], amsgrad: bool) {
    s[0] = 0.9 * s[0] + 0.1 * g;
    s[1] = 0.999 * s[1] + 0.001 * g * g;
    s[2] = if amsgrad { s[2].max(s[1]) } else { s[1] };
    let (mean, square) = (
        s[0] / (1.0 - 0.9f64.powf(n + 1.0)),
        s[2] / (1.0 - 0.999f64.powf(n + 1.0)),
    );
    *p -= rate * mean / (square.sqrt() + 1e-8);
}

const COUNT: usize = 150;
const RATE: f32 = 0.01;
const SCALE: f32 = 0.25;

/// The sum over 4 samples of the gradient of a parameter: it pulls towards a place, and shakes.
fn gradient_sum(step: u64, index: usize, parameter: f32) -> f32 {
    let place = (index % 13) as f32 - 6.0;
    4.0 * ((parameter - place) * 0.3 + ((step as usize * 31 + index * 17) % 23) as f32 * 0.02 - 0.22)
}

/// The parameters after each of 50 steps, in shards that end at `cuts`.
fn steps(optimizer: &dyn Optimizer, cuts: &[usize]) -> Vec<Vec<f32>> {
    let begin = (0..COUNT).map(|index| (index as f32 * 0.37).sin() * 3.0);
    let parameters = Parameters::with_state(begin.collect(), optimizer.state_slots()).unwrap();
    let mut bounds = vec![0, COUNT];
    bounds.extend(cuts);
    bounds.sort_unstable();
    bounds.dedup();
    let step = |step: u64| {
        let now = parameters.latest().to_vec();
        let sums: Vec<f32> = (0..COUNT).map(|index| gradient_sum(step, index, now[index])).collect();
        let shards = || bounds.windows(2).map(|bounds| bounds[0]..bounds[1]);
        // The measures of the last shard first: their order does not show.
        let mut measures = vec![SquareSum::default(); optimizer.measures()];
        for range in shards().rev() {
            let read = parameters.latest();
            let part = ShardBefore {
                values: &read[range.clone()],
                state: (0..optimizer.state_slots())
                    .map(|slot| &read.state(slot).unwrap()[range.clone()])
                    .collect(),
                totals: &[],
            };
            let mut own = vec![SquareSum::default(); measures.len()];
            optimizer.measure(step, SCALE, &sums[range], &part, &mut own).unwrap();
            measures.iter_mut().zip(&own).for_each(|(sum, own)| sum.merge(own));
        }
        let totals: Vec<f64> = measures.iter().map(SquareSum::value).collect();
        for range in shards() {
            let mut claimed = parameters.claim(step + 1, range.clone()).unwrap();
            let mut values = claimed.values();
            values.totals = &totals;
            optimizer.apply(step, RATE, SCALE, &sums[range], &mut values).unwrap();
            claimed.finish_with_state();
        }
        parameters.latest().to_vec()
    };
    (0..50).map(step).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn fifty_steps_follow_the_published_formula_in_f64() {
    for (optimizer, reference) in all() {
        optimizer.check().unwrap();
        let got = steps(&*optimizer, &[]);
        let mut moved = 0.0f64;
        for index in 0..COUNT {
            let mut parameter = f64::from((index as f32 * 0.37).sin() * 3.0);
            let (begin, mut state) = (parameter, [0.0; 3]);
            for (step, got) in got.iter().enumerate() {
                let gradient = f64::from(gradient_sum(step as u64, index, parameter as f32)) * f64::from(SCALE);
                reference(step as f64, RATE.into(), gradient, &mut parameter, &mut state);
                let error = (f64::from(got[index]) - parameter).abs();
                assert!(
                    error < 1e-4,
                    "{optimizer:?} step {step}: {} but {parameter}",
                    got[index]
                );
            }
            moved = moved.max((parameter - begin).abs());
        }
        assert!(moved > 0.1, "{optimizer:?}: nothing was tested");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_into_shards_changes_no_bit(cuts in prop::collection::vec(1..COUNT, 0..6)) {
        for optimizer in every() {
            let (whole, cut) = (steps(&*optimizer, &[]), steps(&*optimizer, &cuts));
            prop_assert_eq!(bits(&whole[49]), bits(&cut[49]), "{:?}", optimizer);
        }
    }
}

fn samples() -> Samples {
    let features = (0..41 * 6).map(|index| ((index / 6 * 7 + index % 6 * 3) % 11) as f32 / 11.0);
    let labels = (0..41).map(|sample: u32| sample * 5 % 7 % 3);
    Samples::new(
        6,
        Features::F32(features.collect()),
        SampleTargets::Labels(labels.collect()),
    )
    .unwrap()
}

fn options(optimizer: &Arc<dyn Optimizer>) -> TrainingOptions {
    TrainingOptions {
        batch: 6,
        lanes: 4,
        schedule: Some(Schedule::WarmUp {
            start_factor: 0.1,
            steps: 5,
            then: Box::new(Schedule::Cosine {
                initial: 0.05,
                minimum: 0.001,
                steps: 20,
            }),
        }),
        optimizer: Arc::clone(optimizer),
        lane_gradient_norm_max: Some(0.7),
        ..TrainingOptions::default()
    }
}

/// Trainings by every optimizer, and some where the norm of the whole gradient is limited.
fn trainings() -> Vec<TrainingOptions> {
    let mut trainings: Vec<TrainingOptions> = every().map(|optimizer| options(&optimizer)).collect();
    let limited: [Arc<dyn Optimizer>; 3] = [
        Arc::new(Sgd::default()),
        Arc::new(Adam::default()),
        Arc::new(some_lamb()),
    ];
    trainings.extend(limited.iter().map(|optimizer| TrainingOptions {
        lane_gradient_norm_max: None,
        gradient_norm_max: Some(0.3),
        ..options(optimizer)
    }));
    let decaying: [Arc<dyn Optimizer>; 2] = [Arc::new(AdamW::default()), Arc::new(some_lamb())];
    trainings.extend(decaying.iter().map(|optimizer| TrainingOptions {
        decay: Decay::Weights,
        ..options(optimizer)
    }));
    trainings.extend(decaying.iter().map(|optimizer| TrainingOptions {
        layer_rates: [(1, 0.25)].into(),
        ..options(optimizer)
    }));
    trainings
}

/// Trains 18 steps, and gives the bits of the parameters.
fn train(context: &Context, options: TrainingOptions) -> distdl_dl::Result<Vec<u32>> {
    let data = context.parallelize(samples().split(4)?, 4);
    let mut training = NeuralNetwork::dense(6, &[5], 3)?.train(&data, options)?;
    training.iterate(18 - training.step(), |_| ())?;
    Ok(bits(&training.parameters()))
}

fn alone(threads: usize, options: TrainingOptions) -> Vec<u32> {
    let context = Context::new(Config::default().with_threads(threads)).unwrap();
    train(&context, options).unwrap()
}

#[test]
fn adagrad_begins_with_its_value_whichever_step_has_the_first_samples() {
    let adagrad = Adagrad {
        initial_accumulator_value: 0.5,
        ..Adagrad::default()
    };
    let parameters = Parameters::with_state(vec![1.0], 1).unwrap();
    for (step, squares) in [(3, 4.5), (4, 8.5)] {
        let mut claimed = parameters.claim(step - 2, 0..1).unwrap();
        adagrad.apply(step, 0.1, 1.0, &[2.0], &mut claimed.values()).unwrap();
        claimed.finish_with_state();
        assert_eq!(parameters.latest().state(0).unwrap(), [squares]);
    }
}

#[test]
fn threads_shards_and_deaths_do_not_show() {
    let mut seen = Vec::new();
    for (index, options) in trainings().into_iter().enumerate() {
        let expected = alone(1, options.clone());
        for threads in 2..=4 {
            let placement = Placement {
                lanes: (0..4).map(|lane| (lane + index) % threads).collect(),
                shards: (0..1 + (index + threads) % 5).map(|shard| shard % threads).collect(),
            };
            let placed = TrainingOptions {
                placement: Some(placement),
                ..options.clone()
            };
            assert_eq!(alone(threads, placed), expected, "{options:?}");
        }
        let chaos = format!("kill=worker:{}@step:{}", index % 3, 3 + index);
        let (cluster, own) = (
            TestCluster::new(3).with_chaos(Chaos::parse(&chaos).unwrap()),
            options.clone(),
        );
        let failed = |error: distdl_dl::Error| EngineError::invalid(error.to_string(), "see above");
        let run = cluster
            .run(move |context| train(context, own.clone()).map_err(failed))
            .unwrap();
        assert!(!run.results.is_empty());
        run.results
            .iter()
            .for_each(|last| assert_eq!(last, &expected, "{options:?}"));
        assert!(!seen.contains(&expected), "{options:?} does what another one did");
        seen.push(expected);
    }
}

#[test]
fn a_checkpoint_holds_the_optimizers_state_and_is_refused_by_another() {
    for options in trainings() {
        let folder = tempfile::tempdir().unwrap();
        let with = |optimizer: &Arc<dyn Optimizer>, every_steps| TrainingOptions {
            optimizer: Arc::clone(optimizer),
            checkpoint: Some(CheckpointOptions {
                every_steps,
                at_end: false,
                ..CheckpointOptions::new(folder.path().to_str().unwrap())
            }),
            ..options.clone()
        };
        let expected = alone(2, with(&options.optimizer, 7));
        assert_eq!(
            alone(1, with(&options.optimizer, 7)),
            expected,
            "{options:?} from step 14"
        );
        let other: Arc<dyn Optimizer> = Arc::new(Adam {
            eps: 1e-5,
            ..Adam::default()
        });
        let context = Context::new(Config::default()).unwrap();
        let refusal = train(&context, with(&other, 7)).unwrap_err().to_string();
        let limit = match options.gradient_norm_max {
            None => "norm of a lane's gradient at most 0.7",
            Some(_) => "norm of the gradient at most 0.3",
        };
        let decay = match options.decay {
            Decay::Weights => ", whose decay is that of layers.0.weight layers.1.weight",
            _ => "",
        };
        let rates = match options.layer_rates.get(&1) {
            Some(_) => ", 0.25 times the rate in layer 1",
            None => "",
        };
        let words = format!("optimizer: {:?}{decay}{rates}, {limit} there", options.optimizer);
        assert!(refusal.contains(&words), "{refusal}");
    }
}

#[test]
fn parameters_that_are_set_begin_with_no_state() {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    let network = NeuralNetwork::dense(6, &[5], 3).unwrap();
    // The first gradient is kept whole, later ones by a tenth.
    let dampened: Arc<dyn Optimizer> = Arc::new(Sgd {
        dampening: 0.9,
        ..Sgd::with_momentum(0.9)
    });
    let constant = TrainingOptions {
        schedule: Some(Schedule::Constant(0.5)),
        batch: 41,
        lanes: 1,
        ..options(&dampened)
    };
    let begin = network.initialize(9).unwrap();
    let mut fresh = network.train(&data, constant.clone()).unwrap();
    fresh.set_parameters(begin.clone()).unwrap();
    fresh.iterate(1, |_| ()).unwrap();
    let mut late = network.train(&data, constant).unwrap();
    late.iterate(7, |_| ()).unwrap();
    late.set_parameters(begin).unwrap();
    late.iterate(1, |_| ()).unwrap();
    // All samples, in another order: what differs is rounding.
    for (left, right) in fresh.parameters().iter().zip(late.parameters()) {
        assert!((left - right).abs() < 1e-5, "{left} {right}");
    }
}

#[test]
fn a_gradient_beyond_the_limit_is_scaled_to_it() {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    let network = NeuralNetwork::dense(6, &[5], 3).unwrap();
    let limited = |lanes: usize, lane_gradient_norm_max, gradient_norm_max| TrainingOptions {
        batch: 6,
        lanes,
        schedule: Some(Schedule::Constant(1.0)),
        lane_gradient_norm_max,
        gradient_norm_max,
        ..TrainingOptions::default()
    };
    let moved = |options: TrainingOptions| {
        let mut training = network.train(&data, options).unwrap();
        let before = training.parameters();
        training.iterate(1, |_| ()).unwrap();
        let difference = before.iter().zip(training.parameters());
        difference
            .map(|(before, after)| f64::from(before - after).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    for lanes in [1, 3] {
        let free = moved(limited(lanes, None, None));
        assert_eq!(moved(limited(lanes, None, Some(free as f32 * 2.0))), free);
        let to = |wanted: f64| moved(limited(lanes, None, Some(wanted as f32)));
        assert!((to(0.01) - 0.01).abs() < 1e-5 && free > 0.1, "{free}");
        // The norm over all lanes, to the last places.
        assert!((to(free * 0.99) - free * 0.99).abs() < 1e-5 * free, "{free}");
    }
    let free = moved(limited(1, None, None));
    assert_eq!(moved(limited(1, Some(free as f32 * 2.0), None)), free);
    assert!((moved(limited(1, Some(0.01), None)) - 0.01).abs() < 1e-5, "{free}");
    for wrong in [0.0, -1.0, f32::NAN] {
        for (options, name) in [
            (limited(1, Some(wrong), None), "lane_gradient_norm_max is"),
            (limited(1, None, Some(wrong)), "gradient_norm_max is"),
        ] {
            let message = network.train(&data, options).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
