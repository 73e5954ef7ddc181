//! Weights of classes and smoothed labels, beyond what finite differences and PyTorch say of them.

use distdl_dl::{
    Activation, BatchReport, CheckpointOptions, Compression, Dense, Error, Features, Input, Loss, NeuralNetwork,
    SampleTargets, Samples, Schedule, Targets, TopK, Training, TrainingOptions,
};
use distdl_engine::{Config, Context, Placement};

use crate::context;

fn weighted(class_weights: &[f32], label_smoothing: f32) -> Loss {
    Loss::WeightedCrossEntropy {
        class_weights: class_weights.to_vec(),
        label_smoothing,
    }
}

fn network(loss: Loss) -> NeuralNetwork {
    let builder = NeuralNetwork::new(Input(2)).hidden(Dense::tanh(4));
    builder.output(Dense::linear(3), loss).unwrap()
}

fn samples(labels: Vec<u32>) -> Samples {
    let features = (0..2 * labels.len()).map(|index| (index * 7 % 23) as f32 / 11.0 - 1.0);
    Samples::new(2, Features::F32(features.collect()), SampleTargets::Labels(labels)).unwrap()
}

/// The formula of `torch.nn.CrossEntropyLoss`, term by term in f64.
#[test]
fn a_loss_is_that_of_its_formula_and_a_mean_is_by_weight() {
    let (weights, smoothing) = ([0.5_f32, 0.0, 2.0], 0.3_f32);
    let logits = [0.5, -1.0, 2.0, 1.5, 0.25, -0.75, 0.0, 3.0, 1.0_f64];
    let labels = [2, 0, 1];
    let mut gradient = [f64::NAN; 9];
    let loss = weighted(&weights, smoothing);
    let report = loss
        .gradient(&logits, Targets::Labels(&labels), 3, &mut gradient)
        .unwrap();
    let (mut sum, mut weight) = (0.0, 0.0);
    for (logits, label) in logits.chunks(3).zip(labels) {
        let total = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let of = |class: usize| f64::from(weights[class]) * (total - logits[class]);
        let smoothing = f64::from(smoothing);
        sum += (1.0 - smoothing) * of(label as usize) + smoothing / 3.0 * (of(0) + of(1) + of(2));
        weight += f64::from(weights[label as usize]);
    }
    assert!((report.loss_sum - sum).abs() < 1e-12, "{} for {sum}", report.loss_sum);
    assert_eq!((report.samples, report.weight), (3, weight));
    assert_eq!(report.mean_loss(), report.loss_sum / weight);
}

#[test]
fn a_step_of_samples_that_do_not_count_changes_nothing_and_others_are_as_if_they_were_not_there() {
    let context = context(2);
    let options = |batch| TrainingOptions {
        batch,
        lanes: 1,
        ..TrainingOptions::default()
    };
    let network = network(weighted(&[1.0, 1.0, 0.0], 0.0));
    let none = context.parallelize(vec![samples(vec![2; 8])], 1);
    let mut training = network.train(&none, options(8)).unwrap();
    let before = training.parameters();
    training.iterate(2, |step| assert_eq!(step.report.weight, 0.0)).unwrap();
    assert_eq!(training.parameters(), before);

    let some = samples((0..12).map(|sample| sample % 3).collect());
    let counted = some.filter(|row| row % 3 != 2);
    let after = [(some, 12), (counted, 8)].map(|(samples, batch)| {
        let data = context.parallelize(vec![samples], 1);
        let mut training = network.train(&data, options(batch)).unwrap();
        training.iterate(5, |_| ()).unwrap();
        training.parameters()
    });
    for (left, right) in after[0].iter().zip(&after[1]) {
        assert!((left - right).abs() < 1e-6, "{left} and {right}");
    }
}

#[test]
fn labels_and_values_in_one_dataset_are_refused() {
    let context = context(2);
    let labels = samples((0..8).map(|sample| sample % 3).collect());
    let targets = SampleTargets::Values {
        length: 3,
        values: [0.5, 0.25, 0.25].repeat(8),
    };
    let values = Samples::new(2, labels.features().clone(), targets).unwrap();
    let none = values.slice(0..0).unwrap();
    let network = network(Loss::MeanSquaredError);
    let train = |partitions: Vec<Samples>, lanes| {
        let count = partitions.len();
        let options = TrainingOptions {
            lanes,
            batch: 4,
            ..TrainingOptions::default()
        };
        network.train(&context.parallelize(partitions, count), options)
    };
    for lanes in [1, 2] {
        let error = train(vec![labels.clone(), values.clone()], lanes).unwrap_err();
        let says = "partition 1 has samples with target values, and those before them have labels; give all";
        assert!(error.to_string().contains(says), "{error}");
        let error = train(vec![values.clone(), none.clone(), labels.clone()], lanes).unwrap_err();
        let says = "partition 2 has samples with labels, and those before them have target values";
        assert!(error.to_string().contains(says), "{error}");
        let mut training = train(vec![labels.clone(), none.clone()], 1).unwrap();
        training.iterate(2, |_| ()).unwrap();
    }
}

