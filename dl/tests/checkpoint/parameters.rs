//! Parameters that are given, or that must not get into a checkpoint.

use std::fs;
use std::sync::Arc;

use distdl_dl::{
    Adam, BestModels, CheckpointOptions, Dense, Error, Features, Input, Loss, NeuralNetwork, SampleTargets, Samples,
    TrainingOptions,
};

use crate::{FEATURES, begin, context, every_4, network, options};

#[test]
fn parameters_to_begin_with_are_left_alone_by_a_training_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let begun_with = |values: &[f32]| TrainingOptions {
        initial_parameters: Some(values.into()),
        ..options(Some(every_4(folder.path())))
    };
    let given: Vec<f32> = network().initialize(99).unwrap();
    let context = context(1);
    let mut whole = begin(
        &context,
        TrainingOptions {
            checkpoint: None,
            ..begun_with(&given)
        },
    )
    .unwrap();
    assert_eq!(whole.parameters(), given);
    whole.iterate(9, |_| ()).unwrap();
    begin(&context, begun_with(&given)).unwrap().iterate(6, |_| ()).unwrap();
    let mut resumed = begin(&context, begun_with(&given)).unwrap();
    assert_eq!(resumed.step(), 4);
    resumed.iterate(5, |_| ()).unwrap();
    assert_eq!(resumed.parameters(), whole.parameters());
    let error = begin(&context, begun_with(&whole.parameters()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("hash of the initial parameters"), "{error}");
    let error = begin(&context, begun_with(&given[1..])).unwrap_err().to_string();
    assert!(error.contains("the initial parameters"), "{error}");
}

#[test]
fn another_training_begins_with_what_a_checkpoint_holds() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (context, url) = (context(1), folder.path().to_str().unwrap());
    let none = network().load_checkpoint(&context, url).unwrap_err().to_string();
    assert!(none.contains(url) && none.contains("there are none"), "{none}");
    let mut training = begin(&context, options(Some(every_4(folder.path())))).unwrap();
    training.iterate(8, |_| ()).unwrap();
    let parameters = network().load_checkpoint(&context, url).unwrap();
    assert_eq!(parameters, training.parameters());
    let changed = TrainingOptions {
        batch: 10,
        optimizer: Arc::new(Adam::default()),
        initial_parameters: Some(parameters.as_slice().into()),
        ..options(Some(every_4(other.path())))
    };
    let mut training = begin(&context, changed).unwrap();
    assert_eq!((training.step(), training.parameters()), (0, parameters));
    training.iterate(1, |_| ()).unwrap();
    let wider = NeuralNetwork::dense(FEATURES, &[6], 3).unwrap();
    let differs = wider.load_checkpoint(&context, url).unwrap_err().to_string();
    assert!(differs.contains("layers.0.weight"), "{differs}");
}

#[test]
fn parameters_that_are_set_at_a_checkpoint_are_those_of_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(1);
    let mut training = begin(&context, options(Some(every_4(folder.path())))).unwrap();
    training.iterate(4, |_| ()).unwrap();
    let other = network().initialize(99).unwrap();
    training.set_parameters(other.clone()).unwrap();
    let resumed = begin(&context, options(Some(every_4(folder.path())))).unwrap();
    assert_eq!((resumed.step(), resumed.parameters()), (4, other.clone()));
    let error = training.set_parameters(vec![f32::NAN; other.len()]).unwrap_err();
    let says = "a value of layers.0.weight is NaN in the parameters that `set_parameters` was given; check where they come from";
    assert!(matches!(&error, Error::Options(problem) if problem == says), "{error}");
    assert_eq!(training.parameters(), other, "it has those it had");
    let resumed = begin(&context, options(Some(every_4(folder.path())))).unwrap();
    assert_eq!(resumed.parameters(), other);
}

/// Adam corrects its means by their number.
#[test]
fn updates_since_parameters_were_set_are_counted_on_behind_a_checkpoint() {
    let trained = |is_stopped: bool| {
        let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
        let url = folder.path().to_str().unwrap();
        let begin = || {
            let options = TrainingOptions {
                optimizer: Arc::new(Adam::default()),
                ..options(Some(CheckpointOptions::new(url)))
            };
            begin(&context, options).unwrap()
        };
        let mut training = begin();
        training.iterate(5, |_| ()).unwrap();
        training.set_parameters(network().initialize(99).unwrap()).unwrap();
        training.iterate(2, |_| ()).unwrap();
        if is_stopped {
            training = begin();
            assert_eq!(training.step(), 7);
        }
        training.iterate(2, |_| ()).unwrap();
        training.parameters()
    };
    assert_eq!(trained(true), trained(false));
}

