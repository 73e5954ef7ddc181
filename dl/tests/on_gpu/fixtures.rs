//! Samples, networks and options of these tests, and what training comes to.

use std::sync::Arc;

use distdl_dl::{
    Activate, Activation, Augmentation, AvgPool2d, BatchNorm, Conv2d, Dense, Dropout, Embedding, Features, Flatten,
    Gelu, Image, Input, LayerNorm, Loss, MaxPool2d, NeuralNetwork, SampleTargets, Samples, Schedule, Sgd, Training,
    TrainingOptions,
};
use distdl_engine::config::GpuUse;
use distdl_engine::{Config, Context};

pub(crate) const IMAGE: Image = Image {
    channels: 2,
    height: 6,
    width: 5,
};
pub(crate) const FEATURES: usize = 60;
pub(crate) const SAMPLES: usize = 41;
pub(crate) const STEPS: u64 = 9;

pub(crate) fn features() -> impl Iterator<Item = usize> {
    (0..SAMPLES * FEATURES).map(|index| (index / FEATURES * 13 + index % FEATURES * 7) % 23)
}

pub(crate) fn labels() -> SampleTargets {
    SampleTargets::Labels((0..SAMPLES as u32).map(|sample| sample * 5 % 7 % 3).collect())
}

pub(crate) fn samples() -> Samples {
    let features = features().map(|feature| feature as f32 / 11.0).collect();
    Samples::new(FEATURES, Features::F32(features), labels()).unwrap()
}

/// More than a sum over rows takes at once.
pub(crate) fn many() -> Samples {
    let features = features().map(|feature| feature as f32 / 11.0);
    let SampleTargets::Labels(labels) = labels() else {
        panic!("these have labels");
    };
    Samples::new(
        FEATURES,
        Features::F32(features.collect::<Vec<_>>().repeat(8)),
        SampleTargets::Labels(labels.repeat(8)),
    )
    .unwrap()
}

/// The same as bytes.
pub(crate) fn bytes() -> Samples {
    let bytes = features().map(|feature| feature as u8).collect();
    let scale = 1.0 / 11.0;
    Samples::new(FEATURES, Features::U8 { bytes, scale }, labels()).unwrap()
}

/// Values from 0 to 1 as targets.
pub(crate) fn values() -> Samples {
    of_values(|value| value as f32 / 11.0)
}

/// Values of 1 and -1.
pub(crate) fn signs() -> Samples {
    of_values(|value| if value > 5 { 1.0 } else { -1.0 })
}

fn of_values(of: fn(usize) -> f32) -> Samples {
    let features = features().map(|feature| feature as f32 / 11.0).collect();
    let values = (0..SAMPLES * 3).map(|index| of(index * 7 % 11)).collect();
    Samples::new(
        FEATURES,
        Features::F32(features),
        SampleTargets::Values { length: 3, values },
    )
    .unwrap()
}

/// Every kind of layer that has kernels for GPUs but the embedding, which comes first, and some activations.
pub(crate) fn network() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(3, 3).with_padding(1).with_activation(Activation::LeakyRelu))
        .hidden(BatchNorm::default())
        .hidden(Activate(Activation::Relu))
        .hidden(MaxPool2d::new(2).with_stride(1))
        .hidden(AvgPool2d::new(2))
        .residual_with(Conv2d::new(4, 1), |block| {
            let block = block.hidden(Conv2d::new(4, 1));
            block.residual(|inner| inner.hidden(LayerNorm::default()).hidden(Activate(Activation::Tanh)))
        })
        .hidden(Conv2d::new(4, 2))
        .hidden(Flatten)
        .residual(|block| block.hidden(Flatten))
        .hidden(Dense::tanh(7))
        .hidden(LayerNorm::default())
        .hidden(Gelu)
        .hidden(Dropout::new(0.3))
        .hidden(Dense::softmax(5).with_connections(|input, output| (input + output) % 3 != 0))
        .hidden(Dense::sigmoid(6))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

/// Convolutions: of windows of few elements over more pixels; of more elements, whose images are summed in groups where
/// there are many; and of few over fewer pixels.
pub(crate) fn convolutions_of_all_sizes() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(4, 3).with_padding(1).with_activation(Activation::Tanh))
        .hidden(Conv2d::new(3, 3).with_padding(1))
        .hidden(Conv2d::new(9, (1, 5)).with_activation(Activation::Relu).without_bias())
        .hidden(Flatten)
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

