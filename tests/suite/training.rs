//! Training gives the bits of a plain sequential loop, for any number of threads and any placement.

use distdl::dl::{Error, Features, SampleTargets, Targets, parameters_hash, shuffle};
use distdl::engine::{Placement, tree};
use distdl::{BatchReport, Context, Dataset, Dense, Input, Loss, NeuralNetwork, Samples, Schedule, TrainingOptions};
use proptest::prelude::*;

use crate::common::{cases, context};

/// Everything that may show in trained parameters.
#[derive(Debug, Clone)]
struct Case {
    inputs: usize,
    hidden: Vec<(usize, bool)>,
    classes: usize,
    squared: bool,
    bytes: bool,
    /// Samples of each partition.
    partitions: Vec<usize>,
    lanes: usize,
    batch: usize,
    schedule: Schedule,
    seed: u64,
    epochs: u64,
}

impl Case {
    fn network(&self) -> NeuralNetwork {
        let mut builder = NeuralNetwork::new(Input(self.inputs));
        for (width, relu) in &self.hidden {
            builder = builder.hidden(if *relu {
                Dense::relu(*width)
            } else {
                Dense::tanh(*width)
            });
        }
        let loss = if self.squared {
            Loss::MeanSquaredError
        } else {
            Loss::SoftmaxCrossEntropy
        };
        builder.output(Dense::linear(self.classes), loss).unwrap()
    }

    /// The features of a sample as the network sees them.
    fn features(&self, sample: usize) -> Vec<f32> {
        let byte = |index: usize| self.byte(sample, index);
        (0..self.inputs)
            .map(|index| {
                if self.bytes {
                    f32::from(byte(index)) * SCALE
                } else {
                    value(byte(index))
                }
            })
            .collect()
    }

    fn byte(&self, sample: usize, index: usize) -> u8 {
        (((sample * 31 + index * 17 + self.seed as usize % 1000) * 2654435761) >> 7) as u8
    }

    fn target(&self, sample: usize) -> Vec<f32> {
        (0..self.classes)
            .map(|class| value(self.byte(sample, 100 + class)))
            .collect()
    }

    fn label(&self, sample: usize) -> u32 {
        (sample * 7 % 11 % self.classes) as u32
    }

    fn samples(&self, range: std::ops::Range<usize>) -> Samples {
        let features = match self.bytes {
            true => Features::U8 {
                bytes: range
                    .clone()
                    .flat_map(|sample| (0..self.inputs).map(move |index| self.byte(sample, index)))
                    .collect(),
                scale: SCALE,
            },
            false => Features::F32(range.clone().flat_map(|sample| self.features(sample)).collect()),
        };
        let targets = match self.squared {
            true => SampleTargets::Values {
                length: self.classes,
                values: range.flat_map(|sample| self.target(sample)).collect(),
            },
            false => SampleTargets::Labels(range.map(|sample| self.label(sample)).collect()),
        };
        Samples::new(self.inputs, features, targets).unwrap()
    }

    /// One block a partition, some of them empty.
    fn data(&self, context: &Context) -> Dataset<Samples> {
        let mut start = 0;
        let blocks = self.partitions.iter().map(|length| {
            start += length;
            self.samples(start - length..start)
        });
        context.parallelize(blocks.collect::<Vec<_>>(), self.partitions.len())
    }

    fn options(&self, placement: Option<Placement>) -> TrainingOptions {
        TrainingOptions {
            batch: self.batch,
            lanes: self.lanes,
            schedule: self.schedule,
            seed: self.seed,
            placement,
        }
    }

    /// The samples of each lane, in the order of its partitions.
    fn lane_samples(&self) -> Vec<Vec<usize>> {
        let mut lanes = vec![Vec::new(); self.lanes];
        let mut start = 0;
        for (partition, length) in self.partitions.iter().enumerate() {
            lanes[partition % self.lanes].extend(start..start + length);
            start += length;
        }
        lanes
    }
}

const SCALE: f32 = 1.0 / 255.0;

fn value(byte: u8) -> f32 {
    f32::from(byte) / 100.0 - 1.2
}

/// A lane's share of a batch.
fn share(case: &Case, lane: usize) -> usize {
    (lane + 1) * case.batch / case.lanes - lane * case.batch / case.lanes
}

struct Plain {
    parameters: Vec<f32>,
    reports: Vec<BatchReport>,
    /// The step whose loss was not finite.
    stopped: Option<u64>,
}

