//! The network's face: what it computes for one row, what it refuses, and that nothing else matters.

use distdl_dl::{
    Activate, Activation, Dense, Dropout, Error, Features, Flatten, Initialization, Input, Loss, NetworkBuilder,
    NeuralNetwork, SampleTargets, Samples, Targets, TrainingOptions, parameters_hash,
};
use distdl_engine::{Config, Context};

use crate::bits;

fn mlp() -> NeuralNetwork {
    NeuralNetwork::new(Input(784))
        .hidden(Dense::relu(256))
        .hidden(Dense::relu(128))
        .output(Dense::linear(10), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn inputs(rows: usize, length: usize) -> Vec<f32> {
    (0..rows * length)
        .map(|index| ((index * 2_654_435_761) % 1009) as f32 / 1009.0)
        .collect()
}

#[test]
fn a_layer_that_does_not_fit_is_named() {
    let build = |layer: Dense| {
        NeuralNetwork::new(Input(4))
            .hidden(Dense::relu(3))
            .output(layer, Loss::MeanSquaredError)
    };
    let message = build(Dense::linear(2).with_inputs(5)).unwrap_err().to_string();
    assert_eq!(
        message,
        "layer 1 (dense): expected 5 inputs, got 3 from what comes before it"
    );
    assert!(build(Dense::linear(2).with_inputs(3)).is_ok());
    assert!(matches!(build(Dense::linear(0)), Err(Error::Shape { layer: 1, .. })));
    assert!(matches!(
        build(Dense::linear(usize::MAX)),
        Err(Error::Shape { layer: 1, .. })
    ));
    let empty = NeuralNetwork::new(Input(0))
        .hidden(Dense::relu(3))
        .output(Dense::linear(2), Loss::MeanSquaredError);
    assert!(matches!(empty, Err(Error::Shape { layer: 0, .. })));
}

#[test]
fn a_second_softmax_is_refused() {
    let error = NeuralNetwork::new(Input(4))
        .output(Dense::softmax(3), Loss::SoftmaxCrossEntropy)
        .unwrap_err();
    assert!(error.to_string().contains("Dense::linear"), "{error}");
    let behind = |builder: NetworkBuilder| {
        let error = builder.output(Flatten, Loss::SoftmaxCrossEntropy).unwrap_err();
        assert!(error.to_string().contains("Dense::linear"), "{error}");
    };
    let softmax = || NeuralNetwork::new(Input(4)).hidden(Dense::softmax(3));
    behind(softmax());
    behind(softmax().hidden(Dropout::new(0.5)));
    behind(softmax().hidden(Activate(Activation::Identity)));
    let rectified = softmax().hidden(Activate(Activation::Relu));
    rectified.output(Flatten, Loss::SoftmaxCrossEntropy).unwrap();
}

#[test]
fn bad_arguments_are_errors_that_say_what() {
    let network = NeuralNetwork::new(Input(2))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let parameters = network.initialize(1).unwrap();
    let mut workspace = network.workspace(2);
    let mut evaluate = |parameters: &[f32], inputs: &[f32], targets: Targets<'_>, rows| {
        network
            .error_batch(parameters, inputs, targets, rows, &mut workspace)
            .map_err(|error| error.to_string())
    };
    let good = [0.0; 4];
    let labels = Targets::Labels(&[0, 2]);
    assert!(evaluate(&parameters, &good, labels, 2).is_ok());
    let cases = [
        (
            evaluate(&parameters[1..], &good, labels, 2),
            "the parameters: got 8 elements, expected 9",
        ),
        (
            evaluate(&parameters, &good[1..], labels, 2),
            "the inputs: got 3 elements, expected 4",
        ),
        (
            evaluate(&parameters, &good, Targets::Labels(&[0]), 2),
            "the labels: got 1 elements, expected 2",
        ),
        (
            evaluate(&parameters, &[0.0; 6], Targets::Labels(&[0; 3]), 3),
            "3 rows do not fit",
        ),
        (
            evaluate(&parameters, &good, Targets::Labels(&[0, 3]), 2),
            "row 1: label 3 is out of range, the network has 3 classes",
        ),
        (
            evaluate(&parameters, &good, Targets::Values(&[0.0; 6]), 2),
            "needs labels",
        ),
        (
            evaluate(&parameters, &good, Targets::Values(&[0.0; 5]), 2),
            "the target values: got 5 elements, expected 6",
        ),
    ];
    for (result, words) in cases {
        let message = result.unwrap_err();
        assert!(message.contains(words), "{message}");
    }
    let mut short = vec![0.0; 8];
    assert!(
        network
            .gradient(&parameters, &good, labels, 2, &mut workspace, &mut short)
            .is_err()
    );
    let mut other = mlp().workspace(2);
    assert!(network.predict_batch(&parameters, &good, 2, &mut other).is_err());
}

#[test]
fn a_piece_that_fails_adds_nothing() {
    let network = NeuralNetwork::new(Input(2))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let parameters = network.initialize(1).unwrap();
    let (mut workspace, mut sum) = (network.workspace(1), vec![0.0; 9]);
    let mut add = |label: u32, sum: &mut [f32]| {
        let label = [label];
        network.add_gradient(
            &parameters,
            &[1.0, 2.0],
            Targets::Labels(&label),
            1,
            &mut workspace,
            sum,
        )
    };
    // What is left of the good piece is not to be added again.
    add(2, &mut sum).unwrap();
    let before = bits(&sum);
    assert!(sum.iter().any(|value| *value != 0.0));
    assert!(add(3, &mut sum).is_err());
    assert_eq!(bits(&sum), before);
    add(2, &mut sum).unwrap();
    assert_ne!(bits(&sum), before);
}

#[test]
fn a_loss_that_is_not_finite_is_in_the_report() {
    for loss in [Loss::SoftmaxCrossEntropy, Loss::MeanSquaredError] {
        let network = NeuralNetwork::new(Input(2))
            .hidden(Dense::relu(3))
            .output(Dense::linear(3), loss)
            .unwrap();
        let parameters = network.initialize(1).unwrap();
        let mut workspace = network.workspace(2);
        let report = network.error_batch(
            &parameters,
            &[1.0, f32::NAN, 1.0, 1.0],
            Targets::Labels(&[0, 1]),
            2,
            &mut workspace,
        );
        assert!(!report.unwrap().is_finite());
    }
}

#[test]
fn predictions_are_probabilities_and_agree_with_the_hits() {
    let network = mlp();
    let parameters = network.initialize(3).unwrap();
    let inputs = inputs(5, 784);
    let mut workspace = network.workspace(5);
    let outputs = network
        .predict_batch(&parameters, &inputs, 5, &mut workspace)
        .unwrap()
        .to_vec();
    let mut best = Vec::new();
    for row in outputs.chunks_exact(10) {
        assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6 && row.iter().all(|&p| p > 0.0));
        best.push((0..10).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32);
    }
    let report = network
        .error_batch(&parameters, &inputs, Targets::Labels(&best), 5, &mut workspace)
        .unwrap();
    assert_eq!((report.correct, report.samples), (Some(5), 5));
    best[2] = (best[2] + 1) % 10;
    let report = network
        .error_batch(&parameters, &inputs, Targets::Labels(&best), 5, &mut workspace)
        .unwrap();
    assert_eq!(report.correct, Some(4));
    let expected: f64 = outputs
        .chunks_exact(10)
        .zip(&best)
        .map(|(row, &label)| -f64::from(row[label as usize]).ln())
        .sum();
    assert!((report.loss_sum - expected).abs() < 1e-5);
}

