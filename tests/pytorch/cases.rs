//! The networks, samples and options of `reference.py`, by the same names.

use std::sync::Arc;

use distdl::dl::{
    Activate, AvgPool2d, BatchNorm, Conv2d, Features, Flatten, Gelu, Image, LayerNorm, MaxPool2d, SampleTargets,
};
use distdl::{
    Activation, Adagrad, Adam, AdamW, Dense, Embedding, Input, Lamb, Loss, NeuralNetwork, Optimizer, RmsProp, Samples,
    Schedule, Sgd, TrainingOptions,
};

const SAMPLES: usize = 48;
const CLASSES: usize = 5;

pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) network: NeuralNetwork,
    pub(crate) data: Samples,
    pub(crate) options: TrainingOptions,
}

/// Fixed numbers in [-scale, scale).
fn numbers(count: usize, offset: usize, scale: f64) -> Vec<f32> {
    let number = |index: usize| (((index + offset) * 7919 % 2003) as f64 / 2003.0 * 2.0 - 1.0) * scale;
    (0..count).map(|index| number(index) as f32).collect()
}

/// The parameters that training begins with; tensors are filled in the order in which PyTorch has their elements.
pub(crate) fn initial(network: &NeuralNetwork) -> Vec<f32> {
    let mut parameters = network.initialize(0).unwrap();
    // What is not learnt begins the same in both.
    let is_learnt = |name: &str| !name.contains("running");
    let entries = network.parameter_layout().entries().iter();
    for (index, entry) in entries.filter(|entry| is_learnt(&entry.name)).enumerate() {
        let is_scale = entry.shape.len() == 1 && entry.name.ends_with("weight");
        let values = numbers(entry.range.len(), 100 * index, 0.3);
        for (place, value) in values.into_iter().enumerate() {
            let place = match (entry.is_transposed_in_files, &entry.shape[..]) {
                (true, [rows, columns]) => place % rows * columns + place / rows,
                _ => place,
            };
            parameters[entry.range.start + place] = if is_scale { 1.0 + value } else { value };
        }
    }
    parameters
}

pub(crate) fn images() -> Vec<f32> {
    numbers(SAMPLES * 144, 9, 1.0)
}

fn values() -> Vec<f32> {
    numbers(SAMPLES * CLASSES, 11, 1.0)
}

fn labels() -> SampleTargets {
    SampleTargets::Labels(
        (0..SAMPLES as u32)
            .map(|sample| sample * 3 % 7 % CLASSES as u32)
            .collect(),
    )
}

fn rows(targets: SampleTargets) -> Samples {
    Samples::new(20, Features::F32(numbers(SAMPLES * 20, 5, 1.0)), targets).unwrap()
}

const IMAGE: Image = Image {
    channels: 1,
    height: 12,
    width: 12,
};

fn mlp(activation: Activation, loss: Loss) -> NeuralNetwork {
    NeuralNetwork::new(Input(20))
        .hidden(Dense::linear(32))
        .hidden(Activate(activation))
        .hidden(Dense::linear(16))
        .hidden(Activate(activation))
        .output(Dense::linear(CLASSES), loss)
        .unwrap()
}

