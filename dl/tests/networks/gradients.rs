//! Every layer and loss against finite differences in f64.

use distdl_dl::{
    Activate, Activation, AvgPool2d, BatchNorm, Conv2d, Dense, Draw, Dropout, Embedding, Flatten, Gelu, Image, Input,
    LayerNorm, LayerSpecification, Loss, LossFunction, MaxPool2d, NetworkBuilder, NeuralNetwork, Scalar, Target,
    Targets,
};

/// Numbers in [-1, 1) without a pattern.
pub(crate) fn numbers<T: Scalar>(seed: u64, count: usize) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 23) as f64 - 1.0
    };
    (0..count).map(|_| T::from_f64(next())).collect()
}

/// The gradient of the loss by each parameter, by central differences of the loss that training reports.
fn differences(
    network: &NeuralNetwork<f64>,
    parameters: &[f64],
    inputs: &[f64],
    targets: Targets<'_, f64>,
    rows: usize,
) -> Vec<f64> {
    let mut workspace = network.workspace(rows);
    workspace.set_draw(DRAW);
    let (mut parameters, mut unused) = (parameters.to_vec(), vec![0.0; parameters.len()]);
    let mut loss = |parameters: &[f64]| {
        let report = network.gradient(parameters, inputs, targets, rows, &mut workspace, &mut unused);
        report.unwrap().loss_sum
    };
    (0..parameters.len())
        .map(|index| {
            let (step, before) = (1e-5, parameters[index]);
            parameters[index] = before + step;
            let above = loss(&parameters);
            parameters[index] = before - step;
            let below = loss(&parameters);
            parameters[index] = before;
            (above - below) / (2.0 * step)
        })
        .collect()
}

const DRAW: Draw = Draw {
    seed: 1,
    step: 2,
    lane: 3,
    first_row: 0,
};

fn check(hidden: Activation, last: Activation, loss: Loss, labels: bool) {
    let network = NeuralNetwork::<f64>::with_element(Input(5))
        .hidden(Dense::new(7, hidden))
        .hidden(Dense::new(3, Activation::Tanh))
        .output(Dense::new(4, last), loss)
        .unwrap();
    check_network(&network, labels);
}

fn check_network(network: &NeuralNetwork<f64>, labels: bool) {
    check_on(network, &numbers::<f64>(2, ROWS * network.input_length()), labels);
}

const ROWS: usize = 6;

fn check_on(network: &NeuralNetwork<f64>, inputs: &[f64], labels: bool) {
    let (rows, outputs) = (inputs.len() / network.input_length(), network.output_length());
    let mut parameters = numbers::<f64>(1, network.parameter_count());
    let entries = network.parameter_layout().entries();
    // A running variance is not negative.
    let running = entries.iter().filter(|entry| entry.name.contains("running_"));
    let running = running.flat_map(|entry| entry.range.clone());
    running.for_each(|index| parameters[index] = parameters[index].abs());
    let classes: Vec<u32> = (0..rows as u32).map(|row| (row * 3) % outputs as u32).collect();
    let values = numbers::<f64>(3, rows * outputs);
    let targets = if labels {
        Targets::Labels(&classes)
    } else {
        Targets::Values(&values)
    };

    let mut workspace = network.workspace(rows + 2);
    workspace.set_draw(DRAW);
    let mut gradient = vec![f64::NAN; network.parameter_count()];
    let report = network
        .gradient(&parameters, inputs, targets, rows, &mut workspace, &mut gradient)
        .unwrap();
    assert_eq!(report.samples, rows as u64);
    let mut expected = differences(network, &parameters, inputs, targets, rows);
    // The loss depends on what is frozen, too.
    let layer = |name: &str| name.split('.').nth(1).unwrap().parse().unwrap();
    let frozen = entries.iter().filter(|entry| network.is_frozen(layer(&entry.name)));
    frozen.for_each(|entry| expected[entry.range.clone()].fill(0.0));
    let is_learnt = |index: &usize| !network.statistics().iter().any(|known| known.range.contains(index));
    for index in (0..expected.len()).filter(is_learnt) {
        let (got, expected) = (gradient[index], expected[index]);
        let error = (got - expected).abs() / expected.abs().max(1.0);
        assert!(
            error < 1e-8,
            "{network} parameter {index}: {got} but differences give {expected}"
        );
    }
    assert!(expected.iter().any(|g| g.abs() > 1e-3), "{network}: nothing was tested");
}