#[test]
fn no_rows_are_a_gradient_of_zero() {
    let network = mlp();
    let parameters = network.initialize(3).unwrap();
    let mut gradient = vec![f32::NAN; parameters.len()];
    let report = network
        .gradient(
            &parameters,
            &[],
            Targets::Labels(&[]),
            0,
            &mut network.workspace(4),
            &mut gradient,
        )
        .unwrap();
    assert_eq!(report.samples, 0);
    assert!(gradient.iter().all(|&g| g == 0.0));
}

#[test]
fn a_network_without_parameters_is_not_trained() {
    let network = NeuralNetwork::new(Input(3))
        .output(Flatten, Loss::SoftmaxCrossEntropy)
        .unwrap();
    let context = Context::new(Config::default()).unwrap();
    let samples = Samples::new(3, Features::F32(vec![0.5; 24]), SampleTargets::Labels(vec![1; 8])).unwrap();
    let data = context.parallelize(samples.split(2).unwrap(), 2);
    let options = TrainingOptions {
        batch: 4,
        ..TrainingOptions::default()
    };
    let message = network.train(&data, options).unwrap_err().to_string();
    assert!(
        message.contains("the network has no parameters, so there is nothing to train"),
        "{message}"
    );
    assert_eq!(network.error(&data, &[]).unwrap().samples, 8);
}