/// Training would make a loss smaller and smaller that has no least value, and call that model the best.
#[test]
fn target_values_that_a_loss_does_not_take_are_named() {
    let context = context(2);
    let refusals = |loss: Loss, last: f32| {
        let network = network(loss);
        let mut values = vec![1.0; 2 * 20 * 3];
        values[(20 + 17) * 3 + 2] = last;
        let targets = SampleTargets::Values { length: 3, values };
        let features = Features::F32(vec![0.5; 2 * 20 * 2]);
        let samples = Samples::new(2, features, targets).unwrap();
        let data = context.parallelize(samples.split(2).unwrap(), 2);
        let parameters = network.initialize(0).unwrap();
        let options = TrainingOptions {
            batch: 8,
            ..TrainingOptions::default()
        };
        let trained = network.train(&data, options).err();
        [trained, network.error(&data, &parameters).err()]
            .map(|error| error.map_or_else(String::new, |error| error.to_string()))
    };
    let (binary, hinge) = (Loss::BinaryCrossEntropyWithLogits, Loss::Hinge);
    for (loss, wrong, takes) in [
        (&binary, 255.0, "targets from 0 to 1"),
        (&binary, -1.0, "targets from 0 to 1"),
        (&binary, f32::NAN, "targets from 0 to 1"),
        (&hinge, 0.0, "targets of 1 and -1"),
    ] {
        let name = loss.name();
        let says = format!("sample 17 of partition 1 has {wrong} as target value 2, and {name} takes {takes}; mend");
        for message in refusals(loss.clone(), wrong) {
            assert!(message.contains(&says), "{message}");
        }
    }
    for (loss, right) in [
        (binary, 0.25),
        (hinge, -1.0),
        (Loss::MeanSquaredError, 255.0),
        (Loss::L1, -3.0),
    ] {
        assert_eq!(refusals(loss, right), ["", ""]);
    }
}

#[test]
fn threads_shards_and_checkpoints_do_not_show() {
    let network = network(weighted(&[0.3, 1.7, 0.9], 0.1));
    let train = |threads: usize, shards: usize, every_steps: Option<u64>| {
        let context = context(threads);
        let all = samples((0..60).map(|sample| sample * 5 % 7 % 3).collect());
        let data = context.parallelize(all.split(6).unwrap(), 6);
        let options = TrainingOptions {
            batch: 14,
            lanes: 3,
            schedule: Some(Schedule::Points(vec![(0, 0.1), (4, 0.5), (9, 0.05)])),
            gradient_norm_max: Some(0.5),
            placement: Some(Placement {
                lanes: (0..3).map(|lane| lane % threads).collect(),
                shards: (0..shards).map(|shard| (shard + 1) % threads).collect(),
            }),
            checkpoint: every_steps.map(|every_steps| CheckpointOptions {
                every_steps,
                ..CheckpointOptions::new("memory://weighted")
            }),
            ..TrainingOptions::default()
        };
        let mut training = network.train(&data, options.clone()).unwrap();
        training.iterate(5, |_| ()).unwrap();
        if every_steps.is_some() {
            training = network.train(&data, options).unwrap();
            assert_eq!(training.step(), 5);
        }
        training.iterate(6, |_| ()).unwrap();
        training.parameters_hash()
    };
    let expected = train(1, 1, None);
    for (threads, shards, every) in [(2, 3, None), (3, 5, None), (2, 2, Some(3))] {
        assert_eq!(train(threads, shards, every), expected, "{threads} {shards} {every:?}");
    }
}

