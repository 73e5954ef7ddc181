//! Training gives the bits of a plain sequential loop, for any number of threads and any placement.

use distdl::dl::{Dense, Error, Features, Initialization, Input, Loss, SampleTargets, parameters_hash};
use distdl::engine::Placement;
use distdl::{BatchReport, Config, Context, Dataset, NeuralNetwork, Samples, Schedule, TrainingOptions};
use proptest::prelude::*;

use crate::common::{cases, context};
use crate::plain_training::{Case, case, gradient, plain, plain_case};

fn placements(threads: usize, lanes: usize, drawn: &[usize]) -> Placement {
    let worker = |index: usize| drawn[index % drawn.len()] % threads;
    let shards = 1 + drawn[0] % 5;
    Placement {
        lanes: (0..lanes).map(worker).collect(),
        shards: (0..shards).map(|shard| worker(shard + 3)).collect(),
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn trained_parameters_are_those_of_a_plain_loop(case in case(), drawn in prop::collection::vec(0..60usize, 8)) {
        let expected = plain(&case);
        prop_assert_eq!(expected.stopped, None);
        for threads in 1..=3 {
            let context = context(threads);
            let data = case.data(&context).cache();
            for placement in [None, Some(placements(threads, case.lanes, &drawn))] {
                let mut training = case.network().train(&data, case.options(placement)).unwrap();
                let mut reports = Vec::new();
                let mut steps = Vec::new();
                for epoch in 0..case.epochs {
                    prop_assert_eq!(training.epoch(), epoch);
                    let total = training.run_epoch(|step| {
                        steps.push(step.step);
                        reports.push(step.report);
                    });
                    let own = (epoch * training.steps_per_epoch()) as usize;
                    let mut sum = BatchReport::default();
                    reports[own..].iter().for_each(|report| sum.merge(report));
                    prop_assert_eq!(total.unwrap(), sum);
                    prop_assert_eq!(sum.samples, case.partitions.iter().sum::<usize>() as u64, "each sample once");
                }
                prop_assert_eq!(steps, (0..case.epochs * training.steps_per_epoch()).collect::<Vec<_>>());
                prop_assert_eq!(&reports, &expected.reports);
                prop_assert_eq!(training.parameters_hash(), parameters_hash(&expected.parameters));
            }
        }
    }

    #[test]
    fn a_cut_into_calls_does_not_show(case in case(), cut in 0..6u64) {
        let context = context(2);
        let data = case.data(&context);
        let mut training = case.network().train(&data, case.options(None)).unwrap();
        let steps = case.epochs * training.steps_per_epoch();
        let cut = cut.min(steps);
        training.iterate(cut, |_| ()).unwrap();
        prop_assert_eq!(training.step(), cut);
        training.iterate(steps - cut, |_| ()).unwrap();
        prop_assert_eq!(training.parameters_hash(), parameters_hash(&plain(&case).parameters));
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[test]
fn a_loss_that_is_not_finite_stops_before_its_step_is_applied() {
    for rate in [1e20, 1e35, f32::MAX] {
        let case = Case {
            schedule: Schedule::Constant(rate),
            squared: true,
            ..plain_case()
        };
        let expected = plain(&case);
        let stopped = expected.stopped.expect("such a learning rate is too large");
        assert!(stopped > 0, "the first steps are applied");
        for threads in 1..=3 {
            let context = context(threads);
            let mut training = case.network().train(&case.data(&context), case.options(None)).unwrap();
            let mut seen = 0;
            let result = training.iterate(50, |step| {
                assert_eq!(step.step, seen);
                seen += 1;
            });
            match result {
                Err(Error::NotFinite { step, value, .. }) => {
                    assert_eq!(step, stopped);
                    assert!(!value.is_finite());
                }
                other => panic!("{other:?}"),
            }
            assert_eq!((seen, training.step()), (stopped, stopped));
            assert_eq!(bits(&training.parameters()), bits(&expected.parameters));
            assert_eq!(context.range(0..9, 2).count().unwrap(), 9);
            let other = plain_case();
            let mut training = other
                .network()
                .train(&other.data(&context), other.options(None))
                .unwrap();
            training.run_epoch(|_| ()).unwrap();
            training.run_epoch(|_| ()).unwrap();
            assert_eq!(training.parameters_hash(), parameters_hash(&plain(&other).parameters));
        }
    }
}

#[test]
fn features_that_are_not_finite_are_found_at_the_step_that_meets_them() {
    let case = plain_case();
    let context = context(2);
    let mut features: Vec<f32> = (0..24).flat_map(|sample| case.features(sample)).collect();
    features[40] = f32::NAN;
    let labels = SampleTargets::Labels((0..24).map(|sample| case.label(sample)).collect());
    let samples = Samples::new(3, Features::F32(features), labels).unwrap();
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    let mut training = case.network().train(&data, case.options(None)).unwrap();
    let mut before = training.parameters();
    // Four steps meet every sample.
    let failed = (0..4).find_map(|_| {
        before = training.parameters();
        training.iterate(1, |_| ()).err()
    });
    let error = failed.expect("a step meets the bad sample");
    assert_eq!(bits(&before), bits(&training.parameters()));
    assert!(
        matches!(error, Error::NotFinite { step, .. } if step == training.step()),
        "{error}"
    );
    let message = error.to_string();
    assert!(
        message.contains("sample 1 of partition 1 has NaN as feature 1"),
        "{message}"
    );
    assert!(before.iter().all(|value| value.is_finite()));
}

#[test]
fn data_that_does_not_suit_is_refused_with_words() {
    let context = context(2);
    let case = plain_case();
    let refusal = |case: &Case, data: &Dataset<Samples>| {
        let error = case.network().train(data, case.options(None)).unwrap_err();
        assert!(matches!(error, Error::Data(_)), "{error:?}");
        error.to_string()
    };
    let data = case.data(&context);
    let words = |text: &str, wanted: &str| assert!(text.contains(wanted), "{text}");
    words(&refusal(&case, &context.parallelize(Vec::new(), 4)), "no samples");
    words(
        &refusal(&case, &context.parallelize(vec![case.samples(0..0)], 2)),
        "no samples",
    );
    words(
        &refusal(
            &Case {
                batch: 25,
                ..case.clone()
            },
            &data,
        ),
        "a batch of 25 is larger than the 24 samples",
    );
    words(
        &refusal(
            &Case {
                lanes: 3,
                batch: 2,
                ..case.clone()
            },
            &data,
        ),
        "a batch of 2 cannot be dealt to 3 lanes",
    );
    words(
        &refusal(
            &Case {
                lanes: 4,
                ..case.clone()
            },
            &data,
        ),
        "4 lanes over a dataset of 3 partitions",
    );
    words(
        &refusal(
            &Case {
                lanes: 0,
                ..case.clone()
            },
            &data,
        ),
        "0 lanes",
    );
    let valued = |length: usize| {
        let targets = SampleTargets::Values {
            length,
            values: vec![0.5; 24 * length],
        };
        let samples = Samples::new(3, case.samples(0..24).features().clone(), targets).unwrap();
        context.parallelize(samples.split(3).unwrap(), 3)
    };
    words(
        &refusal(&case, &valued(1)),
        "partition 0: loss softmax_cross_entropy: needs labels",
    );
    let squares = NeuralNetwork::new(Input(3))
        .output(Dense::linear(2), Loss::MeanSquaredError)
        .unwrap();
    let error = squares.train(&valued(1), case.options(None)).unwrap_err().to_string();
    words(&error, "1 target values a sample for 2 outputs");
    assert!(squares.train(&valued(2), case.options(None)).is_ok());
    let unlimited = Dense::linear(9).with_initialization(Initialization::Uniform { limit: f32::NAN });
    let unlimited = NeuralNetwork::new(Input(3))
        .output(unlimited, Loss::SoftmaxCrossEntropy)
        .unwrap();
    let error = unlimited.train(&data, case.options(None)).unwrap_err().to_string();
    words(&error, "a value of layers.0.weight is NaN to begin with");
    let SampleTargets::Labels(mut labels) = case.samples(0..24).targets().clone() else {
        panic!("these have labels");
    };
    labels[17] = 99;
    let samples = case.samples(0..24);
    let wrong = Samples::new(
        samples.feature_length(),
        samples.features().clone(),
        SampleTargets::Labels(labels),
    );
    let wrong = context.parallelize(wrong.unwrap().split(4).unwrap(), 4);
    words(&refusal(&case, &wrong), "sample 5 of partition 2 has the label 99");
    words(
        &refusal(
            &Case {
                inputs: 5,
                ..case.clone()
            },
            &data,
        ),
        "samples of 3 features, the network takes 5",
    );
    words(
        &refusal(
            &Case {
                batch: 0,
                ..case.clone()
            },
            &data,
        ),
        "a batch of 0",
    );
}

#[test]
fn a_label_out_of_range_is_found_before_the_first_step_and_in_evaluations() {
    for threads in 1..=2 {
        let context = context(threads);
        let case = plain_case();
        let narrow = Case {
            classes: 2,
            ..case.clone()
        };
        let (network, data) = (narrow.network(), case.data(&context));
        let in_training = network.train(&data, narrow.options(None)).unwrap_err();
        let in_evaluation = network.error(&data, &network.initialize(0).unwrap()).unwrap_err();
        for error in [in_training, in_evaluation] {
            let text = error.to_string();
            assert!(matches!(error, Error::Data(_)), "{text}");
            assert!(text.contains("sample 5 of partition 0 has the label 2"), "{text}");
            assert!(text.contains("2 outputs"), "{text}");
        }
        assert_eq!(context.range(0..9, 2).count().unwrap(), 9);
    }
}

#[test]
fn a_placement_that_makes_no_sense_is_refused() {
    let context = context(2);
    let case = plain_case();
    let placement = Placement {
        lanes: vec![0, 5],
        shards: vec![0],
    };
    let mut training = case
        .network()
        .train(&case.data(&context), case.options(Some(placement)))
        .unwrap();
    assert!(matches!(training.iterate(1, |_| ()), Err(Error::Engine(_))));
    assert_eq!(training.step(), 0);
}

#[test]
fn blocks_lost_during_training_do_not_show() {
    let case = plain_case();
    let context = context(2);
    let data = case.data(&context).map(|samples| samples).cache();
    let mut training = case.network().train(&data, case.options(None)).unwrap();
    let store = context.clone();
    let id = data.id();
    for _ in 0..case.epochs {
        let lose = |step: &distdl::dl::StepResult| {
            let partition = (step.step % 3) as usize;
            store.store().remove(crate::common::block(id, partition)).unwrap();
        };
        training.run_epoch(lose).unwrap();
    }
    assert_eq!(training.parameters_hash(), parameters_hash(&plain(&case).parameters));
    assert!(data.partitions_computed() > 3);
}

#[test]
fn evaluation_adds_up_over_partitions() {
    let case = plain_case();
    let network = case.network();
    let parameters = network.initialize(1).unwrap();
    let whole: Vec<usize> = (0..24).collect();
    let (_, expected) = gradient(&case, &network, &parameters, &whole);
    for threads in 1..=3 {
        let context = context(threads);
        let report = network.error(&case.data(&context), &parameters).unwrap();
        assert_eq!((report.samples, report.correct), (24, expected.correct));
        assert!((report.loss_sum - expected.loss_sum).abs() < 1e-9 * expected.loss_sum);
        let matrix = network.confusion(&case.data(&context), &parameters).unwrap();
        assert_eq!((matrix.samples(), Some(matrix.accuracy())), (24, report.accuracy()));
        let outputs = network
            .predict(&case.data(&context), &parameters)
            .unwrap()
            .collect()
            .unwrap();
        assert_eq!(outputs.len(), 24);
        for (sample, output) in outputs.iter().enumerate() {
            let mut workspace = network.workspace(1);
            let alone = network
                .predict_batch(&parameters, &case.features(sample), 1, &mut workspace)
                .unwrap();
            assert!(
                output
                    .iter()
                    .zip(alone)
                    .all(|(left, right)| (left - right).abs() < 1e-6)
            );
        }
    }
}

#[test]
fn the_seed_is_the_contexts_where_none_is_given() {
    let case = plain_case();
    let begun = |seed: u64, given: Option<u64>| {
        let context = Context::new(Config::default().with_threads(1).with_seed(seed)).unwrap();
        let options = TrainingOptions {
            seed: given,
            ..case.options(None)
        };
        let mut training = case.network().train(&case.data(&context), options).unwrap();
        training.run_epoch(|_| ()).unwrap();
        training.parameters_hash()
    };
    assert_eq!(begun(7, None), begun(0, Some(7)));
    assert_ne!(begun(7, None), begun(8, None));
}

#[test]
fn labels_for_one_output_are_refused_with_the_cure() {
    let (context, case) = (context(1), plain_case());
    let data = case.data(&context);
    let loss = Loss::BinaryCrossEntropyWithLogits;
    let inputs = data.first().unwrap().feature_length();
    let network = NeuralNetwork::new(Input(inputs))
        .output(Dense::linear(1), loss)
        .unwrap();
    // More outputs, which labels beyond them ask for otherwise, are not the cure here.
    let error = network.train(&data, case.options(None)).unwrap_err().to_string();
    assert!(error.contains("give values of 0 and 1"), "{error}");
}
