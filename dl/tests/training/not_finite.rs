//! Evaluation of what is not finite.

use distdl_dl::{Features, NeuralNetwork, SampleTargets, Samples};

use crate::context;

fn samples(features: [f32; 4]) -> Samples {
    let targets = SampleTargets::Labels(vec![0, 1]);
    Samples::new(2, Features::F32(features.to_vec()), targets).unwrap()
}

#[test]
fn evaluation_names_the_first_sample_that_is_not_finite() {
    let (network, context) = (NeuralNetwork::dense(2, &[3], 2).unwrap(), context(2));
    let parameters = network.initialize(1).unwrap();
    let blocks = vec![samples([0.5; 4]), samples([0.5, 0.5, 0.5, f32::NAN])];
    let error = network.error(&context.parallelize(blocks, 1), &parameters).unwrap_err();
    let says = "the loss is NaN, and sample 3 of partition 0 has NaN as feature 1: mend the data";
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn of_a_network_that_has_diverged_evaluation_reports_a_loss_that_is_not_finite() {
    let (network, context) = (NeuralNetwork::dense(2, &[3], 2).unwrap(), context(2));
    let data = context.parallelize(vec![samples([0.5; 4])], 1);
    let report = network
        .error(&data, &vec![f32::NAN; network.parameter_count()])
        .unwrap();
    assert!(!report.is_finite() && report.samples == 2, "{report:?}");
}