/// The square of an error may be finite in f64 where its gradient is not in f32.
#[test]
fn parameters_that_are_not_finite_are_an_error_and_no_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let context = context(1);
    let targets = SampleTargets::Values {
        length: 1,
        values: vec![0.0; 4],
    };
    let samples = Samples::new(1, Features::F32(vec![1e20; 4]), targets).unwrap();
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    let linear = NeuralNetwork::new(Input(1))
        .output(Dense::linear(1), Loss::MeanSquaredError)
        .unwrap();
    let options = TrainingOptions {
        batch: 4,
        ..options(Some(CheckpointOptions::new(folder.path().to_str().unwrap())))
    };
    let mut training = linear.train(&data, options).unwrap();
    let error = training.iterate(1, |_| ()).unwrap_err();
    assert!(
        matches!(&error, Error::NotFinite { what, .. } if what.contains("layers.0.weight")),
        "{error}"
    );
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
    // Nor are they a best model, whatever it is judged by.
    let mut best = BestModels::new(1);
    let error = best.show(0.5, &mut training).unwrap_err();
    assert!(matches!(error, Error::NotFinite { step: 0, .. }), "{error}");
    assert_eq!(best, BestModels::new(1));
    best.show(f64::NAN, &mut training).unwrap();
    assert!(best.models().is_empty());
}

/// A hyperbolic tangent makes 1 of infinity, so that the loss is finite.
#[test]
fn samples_that_make_parameters_infinite_are_named() {
    let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
    let features = (0..8).map(|sample| if sample == 6 { f32::INFINITY } else { 0.5 });
    let samples = Samples::new(1, Features::F32(features.collect()), SampleTargets::Labels(vec![0; 8])).unwrap();
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    let network = NeuralNetwork::new(Input(1))
        .hidden(Dense::tanh(2))
        .output(Dense::linear(2), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let options = TrainingOptions {
        batch: 8,
        ..options(Some(CheckpointOptions::new(folder.path().to_str().unwrap())))
    };
    let mut training = network.train(&data, options).unwrap();
    let error = training.iterate(1, |_| ()).unwrap_err().to_string();
    let says = "step 0: a value of layers.0.weight behind it is not finite (NaN); sample 2 of partition 1 has inf as feature 0: mend";
    assert!(error.contains(says), "{error}");
    let again = training.iterate(1, |_| ()).unwrap_err().to_string();
    assert!(again.contains("sample 2 of partition 1 has inf"), "{again}");
}

/// Also where nothing is written, and before the first step.
#[test]
fn parameters_that_are_not_finite_are_an_error_without_checkpoints_too() {
    let context = context(1);
    let targets = SampleTargets::Values {
        length: 1,
        values: vec![0.0; 4],
    };
    let samples = Samples::new(1, Features::F32(vec![1e20; 4]), targets).unwrap();
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    let linear = NeuralNetwork::new(Input(1))
        .output(Dense::linear(1), Loss::MeanSquaredError)
        .unwrap();
    let with = |initial: [f32; 2]| {
        let options = TrainingOptions {
            batch: 4,
            initial_parameters: Some(initial.as_slice().into()),
            ..options(None)
        };
        linear.train(&data, options)
    };
    let error = with([1.0, 0.0]).unwrap().iterate(1, |_| ()).unwrap_err().to_string();
    assert!(
        error.contains("step 0: a value of layers.0.weight behind it"),
        "{error}"
    );
    let error = with([1.0, f32::NAN]).unwrap_err().to_string();
    assert!(
        error.contains("a value of layers.0.bias is NaN to begin with"),
        "{error}"
    );
}

/// Adam would never move the weights of an infinite square again, and the loss says nothing of it.
#[test]
fn state_that_is_not_finite_is_an_error_and_no_checkpoint() {
    let (folder, context) = (tempfile::tempdir().unwrap(), context(1));
    let targets = SampleTargets::Values {
        length: 1,
        values: vec![0.0; 4],
    };
    let samples = Samples::new(1, Features::F32(vec![0.5, 0.5, 0.5, 1e22]), targets).unwrap();
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    let linear = NeuralNetwork::new(Input(1)).output(Dense::linear(1), Loss::L1).unwrap();
    let options = TrainingOptions {
        batch: 4,
        optimizer: Arc::new(Adam::default()),
        ..options(Some(CheckpointOptions::new(folder.path().to_str().unwrap())))
    };
    let mut training = linear.train(&data, options).unwrap();
    let error = training.iterate(2, |_| ()).unwrap_err().to_string();
    let says = "step 1: a value of the optimizer's state for layers.0.weight behind it is not finite (inf); lower";
    assert!(error.contains(says), "{error}");
    assert!(training.parameters().iter().all(|value| value.is_finite()));
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}