#[test]
fn initial_values_depend_on_seed_and_layer_only() {
    let network = mlp();
    let first = network.initialize(1).unwrap();
    assert_eq!(parameters_hash(&first), parameters_hash(&mlp().initialize(1).unwrap()));
    assert_ne!(
        parameters_hash(&first),
        parameters_hash(&network.initialize(2).unwrap())
    );

    let twins = NeuralNetwork::new(Input(8))
        .hidden(Dense::relu(8))
        .hidden(Dense::relu(8));
    let values = twins
        .output(Dense::linear(2), Loss::MeanSquaredError)
        .unwrap()
        .initialize(1)
        .unwrap();
    assert_ne!(values[..64], values[72..136], "two layers of one shape begin alike");

    // A layer's values stay when other layers change, and its first rows when it grows.
    let wider = NeuralNetwork::new(Input(900))
        .hidden(Dense::relu(256).with_initialization(Initialization::Uniform { limit: 0.5 }))
        .hidden(Dense::relu(128))
        .output(Dense::linear(3), Loss::MeanSquaredError)
        .unwrap();
    let values = wider.initialize(1).unwrap();
    let range = |network: &NeuralNetwork, name: &str| {
        network
            .parameter_layout()
            .entries()
            .iter()
            .find(|entry| entry.name == name)
            .unwrap()
            .range
            .clone()
    };
    assert_eq!(
        values[range(&wider, "layers.1.weight")],
        first[range(&network, "layers.1.weight")]
    );
    assert!(values[range(&wider, "layers.0.weight")].iter().all(|v| v.abs() <= 0.5));
    assert!(values[range(&wider, "layers.0.bias")].iter().all(|&v| v == 0.0));
    let deviation = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
    let of = |name| deviation(&first[range(&network, name)]);
    assert!(
        (of("layers.1.weight") / (2.0f32 / 256.0).sqrt() - 1.0).abs() < 0.02,
        "relu begins as He says"
    );
    assert!(
        (of("layers.2.weight") / (2.0f32 / 138.0).sqrt() - 1.0).abs() < 0.05,
        "identity begins as Glorot says"
    );
}

#[test]
fn the_layout_has_no_gaps_and_the_topology_has_words() {
    let network = mlp();
    let mut end = 0;
    for entry in network.parameter_layout().entries() {
        assert_eq!(entry.range.start, end);
        assert_eq!(entry.range.len(), entry.shape.iter().product::<usize>());
        end = entry.range.end;
    }
    assert_eq!(end, network.parameter_count());
    assert_eq!(network.parameter_layout().entries()[0].name, "layers.0.weight");
    let words = "784 -> dense 256 relu -> dense 128 relu -> dense 10 identity, softmax_cross_entropy";
    assert_eq!(network.to_string(), words);
}

#[test]
fn the_same_call_gives_the_same_bits_whatever_ran_before() {
    let network = mlp();
    let parameters = network.initialize(3).unwrap();
    let labels: Vec<u32> = (0..128).map(|row| row % 10).collect();
    let all = inputs(128, 784);
    let run = |workspace: &mut _, rows: usize| {
        let mut gradient = vec![f32::NAN; parameters.len()];
        let targets = Targets::Labels(&labels[..rows]);
        network
            .gradient(&parameters, &all[..rows * 784], targets, rows, workspace, &mut gradient)
            .unwrap();
        bits(&gradient)
    };
    let expected = [128, 100, 64, 1].map(|rows| run(&mut network.workspace(rows), rows));
    let mut used = network.workspace(128);
    for (rows, expected) in [128, 100, 64, 1].into_iter().zip(expected) {
        run(&mut used, 37);
        assert!(run(&mut used, rows) == expected, "{rows} rows");
    }
}