/// Training in one plain loop: deal the samples, sum the lanes' gradients along the tree, take a step.
fn plain(case: &Case) -> Plain {
    let network = case.network();
    let mut parameters = network.initialize(case.seed).unwrap();
    let lanes = case.lane_samples();
    let steps = (0..case.lanes)
        .map(|lane| lanes[lane].len().div_ceil(share(case, lane)))
        .max()
        .unwrap();
    let mut reports = Vec::new();
    for epoch in 0..case.epochs {
        let orders: Vec<Vec<usize>> = (0..case.lanes)
            .map(|lane| {
                let order = shuffle(case.seed, epoch, lane as u64, lanes[lane].len() as u32);
                order.into_iter().map(|place| lanes[lane][place as usize]).collect()
            })
            .collect();
        for step_of_epoch in 0..steps {
            let step = epoch * steps as u64 + step_of_epoch as u64;
            let parts: Vec<(Vec<f32>, BatchReport)> = (0..case.lanes)
                .map(|lane| {
                    let taken = orders[lane].chunks(share(case, lane)).nth(step_of_epoch).unwrap_or(&[]);
                    gradient(case, &network, &parameters, taken)
                })
                .collect();
            let report = tree::fold(0..case.lanes, &mut |lane| parts[lane].1, &mut |mut left, right| {
                left.merge(&right);
                left
            });
            let report = report.unwrap();
            if !report.is_finite() {
                return Plain {
                    parameters,
                    reports,
                    stopped: Some(step),
                };
            }
            let rate = case.schedule.learning_rate(step) * (1.0 / report.samples.max(1) as f32);
            for (index, parameter) in parameters.iter_mut().enumerate() {
                let sum = tree::fold(0..case.lanes, &mut |lane| parts[lane].0[index], &mut |left, right| {
                    left + right
                });
                *parameter -= rate * sum.unwrap();
            }
            reports.push(report);
        }
    }
    Plain {
        parameters,
        reports,
        stopped: None,
    }
}

fn gradient(case: &Case, network: &NeuralNetwork, parameters: &[f32], samples: &[usize]) -> (Vec<f32>, BatchReport) {
    let mut gradient = vec![0.0; parameters.len()];
    if samples.is_empty() {
        return (gradient, BatchReport::default());
    }
    let features: Vec<f32> = samples.iter().flat_map(|sample| case.features(*sample)).collect();
    let labels: Vec<u32> = samples.iter().map(|sample| case.label(*sample)).collect();
    let values: Vec<f32> = samples.iter().flat_map(|sample| case.target(*sample)).collect();
    let targets = if case.squared {
        Targets::Values(&values)
    } else {
        Targets::Labels(&labels)
    };
    let mut workspace = network.workspace(samples.len());
    let rows = samples.len();
    let report = network.gradient(parameters, &features, targets, rows, &mut workspace, &mut gradient);
    (gradient, report.unwrap())
}

fn case() -> impl Strategy<Value = Case> {
    let network = (
        1..6usize,
        prop::collection::vec((1..6usize, any::<bool>()), 0..3),
        2..5usize,
        any::<bool>(),
        any::<bool>(),
    );
    let schedule = prop_oneof![
        Just(Schedule::Constant(0.2)),
        Just(Schedule::StepDecay {
            initial: 0.4,
            factor: 0.5,
            steps: 3
        }),
    ];
    let data = (1..=5usize).prop_flat_map(|lanes| (Just(lanes), prop::collection::vec(0..9usize, lanes..lanes + 4)));
    (network, data, 0..64usize, schedule, any::<u64>(), 1..=2u64).prop_map(
        |((inputs, hidden, classes, squared, bytes), (lanes, mut partitions), batch, schedule, seed, epochs)| {
            // At least as many samples as lanes, so that there is a batch that can be dealt.
            partitions[0] += lanes;
            let samples: usize = partitions.iter().sum();
            let batch = lanes + batch % (samples - lanes + 1);
            Case {
                inputs,
                hidden,
                classes,
                squared,
                bytes,
                partitions,
                lanes,
                batch,
                schedule,
                seed,
                epochs,
            }
        },
    )
}

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

fn plain_case() -> Case {
    Case {
        inputs: 3,
        hidden: vec![(4, true)],
        classes: 3,
        squared: false,
        bytes: false,
        partitions: vec![8, 7, 9],
        lanes: 2,
        batch: 6,
        schedule: Schedule::Constant(0.1),
        seed: 7,
        epochs: 2,
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
    assert!(before.iter().all(|value| value.is_finite()));
}

#[test]
fn data_that_does_not_suit_is_refused_with_words() {
    let context = context(2);
    let case = plain_case();
    let refusal = |case: &Case, data: &Dataset<Samples>| {
        let error = case.network().train(data, case.options(None)).unwrap_err();
        assert!(matches!(error, Error::Training(_)), "{error:?}");
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
fn a_label_out_of_range_is_an_error_of_its_step_and_nothing_is_applied() {
    for threads in 1..=2 {
        let context = context(threads);
        let case = plain_case();
        let narrow = Case {
            classes: 2,
            ..case.clone()
        };
        let mut training = narrow
            .network()
            .train(&case.data(&context), narrow.options(None))
            .unwrap();
        let before = training.parameters();
        match training.iterate(4, |_| ()) {
            Err(Error::Label {
                label: 2, classes: 2, ..
            }) => {}
            other => panic!("{other:?}"),
        }
        if training.step() == 0 {
            assert_eq!(bits(&training.parameters()), bits(&before));
        }
        assert!(training.error(&case.data(&context)).is_err());
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
        let outputs = network.predict_dataset(&case.data(&context), &parameters).unwrap();
        assert_eq!(outputs.len(), 24);
        for (sample, output) in outputs.iter().enumerate() {
            let mut workspace = network.workspace(1);
            let alone = network
                .predict(&parameters, &case.features(sample), 1, &mut workspace)
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