pub(crate) fn lenet() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(4, 3))
        .hidden(MaxPool2d::new(2))
        .hidden(Conv2d::new(6, 3).with_padding(1))
        .hidden(MaxPool2d::new(2))
        .hidden(Flatten)
        .hidden(Dense::linear(20))
        .hidden(Activate(Activation::Relu))
        .output(Dense::linear(CLASSES), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn strided() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(4, 3).with_stride(2).with_padding(1))
        .hidden(Activate(Activation::LeakyRelu))
        .hidden(AvgPool2d::new(2).with_stride(1))
        .hidden(Flatten)
        .output(Dense::linear(CLASSES), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn without_bias() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(4, 3).with_stride(2).with_padding(1).without_bias())
        .hidden(Activate(Activation::LeakyRelu))
        .hidden(AvgPool2d::new(2).with_stride(1))
        .hidden(Flatten)
        .hidden(Dense::tanh(16).without_bias())
        .output(Dense::linear(CLASSES).without_bias(), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn layer_norm() -> NeuralNetwork {
    NeuralNetwork::new(Input(20))
        .hidden(Dense::linear(32))
        .hidden(LayerNorm::default())
        .hidden(Gelu)
        .output(Dense::linear(CLASSES), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn batch_norm() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(4, 3))
        .hidden(BatchNorm::default())
        .hidden(Activate(Activation::Relu))
        .hidden(AvgPool2d::new(2))
        .hidden(Flatten)
        .hidden(Dense::linear(16))
        .hidden(BatchNorm::default())
        .hidden(Activate(Activation::Tanh))
        .output(Dense::linear(CLASSES), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn residual() -> NeuralNetwork {
    let convolution = |channels| Conv2d::new(channels, 3).with_padding(1);
    let relu = Activate(Activation::Relu);
    NeuralNetwork::new(IMAGE)
        .hidden(convolution(4))
        .residual(|block| block.hidden(BatchNorm::default()).hidden(relu).hidden(convolution(4)))
        .residual_with(Conv2d::new(6, 1).with_stride(2), |block| {
            let block = block
                .hidden(BatchNorm::default())
                .hidden(relu)
                .hidden(convolution(6).with_stride(2));
            block.residual(|inner| inner.hidden(convolution(6)).hidden(Activate(Activation::Tanh)))
        })
        .hidden(relu)
        .hidden(Flatten)
        .output(Dense::linear(CLASSES), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn embedding() -> NeuralNetwork {
    NeuralNetwork::new(Input(4))
        .hidden(Embedding::new(7, 3))
        .output(Dense::linear(CLASSES), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn words(targets: SampleTargets) -> Samples {
    let word = |index: usize| ((5 * (index / 4) + 3 * (index % 4)) % 7) as f32;
    Samples::new(4, Features::F32((0..SAMPLES * 4).map(word).collect()), targets).unwrap()
}

fn case(name: &'static str, network: NeuralNetwork, data: Samples, optimizer: Arc<dyn Optimizer>, rate: f32) -> Case {
    let options = TrainingOptions {
        batch: SAMPLES,
        lanes: 1,
        schedule: Some(Schedule::Constant(rate)),
        optimizer,
        ..TrainingOptions::default()
    };
    Case {
        name,
        network,
        data,
        options,
    }
}

fn optimizers() -> Vec<(&'static str, f32, Arc<dyn Optimizer>)> {
    vec![
        ("mlp", 0.1, Arc::new(Sgd::default())),
        ("momentum", 0.05, Arc::new(Sgd::with_momentum(0.9))),
        (
            "dampening",
            0.1,
            Arc::new(Sgd {
                momentum: 0.8,
                dampening: 0.3,
                weight_decay: 0.01,
                nesterov: false,
            }),
        ),
        ("nesterov", 0.05, Arc::new(Sgd::with_nesterov(0.9))),
        (
            "adagrad",
            0.02,
            Arc::new(Adagrad {
                lr_decay: 0.01,
                weight_decay: 0.01,
                initial_accumulator_value: 0.1,
                ..Adagrad::default()
            }),
        ),
        ("rms_prop", 0.003, Arc::new(RmsProp::default())),
        (
            "rms_prop_centered",
            0.001,
            Arc::new(RmsProp {
                alpha: 0.9,
                momentum: 0.5,
                centered: true,
                eps: 1e-3,
                ..RmsProp::default()
            }),
        ),
        ("adam", 0.005, Arc::new(Adam::default())),
        (
            "adam_amsgrad",
            0.005,
            Arc::new(Adam {
                weight_decay: 0.01,
                amsgrad: true,
                ..Adam::default()
            }),
        ),
        ("adam_w", 0.005, Arc::new(AdamW::default())),
        ("lamb", 0.02, Arc::new(Lamb::default())),
    ]
}

pub(crate) fn all() -> Vec<Case> {
    let relu = |loss| mlp(Activation::Relu, loss);
    let mut cases: Vec<Case> = optimizers()
        .into_iter()
        .map(|(name, rate, optimizer)| case(name, relu(Loss::SoftmaxCrossEntropy), rows(labels()), optimizer, rate))
        .collect();
    let mut add = |name, network, data| cases.push(case(name, network, data, Arc::new(Sgd::default()), 0.1));
    for (name, activation) in [
        ("tanh", Activation::Tanh),
        ("sigmoid", Activation::Sigmoid),
        ("softplus", Activation::Softplus),
    ] {
        add(name, mlp(activation, Loss::SoftmaxCrossEntropy), rows(labels()));
    }
    let wanted = |of: fn(f32) -> f32| {
        rows(SampleTargets::Values {
            length: CLASSES,
            values: values().into_iter().map(of).collect(),
        })
    };
    add("squared", relu(Loss::MeanSquaredError), wanted(|value| value));
    add("l1", relu(Loss::L1), wanted(|value| value));
    add(
        "hinge",
        relu(Loss::Hinge),
        wanted(|value| if value > 0.0 { 1.0 } else { -1.0 }),
    );
    let binary = relu(Loss::BinaryCrossEntropyWithLogits);
    add("binary", binary, wanted(|value| (value + 1.0) / 2.0));
    let pictures = || Samples::new(144, Features::F32(images()), labels()).unwrap();
    add("lenet", lenet(), pictures());
    add("strided", strided(), pictures());
    add("without_bias", without_bias(), pictures());
    add("layer_norm", layer_norm(), rows(labels()));
    add("embedding", embedding(), words(labels()));
    let sgd: Arc<dyn Optimizer> = Arc::new(Sgd::default());
    let weights = vec![0.5, 2.0, 0.0, 1.25, 1.0];
    for (name, class_weights, label_smoothing) in [
        ("smoothed", Vec::new(), 0.1),
        ("weighted", weights.clone(), 0.0),
        ("weighted_smoothed", weights, 0.2),
        ("ignored", vec![1.0, 1.0, 0.0, 1.0, 1.0], 0.0),
    ] {
        let loss = Loss::WeightedCrossEntropy {
            class_weights,
            label_smoothing,
        };
        let mut case = case(name, relu(loss), rows(labels()), Arc::clone(&sgd), 0.1);
        // What the mean is divided by is a sum over lanes.
        case.options.lanes = 3;
        cases.push(case);
    }
    let decay = Arc::new(Sgd {
        weight_decay: 0.01,
        ..Sgd::default()
    });
    let frozen = batch_norm().with_frozen([0, 1, 6]).unwrap();
    let mut frozen = case("frozen", frozen, pictures(), decay, 0.05);
    frozen.options.gradient_norm_max = Some(0.5);
    cases.push(frozen);
    cases.push(case("batch_norm", batch_norm(), pictures(), Arc::clone(&sgd), 0.05));
    cases.push(case("residual", residual(), pictures(), Arc::clone(&sgd), 0.05));
    let mut changed = |name, optimizer, rate, change: fn(&mut TrainingOptions)| {
        let network = relu(Loss::SoftmaxCrossEntropy);
        let mut case = case(name, network, rows(labels()), optimizer, rate);
        change(&mut case.options);
        cases.push(case);
    };
    let adam_w = Arc::new(AdamW {
        weight_decay: 0.1,
        ..AdamW::default()
    });
    let rates: fn(&mut TrainingOptions) = |options| options.layer_rates = [(0, 0.25), (4, 4.0)].into();
    changed("layer_rates", adam_w, 0.005, rates);
    changed("layer_rates_lamb", Arc::new(Lamb::default()), 0.02, rates);
    changed("clipped", Arc::clone(&sgd), 0.1, |options| {
        options.lane_gradient_norm_max = Some(0.1);
    });
    changed("clipped_over_lanes", sgd, 0.1, |options| {
        (options.lanes, options.gradient_norm_max) = (3, Some(0.15));
    });
    changed("clipped_lamb", Arc::new(Lamb::default()), 0.02, |options| {
        (options.lanes, options.gradient_norm_max) = (2, Some(0.1));
    });
    cases
}