fn weighted() -> Loss {
    Loss::WeightedCrossEntropy {
        class_weights: vec![0.5, 2.0, 0.0, 1.25],
        label_smoothing: 0.2,
    }
}

/// A loss of one's own: ln cosh of what is missing, summed over the outputs; a label is a 1 at its place.
#[derive(Debug)]
struct LogCosh;

impl LossFunction for LogCosh {
    fn name(&self) -> &'static str {
        "log_cosh"
    }
    fn check_targets(&self, _: Option<usize>, _: usize) -> distdl_dl::Result<()> {
        Ok(())
    }
    fn gradient<T: Scalar>(&self, outputs: &[T], target: Target<'_, T>, gradient: &mut [T]) -> distdl_dl::Result<f64> {
        let mut sum = 0.0;
        for (index, (output, gradient)) in outputs.iter().zip(gradient).enumerate() {
            let wanted = match target {
                Target::Label(label) => T::from_u8(u8::from(index == label)),
                Target::Values(values) => values[index],
            };
            *gradient = (*output - wanted).hyperbolic_tangent();
            sum += (*output - wanted).to_f64().cosh().ln();
        }
        Ok(sum)
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for hidden in Activation::ALL {
        for last in Activation::ALL {
            check(hidden, last, Loss::MeanSquaredError, true);
            check(hidden, last, Loss::MeanSquaredError, false);
            for loss in [Loss::L1, Loss::Hinge, Loss::own(LogCosh)] {
                check(hidden, last, loss.clone(), true);
                check(hidden, last, loss, false);
            }
            if last != Activation::Softmax {
                check(hidden, last, Loss::SoftmaxCrossEntropy, true);
                check(hidden, last, weighted(), true);
            }
            if last != Activation::Sigmoid {
                check(hidden, last, Loss::BinaryCrossEntropyWithLogits, true);
                check(hidden, last, Loss::BinaryCrossEntropyWithLogits, false);
            }
        }
    }
}

