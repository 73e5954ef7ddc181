//! How a lane makes its batches: in pieces whose gradients are summed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use distdl_dl::{
    BatchNorm, Conv2d, Dense, Dropout, Features, Flatten, Image, Loss, NeuralNetwork, SampleTargets, Samples,
    TrainingOptions,
};
use distdl_engine::{Config, Context};

const IMAGE: Image = Image {
    channels: 1,
    height: 6,
    width: 5,
};

fn network() -> NeuralNetwork {
    NeuralNetwork::new(IMAGE)
        .hidden(Conv2d::new(2, 3))
        .hidden(Flatten)
        .hidden(Dropout::new(0.3))
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap()
}

fn samples() -> Samples {
    let bytes = (0..41 * 30)
        .map(|index| (index / 30 * 13 + index % 30 * 7) as u8)
        .collect();
    let labels = (0..41).map(|sample| sample * 5 % 7 % 3).collect();
    let features = Features::U8 {
        bytes,
        scale: 1.0 / 255.0,
    };
    Samples::new(30, features, SampleTargets::Labels(labels)).unwrap()
}

fn options() -> TrainingOptions {
    TrainingOptions {
        batch: 22,
        lanes: 2,
        lane_gradient_norm_max: Some(0.4),
        ..TrainingOptions::default()
    }
}

fn in_pieces(rows: usize) -> TrainingOptions {
    TrainingOptions {
        micro_batch: Some(rows),
        ..options()
    }
}

/// The parameters after 9 steps, of which not all have the same number of rows.
fn train_with(network: &NeuralNetwork, threads: usize, options: TrainingOptions) -> Vec<f32> {
    let context = Context::new(Config::default().with_threads(threads)).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    let mut training = network.train(&data, options).unwrap();
    training.iterate(9, |_| ()).unwrap();
    training.parameters()
}

fn train(threads: usize, options: TrainingOptions) -> Vec<f32> {
    train_with(&network(), threads, options)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The largest difference of two parameters.
fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter()
        .zip(right)
        .map(|(left, right)| (left - right).abs())
        .fold(0.0, f32::max)
}

fn refusal(network: &NeuralNetwork, options: TrainingOptions) -> String {
    let context = Context::new(Config::default()).unwrap();
    let data = context.parallelize(samples().split(4).unwrap(), 4);
    network.train(&data, options).unwrap_err().to_string()
}

#[test]
fn pieces_have_the_gradient_of_the_whole_share() {
    let whole = train(1, options());
    assert!(
        distance(&whole, &network().initialize(0).unwrap()) > 0.01,
        "nothing was learnt"
    );
    for rows in [1, 4, 10] {
        let pieces = train(1, in_pieces(rows));
        assert!(
            distance(&pieces, &whole) < 1e-5,
            "{rows}: {}",
            distance(&pieces, &whole)
        );
        assert_eq!(bits(&train(3, in_pieces(rows))), bits(&pieces), "{rows} over threads");
    }
    assert_eq!(bits(&train(2, in_pieces(11))), bits(&whole), "a share is one piece");
    assert_eq!(bits(&train(2, in_pieces(usize::MAX))), bits(&whole));
}

#[test]
fn statistics_of_batch_norm_are_those_of_a_piece() {
    let network = NeuralNetwork::new(IMAGE)
        .hidden(BatchNorm::default())
        .output(Dense::linear(3), Loss::SoftmaxCrossEntropy)
        .unwrap();
    let (whole, pieces) = (
        train_with(&network, 1, options()),
        train_with(&network, 1, in_pieces(4)),
    );
    assert!(distance(&pieces, &whole) > 1e-3);
    assert_eq!(bits(&train_with(&network, 2, in_pieces(4))), bits(&pieces));
}

#[test]
fn pieces_of_no_samples_are_refused() {
    let message = refusal(&network(), in_pieces(0));
    assert!(message.contains("micro_batch is 0"), "{message}");
}