/// faer takes other paths for a single row, and for products of up to 16^3 multiplications; both sum in another order.
fn same_as_in_the_whole(network: &NeuralNetwork, rows: impl Iterator<Item = usize>) -> Vec<usize> {
    let parameters = network.initialize(3).unwrap();
    let (length, outputs) = (network.input_length(), network.output_length());
    let all = inputs(1024, length);
    let mut workspace = network.workspace(1024);
    let whole = bits(network.predict_batch(&parameters, &all, 1024, &mut workspace).unwrap());
    let mut same = |rows: usize| {
        let part = bits(
            network
                .predict_batch(&parameters, &all[..rows * length], rows, &mut workspace)
                .unwrap(),
        );
        part == whole[..rows * outputs]
    };
    rows.filter(|&rows| same(rows)).collect()
}

#[test]
fn a_row_of_the_forward_pass_does_not_depend_on_the_number_of_rows() {
    let rows: Vec<usize> = (4..=130).chain([250, 256, 257, 511, 512, 513, 1000, 1023]).collect();
    assert_eq!(same_as_in_the_whole(&mlp(), rows.iter().copied()), rows);

    let small = NeuralNetwork::new(Input(20))
        .hidden(Dense::tanh(30))
        .output(Dense::sigmoid(7), Loss::MeanSquaredError)
        .unwrap();
    let large_enough = 16 * 16 * 16 / (30 * 7) + 1;
    assert_eq!(
        same_as_in_the_whole(&small, large_enough..200),
        (large_enough..200).collect::<Vec<_>>()
    );
}

/// Only programs with debug assertions look.
#[cfg(debug_assertions)]
mod forgetful {
    use distdl_dl::{Backward, Forward, Layer, LayerSpecification, ParameterShape, Shape};

    use super::*;

    /// A layer of the user's own that hands on what it is given, times its parameter, and forgets to write something.
    #[derive(Clone, Copy, Debug)]
    enum Forgetful {
        Nothing,
        Outputs,
        Gradient,
        InputGradient,
    }

    impl LayerSpecification<f32> for Forgetful {
        fn build(&self, _: usize, _: Shape) -> distdl_dl::Result<Box<dyn Layer<f32>>> {
            Ok(Box::new(*self))
        }
    }

    impl Layer<f32> for Forgetful {
        fn kind(&self) -> &'static str {
            "forgetful"
        }
        fn input_length(&self) -> usize {
            1
        }
        fn output_shape(&self) -> Shape {
            Shape::Row(1)
        }
        fn parameter_shapes(&self) -> Vec<ParameterShape> {
            vec![ParameterShape::new("factor", vec![1])]
        }
        fn forward(&self, pass: Forward<'_, f32>) -> distdl_dl::Result<()> {
            if !matches!(self, Self::Outputs) {
                pass.outputs[0] = pass.parameters[0] * pass.inputs[0];
            }
            Ok(())
        }
        fn backward(&self, pass: Backward<'_, f32>) -> distdl_dl::Result<()> {
            if !matches!(self, Self::Gradient) {
                pass.gradient[0] = pass.inputs[0] * pass.output_gradient[0];
            }
            if let Some(gradient) = pass.input_gradient.filter(|_| !matches!(self, Self::InputGradient)) {
                gradient[0] = pass.parameters[0] * pass.output_gradient[0];
            }
            Ok(())
        }
    }

    /// What lay there before would be taken for a gradient.
    #[test]
    fn what_a_layer_of_ones_own_forgets_to_write_shows() {
        for forgets in [
            Forgetful::Nothing,
            Forgetful::Outputs,
            Forgetful::Gradient,
            Forgetful::InputGradient,
        ] {
            let builder = NeuralNetwork::new(Input(1)).hidden(Dense::linear(1)).hidden(forgets);
            let network = builder.output(Dense::linear(1), Loss::MeanSquaredError).unwrap();
            let (mut workspace, mut gradient) = (network.workspace(1), [0.5; 5]);
            let targets = Targets::Values(&[2.0]);
            let report = network
                .gradient(&[1.0; 5], &[1.0], targets, 1, &mut workspace, &mut gradient)
                .unwrap();
            let shows = report.loss_sum.is_nan() || gradient.iter().any(|value| value.is_nan());
            assert_eq!(
                shows,
                !matches!(forgets, Forgetful::Nothing),
                "{forgets:?}: {gradient:?}"
            );
        }
    }
}