/// Dense layers, convolutions and one of some connections, all without a bias.
pub(crate) fn without_bias() -> NeuralNetwork {
    let convolution = |channels, size| Conv2d::new(channels, size).without_bias();
    let some = Dense::tanh(6)
        .without_bias()
        .with_connections(|input, output| (input + output) % 3 != 0);
    NeuralNetwork::new(IMAGE)
        .hidden(convolution(3, 3).with_padding(1).with_activation(Activation::Tanh))
        .hidden(BatchNorm::default())
        .hidden(convolution(4, 2))
        .hidden(Flatten)
        .hidden(Dense::softmax(7).without_bias())
        .hidden(some)
        .output(Dense::linear(3).without_bias(), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

/// Of its layers some stay: the first ones, and norms between others that learn.
pub(crate) fn frozen() -> NeuralNetwork {
    let network = NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(3, 3).with_padding(1).with_activation(Activation::LeakyRelu))
        .hidden(BatchNorm::default())
        .hidden(Conv2d::new(4, 2))
        .hidden(BatchNorm::default())
        .hidden(Flatten)
        .hidden(Dropout::new(0.3))
        .hidden(Dense::tanh(7))
        .hidden(LayerNorm::default())
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    network.with_frozen([0, 1, 3, 5, 7]).unwrap()
}

/// Labels of the first class do not count, unless they are smoothed.
pub(crate) fn weighted(label_smoothing: f32) -> Loss {
    Loss::WeightedCrossEntropy {
        class_weights: vec![0.0, 0.7, 2.1],
        label_smoothing,
    }
}

pub(crate) fn small(loss: Loss) -> NeuralNetwork {
    let builder = NeuralNetwork::new(IMAGE).hidden(Flatten).hidden(Dense::relu(9));
    builder.output(Dense::linear(3), loss).unwrap()
}

/// With some thousand parameters.
pub(crate) fn wide() -> NeuralNetwork {
    let builder = NeuralNetwork::new(IMAGE).hidden(Flatten).hidden(Dense::relu(90));
    builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap()
}

/// Layers whose gradients are sums over rows.
pub(crate) fn sums() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(2, 3).with_padding(1).with_activation(Activation::Relu))
        .hidden(BatchNorm::default())
        .hidden(Flatten)
        .hidden(LayerNorm::default())
        .hidden(Dense::relu(4).with_connections(|input, output| (input + output) % 3 != 0))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

/// Features that are indices below 23, and an embedding of them.
pub(crate) fn indices() -> Samples {
    let bytes = features().map(|feature| feature as u8).collect();
    Samples::new(FEATURES, Features::U8 { bytes, scale: 1.0 }, labels()).unwrap()
}

pub(crate) fn embedding(vectors: usize) -> NeuralNetwork {
    let builder = NeuralNetwork::new(Input(FEATURES)).hidden(Embedding::new(vectors, 3));
    builder.output(Dense::linear(3), Loss::SoftmaxCrossEntropy).unwrap()
}

/// All that may be done to pictures.
pub(crate) fn changes() -> Augmentation {
    Augmentation {
        shift: 2,
        rotate_degrees: 30.0,
        flip: true,
    }
}

pub(crate) fn options() -> TrainingOptions {
    TrainingOptions {
        batch: 12,
        lanes: 3,
        schedule: Some(Schedule::Constant(0.02)),
        // Not Adam: it makes steps of what is 0 but for rounding, as a bias's gradient before a batch normalisation.
        optimizer: Arc::new(Sgd::with_nesterov(0.8)),
        ..TrainingOptions::default()
    }
}

/// What training has come to: the parameters, and the loss and hits of each step.
#[derive(Debug, PartialEq)]
pub(crate) struct Trained {
    pub(crate) parameters: Vec<f32>,
    pub(crate) steps: Vec<(f64, Option<u64>, u64)>,
}

pub(crate) fn train_for(steps: u64, training: &mut Training) -> distdl_dl::Result<Trained> {
    let mut seen = Vec::new();
    training.iterate(steps, |step| {
        seen.push((step.report.loss_sum, step.report.correct, step.report.samples));
    })?;
    Ok(Trained {
        parameters: training.parameters(),
        steps: seen,
    })
}

pub(crate) fn begin(
    context: &Context,
    network: &NeuralNetwork,
    samples: &Samples,
    options: TrainingOptions,
) -> distdl_dl::Result<Training> {
    let data = context.parallelize(samples.split(4)?, 4);
    network.train(&data, options)
}

pub(crate) fn on_the_cpu(network: &NeuralNetwork, samples: &Samples, options: TrainingOptions) -> Trained {
    let context = Context::new(Config::default().with_threads(1).with_gpu(GpuUse::Off)).unwrap();
    let mut training = begin(&context, network, samples, options).unwrap();
    assert_eq!(training.gpu_figures(), None);
    train_for(STEPS, &mut training).unwrap()
}

pub(crate) fn on_the_gpu(
    config: Config,
    network: &NeuralNetwork,
    samples: &Samples,
    options: TrainingOptions,
) -> Trained {
    let context = Context::new(config).unwrap();
    let mut training = begin(&context, network, samples, options).unwrap();
    let trained = train_for(STEPS, &mut training).unwrap();
    let figures = training.gpu_figures().unwrap();
    assert!(figures.passes >= STEPS && figures.lost == 0, "{figures:?}");
    trained
}

/// Asserts that both have come to the same, up to rounding.
pub(crate) fn assert_close(what: &str, expected: &Trained, got: &Trained, error_max: f32) {
    for (index, (one, other)) in expected.parameters.iter().zip(&got.parameters).enumerate() {
        let error = (one - other).abs();
        assert!(error <= error_max, "{what}: parameter {index} is {other}, not {one}");
    }
    for (step, (one, other)) in expected.steps.iter().zip(&got.steps).enumerate() {
        let error = (one.0 - other.0).abs() / one.2 as f64;
        assert!(
            error <= f64::from(error_max),
            "{what}: step {step}: loss {} for {}",
            other.0,
            one.0
        );
        assert_eq!(
            (one.1, one.2),
            (other.1, other.2),
            "{what}: hits and samples of step {step}"
        );
    }
    assert_eq!(
        (expected.parameters.len(), expected.steps.len()),
        (got.parameters.len(), got.steps.len())
    );
}
