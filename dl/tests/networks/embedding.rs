//! Embeddings: what is looked up, what is refused, how they begin, and that they learn.

use distdl_dl::{
    Adam, Dense, Embedding, Error, Features, Input, Loss, NeuralNetwork, SampleTargets, Samples, Targets,
    TrainingOptions,
};
use distdl_engine::cluster::chaos::Chaos;
use distdl_engine::testing::TestCluster;
use distdl_engine::{Config, Context};
use std::sync::Arc;

use crate::{bits, context, failed};

fn looked_up(num_embeddings: usize, dim: usize, indices: usize) -> NeuralNetwork {
    NeuralNetwork::new(Input(indices))
        .output(Embedding::new(num_embeddings, dim), Loss::MeanSquaredError)
        .unwrap()
}

#[test]
fn vectors_are_looked_up_and_their_gradients_add_up() {
    let network = looked_up(4, 2, 3);
    let weight = [0.0, 1.0, 10.0, 11.0, 20.0, 21.0, 30.0, 31.0];
    let inputs = [3.0, 0.0, 3.0, 1.0, 1.0, 0.0];
    let mut workspace = network.workspace(2);
    let outputs = network
        .predict_batch(&weight, &inputs, 2, &mut workspace)
        .unwrap()
        .to_vec();
    assert_eq!(
        outputs,
        [30.0, 31.0, 0.0, 1.0, 30.0, 31.0, 10.0, 11.0, 10.0, 11.0, 0.0, 1.0]
    );
    // The gradient of the mean of six squares is a third of the difference, here of 3: 1 each time that one is looked
    // up.
    let targets: Vec<f32> = outputs.iter().map(|output| output - 3.0).collect();
    let mut gradient = [f32::NAN; 8];
    network
        .gradient(
            &weight,
            &inputs,
            Targets::Values(&targets),
            2,
            &mut workspace,
            &mut gradient,
        )
        .unwrap();
    assert_eq!(gradient, [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 2.0, 2.0]);
}

#[test]
fn what_is_no_index_is_named() {
    let network = looked_up(4, 2, 3);
    for wrong in [4.0, -1.0, 0.5, f32::NAN, f32::INFINITY] {
        let inputs = [0.0, 1.0, 2.0, 3.0, 0.0, wrong];
        let mut workspace = network.workspace(2);
        let error = network
            .predict_batch(&[0.0; 8], &inputs, 2, &mut workspace)
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Index {
                    row: 1,
                    feature: 2,
                    num_embeddings: 4,
                    ..
                }
            ),
            "{error:?}"
        );
        let words = format!("row 1: feature 2 is {wrong}, which is no index of an embedding of 4 vectors");
        assert!(error.to_string().contains(&words), "{error}");
    }
}

#[test]
fn what_cannot_be_built_is_refused() {
    let refusal = |embedding: Embedding| {
        let network = NeuralNetwork::new(Input(3)).output(embedding, Loss::L1);
        network.unwrap_err().to_string()
    };
    for (num_embeddings, dim) in [(0, 2), (2, 0), ((1 << 24) + 1, 1)] {
        let message = refusal(Embedding::new(num_embeddings, dim));
        assert!(message.contains("1 to 2^24 vectors of at least 1 number"), "{message}");
    }
    assert!(refusal(Embedding::new(2, usize::MAX)).contains("fit in memory"));
    let second = NeuralNetwork::new(Input(3)).hidden(Dense::relu(3));
    let message = second.output(Embedding::new(4, 2), Loss::L1).unwrap_err().to_string();
    assert!(
        message.contains("layer 1 (embedding): expected to be the first layer"),
        "{message}"
    );
}

#[test]
fn it_begins_with_the_normal_distribution() {
    let values = looked_up(1000, 100, 1).initialize(3).unwrap();
    let moment = |power: i32| values.iter().map(|value| f64::from(*value).powi(power)).sum::<f64>() / 1e5;
    // Of N(0, 1): 0, 1, 0 and 3.
    let moments = [1, 2, 3, 4].map(moment);
    for (got, expected) in moments.into_iter().zip([0.0, 1.0, 0.0, 3.0]) {
        assert!((got - expected).abs() < 0.1, "{moments:?}");
    }
    let below = |limit: f32| values.iter().filter(|value| **value < limit).count() as f64 / 1e5;
    assert!((below(-1.0) - 0.158_655).abs() < 0.005 && (below(2.0) - 0.977_25).abs() < 0.005);
    assert_eq!(looked_up(1000, 100, 1).initialize(3).unwrap(), values);
    assert_ne!(looked_up(1000, 100, 1).initialize(4).unwrap(), values);
    assert_eq!(looked_up(10, 100, 1).initialize(3).unwrap(), values[..1000]);
}