#[test]
fn weights_and_smoothing_without_sense_are_refused() {
    let cases: [(Loss, &str); 6] = [
        (weighted(&[1.0, 2.0], 0.0), "2 weights for 3 classes"),
        (weighted(&[0.0; 3], 0.0), "one of them above"),
        (weighted(&[1.0, -1.0, 1.0], 0.0), "class_weights are [1.0, -1.0, 1.0]"),
        (weighted(&[1.0, f32::NAN, 1.0], 0.0), "NaN"),
        (weighted(&[], 1.5), "label_smoothing is 1.5"),
        (weighted(&[], f32::NAN), "label_smoothing is NaN"),
    ];
    for (loss, says) in cases {
        let made = NeuralNetwork::new(Input(2)).output(Dense::linear(3), loss);
        let message = made.unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    let twice = Dense::new(3, Activation::Softmax);
    let made = NeuralNetwork::new(Input(2)).output(twice, weighted(&[], 0.1));
    assert!(made.unwrap_err().to_string().contains("applied twice"));
}

#[test]
fn a_row_that_does_not_count_hides_no_logit_that_is_no_number() {
    let loss = weighted(&[1.0, 1.0, 0.0], 0.0);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut gradient = [0.0; 6];
        let logits = [0.5, bad, 0.25, 1.0, 2.0, 3.0];
        let report = loss
            .gradient(&logits, Targets::Labels(&[2, 0]), 3, &mut gradient)
            .unwrap();
        assert!(
            gradient[..3].iter().any(|value| value.is_nan()) && report.loss_sum.is_nan(),
            "{bad}"
        );
    }
}

/// So no model is chosen by an accuracy of 0.
#[test]
fn where_targets_are_values_there_is_no_accuracy() {
    let context = Context::new(Config::default()).unwrap();
    let labels = samples(vec![0, 1, 2, 0, 1, 2]);
    let targets = SampleTargets::Values {
        length: 3,
        values: vec![0.5; 18],
    };
    let values = Samples::new(2, labels.features().clone(), targets).unwrap();
    let [labels, values] = [labels, values].map(|samples| context.parallelize(samples.split(2).unwrap(), 2));
    let network = network(Loss::MeanSquaredError);
    let trained = |data: &_| {
        let options = TrainingOptions {
            batch: 4,
            ..TrainingOptions::default()
        };
        network.train(data, options).unwrap()
    };
    let has_accuracy = |training: &mut Training, data: &_| {
        let mut reports = Vec::new();
        reports.push(training.error(data).unwrap());
        let whole = training.run_epoch(|step| reports.push(step.report)).unwrap();
        reports.push(whole);
        let has = |report: &BatchReport| report.accuracy().is_some();
        assert_eq!((reports.len(), reports.iter().all(has)), (4, reports.iter().any(has)));
        has(&whole)
    };
    assert!(!has_accuracy(&mut trained(&values), &values));
    let mut training = trained(&labels);
    assert!(has_accuracy(&mut training, &labels));
    training.change_data(&values).unwrap();
    assert!(!has_accuracy(&mut training, &values));
    let message = network
        .confusion(&values, &training.parameters())
        .unwrap_err()
        .to_string();
    assert!(message.contains("give labels, or take `error`"), "{message}");
}

#[test]
fn what_is_kept_back_has_no_weight_of_its_own() {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(vec![samples(vec![0, 1, 2])], 1);
    let options = TrainingOptions {
        batch: 3,
        lanes: 1,
        compression: Compression::TopK(TopK::default()),
        ..TrainingOptions::default()
    };
    let smoothed = network(weighted(&[], 0.1)).train(&data, options.clone());
    assert!(smoothed.is_ok(), "{:?}", smoothed.err());
    let refused = network(weighted(&[1.0, 2.0, 1.0], 0.0))
        .train(&data, options)
        .unwrap_err();
    assert!(
        matches!(refused, Error::Options(ref text) if text.contains("weights of classes")),
        "{refused}"
    );
}

#[test]
fn labels_for_one_output_are_refused_by_losses_of_elements() {
    let context = context(1);
    let samples = Samples::new(2, Features::F32(vec![0.5; 40]), SampleTargets::Labels(vec![0; 20])).unwrap();
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    for loss in [Loss::BinaryCrossEntropyWithLogits, Loss::MeanSquaredError] {
        let network = NeuralNetwork::new(Input(2)).output(Dense::linear(1), loss).unwrap();
        let options = TrainingOptions {
            batch: 8,
            ..TrainingOptions::default()
        };
        let message = network.train(&data, options).unwrap_err().to_string();
        assert!(message.contains("values of 0 and 1 as targets"), "{message}");
    }
}