/// Behind layers with parameters, so that gradients must pass through what is tested.
fn behind_a_convolution(layer: impl LayerSpecification<f64>) -> NeuralNetwork<f64> {
    let image = Image {
        channels: 2,
        height: 7,
        width: 6,
    };
    NeuralNetwork::with_element(image)
        .hidden(Conv2d::new(3, 3).with_padding(1).with_activation(Activation::Tanh))
        .hidden(layer)
        .output(Dense::linear(4), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn behind_a_row(layer: impl LayerSpecification<f64>) -> NeuralNetwork<f64> {
    NeuralNetwork::with_element(Input(5))
        .hidden(Dense::tanh(9))
        .hidden(layer)
        .output(Dense::linear(4), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

#[test]
fn gradients_of_layers_on_images_agree_with_finite_differences() {
    for (size, stride, padding) in [(1, 1, 0), (3, 1, 0), (3, 2, 1), (2, 3, 2), (5, 1, 2)] {
        for activation in [Activation::Identity, Activation::Relu, Activation::Softplus] {
            let convolution = Conv2d::new(4, size).with_stride(stride).with_padding(padding);
            let convolution = convolution.with_activation(activation);
            check_network(&behind_a_convolution(convolution), true);
            check_network(&behind_a_convolution(convolution.without_bias()), true);
        }
    }
    for (size, stride) in [(1, 1), (2, 2), (3, 2), (3, 1), (2, 3)] {
        check_network(&behind_a_convolution(MaxPool2d::new(size).with_stride(stride)), true);
        check_network(&behind_a_convolution(AvgPool2d::new(size).with_stride(stride)), true);
    }
    for (size, stride) in [((3, 2), (1, 2)), ((1, 4), (3, 1)), ((2, 3), (2, 3))] {
        let convolution = Conv2d::new(3, size).with_stride(stride).with_padding((2, 1));
        check_network(&behind_a_convolution(convolution), true);
        check_network(&behind_a_convolution(MaxPool2d::new(size).with_stride(stride)), true);
        check_network(&behind_a_convolution(AvgPool2d::new(size)), true);
    }
    check_network(&behind_a_convolution(Flatten), true);
    check_network(&behind_a_convolution(Dropout::new(0.4)), true);
    check_network(&behind_a_convolution(LayerNorm::default()), true);
    check_network(&behind_a_convolution(BatchNorm::default()), true);
    check_network(&behind_a_convolution(Gelu), true);
}

#[test]
fn gradients_of_layers_on_rows_agree_with_finite_differences() {
    check_network(&behind_a_row(Dropout::new(0.3)), true);
    check_network(&behind_a_row(LayerNorm { eps: 0.1 }), true);
    check_network(
        &behind_a_row(BatchNorm {
            eps: 0.1,
            momentum: 1.0,
        }),
        true,
    );
    // One row has no variance, and is normalised with running statistics.
    let one = behind_a_row(BatchNorm::default());
    check_on(&one, &numbers::<f64>(2, one.input_length()), true);
    check_network(&behind_a_row(Flatten), true);
    let some = Dense::tanh(6).with_connections(|input, output| (input + 2 * output) % 3 != 0);
    check_network(&behind_a_row(some), true);
    check_network(&behind_a_row(Gelu), true);
    for activation in Activation::ALL {
        check_network(&behind_a_row(Activate(activation)), true);
        check_network(&behind_a_row(Dense::new(6, activation).without_bias()), true);
    }
}

/// Between layers that learn a gradient goes through them, as through the functions that they are.
#[test]
fn gradients_through_frozen_layers_agree_with_finite_differences() {
    let network = NeuralNetwork::with_element(Input(3))
        .hidden(Dense::tanh(4))
        .hidden(BatchNorm::default())
        .hidden(Dropout::new(0.5))
        .hidden(Dense::tanh(4))
        .output(Dense::linear(2), Loss::SoftmaxCrossEntropy)
        .unwrap()
        .with_frozen([1, 2, 3])
        .unwrap();
    assert_eq!(network.statistics(), []);
    check_network(&network, true);
}

#[test]
fn gradients_through_and_round_blocks_agree_with_finite_differences() {
    let image = Image {
        channels: 2,
        height: 5,
        width: 4,
    };
    let tanh = Activate(Activation::Tanh);
    let convolution = |channels| Conv2d::new(channels, 3).with_padding(1);
    let checked = |builder: NetworkBuilder<f64>| {
        let network = builder.output(Dense::linear(4), Loss::SoftmaxCrossEntropy);
        check_network(&network.unwrap(), true);
    };
    // Round the network's input, and a block within a block that begins with it.
    let network = || NeuralNetwork::with_element(image);
    checked(network().residual(|block| {
        let block = block.residual(|inner| inner.hidden(convolution(2)).hidden(tanh));
        block.hidden(convolution(2))
    }));
    let network = || network().hidden(convolution(2)).hidden(tanh);
    checked(network().residual(|block| {
        let block = block.residual(|inner| inner.hidden(convolution(3)).hidden(convolution(2)));
        block.hidden(BatchNorm::default()).hidden(convolution(2))
    }));
    // Through a layer, and round one that changes nothing.
    checked(network().residual_with(Conv2d::new(3, 1).with_stride(2), |block| {
        block
            .hidden(convolution(4).with_stride(2))
            .hidden(tanh)
            .hidden(convolution(3))
    }));
    let network = network().hidden(Flatten).residual(|block| block.hidden(Flatten));
    checked(network.residual_with(Dense::tanh(7), |block| block.hidden(Dense::linear(7))));
    let first = NeuralNetwork::with_element(Input(5)).residual_with(Dense::linear(6), |block| {
        let block = block.residual(|inner| inner.residual(|inmost| inmost.hidden(Dense::tanh(5))));
        block.hidden(Dense::tanh(6))
    });
    check_network(&first.output(Dense::linear(4), Loss::MeanSquaredError).unwrap(), false);
}

#[test]
fn what_learns_has_the_same_gradient_whatever_is_frozen_round_it() {
    let network = NeuralNetwork::<f64>::with_element(Input(5))
        .residual(|block| block.hidden(Dense::tanh(5)))
        .residual_with(Dense::linear(4), |block| {
            let block = block.hidden(Dense::tanh(6)).hidden(Flatten);
            block
                .residual(|inner| inner.hidden(Dense::tanh(6)))
                .hidden(Dense::linear(4))
        })
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let ranges: Vec<_> = network
        .parameter_layout()
        .entries()
        .iter()
        .map(|entry| (&entry.name, entry.range.clone()))
        .collect();
    let learn: Vec<usize> = (0..10)
        .filter(|layer| {
            ranges
                .iter()
                .any(|(name, _)| name.starts_with(&format!("layers.{layer}.")))
        })
        .collect();
    assert_eq!(learn.len(), 6);
    let (parameters, inputs) = (
        numbers::<f64>(1, network.parameter_count()),
        numbers::<f64>(2, ROWS * 5),
    );
    let gradient_of = |network: &NeuralNetwork<f64>| {
        let (mut workspace, mut gradient) = (network.workspace(ROWS), vec![f64::NAN; parameters.len()]);
        let labels = Targets::Labels(&[0, 1, 2, 2, 1, 0]);
        network
            .gradient(&parameters, &inputs, labels, ROWS, &mut workspace, &mut gradient)
            .unwrap();
        gradient
    };
    let all = gradient_of(&network);
    // Every set but that of all.
    for set in 0..(1 << learn.len()) - 1 {
        let frozen: Vec<usize> = (0..learn.len())
            .filter(|bit| set >> bit & 1 == 1)
            .map(|bit| learn[bit])
            .collect();
        let some = gradient_of(&network.with_frozen(frozen.iter().copied()).unwrap());
        for (name, range) in &ranges {
            let is_frozen = frozen.iter().any(|layer| name.starts_with(&format!("layers.{layer}.")));
            for index in range.clone() {
                let expected = if is_frozen { 0.0 } else { all[index] };
                assert_eq!(some[index], expected, "{name} with {frozen:?} frozen");
            }
        }
    }
}

#[test]
fn gradients_of_an_embedding_agree_with_finite_differences() {
    // 11 vectors, of which some are looked up several times and the last not at all.
    let indices: Vec<f64> = (0..ROWS * 5).map(|place| (place * place % 10) as f64).collect();
    let network = NeuralNetwork::with_element(Input(5))
        .hidden(Embedding::new(11, 3))
        .hidden(Dense::tanh(7))
        .output(Dense::linear(4), Loss::SoftmaxCrossEntropy)
        .unwrap();
    check_on(&network, &indices, true);
}

#[test]
fn gradients_over_many_images_agree_with_finite_differences() {
    // More rows than a convolution multiplies at once.
    let image = Image {
        channels: 1,
        height: 5,
        width: 5,
    };
    let network = NeuralNetwork::with_element(image)
        .hidden(Conv2d::new(2, 3))
        .output(Dense::linear(2), Loss::MeanSquaredError)
        .unwrap();
    let (rows, parameters) = (21, numbers::<f64>(1, network.parameter_count()));
    let (inputs, values) = (numbers::<f64>(2, rows * 25), numbers::<f64>(3, rows * 2));
    let (mut workspace, mut gradient) = (network.workspace(rows), vec![f64::NAN; parameters.len()]);
    let targets = Targets::Values(&values);
    network
        .gradient(&parameters, &inputs, targets, rows, &mut workspace, &mut gradient)
        .unwrap();
    for (got, expected) in gradient
        .iter()
        .zip(differences(&network, &parameters, &inputs, targets, rows))
    {
        assert!(
            (got - expected).abs() < 1e-7 * expected.abs().max(1.0),
            "{got} {expected}"
        );
    }
}