#[test]
fn a_model_file_holds_the_weight_as_pytorch_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let network = looked_up(3, 2, 1);
    let weight = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    network.save(&path, &weight).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor("layers.0.weight").unwrap();
    assert_eq!(tensor.shape(), [3, 2]);
    let numbers: Vec<f32> = tensor
        .data()
        .chunks(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    assert_eq!(numbers, weight);
    assert_eq!(network.load(&path).unwrap(), weight);
}

/// Pairs of ten words; the label says whether they are of one kind, which nothing but the pairs tells.
fn pairs(features: fn(Vec<u8>) -> Features) -> Samples {
    let words = || (0..100u8).map(|pair| [pair / 10, pair % 10]);
    let kind = |word: u8| [0, 1, 1, 0, 1, 0, 0, 1, 0, 1][usize::from(word)];
    let labels = words().map(|[left, right]| u32::from(kind(left) == kind(right)));
    let labels = SampleTargets::Labels(labels.collect());
    Samples::new(2, features(words().flatten().collect()), labels).unwrap()
}

/// The bits of the parameters after 200 steps, and the share of pairs that are then right.
fn train(context: &Context, samples: &Samples) -> distdl_dl::Result<(Vec<u32>, Option<f64>)> {
    let network = NeuralNetwork::new(Input(2))
        .hidden(Embedding::new(10, 4))
        .hidden(Dense::relu(16))
        .output(Dense::linear(2), Loss::SoftmaxCrossEntropy)?;
    let options = TrainingOptions {
        batch: 20,
        lanes: 4,
        optimizer: Arc::new(Adam::default()),
        schedule: Some(distdl_dl::Schedule::Constant(0.03)),
        ..TrainingOptions::default()
    };
    let data = context.parallelize(samples.split(4)?, 4);
    let mut training = network.train(&data, options)?;
    training.iterate(200, |_| ())?;
    let bits = bits(&training.parameters());
    Ok((bits, training.error(&data)?.accuracy()))
}

#[test]
fn words_are_learnt_with_the_same_bits_from_bytes_and_numbers_and_over_deaths() {
    let bytes = pairs(|bytes| Features::U8 { bytes, scale: 1.0 });
    let numbers = pairs(|bytes| Features::F32(bytes.into_iter().map(f32::from).collect()));
    let alone = |threads, samples| train(&context(threads), samples);
    let expected = alone(1, &bytes).unwrap();
    assert_eq!(expected.1, Some(1.0));
    for threads in 2..=3 {
        assert_eq!(alone(threads, &numbers).unwrap(), expected, "{threads} threads");
    }
    let chaos = Chaos::parse("kill=worker:1@step:20").unwrap();
    let run = TestCluster::new(3)
        .with_chaos(chaos)
        .run(move |context| train(context, &bytes).map_err(failed))
        .unwrap();
    assert!(!run.results.is_empty());
    run.results.iter().for_each(|last| assert_eq!(last, &expected));
}

#[test]
fn what_nobody_looks_up_is_not_sent() {
    const STEPS: u64 = 5;
    let samples = pairs(|bytes| Features::U8 { bytes, scale: 1.0 });
    let train = move |context: &Context| -> distdl_dl::Result<(Vec<u32>, u64)> {
        let network = NeuralNetwork::new(Input(2))
            .hidden(Embedding::new(3000, 4))
            .output(Dense::linear(2), Loss::SoftmaxCrossEntropy)?;
        let options = TrainingOptions {
            batch: 8,
            lanes: 2,
            ..TrainingOptions::default()
        };
        let data = context.parallelize(samples.split(2)?, 2);
        let mut training = network.train(&data, options)?;
        training.iterate(STEPS, |_| ())?;
        let bits = bits(&training.parameters());
        Ok((bits, context.metrics().exchanged_bytes()))
    };
    let (expected, _) = train(&Context::new(Config::default()).unwrap()).unwrap();
    let cluster = TestCluster {
        shared_memory: false,
        ..TestCluster::new(2)
    };
    let run = cluster.run(move |context| train(context).map_err(failed)).unwrap();
    let half = expected.len() as u64 / 2 * 4 * STEPS;
    for (bits, exchanged) in run.results {
        assert_eq!(bits, expected);
        // Half of the new parameters, and of the updates hardly anything.
        assert!((half..half + half / 10).contains(&exchanged), "{exchanged} of {half}");
    }
}
